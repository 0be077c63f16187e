//! The linker: several PTX texts become one image, which is PTX again.

use super::entry::{Address, In, Opaque, Out, entries};
use super::image::{Image, compile, ptx_of};
use super::jit::Options;
use super::module::{FileImage, current_card, read_file};
use super::state::{Kind, known, lock};
use super::status::{Outcome, Status};
use super::types::{Handle, Text};
use crate::card::Card;

pub(super) struct Link {
    options: Options,
    card: &'static Card,
    inputs: Vec<String>,
    /// What `cuLinkComplete` returned; it must stay where it is until the link is destroyed.
    output: Option<Vec<u8>>,
}

// The options hold addresses of the caller's buffers, which the caller promised to keep for as long as the link lives.
// SAFETY: they are written through only inside calls on this link, under the state's lock.
unsafe impl Send for Link {}

/// `CUjitInputType`.
const PTX: u32 = 1;
const FAT_BINARY: u32 = 2;

/// Where linked PTX names its parts.
const SEPARATOR: &str = "\n// ptxvm: next part\n";

/// The parts of an image that `cuLinkComplete` made.
pub(super) fn parts(ptx: &str) -> Vec<&str> {
    ptx.split(SEPARATOR).collect()
}

fn add(link: Handle, kind: u32, image: &impl Image, name: &str) -> Outcome {
    let mut state = lock();
    let held = known(&mut state.links, link, "linker")?;
    if held.output.is_some() {
        return Err(Status::InvalidHandle.because("the link is complete; nothing can be added"));
    }
    let result = match kind {
        PTX | FAT_BINARY => ptx_of(image, held.card),
        0 | 3 | 4 => Err(Status::NoBinaryForGpu.because(format!(
            "'{name}' is machine code (CUjitInputType {kind}); ptxvm links PTX and fat binaries that hold PTX"
        ))),
        5 => Err(Status::NotSupported.because(format!("'{name}' is NVVM code for link-time optimisation; give PTX"))),
        _ => Err(Status::InvalidValue.because(format!("there is no CUjitInputType {kind}"))),
    };
    let ptx = held.options.finish(result)?;
    held.inputs.push(ptx);
    Ok(())
}

entries! { list:
    fn cuLinkCreate(count: u32, options: In<u32>, values: Out<Opaque>, link: Out<Handle>) {
        create(count, options, values, link)
    }

    fn cuLinkCreate_v2(count: u32, options: In<u32>, values: Out<Opaque>, link: Out<Handle>) {
        create(count, options, values, link)
    }

    fn cuLinkAddData(link: Handle, kind: u32, data: Address, bytes: usize, name: Text, count: u32, options: In<u32>, values: Out<Opaque>) {
        add_data(link, kind, data, bytes, name, Options::read(count, options, values))
    }

    fn cuLinkAddData_v2(link: Handle, kind: u32, data: Address, bytes: usize, name: Text, count: u32, options: In<u32>, values: Out<Opaque>) {
        add_data(link, kind, data, bytes, name, Options::read(count, options, values))
    }

    fn cuLinkAddFile(link: Handle, kind: u32, path: Text, count: u32, options: In<u32>, values: Out<Opaque>) {
        add_file(link, kind, path, Options::read(count, options, values))
    }

    fn cuLinkAddFile_v2(link: Handle, kind: u32, path: Text, count: u32, options: In<u32>, values: Out<Opaque>) {
        add_file(link, kind, path, Options::read(count, options, values))
    }

    fn cuLinkComplete(link: Handle, image: Out<Opaque>, bytes: Out<usize>) {
        image.check("cubinOut")?;
        let mut state = lock();
        let held = known(&mut state.links, link, "linker")?;
        if held.output.is_none() {
            if held.inputs.is_empty() {
                return Err(Status::InvalidValue.because("nothing was added to the link"));
            }
            let inputs: Vec<&str> = held.inputs.iter().map(String::as_str).collect();
            // Errors belong here and not to the later loading of the image.
            held.options.finish(compile(&inputs, held.card))?;
            let mut output = inputs.join(SEPARATOR).into_bytes();
            output.push(0);
            held.output = Some(output);
        }
        let Some(output) = held.output.as_mut() else { return Ok(()) };
        image.set("cubinOut", output.as_mut_ptr().cast())?;
        bytes.set_if_given(output.len());
        Ok(())
    }

    fn cuLinkDestroy(link: Handle) {
        let mut state = lock();
        known(&mut state.links, link, "linker")?;
        state.links.remove(&link);
        Ok(())
    }
}

fn create(count: u32, options: In<u32>, values: Out<Opaque>, out: Out<Handle>) -> Outcome {
    out.check("stateOut")?;
    let options = Options::read(count, options, values)?;
    let (_, card) = current_card()?;
    let mut state = lock();
    let handle = state.new_handle(Kind::Link);
    state.links.insert(handle, Link { options, card, inputs: Vec::new(), output: None });
    out.set("stateOut", handle)
}

fn add_data(link: Handle, kind: u32, data: Address, bytes: usize, name: Text, options: Outcome<Options>) -> Outcome {
    options?;
    let name = if name.is_null() { "input".to_owned() } else { name.text("name")? };
    add(link, kind, &FileImage(data.bytes("data", bytes)?), &name)
}

fn add_file(link: Handle, kind: u32, path: Text, options: Outcome<Options>) -> Outcome {
    options?;
    let path = path.text("path")?;
    add(link, kind, &read_file(&path)?, &path)
}

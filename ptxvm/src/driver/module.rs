//! Modules, and the functions and variables in them.

use super::entry::{Address, In, Opaque, Out, entries};
use super::image::{Image, compile, ptx_of};
use super::jit::Options;
use super::log;
use super::state::{Kind, State, known, lock};
use super::status::{Failure, Outcome, Status};
use super::types::{Handle, Text};
use crate::card::Card;
use crate::machine::{KernelId, LoadError, LoadedModule};
use crate::program::Program;
use crate::settings::settings;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

pub(super) struct Module {
    pub(super) context: Handle,
    pub(super) loaded: Arc<LoadedModule>,
    /// Handles of functions already asked for.
    functions: HashMap<String, Handle>,
    /// Made by a library, which alone may unload it.
    pub(super) of_library: bool,
}

pub(super) struct Function {
    pub(super) module: Handle,
    pub(super) context: Handle,
    pub(super) loaded: Arc<LoadedModule>,
    pub(super) kernel: KernelId,
    pub(super) name: CString,
    pub(super) attributes: FunctionAttributes,
    /// Shape, shared bytes and parameters of the launch functions of CUDA 3.
    pub(super) old_launch: OldLaunch,
}

/// What can be set of a function.
#[derive(Clone, Copy)]
pub(super) struct FunctionAttributes {
    /// Dynamic shared memory of a block at most.
    pub(super) max_dynamic_shared: Option<u32>,
    /// Percent of the on-chip memory wanted as shared memory; -1 for the driver's choice.
    pub(super) carveout: i32,
    pub(super) cache_config: u32,
    pub(super) cluster_policy: i32,
    pub(super) non_portable_cluster: i32,
}

impl Default for FunctionAttributes {
    fn default() -> Self {
        FunctionAttributes {
            max_dynamic_shared: None,
            carveout: -1,
            cache_config: 0,
            cluster_policy: 0,
            non_portable_cluster: 0,
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct OldLaunch {
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) params: Vec<u8>,
}

impl Image for Address {
    fn read(&self, bytes: usize) -> Outcome<Vec<u8>> {
        self.bytes("the image", bytes)
    }

    fn text(&self) -> Outcome<String> {
        In::text(self.cast(), "the image")
    }

    fn at(&self, address: u64) -> Self {
        In::from(address as *const u8)
    }
}

/// An image that was read from a file.
pub(super) struct FileImage(pub(super) Vec<u8>);

impl Image for FileImage {
    fn read(&self, bytes: usize) -> Outcome<Vec<u8>> {
        let read = self.0.get(..bytes).map(<[u8]>::to_vec);
        read.ok_or_else(|| Status::InvalidImage.because(format!("the file ends after {} bytes", self.0.len())))
    }

    fn text(&self) -> Outcome<String> {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        Ok(String::from_utf8_lossy(&self.0[..end]).into_owned())
    }

    fn at(&self, _: u64) -> Self {
        FileImage(Vec::new())
    }
}

pub(super) fn read_file(path: &str) -> Outcome<FileImage> {
    std::fs::read(path).map(FileImage).map_err(|error| Status::FileNotFound.because(format!("{path}: {error}")))
}

pub(super) fn load_failure(error: LoadError) -> Failure {
    let status = match error {
        LoadError::Memory(_) => Status::OutOfMemory,
        LoadError::Undefined { .. } => Status::InvalidPtx,
    };
    status.because(error.to_string())
}

impl State {
    /// Puts a compiled program into a context.
    pub(super) fn add_module(&mut self, context: Handle, program: Arc<Program>, of_library: bool) -> Outcome<Handle> {
        let device = self.context(context)?.device;
        let order = self.host_order();
        let load = || LoadedModule::load(program, device);
        let loaded = super::clock::happening_at(&order, "loading a module", true, load).map_err(load_failure)?;
        let handle = self.new_handle(Kind::Module);
        log::info(format_args!("module {handle:#x}: {}", loaded.kernels().join(", ")));
        self.modules.insert(handle, Module { context, loaded, functions: HashMap::new(), of_library });
        Ok(handle)
    }

    pub(super) fn module(&mut self, handle: Handle) -> Outcome<&mut Module> {
        known(&mut self.modules, handle, "module")
    }

    pub(super) fn remove_module(&mut self, handle: Handle) {
        self.modules.remove(&handle);
        self.functions.retain(|_, function| function.module != handle);
    }

    /// The handle of a function of a module.
    pub(super) fn function_of(&mut self, handle: Handle, name: &str) -> Outcome<Handle> {
        let module = self.module(handle)?;
        if let Some(function) = module.functions.get(name) {
            return Ok(*function);
        }
        let (context, loaded) = (module.context, Arc::clone(&module.loaded));
        let Some(kernel) = loaded.kernel(name) else {
            let kernels = loaded.kernels().join(", ");
            return Err(Status::NotFound.because(format!("the module has no kernel '{name}'; it has: {kernels}")));
        };
        let function = self.new_handle(Kind::Function);
        let name_text = CString::new(name).unwrap_or_default();
        let (attributes, old_launch) = (FunctionAttributes::default(), OldLaunch::default());
        let made = Function { module: handle, context, loaded, kernel, name: name_text, attributes, old_launch };
        self.functions.insert(function, made);
        self.module(handle)?.functions.insert(name.to_owned(), function);
        Ok(function)
    }
}

/// Compiles an image for the current context and puts it there.
fn load(out: Out<Handle>, image: &impl Image, options: &Options) -> Outcome {
    out.check("module")?;
    let (context, card) = current_card()?;
    let program = options.finish(ptx_of(image, card).and_then(|ptx| compile(&[&ptx], card)))?;
    let handle = lock().add_module(context, Arc::new(program), false)?;
    out.set("module", handle)
}

/// The current context and its card. The compiler then runs without the lock.
pub(super) fn current_card() -> Outcome<(Handle, &'static Card)> {
    let mut state = lock();
    let context = state.usable()?;
    Ok((context, state.context(context)?.card))
}

pub(super) fn global_of(loaded: &LoadedModule, name: &str, pointer: Out<u64>, bytes: Out<usize>) -> Outcome {
    let Some((address, size)) = loaded.global(name) else {
        return Err(Status::NotFound.because(format!("the module has no variable '{name}'")));
    };
    pointer.set_if_given(address);
    bytes.set_if_given(usize::try_from(size).unwrap_or(usize::MAX));
    Ok(())
}

entries! { list:
    fn cuModuleLoad(module: Out<Handle>, path: Text) {
        let path = path.text("fname")?;
        lock().usable()?;
        load(module, &read_file(&path)?, &Options::none())
    }

    fn cuModuleLoadData(module: Out<Handle>, image: Address) { load(module, &image, &Options::none()) }

    fn cuModuleLoadDataEx(module: Out<Handle>, image: Address, count: u32, options: In<u32>, values: Out<Opaque>) {
        load(module, &image, &Options::read(count, options, values)?)
    }

    fn cuModuleLoadFatBinary(module: Out<Handle>, image: Address) { load(module, &image, &Options::none()) }

    fn cuModuleUnload(module: Handle) {
        let id = {
            let mut state = lock();
            let held = state.module(module)?;
            if held.of_library {
                return Err(Status::NotPermitted.because("the module belongs to a library: cuLibraryUnload"));
            }
            let context = held.context;
            state.check_fault(context)?;
            state.forbid_in_capture("cuModuleUnload")?;
            state.context(context)?.id
        };
        // Kernels of it may be running.
        super::engine::Engine::global().wait_for_context(id);
        lock().remove_module(module);
        Ok(())
    }

    fn cuModuleGetFunction(function: Out<Handle>, module: Handle, name: Text) {
        function.check("hfunc")?;
        let name = name.text("name")?;
        let mut state = lock();
        let context = state.module(module)?.context;
        state.check_fault(context)?;
        let handle = state.function_of(module, &name)?;
        function.set("hfunc", handle)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) {
        let kernels = lock().module(module)?.loaded.kernels().len();
        count.set("count", u32::try_from(kernels).unwrap_or(u32::MAX))
    }

    fn cuModuleEnumerateFunctions(functions: Out<Handle>, count: u32, module: Handle) {
        let mut state = lock();
        let names = state.module(module)?.loaded.kernels();
        for (index, name) in names.iter().take(count as usize).enumerate() {
            functions.set_at("functions", index, state.function_of(module, name)?)?;
        }
        Ok(())
    }

    fn cuModuleGetGlobal_v2(pointer: Out<u64>, bytes: Out<usize>, module: Handle, name: Text) {
        let name = name.text("name")?;
        let mut state = lock();
        let context = state.module(module)?.context;
        state.check_fault(context)?;
        global_of(&state.module(module)?.loaded, &name, pointer, bytes)
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) { mode.set("mode", if settings().lazy_loading { 2 } else { 1 }) }

    fn cuModuleGetTexRef(texture: Out<Handle>, module: Handle, name: Text) {
        let _ = texture;
        no_reference(module, &name.text("name")?, "texture")
    }

    fn cuModuleGetSurfRef(surface: Out<Handle>, module: Handle, name: Text) {
        let _ = surface;
        no_reference(module, &name.text("name")?, "surface")
    }
}

fn no_reference(module: Handle, name: &str, what: &str) -> Outcome {
    lock().module(module)?;
    Err(Status::NotFound.because(format!("the module has no {what} reference '{name}' (they are not modelled)")))
}

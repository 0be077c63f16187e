//! Libraries: modules that are put into a context when it first uses them, and their kernels.

use super::entry::{Address, In, Opaque, Out, entries};
use super::function::{attribute_of, set_attribute};
use super::image::{Image, compile, ptx_of};
use super::jit::Options;
use super::module::{FunctionAttributes, current_card, global_of, read_file};
use super::state::{Kind, State, card, known, lock};
use super::status::{Outcome, Status};
use super::types::{Handle, Text};
use crate::program::{KernelInfo, Program};
use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::sync::Arc;

pub(super) struct Library {
    program: Arc<Program>,
    kernels: HashMap<String, Handle>,
    /// The module of each context that has used it.
    pub(super) modules: HashMap<Handle, Handle>,
}

pub(super) struct Kernel {
    library: Handle,
    name: String,
    c_name: CString,
    /// Set for a device before a context of it has the function.
    attributes: HashMap<u32, FunctionAttributes>,
}

impl State {
    fn library(&mut self, handle: Handle) -> Outcome<&mut Library> {
        known(&mut self.libraries, handle, "library")
    }

    fn kernel(&mut self, handle: Handle) -> Outcome<&mut Kernel> {
        known(&mut self.kernels, handle, "kernel")
    }

    /// The library's module in a context.
    fn library_module(&mut self, library: Handle, context: Handle) -> Outcome<Handle> {
        let held = self.library(library)?;
        if let Some(module) = held.modules.get(&context) {
            return Ok(*module);
        }
        let program = Arc::clone(&held.program);
        let module = self.add_module(context, program, true)?;
        self.library(library)?.modules.insert(context, module);
        Ok(module)
    }

    fn library_kernel(&mut self, library: Handle, name: &str) -> Outcome<Handle> {
        let held = self.library(library)?;
        if let Some(kernel) = held.kernels.get(name) {
            return Ok(*kernel);
        }
        if !held.program.kernels().any(|kernel| kernel.name == name) {
            let names: Vec<&str> = held.program.kernels().map(|kernel| kernel.name.as_str()).collect();
            let reason = format!("the library has no kernel '{name}'; it has: {}", names.join(", "));
            return Err(Status::NotFound.because(reason));
        }
        let handle = self.new_handle(Kind::Kernel);
        let c_name = CString::new(name).unwrap_or_default();
        self.kernels.insert(handle, Kernel { library, name: name.to_owned(), c_name, attributes: HashMap::new() });
        self.library(library)?.kernels.insert(name.to_owned(), handle);
        Ok(handle)
    }

    /// The function that a handle of a function or kernel means in a context.
    pub(super) fn function_or_kernel(&mut self, handle: Handle, context: Handle) -> Outcome<Handle> {
        if !self.kernels.contains_key(&handle) {
            return known(&mut self.functions, handle, "function or kernel").map(|_| handle);
        }
        let kernel = self.kernel(handle)?;
        let (library, name) = (kernel.library, kernel.name.clone());
        let device = self.context(context)?.device;
        let attributes = self.kernel(handle)?.attributes.get(&device).copied();
        let module = self.library_module(library, context)?;
        let function = self.function_of(module, &name)?;
        if let Some(attributes) = attributes {
            known(&mut self.functions, function, "function")?.attributes = attributes;
        }
        Ok(function)
    }

    fn kernel_info(&mut self, handle: Handle) -> Outcome<KernelInfo> {
        let kernel = self.kernel(handle)?;
        let (library, name) = (kernel.library, kernel.name.clone());
        let found = self.library(library)?.program.kernels().find(|kernel| kernel.name == name).cloned();
        found.ok_or_else(|| Status::InvalidHandle.because(format!("kernel {name} is in no library any more")))
    }
}

fn load(out: Out<Handle>, image: &impl Image, options: &Options) -> Outcome {
    out.check("library")?;
    let (_, card) = current_card()?;
    let program = options.finish(ptx_of(image, card).and_then(|ptx| compile(&[&ptx], card)))?;
    let mut state = lock();
    let handle = state.new_handle(Kind::Library);
    state
        .libraries
        .insert(handle, Library { program: Arc::new(program), kernels: HashMap::new(), modules: HashMap::new() });
    out.set("library", handle)
}

fn check_library_options(options: In<u32>, count: u32) -> Outcome {
    for option in options.list("libraryOptions", count as usize)? {
        if option > 1 {
            return Err(Status::InvalidValue.because(format!("there is no CUlibraryOption {option}")));
        }
    }
    Ok(())
}

entries! { list:
    fn cuLibraryLoadData(library: Out<Handle>, code: Address, options: In<u32>, values: Out<Opaque>, count: u32, library_options: In<u32>, library_values: Out<Opaque>, library_count: u32) {
        let _ = library_values;
        check_library_options(library_options, library_count)?;
        load(library, &code, &Options::read(count, options, values)?)
    }

    fn cuLibraryLoadFromFile(library: Out<Handle>, path: Text, options: In<u32>, values: Out<Opaque>, count: u32, library_options: In<u32>, library_values: Out<Opaque>, library_count: u32) {
        let _ = library_values;
        check_library_options(library_options, library_count)?;
        let image = read_file(&path.text("fileName")?)?;
        load(library, &image, &Options::read(count, options, values)?)
    }

    fn cuLibraryUnload(library: Handle) {
        let modules: Vec<(Handle, Handle)> = {
            let mut state = lock();
            let held = state.library(library)?;
            held.modules.iter().map(|(context, module)| (*context, *module)).collect()
        };
        for (context, module) in modules {
            let id = lock().contexts.get(&context).map(|context| context.id);
            if let Some(id) = id {
                super::engine::Engine::global().wait_for_context(id);
            }
            lock().remove_module(module);
        }
        let mut state = lock();
        state.libraries.remove(&library);
        state.kernels.retain(|_, kernel| kernel.library != library);
        Ok(())
    }

    fn cuLibraryGetKernel(kernel: Out<Handle>, library: Handle, name: Text) {
        kernel.check("pKernel")?;
        let handle = lock().library_kernel(library, &name.text("name")?)?;
        kernel.set("pKernel", handle)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) {
        let kernels = lock().library(library)?.program.kernels().count();
        count.set("count", u32::try_from(kernels).unwrap_or(u32::MAX))
    }

    fn cuLibraryEnumerateKernels(kernels: Out<Handle>, count: u32, library: Handle) {
        let mut state = lock();
        let names: Vec<String> = state.library(library)?.program.kernels().map(|kernel| kernel.name.clone()).collect();
        for (index, name) in names.iter().take(count as usize).enumerate() {
            kernels.set_at("kernels", index, state.library_kernel(library, name)?)?;
        }
        Ok(())
    }

    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) {
        let mut state = lock();
        let context = state.usable()?;
        module.set("pMod", state.library_module(library, context)?)
    }

    fn cuLibraryGetGlobal(pointer: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        global(pointer, bytes, library, &name.text("name")?)
    }

    fn cuLibraryGetManaged(pointer: Out<u64>, bytes: Out<usize>, library: Handle, name: Text) {
        global(pointer, bytes, library, &name.text("name")?)
    }

    fn cuLibraryGetUnifiedFunction(function: Out<Opaque>, library: Handle, symbol: Text) {
        let _ = (function, symbol);
        lock().library(library)?;
        Err(Status::NotFound.because("there are no unified functions"))
    }

    fn cuKernelGetFunction(function: Out<Handle>, kernel: Handle) {
        let mut state = lock();
        let context = state.usable()?;
        state.kernel(kernel)?;
        function.set("pFunc", state.function_or_kernel(kernel, context)?)
    }

    fn cuKernelGetLibrary(library: Out<Handle>, kernel: Handle) {
        library.set("pLib", lock().kernel(kernel)?.library)
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: Handle) {
        let mut state = lock();
        if !state.kernels.contains_key(&kernel) {
            return super::function::name(&mut state, name, kernel);
        }
        name.set("name", state.kernel(kernel)?.c_name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let info = lock().kernel_info(kernel)?;
        super::function::param_info(&info, index, offset, bytes)
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: u32, kernel: Handle, dev: i32) {
        let (device, card) = card(dev)?;
        let mut state = lock();
        let info = state.kernel_info(kernel)?;
        let attributes = state.kernel(kernel)?.attributes.get(&device).copied().unwrap_or_default();
        value.set("pi", attribute_of(&info, &attributes, card, attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: i32, kernel: Handle, dev: i32) {
        let (device, card) = card(dev)?;
        let mut state = lock();
        let info = state.kernel_info(kernel)?;
        let held = state.kernel(kernel)?;
        let mut attributes = held.attributes.get(&device).copied().unwrap_or_default();
        set_attribute(&info, &mut attributes, card, attribute, value)?;
        held.attributes.insert(device, attributes);
        Ok(())
    }

    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, dev: i32) {
        let (device, _) = card(dev)?;
        if config > 3 {
            return Err(Status::InvalidValue.because(format!("there is no CUfunc_cache {config}")));
        }
        lock().kernel(kernel)?.attributes.entry(device).or_default().cache_config = config;
        Ok(())
    }
}

fn global(pointer: Out<u64>, bytes: Out<usize>, library: Handle, name: &str) -> Outcome {
    let mut state = lock();
    let context = state.usable()?;
    let module = state.library_module(library, context)?;
    global_of(&state.module(module)?.loaded, name, pointer, bytes)
}

//! Functions: what is known of them, and what can be set.

use super::entry::{Out, entries};
use super::module::{Function, FunctionAttributes};
use super::state::{State, known, lock};
use super::status::{Outcome, Status};
use super::types::Handle;
use crate::card::Card;
use crate::program::KernelInfo;
use std::ffi::c_char;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: u32 = 8;

impl FunctionAttributes {
    /// Dynamic shared memory that a launch may ask for.
    pub(super) fn dynamic_limit(&self, info: &KernelInfo) -> u32 {
        self.max_dynamic_shared.unwrap_or_else(|| Card::SHARED_PER_BLOCK.saturating_sub(info.static_shared))
    }
}

pub(super) fn attribute_of(
    info: &KernelInfo,
    attributes: &FunctionAttributes,
    card: &Card,
    attribute: u32,
) -> Outcome<i32> {
    let value = match attribute {
        0 => info.max_threads.min(Card::MAX_BLOCK_THREADS),
        1 => info.static_shared,
        2 => info.const_bytes,
        3 => info.local_bytes,
        4 => info.registers.min(Card::MAX_THREAD_REGISTERS),
        // "The PTX virtual architecture version": compute_80 is 80.
        5 => info.target,
        6 => card.target(),
        // Cached in L1 by the compiler's choice, no cluster needed, no cluster size required.
        7 | 10..=13 => 0,
        MAX_DYNAMIC_SHARED => attributes.dynamic_limit(info),
        9 => return Ok(attributes.carveout),
        14 => return Ok(attributes.non_portable_cluster),
        15 => return Ok(attributes.cluster_policy),
        _ => return Err(Status::InvalidValue.because(format!("there is no CUfunction_attribute {attribute}"))),
    };
    Ok(value.cast_signed())
}

pub(super) fn set_attribute(
    info: &KernelInfo,
    attributes: &mut FunctionAttributes,
    card: &Card,
    attribute: u32,
    value: i32,
) -> Outcome {
    match attribute {
        MAX_DYNAMIC_SHARED => {
            let most = card.shared_per_block_optin().saturating_sub(info.static_shared);
            let wanted = u32::try_from(value).ok().filter(|wanted| *wanted <= most);
            let reason = || {
                format!(
                    "{value} bytes of dynamic shared memory for '{}'; {} allows {most} beside its {} static bytes",
                    info.name, card.name, info.static_shared
                )
            };
            attributes.max_dynamic_shared = Some(wanted.ok_or_else(|| Status::InvalidValue.because(reason()))?);
        }
        9 if (-1..=100).contains(&value) => attributes.carveout = value,
        9 => return Err(Status::InvalidValue.because(format!("a carveout of {value}; expected -1 to 100 percent"))),
        10..=13 if value != 0 => return Err(Status::NotSupported.because("clusters are not modelled")),
        10..=13 => {}
        14 => attributes.non_portable_cluster = value,
        15 if (0..=2).contains(&value) => attributes.cluster_policy = value,
        _ => {
            let reason = format!("CUfunction_attribute {attribute} cannot be set to {value}");
            return Err(Status::InvalidValue.because(reason));
        }
    }
    Ok(())
}

pub(super) fn param_info(info: &KernelInfo, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Outcome {
    let Some(param) = info.params.get(index) else {
        return Err(Status::InvalidValue.because(format!(
            "parameter {index} of '{}', which has {}",
            info.name,
            info.params.len()
        )));
    };
    offset.set("paramOffset", param.offset as usize)?;
    bytes.set_if_given(param.bytes as usize);
    Ok(())
}

pub(super) fn name(state: &mut State, out: Out<*const c_char>, handle: Handle) -> Outcome {
    out.set("name", state.function(handle)?.name.as_ptr())
}

impl State {
    pub(super) fn function(&mut self, handle: Handle) -> Outcome<&mut Function> {
        known(&mut self.functions, handle, "function")
    }

    /// The function that a handle means in the current context, where it may be a kernel of a library.
    pub(super) fn resolve_function(&mut self, handle: Handle) -> Outcome<Handle> {
        if self.functions.contains_key(&handle) {
            let context = self.function(handle)?.context;
            self.check_fault(context)?;
            return Ok(handle);
        }
        let context = self.usable()?;
        self.function_or_kernel(handle, context)
    }
}

entries! { list:
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle) {
        let mut state = lock();
        let function = state.resolve_function(function)?;
        let context = state.function(function)?.context;
        let card = state.context(context)?.card;
        let function = state.function(function)?;
        let info = function.loaded.info(function.kernel);
        value.set("pi", attribute_of(info, &function.attributes, card, attribute)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) {
        let mut state = lock();
        let function = state.resolve_function(function)?;
        let context = state.function(function)?.context;
        let card = state.context(context)?.card;
        let function = state.function(function)?;
        let loaded = std::sync::Arc::clone(&function.loaded);
        set_attribute(loaded.info(function.kernel), &mut function.attributes, card, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        if config > 3 {
            return Err(Status::InvalidValue.because(format!("there is no CUfunc_cache {config}")));
        }
        let mut state = lock();
        let function = state.resolve_function(function)?;
        state.function(function)?.attributes.cache_config = config;
        Ok(())
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        if config > 2 {
            return Err(Status::InvalidValue.because(format!("there is no CUsharedconfig {config}")));
        }
        lock().resolve_function(function).map(|_| ())
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        let mut state = lock();
        let function = state.resolve_function(function)?;
        module.set("hmod", state.function(function)?.module)
    }

    fn cuFuncGetName(text: Out<*const c_char>, function: Handle) {
        let mut state = lock();
        let function = state.resolve_function(function)?;
        name(&mut state, text, function)
    }

    fn cuFuncGetParamInfo(function: Handle, index: usize, offset: Out<usize>, bytes: Out<usize>) {
        let mut state = lock();
        let function = state.resolve_function(function)?;
        let function = state.function(function)?;
        param_info(function.loaded.info(function.kernel), index, offset, bytes)
    }

    fn cuFuncIsLoaded(loaded: Out<u32>, function: Handle) {
        lock().resolve_function(function)?;
        loaded.set("state", 1)
    }

    fn cuFuncLoad(function: Handle) { lock().resolve_function(function).map(|_| ()) }
}

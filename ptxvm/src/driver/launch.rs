//! Launches: what is checked, how parameters are read, and the calls.

use super::entry::{Address, In, Opaque, Out, entries};
use super::occupancy::blocks;
use super::operation::{KernelCall, Operation};
use super::state::{State, lock};
use super::status::{Outcome, Status};
use super::stream::wait_for;
use super::types::{Handle, HostFunction, LaunchAttribute, LaunchConfig, LaunchParams};
use crate::card::Card;
use crate::program::KernelInfo;
use crate::settings::settings;
use std::sync::Arc;

/// Shape of a launch, and where its parameters are.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) cooperative: bool,
}

/// `CU_LAUNCH_PARAM_*` of the `extra` form.
const PARAM_END: u64 = 0;
const PARAM_BUFFER: u64 = 1;
const PARAM_BUFFER_SIZE: u64 = 2;

/// The parameter buffer of a launch, from an array of pointers to the parameters, or from a buffer.
pub(super) fn parameters(info: &KernelInfo, params: In<Address>, extra: In<u64>) -> Outcome<Vec<u8>> {
    if !params.is_null() && !extra.is_null() {
        return Err(Status::InvalidValue.because("both kernelParams and extra are given"));
    }
    if !extra.is_null() {
        return from_buffer(info, extra);
    }
    let mut bytes = vec![0; info.param_bytes as usize];
    for (index, param) in info.params.iter().enumerate() {
        if params.is_null() {
            let reason = format!("'{}' has {} parameters, and kernelParams is NULL", info.name, info.params.len());
            return Err(Status::InvalidValue.because(reason));
        }
        let name = format!("kernelParams[{index}]");
        let (start, length) = (param.offset as usize, param.bytes as usize);
        bytes[start..start + length].copy_from_slice(&params.get_at(&name, index)?.bytes(&name, length)?);
    }
    Ok(bytes)
}

fn from_buffer(info: &KernelInfo, extra: In<u64>) -> Outcome<Vec<u8>> {
    let (mut buffer, mut size) = (None, None);
    let mut at = 0;
    loop {
        match extra.get_at("extra", at)? {
            PARAM_END => break,
            PARAM_BUFFER => buffer = Some(extra.get_at("extra", at + 1)?),
            PARAM_BUFFER_SIZE => {
                size = Some(In::from(extra.get_at("extra", at + 1)? as *const usize).get("the size in extra")?);
            }
            other => {
                return Err(
                    Status::InvalidValue.because(format!("extra has a {other} where a CU_LAUNCH_PARAM_* is due"))
                );
            }
        }
        at += 2;
    }
    let (Some(buffer), Some(size)) = (buffer, size) else {
        return Err(Status::InvalidValue.because("extra names no buffer, or not its size"));
    };
    let wanted = info.params.iter().map(|param| param.offset + param.bytes).max().unwrap_or(0) as usize;
    if size < wanted {
        return Err(Status::InvalidValue
            .because(format!("the parameter buffer has {size} bytes, and '{}' takes {wanted}", info.name)));
    }
    let mut bytes =
        Address::from(buffer as *const u8).bytes("the parameter buffer", size.min(info.param_bytes as usize))?;
    bytes.resize(info.param_bytes as usize, 0);
    Ok(bytes)
}

fn check_extent(what: &str, extent: [u32; 3], limit: [u32; 3]) -> Outcome {
    if extent.contains(&0) || extent.iter().zip(limit).any(|(size, limit)| *size > limit) {
        return Err(Status::InvalidValue.because(format!("a {what} of {extent:?}; from 1 to {limit:?} is possible")));
    }
    Ok(())
}

impl State {
    /// Checks a launch as a driver does, before anything runs.
    pub(super) fn kernel_call(
        &mut self,
        handle: Handle,
        context: Handle,
        shape: Shape,
        params: Vec<u8>,
    ) -> Outcome<KernelCall> {
        let function = self.function_or_kernel(handle, context)?;
        let (device, card, stack) = {
            let context = self.context(context)?;
            (context.device, context.card, context.limits.stack)
        };
        let function = self.function(function)?;
        if function.context != context {
            return Err(Status::InvalidHandle.because(format!(
                "function '{}' is of context {:#x}, and the stream of {context:#x}",
                function.name.to_string_lossy(),
                function.context
            )));
        }
        let info = function.loaded.info(function.kernel);
        check_extent("grid", shape.grid, Card::MAX_GRID)?;
        check_extent("block", shape.block, Card::MAX_BLOCK)?;
        let threads: u32 = shape.block.iter().product();
        let most = info.max_threads.min(Card::MAX_BLOCK_THREADS);
        if threads > most {
            return Err(Status::InvalidValue.because(format!(
                "blocks of {threads} threads; '{}' allows {most} (launch bounds and card)",
                info.name
            )));
        }
        if let Some(required) = info.required_threads.filter(|required| *required != shape.block) {
            let reason = format!("blocks of {:?}; '{}' requires {required:?} (.reqntid)", shape.block, info.name);
            return Err(Status::InvalidValue.because(reason));
        }
        let limit = function.attributes.dynamic_limit(info);
        if shape.shared > limit {
            return Err(Status::InvalidValue.because(format!(
                "{} bytes of dynamic shared memory; '{}' allows {limit} (raise \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
                shape.shared, info.name
            )));
        }
        let resident = blocks(card, info, threads, shape.shared);
        if resident == 0 {
            return Err(Status::LaunchOutOfResources.because(format!(
                "a block of '{}' with {threads} threads needs {} registers a thread and {} bytes of shared memory, \
                 more than a multiprocessor has",
                info.name,
                info.registers,
                info.static_shared + shape.shared
            )));
        }
        let total = shape.grid.iter().map(|size| u64::from(*size)).product::<u64>();
        let most = u64::from(resident) * u64::from(card.multiprocessors);
        if shape.cooperative && total > most {
            return Err(Status::CooperativeLaunchTooLarge.because(format!(
                "{total} blocks; {} multiprocessors hold {resident} each at once, {most} in all",
                card.multiprocessors
            )));
        }
        Ok(KernelCall {
            function: handle,
            context,
            module: Arc::clone(&function.loaded),
            kernel: function.kernel,
            grid: shape.grid,
            block: shape.block,
            shared: shape.shared,
            params,
            cooperative: shape.cooperative,
            device,
            multiprocessors: card.multiprocessors,
            resident,
            local_limit: info.stack_bytes.saturating_add(u32::try_from(stack).unwrap_or(u32::MAX)),
        })
    }

    /// The context that a function is launched in, and what is known of it.
    pub(super) fn kernel_of(&mut self, function: Handle, context: Handle) -> Outcome<KernelInfo> {
        let function = self.function_or_kernel(function, context)?;
        let function = self.function(function)?;
        Ok(function.loaded.info(function.kernel).clone())
    }
}

fn launch(function: Handle, shape: Shape, stream: Handle, params: In<Address>, extra: In<u64>) -> Outcome {
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    let context = state.stream(stream)?.context;
    let info = state.kernel_of(function, context)?;
    let params = parameters(&info, params, extra)?;
    submit(state, function, context, shape, stream, params)
}

fn submit(
    mut state: std::sync::MutexGuard<'_, State>,
    function: Handle,
    context: Handle,
    shape: Shape,
    stream: Handle,
    params: Vec<u8>,
) -> Outcome {
    let call = state.kernel_call(function, context, shape, params)?;
    let command = state.issue(stream, Operation::Kernel(call))?;
    drop(state);
    if settings().launch_blocking { wait_for(stream, command) } else { Ok(()) }
}

/// Reads the attributes of `cuLaunchKernelEx`; returns whether the launch is cooperative.
fn read_attributes(config: &LaunchConfig) -> Outcome<bool> {
    let mut cooperative = false;
    let attributes: In<LaunchAttribute> = In::from(config.attributes.cast_const());
    for attribute in attributes.list("config->attrs", config.attribute_count as usize)? {
        let value = attribute.value.0;
        match attribute.id {
            2 => cooperative = value[0] != 0,
            4 | 11 if value[..3].iter().any(|size| *size > 1) => {
                return Err(
                    Status::NotSupported.because(format!("clusters of {:?} blocks are not modelled", &value[..3]))
                );
            }
            // What changes no result: cache windows, policies, priority, memory domains, carveout, …
            0 | 1 | 3..=6 | 8..=11 | 14 | 16 => {}
            7 | 12 => return Err(Status::NotSupported.because("events inside a launch are not modelled")),
            13 => {
                if value[0] != 0 {
                    return Err(Status::NotSupported.because("graph nodes updated by the device are not modelled"));
                }
            }
            id => return Err(Status::InvalidValue.because(format!("there is no CUlaunchAttributeID {id}"))),
        }
    }
    Ok(cooperative)
}

entries! { list:
    fn cuLaunchKernel | cuLaunchKernel_ptsz(function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Handle, params: In<Address>, extra: In<u64>) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        launch(function, Shape { grid, block, shared, cooperative: false }, stream, params, extra)
    }

    fn cuLaunchCooperativeKernel | cuLaunchCooperativeKernel_ptsz(function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Handle, params: In<Address>) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let none = In::from(std::ptr::null());
        launch(function, Shape { grid, block, shared, cooperative: true }, stream, params, none)
    }

    fn cuLaunchKernelEx | cuLaunchKernelEx_ptsz(config: In<LaunchConfig>, function: Handle, params: In<Address>, extra: In<u64>) {
        let config = config.get("config")?;
        let cooperative = read_attributes(&config)?;
        let shape = Shape { grid: config.grid, block: config.block, shared: config.shared, cooperative };
        launch(function, shape, config.stream, params, extra)
    }

    fn cuLaunchCooperativeKernelMultiDevice(list: In<LaunchParams>, count: u32, flags: u32) {
        let _ = (list, count, flags);
        Err(Status::NotSupported.because("launches over several devices left CUDA with 13.0"))
    }

    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(stream: Handle, function: HostFunction, data: Opaque) {
        if function.is_none() {
            return Err(Status::InvalidValue.because("the function is NULL"));
        }
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        state.issue(stream, Operation::Host { function, data: data as u64 }).map(|_| ())
    }

    fn cuFuncSetBlockShape(function: Handle, x: i32, y: i32, z: i32) {
        let block = [x, y, z].map(|size| u32::try_from(size).unwrap_or(0));
        check_extent("block", block, Card::MAX_BLOCK)?;
        lock().function(function)?.old_launch.block = block;
        Ok(())
    }

    fn cuFuncSetSharedSize(function: Handle, bytes: u32) {
        lock().function(function)?.old_launch.shared = bytes;
        Ok(())
    }

    fn cuParamSetSize(function: Handle, bytes: u32) {
        if bytes > Card::MAX_PARAMETER_BYTES {
            return Err(Status::InvalidValue.because(format!("{bytes} bytes of parameters")));
        }
        lock().function(function)?.old_launch.params.resize(bytes as usize, 0);
        Ok(())
    }

    fn cuParamSeti(function: Handle, offset: i32, value: u32) { set_param(function, offset, &value.to_le_bytes()) }

    fn cuParamSetf(function: Handle, offset: i32, value: f32) { set_param(function, offset, &value.to_le_bytes()) }

    fn cuParamSetv(function: Handle, offset: i32, value: Address, bytes: u32) {
        set_param(function, offset, &value.bytes("ptr", bytes as usize)?)
    }

    fn cuLaunch(function: Handle) { old_launch(function, 1, 1, Handle::NULL) }

    fn cuLaunchGrid(function: Handle, width: i32, height: i32) { old_launch(function, width, height, Handle::NULL) }

    fn cuLaunchGridAsync(function: Handle, width: i32, height: i32, stream: Handle) {
        old_launch(function, width, height, stream)
    }

    fn cuFuncGetParamCount(function: Handle, count: Out<usize>) {
        let mut state = lock();
        let function = state.resolve_function(function)?;
        let function = state.function(function)?;
        count.set("paramCount", function.loaded.info(function.kernel).params.len())
    }
}

fn set_param(function: Handle, offset: i32, value: &[u8]) -> Outcome {
    let mut state = lock();
    let params = &mut state.function(function)?.old_launch.params;
    let start = usize::try_from(offset).ok().filter(|start| start + value.len() <= Card::MAX_PARAMETER_BYTES as usize);
    let start = start.ok_or_else(|| Status::InvalidValue.because(format!("a parameter at offset {offset}")))?;
    if params.len() < start + value.len() {
        params.resize(start + value.len(), 0);
    }
    params[start..start + value.len()].copy_from_slice(value);
    Ok(())
}

fn old_launch(function: Handle, width: i32, height: i32, stream: Handle) -> Outcome {
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    let context = state.stream(stream)?.context;
    let bytes = state.kernel_of(function, context)?.param_bytes as usize;
    let mut old = state.function(function)?.old_launch.clone();
    old.params.resize(bytes, 0);
    let grid = [width, height, 1].map(|size| u32::try_from(size).unwrap_or(0));
    let shape = Shape { grid, block: old.block, shared: old.shared, cooperative: false };
    submit(state, function, context, shape, stream, old.params)
}

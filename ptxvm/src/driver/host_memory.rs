//! Host memory that devices can use: page-locked by CUDA, or registered with it.

use super::clock::happening_at;
use super::engine::Engine;
use super::entry::{Opaque, Out, entries};
use super::memory::{Buffer, BufferKind, memory_failure};
use super::state::lock;
use super::status::{Outcome, Status};
use crate::memory::{AllocationKind, Memory};

/// Portable, mapped, write-combined.
const HOST_FLAGS: u32 = 7;
/// Portable, mapped, I/O memory, read-only.
const REGISTER_FLAGS: u32 = 15;
const IO_MEMORY: u32 = 4;

fn allocate(out: Out<Opaque>, bytes: usize, flags: u32, what: &str) -> Outcome {
    out.check("pp")?;
    if flags & !HOST_FLAGS != 0 {
        return Err(Status::InvalidValue.because(format!("{flags:#x} are no cuMemHostAlloc flags")));
    }
    let mut state = lock();
    let context = state.usable()?;
    state.forbid_in_capture(what)?;
    let kind = (AllocationKind::Pinned, BufferKind::Pinned(flags));
    let base = state.allocate(context, bytes as u64, kind, what)?;
    out.set("pp", base as Opaque)
}

/// Gives host memory back, after the work of its context: a device may be using it.
fn release(pointer: u64, registered: bool) -> Outcome {
    let context = {
        let mut state = lock();
        state.usable()?;
        state.forbid_in_capture("releasing host memory")?;
        let buffer = state.buffers.get(&pointer);
        match buffer.map(|buffer| (buffer.kind, buffer.context)) {
            Some((BufferKind::Registered(_), context)) if registered => context,
            Some((BufferKind::Pinned(_), context)) if !registered => context,
            _ if registered => {
                let reason = format!("{pointer:#x} is not the start of a registered range");
                return Err(Status::HostMemoryNotRegistered.because(reason));
            }
            _ => {
                let reason = format!("{pointer:#x} did not come from cuMemHostAlloc or cuMemAllocHost (or was freed)");
                let failure = Status::InvalidValue.because(reason);
                return Err(super::memory::freed_before(pointer).unwrap_or(failure));
            }
        }
    };
    let id = lock().context(context)?.id;
    Engine::global().wait_for_context(id);
    let mut state = lock();
    state.join_streams_of(context);
    let order = state.host_order();
    if state.buffers.remove(&pointer).is_some() {
        let free = || Memory::global().free(pointer);
        happening_at(&order, "releasing host memory", true, free).map_err(memory_failure)?;
    }
    state.check_fault(context)
}

fn flags_of(pointer: u64) -> Outcome<u32> {
    let state = lock();
    match state.buffer_holding(pointer).map(|buffer| buffer.kind) {
        Some(BufferKind::Pinned(flags) | BufferKind::Registered(flags)) => Ok(flags),
        _ => Err(Status::InvalidValue.because(format!("{pointer:#x} is not page-locked host memory"))),
    }
}

fn register(pointer: u64, bytes: usize, flags: u32) -> Outcome {
    if flags & !REGISTER_FLAGS != 0 {
        return Err(Status::InvalidValue.because(format!("{flags:#x} are no cuMemHostRegister flags")));
    }
    if flags & IO_MEMORY != 0 {
        return Err(Status::NotSupported.because("I/O memory cannot be registered"));
    }
    if pointer == 0 || bytes == 0 {
        return Err(Status::InvalidValue.because(format!("{bytes} bytes at {pointer:#x}")));
    }
    let mut state = lock();
    let context = state.usable()?;
    state.forbid_in_capture("cuMemHostRegister")?;
    let id = state.new_serial();
    let label = format!("cuMemHostRegister, allocation {id}");
    Memory::global().register_host(pointer, bytes as u64, label).map_err(memory_failure)?;
    let device = state.context(context)?.device;
    let kind = BufferKind::Registered(flags);
    state.buffers.insert(pointer, Buffer { context, device, bytes: bytes as u64, id, kind, synchronous: false });
    Ok(())
}

entries! { list:
    fn cuMemAllocHost_v2(pointer: Out<Opaque>, bytes: usize) { allocate(pointer, bytes, 0, "cuMemAllocHost") }

    fn cuMemHostAlloc(pointer: Out<Opaque>, bytes: usize, flags: u32) {
        allocate(pointer, bytes, flags, "cuMemHostAlloc")
    }

    fn cuMemFreeHost(pointer: Opaque) {
        if pointer.is_null() { Ok(()) } else { release(pointer as u64, false) }
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, pointer: Opaque, flags: u32) {
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuMemHostGetDevicePointer takes no flags"));
        }
        lock().usable()?;
        flags_of(pointer as u64)?;
        // One address space for host and devices.
        device.set("pdptr", pointer as u64)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: Opaque) {
        lock().usable()?;
        // Portable and mapped always, as with unified addresses on a card.
        flags.set("pFlags", flags_of(pointer as u64)? | 2)
    }

    fn cuMemHostRegister(pointer: Opaque, bytes: usize, flags: u32) { register(pointer as u64, bytes, flags) }

    fn cuMemHostRegister_v2(pointer: Opaque, bytes: usize, flags: u32) { register(pointer as u64, bytes, flags) }

    fn cuMemHostUnregister(pointer: Opaque) { release(pointer as u64, true) }
}

//! Linear, pitched and managed device memory.

use super::clock::happening_at;
use super::engine::Engine;
use super::entry::{Out, entries};
use super::log;
use super::state::{State, lock};
use super::status::{Failure, Outcome, Status};
use super::types::Handle;
use crate::machine::Order;
use crate::memory::{AllocationKind, Memory, MemoryError};
use crate::monitor::host;

/// An allocation that a call made.
#[derive(Clone)]
pub(super) struct Buffer {
    pub(super) context: Handle,
    pub(super) device: u32,
    pub(super) bytes: u64,
    pub(super) id: u64,
    pub(super) kind: BufferKind,
    /// `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`.
    pub(super) synchronous: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BufferKind {
    Device,
    Managed,
    /// Page-locked by `cuMemHostAlloc`, with its flags.
    Pinned(u32),
    /// Page-locked by `cuMemHostRegister`, with its flags.
    Registered(u32),
    /// From a pool, in stream order.
    Pool(Handle),
    /// Of a graph's allocation node.
    Graph,
}

impl Buffer {
    pub(super) fn is_managed(&self) -> bool {
        self.kind == BufferKind::Managed
    }

    pub(super) fn is_host(&self) -> bool {
        matches!(self.kind, BufferKind::Pinned(_) | BufferKind::Registered(_))
    }
}

/// Alignment of what `cuMemAlloc` returns; programs rely on 256 bytes and get the 512 that cards give.
pub(super) const ALIGNMENT: u64 = 512;

impl State {
    /// The buffer that holds an address.
    pub(super) fn buffer_holding(&self, address: u64) -> Option<&Buffer> {
        let (base, buffer) = self.buffers.range(..=address).next_back()?;
        (address - base < buffer.bytes).then_some(buffer)
    }

    /// The buffer that starts at an address.
    pub(super) fn buffer_at(&self, base: u64) -> Outcome<&Buffer> {
        self.buffers.get(&base).ok_or_else(|| {
            let inside =
                self.buffer_holding(base).map_or("in no allocation", |_| "inside an allocation, not its start");
            Status::InvalidValue.because(format!("{base:#x} is {inside}"))
        })
    }

    /// Bytes in use on a device.
    pub(super) fn used(&self, device: u32) -> u64 {
        let own = self.buffers.values().filter(|buffer| buffer.device == device && !buffer.is_host());
        own.map(|buffer| buffer.bytes).sum::<u64>() + self.used_by_chunks(device)
    }

    /// Makes an allocation for the context.
    pub(super) fn allocate(
        &mut self,
        context: Handle,
        bytes: u64,
        kind: (AllocationKind, BufferKind),
        what: &str,
    ) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Status::InvalidValue.because("an allocation of 0 bytes"));
        }
        let (device, card) = {
            let context = self.context(context)?;
            (context.device, context.card)
        };
        let on_host = matches!(kind.1, BufferKind::Pinned(_) | BufferKind::Registered(_));
        let used = self.used(device);
        if !on_host && used.saturating_add(bytes) > card.memory_bytes {
            return Err(Status::OutOfMemory.because(format!(
                "{bytes} bytes asked for with {used} of the {} bytes of {} in use",
                card.memory_bytes, card.name
            )));
        }
        let id = self.new_serial();
        let label = format!("{what}, allocation {id}");
        let order = self.host_order();
        let make = || Memory::global().allocate(bytes, ALIGNMENT, kind.0, device, label.clone());
        let allocated = happening_at(&order, &label, true, make);
        let base = allocated.map_err(memory_failure)?;
        self.buffers.insert(base, Buffer { context, device, bytes, id, kind: kind.1, synchronous: false });
        Ok(base)
    }
}

pub(super) fn memory_failure(error: MemoryError) -> Failure {
    let status = match error {
        MemoryError::OutOfMemory { .. } => Status::OutOfMemory,
        MemoryError::AlreadyRegistered { .. } => Status::HostMemoryAlreadyRegistered,
        _ => Status::InvalidValue,
    };
    status.because(error.to_string())
}

/// Where nothing is allocated: what memory knows of an earlier life of the address.
pub(super) fn freed_before(base: u64) -> Option<Failure> {
    if Memory::global().find(base).is_some() {
        return None;
    }
    match Memory::global().free(base) {
        Err(error @ MemoryError::AlreadyFreed { .. }) => {
            host::memory_error(&error, "freeing");
            Some(Status::InvalidValue.because(error.to_string()))
        }
        _ => None,
    }
}

/// Frees what a stream was told to free, now that its turn has come.
pub(super) fn free_now(base: u64, order: &Order, label: &str) {
    let (of_graph, freed) = {
        let mut state = lock();
        let of_graph = state.is_of_graph(base);
        (of_graph, if of_graph { None } else { state.buffers.remove(&base) })
    };
    if of_graph {
        if let Err(error) = happening_at(order, label, false, || Memory::global().park(base)) {
            host::memory_error(&error, "freeing");
            log::error(format_args!("freeing in stream order: {error}"));
        }
        return;
    }
    if freed.is_none() {
        // An earlier command of the stream has freed it: nobody is left to give an error to.
        let _ = freed_before(base);
    }
    if freed.is_some()
        && let Err(error) = happening_at(order, label, false, || Memory::global().free(base))
    {
        log::error(format_args!("freeing in stream order: {error}"));
    }
}

/// `cuMemFree`: waits for the work of the context, as CUDA does, then frees.
pub(super) fn free(base: u64) -> Outcome {
    if base == 0 {
        return Ok(());
    }
    let context = {
        let mut state = lock();
        state.usable()?;
        state.forbid_in_capture("freeing memory")?;
        match state.buffer_at(base) {
            Ok(buffer) if buffer.is_host() => {
                return Err(Status::InvalidValue.because(format!("{base:#x} is host memory: cuMemFreeHost")));
            }
            Ok(buffer) => buffer.context,
            Err(failure) => return Err(freed_before(base).unwrap_or(failure)),
        }
    };
    let id = lock().context(context)?.id;
    Engine::global().wait_for_context(id);
    let mut state = lock();
    state.join_streams_of(context);
    let order = state.host_order();
    if state.is_of_graph(base) {
        state.freed_of_graph(base);
        happening_at(&order, "cuMemFree", true, || Memory::global().park(base)).map_err(memory_failure)?;
    } else if state.buffers.remove(&base).is_some() {
        happening_at(&order, "cuMemFree", true, || Memory::global().free(base)).map_err(memory_failure)?;
    }
    state.check_fault(context)
}

entries! { list:
    fn cuMemAlloc_v2(pointer: Out<u64>, bytes: usize) {
        pointer.check("dptr")?;
        let mut state = lock();
        let context = state.usable()?;
        state.forbid_in_capture("cuMemAlloc")?;
        let kind = (AllocationKind::Device, BufferKind::Device);
        let base = state.allocate(context, bytes as u64, kind, "cuMemAlloc")?;
        pointer.set("dptr", base)
    }

    fn cuMemAllocPitch_v2(pointer: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) {
        pointer.check("dptr")?;
        pitch.check("pPitch")?;
        if ![4, 8, 16].contains(&element) {
            return Err(Status::InvalidValue.because(format!("elements of {element} bytes; 4, 8 or 16 are possible")));
        }
        let mut state = lock();
        let context = state.usable()?;
        state.forbid_in_capture("cuMemAllocPitch")?;
        let row = width.checked_next_multiple_of(512);
        let bytes = row.and_then(|row| row.checked_mul(height));
        let (Some(row), Some(bytes)) = (row, bytes) else {
            return Err(Status::InvalidValue.because(format!("{height} rows of {width} bytes")));
        };
        let kind = (AllocationKind::Pitched, BufferKind::Device);
        let base = state.allocate(context, bytes as u64, kind, "cuMemAllocPitch")?;
        pitch.set("pPitch", row)?;
        pointer.set("dptr", base)
    }

    fn cuMemAllocManaged(pointer: Out<u64>, bytes: usize, flags: u32) {
        pointer.check("dptr")?;
        if ![1, 2].contains(&flags) {
            return Err(Status::InvalidValue.because(format!(
                "{flags:#x}; expected CU_MEM_ATTACH_GLOBAL or CU_MEM_ATTACH_HOST"
            )));
        }
        let mut state = lock();
        let context = state.usable()?;
        state.forbid_in_capture("cuMemAllocManaged")?;
        let kind = (AllocationKind::Managed, BufferKind::Managed);
        let base = state.allocate(context, bytes as u64, kind, "cuMemAllocManaged")?;
        pointer.set("dptr", base)
    }

    fn cuMemFree_v2(pointer: u64) { free(pointer) }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let mut state = lock();
        let context = state.usable()?;
        let context = state.context(context)?;
        let (device, all) = (context.device, context.card.memory_bytes);
        let left = all.saturating_sub(state.used(device));
        free.set("free", usize::try_from(left).unwrap_or(usize::MAX))?;
        total.set("total", usize::try_from(all).unwrap_or(usize::MAX))
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, pointer: u64) {
        lock().usable()?;
        let Some(allocation) = Memory::global().find(pointer) else {
            return Err(Status::NotFound.because(format!("{pointer:#x} is in no allocation")));
        };
        base.set_if_given(allocation.base);
        bytes.set_if_given(usize::try_from(allocation.bytes).unwrap_or(usize::MAX));
        Ok(())
    }
}

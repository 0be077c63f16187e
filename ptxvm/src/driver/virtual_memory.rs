//! Virtual memory management: addresses are reserved, memory is made, mapped there and allowed to be used.

use super::clock::happening_at;
use super::entry::{In, Opaque, Out, entries};
use super::state::{Kind, State, card, known, lock};
use super::status::{Outcome, Status};
use super::types::{AccessDescription, AllocationProperties, Handle, Location};
use crate::memory::{
    Memory,
    mapping::{GRANULARITY, Physical},
};
use std::sync::Arc;

/// `CUmemGenericAllocationHandle`.
pub(super) struct Chunk {
    physical: Arc<Physical>,
    properties: [u32; 3],
    device: u32,
    /// `cuMemCreate` and each `cuMemRetainAllocationHandle` count one.
    references: u64,
}

/// What is mapped at an address.
pub(super) struct Mapping {
    chunk: Handle,
    physical: Arc<Physical>,
    bytes: u64,
    device: u32,
    /// `CU_MEM_ACCESS_FLAGS_PROT_*` of the device.
    access: u32,
}

const READ_WRITE: u32 = 3;

/// The device that memory with these properties is on.
fn device_of(properties: &AllocationProperties) -> Outcome<u32> {
    if properties.kind != 1 {
        return Err(Status::InvalidValue.because(format!("there is no CUmemAllocationType {}", properties.kind)));
    }
    if properties.handle_types != 0 {
        return Err(Status::NotSupported.because("memory shared between processes is not modelled"));
    }
    if properties.location.kind != Location::DEVICE {
        return Err(Status::NotSupported.because("only memory of a device can be made without an address"));
    }
    card(properties.location.id).map(|(device, _)| device)
}

fn check_size(what: &str, bytes: u64) -> Outcome {
    if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
        return Err(Status::InvalidValue.because(format!("{what} of {bytes:#x}: no multiple of {GRANULARITY} bytes")));
    }
    Ok(())
}

impl State {
    /// Physical memory of a device in use.
    pub(super) fn used_by_chunks(&self, device: u32) -> u64 {
        self.chunks.values().filter(|chunk| chunk.device == device).map(|chunk| chunk.physical.bytes).sum()
    }

    /// First addresses of what is mapped in a range, all of which must be mapped.
    fn mapped(&self, address: u64, bytes: u64) -> Outcome<Vec<u64>> {
        let mut at = address;
        let mut found = Vec::new();
        while at < address.saturating_add(bytes) {
            let Some(mapping) = self.mappings.get(&at) else {
                return Err(Status::InvalidValue.because(format!("nothing is mapped to begin at {at:#x}")));
            };
            found.push(at);
            at += mapping.bytes;
        }
        if at != address.saturating_add(bytes) {
            return Err(Status::InvalidValue.because(format!("the range ends inside what is mapped up to {at:#x}")));
        }
        Ok(found)
    }

    fn release_chunk(&mut self, handle: Handle) -> Outcome {
        let chunk = known(&mut self.chunks, handle, "memory allocation")?;
        if chunk.references == 0 {
            return Err(Status::InvalidValue.because("the allocation has been released already"));
        }
        chunk.references -= 1;
        self.forget_chunk(handle);
        Ok(())
    }

    /// Memory lives as long as there are handles of it or it is mapped.
    fn forget_chunk(&mut self, handle: Handle) {
        let mapped = self.mappings.values().any(|mapping| mapping.chunk == handle);
        if !mapped && self.chunks.get(&handle).is_some_and(|chunk| chunk.references == 0) {
            self.chunks.remove(&handle);
        }
    }
}

entries! { list:
    fn cuMemGetAllocationGranularity(granularity: Out<usize>, properties: In<AllocationProperties>, option: u32) {
        device_of(&properties.get("prop")?)?;
        if option > 1 {
            return Err(Status::InvalidValue.because(format!("there is no CUmemAllocationGranularity_flags {option}")));
        }
        granularity.set("granularity", GRANULARITY as usize)
    }

    fn cuMemAddressReserve(pointer: Out<u64>, bytes: usize, alignment: usize, wanted: u64, flags: u64) {
        pointer.check("ptr")?;
        // Where the program would like them is a hint.
        let _ = wanted;
        check_size("a reservation", bytes as u64)?;
        if flags != 0 || alignment != 0 && !alignment.is_power_of_two() {
            return Err(Status::InvalidValue.because(format!("flags {flags:#x}, alignment {alignment}")));
        }
        let base = Memory::global().reserve_addresses(bytes as u64, alignment as u64);
        let base = base.ok_or_else(|| Status::OutOfMemory.because(format!("{bytes} bytes of addresses")))?;
        pointer.set("ptr", base)
    }

    fn cuMemAddressFree(pointer: u64, bytes: usize) {
        let state = lock();
        let end = pointer.saturating_add(bytes as u64);
        if state.mappings.range(pointer..end).next().is_some() {
            return Err(Status::InvalidValue.because("memory is still mapped there: cuMemUnmap"));
        }
        if !Memory::global().give_up_addresses(pointer, bytes as u64) {
            return Err(Status::InvalidValue.because(format!("{bytes} bytes at {pointer:#x} are no reservation")));
        }
        Ok(())
    }

    fn cuMemCreate(handle: Out<Handle>, bytes: usize, properties: In<AllocationProperties>, flags: u64) {
        handle.check("handle")?;
        let properties = properties.get("prop")?;
        let device = device_of(&properties)?;
        check_size("memory", bytes as u64)?;
        if flags != 0 {
            return Err(Status::InvalidValue.because(format!("flags {flags:#x}")));
        }
        let mut state = lock();
        let (_, card) = card(device.cast_signed())?;
        let used = state.used(device);
        let full = || Status::OutOfMemory.because(format!("{bytes} bytes with {used} of {} in use", card.memory_bytes));
        if used.saturating_add(bytes as u64) > card.memory_bytes {
            return Err(full());
        }
        let physical = Arc::new(Physical::new(bytes as u64).ok_or_else(full)?);
        let made = state.new_handle(Kind::Chunk);
        let properties = [properties.kind, properties.location.kind, properties.location.id.cast_unsigned()];
        state.chunks.insert(made, Chunk { physical, properties, device, references: 1 });
        handle.set("handle", made)
    }

    fn cuMemRelease(handle: Handle) { lock().release_chunk(handle) }

    fn cuMemMap(pointer: u64, bytes: usize, offset: usize, handle: Handle, flags: u64) {
        let (size, offset) = (bytes as u64, offset as u64);
        check_size("a mapping", size)?;
        if flags != 0 || !offset.is_multiple_of(GRANULARITY) || !pointer.is_multiple_of(GRANULARITY) {
            return Err(Status::InvalidValue.because(format!("flags {flags:#x}, offset {offset}, address {pointer:#x}")));
        }
        let mut state = lock();
        let chunk = known(&mut state.chunks, handle, "memory allocation")?;
        let (physical, device) = (Arc::clone(&chunk.physical), chunk.device);
        if offset.checked_add(size).is_none_or(|end| end > physical.bytes) {
            return Err(Status::InvalidValue.because(format!("{size} bytes from {offset} on of {}", physical.bytes)));
        }
        if !Memory::global().is_reserved(pointer, size) {
            return Err(Status::InvalidValue.because(format!("{size} bytes at {pointer:#x} are not reserved")));
        }
        let before = state.mappings.range(..pointer + size).next_back();
        if before.is_some_and(|(base, mapping)| base + mapping.bytes > pointer) {
            return Err(Status::InvalidValue.because(format!("{pointer:#x} is mapped already")));
        }
        if !Memory::global().map(pointer, size, &physical, offset) {
            return Err(Status::OutOfMemory.because("the system refuses the mapping"));
        }
        state.mappings.insert(pointer, Mapping { chunk: handle, physical, bytes: size, device, access: 0 });
        Ok(())
    }

    fn cuMemSetAccess(pointer: u64, bytes: usize, list: In<AccessDescription>, count: usize) {
        let list = list.list("desc", count)?;
        let mut state = lock();
        let mapped = state.mapped(pointer, bytes as u64)?;
        for description in list {
            if description.location.kind != Location::DEVICE {
                return Err(Status::NotSupported.because("access by others than devices is not modelled"));
            }
            let (device, _) = card(description.location.id)?;
            if ![0, READ_WRITE].contains(&description.flags) {
                return Err(Status::NotSupported.because("mapped memory can be read and written, or neither"));
            }
            let order = state.host_order();
            for base in &mapped {
                let Some(mapping) = state.mappings.get_mut(base) else { continue };
                if device != mapping.device {
                    let allowed = description.flags == READ_WRITE;
                    Memory::global().set_peer_access(device, mapping.device, allowed);
                    continue;
                }
                let before = std::mem::replace(&mut mapping.access, description.flags);
                let (bytes, memory) = (mapping.bytes, Memory::global());
                happening_at(&order, "cuMemSetAccess", true, || match (before, description.flags) {
                    (0, READ_WRITE) => memory.allow_mapped(*base, bytes, device),
                    (READ_WRITE, 0) => memory.forbid_mapped(*base, bytes),
                    _ => {}
                });
            }
        }
        Ok(())
    }

    fn cuMemGetAccess(flags: Out<u64>, location: In<Location>, pointer: u64) {
        let (device, _) = card(location.get("location")?.id)?;
        let state = lock();
        let before = state.mappings.range(..=pointer).next_back();
        let Some((_, mapping)) = before.filter(|(base, mapping)| pointer - **base < mapping.bytes) else {
            return Err(Status::InvalidValue.because(format!("nothing is mapped at {pointer:#x}")));
        };
        flags.set("flags", if mapping.device == device { mapping.access.into() } else { 0 })
    }

    fn cuMemUnmap(pointer: u64, bytes: usize) {
        let mut state = lock();
        let order = state.host_order();
        for base in state.mapped(pointer, bytes as u64)? {
            let Some(mapping) = state.mappings.remove(&base) else { continue };
            let unmap = || Memory::global().unmap(base, mapping.bytes);
            happening_at(&order, "cuMemUnmap", true, unmap).map_err(super::memory::memory_failure)?;
            drop(mapping.physical);
            state.forget_chunk(mapping.chunk);
        }
        Ok(())
    }

    fn cuMemRetainAllocationHandle(handle: Out<Handle>, pointer: Opaque) {
        let pointer = pointer as u64;
        let mut state = lock();
        let before = state.mappings.range(..=pointer).next_back();
        let found = before.filter(|(base, mapping)| pointer - **base < mapping.bytes).map(|(_, mapping)| mapping.chunk);
        let found = found.ok_or_else(|| Status::InvalidValue.because(format!("nothing is mapped at {pointer:#x}")))?;
        known(&mut state.chunks, found, "memory allocation")?.references += 1;
        handle.set("handle", found)
    }

    fn cuMemGetAllocationPropertiesFromHandle(properties: Out<AllocationProperties>, handle: Handle) {
        let mut state = lock();
        let [kind, location, id] = known(&mut state.chunks, handle, "memory allocation")?.properties;
        let location = Location { kind: location, id: id.cast_signed() };
        properties.set("prop", AllocationProperties {
            kind,
            handle_types: 0,
            location,
            security: std::ptr::null_mut(),
            compression: 0,
            rdma: 0,
            usage: 0,
            reserved: [0; 4],
        })
    }
}

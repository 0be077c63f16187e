//! What is known of a pointer, and advice about memory.

use super::entry::{In, Opaque, Out, entries};
use super::memory::BufferKind;
use super::operation::Operation;
use super::state::{State, card, lock};
use super::status::{Outcome, Status};
use super::types::{Handle, Location, memory_type};
use crate::memory::{Allocation, AllocationKind, Memory};

/// Answers one `CUpointer_attribute` of an address; `None`: the address is no allocation's.
fn attribute(state: &State, attribute: u32, address: u64, out: Out<u8>) -> Outcome<Option<()>> {
    let Some(allocation) = Memory::global().find(address) else { return Ok(None) };
    let buffer = state.buffer_holding(address);
    let host = matches!(allocation.kind, AllocationKind::Pinned | AllocationKind::HostRegistered);
    let managed = allocation.kind == AllocationKind::Managed;
    let device = allocation.device.cast_signed();
    let context = buffer.map_or_else(|| module_context(state, &allocation), |buffer| buffer.context);
    let unknown = |reason: &str| Status::InvalidValue.because(reason);
    match attribute {
        1 => out.cast().set("data", context)?,
        2 => out.cast().set("data", if host { memory_type::HOST } else { memory_type::DEVICE })?,
        3 => out.cast().set("data", address)?,
        4 if host || managed => out.cast().set("data", address)?,
        4 => return Err(unknown("device memory has no host pointer")),
        5 => return Err(Status::NotSupported.because("tokens for other devices (GPUDirect) are not modelled")),
        6 => out.cast().set("data", i32::from(buffer.is_some_and(|buffer| buffer.synchronous)))?,
        7 => out.cast().set("data", buffer.map_or(allocation.id, |buffer| buffer.id))?,
        8 => out.cast().set("data", u8::from(managed))?,
        9 => out.cast().set("data", device)?,
        10 | 15 => out.cast().set("data", 0_u8)?,
        11 => out.cast().set("data", allocation.base)?,
        12 => out.cast().set("data", allocation.bytes as usize)?,
        13 => out.cast().set("data", 1_u8)?,
        14 => out.cast().set("data", 0_u64)?,
        16 => out.cast().set("data", 3_u32)?,
        17 => {
            let pool = match buffer.map(|buffer| buffer.kind) {
                Some(BufferKind::Pool(pool)) => pool,
                _ => Handle::NULL,
            };
            out.cast().set("data", pool)?;
        }
        18 => out.cast().set("data", allocation.bytes as usize)?,
        19 => out.cast().set("data", allocation.base)?,
        20 => out.cast().set("data", allocation.id)?,
        21 => out.cast().set("data", 0_u8)?,
        _ => return Err(unknown(&format!("there is no CUpointer_attribute {attribute}"))),
    }
    Ok(Some(()))
}

/// A module's variable belongs to the module's context.
fn module_context(state: &State, allocation: &Allocation) -> Handle {
    let mut contexts = state.contexts.iter().filter(|(_, context)| context.device == allocation.device);
    contexts.next().map_or(Handle::NULL, |(handle, _)| *handle)
}

/// Bytes that an attribute takes, to write zeros where an address is unknown.
fn attribute_bytes(attribute: u32) -> usize {
    match attribute {
        8 | 10 | 13 | 15 | 21 => 1,
        2 | 6 | 9 | 16 => 4,
        5 => 16,
        _ => 8,
    }
}

/// Advice about managed memory; it changes where pages lie and no result.
fn advise(pointer: u64, bytes: usize, advice: u32) -> Outcome {
    lock().usable()?;
    if !(1..=6).contains(&advice) {
        return Err(Status::InvalidValue.because(format!("there is no CUmem_advise {advice}")));
    }
    check_managed(pointer, bytes)
}

fn check_managed(pointer: u64, bytes: usize) -> Outcome {
    let allocation = Memory::global().find(pointer).filter(|allocation| allocation.kind == AllocationKind::Managed);
    let Some(allocation) = allocation else {
        return Err(Status::InvalidValue.because(format!("{pointer:#x} is not managed memory")));
    };
    if bytes as u64 > allocation.base + allocation.bytes - pointer {
        return Err(Status::InvalidValue.because(format!("{bytes} bytes at {pointer:#x} leave their allocation")));
    }
    Ok(())
}

fn prefetch(pointer: u64, bytes: usize, stream: Handle) -> Outcome {
    check_managed(pointer, bytes)?;
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    state.issue(stream, Operation::Empty).map(|_| ())
}

fn check_location(location: Location) -> Outcome {
    match location.kind {
        Location::DEVICE => card(location.id).map(|_| ()),
        Location::HOST | Location::HOST_NUMA | Location::HOST_NUMA_CURRENT => Ok(()),
        kind => Err(Status::InvalidValue.because(format!("there is no CUmemLocationType {kind}"))),
    }
}

/// `CU_DEVICE_CPU`.
const CPU: i32 = -1;

fn range_attribute(out: Out<u8>, bytes: usize, attribute: u32, pointer: u64, count: usize) -> Outcome {
    check_managed(pointer, count)?;
    if bytes == 0 || !bytes.is_multiple_of(4) {
        return Err(Status::InvalidValue.because(format!("a result of {bytes} bytes")));
    }
    // Nothing was advised that is kept: not mostly read, no preferred location, never prefetched (CU_DEVICE_INVALID).
    let value = match attribute {
        1 | 5 | 7 => 0,
        2 | 3 | 4 | 6 | 8 => -2,
        _ => return Err(Status::InvalidValue.because(format!("there is no CUmem_range_attribute {attribute}"))),
    };
    (0..bytes / 4).try_for_each(|index| out.cast::<i32>().set_at("data", index, value))
}

entries! { list:
    fn cuPointerGetAttribute(data: Out<u8>, wanted: u32, pointer: u64) {
        data.check("data")?;
        let state = lock();
        match attribute(&state, wanted, pointer, data)? {
            Some(()) => Ok(()),
            // Programs ask this to tell host from device pointers, so it is no error worth a line.
            None => Err(Status::InvalidValue.into()),
        }
    }

    fn cuPointerGetAttributes(count: u32, attributes: In<u32>, data: In<Out<u8>>, pointer: u64) {
        let state = lock();
        for (index, wanted) in attributes.list("attributes", count as usize)?.into_iter().enumerate() {
            let out = data.get_at("data", index)?;
            out.check("data[]")?;
            // What cannot be answered is 0 here, and no error.
            if !matches!(attribute(&state, wanted, pointer, out), Ok(Some(()))) {
                let value = if wanted == 9 { [0xfe, 0xff, 0xff, 0xff] } else { [0; 4] };
                for byte in 0..attribute_bytes(wanted) {
                    out.set_at("data[]", byte, value[byte % 4])?;
                }
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: In<i32>, attribute: u32, pointer: u64) {
        if attribute != 6 {
            return Err(Status::InvalidValue.because(format!("CUpointer_attribute {attribute} cannot be set")));
        }
        let synchronous = value.get("value")? != 0;
        let mut state = lock();
        state.usable()?;
        let found = state.buffers.range_mut(..=pointer).next_back();
        match found.filter(|(base, buffer)| pointer - **base < buffer.bytes) {
            Some((_, buffer)) => {
                buffer.synchronous = synchronous;
                Ok(())
            }
            None => Err(Status::InvalidValue.because(format!("{pointer:#x} is in no allocation"))),
        }
    }

    fn cuMemAdvise(pointer: u64, bytes: usize, advice: u32, dev: i32) {
        if dev != CPU {
            card(dev)?;
        }
        advise(pointer, bytes, advice)
    }

    fn cuMemAdvise_v2(pointer: u64, bytes: usize, advice: u32, location: Location) {
        if ![2, 4].contains(&advice) && location.kind != 0 {
            check_location(location)?;
        }
        advise(pointer, bytes, advice)
    }

    fn cuMemPrefetchAsync | cuMemPrefetchAsync_ptsz(pointer: u64, bytes: usize, dev: i32, stream: Handle) {
        if dev != CPU {
            card(dev)?;
        }
        prefetch(pointer, bytes, stream)
    }

    fn cuMemPrefetchAsync_v2 | cuMemPrefetchAsync_v2_ptsz(pointer: u64, bytes: usize, location: Location, flags: u32, stream: Handle) {
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuMemPrefetchAsync takes no flags"));
        }
        check_location(location)?;
        prefetch(pointer, bytes, stream)
    }

    fn cuMemRangeGetAttribute(data: Out<u8>, bytes: usize, attribute: u32, pointer: u64, count: usize) {
        lock().usable()?;
        range_attribute(data, bytes, attribute, pointer, count)
    }

    fn cuMemRangeGetAttributes(data: In<Out<u8>>, sizes: In<usize>, attributes: In<u32>, number: usize, pointer: u64, count: usize) {
        lock().usable()?;
        (0..number).try_for_each(|index| {
            let out = data.get_at("data", index)?;
            range_attribute(out, sizes.get_at("dataSizes", index)?, attributes.get_at("attributes", index)?, pointer, count)
        })
    }

    fn cuMemGetHandleForAddressRange(handle: Opaque, pointer: u64, bytes: usize, kind: u32, flags: u64) {
        let _ = (handle, pointer, bytes, kind, flags);
        Err(Status::NotSupported.because("memory shared with other drivers (dma-buf) is not modelled"))
    }
}

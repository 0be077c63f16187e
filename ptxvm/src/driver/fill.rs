//! Fills of memory.

use super::entry::entries;
use super::operation::Operation;
use super::state::lock;
use super::status::{Outcome, Status};
use super::stream::wait_for;
use super::types::{FillNode, Handle};
use crate::memory::{AllocationKind, Memory};

/// Checks a fill: the element's size, its alignment, and that it lies in one allocation.
pub(super) fn check(fill: &FillNode) -> Outcome {
    let FillNode { to, pitch, element, width, height, .. } = *fill;
    if ![1, 2, 4].contains(&element) {
        return Err(Status::InvalidValue.because(format!("elements of {element} bytes; 1, 2 or 4 are possible")));
    }
    if width == 0 || height == 0 {
        return Ok(());
    }
    let element = u64::from(element);
    if !to.is_multiple_of(element) || height > 1 && !(pitch as u64).is_multiple_of(element) {
        return Err(Status::InvalidValue
            .because(format!("{to:#x} with a pitch of {pitch} is not aligned to elements of {element} bytes")));
    }
    let row = (width as u64).checked_mul(element);
    let row = row.ok_or_else(|| Status::InvalidValue.because(format!("a width of {width} elements")))?;
    if height > 1 && (pitch as u64) < row {
        return Err(Status::InvalidValue.because(format!("the pitch of {pitch} bytes is less than a row of {row}")));
    }
    let bytes = (height as u64 - 1) * pitch as u64 + row;
    let Some(allocation) = Memory::global().find(to) else {
        return Err(Status::InvalidValue.because(format!("{to:#x} is in no device allocation")));
    };
    let left = allocation.base + allocation.bytes - to;
    if bytes > left {
        return Err(Status::InvalidValue
            .because(format!("{bytes} bytes at {to:#x}, but only {left} bytes are left there of {allocation}")));
    }
    Ok(())
}

/// Fills in a stream; a blocking call waits only where the memory is the host's, as in CUDA.
fn fill(mut fill: FillNode, stream: Handle, blocking: bool) -> Outcome {
    check(&fill)?;
    if fill.height <= 1 {
        fill.pitch = fill.width * fill.element as usize;
    }
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    if blocking {
        state.forbid_on_captured(stream, "a fill outside stream order")?;
    }
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    let kind = Memory::global().find(fill.to).map(|allocation| allocation.kind);
    let wait = blocking && matches!(kind, Some(AllocationKind::Pinned | AllocationKind::HostRegistered));
    let command = state.issue(stream, Operation::Fill(fill))?;
    drop(state);
    if wait { wait_for(stream, command) } else { Ok(()) }
}

fn row(to: u64, element: u32, value: u32, count: usize) -> FillNode {
    FillNode { to, pitch: 0, value, element, width: count, height: 1 }
}

fn rows(to: u64, pitch: usize, element: u32, value: u32, width: usize, height: usize) -> FillNode {
    FillNode { to, pitch, value, element, width, height }
}

entries! { list:
    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(to: u64, value: u8, count: usize) {
        fill(row(to, 1, value.into(), count), Handle::NULL, true)
    }

    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(to: u64, value: u16, count: usize) {
        fill(row(to, 2, value.into(), count), Handle::NULL, true)
    }

    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(to: u64, value: u32, count: usize) {
        fill(row(to, 4, value, count), Handle::NULL, true)
    }

    fn cuMemsetD8Async | cuMemsetD8Async_ptsz(to: u64, value: u8, count: usize, stream: Handle) {
        fill(row(to, 1, value.into(), count), stream, false)
    }

    fn cuMemsetD16Async | cuMemsetD16Async_ptsz(to: u64, value: u16, count: usize, stream: Handle) {
        fill(row(to, 2, value.into(), count), stream, false)
    }

    fn cuMemsetD32Async | cuMemsetD32Async_ptsz(to: u64, value: u32, count: usize, stream: Handle) {
        fill(row(to, 4, value, count), stream, false)
    }

    fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(rows(to, pitch, 1, value.into(), width, height), Handle::NULL, true)
    }

    fn cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill(rows(to, pitch, 2, value.into(), width, height), Handle::NULL, true)
    }

    fn cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(rows(to, pitch, 4, value, width, height), Handle::NULL, true)
    }

    fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle) {
        fill(rows(to, pitch, 1, value.into(), width, height), stream, false)
    }

    fn cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz(to: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle) {
        fill(rows(to, pitch, 2, value.into(), width, height), stream, false)
    }

    fn cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz(to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle) {
        fill(rows(to, pitch, 4, value, width, height), stream, false)
    }
}

//! Copies, in one, two and three dimensions.

use super::clock::happening_at;
use super::entry::{In, Opaque, Out, entries};
use super::operation::Operation;
use super::state::{State, lock};
use super::status::{Failure, Outcome, Status};
use super::stream::wait_for;
use super::types::{Copy2D, Copy3D, CopyAttributes, Handle, memory_type};
use crate::memory::{AllocationKind, Memory, MemoryError};
use crate::settings::settings;
use std::sync::Arc;

/// A copy whose ends are known.
#[derive(Clone)]
pub(super) struct CopyPlan {
    /// As the caller described it.
    pub(super) raw: Copy3D,
    from: End,
    to: End,
    /// The source as it was when the call was made, where that was ordinary host memory.
    staged: Option<Arc<Vec<u8>>>,
    /// The host does it: a blocking call that reads or writes memory of the host.
    pub(super) by_host: bool,
}

/// One end of a copy.
#[derive(Clone, Copy)]
struct End {
    address: u64,
    pitch: u64,
    /// Bytes from one layer to the next.
    layer: u64,
    /// Ordinary memory of the host program.
    pageable: bool,
    /// Of the host, pageable or not.
    host: bool,
}

/// What the call says of one end.
struct Side {
    kind: u32,
    host: u64,
    device: u64,
    at: [usize; 3],
    pitch: usize,
    height: usize,
    name: &'static str,
}

impl Copy3D {
    /// A copy of `bytes` in a row.
    pub(super) fn linear(to: u64, to_type: u32, from: u64, from_type: u32, bytes: usize) -> Copy3D {
        Copy3D {
            from_x: 0,
            from_y: 0,
            from_z: 0,
            from_lod: 0,
            from_type,
            from_host: if from_type == memory_type::HOST { from } else { 0 },
            from_device: if from_type == memory_type::HOST { 0 } else { from },
            from_array: Handle::NULL,
            from_context: Handle::NULL,
            from_pitch: 0,
            from_height: 0,
            to_x: 0,
            to_y: 0,
            to_z: 0,
            to_lod: 0,
            to_type,
            to_host: if to_type == memory_type::HOST { to } else { 0 },
            to_device: if to_type == memory_type::HOST { 0 } else { to },
            to_array: Handle::NULL,
            to_context: Handle::NULL,
            to_pitch: 0,
            to_height: 0,
            width: bytes,
            height: 1,
            depth: 1,
        }
    }
}

impl From<Copy2D> for Copy3D {
    fn from(copy: Copy2D) -> Copy3D {
        Copy3D {
            from_x: copy.from_x,
            from_y: copy.from_y,
            from_z: 0,
            from_lod: 0,
            from_type: copy.from_type,
            from_host: copy.from_host,
            from_device: copy.from_device,
            from_array: copy.from_array,
            from_context: Handle::NULL,
            from_pitch: copy.from_pitch,
            from_height: 0,
            to_x: copy.to_x,
            to_y: copy.to_y,
            to_z: 0,
            to_lod: 0,
            to_type: copy.to_type,
            to_host: copy.to_host,
            to_device: copy.to_device,
            to_array: copy.to_array,
            to_context: Handle::NULL,
            to_pitch: copy.to_pitch,
            to_height: 0,
            width: copy.width,
            height: copy.height,
            depth: 1,
        }
    }
}

impl CopyPlan {
    /// Checks a copy and finds what its ends are.
    pub(super) fn new(raw: Copy3D) -> Outcome<CopyPlan> {
        let from = Side {
            kind: raw.from_type,
            host: raw.from_host,
            device: raw.from_device,
            at: [raw.from_x, raw.from_y, raw.from_z],
            pitch: raw.from_pitch,
            height: raw.from_height,
            name: "source",
        };
        let to = Side {
            kind: raw.to_type,
            host: raw.to_host,
            device: raw.to_device,
            at: [raw.to_x, raw.to_y, raw.to_z],
            pitch: raw.to_pitch,
            height: raw.to_height,
            name: "destination",
        };
        Ok(CopyPlan { raw, from: from.end(&raw)?, to: to.end(&raw)?, staged: None, by_host: false })
    }

    fn is_empty(&self) -> bool {
        self.raw.width == 0 || self.raw.height == 0 || self.raw.depth == 0
    }

    /// First addresses and length of each piece that lies in a row at both ends.
    fn pieces(&self) -> impl Iterator<Item = (u64, u64, u64)> + use<> {
        let width = self.raw.width as u64;
        let (mut height, mut depth, mut length) = (self.raw.height as u64, self.raw.depth as u64, width);
        let (from, to) = (self.from, self.to);
        if from.pitch == length && to.pitch == length {
            length *= height;
            height = 1;
            if depth > 1 && from.layer == length && to.layer == length {
                length *= depth;
                depth = 1;
            }
        }
        (0..depth).flat_map(move |z| {
            (0..height).map(move |y| {
                (to.address + z * to.layer + y * to.pitch, from.address + z * from.layer + y * from.pitch, length)
            })
        })
    }

    pub(super) fn run(&self) -> Result<(), MemoryError> {
        if self.is_empty() {
            return Ok(());
        }
        for (to, from, bytes) in self.pieces() {
            // SAFETY: ends outside every allocation are memory of the program, which it promised to keep until the copy
            // is done; for a staged source `self.staged` keeps it.
            unsafe { Memory::global().copy(to, from, bytes)? };
        }
        Ok(())
    }

    /// Takes the source as it is now.
    fn stage(&mut self) -> Result<(), MemoryError> {
        let (width, height, depth) = (self.raw.width as u64, self.raw.height as u64, self.raw.depth as u64);
        let mut bytes = vec![0_u8; self.raw.width * self.raw.height * self.raw.depth];
        let buffer = End { address: bytes.as_mut_ptr() as u64, pitch: width, layer: width * height, ..self.from };
        let to_buffer = CopyPlan { to: buffer, staged: None, ..self.clone() };
        to_buffer.run()?;
        debug_assert_eq!(bytes.len() as u64, width * height * depth);
        self.from = buffer;
        self.staged = Some(Arc::new(bytes));
        Ok(())
    }
}

impl Side {
    fn end(&self, copy: &Copy3D) -> Outcome<End> {
        let [x, y, z] = self.at;
        let (width, height, depth) = (copy.width, copy.height, copy.depth);
        let (base, host) = match self.kind {
            memory_type::HOST => (self.host, true),
            memory_type::DEVICE => (self.device, false),
            memory_type::UNIFIED => (self.device, Memory::global().find(self.device).is_none()),
            memory_type::ARRAY => return Err(Status::NotSupported.because("arrays (textures) are not modelled")),
            kind => return Err(Status::InvalidValue.because(format!("{}: there is no CUmemorytype {kind}", self.name))),
        };
        let name = self.name;
        let flat = height <= 1 && depth <= 1 && y == 0 && z == 0;
        let pitch = if self.pitch == 0 && (flat || host) { x + width } else { self.pitch };
        if !flat && pitch < x + width {
            return Err(Status::InvalidValue
                .because(format!("the {name}'s pitch of {pitch} bytes is less than x {x} + width {width}")));
        }
        let layer_rows = if self.height == 0 { y + height } else { self.height };
        if depth > 1 && layer_rows < y + height {
            return Err(Status::InvalidValue
                .because(format!("the {name}'s layers have {layer_rows} rows, less than y {y} + height {height}")));
        }
        let layer = pitch as u64 * layer_rows as u64;
        let address = base.wrapping_add(z as u64 * layer + y as u64 * pitch as u64 + x as u64);
        let bytes = match (width, height, depth) {
            (0, _, _) | (_, 0, _) | (_, _, 0) => 0,
            _ => (depth as u64 - 1) * layer + (height as u64 - 1) * pitch as u64 + width as u64,
        };
        let pageable = check_range(name, base, address, bytes, host)?;
        let of_host = host || is_host(address);
        Ok(End { address, pitch: pitch as u64, layer, pageable, host: of_host })
    }
}

fn is_host(address: u64) -> bool {
    let kind = Memory::global().find(address).map(|allocation| allocation.kind);
    matches!(kind, Some(AllocationKind::Pinned | AllocationKind::HostRegistered))
}

/// Whether the range is ordinary host memory. One that should be in an allocation and is not is
/// `CUDA_ERROR_INVALID_VALUE`.
fn check_range(name: &str, base: u64, address: u64, bytes: u64, host: bool) -> Outcome<bool> {
    if bytes == 0 {
        return Ok(host);
    }
    if base == 0 {
        return Err(Status::InvalidValue.because(format!("the {name} is NULL")));
    }
    let Some(allocation) = Memory::global().find(address) else {
        if host {
            return Ok(true);
        }
        if let Err(error) = Memory::global().check("copy", address, bytes) {
            crate::monitor::host::memory_error(&error, "a copy");
        }
        return Err(Status::InvalidValue.because(format!("the {name} {address:#x} is in no device allocation")));
    };
    if allocation.base + allocation.bytes < address + bytes {
        return Err(Status::InvalidValue.because(format!(
            "the {name}, {bytes} bytes at {address:#x}, ends beyond {allocation} at {:#x}",
            allocation.base
        )));
    }
    Ok(false)
}

/// Whether the call may return before the copy is done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocking {
    Yes,
    No,
}

/// Puts a copy into a stream and waits as the documentation of the copy's kind says.
pub(super) fn copy(raw: Copy3D, stream: Handle, blocking: Blocking) -> Outcome {
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    let mut plan = CopyPlan::new(raw)?;
    if plan.is_empty() {
        return Ok(());
    }
    let captured = state.stream(stream)?.capture.is_some();
    if blocking == Blocking::Yes {
        state.forbid_on_captured(stream, "a copy that the host waits for")?;
    }
    let mut wait = blocking == Blocking::Yes && (plan.to.host || plan.from.host);
    plan.by_host = wait;
    if !captured && plan.to.pageable {
        wait = true;
    } else if !captured && plan.from.pageable {
        // Without a seed a blocking call simply waits, which spares the staging; with one it returns as early as it may.
        if blocking == Blocking::No || settings().seed.is_some() {
            let order = state.host_order();
            happening_at(&order, "staging a copy", true, || plan.stage()).map_err(bad_range)?;
            wait = false;
        }
    }
    if state.must_wait(&plan) {
        wait = true;
    }
    let devices = plan.devices().filter(|_| !captured);
    let command = match devices.filter(|[to, from]| to != from) {
        Some(devices) => state.issue_between(stream, Operation::Copy(plan), devices)?,
        None => state.issue(stream, Operation::Copy(plan))?,
    };
    drop(state);
    if wait { wait_for(stream, command) } else { Ok(()) }
}

impl CopyPlan {
    /// The devices that memory is copied to and from, where both ends are memory of devices.
    fn devices(&self) -> Option<[u32; 2]> {
        let device = |end: End| Some(Memory::global().find(end.address).filter(|_| !end.host)?.device);
        Some([device(self.to)?, device(self.from)?])
    }
}

impl State {
    /// `CU_POINTER_ATTRIBUTE_SYNC_MEMOPS` makes every copy of the buffer wait.
    fn must_wait(&self, plan: &CopyPlan) -> bool {
        [plan.from.address, plan.to.address]
            .into_iter()
            .any(|address| self.buffer_holding(address).is_some_and(|buffer| buffer.synchronous))
    }
}

fn bad_range(error: MemoryError) -> Failure {
    Status::InvalidValue.because(error.to_string())
}

use Blocking::{No, Yes};
use memory_type::{DEVICE, HOST, UNIFIED};

fn linear(to: (u64, u32), from: (u64, u32), bytes: usize, stream: Handle, blocking: Blocking) -> Outcome {
    copy(Copy3D::linear(to.0, to.1, from.0, from.1, bytes), stream, blocking)
}

/// Copies between contexts: both must exist, and with unified addresses nothing else is special.
fn peer(to: (u64, Handle), from: (u64, Handle), bytes: usize, stream: Handle, blocking: Blocking) -> Outcome {
    for context in [to.1, from.1] {
        lock().context(context)?;
    }
    linear((to.0, UNIFIED), (from.0, UNIFIED), bytes, stream, blocking)
}

entries! { list:
    fn cuMemcpy | cuMemcpy_ptds(to: u64, from: u64, bytes: usize) {
        linear((to, UNIFIED), (from, UNIFIED), bytes, Handle::NULL, Yes)
    }

    fn cuMemcpyAsync | cuMemcpyAsync_ptsz(to: u64, from: u64, bytes: usize, stream: Handle) {
        linear((to, UNIFIED), (from, UNIFIED), bytes, stream, No)
    }

    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(to: u64, from: In<u8>, bytes: usize) {
        linear((to, DEVICE), (from.address(), HOST), bytes, Handle::NULL, Yes)
    }

    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(to: u64, from: In<u8>, bytes: usize, stream: Handle) {
        linear((to, DEVICE), (from.address(), HOST), bytes, stream, No)
    }

    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(to: Opaque, from: u64, bytes: usize) {
        linear((to as u64, HOST), (from, DEVICE), bytes, Handle::NULL, Yes)
    }

    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(to: Opaque, from: u64, bytes: usize, stream: Handle) {
        linear((to as u64, HOST), (from, DEVICE), bytes, stream, No)
    }

    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(to: u64, from: u64, bytes: usize) {
        linear((to, DEVICE), (from, DEVICE), bytes, Handle::NULL, Yes)
    }

    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(to: u64, from: u64, bytes: usize, stream: Handle) {
        linear((to, DEVICE), (from, DEVICE), bytes, stream, No)
    }

    fn cuMemcpyPeer | cuMemcpyPeer_ptds(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
        peer((to, to_context), (from, from_context), bytes, Handle::NULL, Yes)
    }

    fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) {
        peer((to, to_context), (from, from_context), bytes, stream, No)
    }

    fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds(copied: In<Copy2D>) { copy(copied.get("pCopy")?.into(), Handle::NULL, Yes) }

    fn cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(copied: In<Copy2D>) {
        copy(copied.get("pCopy")?.into(), Handle::NULL, Yes)
    }

    fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(copied: In<Copy2D>, stream: Handle) {
        copy(copied.get("pCopy")?.into(), stream, No)
    }

    fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds(copied: In<Copy3D>) { copy(copied.get("pCopy")?, Handle::NULL, Yes) }

    fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz(copied: In<Copy3D>, stream: Handle) {
        copy(copied.get("pCopy")?, stream, No)
    }

    fn cuMemcpy3DPeer | cuMemcpy3DPeer_ptds(copied: In<Copy3D>) { copy(copied.get("pCopy")?, Handle::NULL, Yes) }

    fn cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz(copied: In<Copy3D>, stream: Handle) {
        copy(copied.get("pCopy")?, stream, No)
    }

    fn cuMemcpyBatchAsync | cuMemcpyBatchAsync_ptsz(to: In<u64>, from: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>, attribute_starts: In<usize>, attribute_count: usize, failed: Out<usize>, stream: Handle) {
        let result = batch(to, from, sizes, count, (attributes, attribute_starts, attribute_count), stream);
        if let Err((index, _)) = &result {
            failed.set_if_given(*index);
        }
        result.map_err(|(_, failure)| failure)
    }

    fn cuMemcpyBatchAsync_v2 | cuMemcpyBatchAsync_v2_ptsz(to: In<u64>, from: In<u64>, sizes: In<usize>, count: usize, attributes: In<CopyAttributes>, attribute_starts: In<usize>, attribute_count: usize, stream: Handle) {
        batch(to, from, sizes, count, (attributes, attribute_starts, attribute_count), stream)
            .map_err(|(_, failure)| failure)
    }
}

type BatchAttributes = (In<CopyAttributes>, In<usize>, usize);

fn batch(
    to: In<u64>,
    from: In<u64>,
    sizes: In<usize>,
    count: usize,
    (attributes, starts, attribute_count): BatchAttributes,
    stream: Handle,
) -> Result<(), (usize, Failure)> {
    let all = |failure| (usize::MAX, failure);
    if stream.is_null() || stream == Handle::LEGACY_STREAM {
        return Err(all(Status::InvalidValue.because("batches of copies are not for the legacy stream")));
    }
    if count == 0 || attribute_count == 0 || attribute_count > count {
        let reason = format!("{count} copies with {attribute_count} attributes; expected at least one of each");
        return Err(all(Status::InvalidValue.because(reason)));
    }
    for (index, order) in attributes.list("attrs", attribute_count).map_err(all)?.iter().enumerate() {
        starts.get_at("attrsIdxs", index).map_err(all)?;
        if !(1..=3).contains(&order.source_order) {
            let reason = format!("there is no CUmemcpySrcAccessOrder {}", order.source_order);
            return Err(all(Status::InvalidValue.because(reason)));
        }
    }
    for index in 0..count {
        let one = || -> Outcome {
            let (to, from) = (to.get_at("dsts", index)?, from.get_at("srcs", index)?);
            linear((to, UNIFIED), (from, UNIFIED), sizes.get_at("sizes", index)?, stream, No)
        };
        one().map_err(|failure| (index, failure))?;
    }
    Ok(())
}

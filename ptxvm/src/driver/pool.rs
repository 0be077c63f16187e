//! Memory in stream order: pools, `cuMemAllocAsync`, `cuMemFreeAsync`.

use super::entry::{In, Opaque, Out, entries};
use super::memory::{BufferKind, freed_before};
use super::operation::Operation;
use super::state::{Kind, State, card, known, lock};
use super::status::{Outcome, Status};
use super::types::{AccessDescription, Handle, Location, PoolProperties};
use crate::memory::{AllocationKind, Memory};
use std::collections::HashMap;

pub(super) struct Pool {
    device: u32,
    default: bool,
    max_bytes: u64,
    /// The three reuse policies; nothing is reused here, so they only are remembered.
    policies: [u32; 3],
    release_threshold: u64,
    used_high: u64,
    reserved_high: u64,
    /// What devices other than its own may do: `CU_MEM_ACCESS_FLAGS_PROT_*`.
    access: HashMap<i32, u32>,
    destroyed: bool,
}

const READ_WRITE: u32 = 3;
const THRESHOLD: u32 = 4;

impl State {
    fn new_pool(&mut self, device: u32, default: bool, max_bytes: u64) -> Handle {
        let handle = self.new_handle(Kind::Pool);
        let pool = Pool {
            device,
            default,
            max_bytes,
            policies: [1; 3],
            release_threshold: 0,
            used_high: 0,
            reserved_high: 0,
            access: HashMap::new(),
            destroyed: false,
        };
        self.pools.insert(handle, pool);
        handle
    }

    /// The default and the current pool of a device.
    fn pools_of(&mut self, device: u32) -> (Handle, Handle) {
        if let Some(pools) = self.device_pools.get(&device) {
            return *pools;
        }
        let pool = self.new_pool(device, true, 0);
        self.device_pools.insert(device, (pool, pool));
        (pool, pool)
    }

    fn pool(&mut self, handle: Handle) -> Outcome<&mut Pool> {
        match known(&mut self.pools, handle, "memory pool") {
            Ok(pool) if !pool.destroyed => Ok(pool),
            Ok(_) => Err(Status::InvalidValue.because(format!("memory pool {handle:#x} was destroyed"))),
            Err(failure) => Err(failure),
        }
    }

    fn pool_used(&self, handle: Handle) -> u64 {
        let own = self.buffers.values().filter(|buffer| buffer.kind == BufferKind::Pool(handle));
        own.map(|buffer| buffer.bytes).sum()
    }

    /// Memory for the stream; `None`: from the current pool of the stream's device.
    fn allocate_in_order(&mut self, stream: Handle, bytes: usize, pool: Option<Handle>) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Status::InvalidValue.because("an allocation of 0 bytes"));
        }
        let stream = self.resolve_stream(stream)?;
        self.check_implicit(stream)?;
        let context = self.stream(stream)?.context;
        let device = self.context(context)?.device;
        let pool = pool.unwrap_or_else(|| self.pools_of(device).1);
        let (max, used) = (self.pool(pool)?.max_bytes, self.pool_used(pool));
        if max != 0 && used + bytes as u64 > max {
            return Err(Status::OutOfMemory.because(format!("{used} of the pool's {max} bytes are in use")));
        }
        if self.stream(stream)?.capture.is_some() {
            let kind = (AllocationKind::AsyncPool, BufferKind::Graph);
            let base = self.allocate(context, bytes as u64, kind, "cuMemAllocAsync in a graph")?;
            self.capture_operation(stream, Operation::Allocate { base, bytes })?;
            return Ok(base);
        }
        let what = format!("cuMemAllocAsync in stream {}", self.stream(stream)?.id);
        let kind = (AllocationKind::AsyncPool, BufferKind::Pool(pool));
        let base = self.allocate(context, bytes as u64, kind, &what)?;
        let used = self.pool_used(pool);
        let pool = self.pool(pool)?;
        pool.used_high = pool.used_high.max(used);
        pool.reserved_high = pool.reserved_high.max(used);
        // The stream knows of it; what is not ordered after the stream does not.
        self.issue(stream, Operation::Empty)?;
        Ok(base)
    }

    fn free_in_order(&mut self, stream: Handle, pointer: u64) -> Outcome {
        let stream = self.resolve_stream(stream)?;
        self.check_implicit(stream)?;
        if pointer == 0 {
            return Ok(());
        }
        let kind = match self.buffer_at(pointer) {
            Ok(buffer) => buffer.kind,
            Err(failure) => return Err(freed_before(pointer).unwrap_or(failure)),
        };
        match kind {
            BufferKind::Pool(_) | BufferKind::Device | BufferKind::Managed | BufferKind::Graph => {
                if kind == BufferKind::Graph && self.stream(stream)?.capture.is_none() {
                    if Memory::global().find(pointer).is_none() {
                        return Err(freed_before(pointer).unwrap_or_else(|| Status::InvalidValue.into()));
                    }
                    self.freed_of_graph(pointer);
                }
                self.issue(stream, Operation::Free(pointer)).map(|_| ())
            }
            _ => Err(Status::InvalidValue.because(format!("{pointer:#x} did not come from cuMemAllocAsync"))),
        }
    }
}

fn location_device(location: Location) -> Outcome<u32> {
    match location.kind {
        Location::DEVICE => card(location.id).map(|(device, _)| device),
        Location::HOST | Location::HOST_NUMA | Location::HOST_NUMA_CURRENT => {
            Err(Status::NotSupported.because("memory pools of the host are not modelled"))
        }
        kind => Err(Status::InvalidValue.because(format!("there is no pool at a CUmemLocationType {kind}"))),
    }
}

entries! { list:
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(pointer: Out<u64>, bytes: usize, stream: Handle) {
        pointer.check("dptr")?;
        let base = lock().allocate_in_order(stream, bytes, None)?;
        pointer.set("dptr", base)
    }

    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(pointer: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        pointer.check("dptr")?;
        let base = lock().allocate_in_order(stream, bytes, Some(pool))?;
        pointer.set("dptr", base)
    }

    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(pointer: u64, stream: Handle) { lock().free_in_order(stream, pointer) }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, dev: i32) {
        let (device, _) = card(dev)?;
        pool.set("pool_out", lock().pools_of(device).0)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, dev: i32) {
        let (device, _) = card(dev)?;
        pool.set("pool", lock().pools_of(device).1)
    }

    fn cuDeviceSetMemPool(dev: i32, pool: Handle) {
        let (device, _) = card(dev)?;
        set_current(device, pool)
    }

    fn cuMemGetDefaultMemPool(pool: Out<Handle>, location: In<Location>, kind: u32) {
        check_kind(kind)?;
        let device = location_device(location.get("location")?)?;
        pool.set("pool_out", lock().pools_of(device).0)
    }

    fn cuMemGetMemPool(pool: Out<Handle>, location: In<Location>, kind: u32) {
        check_kind(kind)?;
        let device = location_device(location.get("location")?)?;
        pool.set("pool", lock().pools_of(device).1)
    }

    fn cuMemSetMemPool(location: In<Location>, kind: u32, pool: Handle) {
        check_kind(kind)?;
        set_current(location_device(location.get("location")?)?, pool)
    }

    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<PoolProperties>) {
        pool.check("pool")?;
        let properties = properties.get("poolProps")?;
        check_kind(properties.kind)?;
        if properties.handle_types != 0 {
            return Err(Status::NotSupported.because("pools shared between processes are not modelled"));
        }
        let device = location_device(properties.location)?;
        let handle = lock().new_pool(device, false, properties.max_size as u64);
        pool.set("pool", handle)
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let mut state = lock();
        let held = state.pool(pool)?;
        if held.default {
            return Err(Status::InvalidValue.because("a default pool cannot be destroyed"));
        }
        // What is allocated from it stays until it is freed.
        held.destroyed = true;
        let device = held.device;
        let (default, current) = state.pools_of(device);
        if current == pool {
            state.device_pools.insert(device, (default, default));
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle, keep: usize) {
        // Nothing is kept that is not in use.
        let _ = keep;
        lock().pool(pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: Out<u8>) {
        let mut state = lock();
        let used = state.pool_used(pool);
        let pool = state.pool(pool)?;
        match attribute {
            1..=3 => value.cast::<u32>().set("value", pool.policies[attribute as usize - 1]),
            THRESHOLD => value.cast::<u64>().set("value", pool.release_threshold),
            5 | 7 => value.cast::<u64>().set("value", used),
            6 => value.cast::<u64>().set("value", pool.reserved_high),
            8 => value.cast::<u64>().set("value", pool.used_high),
            _ => Err(Status::InvalidValue.because(format!("there is no CUmemPool_attribute {attribute}"))),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: In<u8>) {
        let mut state = lock();
        let used = state.pool_used(pool);
        let pool = state.pool(pool)?;
        match attribute {
            1..=3 => pool.policies[attribute as usize - 1] = value.cast::<u32>().get("value")?,
            THRESHOLD => pool.release_threshold = value.cast::<u64>().get("value")?,
            6 | 8 => {
                if value.cast::<u64>().get("value")? != 0 {
                    return Err(Status::InvalidValue.because("a high watermark can only be set to 0"));
                }
                if attribute == 6 { pool.reserved_high = used } else { pool.used_high = used }
            }
            5 | 7 => return Err(Status::InvalidValue.because("the bytes in use cannot be set")),
            _ => return Err(Status::InvalidValue.because(format!("there is no CUmemPool_attribute {attribute}"))),
        }
        Ok(())
    }

    fn cuMemPoolSetAccess(pool: Handle, map: In<AccessDescription>, count: usize) {
        let list = map.list("map", count)?;
        let mut state = lock();
        let own = state.pool(pool)?.device;
        for description in list {
            let device = location_device(description.location)?;
            if ![0, 1, READ_WRITE].contains(&description.flags) {
                return Err(Status::InvalidValue.because(format!("there are no CUmemAccess_flags {}", description.flags)));
            }
            if device == own && description.flags != READ_WRITE {
                return Err(Status::InvalidValue.because("a pool's own device keeps its access"));
            }
            state.pool(pool)?.access.insert(description.location.id, description.flags);
            if device != own {
                let allowed = description.flags == READ_WRITE;
                crate::memory::Memory::global().set_peer_access(device, own, allowed);
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle, location: In<Location>) {
        let location = location.get("location")?;
        let device = location_device(location)?;
        let mut state = lock();
        let pool = state.pool(pool)?;
        let own = if pool.device == device { READ_WRITE } else { 0 };
        flags.set("flags", pool.access.get(&location.id).copied().unwrap_or(own))
    }

    fn cuMemPoolExportToShareableHandle(handle: Opaque, pool: Handle, kind: u32, flags: u64) {
        let _ = (handle, kind, flags);
        lock().pool(pool)?;
        Err(Status::NotSupported.because("pools shared between processes are not modelled"))
    }

    fn cuDeviceGetGraphMemAttribute(dev: i32, attribute: u32, value: Out<u64>) {
        let (device, _) = card(dev)?;
        if attribute > 3 {
            return Err(Status::InvalidValue.because(format!("there is no CUgraphMem_attribute {attribute}")));
        }
        let state = lock();
        let graphs = state.buffers.values().filter(|buffer| buffer.device == device && buffer.kind == BufferKind::Graph);
        value.set("value", graphs.map(|buffer| buffer.bytes).sum())
    }

    fn cuDeviceSetGraphMemAttribute(dev: i32, attribute: u32, value: In<u64>) {
        card(dev)?;
        if ![1, 3].contains(&attribute) || value.get("value")? != 0 {
            return Err(Status::InvalidValue.because("only the high watermarks can be set, and only to 0"));
        }
        Ok(())
    }

    fn cuDeviceGraphMemTrim(dev: i32) { card(dev).map(|_| ()) }
}

fn check_kind(kind: u32) -> Outcome {
    match kind {
        1 => Ok(()),
        2 => Err(Status::NotSupported.because("pools of managed memory are not modelled")),
        _ => Err(Status::InvalidValue.because(format!("there is no CUmemAllocationType {kind} for pools"))),
    }
}

fn set_current(device: u32, pool: Handle) -> Outcome {
    let mut state = lock();
    if state.pool(pool)?.device != device {
        return Err(Status::InvalidValue.because(format!("the pool is not of device {device}")));
    }
    let (default, _) = state.pools_of(device);
    state.device_pools.insert(device, (default, pool));
    Ok(())
}

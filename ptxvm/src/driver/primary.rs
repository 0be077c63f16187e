//! Primary contexts, and access of one context to the memory of another device's.

use super::context::{check_flags, destroy};
use super::entry::{Out, entries};
use super::state::{card, known, lock};
use super::status::{Outcome, Status};
use super::types::Handle;
use crate::memory::Memory;

/// The primary context of a device.
#[derive(Default)]
pub(super) struct Primary {
    pub(super) handle: Handle,
    pub(super) retained: u32,
    pub(super) flags: u32,
}

entries! { list:
    fn cuCtxEnablePeerAccess(peer: Handle, flags: u32) {
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuCtxEnablePeerAccess takes no flags"));
        }
        let mut state = lock();
        let current = state.usable()?;
        let peer_device = state.context(peer)?.device;
        let context = state.context(current)?;
        if context.device == peer_device {
            return Err(Status::InvalidDevice.because("a device is no peer of itself"));
        }
        if !context.peers.insert(peer) {
            return Err(Status::PeerAccessAlreadyEnabled.because(format!("from {current:#x} to {peer:#x}")));
        }
        Memory::global().set_peer_access(context.device, peer_device, true);
        Ok(())
    }

    fn cuCtxDisablePeerAccess(peer: Handle) {
        let mut state = lock();
        let current = state.usable()?;
        let peer_device = state.context(peer)?.device;
        let context = state.context(current)?;
        if !context.peers.remove(&peer) {
            return Err(Status::PeerAccessNotEnabled.because(format!("from {current:#x} to {peer:#x}")));
        }
        Memory::global().set_peer_access(context.device, peer_device, false);
        Ok(())
    }

    fn cuDevicePrimaryCtxRetain(pctx: Out<Handle>, dev: i32) {
        pctx.check("pctx")?;
        let (device, card) = card(dev)?;
        let mut state = lock();
        let flags = state.primaries.entry(device).or_default().flags;
        let existing = state.primaries[&device].handle;
        let handle = if state.contexts.contains_key(&existing) {
            existing
        } else {
            state.new_context(device, card, flags, true)
        };
        let primary = state.primaries.entry(device).or_default();
        primary.handle = handle;
        primary.retained += 1;
        pctx.set("pctx", handle)
    }

    fn cuDevicePrimaryCtxRelease(dev: i32) { release_primary(dev) }

    fn cuDevicePrimaryCtxRelease_v2(dev: i32) { release_primary(dev) }

    fn cuDevicePrimaryCtxReset(dev: i32) { reset_primary(dev) }

    fn cuDevicePrimaryCtxReset_v2(dev: i32) { reset_primary(dev) }

    fn cuDevicePrimaryCtxSetFlags(dev: i32, flags: u32) { set_primary_flags(dev, flags) }

    fn cuDevicePrimaryCtxSetFlags_v2(dev: i32, flags: u32) { set_primary_flags(dev, flags) }

    fn cuDevicePrimaryCtxGetState(dev: i32, flags: Out<u32>, active: Out<i32>) {
        let (device, _) = card(dev)?;
        let mut state = lock();
        let primary = state.primaries.entry(device).or_default();
        let (handle, set) = (primary.handle, primary.flags);
        let alive = state.contexts.get(&handle).map(|context| context.flags);
        flags.set("flags", alive.unwrap_or(set))?;
        active.set("active", i32::from(alive.is_some()))
    }
}

fn release_primary(device: i32) -> Outcome {
    let (device, _) = card(device)?;
    let last = {
        let mut state = lock();
        let primary = state.primaries.entry(device).or_default();
        if primary.retained == 0 {
            return Err(
                Status::InvalidContext.because(format!("the primary context of device {device} is not retained"))
            );
        }
        primary.retained -= 1;
        // Nobody may retain a context that is about to go: from here on there is none, and who asks gets a new one.
        (primary.retained == 0).then(|| std::mem::take(&mut primary.handle))
    };
    last.map_or(Ok(()), |handle| if lock().contexts.contains_key(&handle) { destroy(handle) } else { Ok(()) })
}

fn reset_primary(device: i32) -> Outcome {
    let (device, card) = card(device)?;
    let handle = lock().primaries.entry(device).or_default().handle;
    if !lock().contexts.contains_key(&handle) {
        return Ok(());
    }
    destroy(handle)?;
    // Who retains it keeps its handle, of a context that is as new.
    let mut state = lock();
    let Some(primary) = state.primaries.get(&device) else { return Ok(()) };
    if primary.retained > 0 {
        let flags = primary.flags;
        let fresh = state.new_context(device, card, flags, true);
        if let Some(context) = state.contexts.remove(&fresh) {
            let legacy = context.legacy_stream;
            state.contexts.insert(handle, context);
            known(&mut state.streams, legacy, "stream")?.context = handle;
        }
    }
    Ok(())
}

fn set_primary_flags(device: i32, flags: u32) -> Outcome {
    check_flags(flags)?;
    let (device, _) = card(device)?;
    let mut state = lock();
    let primary = state.primaries.entry(device).or_default();
    primary.flags = flags;
    let handle = primary.handle;
    if let Some(context) = state.contexts.get_mut(&handle) {
        context.flags = flags;
    }
    Ok(())
}

//! The address check lane by lane: for mixed spaces and several allocations, and to say what is wrong.

use super::{
    AccessOp, OpSpace,
    layout::{Aligned, Layout, Pointers, Window},
};
use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Op, Slot},
        warp::Warp,
    },
    memory::{Action, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, bad_alignment, bad_range},
    monitor::{Access, AccessSpace},
};

/// Tells the monitor of an access all of whose lanes are in one window.
#[cold]
#[inline(never)]
pub(super) fn observe(warp: &mut Warp, op: &Op, slot: Slot, access: AccessOp, bytes: u64, window: &Window) {
    let offset = op.imm;
    let mut addresses = [0u64; 32];
    // SAFETY: the decoder noted how wide the address registers are.
    unsafe {
        if access.narrow() {
            let words = warp.lanes::<u32>(slot);
            for lane in 0..32 {
                let address = u64::from(words[lane].wrapping_add(offset as u32));
                addresses[lane] = address.wrapping_sub(window.origin);
            }
        } else {
            let words = warp.lanes::<u64>(slot);
            for lane in 0..32 {
                addresses[lane] = words[lane].wrapping_add(offset).wrapping_sub(window.origin);
            }
        }
    }
    report(warp, op, access, bytes, window.space, warp.mask, &addresses);
}

/// Tells the monitor of an access to one space.
pub(super) fn report(
    warp: &mut Warp,
    op: &Op,
    access: AccessOp,
    bytes: u64,
    space: AccessSpace,
    mask: u32,
    addresses: &[u64; 32],
) {
    if let Some(monitor) = warp.monitor() {
        let kind = access.kind();
        let (ordering, instruction) = (access.ordering(), op.instruction);
        let bytes = bytes as u32;
        monitor.access(warp, &Access { space, kind, bytes, mask, addresses, ordering, instruction });
    }
}

/// The address in a lane, with its offset, as the instruction's space sees it.
fn address_of(warp: &Warp, slot: Slot, access: AccessOp, offset: u64, lane: usize) -> u64 {
    if access.narrow() {
        // SAFETY: the decoder noted that the address register has 32 bits.
        u64::from(unsafe { warp.lanes::<u32>(slot) }[lane].wrapping_add(offset as u32))
    } else {
        // SAFETY: the decoder noted that the address register has 64 bits.
        let addresses = unsafe { warp.lanes::<u64>(slot) };
        addresses[lane].wrapping_add(offset)
    }
}

/// One address resolved: the pointer, the space, and the address within the space.
struct Resolved {
    pointer: u64,
    space: Option<AccessSpace>,
    address: u64,
}

/// What [`super::layout::resolve`] does, for every space and mixture, one lane after another.
#[inline(never)]
pub(crate) fn resolve_slowly(
    warp: &mut Warp,
    op: &Op,
    slot: Slot,
    access: AccessOp,
    bytes: u64,
    pointers: &mut Pointers,
) -> Layout {
    let target = &mut pointers.write(Aligned([0; 32])).0;
    let mut addresses = [0u64; 32];
    // Lanes in global, shared and local memory.
    let mut masks = [0u32; 3];
    let (leader, mask) = (warp.leader(), warp.mask);
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        let address = address_of(warp, slot, access, op.imm, lane);
        match resolve_lane(warp, access, address, bytes, lane) {
            Ok(resolved) => {
                target[lane] = resolved.pointer;
                addresses[lane] = resolved.address;
                if let Some(space) = resolved.space {
                    masks[space as usize] |= 1 << lane;
                }
            }
            Err(fault) => {
                warp.raise(fault.in_lane(lane));
                return Layout::Fault;
            }
        }
    }
    for lane in (0..32).filter(|lane| mask >> lane & 1 == 0) {
        target[lane] = target[leader];
    }
    if warp.monitor.is_some() {
        for space in [AccessSpace::Global, AccessSpace::Shared, AccessSpace::Local] {
            let mask = masks[space as usize];
            if mask != 0 {
                report(warp, op, access, bytes, space, mask, &addresses);
            }
        }
    }
    Layout::Scattered
}

fn resolve_lane(
    warp: &mut Warp,
    access: AccessOp,
    address: u64,
    bytes: u64,
    lane: usize,
) -> Result<Resolved, Box<Fault>> {
    let action = access.action();
    if address & (bytes - 1) != 0 {
        return Err(bad_alignment(action, address, bytes).into());
    }
    match access.space() {
        OpSpace::Global => global(warp, action, address, bytes),
        OpSpace::Shared => shared(warp, action, address, address, bytes),
        OpSpace::Local => local(warp, action, address, address, bytes, lane),
        // Addresses of a device function's parameters are local ones.
        OpSpace::Param if address < LOCAL_WINDOW => local(warp, action, address, address, bytes, lane),
        OpSpace::Param | OpSpace::Generic => match address {
            0..SHARED_WINDOW => global(warp, action, address, bytes),
            SHARED_WINDOW..LOCAL_WINDOW => shared(warp, action, address, address - SHARED_WINDOW, bytes),
            LOCAL_WINDOW..PARAM_WINDOW => local(warp, action, address, address - LOCAL_WINDOW, bytes, lane),
            _ => parameter(warp, action, address, bytes),
        },
    }
}

fn global(warp: &mut Warp, action: Action, address: u64, bytes: u64) -> Result<Resolved, Box<Fault>> {
    let device = warp.running().launch.device;
    let range = match warp.cache.lookup(address) {
        Some(range) => Some(range),
        None => warp.cache.fill(address, device),
    };
    let high = range.map_or(0, |range| if action == Action::Read { range.high } else { range.writable });
    if address >= high || high - address < bytes {
        return Err(bad_range(action, address, bytes, device).into());
    }
    Ok(Resolved { pointer: address, space: Some(AccessSpace::Global), address })
}

fn outside(action: Action, address: u64, bytes: u64, what: &str) -> Fault {
    let message = format!("{} of {bytes} bytes at 0x{address:x} is out of bounds: {what}", action.name());
    Fault::new(FaultKind::IllegalAddress, "out-of-bounds", message)
}

fn fits(offset: u64, bytes: u64, room: u64) -> bool {
    offset.checked_add(bytes).is_some_and(|end| end <= room)
}

fn shared(warp: &mut Warp, action: Action, address: u64, offset: u64, bytes: u64) -> Result<Resolved, Box<Fault>> {
    let shared = warp.block().shared();
    if !fits(offset, bytes, shared.len() as u64) {
        let what = format!("the block has {} bytes of shared memory", shared.len());
        return Err(outside(action, address, bytes, &what).into());
    }
    let pointer = shared.as_mut_ptr() as u64 + offset;
    Ok(Resolved { pointer, space: Some(AccessSpace::Shared), address: offset })
}

fn local(
    warp: &mut Warp,
    action: Action,
    address: u64,
    offset: u64,
    bytes: u64,
    lane: usize,
) -> Result<Resolved, Box<Fault>> {
    let room = u64::from(warp.local_bytes);
    if !fits(offset, bytes, room) {
        return Err(outside(action, address, bytes, &format!("the thread has {room} bytes of local memory")).into());
    }
    let pointer = warp.local.as_mut_ptr() as u64 + lane as u64 * room + offset;
    Ok(Resolved { pointer, space: Some(AccessSpace::Local), address: offset })
}

fn parameter(warp: &mut Warp, action: Action, address: u64, bytes: u64) -> Result<Resolved, Box<Fault>> {
    let params = warp.running().params();
    let offset = address - PARAM_WINDOW;
    if !fits(offset, bytes, params.len() as u64) {
        let what = format!("the kernel has {} bytes of parameters, from 0x{PARAM_WINDOW:x} on", params.len());
        return Err(outside(action, address, bytes, &what).into());
    }
    if action != Action::Read {
        let message = format!("{} of {bytes} bytes to a kernel parameter, which is read-only", action.name());
        return Err(Fault::new(FaultKind::IllegalAddress, "write-to-constant", message).into());
    }
    Ok(Resolved { pointer: params.as_ptr() as u64 + offset, space: None, address: offset })
}

/// Resolves byte `offset` of the frame's local memory for all lanes.
pub(super) fn resolve_frame(warp: &mut Warp, op: &Op, access: AccessOp, bytes: u64, pointers: &mut Pointers) -> Layout {
    let address = u64::from(warp.local_base).wrapping_add(op.imm);
    let room = u64::from(warp.local_bytes);
    if !fits(address, bytes, room) {
        let what = format!("the thread has {room} bytes of local memory");
        warp.raise(outside(access.action(), address, bytes, &what));
        return Layout::Fault;
    }
    if address & (bytes - 1) != 0 {
        warp.raise(bad_alignment(access.action(), address, bytes));
        return Layout::Fault;
    }
    if warp.monitor.is_some() {
        report(warp, op, access, bytes, AccessSpace::Local, warp.mask, &[address; 32]);
    }
    let target = &mut pointers.write(Aligned([0; 32])).0;
    let start = warp.local.as_mut_ptr() as u64 + address;
    for (lane, pointer) in target.iter_mut().enumerate() {
        *pointer = start + lane as u64 * room;
    }
    Layout::Scattered
}

/// Resolves byte `op.imm` of the kernel's parameters: the same for all lanes.
pub(super) fn resolve_kernel_parameter(warp: &mut Warp, op: &Op, access: AccessOp, bytes: u64) -> Layout {
    match parameter(warp, access.action(), PARAM_WINDOW.wrapping_add(op.imm), bytes) {
        Ok(resolved) => Layout::Same(resolved.pointer as *mut u8),
        Err(fault) => {
            warp.raise(*fault);
            Layout::Fault
        }
    }
}

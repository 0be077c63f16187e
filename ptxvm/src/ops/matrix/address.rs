//! Rows of tiles in shared memory: 16 bytes each, at an address per lane.

use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Op, Slot},
        warp::Warp,
    },
    memory::{Action, LOCAL_WINDOW, SHARED_WINDOW, bad_alignment},
    monitor::{Access, AccessKind, AccessSpace, Ordering},
    program::{
        CompileError,
        builder::{Builder, Modifiers, Place},
    },
    ptx::ast::{Instruction, Operand, Space},
};

/// Bytes of a row.
const ROW: u64 = 16;

/// What addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressing {
    /// Offsets in shared memory, in registers of 32 bits.
    Narrow,
    /// Offsets in shared memory, in registers of 64 bits.
    Wide,
    /// Generic addresses, which must lie in shared memory's window.
    Generic,
}

/// Takes the space off.
pub(super) fn take_shared(m: &mut Modifiers<'_>) -> bool {
    m.take_any(&["shared", "shared::cta"]).is_some()
}

/// The address of an instruction on tiles: what it is, its register and its offset.
pub(super) fn place(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    shared: bool,
) -> Result<(Addressing, Slot, i64), CompileError> {
    match b.place(i, operand, shared.then_some(Space::Shared))? {
        Place::Register { slot, bits: 32, offset } if shared => Ok((Addressing::Narrow, slot, offset)),
        Place::Register { slot, bits: 64, offset } if shared => Ok((Addressing::Wide, slot, offset)),
        Place::Register { slot, bits: 64, offset } => Ok((Addressing::Generic, slot, offset)),
        Place::Register { bits, .. } => {
            Err(b.error(i, format!("a generic address has 64 bits; this register has {bits}")))
        }
        Place::KernelParam { .. } | Place::Frame { .. } => {
            Err(b.error(i, "the address must be in shared memory, found one of parameters or local memory"))
        }
    }
}

/// Offsets in shared memory of all lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Offsets(pub(super) [u32; 32]);

/// The offsets of the first `LANES` lanes, if all are aligned and inside of shared memory (then nothing else is to be
/// checked), and the memory's start.
#[inline(always)]
pub(super) unsafe fn offsets<const LANES: usize>(
    warp: &mut Warp,
    op: &Op,
    addressing: Addressing,
) -> Option<(Offsets, *mut u8)> {
    let mut offsets = Offsets([0; 32]);
    let (mut misaligned, mut largest, mut beyond) = (0u32, 0u32, 0u64);
    if addressing == Addressing::Narrow {
        // SAFETY: the decoder put a register of 32 bits there.
        let addresses = unsafe { warp.lanes::<u32>(op.a) };
        for lane in 0..LANES {
            offsets.0[lane] = addresses[lane].wrapping_add(op.imm as u32);
        }
    } else {
        let origin = if addressing == Addressing::Generic { SHARED_WINDOW } else { 0 };
        // SAFETY: the decoder put a register of 64 bits there.
        let addresses = unsafe { warp.lanes::<u64>(op.a) };
        for lane in 0..LANES {
            let offset = addresses[lane].wrapping_add(op.imm).wrapping_sub(origin);
            beyond |= offset >> 32;
            offsets.0[lane] = offset as u32;
        }
    }
    for offset in &offsets.0[..LANES] {
        misaligned |= offset & (ROW as u32 - 1);
        largest = largest.max(*offset);
    }
    let shared = warp.block().shared();
    let fits = u64::from(largest) + ROW <= shared.len() as u64;
    (misaligned == 0 && beyond == 0 && fits).then_some((offsets, shared.as_mut_ptr()))
}

/// The same lane by lane, for `lanes` only, with the monitor told, or the first fault.
#[cold]
pub(super) fn checked_offsets(
    warp: &mut Warp,
    op: &Op,
    addressing: Addressing,
    lanes: u32,
    kind: AccessKind,
) -> Result<(Offsets, *mut u8), Fault> {
    let action = if kind == AccessKind::Write { Action::Write } else { Action::Read };
    let mut offsets = Offsets([0; 32]);
    let mut addresses = [0u64; 32];
    let room = warp.block().shared().len() as u64;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        // SAFETY: the decoder put a register of that width there.
        let address = unsafe {
            match addressing {
                Addressing::Narrow => u64::from(warp.lanes::<u32>(op.a)[lane].wrapping_add(op.imm as u32)),
                _ => warp.lanes::<u64>(op.a)[lane].wrapping_add(op.imm),
            }
        };
        let mut offset = address;
        if addressing == Addressing::Generic {
            if !(SHARED_WINDOW..LOCAL_WINDOW).contains(&address) {
                let message = format!("tiles lie in shared memory, but 0x{address:x} is no generic address of it");
                return Err(Fault::new(FaultKind::InvalidAddressSpace, "wrong-space", message).in_lane(lane));
            }
            offset -= SHARED_WINDOW;
        }
        if offset.checked_add(ROW).is_none_or(|end| end > room) {
            let message = format!(
                "{} of {ROW} bytes at 0x{address:x} is out of bounds: the block has {room} bytes of shared memory",
                action.name()
            );
            return Err(Fault::new(FaultKind::IllegalAddress, "out-of-bounds", message).in_lane(lane));
        }
        if offset % ROW != 0 {
            return Err(bad_alignment(action, address, ROW).in_lane(lane));
        }
        addresses[lane] = offset;
        offsets.0[lane] = offset as u32;
    }
    if let Some(monitor) = warp.monitor() {
        let access = Access {
            space: AccessSpace::Shared,
            kind,
            bytes: ROW as u32,
            mask: lanes,
            addresses: &addresses,
            ordering: Ordering::default(),
            instruction: op.instruction,
        };
        monitor.access(warp, &access);
    }
    Ok((offsets, warp.block().shared().as_mut_ptr()))
}

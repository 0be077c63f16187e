//! Where the lanes of an access lie in host memory, with bounds and alignment checked for all of them at once.

use super::{
    AccessOp,
    slow::{observe, resolve_slowly},
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Flow, Op, Slot},
        warp::Warp,
    },
    memory::{Action, LOCAL_WINDOW, SHARED_WINDOW},
    monitor::AccessSpace,
};
use std::mem::MaybeUninit;

/// How the lanes of an access lie in host memory. Every pointer has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// Lane k accesses the k-th element from here; all lanes are active, or (for reads) may be read all the same.
    Row(*mut u8),
    /// All active lanes access this.
    Same(*mut u8),
    /// Lane k accesses the k-th pointer. The pointers of inactive lanes may be read, never written.
    Scattered,
    /// The warp's fault is set.
    Fault,
}

/// A pointer for each lane.
pub(crate) type Pointers = MaybeUninit<Aligned>;

/// 32 addresses, aligned for vectors.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Aligned(pub(crate) [u64; 32]);

/// A stretch of a space that lies in host memory in one piece.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// First address, in the space.
    pub(crate) low: u64,
    /// An access of the size asked for may start up to this far behind `low`.
    pub(crate) span: u64,
    /// What is added to an address to make a pointer.
    pub(crate) base: u64,
    /// What is taken off an address for the monitor.
    pub(crate) origin: u64,
    pub(crate) space: AccessSpace,
}

/// A space that the fast paths know, with the width of its addresses.
pub(crate) trait FastSpace {
    /// `u32` or `u64`: the address registers.
    type Address: Lane;

    /// An address with its offset, widened.
    fn address(stored: <Self::Address as Lane>::Stored, offset: u64) -> u64;

    /// The window that the address is in, if there is room in it for `bytes`.
    fn window(warp: &mut Warp, address: u64, bytes: u64, action: Action) -> Option<Window>;
}

/// `.global` and `.const`.
pub(crate) struct Global;
/// `.shared` with addresses of 32 bits.
pub(crate) struct Shared32;
/// `.shared` with addresses of 64 bits.
pub(crate) struct Shared64;
/// No space: the address tells.
pub(crate) struct Generic;

#[inline(always)]
fn global_window(warp: &mut Warp, address: u64, bytes: u64, action: Action) -> Option<Window> {
    let range = match warp.cache.lookup(address) {
        Some(range) => range,
        None => {
            let device = warp.running().launch.device;
            warp.cache.fill(address, device)?
        }
    };
    let high = if action == Action::Read { range.high } else { range.writable };
    let span = (high - range.low).checked_sub(bytes)?;
    Some(Window { low: range.low, span, base: 0, origin: 0, space: AccessSpace::Global })
}

#[inline(always)]
fn shared_window(warp: &mut Warp, bytes: u64, origin: u64) -> Option<Window> {
    let shared = warp.block().shared();
    let span = (shared.len() as u64).checked_sub(bytes)?;
    let base = (shared.as_mut_ptr() as u64).wrapping_sub(origin);
    Some(Window { low: origin, span, base, origin, space: AccessSpace::Shared })
}

impl FastSpace for Global {
    type Address = u64;

    #[inline(always)]
    fn address(stored: u64, offset: u64) -> u64 {
        stored.wrapping_add(offset)
    }

    #[inline(always)]
    fn window(warp: &mut Warp, address: u64, bytes: u64, action: Action) -> Option<Window> {
        global_window(warp, address, bytes, action)
    }
}

impl FastSpace for Shared32 {
    type Address = u32;

    #[inline(always)]
    fn address(stored: u32, offset: u64) -> u64 {
        u64::from(stored.wrapping_add(offset as u32))
    }

    #[inline(always)]
    fn window(warp: &mut Warp, _: u64, bytes: u64, _: Action) -> Option<Window> {
        shared_window(warp, bytes, 0)
    }
}

impl FastSpace for Shared64 {
    type Address = u64;

    #[inline(always)]
    fn address(stored: u64, offset: u64) -> u64 {
        stored.wrapping_add(offset)
    }

    #[inline(always)]
    fn window(warp: &mut Warp, _: u64, bytes: u64, _: Action) -> Option<Window> {
        shared_window(warp, bytes, 0)
    }
}

impl FastSpace for Generic {
    type Address = u64;

    #[inline(always)]
    fn address(stored: u64, offset: u64) -> u64 {
        stored.wrapping_add(offset)
    }

    #[inline(always)]
    fn window(warp: &mut Warp, address: u64, bytes: u64, action: Action) -> Option<Window> {
        if address < SHARED_WINDOW {
            global_window(warp, address, bytes, action)
        } else if address < LOCAL_WINDOW {
            shared_window(warp, bytes, SHARED_WINDOW)
        } else {
            None
        }
    }
}

/// What addresses are compared by: subtraction and multiplication within their width.
pub(crate) trait Word: Copy {
    fn minus(self, other: Self) -> Self;
    fn of(value: u64) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// The value in lanes of the mask, 0 in others.
    fn only(self, mask: u32, lane: usize) -> Self;
    fn is_zero(self) -> bool;
}

macro_rules! words {
    ($($ty:ty)*) => {$(
        impl Word for $ty {
            #[inline(always)]
            fn minus(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn of(value: u64) -> Self { value as $ty }
            #[inline(always)]
            fn or(self, other: Self) -> Self { self | other }
            #[inline(always)]
            fn xor(self, other: Self) -> Self { self ^ other }
            #[inline(always)]
            fn only(self, mask: u32, lane: usize) -> Self { if mask >> lane & 1 != 0 { self } else { 0 } }
            #[inline(always)]
            fn is_zero(self) -> bool { self == 0 }
        }
    )*};
}

words!(u32 u64);

/// Resolves the addresses in register `slot` plus `offset` for accesses of `bytes` bytes (a power of two).
///
/// # Safety
/// `slot` must hold the space's addresses in the current frame.
#[inline(always)]
pub(crate) unsafe fn resolve<S: FastSpace>(
    warp: &mut Warp,
    op: &Op,
    slot: Slot,
    access: AccessOp,
    bytes: u64,
    pointers: &mut Pointers,
) -> Layout
where
    <S::Address as Lane>::Stored: Word,
{
    let offset = op.imm;
    // SAFETY: the caller's contract.
    let lanes = unsafe { warp.lanes::<S::Address>(slot) };
    let mask = warp.mask;
    let leader = warp.leader();
    let first = S::address(lanes[leader], offset);
    let Some(window) = S::window(warp, first, bytes, access.action()) else {
        return resolve_slowly(warp, op, slot, access, bytes, pointers);
    };
    if first.wrapping_sub(window.low) > window.span || first & (bytes - 1) != 0 {
        return resolve_slowly(warp, op, slot, access, bytes, pointers);
    }
    // One pass tells whether the lanes lie in a row, or all at the same place.
    let zero = <S::Address as Lane>::Stored::of(0);
    let (mut same, mut row) = (zero, zero);
    let origin = lanes[leader].minus(Word::of(leader as u64 * bytes));
    if mask == u32::MAX {
        for lane in 0..32 {
            let distance = lanes[lane].minus(origin);
            same = same.or(distance);
            row = row.or(distance.xor(Word::of(lane as u64 * bytes)));
        }
    } else {
        for lane in 0..32 {
            let distance = lanes[lane].minus(origin);
            same = same.or(lanes[lane].xor(lanes[leader]).only(mask, lane));
            row = row.or(distance.xor(Word::of(lane as u64 * bytes)).only(mask, lane));
        }
    }
    if row.is_zero() {
        let start = first.wrapping_sub(leader as u64 * bytes);
        let all_in = start.wrapping_sub(window.low) <= window.span
            && start.wrapping_add(31 * bytes).wrapping_sub(window.low) <= window.span;
        if all_in && (mask == u32::MAX || access.action() == Action::Read) {
            if warp.monitor.is_some() {
                observe(warp, op, slot, access, bytes, &window);
            }
            return Layout::Row(window.base.wrapping_add(start) as *mut u8);
        }
    } else if same.is_zero() {
        if warp.monitor.is_some() {
            observe(warp, op, slot, access, bytes, &window);
        }
        return Layout::Same(window.base.wrapping_add(first) as *mut u8);
    }
    // The sign bit of `bad` says that some lane is out of the window: as both are below 2^63, either the distance from
    // its start or what is left to its end is negative.
    let target = &mut pointers.write(Aligned([0; 32])).0;
    let (mut bad, mut low_bits) = (0u64, 0u64);
    for lane in 0..32 {
        let address = S::address(lanes[lane], offset);
        let address = if mask >> lane & 1 != 0 { address } else { first };
        let distance = address.wrapping_sub(window.low);
        bad |= distance | window.span.wrapping_sub(distance);
        low_bits |= address;
        target[lane] = window.base.wrapping_add(address);
    }
    if bad >> 63 != 0 || low_bits & (bytes - 1) != 0 {
        return resolve_slowly(warp, op, slot, access, bytes, pointers);
    }
    if warp.monitor.is_some() {
        observe(warp, op, slot, access, bytes, &window);
    }
    Layout::Scattered
}

/// A pointer for each lane, whatever their layout; those of inactive lanes are not to be used. `Err`: the fault is set.
///
/// # Safety
/// As [`resolve`].
#[inline(always)]
pub(crate) unsafe fn spread<S: FastSpace>(
    warp: &mut Warp,
    op: &Op,
    slot: Slot,
    access: AccessOp,
    bytes: u64,
) -> Result<[u64; 32], Flow>
where
    <S::Address as Lane>::Stored: Word,
{
    let mut pointers = Pointers::uninit();
    // SAFETY: the caller's contract.
    Ok(match unsafe { resolve::<S>(warp, op, slot, access, bytes, &mut pointers) } {
        Layout::Fault => return Err(Flow::Fault),
        Layout::Row(start) => std::array::from_fn(|lane| start as u64 + lane as u64 * bytes),
        Layout::Same(at) => [at as u64; 32],
        // SAFETY: pointers are written with this layout.
        Layout::Scattered => unsafe { pointers.assume_init() }.0,
    })
}

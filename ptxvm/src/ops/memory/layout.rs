//! Where the lanes of an access lie in host memory, with bounds and alignment checked for all of them at once.

use super::{
    AccessOp, OpSpace,
    slow::{observe, resolve_slowly},
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Op, Slot},
        warp::Warp,
    },
    memory::{Action, LOCAL_WINDOW, SHARED_WINDOW},
    monitor::AccessSpace,
};
use std::mem::MaybeUninit;

/// How the lanes of an access lie in host memory. Every pointer has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// Lane k accesses the k-th element from here. Reads may touch all lanes' elements, active or not; writes and atomics
    /// only those of active lanes.
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
    fn plus(self, other: Self) -> Self;
    fn of(value: u64) -> Self;
    fn or(self, other: Self) -> Self;
    fn xor(self, other: Self) -> Self;
    /// The value in lanes of the mask, 0 in others.
    fn only(self, mask: u32, lane: usize) -> Self;
    fn is_zero(self) -> bool;

    /// Writes the pointer of each lane, that of `first` where it is inactive; false: some lane is misaligned or not in
    /// the window.
    fn point<S: FastSpace>(
        lanes: &[Self; 32],
        mask: u32,
        first: u64,
        offset: u64,
        window: &Window,
        bytes: u64,
        target: &mut [u64; 32],
    ) -> bool
    where
        S::Address: Lane<Stored = Self>;
}

macro_rules! words {
    ($($ty:ty: $point:item)*) => {$(
        impl Word for $ty {
            #[inline(always)]
            fn minus(self, other: Self) -> Self { self.wrapping_sub(other) }
            #[inline(always)]
            fn plus(self, other: Self) -> Self { self.wrapping_add(other) }
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

            #[inline(always)]
            $point
        }
    )*};
}

words! {
    u32: fn point<S: FastSpace>(
        lanes: &[Self; 32],
        mask: u32,
        first: u64,
        offset: u64,
        window: &Window,
        bytes: u64,
        target: &mut [u64; 32],
    ) -> bool
    where
        S::Address: Lane<Stored = Self>,
    {
        // Addresses of 32 bits are offsets into shared memory, whose window starts at 0.
        let (mut largest, mut low_bits) = (0u32, 0u32);
        let mut take = |lane: usize, address: u32| {
            largest = largest.max(address);
            low_bits |= address;
            target[lane] = window.base.wrapping_add(u64::from(address));
        };
        if mask == u32::MAX {
            for lane in 0..32 {
                take(lane, lanes[lane].wrapping_add(offset as u32));
            }
        } else {
            for lane in 0..32 {
                let address = lanes[lane].wrapping_add(offset as u32);
                take(lane, if mask >> lane & 1 != 0 { address } else { first as u32 });
            }
        }
        u64::from(largest) <= window.span && u64::from(low_bits) & (bytes - 1) == 0
    }

    u64: fn point<S: FastSpace>(
        lanes: &[Self; 32],
        mask: u32,
        first: u64,
        offset: u64,
        window: &Window,
        bytes: u64,
        target: &mut [u64; 32],
    ) -> bool
    where
        S::Address: Lane<Stored = Self>,
    {
        // The sign bit of `bad` says that some lane is out of the window: as both are below 2^63, either the distance
        // from its start or what is left to its end is negative.
        let (mut bad, mut low_bits) = (0u64, 0u64);
        let mut take = |lane: usize, address: u64| {
            let distance = address.wrapping_sub(window.low);
            bad |= distance | window.span.wrapping_sub(distance);
            low_bits |= address;
            target[lane] = window.base.wrapping_add(address);
        };
        if mask == u32::MAX {
            for lane in 0..32 {
                take(lane, S::address(lanes[lane], offset));
            }
        } else {
            for lane in 0..32 {
                take(lane, if mask >> lane & 1 != 0 { S::address(lanes[lane], offset) } else { first });
            }
        }
        bad >> 63 == 0 && low_bits & (bytes - 1) == 0
    }
}

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
    let shape = shape_of(lanes, mask, leader, bytes);
    if shape == Shape::Row {
        let at = |lane: usize| first.wrapping_add((lane as u64).wrapping_sub(leader as u64).wrapping_mul(bytes));
        // Inactive lanes are read all the same, but are neither written nor have to be in bounds then.
        let (low, high) = match access.action() {
            Action::Read => (at(0), at(31)),
            Action::Write | Action::Atomic => (first, at((31 - mask.leading_zeros()) as usize & 31)),
        };
        if low.wrapping_sub(window.low) <= window.span && high.wrapping_sub(window.low) <= window.span {
            if warp.monitor.is_some() {
                observe(warp, op, slot, access, bytes, &window);
            }
            return Layout::Row(window.base.wrapping_add(at(0)) as *mut u8);
        }
    } else if shape == Shape::Same {
        if warp.monitor.is_some() {
            observe(warp, op, slot, access, bytes, &window);
        }
        return Layout::Same(window.base.wrapping_add(first) as *mut u8);
    }
    let target = &mut pointers.write(Aligned([0; 32])).0;
    if !Word::point::<S>(lanes, mask, first, offset, &window, bytes, target) {
        return resolve_slowly(warp, op, slot, access, bytes, pointers);
    }
    if warp.monitor.is_some() {
        observe(warp, op, slot, access, bytes, &window);
    }
    Layout::Scattered
}

/// How the addresses of active lanes lie to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Row,
    Same,
    Other,
}

/// The second active lane tells which shape it can be; then all lanes are compared with that at once.
#[inline(always)]
fn shape_of<W: Word>(lanes: &[W; 32], mask: u32, leader: usize, bytes: u64) -> Shape {
    let first = lanes[leader];
    let others = mask & mask.wrapping_sub(1);
    let other = if others == 0 { leader } else { others.trailing_zeros() as usize & 31 };
    let mut differs = W::of(0);
    let step = lanes[other].minus(first);
    let in_row = step.minus(W::of((other as u64).wrapping_sub(leader as u64).wrapping_mul(bytes)));
    if in_row.is_zero() {
        let origin = first.minus(W::of(leader as u64 * bytes));
        if mask == u32::MAX {
            for lane in 0..32 {
                differs = differs.or(lanes[lane].xor(origin.plus(W::of(lane as u64 * bytes))));
            }
        } else {
            for lane in 0..32 {
                let expected = origin.plus(W::of(lane as u64 * bytes));
                differs = differs.or(lanes[lane].xor(expected).only(mask, lane));
            }
        }
        return if differs.is_zero() { Shape::Row } else { Shape::Other };
    }
    if !step.is_zero() {
        return Shape::Other;
    }
    if mask == u32::MAX {
        for lane in 0..32 {
            differs = differs.or(lanes[lane].xor(first));
        }
    } else {
        for lane in 0..32 {
            differs = differs.or(lanes[lane].xor(first).only(mask, lane));
        }
    }
    if differs.is_zero() { Shape::Same } else { Shape::Other }
}

/// [`resolve`] in whatever space the operation names, for operations that are not worth a body for each.
#[inline(never)]
pub(crate) fn resolve_any(
    warp: &mut Warp,
    op: &Op,
    slot: Slot,
    access: AccessOp,
    bytes: u64,
    pointers: &mut Pointers,
) -> Layout {
    // SAFETY: the decoder noted in `access` what `slot` holds.
    unsafe {
        match (access.space(), access.narrow()) {
            (OpSpace::Global, _) => resolve::<Global>(warp, op, slot, access, bytes, pointers),
            (OpSpace::Shared, true) => resolve::<Shared32>(warp, op, slot, access, bytes, pointers),
            (OpSpace::Shared, false) => resolve::<Shared64>(warp, op, slot, access, bytes, pointers),
            (OpSpace::Generic, _) => resolve::<Generic>(warp, op, slot, access, bytes, pointers),
            (OpSpace::Local | OpSpace::Param, _) => resolve_slowly(warp, op, slot, access, bytes, pointers),
        }
    }
}

/// [`spread`] in whatever space the operation names. `None`: the fault is set.
pub(crate) fn pointers_of(warp: &mut Warp, op: &Op, slot: Slot, access: AccessOp, bytes: u64) -> Option<[u64; 32]> {
    let mut pointers = Pointers::uninit();
    let layout = resolve_any(warp, op, slot, access, bytes, &mut pointers);
    if let Layout::Fault = layout {
        return None;
    }
    // SAFETY: resolved, and no fault.
    Some(std::array::from_fn(|lane| unsafe { pointer(layout, &pointers, lane, bytes) }))
}

/// A lane's pointer in a layout for accesses of `bytes` bytes that is no fault.
///
/// # Safety
/// `pointers` must have been written if the layout is [`Layout::Scattered`].
#[inline(always)]
pub(crate) unsafe fn pointer(layout: Layout, pointers: &Pointers, lane: usize, bytes: u64) -> u64 {
    match layout {
        Layout::Row(start) => (start as u64).wrapping_add(lane as u64 * bytes),
        Layout::Same(at) => at as u64,
        // SAFETY: the caller's contract.
        Layout::Scattered => unsafe { pointers.assume_init_ref() }.0[lane],
        Layout::Fault => 0,
    }
}

/// A pointer for each lane, whatever their layout; those of inactive lanes are not to be used. False: the fault is set.
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
    out: &mut [u64; 32],
) -> bool
where
    <S::Address as Lane>::Stored: Word,
{
    let mut pointers = Pointers::uninit();
    // SAFETY: the caller's contract.
    match unsafe { resolve::<S>(warp, op, slot, access, bytes, &mut pointers) } {
        Layout::Fault => return false,
        Layout::Row(start) => {
            for lane in 0..32 {
                out[lane] = (start as u64).wrapping_add(lane as u64 * bytes);
            }
        }
        Layout::Same(at) => *out = [at as u64; 32],
        // SAFETY: pointers are written with this layout.
        Layout::Scattered => *out = unsafe { pointers.assume_init_ref() }.0,
    }
    true
}

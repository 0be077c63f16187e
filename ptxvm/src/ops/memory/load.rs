//! What loads run: a body per space and width for the common ones, one that asks for its width for the rest.

use super::{
    AccessOp, Element, OpSpace,
    layout::{FastSpace, Generic, Global, Layout, Pointers, Shared32, Shared64, Word, resolve},
    rows::{Moved, gather},
    slow::{resolve_frame, resolve_kernel_parameter, resolve_slowly},
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Body, Exec, Flow, Op, Slot, exec, free},
        warp::Warp,
    },
    monitor::Ordering,
};
use std::{
    marker::PhantomData,
    sync::atomic::{self, fence},
};

/// `N` values as wide as their register's words, or zero-extended to them, by weak loads.
struct Plain<S, E, const N: usize>(PhantomData<(S, E)>);

impl<S: FastSpace, E: Moved + Lane<Stored = <E as Moved>::Stored>, const N: usize> Body for Plain<S, E, N>
where
    <S::Address as Lane>::Stored: Word,
{
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let mut pointers = Pointers::uninit();
        let bytes = (size_of::<E>() * N) as u64;
        // SAFETY: the decoder put an address register of this space into `a` and registers for E's into `d` or the list.
        unsafe {
            let layout = resolve::<S>(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
            if let Layout::Fault = layout {
                return Flow::Fault;
            }
            write_values::<E, N>(warp, op, layout, &pointers);
        }
        Flow::Next
    }
}

#[inline(always)]
unsafe fn write_values<E: Moved + Lane<Stored = <E as Moved>::Stored>, const N: usize>(
    warp: &mut Warp,
    op: &Op,
    layout: Layout,
    pointers: &Pointers,
) {
    let mut values = [[<E as Moved>::Stored::default(); 32]; N];
    // SAFETY: the caller resolved the layout for N values and has slots for them.
    unsafe {
        gather::<E, N>(layout, pointers, &mut values);
        if N == 1 {
            warp.write::<E>(op.d, &values[0]);
        } else {
            let slots = warp.wide(op);
            for k in 0..N {
                warp.write::<E>(slots[k], &values[k]);
            }
        }
    }
}

/// Any load.
struct Any<S>(PhantomData<S>);

impl<S: FastSpace> Body for Any<S>
where
    <S::Address as Lane>::Stored: Word,
{
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let mut pointers = Pointers::uninit();
        let element = Element::unpack(op.x);
        let bytes = u64::from(element.bytes * element.count);
        // SAFETY: the decoder put an address register of this space into `a`.
        let layout = unsafe { resolve::<S>(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers) };
        finish(warp, op, layout, &mut pointers)
    }
}

/// Loads by a layout that has been resolved, whatever the widths.
fn finish(warp: &mut Warp, op: &Op, layout: Layout, pointers: &mut Pointers) -> Flow {
    let element = Element::unpack(op.x);
    let total = u64::from(element.bytes * element.count);
    let ordering = AccessOp(op.y).ordering();
    match layout {
        Layout::Fault => return Flow::Fault,
        Layout::Scattered => {}
        Layout::Row(start) => {
            let target = &mut pointers.write(super::layout::Aligned([0; 32])).0;
            for (lane, pointer) in target.iter_mut().enumerate() {
                *pointer = start as u64 + lane as u64 * total;
            }
        }
        Layout::Same(at) => {
            pointers.write(super::layout::Aligned([at as u64; 32]));
        }
    }
    // SAFETY: resolved, or written just now.
    let pointers = unsafe { pointers.assume_init_ref() }.0;
    for k in 0..element.count {
        let mut values = [0u128; 32];
        for (value, pointer) in values.iter_mut().zip(pointers) {
            // SAFETY: every lane's pointer is good for the whole access.
            *value = unsafe { read((pointer + u64::from(k * element.bytes)) as *const u8, element) };
        }
        // SAFETY: one slot per element, of the class that `stored` says.
        unsafe {
            let slot = if element.count == 1 { op.d } else { warp.wide(op)[k as usize] };
            write_register(warp, slot, element.stored, &values);
        }
    }
    if ordering.strong {
        warp.spinning += 1;
        if ordering.acquire {
            fence(atomic::Ordering::Acquire);
        }
    }
    Flow::Next
}

#[inline(always)]
unsafe fn read(pointer: *const u8, element: Element) -> u128 {
    // SAFETY: the caller's pointer is good for the element, and aligned to it. Volatile: the value is read once and whole.
    let bits = unsafe {
        match element.bytes {
            1 => u64::from(pointer.read_volatile()),
            2 => u64::from(pointer.cast::<u16>().read_volatile()),
            4 => u64::from(pointer.cast::<u32>().read_volatile()),
            8 => pointer.cast::<u64>().read_volatile(),
            _ => return pointer.cast::<u128>().read_volatile(),
        }
    };
    if element.sign_to == 0 {
        return bits.into();
    }
    let unused = 64 - element.bytes * 8;
    let extended = ((bits << unused) as i64 >> unused) as u64;
    (extended & u64::MAX >> (64 - element.sign_to)).into()
}

unsafe fn write_register(warp: &mut Warp, slot: Slot, stored: u32, values: &[u128; 32]) {
    // SAFETY: the caller's slot holds words of `stored` bytes.
    unsafe {
        match stored {
            4 => warp.write::<u32>(slot, &values.map(|value| value as u32)),
            8 => warp.write::<u64>(slot, &values.map(|value| value as u64)),
            _ => warp.write::<u128>(slot, values),
        }
    }
}

/// Of the frame's local memory.
pub(super) fn frame() -> Exec {
    free(|warp, op| {
        let mut pointers = Pointers::uninit();
        let element = Element::unpack(op.x);
        let bytes = u64::from(element.bytes * element.count);
        let layout = resolve_frame(warp, op, AccessOp(op.y), bytes, &mut pointers);
        finish(warp, op, layout, &mut pointers)
    })
}

/// Of the kernel's parameters.
pub(super) fn parameter(element: Element) -> Exec {
    match (element.bytes, element.stored, element.count) {
        (4, 4, 1) if element.sign_to == 0 => parameter_word::<u32>(),
        (8, 8, 1) => parameter_word::<u64>(),
        _ => free(|warp, op| {
            let mut pointers = Pointers::uninit();
            let element = Element::unpack(op.x);
            let bytes = u64::from(element.bytes * element.count);
            let layout = resolve_kernel_parameter(warp, op, AccessOp(op.y), bytes);
            finish(warp, op, layout, &mut pointers)
        }),
    }
}

fn parameter_word<E: Moved + Lane<Stored = <E as Moved>::Stored>>() -> Exec {
    free(|warp, op| {
        let layout = resolve_kernel_parameter(warp, op, AccessOp(op.y), size_of::<E>() as u64);
        if let Layout::Fault = layout {
            return Flow::Fault;
        }
        // SAFETY: the decoder put a register for an E into `d`; the layout is one place for all lanes.
        unsafe { write_values::<E, 1>(warp, op, layout, &Pointers::uninit()) };
        Flow::Next
    })
}

/// Through registers into local or parameter memory.
fn slowly() -> Exec {
    free(|warp, op| {
        let mut pointers = Pointers::uninit();
        let element = Element::unpack(op.x);
        let bytes = u64::from(element.bytes * element.count);
        let layout = resolve_slowly(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
        finish(warp, op, layout, &mut pointers)
    })
}

fn pick_in<S: FastSpace + 'static>(ordering: Ordering, element: Element) -> Exec
where
    <S::Address as Lane>::Stored: Word,
{
    if ordering.strong || element.sign_to != 0 {
        return exec::<Any<S>>();
    }
    match (element.bytes, element.stored, element.count) {
        (1, 4, 1) => exec::<Plain<S, u8, 1>>(),
        (2, 4, 1) => exec::<Plain<S, u16, 1>>(),
        (4, 4, 1) => exec::<Plain<S, u32, 1>>(),
        (4, 4, 2) => exec::<Plain<S, u32, 2>>(),
        (4, 4, 4) => exec::<Plain<S, u32, 4>>(),
        (8, 8, 1) => exec::<Plain<S, u64, 1>>(),
        (8, 8, 2) => exec::<Plain<S, u64, 2>>(),
        _ => exec::<Any<S>>(),
    }
}

pub(super) fn pick(space: OpSpace, narrow: bool, ordering: Ordering, element: Element) -> Exec {
    match (space, narrow) {
        (OpSpace::Global, _) => pick_in::<Global>(ordering, element),
        (OpSpace::Shared, true) => pick_in::<Shared32>(ordering, element),
        (OpSpace::Shared, false) => pick_in::<Shared64>(ordering, element),
        (OpSpace::Generic, _) => pick_in::<Generic>(ordering, element),
        (OpSpace::Local | OpSpace::Param, _) => slowly(),
    }
}

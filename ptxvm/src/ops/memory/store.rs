//! What stores run: a body per space and width for the common ones, one that asks for its width for the rest.

use super::{
    AccessOp, Element, OpSpace,
    layout::{FastSpace, Generic, Global, Layout, Pointers, Shared32, Shared64, Word, resolve},
    rows::{Moved, scatter},
    slow::{resolve_frame, resolve_slowly},
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Body, Exec, Flow, Op, exec, free},
        warp::Warp,
    },
    monitor::Ordering,
};
use std::{
    array,
    marker::PhantomData,
    sync::atomic::{self, fence},
};

/// `N` values as wide as their register's words, or cut down from them, by weak stores.
struct Plain<S, E, const N: usize>(PhantomData<(S, E)>);

impl<S: FastSpace, E: Moved + Lane<Stored = <E as Moved>::Stored>, const N: usize> Body for Plain<S, E, N>
where
    <S::Address as Lane>::Stored: Word,
{
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let mut pointers = Pointers::uninit();
        let bytes = (size_of::<E>() * N) as u64;
        // SAFETY: the decoder put an address register of this space into `a` and registers of E's into `b` or the list.
        unsafe {
            let layout = resolve::<S>(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
            if let Layout::Fault = layout {
                return Flow::Fault;
            }
            let values: [&[<E as Moved>::Stored; 32]; N] = if N == 1 {
                [warp.lanes::<E>(op.b); N]
            } else {
                let slots = warp.wide(op);
                array::from_fn(|k| warp.lanes::<E>(slots[k]))
            };
            scatter::<E, N>(layout, &pointers, warp.mask, values);
        }
        Flow::Next
    }
}

/// Any store.
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
        finish(warp, op, layout, &pointers)
    }
}

/// Stores by a layout that has been resolved, whatever the widths.
fn finish(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers) -> Flow {
    let element = Element::unpack(op.x);
    let total = u64::from(element.bytes * element.count);
    if AccessOp(op.y).ordering().release {
        fence(atomic::Ordering::Release);
    }
    let mut left = warp.mask;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        let pointer = match layout {
            Layout::Fault => return Flow::Fault,
            Layout::Row(start) => start as u64 + lane as u64 * total,
            Layout::Same(at) => at as u64,
            // SAFETY: pointers are written with this layout.
            Layout::Scattered => unsafe { pointers.assume_init_ref() }.0[lane],
        };
        for k in 0..element.count {
            // SAFETY: one slot per element, of the class that `stored` says; the pointer is good for the whole access and
            // aligned to its elements. Volatile: the value is written once and whole.
            unsafe {
                let slot = if element.count == 1 { op.b } else { warp.wide(op)[k as usize] };
                let at = (pointer + u64::from(k * element.bytes)) as *mut u8;
                let bits = match element.stored {
                    4 => warp.lanes::<u32>(slot)[lane].into(),
                    8 => warp.lanes::<u64>(slot)[lane],
                    _ if element.bytes > 8 => {
                        at.cast::<u128>().write_volatile(warp.lanes::<u128>(slot)[lane]);
                        continue;
                    }
                    _ => warp.lanes::<u128>(slot)[lane] as u64,
                };
                match element.bytes {
                    1 => at.write_volatile(bits as u8),
                    2 => at.cast::<u16>().write_volatile(bits as u16),
                    4 => at.cast::<u32>().write_volatile(bits as u32),
                    _ => at.cast::<u64>().write_volatile(bits),
                }
            }
        }
    }
    Flow::Next
}

/// To the frame's local memory.
pub(super) fn frame() -> Exec {
    free(|warp, op| {
        let mut pointers = Pointers::uninit();
        let element = Element::unpack(op.x);
        let bytes = u64::from(element.bytes * element.count);
        let layout = resolve_frame(warp, op, AccessOp(op.y), bytes, &mut pointers);
        finish(warp, op, layout, &pointers)
    })
}

/// Through registers into local or parameter memory.
fn slowly() -> Exec {
    free(|warp, op| {
        let mut pointers = Pointers::uninit();
        let element = Element::unpack(op.x);
        let bytes = u64::from(element.bytes * element.count);
        let layout = resolve_slowly(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
        finish(warp, op, layout, &pointers)
    })
}

fn pick_in<S: FastSpace + 'static>(ordering: Ordering, element: Element) -> Exec
where
    <S::Address as Lane>::Stored: Word,
{
    if ordering.strong {
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

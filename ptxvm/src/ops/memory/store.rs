//! Stores: from registers into memory.

use super::{
    AccessOp, Element,
    layout::{Layout, Pointers, pointer},
    rows::{Moved, scatter},
    run::{Direction, Value, common_values},
};
use crate::machine::{
    op::{Flow, Op},
    warp::Warp,
};
use std::{
    array,
    sync::atomic::{self, fence},
};

/// Stores.
pub(super) struct Store;

impl Direction for Store {
    #[inline(always)]
    unsafe fn values<E: Value, const N: usize>(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers) {
        // SAFETY: the caller resolved the layout for N values and has slots for them.
        unsafe {
            let values: [&[<E as Moved>::Stored; 32]; N] = if N == 1 {
                [warp.lanes::<E>(op.b); N]
            } else {
                let slots = warp.wide(op);
                array::from_fn(|k| warp.lanes::<E>(slots[k]))
            };
            scatter::<E, N>(layout, pointers, warp.mask, values);
        }
    }

    fn elements(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers) -> Flow {
        if let Layout::Fault = layout {
            return Flow::Fault;
        }
        let element = Element::unpack(op.x);
        if AccessOp(op.y).ordering().release {
            fence(atomic::Ordering::Release);
        }
        // SAFETY: resolved for this element, and no fault.
        let done = unsafe { common_values::<Self>(warp, op, element, layout, pointers) };
        if !done {
            one_by_one(warp, op, element, layout, pointers);
        }
        Flow::Next
    }
}

/// Any widths.
fn one_by_one(warp: &mut Warp, op: &Op, element: Element, layout: Layout, pointers: &Pointers) {
    let mut left = warp.mask;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        for k in 0..element.count {
            // SAFETY: one slot per element, of the class that `stored` says; the pointer is good for the whole access and
            // aligned to its elements. Volatile: the value is written once and whole.
            unsafe {
                let slot = if element.count == 1 { op.b } else { warp.wide(op)[k as usize] };
                let start = pointer(layout, pointers, lane, element.total());
                let at = (start + u64::from(k * element.bytes)) as *mut u8;
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
}

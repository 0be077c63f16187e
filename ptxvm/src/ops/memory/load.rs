//! Loads: from memory into registers.

use super::{
    AccessOp, Element,
    layout::{Layout, Pointers, pointer},
    rows::{Moved, gather},
    run::{Direction, Value, common_values},
    slow::resolve_kernel_parameter,
};
use crate::machine::{
    op::{Exec, Flow, Op, Slot, free},
    warp::Warp,
};
use std::{
    array,
    mem::MaybeUninit,
    sync::atomic::{self, fence},
};

/// Loads.
pub(super) struct Load;

impl Direction for Load {
    #[inline(always)]
    unsafe fn values<E: Value, const N: usize>(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers) {
        // SAFETY: the caller resolved the layout for N values and has slots for them.
        unsafe {
            let slots: [Slot; N] = if N == 1 {
                [op.d; N]
            } else {
                let slots = warp.wide(op);
                array::from_fn(|k| slots[k])
            };
            if warp.mask == u32::MAX {
                gather::<E, N>(layout, pointers, slots.map(|slot| warp.registers.add(slot as usize).cast()));
                return;
            }
            let mut values = MaybeUninit::<Buffer<[[<E as Moved>::Stored; 32]; N]>>::uninit();
            let start = values.as_mut_ptr().cast::<<E as Moved>::Stored>();
            gather::<E, N>(layout, pointers, array::from_fn(|k| start.add(32 * k)));
            let values = values.assume_init_ref();
            for (slot, values) in slots.iter().zip(&values.0) {
                warp.write::<E>(*slot, values);
            }
        }
    }

    fn elements(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers) -> Flow {
        if let Layout::Fault = layout {
            return Flow::Fault;
        }
        let element = Element::unpack(op.x);
        // SAFETY: resolved for this element, and no fault.
        let done = unsafe {
            match (element.sign_to, element.bytes, element.count) {
                (0, ..) => common_values::<Self>(warp, op, element, layout, pointers),
                (32, 1, 1) => signed::<u8>(warp, op, layout, pointers, |bits| bits as i8 as u32),
                (32, 2, 1) => signed::<u16>(warp, op, layout, pointers, |bits| bits as i16 as u32),
                _ => false,
            }
        };
        if !done {
            one_by_one(warp, op, element, layout, pointers);
        }
        let ordering = AccessOp(op.y).ordering();
        if ordering.strong {
            warp.spinning += 1;
            if ordering.acquire {
                fence(atomic::Ordering::Acquire);
            }
            if let Some(monitor) = warp.monitor() {
                monitor.performed();
            }
        }
        Flow::Next
    }
}

/// What is gathered for some lanes only.
#[repr(C, align(64))]
struct Buffer<T>(T);

/// Loads of narrow values whose sign is extended to 32 bits.
///
/// # Safety
/// As [`Direction::values`].
unsafe fn signed<E: Moved<Stored = u32>>(
    warp: &mut Warp,
    op: &Op,
    layout: Layout,
    pointers: &Pointers,
    extend: impl Fn(u32) -> u32,
) -> bool {
    let mut values = [0u32; 32];
    // SAFETY: the caller's contract; `d` is a 32-bit slot.
    unsafe {
        gather::<E, 1>(layout, pointers, [values.as_mut_ptr()]);
        warp.write::<u32>(op.d, &values.map(extend));
    }
    true
}

/// Any widths.
fn one_by_one(warp: &mut Warp, op: &Op, element: Element, layout: Layout, pointers: &Pointers) {
    for k in 0..element.count {
        let mut values = [0u128; 32];
        for (lane, value) in values.iter_mut().enumerate() {
            // SAFETY: every lane's pointer is good for the whole access.
            *value = unsafe {
                let start = pointer(layout, pointers, lane, element.total());
                read((start + u64::from(k * element.bytes)) as *const u8, element)
            };
        }
        // SAFETY: one slot per element, of the class that `stored` says.
        unsafe {
            let slot = if element.count == 1 { op.d } else { warp.wide(op)[k as usize] };
            write_register(warp, slot, element.stored, &values);
        }
    }
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

/// Of the kernel's parameters.
pub(super) fn parameter(element: Element) -> Exec {
    match (element.bytes, element.stored, element.count) {
        (4, 4, 1) if element.sign_to == 0 => parameter_word::<u32>(),
        (8, 8, 1) => parameter_word::<u64>(),
        _ => free(|warp, op| {
            let layout = resolve_kernel_parameter(warp, op, AccessOp(op.y), Element::unpack(op.x).total());
            Load::elements(warp, op, layout, &Pointers::uninit())
        }),
    }
}

fn parameter_word<E: Value>() -> Exec {
    free(|warp, op| {
        let layout = resolve_kernel_parameter(warp, op, AccessOp(op.y), size_of::<E>() as u64);
        if let Layout::Fault = layout {
            return Flow::Fault;
        }
        // SAFETY: the decoder put a register for an E into `d`; the layout is one place for all lanes.
        unsafe { Load::values::<E, 1>(warp, op, layout, &Pointers::uninit()) };
        Flow::Next
    })
}

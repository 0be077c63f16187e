//! Registers get places: values that are never needed at the same time share one.
//!
//! Liveness over basic blocks, then a linear scan over the intervals. Every lane-masked write counts as one thread's
//! write: lanes that went other ways have their own lanes of the slot. That is exact because a slot is only shared within
//! a [`Class`], where the same lane is the same bytes.

use super::{
    Constant,
    draft::{Class, Control, Draft, Value},
    flow::Flow,
};
use crate::machine::op::{NO_SLOT, Slot};

/// Where everything lies.
pub(super) struct Allocation {
    /// Offset of each value.
    pub(super) offsets: Vec<u32>,
    /// Bytes of the whole register file.
    pub(super) bytes: u32,
    pub(super) constants: Vec<(Class, Slot, Constant)>,
    /// 32-bit registers a thread holds at most.
    pub(super) registers: u32,
}

type Bits = Vec<u64>;

fn set(bits: &mut Bits, at: usize) {
    bits[at / 64] |= 1 << (at % 64);
}

fn clear(bits: &mut Bits, at: usize) {
    bits[at / 64] &= !(1 << (at % 64));
}

/// The first and last draft at which each value is needed. `fixed` values (parameters in registers) live throughout.
fn intervals(drafts: &[Draft], flow: &Flow, values: &[Value], fixed: &[Slot]) -> Vec<Option<(usize, usize)>> {
    let words = values.len().div_ceil(64);
    let count = flow.blocks.len();
    let mut used = vec![vec![0u64; words]; count];
    let mut defined = vec![vec![0u64; words]; count];
    for (number, block) in flow.blocks.iter().enumerate() {
        for draft in drafts[block.start..block.end].iter().rev() {
            for &slot in &draft.writes {
                if draft.partial {
                    set(&mut used[number], slot as usize);
                } else {
                    clear(&mut used[number], slot as usize);
                    set(&mut defined[number], slot as usize);
                }
            }
            for &slot in &draft.reads {
                set(&mut used[number], slot as usize);
            }
        }
    }
    let mut live_in = used.clone();
    let mut live_out = vec![vec![0u64; words]; count];
    let mut changed = true;
    while changed {
        changed = false;
        for number in (0..count).rev() {
            for &target in &flow.blocks[number].next {
                for word in 0..words {
                    let more = live_in[target][word] & !live_out[number][word];
                    if more != 0 {
                        live_out[number][word] |= more;
                        live_in[number][word] |= more & !defined[number][word];
                        changed = true;
                    }
                }
            }
        }
    }
    let mut found: Vec<Option<(usize, usize)>> = vec![None; values.len()];
    let extend = |slot: usize, at: usize, found: &mut Vec<Option<(usize, usize)>>| {
        let interval = found[slot].get_or_insert((at, at));
        *interval = (interval.0.min(at), interval.1.max(at));
    };
    let members = |bits: &Bits| -> Vec<usize> {
        let mut list = Vec::new();
        for (word, &bits) in bits.iter().enumerate() {
            let mut rest = bits;
            while rest != 0 {
                list.push(word * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
        list
    };
    for (number, block) in flow.blocks.iter().enumerate() {
        for slot in members(&live_in[number]) {
            extend(slot, block.start, &mut found);
        }
        for slot in members(&live_out[number]) {
            extend(slot, block.end - 1, &mut found);
        }
        for at in block.start..block.end {
            for &slot in drafts[at].reads.iter().chain(&drafts[at].writes) {
                extend(slot as usize, at, &mut found);
            }
        }
    }
    for &slot in fixed {
        found[slot as usize] = Some((0, drafts.len()));
    }
    found
}

pub(super) fn allocate(drafts: &[Draft], flow: &Flow, values: &[Value], fixed: &[Slot]) -> Allocation {
    let intervals = intervals(drafts, flow, values, fixed);
    let mut order: Vec<usize> = (0..values.len()).filter(|&v| intervals[v].is_some()).collect();
    order.sort_by_key(|&v| intervals[v]);

    let mut places = vec![0u32; values.len()];
    let mut bytes = 0u32;
    let mut registers = 0;
    let mut constants = Vec::new();
    for class in Class::ALL {
        // Ends of the values in use, soonest first, with their place in the class.
        let mut active: std::collections::BinaryHeap<std::cmp::Reverse<(usize, u32)>> = Default::default();
        let mut free: Vec<u32> = Vec::new();
        let mut count = 0u32;
        for &value in order.iter().filter(|&&v| values[v].class == class && values[v].constant.is_none()) {
            let (start, end) = intervals[value].unwrap_or_default();
            while let Some(&std::cmp::Reverse((until, place))) = active.peek() {
                // A place is free from the operation behind the last reader on: some operations write a destination
                // before they have read all sources.
                if until >= start {
                    break;
                }
                active.pop();
                free.push(place);
            }
            let place = free.pop().unwrap_or_else(|| {
                count += 1;
                count - 1
            });
            active.push(std::cmp::Reverse((end, place)));
            places[value] = bytes + place * class.bytes();
        }
        registers += match class {
            Class::Predicate => 0,
            other => count * other.bytes() / 128,
        };
        bytes += count * class.bytes();
        for (value, info) in values.iter().enumerate().filter(|(_, info)| info.class == class) {
            if let Some(constant) = info.constant
                && intervals[value].is_some()
            {
                constants.push((class, bytes, constant));
                places[value] = bytes;
                bytes += class.bytes();
            }
        }
    }
    Allocation { offsets: places, bytes: bytes.next_multiple_of(64), constants, registers }
}

/// Puts offsets in the place of value numbers.
pub(super) fn patch(draft: &mut Draft, offsets: &[u32]) {
    let op = &mut draft.op;
    for slot in [&mut op.d, &mut op.a, &mut op.b, &mut op.c].into_iter().chain(&mut draft.wide) {
        if *slot != NO_SLOT {
            *slot = offsets[*slot as usize];
        }
    }
}

/// Marks the writes of guarded operations, which leave lanes as they were.
pub(super) fn mark_partial(drafts: &mut [Draft], from: usize) {
    for draft in &mut drafts[from..] {
        draft.partial = !matches!(draft.control, Control::Label(_));
    }
}

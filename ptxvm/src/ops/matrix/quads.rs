//! `mma.m8n8k4` of f16: four products of 8 × 8 × 4, each by eight lanes.
//!
//! Lanes `4q … 4q + 3` and `4q + 16 … 4q + 19` make product q. A shape of old hardware: correct here, not fast.

use super::{
    decode::{Layout, read_fragment, write_fragment},
    together,
};
use crate::{
    machine::{
        op::{Exec, Flow, Op, free},
        warp::Warp,
    },
    program::{CompileError, builder::Builder},
    ptx::ast::{Instruction, Type},
};
use half::f16;

/// Flags in `Op::x`.
mod flag {
    pub(super) const A_COLUMNS: u32 = 1;
    pub(super) const B_COLUMNS: u32 = 2;
    pub(super) const C_HALF: u32 = 4;
    pub(super) const D_HALF: u32 = 8;
}

/// A row and a column of the product of a lane, for element `index` of its accumulators.
fn accumulator(lane: usize, index: usize, half: bool) -> (usize, usize) {
    let high = lane / 16 * 4;
    if half {
        (lane % 4 + high, index)
    } else {
        ((lane & 1) + (index & 2) + high, (index & 4) + (lane & 2) + (index & 1))
    }
}

/// The four products, from the registers' values to the results'.
pub(super) fn compute(x: u32, a: [&[u32; 32]; 2], b: [&[u32; 32]; 2], c: &[&[u32; 32]], d: &mut [[u32; 32]]) {
    let half = |registers: &[&[u32; 32]], lane: usize, index: usize| {
        f16::from_bits((registers[index / 2][lane] >> (16 * (index % 2))) as u16).to_f32()
    };
    for quad in 0..4 {
        let lane_of = |row: usize| row / 4 * 16 + quad * 4 + row % 4;
        let left = |row: usize, k: usize| {
            if x & flag::A_COLUMNS == 0 {
                half(&a, lane_of(row), k)
            } else {
                half(&a, lane_of(row / 4 * 4 + k), row % 4)
            }
        };
        let right = |k: usize, column: usize| {
            if x & flag::B_COLUMNS != 0 {
                half(&b, lane_of(column), k)
            } else {
                half(&b, lane_of(column / 4 * 4 + k), column % 4)
            }
        };
        let mut sums = [[0f32; 8]; 8];
        let lanes = (0..8).map(lane_of);
        for (lane, index) in lanes.clone().flat_map(|lane| (0..8).map(move |index| (lane, index))) {
            let (row, column) = accumulator(lane, index, x & flag::C_HALF != 0);
            sums[row][column] =
                if x & flag::C_HALF != 0 { half(c, lane, index) } else { f32::from_bits(c[index][lane]) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            for (column, sum) in sums.iter_mut().enumerate() {
                *sum = (0..4).fold(*sum, |sum, k| left(row, k).mul_add(right(k, column), sum));
                if sum.is_nan() {
                    *sum = f32::from_bits(0x7fff_ffff);
                }
            }
        }
        for (lane, index) in lanes.flat_map(|lane| (0..8).map(move |index| (lane, index))) {
            let (row, column) = accumulator(lane, index, x & flag::D_HALF != 0);
            let sum = sums[row][column];
            if x & flag::D_HALF != 0 {
                let shift = 16 * (index % 2);
                let word = &mut d[index / 2][lane];
                *word = *word & !(0xffff << shift) | u32::from(f16::from_f32(sum).to_bits()) << shift;
            } else {
                d[index][lane] = sum.to_bits();
            }
        }
    }
}

fn count(half: bool) -> usize {
    if half { 4 } else { 8 }
}

fn products() -> Exec {
    free(|warp: &mut Warp, op: &Op| {
        if let Some(flow) = together(warp) {
            return flow;
        }
        let (of_c, of_d) = (count(op.x & flag::C_HALF != 0), count(op.x & flag::D_HALF != 0));
        // SAFETY: `wide` has 32-bit slots of this frame: d, two of a, two of b, c.
        unsafe {
            let slots = warp.wide(op);
            let registers = |from: usize| [warp.lanes::<u32>(slots[from]), warp.lanes::<u32>(slots[from + 1])];
            let c: [&[u32; 32]; 8] = std::array::from_fn(|k| warp.lanes::<u32>(slots[of_d + 4 + k.min(of_c - 1)]));
            let mut d = [[0u32; 32]; 8];
            compute(op.x, registers(of_d), registers(of_d + 2), &c, &mut d);
            for (slot, values) in slots[..of_d].iter().zip(&d) {
                warp.write::<u32>(*slot, values);
            }
        }
        Flow::Next
    })
}

/// The packed form of layouts and types; `None`: there is no such product.
pub(super) fn flags(types: [Type; 4], a: Layout, b: Layout) -> Option<u32> {
    let [d, Type::F16, Type::F16, c] = types else { return None };
    // The result is at least as wide as what is added.
    let wide = match (d, c) {
        (Type::F16, Type::F16) => flag::C_HALF | flag::D_HALF,
        (Type::F32, Type::F16) => flag::C_HALF,
        (Type::F32, Type::F32) => 0,
        _ => return None,
    };
    let columns = |layout: Layout, flag: u32| if layout == Layout::Column { flag } else { 0 };
    Some(wide | columns(a, flag::A_COLUMNS) | columns(b, flag::B_COLUMNS))
}

/// `mma.m8n8k4` of f16.
pub(super) fn decode(
    i: &Instruction,
    b: &mut Builder<'_>,
    types: [Type; 4],
    a_layout: Layout,
    b_layout: Layout,
) -> Result<(), CompileError> {
    let mut op = Op::new(products());
    op.x = flags(types, a_layout, b_layout).ok_or_else(|| b.unknown(i))?;
    let [d, first, second, third] = b.operands::<4>(i)?;
    let sources = [
        read_fragment(i, b, first, Type::F16, 2)?,
        read_fragment(i, b, second, Type::F16, 2)?,
        read_fragment(i, b, third, types[3], count(types[3] == Type::F16))?,
    ];
    let mut wide = write_fragment(i, b, d, types[0], count(types[0] == Type::F16))?;
    wide.extend(sources.concat());
    b.emit_suspending(op, wide);
    Ok(())
}

//! `mma.m8n8k4` of f16: four products of 8 × 8 × 4, each by eight lanes.
//!
//! Lanes `4q … 4q + 3` and `4q + 16 … 4q + 19` make product q. A shape of old hardware.

use super::{
    decode::{Layout, read_fragment, write_fragment},
    kernel::Register,
    together,
    vector::{Kernel, Vector, exec},
};
use crate::{
    machine::{
        op::{Flow, Op},
        warp::Warp,
    },
    program::{CompileError, builder::Builder},
    ptx::ast::{Instruction, Type},
};

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

/// Element after element of a fragment's lanes, as f32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Elements<const N: usize>([[f32; 32]; N]);

/// The elements of registers that hold two f16 in a lane.
///
/// # Safety
/// The machine has V's instruction set, there are `N / 2` registers, aligned to V.
#[inline(always)]
unsafe fn widen<V: Vector, const N: usize>(registers: &[&[u32; 32]]) -> Elements<N> {
    let mut elements = Elements([[0f32; 32]; N]);
    for pair in 0..N / 2 {
        for lane in (0..32).step_by(V::LANES) {
            // SAFETY: the caller's contract; vectors divide registers.
            unsafe {
                let parts = V::load(registers[pair].as_ptr().add(lane)).widen_words();
                for (k, part) in parts.into_iter().enumerate() {
                    part.store(elements.0[2 * pair + k].as_mut_ptr().add(lane).cast());
                }
            }
        }
    }
    elements
}

/// The four products, from the registers' values to the results'.
///
/// # Safety
/// The machine has V's instruction set, and all registers are aligned to V.
#[inline(always)]
pub(super) unsafe fn compute<V: Vector>(
    x: u32,
    a: [&[u32; 32]; 2],
    b: [&[u32; 32]; 2],
    c: &[&[u32; 32]],
    d: &mut [Register],
) {
    // SAFETY: the caller's contract.
    let (a, b) = unsafe { (widen::<V, 4>(&a).0, widen::<V, 4>(&b).0) };
    let c = if x & flag::C_HALF != 0 {
        // SAFETY: as above.
        unsafe { widen::<V, 8>(c) }
    } else {
        Elements(std::array::from_fn(|index| c[index].map(f32::from_bits)))
    };
    let mut results = Elements([[0f32; 32]; 8]);
    for quad in 0..4 {
        let lane_of = |row: usize| row / 4 * 16 + quad * 4 + row % 4;
        let (mut left, mut right) = ([[0f32; 4]; 8], [[0f32; 8]; 4]);
        for line in 0..8 {
            for k in 0..4 {
                // Either the lane has a line, or an element of four lines.
                let (whole, part) = ((k, lane_of(line)), (line % 4, lane_of(line / 4 * 4 + k)));
                let (element, lane) = if x & flag::A_COLUMNS == 0 { whole } else { part };
                left[line][k] = a[element][lane];
                let (element, lane) = if x & flag::B_COLUMNS != 0 { whole } else { part };
                right[k][line] = b[element][lane];
            }
        }
        let mut sums = [[0f32; 8]; 8];
        for (lane, index) in (0..8).flat_map(|row| (0..8).map(move |index| (lane_of(row), index))) {
            let (row, column) = accumulator(lane, index, x & flag::C_HALF != 0);
            sums[row][column] = c.0[index][lane];
        }
        for (sums, left) in sums.iter_mut().zip(&left) {
            for k in 0..4 {
                for column in 0..8 {
                    sums[column] = left[k].mul_add(right[k][column], sums[column]);
                }
            }
            for sum in sums {
                *sum = if sum.is_nan() { f32::from_bits(0x7fff_ffff) } else { *sum };
            }
        }
        for (lane, index) in (0..8).flat_map(|row| (0..8).map(move |index| (lane_of(row), index))) {
            let (row, column) = accumulator(lane, index, x & flag::D_HALF != 0);
            results.0[index][lane] = sums[row][column];
        }
    }
    let pairs = if x & flag::D_HALF != 0 { 4 } else { 0 };
    for pair in 0..pairs {
        for lane in (0..32).step_by(V::LANES) {
            // SAFETY: as above.
            unsafe {
                let low = V::load(results.0[2 * pair].as_ptr().add(lane).cast());
                let high = V::load(results.0[2 * pair + 1].as_ptr().add(lane).cast());
                V::narrow_words([low, high]).store(d[pair].0.as_mut_ptr().add(lane));
            }
        }
    }
    if pairs == 0 {
        for (register, values) in d.iter_mut().zip(&results.0) {
            register.0 = values.map(f32::to_bits);
        }
    }
}

fn count(half: bool) -> usize {
    if half { 4 } else { 8 }
}

/// The instruction. Further slots: d, two of a, two of b, c.
struct Products;

impl Kernel for Products {
    #[inline(always)]
    unsafe fn run<V: Vector>(warp: &mut Warp, op: &Op) -> Flow {
        if let Some(flow) = together(warp) {
            return flow;
        }
        let (of_c, of_d) = (count(op.x & flag::C_HALF != 0), count(op.x & flag::D_HALF != 0));
        // SAFETY: `wide` has 32-bit slots of this frame: d, two of a, two of b, c.
        unsafe {
            let slots = warp.wide(op);
            let registers = |from: usize| [warp.lanes::<u32>(slots[from]), warp.lanes::<u32>(slots[from + 1])];
            let c: [&[u32; 32]; 8] = std::array::from_fn(|k| warp.lanes::<u32>(slots[of_d + 4 + k.min(of_c - 1)]));
            let mut d = [Register([0; 32]); 8];
            compute::<V>(op.x, registers(of_d), registers(of_d + 2), &c, &mut d);
            for (slot, values) in slots[..of_d].iter().zip(&d) {
                warp.write::<u32>(*slot, &values.0);
            }
        }
        Flow::Next
    }
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
    let mut op = Op::new(exec::<Products>());
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

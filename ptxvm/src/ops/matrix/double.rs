//! Products of f64.

use super::{
    decode::{Shape, read_fragment, write_fragment},
    together,
};
use crate::{
    machine::{
        op::{Body, Flow, Op, exec},
        warp::Warp,
    },
    program::{CompileError, builder::Builder},
    ptx::ast::{Instruction, Type},
};

/// The NaN that sums of f64 give.
const NAN: u64 = 0x7fff_ffff_ffff_ffff;

/// `S` registers along k, of four elements in each row; `H` times eight rows. Further slots: d, a, b, c.
pub(super) struct Double<const S: usize, const H: usize>;

/// Eight rows of sums: even columns in the first register, odd ones in the second.
#[inline(always)]
pub(super) fn sum_up<const S: usize>(a: [&[u64; 32]; S], b: [&[u64; 32]; S], sums: &mut [[u64; 32]; 2]) {
    for s in 0..S {
        for t in 0..4 {
            for (parity, sums) in sums.iter_mut().enumerate() {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let (row, column) = (lane / 4, lane % 4 * 2 + parity);
                    let (x, y) = (f64::from_bits(a[s][row * 4 + t]), f64::from_bits(b[s][column * 4 + t]));
                    *sum = x.mul_add(y, f64::from_bits(*sum)).to_bits();
                }
            }
        }
    }
    for sum in sums.iter_mut().flatten() {
        *sum = if f64::from_bits(*sum).is_nan() { NAN } else { *sum };
    }
}

impl<const S: usize, const H: usize> Body for Double<S, H> {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        if let Some(flow) = together(warp) {
            return flow;
        }
        // SAFETY: `wide` has 64-bit slots of this frame: 2H of d, SH of a, S of b, 2H of c.
        unsafe {
            let slots = warp.wide(op);
            let (d, rest) = slots.split_at(2 * H);
            let (a, rest) = rest.split_at(S * H);
            let (b, c) = rest.split_at(S);
            let mut sums = [[[0u64; 32]; 2]; H];
            for (h, sums) in sums.iter_mut().enumerate() {
                *sums = [*warp.lanes::<u64>(c[2 * h]), *warp.lanes::<u64>(c[2 * h + 1])];
                let a = std::array::from_fn::<_, S, _>(|s| warp.lanes::<u64>(a[s * H + h]));
                let b = std::array::from_fn::<_, S, _>(|s| warp.lanes::<u64>(b[s]));
                sum_up(a, b, sums);
            }
            for (slot, values) in d.iter().zip(sums.iter().flatten()) {
                warp.write::<u64>(*slot, values);
            }
        }
        Flow::Next
    }
}

/// Products of f64 of a shape.
pub(super) fn decode(i: &Instruction, b: &mut Builder<'_>, shape: Shape) -> Result<(), CompileError> {
    let (s, h, exec) = match (shape.m, shape.n, shape.k) {
        (8, 8, 4) => (1, 1, exec::<Double<1, 1>>()),
        (16, 8, 4) => (1, 2, exec::<Double<1, 2>>()),
        (16, 8, 8) => (2, 2, exec::<Double<2, 2>>()),
        (16, 8, 16) => (4, 2, exec::<Double<4, 2>>()),
        _ => return Err(b.unknown(i)),
    };
    let [d, first, second, third] = b.operands::<4>(i)?;
    let factors = [
        read_fragment(i, b, first, Type::F64, s * h)?,
        read_fragment(i, b, second, Type::F64, s)?,
        read_fragment(i, b, third, Type::F64, 2 * h)?,
    ];
    let mut wide = write_fragment(i, b, d, Type::F64, 2 * h)?;
    wide.extend(factors.concat());
    b.emit_suspending(Op::new(exec), wide);
    Ok(())
}

//! Products of f64.

use super::{
    decode::{Shape, read_fragment, write_fragment},
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

/// The NaN that sums of f64 give.
const NAN: u64 = 0x7fff_ffff_ffff_ffff;

/// `S` registers along k, of four elements in each row; `H` times eight rows. Further slots: d, a, b, c.
pub(super) struct Double<const S: usize, const H: usize>;

/// A register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Doubles(pub(super) [u64; 32]);

/// `b` as vectors of columns: for every step along k the even ones and the odd ones.
pub(super) type Columns<const S: usize> = [[[[u64; 4]; 2]; 4]; S];

#[inline(always)]
pub(super) fn columns<const S: usize>(b: [&[u64; 32]; S]) -> Columns<S> {
    std::array::from_fn(|s| {
        std::array::from_fn(|t| {
            std::array::from_fn(|parity| std::array::from_fn(|pair| b[s][(2 * pair + parity) * 4 + t]))
        })
    })
}

/// Vectors whose sums are taken at once, of even columns and of odd ones: enough of them to fill the time that a product
/// takes, and not more than there are registers.
const AT_ONCE: usize = 4;

/// Adds the products of eight rows to their sums: even columns in the first register, odd ones in the second.
///
/// # Safety
/// The machine has V's instruction set; all registers are aligned to V.
#[inline(always)]
pub(super) unsafe fn sum_up<V: Vector, const S: usize>(a: [&[u64; 32]; S], b: &Columns<S>, sums: &mut [Doubles; 2]) {
    for first in (0..64).step_by(AT_ONCE * V::LANES) {
        // SAFETY: the caller's contract; a register has 64 words, and vectors divide them.
        unsafe {
            let [even, odd] = [0, 1].map(|parity: usize| sums[parity].0.as_mut_ptr().cast::<u32>().add(first));
            let mut values = [[V::splat(0); 2]; AT_ONCE];
            for r in 0..AT_ONCE {
                values[r] = [V::load(even.add(r * V::LANES)), V::load(odd.add(r * V::LANES))];
            }
            for s in 0..S {
                let a = a[s].as_ptr().cast::<u32>().add(first);
                macro_rules! step {
                    ($t:literal) => {{
                        let even = V::repeat_doubles(b[s][$t][0].as_ptr().cast());
                        let odd = V::repeat_doubles(b[s][$t][1].as_ptr().cast());
                        for r in 0..AT_ONCE {
                            let factor = V::spread_doubles::<$t>(a.add(r * V::LANES));
                            let [x, y] = values[r];
                            values[r] = [factor.multiply_add_doubles(even, x), factor.multiply_add_doubles(odd, y)];
                        }
                    }};
                }
                step!(0);
                step!(1);
                step!(2);
                step!(3);
            }
            for r in 0..AT_ONCE {
                values[r][0].store(even.add(r * V::LANES));
                values[r][1].store(odd.add(r * V::LANES));
            }
        }
    }
    for sum in sums.iter_mut().flat_map(|sums| &mut sums.0) {
        *sum = if f64::from_bits(*sum).is_nan() { NAN } else { *sum };
    }
}

impl<const S: usize, const H: usize> Kernel for Double<S, H> {
    #[inline(always)]
    unsafe fn run<V: Vector>(warp: &mut Warp, op: &Op) -> Flow {
        if let Some(flow) = together(warp) {
            return flow;
        }
        // SAFETY: `wide` has 64-bit slots of this frame: 2H of d, SH of a, S of b, 2H of c.
        unsafe {
            let slots = warp.wide(op);
            let (d, rest) = slots.split_at(2 * H);
            let (a, rest) = rest.split_at(S * H);
            let (b, c) = rest.split_at(S);
            let columns = columns(std::array::from_fn::<_, S, _>(|s| warp.lanes::<u64>(b[s])));
            let mut sums = [[Doubles([0; 32]); 2]; H];
            for (h, sums) in sums.iter_mut().enumerate() {
                *sums = [Doubles(*warp.lanes::<u64>(c[2 * h])), Doubles(*warp.lanes::<u64>(c[2 * h + 1]))];
                let a = std::array::from_fn::<_, S, _>(|s| warp.lanes::<u64>(a[s * H + h]));
                sum_up::<V, S>(a, &columns, sums);
            }
            for (slot, values) in d.iter().zip(sums.iter().flatten()) {
                warp.write::<u64>(*slot, &values.0);
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

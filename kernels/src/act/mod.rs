//! Activation functions.
//!
//! Vector forms are accurate to a few units in the last place of f32; each says its bound and the tests hold it against
//! f64.

mod derivative;
mod table;
#[cfg(test)]
mod tests;

use crate::simd::{Kernel, Vector, dispatch};
use crate::{DType, Element, Isa};
use serde::{Deserialize, Serialize};

/// `$body` with `$name` a constant equal to `$act`: one decision for a whole loop, which is compiled once for each activation.
macro_rules! with_act {
    ($act:expr, $name:ident => $body:expr) => {
        $crate::act::with_act!(@each $act, $name => $body; Identity Relu Gelu Silu HardSwish HardSigmoid Sigmoid)
    };
    (@each $act:expr, $name:ident => $body:expr; $($each:ident)*) => {
        match $act {
            $($crate::act::Act::$each => {
                const $name: $crate::act::Act = $crate::act::Act::$each;
                $body
            })*
        }
    };
}
pub(crate) use with_act;

/// An elementwise activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Act {
    /// x
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
    /// x · Φ(x), the exact erf form (not the tanh approximation).
    Gelu,
    /// x · sigmoid(x)
    Silu,
    /// x · min(max(x + 3, 0), 6) / 6
    HardSwish,
    /// min(max(x + 3, 0), 6) / 6
    HardSigmoid,
    /// 1 / (1 + e^−x)
    Sigmoid,
}

impl Act {
    /// The activation of one vector, to a few units in the last place of f32.
    #[inline(always)]
    pub fn apply<V: Vector>(self, x: V) -> V {
        self.apply_for::<f32, V>(x)
    }

    /// The activation of one vector whose result is stored as T: [`Act::apply`], but GELU on its way to bf16 may be 1.3e-5
    /// off, a hundredth of what rounding the result costs.
    #[inline(always)]
    pub fn apply_for<T: Element, V: Vector>(self, x: V) -> V {
        match self {
            Act::Identity => x,
            Act::Relu => V::zero().max(x),
            Act::Gelu if T::DTYPE == DType::Bf16 => gelu(x, &table::COARSE),
            Act::Gelu => gelu(x, &table::FINE),
            Act::Silu => x.mul(sigmoid(x)),
            Act::HardSwish => x.mul(hard_sigmoid(x)),
            Act::HardSigmoid => hard_sigmoid(x),
            Act::Sigmoid => sigmoid(x),
        }
    }

    /// [`Act::apply_for`] of several vectors: one decision for all, and independent chains of operations side by side.
    #[inline(always)]
    pub(crate) fn apply_group<T: Element, V: Vector, const N: usize>(self, values: &mut [V; N]) {
        if self != Act::Identity {
            with_act!(self, ACT => values.iter_mut().for_each(|value| *value = ACT.apply_for::<T, V>(*value)))
        }
    }

    /// Applies the activation to every value of a slice.
    pub fn apply_slice<T: Element>(self, isa: Isa, values: &mut [T]) {
        if self != Act::Identity {
            dispatch(isa, Apply { act: self, values });
        }
    }
}

struct Apply<'a, T> {
    act: Act,
    values: &'a mut [T],
}

impl<T: Element> Kernel for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let (len, data) = (self.values.len(), self.values.as_mut_ptr());
        let mut i = 0;
        // SAFETY: whole vectors lie inside the slice, the tail is masked.
        unsafe {
            while i + V::LANES <= len {
                self.act.apply_for::<T, V>(V::load_as(data.add(i))).store_as(data.add(i));
                i += V::LANES;
            }
            if i < len {
                let count = len - i;
                self.act.apply_for::<T, V>(V::load_partial_as(data.add(i), count)).store_partial_as(data.add(i), count);
            }
        }
    }
}

/// e^x to 2 ulp; 0 below −104, ∞ above 88.73, NaN stays NaN.
#[inline(always)]
pub fn exp<V: Vector>(x: V) -> V {
    // x = n·ln 2 + r, |r| ≤ ln 2 / 2; e^r by its Taylor-like minimax polynomial, 2^n by the exponent field. Adding 1.5·2²³
    // rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = V::splat(-104.0).max(V::splat(89.0).min(x));
    let n = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND)).sub(V::splat(ROUND));
    let r = n.neg_mul_add(V::splat(0.693_359_4), x);
    let r = n.neg_mul_add(V::splat(-2.121_944_4e-4), r);
    let p = V::splat(1.381_459_9e-3);
    let p = p.mul_add(r, V::splat(8.368_718e-3));
    let p = p.mul_add(r, V::splat(4.166_839e-2));
    let p = p.mul_add(r, V::splat(1.666_652_1e-1));
    let p = p.mul_add(r, V::splat(0.5));
    let p = p.mul_add(r, V::splat(1.0));
    let p = p.mul_add(r, V::splat(1.0));
    p.ldexp(n)
}

/// 1 / (1 + e^−x)
#[inline(always)]
fn sigmoid<V: Vector>(x: V) -> V {
    V::splat(1.0).div(V::splat(1.0).add(exp(V::zero().sub(x))))
}

/// min(max(x + 3, 0), 6) / 6
#[inline(always)]
fn hard_sigmoid<V: Vector>(x: V) -> V {
    let clamped = V::splat(6.0).min(V::zero().max(x.add(V::splat(3.0))));
    clamped.mul(V::splat(1.0 / 6.0))
}

/// x·Φ(x) = max(x, 0) − t·q(t) with t = |x| and q(t) = ½·erfc(t/√2), which is a polynomial around the nearest of 32 nodes.
///
/// With the fine table the error is below 1.5 units in the last place for x ≥ 0, and 1e-7 · |x| for x < 0 (no worse than
/// x/2 · (1 + erf(x/√2)), which cancels there).
#[inline(always)]
fn gelu<V: Vector, const N: usize>(x: V, table: &[[f32; 32]; N]) -> V {
    let t = x.abs();
    t.neg_mul_add(normal_tail(t, table), V::zero().max(x))
}

/// q(t) = ½·erfc(t/√2) for t ≥ 0: a polynomial around the nearest of 32 nodes.
#[inline(always)]
fn normal_tail<V: Vector, const N: usize>(t: V, table: &[[f32; 32]; N]) -> V {
    const LAST: f32 = 31.0 * table::STEP;
    const ROUND: f32 = 8_388_608.0;
    let near = V::splat(LAST).min(t);
    let index = near.mul_add(V::splat(1.0 / table::STEP), V::splat(ROUND));
    let distance = index.sub(V::splat(ROUND)).neg_mul_add(V::splat(table::STEP), near);
    let mut tail = V::lookup(&table[N - 1], index);
    for coefficients in table[..N - 1].iter().rev() {
        tail = tail.mul_add(distance, V::lookup(coefficients, index));
    }
    tail
}

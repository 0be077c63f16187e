//! Activation functions.
//!
//! Vector forms are accurate to a few units in the last place of f32; each says its bound and the tests hold it against
//! f64.

use crate::simd::{Kernel, Vector, dispatch};
use crate::{Element, Isa};
use serde::{Deserialize, Serialize};

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
    /// The activation of one vector.
    #[inline(always)]
    pub fn apply<V: Vector>(self, x: V) -> V {
        match self {
            Act::Identity => x,
            Act::Relu => V::zero().max(x),
            Act::Gelu => gelu(x),
            Act::Silu => x.mul(sigmoid(x)),
            Act::HardSwish => x.mul(hard_sigmoid(x)),
            Act::HardSigmoid => hard_sigmoid(x),
            Act::Sigmoid => sigmoid(x),
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
                self.act.apply(V::load_as(data.add(i))).store_as(data.add(i));
                i += V::LANES;
            }
            if i < len {
                let count = len - i;
                self.act.apply(V::load_partial_as(data.add(i), count)).store_partial_as(data.add(i), count);
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

/// x·Φ(x), absolute error below 3e-7 · |x|.
///
/// Φ(x) − ½ = x·P(x²)/Q(x²), a minimax fit on |x| ≤ 5.5 (error 7.2e-9; beyond, Φ is 0 or 1 to 2e-8).
#[inline(always)]
fn gelu<V: Vector>(x: V) -> V {
    const P: [f32; 6] = [3.989_422_3e-1, 3.385_279e-2, 4.677_269_6e-3, 1.688_268_3e-4, 6.352_132_5e-6, 2.274_932_2e-8];
    const Q: [f32; 6] = [1.0, 2.515_222_7e-1, 2.864_595_5e-2, 1.884_453_3e-3, 7.364_800_7e-5, 1.197_503_7e-6];
    let clamped = V::splat(-5.5).max(V::splat(5.5).min(x));
    let square = clamped.mul(clamped);
    let numerator = clamped.mul(horner(P, square));
    x.mul(numerator.div(horner(Q, square)).add(V::splat(0.5)))
}

/// The polynomial with these coefficients, lowest first.
#[inline(always)]
fn horner<V: Vector, const N: usize>(coefficients: [f32; N], x: V) -> V {
    let mut sum = V::splat(coefficients[N - 1]);
    for coefficient in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(x, V::splat(*coefficient));
    }
    sum
}

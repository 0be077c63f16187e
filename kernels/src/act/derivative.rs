//! Derivatives of the activations.

use super::{Act, exp, normal_tail, sigmoid, table};
use crate::simd::Vector;

/// 1/√(2π)
const DENSITY: f32 = 0.398_942_3;

impl Act {
    /// act′(x), to a few units in the last place of f32; at kinks as libtorch has it: ReLU's and hard-sigmoid's are 0 there,
    /// hard-swish's is 0 at −3 and 1 at 3.
    #[inline(always)]
    pub fn derivative<V: Vector>(self, x: V) -> V {
        let (zero, one) = (V::zero(), V::splat(1.0));
        match self {
            Act::Identity => one,
            Act::Relu => zero.select_below(x, one, zero),
            Act::Gelu => {
                // Φ(x) + x·φ(x)
                let tail = normal_tail(x.abs(), &table::FINE);
                let phi = zero.select_below(x, one.sub(tail), tail);
                let density = exp(x.mul(x).mul(V::splat(-0.5))).mul(V::splat(DENSITY));
                x.mul_add(density, phi)
            }
            Act::Silu => {
                let s = sigmoid(x);
                s.mul(x.mul_add(one.sub(s), one))
            }
            Act::HardSwish => {
                let (low, high) = (V::splat(-3.0), V::splat(3.0));
                let between = x.mul_add(V::splat(1.0 / 3.0), V::splat(0.5));
                let upper = x.select_below(high, between, one);
                low.select_below(x, upper, zero)
            }
            Act::HardSigmoid => {
                let (low, high) = (V::splat(-3.0), V::splat(3.0));
                low.select_below(x, x.select_below(high, V::splat(1.0 / 6.0), zero), zero)
            }
            Act::Sigmoid => {
                let s = sigmoid(x);
                s.mul(one.sub(s))
            }
        }
    }
}

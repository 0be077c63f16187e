//! The CPU twin: one task per image, whose weights (some hundred kilobytes) are read once.

use super::{SqueezeExciteOperands, SqueezeExciteSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context};

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn squeeze_excite(ctx: &mut Context, spec: &SqueezeExciteSpec, operands: SqueezeExciteOperands) {
    let SqueezeExciteOperands { sums, squeeze_weight, squeeze_bias, excite_weight, excite_bias, gate } = operands;
    let SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act } = *spec;
    assert_eq!((sums.len(), gate.len()), (batch * channels, batch * channels), "sums and gate");
    assert_eq!((squeeze_weight.len(), squeeze_bias.len()), (squeeze * channels, squeeze), "squeeze");
    assert_eq!((excite_weight.len(), excite_bias.len()), (channels * squeeze, channels), "excite");
    let isa = ctx.isa();
    let gate = Disjoint::new(gate);
    ctx.parallel(batch, scratch_bytes::<f32>(channels) + scratch_bytes::<f32>(squeeze), |image, mut scratch| {
        let (mean, hidden) = (scratch.take::<f32>(channels), scratch.take::<f32>(squeeze));
        for (mean, sum) in mean.iter_mut().zip(&sums[image * channels..]) {
            *mean = sum / pixels as f32;
        }
        // SAFETY: one task per image.
        let gate = unsafe { gate.slice(image * channels, channels) };
        dispatch(isa, Layer { x: mean, weight: squeeze_weight, bias: squeeze_bias, act, out: hidden });
        dispatch(isa, Layer { x: hidden, weight: excite_weight, bias: excite_bias, act: gate_act, out: gate });
    });
}

/// `out = act(weight · x + bias)` with weight [out, x] row-major.
struct Layer<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    act: Act,
    out: &'a mut [f32],
}

impl Kernel for Layer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Layer { x, weight, bias, act, out } = self;
        let k = x.len();
        assert!(bias.len() == out.len() && weight.len() == out.len() * k);
        for (row, out) in out.iter_mut().enumerate() {
            // Four sums hide the latency of the additions.
            let mut sums = [V::zero(); 4];
            // SAFETY: a row of `weight` is as long as `x`, and indices stay below that.
            unsafe {
                let (x, weight) = (x.as_ptr(), weight.as_ptr().add(row * k));
                let mut i = 0;
                while i + 4 * V::LANES <= k {
                    for (part, sum) in sums.iter_mut().enumerate() {
                        let at = i + part * V::LANES;
                        *sum = V::load(x.add(at)).mul_add(V::load(weight.add(at)), *sum);
                    }
                    i += 4 * V::LANES;
                }
                while i < k {
                    let count = V::LANES.min(k - i);
                    let (x, weight) = (V::load_partial(x.add(i), count), V::load_partial(weight.add(i), count));
                    sums[0] = x.mul_add(weight, sums[0]);
                    i += count;
                }
            }
            *out = sums[0].add(sums[1]).add(sums[2].add(sums[3])).reduce_add() + bias[row];
        }
        let mut i = 0;
        while i < out.len() {
            let count = V::LANES.min(out.len() - i);
            // SAFETY: `i + count` ≤ `out.len()`.
            unsafe {
                let at = out.as_mut_ptr().add(i);
                act.apply(V::load_partial(at, count)).store_partial(at, count);
            }
            i += count;
        }
    }
}

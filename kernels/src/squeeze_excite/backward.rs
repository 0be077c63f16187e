//! Gradients of the gate, on the CPU: a few small products per image, whose forward values are computed again.
//!
//! With `m = sums/pixels`, `a = W1·m + b1`, `h = act(a)`, `z = W2·h + b2`, `gate = gate_act(z)`:
//! `d_z = d_gate·gate_act′(z)`, `d_W2 += d_z·hᵀ`, `d_a = (W2ᵀ·d_z)·act′(a)`, `d_W1 += d_a·mᵀ`, `d_sums = W1ᵀ·d_a/pixels`.

use super::SqueezeExciteSpec;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Gradient, Isa};

/// Operands of one call, all f32 row-major.
pub struct SqueezeExciteBackwardOperands<'a> {
    /// [batch, C], as the forward pass had them.
    pub sums: &'a [f32],
    /// W1 [S, C]
    pub squeeze_weight: &'a [f32],
    /// b1 `[S]`
    pub squeeze_bias: &'a [f32],
    /// W2 [C, S]
    pub excite_weight: &'a [f32],
    /// b2 `[C]`
    pub excite_bias: &'a [f32],
    /// [batch, C]
    pub d_gate: &'a [f32],
    /// [batch, C]
    pub d_sums: Gradient<'a, f32>,
    /// Of W1, b1, W2, b2, added to; none where they are not trained.
    pub d_parameters: Option<[&'a mut [f32]; 4]>,
}

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn squeeze_excite_backward(
    ctx: &mut Context,
    spec: &SqueezeExciteSpec,
    operands: SqueezeExciteBackwardOperands<'_>,
) {
    let SqueezeExciteBackwardOperands {
        sums,
        squeeze_weight,
        squeeze_bias,
        excite_weight,
        excite_bias,
        d_gate,
        d_sums,
        mut d_parameters,
    } = operands;
    let SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act } = *spec;
    assert_eq!([sums.len(), d_gate.len(), d_sums.values.len()], [batch * channels; 3], "sums, d_gate and d_sums");
    assert_eq!((squeeze_weight.len(), squeeze_bias.len()), (squeeze * channels, squeeze), "squeeze");
    assert_eq!((excite_weight.len(), excite_bias.len()), (channels * squeeze, channels), "excite");
    let isa = ctx.isa();
    let (mut hidden, mut excited) = (vec![0.0; squeeze], vec![0.0; channels]);
    let (mut slope, mut d_z) = (vec![0.0; squeeze], vec![0.0; channels]);
    let (mut d_a, mut d_mean) = (vec![0.0; squeeze], vec![0.0; channels]);
    for image in 0..batch {
        let range = image * channels..(image + 1) * channels;
        let mean: Vec<f32> = sums[range.clone()].iter().map(|sum| sum / pixels as f32).collect();
        dispatch(isa, Rows { weight: squeeze_weight, x: &mean, bias: squeeze_bias, out: &mut hidden });
        slope.copy_from_slice(&hidden);
        derive(isa, act, &mut slope);
        act.apply_slice(isa, &mut hidden);
        dispatch(isa, Rows { weight: excite_weight, x: &hidden, bias: excite_bias, out: &mut excited });
        d_z.copy_from_slice(&excited);
        derive(isa, gate_act, &mut d_z);
        d_z.iter_mut().zip(&d_gate[range.clone()]).for_each(|(slope, d)| *slope *= d);
        dispatch(isa, Columns { weight: excite_weight, x: &d_z, out: &mut d_a });
        d_a.iter_mut().zip(&slope).for_each(|(d, slope)| *d *= slope);
        dispatch(isa, Columns { weight: squeeze_weight, x: &d_a, out: &mut d_mean });
        for (to, d) in d_sums.values[range].iter_mut().zip(&d_mean) {
            let d = d / pixels as f32;
            *to = if d_sums.accumulate { *to + d } else { d };
        }
        if let Some([d_squeeze_weight, d_squeeze_bias, d_excite_weight, d_excite_bias]) = &mut d_parameters {
            dispatch(isa, Outer { left: &d_a, right: &mean, to: d_squeeze_weight });
            dispatch(isa, Outer { left: &d_z, right: &hidden, to: d_excite_weight });
            d_squeeze_bias.iter_mut().zip(&d_a).for_each(|(sum, d)| *sum += d);
            d_excite_bias.iter_mut().zip(&d_z).for_each(|(sum, d)| *sum += d);
        }
    }
}

/// Replaces every value by the activation's derivative there.
fn derive(isa: Isa, act: Act, values: &mut [f32]) {
    dispatch(isa, Derive { act, values });
}

struct Derive<'a> {
    act: Act,
    values: &'a mut [f32],
}

impl Kernel for Derive<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { act, values } = self;
        let mut i = 0;
        while i < values.len() {
            let count = V::LANES.min(values.len() - i);
            // SAFETY: inside the slice.
            unsafe {
                let at = values.as_mut_ptr().add(i);
                act.derivative(V::load_partial(at, count)).store_partial(at, count);
            }
            i += count;
        }
    }
}

/// `out = weight·x + bias`: weight [out, x].
struct Rows<'a> {
    weight: &'a [f32],
    x: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { weight, x, bias, out } = self;
        for ((row, out), bias) in weight.chunks_exact(x.len()).zip(out).zip(bias) {
            let mut sum = V::zero();
            let mut i = 0;
            while i < x.len() {
                let count = V::LANES.min(x.len() - i);
                // SAFETY: a row is as long as x.
                unsafe {
                    let value = V::load_partial(row.as_ptr().add(i), count);
                    sum = value.mul_add(V::load_partial(x.as_ptr().add(i), count), sum);
                }
                i += count;
            }
            *out = sum.reduce_add() + bias;
        }
    }
}

/// `out = weightᵀ·x`: weight [x, out].
struct Columns<'a> {
    weight: &'a [f32],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { weight, x, out } = self;
        let n = out.len();
        assert_eq!(weight.len(), x.len() * n);
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            // SAFETY: rows of n values.
            unsafe {
                let mut sum = V::zero();
                for (row, x) in x.iter().enumerate() {
                    sum = V::splat(*x).mul_add(V::load_partial(weight.as_ptr().add(row * n + i), count), sum);
                }
                sum.store_partial(out.as_mut_ptr().add(i), count);
            }
            i += count;
        }
    }
}

/// `to[i, j] += left[i] · right[j]`
struct Outer<'a, 'b> {
    left: &'a [f32],
    right: &'a [f32],
    to: &'a mut &'b mut [f32],
}

impl Kernel for Outer<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { left, right, to } = self;
        let n = right.len();
        assert_eq!(to.len(), left.len() * n);
        for (row, left) in left.iter().enumerate() {
            let mut i = 0;
            while i < n {
                let count = V::LANES.min(n - i);
                // SAFETY: rows of n values.
                unsafe {
                    let at = to.as_mut_ptr().add(row * n + i);
                    let sum = V::splat(*left)
                        .mul_add(V::load_partial(right.as_ptr().add(i), count), V::load_partial(at, count));
                    sum.store_partial(at, count);
                }
                i += count;
            }
        }
    }
}

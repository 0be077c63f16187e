//! Gradients of the layer norm, on the CPU.
//!
//! With `x̂ = (x − mean)/√(var + ε)` and `g = d_out·γ`: `d_x = (g − mean(g) − x̂·mean(g·x̂))/√(var + ε)`,
//! `d_γ += Σ_rows d_out·x̂`, `d_β += Σ_rows d_out`. Statistics are computed again: that is cheaper than storing them.
//! About 20 operations per element; x and d_out are read once from memory, d_x is written.

use super::LayerNormSpec;
use crate::context::{Disjoint, scratch_bytes};
use crate::gradient::{Gradient, add_partials, put};
use crate::rows::{load, moments};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// Elements of one task, about.
const TASK: usize = 1 << 14;

/// Rows of one task at least, so that its sums over rows are few beside its elements.
const MIN_ROWS: usize = 8;

/// Operands of one call.
pub struct LayerNormBackwardOperands<'a, T: Element> {
    /// [rows, channels], as the forward pass had it.
    pub x: &'a [T],
    /// γ `[channels]`
    pub weight: &'a [f32],
    /// [rows, channels]
    pub d_out: &'a [T],
    /// [rows, channels]
    pub d_x: Gradient<'a, T>,
    /// `[channels]`, added to; none: γ and β are not trained.
    pub d_parameters: Option<LayerNormParameters<'a>>,
}

/// Gradients of the parameters, `[channels]` each, added to.
pub struct LayerNormParameters<'a> {
    /// Of γ.
    pub d_weight: &'a mut [f32],
    /// Of β.
    pub d_bias: &'a mut [f32],
}

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn layer_norm_backward<T: Element>(
    ctx: &mut Context,
    spec: &LayerNormSpec,
    operands: LayerNormBackwardOperands<'_, T>,
) {
    let LayerNormBackwardOperands { x, weight, d_out, d_x, d_parameters } = operands;
    let LayerNormSpec { rows, channels, eps } = *spec;
    let len = rows * channels;
    assert_eq!((x.len(), d_out.len(), d_x.values.len()), (len, len, len), "x, d_out and d_x");
    assert_eq!(weight.len(), channels, "weight");
    if let Some(parameters) = &d_parameters {
        assert_eq!((parameters.d_weight.len(), parameters.d_bias.len()), (channels, channels), "d_weight and d_bias");
    }
    if len == 0 {
        return;
    }
    let isa = ctx.isa();
    let d_x = d_x.share();
    let rows_per_task = (TASK / channels).max(MIN_ROWS);
    let tasks = rows.div_ceil(rows_per_task);
    let with_parameters = d_parameters.is_some();
    ctx.with_shared(scratch_bytes::<f32>(tasks * 2 * channels), |ctx, mut shared| {
        let partial = shared.take::<f32>(tasks * 2 * channels);
        let sums = Disjoint::new(&mut *partial);
        ctx.parallel(tasks, 0, |task, _| {
            let start = task * rows_per_task * channels;
            let len = rows_per_task.min(rows - task * rows_per_task) * channels;
            // SAFETY: each task has its own rows and its own sums.
            let (d_x_rows, sums) =
                unsafe { (d_x.values.slice(start, len), sums.slice(task * 2 * channels, 2 * channels)) };
            let (x, d_out) = (&x[start..start + len], &d_out[start..start + len]);
            let accumulate = d_x.accumulate;
            if with_parameters {
                dispatch(isa, Rows::<T, true> { x, d_out, d_x: d_x_rows, accumulate, weight, eps, sums });
            } else {
                dispatch(isa, Rows::<T, false> { x, d_out, d_x: d_x_rows, accumulate, weight, eps, sums });
            }
        });
        if let Some(LayerNormParameters { d_weight, d_bias }) = d_parameters {
            let mut both = vec![0.0; 2 * channels];
            add_partials(ctx, partial, &mut both);
            for (sum, partial) in d_weight.iter_mut().chain(d_bias).zip(both) {
                *sum += partial;
            }
        }
    });
}

/// The rows of one task.
struct Rows<'a, T, const PARAMETERS: bool> {
    x: &'a [T],
    d_out: &'a [T],
    d_x: &'a mut [T],
    accumulate: bool,
    weight: &'a [f32],
    eps: f32,
    /// d_γ, then d_β of these rows; overwritten.
    sums: &'a mut [f32],
}

impl<T: Element, const PARAMETERS: bool> Kernel for Rows<'_, T, PARAMETERS> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, d_out, d_x, accumulate, weight, eps, sums } = self;
        let n = weight.len();
        let gamma = weight.as_ptr();
        if PARAMETERS {
            sums.fill(0.0);
        }
        let (d_gamma, d_beta) = sums.split_at_mut(n);
        let (d_gamma, d_beta) = (d_gamma.as_mut_ptr(), d_beta.as_mut_ptr());
        for start in (0..x.len()).step_by(n) {
            // SAFETY: rows lie inside the slices, which are equally long; γ and the sums are as long as a row.
            unsafe {
                let (x, d_out) = (x.as_ptr().add(start), d_out.as_ptr().add(start));
                let d_x = d_x.as_mut_ptr().add(start);
                let moments = moments::<V, T>(x, n, eps);
                let (mut total, mut along) = (V::zero(), V::zero());
                let mut i = 0;
                while i < n {
                    let count = V::LANES.min(n - i);
                    // Behind the end of a row x̂ is anything, but d_out is zero.
                    let normal = moments.normalise(load::<V, T>(x.add(i), count));
                    let d: V = load(d_out.add(i), count);
                    let g = d.mul(load(gamma.add(i), count));
                    total = total.add(g);
                    along = g.mul_add(normal, along);
                    if PARAMETERS {
                        let sum: V = load(d_gamma.add(i), count);
                        put(d.mul_add(normal, sum), d_gamma.add(i), count, false);
                        put(d, d_beta.add(i), count, true);
                    }
                    i += count;
                }
                let mean = V::splat(total.reduce_add() / n as f32);
                let along = V::splat(along.reduce_add() / n as f32);
                let scale = V::splat(moments.scale());
                let mut i = 0;
                while i < n {
                    let count = V::LANES.min(n - i);
                    let normal = moments.normalise(load::<V, T>(x.add(i), count));
                    let d: V = load(d_out.add(i), count);
                    let g = d.mul(load(gamma.add(i), count));
                    let value = normal.neg_mul_add(along, g.sub(mean)).mul(scale);
                    put(value, d_x.add(i), count, accumulate);
                    i += count;
                }
            }
        }
    }
}

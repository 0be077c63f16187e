//! Gradients of batch norm and activation, on the CPU.
//!
//! With `x̂ = (x − mean)·scale`, `z = γ·x̂ + β` (computed again, not stored) and `g = d_out·act′(z)`:
//! `d_β += Σ g`, `d_γ += Σ g·x̂`, `d_x = γ·scale·(g − Σg/rows − x̂·Σ(g·x̂)/rows)`; sums over all rows, f32 within a block of rows,
//! f64 across blocks, in order. x and d_out are read twice.

use super::BatchNormSpec;
use super::cpu::block_rows;
use crate::act::with_act;
use crate::context::{Disjoint, scratch_bytes};
use crate::gradient::{Gradient, put};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element};

/// Operands of one call.
pub struct BatchNormBackwardOperands<'a, T: Element> {
    /// [rows, C], as the forward pass had it.
    pub x: &'a [T],
    /// γ `[C]`
    pub weight: &'a [f32],
    /// β `[C]`
    pub bias: &'a [f32],
    /// `[C]`, from the forward pass.
    pub mean: &'a [f32],
    /// `[C]`, from the forward pass.
    pub scale: &'a [f32],
    /// [rows, C]
    pub d_out: &'a [T],
    /// [rows, C]
    pub d_x: Gradient<'a, T>,
    /// γ's and β's, `[C]` each, added to; none where they are not trained.
    pub d_parameters: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn batch_norm_backward<T: Element>(
    ctx: &mut Context,
    spec: &BatchNormSpec,
    operands: BatchNormBackwardOperands<'_, T>,
) {
    let BatchNormBackwardOperands { x, weight, bias, mean, scale, d_out, d_x, d_parameters } = operands;
    let BatchNormSpec { rows, channels, act, .. } = *spec;
    let len = rows * channels;
    assert_eq!([x.len(), d_out.len(), d_x.values.len()], [len; 3], "x, d_out and d_x");
    assert_eq!([weight.len(), bias.len(), mean.len(), scale.len()], [channels; 4], "weight, bias, mean and scale");
    let isa = ctx.isa();
    let block = block_rows(channels);
    let blocks = rows.div_ceil(block);
    let factor: Vec<f32> = weight.iter().zip(scale).map(|(w, s)| w * s).collect();
    let norm = Norm { channels, mean, factor: &factor, bias, act };
    // Σ g and Σ g·(x − mean) of each channel.
    let mut totals = vec![0.0f64; 2 * channels];
    ctx.with_shared(scratch_bytes::<f32>(blocks * 2 * channels), |ctx, mut shared| {
        let partial = shared.take::<f32>(blocks * 2 * channels);
        let sums = Disjoint::new(&mut *partial);
        ctx.parallel(blocks, 0, |task, _| {
            let range = task * block * channels..rows.min((task + 1) * block) * channels;
            // SAFETY: each task has its own sums.
            let sums = unsafe { sums.slice(task * 2 * channels, 2 * channels) };
            dispatch(isa, Sums { norm, x: &x[range.clone()], d_out: &d_out[range], sums });
        });
        for block in partial.chunks_exact(2 * channels) {
            totals.iter_mut().zip(block).for_each(|(total, sum)| *total += f64::from(*sum));
        }
    });
    let (sums, products) = totals.split_at(channels);
    if let Some((d_weight, d_bias)) = d_parameters {
        assert_eq!((d_weight.len(), d_bias.len()), (channels, channels), "d_weight and d_bias");
        for channel in 0..channels {
            d_weight[channel] += (products[channel] * f64::from(scale[channel])) as f32;
            d_bias[channel] += sums[channel] as f32;
        }
    }
    let n = rows as f64;
    let means: Vec<f32> = sums.iter().map(|sum| (sum / n) as f32).collect();
    let slopes: Vec<f32> =
        products.iter().zip(scale).map(|(p, s)| (p * f64::from(*s) * f64::from(*s) / n) as f32).collect();
    let d_x = d_x.share();
    ctx.parallel(blocks, 0, |task, _| {
        let range = task * block * channels..rows.min((task + 1) * block) * channels;
        // SAFETY: each task has its own rows.
        let to = unsafe { d_x.values.slice(range.start, range.len()) };
        let (x, d_out, accumulate) = (&x[range.clone()], &d_out[range], d_x.accumulate);
        dispatch(isa, Input { norm, x, d_out, means: &means, slopes: &slopes, to, accumulate });
    });
}

/// The forward pass's arithmetic.
#[derive(Clone, Copy)]
struct Norm<'a> {
    channels: usize,
    mean: &'a [f32],
    factor: &'a [f32],
    bias: &'a [f32],
    act: Act,
}

impl Norm<'_> {
    /// x − mean and act′(z) of some channels.
    ///
    /// # Safety
    /// The channels exist.
    #[inline(always)]
    unsafe fn derivative<V: Vector>(&self, act: Act, x: V, channel: usize, count: usize) -> (V, V) {
        // SAFETY: as the caller promises.
        unsafe {
            let centred = x.sub(load(self.mean.as_ptr().add(channel), count));
            if act == Act::Identity {
                return (centred, V::splat(1.0));
            }
            let bias = load(self.bias.as_ptr().add(channel), count);
            let z = centred.mul_add(load(self.factor.as_ptr().add(channel), count), bias);
            (centred, act.derivative(z))
        }
    }
}

/// Sums of one block.
struct Sums<'a, T> {
    norm: Norm<'a>,
    x: &'a [T],
    d_out: &'a [T],
    /// Σ g, then Σ g·(x − mean); overwritten.
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Sums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_act!(self.norm.act, ACT => self.columns::<V>(ACT))
    }
}

impl<T: Element> Sums<'_, T> {
    #[inline(always)]
    fn columns<V: Vector>(self, act: Act) {
        let Self { norm, x, d_out, sums } = self;
        let channels = norm.channels;
        let rows = x.len() / channels;
        let (plain, along) = sums.split_at_mut(channels);
        let mut channel = 0;
        while channel < channels {
            let count = V::LANES.min(channels - channel);
            // SAFETY: rows and channels are inside x, d_out and the sums.
            unsafe {
                let (x, d_out) = (x.as_ptr().add(channel), d_out.as_ptr().add(channel));
                let (mut sum, mut product) = ([V::zero(); 2], [V::zero(); 2]);
                for row in 0..rows {
                    let (centred, slope) =
                        norm.derivative::<V>(act, load(x.add(row * channels), count), channel, count);
                    let g = load::<V, T>(d_out.add(row * channels), count).mul(slope);
                    sum[row % 2] = sum[row % 2].add(g);
                    product[row % 2] = g.mul_add(centred, product[row % 2]);
                }
                store(sum[0].add(sum[1]), plain.as_mut_ptr().add(channel), count);
                store(product[0].add(product[1]), along.as_mut_ptr().add(channel), count);
            }
            channel += count;
        }
    }
}

/// The data's gradient of one block.
struct Input<'a, T> {
    norm: Norm<'a>,
    x: &'a [T],
    d_out: &'a [T],
    means: &'a [f32],
    slopes: &'a [f32],
    to: &'a mut [T],
    accumulate: bool,
}

impl<T: Element> Kernel for Input<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_act!(self.norm.act, ACT => self.rows::<V>(ACT))
    }
}

impl<T: Element> Input<'_, T> {
    #[inline(always)]
    fn rows<V: Vector>(self, act: Act) {
        let Self { norm, x, d_out, means, slopes, to, accumulate } = self;
        let channels = norm.channels;
        let rows = x.len() / channels;
        for row in 0..rows {
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                // SAFETY: rows and channels are inside.
                unsafe {
                    let at = row * channels + channel;
                    let (centred, slope) = norm.derivative::<V>(act, load(x.as_ptr().add(at), count), channel, count);
                    let g = load::<V, T>(d_out.as_ptr().add(at), count).mul(slope);
                    let value = g.sub(load(means.as_ptr().add(channel), count));
                    let value = centred.neg_mul_add(load(slopes.as_ptr().add(channel), count), value);
                    let value = value.mul(load(norm.factor.as_ptr().add(channel), count));
                    put(value, to.as_mut_ptr().add(at), count, accumulate);
                }
                channel += count;
            }
        }
    }
}

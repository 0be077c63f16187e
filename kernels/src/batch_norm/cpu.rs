//! The CPU twin: a pass for the statistics, a pass for the result; blocks of rows are the tasks.

use super::{BatchNormOperands, BatchNormSpec};
use crate::act::with_act;
use crate::context::{Disjoint, scratch_bytes};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element};

/// Elements of a block: read twice for the statistics, so it should stay in L2.
const BLOCK: usize = 1 << 15;

/// Rows of a block: by shape alone.
pub(super) fn block_rows(channels: usize) -> usize {
    (BLOCK / channels.max(1)).max(16)
}

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says, or there are fewer than two rows, whose variance means nothing.
pub fn batch_norm<T: Element>(ctx: &mut Context, spec: &BatchNormSpec, operands: BatchNormOperands<'_, T>) {
    let BatchNormOperands { x, weight, bias, running, mean, scale, out } = operands;
    let BatchNormSpec { rows, channels, eps, momentum, act } = *spec;
    assert!(rows > 1, "a batch norm in training needs two values per channel, there are {rows}");
    assert_eq!((x.len(), out.len()), (rows * channels, rows * channels), "x and out");
    assert_eq!([weight.len(), bias.len(), mean.len(), scale.len()], [channels; 4], "weight, bias, mean and scale");
    let isa = ctx.isa();
    let block = block_rows(channels);
    let blocks = rows.div_ceil(block);
    ctx.with_shared(scratch_bytes::<f32>(2 * blocks * channels), |ctx, mut shared| {
        let moments = shared.take::<f32>(2 * blocks * channels);
        let shared_moments = Disjoint::new(&mut *moments);
        ctx.parallel(blocks, 0, |task, _| {
            let range = task * block..rows.min((task + 1) * block);
            // SAFETY: each task has its own moments.
            let sums = unsafe { shared_moments.slice(task * 2 * channels, 2 * channels) };
            dispatch(isa, Moments { x: &x[range.start * channels..range.end * channels], sums });
        });
        let count = |task: usize| (rows.min((task + 1) * block) - task * block) as f64;
        let (mut variance, mut momentum_mean) = (vec![0.0f64; channels], vec![0.0f64; channels]);
        for (task, block) in moments.chunks_exact(2 * channels).enumerate() {
            let (own, before) = (count(task), (task * block_rows(channels)) as f64);
            let total = own + before;
            for channel in 0..channels {
                // Chan, Golub & LeVeque: merging the moments of two sets.
                let (mean, squares) = (f64::from(block[channel]), f64::from(block[channels + channel]));
                let distance = mean - momentum_mean[channel];
                momentum_mean[channel] += distance * own / total;
                variance[channel] += squares + distance * distance * own * before / total;
            }
        }
        let n = rows as f64;
        if let Some((running_mean, running_variance)) = running {
            let momentum = f64::from(momentum);
            for channel in 0..channels {
                let old = (f64::from(running_mean[channel]), f64::from(running_variance[channel]));
                running_mean[channel] = (momentum * momentum_mean[channel] + (1.0 - momentum) * old.0) as f32;
                running_variance[channel] =
                    (momentum * variance[channel] / (n - 1.0) + (1.0 - momentum) * old.1) as f32;
            }
        }
        for channel in 0..channels {
            mean[channel] = momentum_mean[channel] as f32;
            scale[channel] = (1.0 / (variance[channel] / n + f64::from(eps)).sqrt()) as f32;
        }
    });
    let factor: Vec<f32> = weight.iter().zip(&*scale).map(|(w, s)| w * s).collect();
    let out = Disjoint::new(out);
    ctx.parallel(blocks, 0, |task, _| {
        let range = task * block * channels..rows.min((task + 1) * block) * channels;
        // SAFETY: each task has its own rows.
        let out = unsafe { out.slice(range.start, range.len()) };
        dispatch(isa, Normalise { x: &x[range], mean, factor: &factor, bias, act, out });
    });
}

/// Means of the columns, and sums of squared differences from them.
struct Moments<'a, T> {
    x: &'a [T],
    /// Means, then sums; overwritten.
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Moments<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, sums } = self;
        let channels = sums.len() / 2;
        let rows = x.len() / channels;
        let (means, squares) = sums.split_at_mut(channels);
        let mut channel = 0;
        while channel < channels {
            let count = V::LANES.min(channels - channel);
            // SAFETY: rows and channels are inside x and the sums.
            unsafe {
                let from = x.as_ptr().add(channel);
                let mut sums = [V::zero(); 4];
                for row in 0..rows {
                    sums[row % 4] = sums[row % 4].add(load(from.add(row * channels), count));
                }
                let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
                let mean = sum.mul(V::splat(1.0 / rows as f32));
                let (mut square, mut difference) = ([V::zero(); 2], [V::zero(); 2]);
                for row in 0..rows {
                    let d = load::<V, T>(from.add(row * channels), count).sub(mean);
                    square[row % 2] = d.mul_add(d, square[row % 2]);
                    difference[row % 2] = difference[row % 2].add(d);
                }
                // What rounding left of the mean.
                let rest = difference[0].add(difference[1]).mul(V::splat(1.0 / rows as f32));
                store(mean.add(rest), means.as_mut_ptr().add(channel), count);
                let square = square[0].add(square[1]);
                let square = rest.mul(rest).neg_mul_add(V::splat(rows as f32), square);
                store(V::zero().max(square), squares.as_mut_ptr().add(channel), count);
            }
            channel += count;
        }
    }
}

/// The result.
struct Normalise<'a, T> {
    x: &'a [T],
    mean: &'a [f32],
    factor: &'a [f32],
    bias: &'a [f32],
    act: Act,
    out: &'a mut [T],
}

impl<T: Element> Kernel for Normalise<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_act!(self.act, ACT => self.rows::<V>(ACT))
    }
}

impl<T: Element> Normalise<'_, T> {
    /// The decision for an activation is made once.
    #[inline(always)]
    fn rows<V: Vector>(self, act: Act) {
        let Self { x, mean, factor, bias, out, .. } = self;
        let channels = mean.len();
        let rows = x.len() / channels;
        for row in 0..rows {
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                // SAFETY: rows and channels are inside.
                unsafe {
                    let at = row * channels + channel;
                    let x: V = load(x.as_ptr().add(at), count);
                    let centred = x.sub(load(mean.as_ptr().add(channel), count));
                    let bias = load(bias.as_ptr().add(channel), count);
                    let value = centred.mul_add(load(factor.as_ptr().add(channel), count), bias);
                    store(act.apply_for::<T, V>(value), out.as_mut_ptr().add(at), count);
                }
                channel += count;
            }
        }
    }
}

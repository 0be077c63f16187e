//! The CPU twin: bands of output rows × chunks of channels are the tasks.
//!
//! A task copies the input rows it needs into scratch, widened to f32, zero-padded and sorted by vectors of channels
//! ([`pack`]), so that the sliding window ([`window`]) is free of borders, conversions and strides, whatever the precision.
//! The copy costs one load and one store per element, against k² multiply-adds.

mod pack;
#[cfg(test)]
mod tests;
mod window;

use super::{DepthwiseOperands, DepthwiseSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::resample::cpu::merge_bands;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// Output rows of one task: the k − stride rows that neighbouring bands both copy are few beside them.
const BAND: usize = 16;

/// What a task's packed rows should stay below, a part of L2.
const PACKED_BYTES: usize = 768 << 10;

/// Runs the kernel.
///
/// # Panics
/// If kernel or stride are not those of [`DepthwiseSpec`], or an operand's length is not what the spec says.
pub fn depthwise<T: Element>(ctx: &mut Context, spec: &DepthwiseSpec, operands: DepthwiseOperands<T>) {
    match (spec.kernel, spec.stride) {
        (3, 1) => run::<T, 3, 1>(ctx, spec, operands),
        (3, 2) => run::<T, 3, 2>(ctx, spec, operands),
        (5, 1) => run::<T, 5, 1>(ctx, spec, operands),
        (5, 2) => run::<T, 5, 2>(ctx, spec, operands),
        (7, 1) => run::<T, 7, 1>(ctx, spec, operands),
        (7, 2) => run::<T, 7, 2>(ctx, spec, operands),
        (kernel, stride) => panic!("depthwise kernel {kernel} stride {stride}: kernels are 3, 5, 7, strides 1, 2"),
    }
}

fn run<T: Element, const K: usize, const STRIDE: usize>(
    ctx: &mut Context,
    spec: &DepthwiseSpec,
    operands: DepthwiseOperands<T>,
) {
    let DepthwiseOperands { x, weight, bias, out, sums } = operands;
    let [oh, ow] = spec.output();
    let channels = spec.channels;
    assert_eq!(x.len(), spec.batch * spec.input[0] * spec.input[1] * channels, "x");
    assert_eq!(out.len(), spec.batch * oh * ow * channels, "out");
    assert_eq!(weight.len(), K * K * channels, "weight");
    assert!(bias.is_none_or(|b| b.len() == channels), "bias");
    assert_eq!(sums.as_deref().map(<[f32]>::len), spec.pool.then_some(spec.batch * channels), "sums");

    let lanes = dispatch(ctx.isa(), Lanes);
    let band = BAND.min(oh);
    let bands = oh.div_ceil(band);
    let plane = ((band - 1) * STRIDE + K) * ((ow - 1) * STRIDE + K) * lanes;
    // At least a cache line of the narrowest element, at most what the scratch should hold.
    let chunk = (PACKED_BYTES / (plane * size_of::<f32>())).max(32 / lanes).min(channels.div_ceil(lanes)) * lanes;
    let chunks = channels.div_ceil(chunk);

    let mut partial_sums = vec![0.0; if spec.pool { spec.batch * bands * channels } else { 0 }];
    let shared_out = Disjoint::new(out);
    let shared_sums = Disjoint::new(&mut partial_sums);
    let isa = ctx.isa();
    let planes = chunk / lanes;
    ctx.parallel(
        spec.batch * bands * chunks,
        scratch_bytes::<f32>(planes * plane) + scratch_bytes::<f32>(K * K * lanes),
        |task, mut scratch| {
            let (image, band_index, first_channel) =
                (task / chunks / bands, task / chunks % bands, task % chunks * chunk);
            let task = Task::<T, K, STRIDE> {
                spec,
                x: &x[image * spec.input[0] * spec.input[1] * channels..],
                weight,
                bias,
                rows: band_index * band..oh.min((band_index + 1) * band),
                channels: first_channel..channels.min(first_channel + chunk),
                packed: scratch.take(planes * plane),
                packed_weight: scratch.take(K * K * lanes),
                out: shared_out,
                image,
                sums: spec.pool.then(|| {
                    let start = (image * bands + band_index) * channels + first_channel;
                    // SAFETY: each task has its own image, band and channels.
                    unsafe { shared_sums.slice(start, chunk.min(channels - first_channel)) }
                }),
            };
            dispatch(isa, task);
        },
    );
    if let Some(sums) = sums {
        merge_bands(bands, &partial_sums, channels, sums);
    }
}

/// The lanes of a tier.
struct Lanes;

impl Kernel for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<V: Vector>(self) -> usize {
        V::LANES
    }
}

/// One band of output rows of one image, for some channels.
struct Task<'a, T: Element, const K: usize, const STRIDE: usize> {
    spec: &'a DepthwiseSpec,
    /// From the image's first element on.
    x: &'a [T],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: std::ops::Range<usize>,
    channels: std::ops::Range<usize>,
    /// [vectors of channels, packed rows, packed columns, lanes]
    packed: &'a mut [f32],
    /// [K·K, lanes]
    packed_weight: &'a mut [f32],
    out: Disjoint<'a, T>,
    image: usize,
    /// Sums over the band, one per channel of the task.
    sums: Option<&'a mut [f32]>,
}

impl<T: Element, const K: usize, const STRIDE: usize> Kernel for Task<'_, T, K, STRIDE> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Task { spec, x, weight, bias, rows, channels, packed, packed_weight, out, image, mut sums } = self;
        let [oh, ow] = spec.output();
        let window = pack::Window {
            rows: (rows.len() - 1) * STRIDE + K,
            columns: (ow - 1) * STRIDE + K,
            top: (rows.start * STRIDE) as isize - (K / 2) as isize,
            left: K / 2,
        };
        let plane = window.rows * window.columns * V::LANES;
        pack::pack::<V, T>(x, spec.input, spec.channels, channels.clone(), &window, packed);

        for (index, first) in channels.clone().step_by(V::LANES).enumerate() {
            let lanes = V::LANES.min(channels.end - first);
            for tap in 0..K * K {
                let tap_weight = &weight[tap * spec.channels + first..][..lanes];
                let to = &mut packed_weight[tap * V::LANES..][..V::LANES];
                to[..lanes].copy_from_slice(tap_weight);
                to[lanes..].fill(0.0);
            }
            let mut first_acc = [0.0; 16];
            if let Some(bias) = bias {
                first_acc[..lanes].copy_from_slice(&bias[first..][..lanes]);
            }
            let block = window::Block::<K, STRIDE> {
                packed: &packed[index * plane..][..plane],
                columns: window.columns,
                weight: &packed_weight[..K * K * V::LANES],
                bias: first_acc,
                act: spec.act,
                rows: rows.len(),
                width: ow,
                lanes,
            };
            let start = ((image * oh + rows.start) * ow) * spec.channels + first;
            // SAFETY: `block.rows` rows of `width` pixels of `channels` elements from `start` on are inside
            // `out`, and other tasks write other rows or channels.
            let sum = unsafe { block.run::<V, T>(&out, start, spec.channels) };
            if let Some(sums) = &mut sums {
                let at = first - channels.start;
                // SAFETY: the slice has `lanes` elements.
                unsafe { sum.store_partial(sums[at..][..lanes].as_mut_ptr(), lanes) };
            }
        }
    }
}

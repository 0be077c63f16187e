//! The CPU twin: bands of output rows are the tasks.
//!
//! Kernels 3 and 5 read the map where it is (`direct`): they are bound by memory. Kernel 7 is bound by arithmetic and
//! revisits each input row seven times, so its task copies the rows into L1-sized planes first (`planes`). Both use the same
//! register-blocked window (`window`).

mod direct;
mod planes;
#[cfg(test)]
mod tests;
mod window;

use super::{DepthwiseOperands, DepthwiseSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::resample::cpu::merge_bands;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};
use std::ops::Range;

/// Runs the kernel.
///
/// # Panics
/// If kernel or stride are not those of [`DepthwiseSpec`], or an operand's length is not what the spec says.
pub fn depthwise<T: Element>(ctx: &mut Context, spec: &DepthwiseSpec, operands: DepthwiseOperands<T>) {
    let DepthwiseOperands { x, weight, bias, out, sums } = operands;
    let DepthwiseSpec { batch, channels, kernel, stride, .. } = *spec;
    let [oh, ow] = spec.output();
    assert!(matches!(kernel, 3 | 5 | 7), "a depthwise kernel of {kernel}: there are 3, 5 and 7");
    assert!(matches!(stride, 1 | 2), "a depthwise stride of {stride}: there are 1 and 2");
    assert_eq!(x.len(), batch * spec.input[0] * spec.input[1] * channels, "x");
    assert_eq!(out.len(), batch * oh * ow * channels, "out");
    assert_eq!(weight.len(), kernel * kernel * channels, "weight");
    assert!(bias.is_none_or(|b| b.len() == channels), "bias");
    assert_eq!(sums.as_deref().map(<[f32]>::len), spec.pool.then_some(batch * channels), "sums");

    if out.is_empty() {
        sums.into_iter().for_each(|sums| sums.fill(0.0));
        return;
    }
    let isa = ctx.isa();
    let lanes = dispatch(isa, Lanes);
    let shape = if kernel == 7 { planes::shape(spec, lanes) } else { direct::shape(spec) };
    let (bands, chunks) = (oh.div_ceil(shape.rows), channels.div_ceil(shape.channels.max(1)));
    let mut partial_sums = vec![0.0; if spec.pool { batch * bands * channels } else { 0 }];
    let shared_out = Disjoint::new(out);
    let shared_sums = Disjoint::new(&mut partial_sums);
    ctx.parallel(batch * bands * chunks, scratch_bytes::<f32>(shape.scratch), |index, mut scratch| {
        let (image, band, chunk) = (index / chunks / bands, index / chunks % bands, index % chunks);
        let chunk = chunk * shape.channels..channels.min((chunk + 1) * shape.channels);
        let task = Task {
            spec,
            x: &x[image * spec.input[0] * spec.input[1] * channels..][..spec.input[0] * spec.input[1] * channels],
            weight,
            bias,
            rows: band * shape.rows..oh.min((band + 1) * shape.rows),
            channels: chunk.clone(),
            out: shared_out,
            out_start: image * oh * ow * channels,
            // SAFETY: each task has its own image, band and channels.
            sums: spec
                .pool
                .then(|| unsafe { shared_sums.slice((image * bands + band) * channels + chunk.start, chunk.len()) }),
            scratch: scratch.take(shape.scratch),
        };
        match (kernel, stride) {
            (3, 1) => dispatch(isa, direct::Direct::<T, 3, 1>(task)),
            (3, _) => dispatch(isa, direct::Direct::<T, 3, 2>(task)),
            (5, 1) => dispatch(isa, direct::Direct::<T, 5, 1>(task)),
            (5, _) => dispatch(isa, direct::Direct::<T, 5, 2>(task)),
            (_, 1) => dispatch(isa, planes::Planes::<T, 7, 1>(task)),
            (_, _) => dispatch(isa, planes::Planes::<T, 7, 2>(task)),
        }
    });
    if let Some(sums) = sums {
        merge_bands(bands, &partial_sums, channels, sums);
    }
}

/// What one task takes.
struct Shape {
    /// Output rows of a band. Sums are merged band by band, so this must not depend on the number of threads.
    rows: usize,
    /// Channels of a chunk.
    channels: usize,
    /// Values of scratch.
    scratch: usize,
}

/// One band of output rows of one image, for some channels.
struct Task<'a, T: Element> {
    spec: &'a DepthwiseSpec,
    /// The image.
    x: &'a [T],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    rows: Range<usize>,
    channels: Range<usize>,
    /// The outputs of all images.
    out: Disjoint<'a, T>,
    /// The image's first element in `out`.
    out_start: usize,
    /// Sums over the band, one per channel of the task.
    sums: Option<&'a mut [f32]>,
    scratch: &'a mut [f32],
}

impl<T: Element> Task<'_, T> {
    /// Stores a row of a block, the first `width` pixels from output (y, x) on, `lanes` channels from `channel` on.
    ///
    /// # Safety
    /// The pixels are of this task's band, the channels of its chunk.
    #[inline(always)]
    unsafe fn store<V: Vector>(
        &self,
        sums: &[V; window::WIDTH],
        [y, x]: [usize; 2],
        channel: usize,
        lanes: usize,
        width: usize,
    ) {
        let channels = self.spec.channels;
        let start = self.out_start + (y * self.spec.output()[1] + x) * channels + channel;
        // SAFETY: tasks have bands and chunks of their own.
        unsafe {
            let to = self.out.slice(start, (width - 1) * channels + lanes).as_mut_ptr();
            if width == window::WIDTH && lanes == V::LANES {
                for (p, sum) in sums.iter().enumerate() {
                    sum.store_as(to.add(p * channels));
                }
            } else {
                for (p, sum) in sums.iter().enumerate().take(width) {
                    sum.store_partial_as(to.add(p * channels), lanes);
                }
            }
        }
    }

    /// The bias of `lanes` channels from `channel` on; zero if there is none.
    #[inline(always)]
    fn bias<V: Vector>(&self, channel: usize, lanes: usize) -> V {
        match self.bias {
            // SAFETY: the slice has that many values.
            Some(bias) => unsafe { V::load_partial(bias[channel..][..lanes].as_ptr(), lanes) },
            None => V::zero(),
        }
    }

    /// Adds the first `width` of a row of sums to the task's sums of `lanes` channels from `channel` on.
    #[inline(always)]
    fn add_to_sums<V: Vector>(&mut self, sums: &[V; window::WIDTH], channel: usize, lanes: usize, width: usize) {
        if let Some(to) = &mut self.sums {
            let to = &mut to[channel - self.channels.start..][..lanes];
            let mut total = V::zero();
            for sum in &sums[..width] {
                total = total.add(*sum);
            }
            // SAFETY: the slice has `lanes` values.
            unsafe { V::load_partial(to.as_ptr(), lanes).add(total).store_partial(to.as_mut_ptr(), lanes) };
        }
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

//! Patches of the input as rows of a matrix (im2col), a tile of them at a time.
//!
//! A patch is `kernel` runs of `kernel · C` elements that lie side by side in the input. Runs may be as short as nine elements
//! (a stem), so they are copied in whole vectors that reach behind the run's end: the next run, or the next patch, overwrites
//! what was too much.

use super::super::ConvSpec;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Element, Isa};
use std::ops::Range;

/// Bytes of the widest vector.
const PIECE: usize = 64;

/// The patches under the output pixels of a convolution.
pub(in crate::conv) struct Patches<'a, T> {
    spec: &'a ConvSpec,
    output: [usize; 2],
    x: &'a [T],
}

impl<'a, T: Element> Patches<'a, T> {
    pub(in crate::conv) fn new(spec: &'a ConvSpec, x: &'a [T]) -> Self {
        assert_eq!(x.len(), spec.batch * spec.input[0] * spec.input[1] * spec.channels);
        Self { spec, output: spec.output(), x }
    }

    /// Distance of gathered rows in elements: whole cache lines.
    pub(in crate::conv) fn row_len(&self) -> usize {
        self.spec.depth().next_multiple_of(PIECE / size_of::<T>())
    }

    /// Elements of scratch that `pixels` gathered rows take, with what is copied too much behind the last run.
    pub(in crate::conv) fn scratch_len(&self, pixels: usize) -> usize {
        pixels * self.row_len() + PIECE / size_of::<T>()
    }

    /// Writes the patches of the output pixels `pixels` (of the whole batch, row by row), each [kernel, kernel, C], to rows of
    /// `to`. What lies between a patch and the next row is undefined.
    pub(in crate::conv) fn gather(&self, isa: Isa, pixels: Range<usize>, to: &mut [T]) {
        let [oh, ow] = self.output;
        assert!(pixels.end <= self.spec.batch * oh * ow && self.scratch_len(pixels.len()) <= to.len());
        dispatch(isa, Gather { patches: self, pixels, to });
    }

    /// Writes the patch of one output pixel, anywhere.
    fn patch(&self, [image, y, x]: [usize; 3], to: &mut [T]) {
        let ConvSpec { input: [height, width], channels, kernel, stride, padding, .. } = *self.spec;
        let run = kernel * channels;
        // Columns of the kernel that are inside the image.
        let last = (width + padding).saturating_sub(x * stride).min(kernel);
        let first = padding.saturating_sub(x * stride).min(last);
        for (i, to) in to[..kernel * run].chunks_exact_mut(run).enumerate() {
            match (y * stride + i).checked_sub(padding).filter(|row| *row < height) {
                Some(row) if first < last => {
                    let from = ((image * height + row) * width + x * stride + first - padding) * channels;
                    to[..first * channels].fill(T::default());
                    to[first * channels..last * channels].copy_from_slice(&self.x[from..][..(last - first) * channels]);
                    to[last * channels..].fill(T::default());
                }
                _ => to.fill(T::default()),
            }
        }
    }

    /// Output columns of row `y` whose patches are inside the image, and whose runs have whole vectors of `piece` elements
    /// behind their start. Empty if kernel rows are outside.
    fn inner_columns(&self, image: usize, y: usize, piece: usize) -> Range<usize> {
        let ConvSpec { batch, input: [height, width], channels, kernel, stride, padding, .. } = *self.spec;
        if y * stride < padding || y * stride + kernel > height + padding || width + padding < kernel {
            return 0..0;
        }
        let end = ((width + padding - kernel) / stride + 1).min(self.output[1]);
        // Only at the very end of the input can a vector reach too far.
        let last_row = image * height + y * stride - padding + kernel - 1;
        let rest = ((batch * height - last_row) * width + padding) * channels;
        let reach = (kernel * channels).next_multiple_of(piece);
        let fitting = rest.checked_sub(reach).map_or(0, |rest| rest / (stride * channels) + 1);
        padding.div_ceil(stride)..end.min(fitting)
    }
}

struct Gather<'a, T> {
    patches: &'a Patches<'a, T>,
    pixels: Range<usize>,
    to: &'a mut [T],
}

impl<T: Element> Kernel for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Gather { patches, pixels, to } = self;
        let ([oh, ow], row_len) = (patches.output, patches.row_len());
        let ConvSpec { input: [height, width], channels, kernel, stride, padding, .. } = *patches.spec;
        // Elements of one vector: bits are moved, whatever they mean.
        let piece = V::LANES * size_of::<f32>() / size_of::<T>();
        let run = kernel * channels;
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (image, y, x) = (pixel / (oh * ow), pixel / ow % oh, pixel % ow);
            let columns = x..ow.min(x + pixels.end - pixel);
            let inner = patches.inner_columns(image, y, piece);
            for x in columns.clone() {
                let to = &mut to[(pixel - pixels.start + x - columns.start) * row_len..];
                if !inner.contains(&x) {
                    patches.patch([image, y, x], to);
                    continue;
                }
                let first = ((image * height + y * stride - padding) * width + x * stride - padding) * channels;
                // SAFETY: the patch is inside the image and its last run's vectors inside the input (`inner_columns`);
                // `to` has a row and one more vector (`scratch_len`).
                unsafe {
                    let (mut from, mut to) = (patches.x.as_ptr().add(first), to.as_mut_ptr());
                    for _ in 0..kernel {
                        let mut i = 0;
                        while i < run {
                            V::load(from.add(i).cast()).store(to.add(i).cast());
                            i += piece;
                        }
                        from = from.add(width * channels);
                        to = to.add(run);
                    }
                }
            }
            pixel += columns.len();
        }
    }
}

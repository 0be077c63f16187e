//! Patches of the input as rows of a matrix (im2col), a tile of them at a time.

use super::super::ConvSpec;
use crate::Element;
use std::ops::Range;

/// Runs are copied in pieces of this many bytes: short runs (9 elements in a stem) must not cost a call each.
const PIECE: usize = 64;

/// The patches under the output pixels of a convolution.
pub(super) struct Patches<'a, T> {
    spec: &'a ConvSpec,
    output: [usize; 2],
    x: &'a [T],
}

impl<'a, T: Element> Patches<'a, T> {
    pub(super) fn new(spec: &'a ConvSpec, x: &'a [T]) -> Self {
        assert_eq!(x.len(), spec.batch * spec.input[0] * spec.input[1] * spec.channels);
        Self { spec, output: spec.output(), x }
    }

    /// Distance of gathered rows in elements: whole cache lines.
    pub(super) fn row_len(&self) -> usize {
        self.spec.depth().next_multiple_of(PIECE / size_of::<T>())
    }

    /// Elements of scratch that `pixels` gathered rows take; pieces may reach behind the last run.
    pub(super) fn scratch_len(&self, pixels: usize) -> usize {
        pixels * self.row_len() + PIECE / size_of::<T>()
    }

    /// Writes the patches of the output pixels `pixels` (of the whole batch, row by row), each [kernel, kernel, C], to rows of
    /// `to`. What lies between a patch and the next row is undefined.
    pub(super) fn gather(&self, pixels: Range<usize>, to: &mut [T]) {
        let [oh, ow] = self.output;
        assert!(pixels.end <= self.spec.batch * oh * ow && self.scratch_len(pixels.len()) <= to.len());
        let (mut image, mut y, mut x) = (pixels.start / (oh * ow), pixels.start / ow % oh, pixels.start % ow);
        for row in 0..pixels.len() {
            self.patch(image, y, x, &mut to[row * self.row_len()..]);
            x += 1;
            if x == ow {
                (x, y) = (0, y + 1);
                if y == oh {
                    (y, image) = (0, image + 1);
                }
            }
        }
    }

    /// Writes the patch of one output pixel.
    #[inline(always)]
    fn patch(&self, image: usize, y: usize, x: usize, to: &mut [T]) {
        let ConvSpec { input: [height, width], channels, kernel, stride, padding, .. } = *self.spec;
        let run = kernel * channels;
        // Columns of the kernel that are inside the image.
        let first = padding.saturating_sub(x * stride);
        let last = (width + padding).saturating_sub(x * stride).min(kernel);
        for i in 0..kernel {
            let to = &mut to[i * run..];
            let row = (y * stride + i).checked_sub(padding).filter(|row| *row < height);
            match row {
                Some(row) if first < last => {
                    let from = ((image * height + row) * width + x * stride + first - padding) * channels;
                    if last - first == kernel {
                        copy_run(self.x, from, run, to);
                    } else {
                        let (from, len) = (&self.x[from..], (last - first) * channels);
                        to[..first * channels].fill(T::default());
                        to[first * channels..][..len].copy_from_slice(&from[..len]);
                        to[last * channels..run].fill(T::default());
                    }
                }
                _ => to[..run].fill(T::default()),
            }
        }
    }
}

/// Copies `x[from..from + len]` to the start of `to`, writing up to one piece more than that where there is room.
#[inline(always)]
fn copy_run<T: Element>(x: &[T], from: usize, len: usize, to: &mut [T]) {
    let piece = PIECE / size_of::<T>();
    let rounded = len.next_multiple_of(piece);
    if rounded > to.len() || rounded > x.len() - from {
        to[..len].copy_from_slice(&x[from..][..len]);
        return;
    }
    for (from, to) in x[from..][..rounded].chunks_exact(piece).zip(to[..rounded].chunks_exact_mut(piece)) {
        to.copy_from_slice(from);
    }
}

//! Gradient of the way out of the warp: what a pixel of the image took from four logits, it gives back to them.
//!
//! Pixels are sorted by the row of logits that they sampled above them, so that a row of the gradient is one task, which adds
//! what is its in the order of the pixels. 8 operations per pixel and class.

use super::{FaceWarp, Grid, OutwardGrid};
use crate::Context;
use crate::context::{Disjoint, scratch_bytes};
use crate::gradient::Gradient;
use crate::simd::{Kernel, Vector, dispatch};

/// Where a pixel of the image sampled the logits: left of and above `left`, `top`, by these weights of the right and of the
/// lower.
#[derive(Clone, Copy)]
struct Sample {
    left: i32,
    top: i32,
    east: f32,
    south: f32,
}

/// A sample of nothing.
const NOWHERE: Sample = Sample { left: -2, top: -2, east: 0.0, south: 0.0 };

impl FaceWarp {
    /// The adjoint of [`FaceWarp::unwarp`]: the gradient `d_out` `[H, W, classes]` of the image's logits to that of the network's,
    /// `[h, w, classes]` with `size` = (w, h). There is none for [`FaceWarp::warp`], as images have no gradient.
    ///
    /// # Panics
    /// If a length does not fit the sizes given to [`FaceWarp::fit`].
    pub fn unwarp_backward(
        &self,
        ctx: &mut Context,
        d_out: &[f32],
        size: (usize, usize),
        classes: usize,
        d_logits: Gradient<'_, f32>,
    ) {
        let (width, height) = size;
        assert_eq!(d_out.len(), self.image.0 * self.image.1 * classes, "d_out of {:?} × {classes}", self.image);
        assert_eq!(d_logits.values.len(), width * height * classes, "d_logits of {size:?} × {classes}");
        let samples = self.samples(ctx, size);
        // Bucket r holds the pixels whose upper row is r − 1: those of rows −1 to height − 1.
        let bucket = |sample: &Sample| usize::try_from(sample.top + 1).ok().filter(|bucket| *bucket <= height);
        let mut starts = vec![0usize; height + 2];
        samples.iter().filter_map(bucket).for_each(|bucket| starts[bucket + 1] += 1);
        for bucket in 0..=height {
            starts[bucket + 1] += starts[bucket];
        }
        let mut next = starts.clone();
        let mut sorted = vec![0u32; starts[height + 1]];
        for (pixel, sample) in samples.iter().enumerate() {
            if let Some(bucket) = bucket(sample) {
                sorted[next[bucket]] = pixel as u32;
                next[bucket] += 1;
            }
        }
        let isa = ctx.isa();
        let d_logits = d_logits.share();
        let row_len = width * classes;
        ctx.parallel(height, 0, |row, _| {
            // SAFETY: each task has its own row.
            let to = unsafe { d_logits.values.slice(row * row_len, row_len) };
            if !d_logits.accumulate {
                to.fill(0.0);
            }
            // This row is the lower one of those in bucket `row`, the upper one of those in the next.
            for (bucket, lower) in [(row, true), (row + 1, false)] {
                let pixels = &sorted[starts[bucket]..starts[bucket + 1]];
                dispatch(isa, Give { pixels, samples: &samples, lower, classes, d_out, to: &mut *to });
            }
        });
    }

    /// Lists of the image's pixels by where they sample logits of `size` = (w, h), for a device that adds up their gradients: a sample
    /// between rows `top` and `top + 1`, columns `left` and `left + 1` is in list (top + 1)·(w + 1) + left + 1, of which there are (h + 1)·(w + 1).
    /// Returns where each list begins and the last one ends, and the lists one after another, pixels ascending; a pixel that
    /// samples nothing is in none, and zeros behind the lists make up for those.
    pub fn cells(&self, ctx: &mut Context, size: (usize, usize)) -> (Vec<u32>, Vec<u32>) {
        let (width, height) = size;
        let samples = self.samples(ctx, size);
        let cell = |sample: &Sample| {
            let row = usize::try_from(sample.top + 1).ok()?;
            Some(row * (width + 1) + usize::try_from(sample.left + 1).ok()?)
        };
        let mut starts = vec![0u32; (height + 1) * (width + 1) + 1];
        samples.iter().filter_map(cell).for_each(|cell| starts[cell + 1] += 1);
        for cell in 1..starts.len() {
            starts[cell] += starts[cell - 1];
        }
        let mut next = starts.clone();
        let mut pixels = vec![0u32; samples.len()];
        for (pixel, cell) in samples.iter().enumerate().filter_map(|(pixel, sample)| Some((pixel, cell(sample)?))) {
            pixels[next[cell] as usize] = pixel as u32;
            next[cell] += 1;
        }
        (starts, pixels)
    }

    /// Where every pixel of the image samples logits of that (width, height).
    fn samples(&self, ctx: &mut Context, size: (usize, usize)) -> Vec<Sample> {
        let (columns, rows) = self.image;
        let grid = OutwardGrid { matrix: self.to_standard, warped: (self.warped.0 as f32, self.warped.1 as f32) };
        let (size_w, size_h) = (size.0 as f32, size.1 as f32);
        let (frame_w, frame_h) = (self.warped.0 as f32, self.warped.1 as f32);
        let mut samples = vec![NOWHERE; columns * rows];
        let all = Disjoint::new(&mut samples);
        ctx.parallel(rows, 2 * scratch_bytes::<f32>(columns), |row, mut scratch| {
            let (xs, ys) = (scratch.take::<f32>(columns), scratch.take::<f32>(columns));
            grid.row(row, xs, ys);
            // SAFETY: each task has its own row.
            let samples = unsafe { all.slice(row * columns, columns) };
            for ((x, y), sample) in xs.iter().zip(ys).zip(samples) {
                // As the sampler of the forward pass has it.
                let x = ((*x / frame_w * 2.0 - 1.0) + 1.0) * (size_w / 2.0) - 0.5;
                let y = ((*y / frame_h * 2.0 - 1.0) + 1.0) * (size_h / 2.0) - 0.5;
                let (left, top) = (x.floor(), y.floor());
                if left >= -1.0 && top >= -1.0 && left < size_w && top < size_h {
                    *sample = Sample { left: left as i32, top: top as i32, east: x - left, south: y - top };
                }
            }
        });
        samples
    }
}

/// Adds what `pixels` give to a row of logits, as their lower or their upper one.
struct Give<'a> {
    pixels: &'a [u32],
    samples: &'a [Sample],
    lower: bool,
    classes: usize,
    d_out: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Give<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pixels, samples, lower, classes, d_out, to } = self;
        for pixel in pixels {
            let Sample { left, east, south, .. } = samples[*pixel as usize];
            let share = if lower { south } else { 1.0 - south };
            let from = &d_out[*pixel as usize * classes..][..classes];
            for (column, weight) in [(left, share * (1.0 - east)), (left + 1, share * east)] {
                let Some(start) = usize::try_from(column).ok().map(|column| column * classes) else { continue };
                if start >= to.len() {
                    continue;
                }
                let to = &mut to[start..start + classes];
                let mut i = 0;
                while i < classes {
                    let count = V::LANES.min(classes - i);
                    // SAFETY: both have `classes` values.
                    unsafe {
                        let value = V::load_partial(from.as_ptr().add(i), count);
                        let sum = V::load_partial(to.as_ptr().add(i), count);
                        value.mul_add(V::splat(weight), sum).store_partial(to.as_mut_ptr().add(i), count);
                    }
                    i += count;
                }
            }
        }
    }
}

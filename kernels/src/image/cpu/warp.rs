//! LaPa's RoI-tanh warp: the face large in the middle, the rest squeezed towards the border, and back.
//!
//! With `A` the least-squares similarity from a face's five points to the standard ones, `f` = 0.8 and all sizes in pixels,
//! pixel (x, y) at integer coordinates:
//!
//! - into the network, per output pixel `p`: `c = 2p/size − 1`; per axis, where `|c| > 1 − f`,
//!   `c = ±(atanh(min((|c| − 1 + f)/f, 0.999))·f + 1 − f)`; `q = A⁻¹·((c + 1)·size/2)`; the image is sampled at `2q/size − 1`;
//! - out of it, per output pixel `p`: `q = A·p`, `c = 2q/size − 1`, `tanh` where the other has `atanh`; the logits are sampled there.
//!
//! Sampling is `grid_sample(bilinear, zeros, align_corners = False)`, so an integer grid reads half a pixel low. The published
//! networks were trained with that; it stays.

mod backward;

use super::Tier;
use crate::Context;
use crate::context::{Disjoint, scratch_bytes};
use crate::image::{STANDARD_FACE_POINTS, WARP_FACTOR};

/// Rows that one task of the parallel loop handles.
const ROWS_PER_TASK: usize = 8;

/// Why no warp can be fitted.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum WarpError {
    /// A coordinate is NaN or infinite.
    #[error("landmark {index} is ({x}, {y}): coordinates must be finite numbers")]
    NotFinite {
        /// Which of the five points, from 0.
        index: usize,
        /// Its x.
        x: f32,
        /// Its y.
        y: f32,
    },
    /// The points give no scale or direction.
    #[error(
        "the five landmarks lie in one place, or fit no face at all: eyes, nose and corners of the mouth must lie apart"
    )]
    Degenerate,
}

/// Where each output row samples the source.
trait Grid: Sync {
    /// Writes the positions (x, y) of row `y`, in pixels of the frame.
    fn row(&self, y: usize, xs: &mut [f32], ys: &mut [f32]);
}

/// From the warped frame to the image. The bend acts on each axis by itself before the similarity mixes them, so it is taken once
/// per column and row, not per pixel.
struct InwardGrid {
    matrix: Affine,
    columns: Vec<f32>,
    rows: Vec<f32>,
}

impl Grid for InwardGrid {
    #[inline(always)]
    fn row(&self, y: usize, xs: &mut [f32], ys: &mut [f32]) {
        for ((&column, x), y_out) in self.columns.iter().zip(xs).zip(ys) {
            (*x, *y_out) = apply(&self.matrix, column, self.rows[y]);
        }
    }
}

/// From the image to the warped frame, of the given size.
struct OutwardGrid {
    matrix: Affine,
    warped: (f32, f32),
}

impl Grid for OutwardGrid {
    #[inline(always)]
    fn row(&self, y: usize, xs: &mut [f32], ys: &mut [f32]) {
        let (width, height) = self.warped;
        for (column, (x, y_out)) in xs.iter_mut().zip(ys).enumerate() {
            let (qx, qy) = apply(&self.matrix, column as f32, y as f32);
            *x = (unbend(qx / width * 2.0 - 1.0) + 1.0) / 2.0 * width;
            *y_out = (unbend(qy / height * 2.0 - 1.0) + 1.0) / 2.0 * height;
        }
    }
}

/// Affine map `[x', y'] = [m0·x + m1·y + m2, m3·x + m4·y + m5]`.
type Affine = [f32; 6];

#[inline(always)]
fn apply(m: &Affine, x: f32, y: f32) -> (f32, f32) {
    (m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5])
}

/// The warp of one face: two grids that depend on its five points and the sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct FaceWarp {
    image: (usize, usize),
    warped: (usize, usize),
    to_standard: Affine,
    from_standard: Affine,
}

impl FaceWarp {
    /// Fits the similarity from `landmarks` to the standard face.
    ///
    /// `landmarks`: centre of the left eye, of the right eye, tip of the nose, left and right corner of the mouth, as (x, y)
    /// in pixels of the image that goes into the warp (the resized one); left is the left of the picture. `image` and
    /// `warped` are (width, height) before and after; the published networks use R×R for both.
    ///
    /// # Errors
    /// [`WarpError`] when a coordinate is not finite or the points define no similarity.
    ///
    /// # Panics
    /// If a side is zero.
    pub fn fit(landmarks: &[[f32; 2]; 5], image: (usize, usize), warped: (usize, usize)) -> Result<Self, WarpError> {
        assert!(image.0 > 0 && image.1 > 0 && warped.0 > 0 && warped.1 > 0, "{image:?} to {warped:?}");
        if let Some(index) = landmarks.iter().position(|p| !(p[0].is_finite() && p[1].is_finite())) {
            return Err(WarpError::NotFinite { index, x: landmarks[index][0], y: landmarks[index][1] });
        }
        let side = [(warped.0 as f32) - 1.0, (warped.1 as f32) - 1.0];
        let target =
            STANDARD_FACE_POINTS.map(|p| [0, 1].map(|axis| ((p[axis] / 256.0 - 1.0) + 1.0) * side[axis] / 2.0));
        let mean = |points: &[[f32; 2]; 5]| [0, 1].map(|axis| points.iter().map(|p| p[axis]).sum::<f32>() / 5.0);
        let (from_mean, to_mean) = (mean(landmarks), mean(&target));
        let (mut square, mut dot, mut cross) = (0f32, 0f32, 0f32);
        for (from, to) in landmarks.iter().zip(&target) {
            let (fx, fy) = (from[0] - from_mean[0], from[1] - from_mean[1]);
            let (tx, ty) = (to[0] - to_mean[0], to[1] - to_mean[1]);
            square += fx * fx + fy * fy;
            dot += tx * fx + ty * fy;
            cross += tx * fy - ty * fx;
        }
        let (a, b) = (dot / square, cross / square);
        let dx = to_mean[0] - a * from_mean[0] - b * from_mean[1];
        let dy = to_mean[1] + b * from_mean[0] - a * from_mean[1];
        let to_standard = [a, b, dx, -b, a, dy];
        let from_standard = invert(&to_standard);
        if to_standard.iter().chain(&from_standard).any(|v| !v.is_finite()) {
            return Err(WarpError::Degenerate);
        }
        Ok(FaceWarp { image, warped, to_standard, from_standard })
    }

    /// Where the warped frame's columns, then its rows, lie in the standard frame, in pixels. It depends on the frame's size alone.
    pub fn bent_axes(&self) -> Vec<f32> {
        let bent = |index: usize, size: f32| (bend(index as f32 / size * 2.0 - 1.0) + 1.0) / 2.0 * size;
        let axis = |length: usize| (0..length).map(move |index| bent(index, length as f32));
        axis(self.warped.0).chain(axis(self.warped.1)).collect()
    }

    /// The maps from the standard frame to the image and back.
    pub(in crate::image) fn matrices(&self) -> (Affine, Affine) {
        (self.from_standard, self.to_standard)
    }

    /// The image as the network wants to see it: `image` `[H, W, channels]` to `out` `[warped H, warped W, channels]`,
    /// overwritten.
    ///
    /// # Panics
    /// If a length does not fit the sizes given to [`FaceWarp::fit`].
    pub fn warp(&self, ctx: &mut Context, image: &[f32], channels: usize, out: &mut [f32]) {
        let mut columns = self.bent_axes();
        let rows = columns.split_off(self.warped.0);
        let grid = InwardGrid { matrix: self.from_standard, columns, rows };
        resample(ctx, (image, self.image), self.image, (out, self.warped), channels, &grid);
    }

    /// The logits back in the image's frame: `logits` `[h, w, classes]`, whose `size` = (w, h) covers the warped frame (it is
    /// another one where a side of that is no multiple of 4), to `out` `[H, W, classes]`, overwritten. Outside of what the
    /// network saw all logits are 0, so that argmax gives class 0, the background.
    ///
    /// # Panics
    /// As [`FaceWarp::warp`].
    pub fn unwarp(&self, ctx: &mut Context, logits: &[f32], size: (usize, usize), classes: usize, out: &mut [f32]) {
        let grid = OutwardGrid { matrix: self.to_standard, warped: (self.warped.0 as f32, self.warped.1 as f32) };
        resample(ctx, (logits, size), self.warped, (out, self.image), classes, &grid);
    }
}

/// Samples `source` wherever `grid` says, for each row of `out`. A buffer comes with its (width, height); the grid's points are
/// in pixels of a `frame` of that (width, height), which the source covers.
fn resample(
    ctx: &mut Context,
    (source, source_size): (&[f32], (usize, usize)),
    frame: (usize, usize),
    (out, out_size): (&mut [f32], (usize, usize)),
    channels: usize,
    grid: &impl Grid,
) {
    assert_eq!(source.len(), source_size.0 * source_size.1 * channels, "source of {source_size:?} × {channels}");
    assert_eq!(out.len(), out_size.0 * out_size.1 * channels, "result of {out_size:?} × {channels}");
    let tier = Tier::of(ctx);
    let sampler = Sampler { source, width: source_size.0, height: source_size.1, frame, channels };
    let row_len = out_size.0 * channels;
    let shared = Disjoint::new(out);
    ctx.parallel(out_size.1.div_ceil(ROWS_PER_TASK), 2 * scratch_bytes::<f32>(out_size.0), |task, mut scratch| {
        let (xs, ys) = (scratch.take::<f32>(out_size.0), scratch.take::<f32>(out_size.0));
        for y in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(out_size.1) {
            // SAFETY: each `y` belongs to one task.
            let row = unsafe { shared.slice(y * row_len, row_len) };
            match tier {
                Tier::Portable => sampler.row(grid, y, (xs, ys), row),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the CPU has what a context's instruction set needs.
                Tier::Avx2 => unsafe { sampler.row_avx2(grid, y, (xs, ys), row) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Tier::Avx512 => unsafe { sampler.row_avx512(grid, y, (xs, ys), row) },
            }
        }
    });
}

/// Inverse of a similarity, taken in f64: one rounding, no further error on top of the published f32.
fn invert(m: &Affine) -> Affine {
    let m = m.map(f64::from);
    let det = m[0] * m[4] - m[1] * m[3];
    let (i0, i1, i3, i4) = (m[4] / det, -m[1] / det, -m[3] / det, m[0] / det);
    [i0, i1, -(i0 * m[2] + i1 * m[5]), i3, i4, -(i3 * m[2] + i4 * m[5])].map(|v| v as f32)
}

/// From the warped frame to the standard frame, one axis in [−1, 1].
fn bend(c: f32) -> f32 {
    let straight = 1.0 - WARP_FACTOR;
    let atanh = |v: f32| f64::from(v.clamp(-0.999, 0.999)).atanh() as f32;
    if c > straight {
        atanh((c - 1.0 + WARP_FACTOR) / WARP_FACTOR) * WARP_FACTOR + 1.0 - WARP_FACTOR
    } else if c < -straight {
        atanh((c + 1.0 - WARP_FACTOR) / WARP_FACTOR) * WARP_FACTOR - 1.0 + WARP_FACTOR
    } else {
        c
    }
}

/// From the standard frame to the warped frame, one axis. Without a branch, so that rows of it become vectors.
#[inline(always)]
fn unbend(c: f32) -> f32 {
    let straight = 1.0 - WARP_FACTOR;
    // The published order of additions differs in sign only, and f32 rounds symmetrically.
    let bent = tanh((c.abs() - 1.0 + WARP_FACTOR) / WARP_FACTOR) * WARP_FACTOR + 1.0 - WARP_FACTOR;
    if c.abs() > straight { bent.copysign(c) } else { c }
}

/// Hyperbolic tangent of `x ≥ 0`, to an absolute error of 1.5e-7: `(1 − e)/(1 + e)` with `e = exp(−2x)`. Negative `x` give
/// something finite that the caller does not use.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    // Adding and subtracting 1.5·2²³ rounds to an integer.
    const ROUND: f32 = 12_582_912.0;
    let exponent = (x * (-2.0 * std::f32::consts::LOG2_E)).clamp(-126.0, 0.0);
    let whole = (exponent + ROUND) - ROUND;
    let rest = exponent - whole;
    // 2^rest for |rest| ≤ ½: the Taylor series of exp(rest·ln 2).
    const LN_2: f32 = std::f32::consts::LN_2;
    let r = rest * LN_2;
    let power =
        1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    let e = power * f32::from_bits(((whole as i32 + 127) << 23) as u32);
    (1.0 - e) / (1.0 + e)
}

/// `grid_sample(mode = "bilinear", padding_mode = "zeros", align_corners = False)` of channels-last data.
struct Sampler<'a> {
    source: &'a [f32],
    width: usize,
    height: usize,
    /// Width and height of the frame that the points are given in.
    frame: (usize, usize),
    channels: usize,
}

impl Sampler<'_> {
    /// Samples at the pixel coordinates (xs, ys), normalised and unnormalised again as the published code does, because those
    /// roundings are part of what the networks saw.
    #[inline(always)]
    fn row(&self, grid: &impl Grid, y: usize, (xs, ys): (&mut [f32], &mut [f32]), out: &mut [f32]) {
        grid.row(y, xs, ys);
        let (size_w, size_h) = (self.width as f32, self.height as f32);
        let (frame_w, frame_h) = (self.frame.0 as f32, self.frame.1 as f32);
        for ((&mut x, &mut y), values) in xs.iter_mut().zip(ys).zip(out.chunks_exact_mut(self.channels)) {
            let x = ((x / frame_w * 2.0 - 1.0) + 1.0) * (size_w / 2.0) - 0.5;
            let y = ((y / frame_h * 2.0 - 1.0) + 1.0) * (size_h / 2.0) - 0.5;
            let (left, top) = (x.floor(), y.floor());
            let (east, south) = (x - left, y - top);
            let (west, north) = (1.0 - east, 1.0 - south);
            let inside = left >= 0.0 && top >= 0.0 && left + 1.0 < size_w && top + 1.0 < size_h;
            if inside {
                let start = (top as usize * self.width + left as usize) * self.channels;
                let (upper, lower) = (&self.source[start..], &self.source[start + self.width * self.channels..]);
                let (nw, ne) = upper[..2 * self.channels].split_at(self.channels);
                let (sw, se) = lower[..2 * self.channels].split_at(self.channels);
                let weights = [north * west, north * east, south * west, south * east];
                for (value, (((nw, ne), sw), se)) in values.iter_mut().zip(nw.iter().zip(ne).zip(sw).zip(se)) {
                    *value = nw * weights[0] + ne * weights[1] + sw * weights[2] + se * weights[3];
                }
            } else {
                self.edge(left, top, [north * west, north * east, south * west, south * east], values);
            }
        }
    }

    /// A sample with a corner outside, which counts as zero.
    #[cold]
    fn edge(&self, left: f32, top: f32, weights: [f32; 4], values: &mut [f32]) {
        values.fill(0.0);
        for (corner, weight) in weights.into_iter().enumerate() {
            let (x, y) = (left + (corner % 2) as f32, top + (corner / 2) as f32);
            // A NaN fails these tests, so it reads nothing.
            if x >= 0.0 && y >= 0.0 && x < self.width as f32 && y < self.height as f32 {
                let start = (y as usize * self.width + x as usize) * self.channels;
                for (value, source) in values.iter_mut().zip(&self.source[start..start + self.channels]) {
                    *value += source * weight;
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    fn row_avx512(&self, grid: &impl Grid, y: usize, at: (&mut [f32], &mut [f32]), out: &mut [f32]) {
        self.row(grid, y, at, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn row_avx2(&self, grid: &impl Grid, y: usize, at: (&mut [f32], &mut [f32]), out: &mut [f32]) {
        self.row(grid, y, at, out);
    }
}

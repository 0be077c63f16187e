//! The CPU twin: coarse taps are projected at their own resolution, then each output row is a task: its product, its bias
//! and the three interpolated maps meet in f32 and are rounded once.

use super::{MlpFusionOperands, MlpFusionSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::tile;
use crate::resample::cpu::{Tap, taps};
use crate::rows::{convert_row, load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// Pixels of one product.
const TILE: usize = 64;

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says, or a tap has no pixel.
pub fn mlp_fusion<T: Element>(ctx: &mut Context, spec: &MlpFusionSpec, operands: MlpFusionOperands<'_, T>) {
    let MlpFusionSpec { batch, taps: sizes, width } = *spec;
    let MlpFusionOperands { taps: maps, weights, bias, projected, out } = operands;
    let pixels = sizes.map(|[height, width, _]| height * width);
    assert!(pixels.iter().all(|n| *n > 0), "taps {sizes:?}");
    for i in 0..4 {
        assert_eq!(maps[i].len(), batch * pixels[i] * sizes[i][2], "tap {i}");
        assert_eq!((weights[i].n(), weights[i].k()), (width, sizes[i][2]), "weight {i}");
    }
    assert_eq!((bias.len(), projected.len()), (width, spec.projected_len()), "bias and projected");
    assert_eq!(out.len(), batch * pixels[0] * width, "out");

    let isa = ctx.isa();
    let starts = [0, batch * pixels[1] * width, batch * (pixels[1] + pixels[2]) * width];
    let tiles = [1, 2, 3].map(|i| (batch * pixels[i]).div_ceil(TILE));
    {
        let projected = Disjoint::new(&mut *projected);
        ctx.parallel(tiles.iter().sum(), scratch_bytes::<f32>(TILE * width), |task, mut scratch| {
            let mut index = task;
            let mut coarse = 0;
            while index >= tiles[coarse] {
                index -= tiles[coarse];
                coarse += 1;
            }
            let tap = coarse + 1;
            let channels = sizes[tap][2];
            let first = index * TILE;
            let rows = TILE.min(batch * pixels[tap] - first);
            let sums = scratch.take::<f32>(rows * width);
            let x = &maps[tap][first * channels..][..rows * channels];
            tile(isa, rows, x, channels, weights[tap].view(), 0..width, sums, width, false);
            // SAFETY: each task has its own rows.
            let to = unsafe { projected.slice(starts[coarse] + first * width, rows * width) };
            convert_row(isa, sums, to);
        });
    }

    let [height, columns, channels] = sizes[0];
    let vertical = [1, 2, 3].map(|i| taps(sizes[i][0], height));
    let horizontal = [1, 2, 3].map(|i| taps(sizes[i][1], columns));
    let blended_len: usize = (1..4).map(|i| sizes[i][1] * width).sum();
    let scratch = scratch_bytes::<f32>(TILE * width) + scratch_bytes::<f32>(blended_len);
    let out = Disjoint::new(out);
    let projected = &*projected;
    ctx.parallel(batch * height, scratch, |task, mut scratch| {
        let (image, y) = (task / height, task % height);
        let sums = scratch.take::<f32>(TILE * width);
        let blended = scratch.take::<f32>(blended_len);
        let mut rest = &mut *blended;
        let rows: [&[f32]; 3] = std::array::from_fn(|coarse| {
            let [map_height, map_width, _] = sizes[coarse + 1];
            let (row, after) = std::mem::take(&mut rest).split_at_mut(map_width * width);
            rest = after;
            let Tap { low, high, weight } = vertical[coarse][y];
            let map_row = |y: usize| {
                &projected[starts[coarse] + (image * map_height + y) * map_width * width..][..map_width * width]
            };
            dispatch(isa, Blend { top: map_row(low), bottom: map_row(high), weight, out: row });
            &*row
        });
        for first in (0..columns).step_by(TILE) {
            let count = TILE.min(columns - first);
            let pixel = task * columns + first;
            let x = &maps[0][pixel * channels..][..count * channels];
            tile(isa, count, x, channels, weights[0].view(), 0..width, sums, width, false);
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(pixel * width, count * width) };
            let taps = [0, 1, 2].map(|coarse| &horizontal[coarse][first..first + count]);
            dispatch(isa, Sum { width, sums, bias, rows, taps, out });
        }
    });
}

/// `out = top + (bottom − top)·weight`, widened.
struct Blend<'a, T> {
    top: &'a [T],
    bottom: &'a [T],
    weight: f32,
    out: &'a mut [f32],
}

impl<T: Element> Kernel for Blend<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let len = self.out.len();
        assert!(self.top.len() == len && self.bottom.len() == len);
        let mut i = 0;
        while i < len {
            let count = V::LANES.min(len - i);
            // SAFETY: `count` elements from i on exist in all slices.
            unsafe {
                let top: V = load(self.top.as_ptr().add(i), count);
                let bottom: V = load(self.bottom.as_ptr().add(i), count);
                let value = bottom.sub(top).mul_add(V::splat(self.weight), top);
                store(value, self.out.as_mut_ptr().add(i), count);
            }
            i += count;
        }
    }
}

/// `out[p] = sums[p] + bias + Σ of the three rows, interpolated at p`.
struct Sum<'a, T> {
    width: usize,
    sums: &'a [f32],
    bias: &'a [f32],
    /// [w_i, width]
    rows: [&'a [f32]; 3],
    /// One per pixel.
    taps: [&'a [Tap]; 3],
    out: &'a mut [T],
}

impl<T: Element> Kernel for Sum<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { width, sums, bias, rows, taps, out } = self;
        assert!(bias.len() == width && sums.len() >= out.len());
        for (pixel, out) in out.chunks_exact_mut(width).enumerate() {
            let sums = sums[pixel * width..].as_ptr();
            let taps = taps.map(|taps| taps[pixel]);
            let low: [*const f32; 3] = std::array::from_fn(|j| rows[j][taps[j].low * width..][..width].as_ptr());
            let high: [*const f32; 3] = std::array::from_fn(|j| rows[j][taps[j].high * width..][..width].as_ptr());
            let mut i = 0;
            while i < width {
                let count = V::LANES.min(width - i);
                // SAFETY: all rows have `width` elements.
                unsafe {
                    let mut value = load::<V, f32>(sums.add(i), count).add(load(bias.as_ptr().add(i), count));
                    for j in 0..3 {
                        let low: V = load(low[j].add(i), count);
                        let high: V = load(high[j].add(i), count);
                        value = value.add(high.sub(low).mul_add(V::splat(taps[j].weight), low));
                    }
                    store(value, out.as_mut_ptr().add(i), count);
                }
                i += count;
            }
        }
    }
}

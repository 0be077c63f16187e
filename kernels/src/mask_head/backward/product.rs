//! Gradients of the mask product, on the CPU: `d_u[b, p] = Σ_t d_logits[b, p, t]·hyper[b, t]` and
//! `d_hyper[b, t] += Σ_p d_logits[b, p, t]·u[b, p]`. 4·pixels·classes·32 operations per image; logits' gradient and u are
//! read once, d_u is written.

use super::super::MaskProductSpec;
use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::{Left, multiply};
use crate::gradient::{Gradient, add_partials};
use crate::{Context, Element};

/// Width of the upscaled map.
const UPSCALED: usize = 32;

/// Pixels that are done at a time.
const TILE: usize = 256;

/// Tiles of one task, whose sums over pixels are one.
const TILES: usize = 8;

/// Operands of one call.
pub struct MaskProductBackwardOperands<'a, T: Element> {
    /// [batch, pixels, 32]
    pub u: &'a [T],
    /// [batch, T, 32]
    pub hyper: &'a [f32],
    /// [batch, pixels, T]
    pub d_logits: &'a [f32],
    /// [batch, pixels, 32]
    pub d_u: Gradient<'a, T>,
    /// [batch, T, 32]
    pub d_hyper: Gradient<'a, f32>,
}

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn mask_product_backward<T: Element>(
    ctx: &mut Context,
    spec: &MaskProductSpec,
    operands: MaskProductBackwardOperands<'_, T>,
) {
    let MaskProductSpec { batch, pixels, classes } = *spec;
    let MaskProductBackwardOperands { u, hyper, d_logits, d_u, d_hyper } = operands;
    let (map, filters) = (batch * pixels * UPSCALED, batch * classes * UPSCALED);
    assert_eq!((u.len(), d_u.values.len()), (map, map), "u and d_u");
    assert_eq!((hyper.len(), d_hyper.values.len()), (filters, filters), "hyper and d_hyper");
    assert_eq!(d_logits.len(), batch * pixels * classes, "d_logits");
    let isa = ctx.isa();
    let task_pixels = TILE * TILES;
    let tasks = pixels.div_ceil(task_pixels);
    let sums_len = classes * UPSCALED;
    if !d_hyper.accumulate {
        d_hyper.values.fill(0.0);
    }
    let d_hyper = d_hyper.values;
    let d_u = d_u.share();
    ctx.with_shared(scratch_bytes::<f32>(batch * tasks * sums_len), |ctx, mut shared| {
        let partial = shared.take::<f32>(batch * tasks * sums_len);
        let all = Disjoint::new(&mut *partial);
        ctx.parallel(batch * tasks, scratch_bytes::<f32>(TILE * UPSCALED), |task, mut scratch| {
            let (image, first) = (task / tasks, task % tasks * task_pixels);
            let end = pixels.min(first + task_pixels);
            // SAFETY: each task has its own sums.
            let sums = unsafe { all.slice(task * sums_len, sums_len) };
            let tile = scratch.take::<f32>(TILE * UPSCALED);
            let hyper = &hyper[image * sums_len..][..sums_len];
            for start in (first..end).step_by(TILE) {
                let rows = TILE.min(end - start);
                let pixel = image * pixels + start;
                let d_logits = &d_logits[pixel * classes..][..rows * classes];
                let by_pixel = Left::Rows { values: d_logits, stride: classes };
                multiply(isa, [rows, classes, UPSCALED], by_pixel, (hyper, UPSCALED), (tile, UPSCALED), false);
                let to = (pixel * UPSCALED, UPSCALED);
                // SAFETY: each task has its own pixels.
                unsafe { d_u.put(isa, (rows, UPSCALED), (tile, UPSCALED), to) };
                let by_class = Left::Columns { values: d_logits, stride: classes };
                let u = &u[pixel * UPSCALED..];
                multiply(isa, [classes, rows, UPSCALED], by_class, (u, UPSCALED), (sums, UPSCALED), start > first);
            }
        });
        for image in 0..batch {
            let partial = &partial[image * tasks * sums_len..][..tasks * sums_len];
            add_partials(ctx, partial, &mut d_hyper[image * sums_len..][..sums_len]);
        }
    });
}

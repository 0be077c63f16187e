//! Product and argmax on their own.

use super::vectors::ArgMax;
use crate::context::Disjoint;
use crate::gemm::{pack_rows_f32, packed_len, tile};
use crate::mask_head::{ArgMaxSpec, MaskProductSpec};
use crate::simd::dispatch;
use crate::{Context, Element};

/// Width of the upscaled map.
const UPSCALED: usize = 32;

/// Pixels of one task.
const TASK: usize = 1024;

/// `out[b, p, t] = hyper[b, t]·x[b, p]`: x [batch, pixels, 32], hyper [batch, T, 32], out [batch, pixels, T].
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn mask_product<T: Element>(ctx: &mut Context, spec: &MaskProductSpec, x: &[T], hyper: &[f32], out: &mut [f32]) {
    let MaskProductSpec { batch, pixels, classes } = *spec;
    assert_eq!(x.len(), batch * pixels * UPSCALED, "x");
    assert_eq!(hyper.len(), batch * classes * UPSCALED, "hyper");
    assert_eq!(out.len(), batch * pixels * classes, "out");
    let isa = ctx.isa();
    let tasks = pixels.div_ceil(TASK);
    let out = Disjoint::new(out);
    for image in 0..batch {
        let mut packed = vec![T::default(); packed_len::<T>(classes, UPSCALED)];
        let hyper = &hyper[image * classes * UPSCALED..][..classes * UPSCALED];
        let hyper = pack_rows_f32(isa, classes, UPSCALED, hyper, UPSCALED, &mut packed);
        ctx.parallel(tasks, 0, |task, _| {
            let first = image * pixels + task * TASK;
            let rows = TASK.min(pixels - task * TASK);
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(first * classes, rows * classes) };
            tile(isa, rows, &x[first * UPSCALED..], UPSCALED, hyper, 0..classes, out, classes, false);
        });
    }
}

/// `out[row]` = index of the largest of `logits[row]`, the first of equal ones: logits [rows, T], out `[rows]`.
///
/// # Panics
/// If an operand's length is not what the spec says, or T is 0 or more than 256.
pub fn arg_max(ctx: &mut Context, spec: &ArgMaxSpec, logits: &[f32], out: &mut [u8]) {
    let ArgMaxSpec { rows, classes } = *spec;
    assert!((1..=256).contains(&classes), "{classes} classes");
    assert_eq!((logits.len(), out.len()), (rows * classes, rows), "logits and out");
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    ctx.parallel(rows.div_ceil(TASK), 0, |task, _| {
        let first = task * TASK;
        // SAFETY: each task has its own rows.
        let out = unsafe { out.slice(first, TASK.min(rows - first)) };
        dispatch(isa, ArgMax { logits: &logits[first * classes..], classes, stride: classes, out });
    });
}

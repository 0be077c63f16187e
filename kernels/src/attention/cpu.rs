//! The CPU twin: queries of one head are a task; keys and values are packed by each task, scores stay in scratch.

use super::{AttentionOperands, AttentionSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::{pack_columns, pack_rows, packed_len, tile};
use crate::rows::{exp_row, max_row, scale_row};
use crate::{Context, Element};

/// Scores of one task, about.
const SCORES: usize = 1 << 19;

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says, or there is nothing to attend to.
pub fn attention<T: Element>(ctx: &mut Context, spec: &AttentionSpec, operands: AttentionOperands<'_, T>) {
    let AttentionSpec { batch, queries, keys, heads, head_dim, scale } = *spec;
    let AttentionOperands { q, k, v, out } = operands;
    let width = heads * head_dim;
    assert!(keys > 0, "attention without keys");
    assert_eq!(out.len(), batch * queries * width, "out");
    let image_stride = |x: &[T], tokens: usize, name: &str| {
        let len = tokens * width;
        assert!(
            x.len() == len || x.len() == batch * len,
            "{name} of {} elements, expected one or {batch} × {len}",
            x.len()
        );
        if x.len() == len { 0 } else { len }
    };
    let q_stride = image_stride(q, queries, "q");
    let k_stride = image_stride(k, keys, "k");
    let v_stride = image_stride(v, keys, "v");

    let isa = ctx.isa();
    let per_task = (SCORES / keys).clamp(1, 256).min(queries.max(1));
    let tasks = queries.div_ceil(per_task);
    let scratch = scratch_bytes::<T>(packed_len::<T>(keys, head_dim))
        + scratch_bytes::<T>(packed_len::<T>(head_dim, keys))
        + scratch_bytes::<f32>(per_task * keys)
        + scratch_bytes::<T>(per_task * keys)
        + scratch_bytes::<f32>(per_task * head_dim)
        + scratch_bytes::<f32>(head_dim);
    let out = Disjoint::new(out);
    ctx.parallel(batch * heads * tasks, scratch, |task, mut scratch| {
        let (image, head, first) = (task / (heads * tasks), task / tasks % heads, task % tasks * per_task);
        let rows = per_task.min(queries - first);
        let column = head * head_dim;
        let key_rows = scratch.take(packed_len::<T>(keys, head_dim));
        let key_rows = pack_rows(isa, keys, head_dim, &k[image * k_stride + column..], width, key_rows);
        let value_columns = scratch.take(packed_len::<T>(head_dim, keys));
        let value_columns = pack_columns(isa, head_dim, keys, &v[image * v_stride + column..], width, value_columns);
        let scores = scratch.take::<f32>(rows * keys);
        let weights = scratch.take::<T>(rows * keys);
        let sums = scratch.take::<f32>(rows * head_dim);
        let factor = scratch.take::<f32>(head_dim);

        let q = &q[image * q_stride + first * width + column..];
        tile(isa, rows, q, width, key_rows, 0..keys, scores, keys, false);
        let mut totals = [0.0; 256];
        for (row, total) in totals[..rows].iter_mut().enumerate() {
            let scores = &mut scores[row * keys..][..keys];
            scores.iter_mut().for_each(|score| *score *= scale);
            *total = exp_row(isa, scores, max_row(isa, scores), &mut weights[row * keys..][..keys]);
        }
        tile(isa, rows, weights, keys, value_columns, 0..head_dim, sums, head_dim, false);
        for (row, total) in totals[..rows].iter().enumerate() {
            factor.fill(1.0 / total);
            // SAFETY: each task has its own rows and columns.
            let out = unsafe { out.slice((image * queries + first + row) * width + column, head_dim) };
            scale_row(isa, &sums[row * head_dim..][..head_dim], factor, out);
        }
    });
}

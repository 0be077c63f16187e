//! The CPU twin, for plans without the token-attention pass: plain loops in f64, since such plans are there to be compared
//! with, not to be fast.

use super::{AttentionOperands, AttentionSpec};
use crate::context::{Disjoint, scratch_bytes};
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

    let per_task = (SCORES / keys).clamp(1, 256).min(queries.max(1));
    let tasks = queries.div_ceil(per_task);
    let scratch = scratch_bytes::<f64>(keys) + scratch_bytes::<f64>(head_dim);
    let out = Disjoint::new(out);
    ctx.parallel(batch * heads * tasks, scratch, |task, mut scratch| {
        let (image, head, first) = (task / (heads * tasks), task / tasks % heads, task % tasks * per_task);
        let column = head * head_dim;
        let weights = scratch.take::<f64>(keys);
        let sums = scratch.take::<f64>(head_dim);
        let head_of = |stride: usize, row: usize| {
            let start = image * stride + row * width + column;
            start..start + head_dim
        };
        for row in first..queries.min(first + per_task) {
            let query = &q[head_of(q_stride, row)];
            for (key, weight) in weights.iter_mut().enumerate() {
                let key = &k[head_of(k_stride, key)];
                let products = query.iter().zip(key).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32()));
                *weight = products.sum::<f64>() * f64::from(scale);
            }
            let most = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            sums.fill(0.0);
            let mut total = 0.0;
            for (key, weight) in weights.iter().enumerate() {
                let weight = (weight - most).exp();
                total += weight;
                let value = &v[head_of(v_stride, key)];
                sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight * f64::from(v.to_f32()));
            }
            // SAFETY: each task has its own rows and columns.
            let out = unsafe { out.slice((image * queries + row) * width + column, head_dim) };
            out.iter_mut().zip(&*sums).for_each(|(out, sum)| *out = T::from_f32((sum / total) as f32));
        }
    });
}

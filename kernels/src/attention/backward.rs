//! Gradients of multi-head attention, on the CPU.
//!
//! Per head, with `P = softmax(q·kᵀ·scale)` and `D_i = Σ_j P_ij·(d_out_i·v_j)`: `d_v = Pᵀ·d_out`,
//! `dS = P∘(d_out·vᵀ − D)·scale`, `d_q = dS·k`, `d_k = dSᵀ·q`. P is computed again from q and k, so that the forward pass
//! leaves nothing; five products, 10·queries·keys·head_dim operations per head.
//!
//! A head of an image is a task: it goes through its queries in blocks whose scores stay in the second-level cache, so
//! that sums over queries have a fixed order without partial sums. Where q, k or v is shared by the batch, a task is a
//! head of all images.

use super::AttentionSpec;
use super::cpu::{FLOOR, KEYS, QUERIES, SCORES, clear_padding, padding, scale_scores};
use crate::act::exp;
use crate::context::scratch_bytes;
use crate::gemm::{Left, PANEL, multiply, pack_rows, packed_len, tile};
use crate::gradient::{Gradient, SharedGradient};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element, Isa};

/// Operands of one call.
pub struct AttentionBackwardOperands<'a, T: Element> {
    /// [batch or 1, queries, heads·head_dim]
    pub q: &'a [T],
    /// [batch or 1, keys, heads·head_dim]
    pub k: &'a [T],
    /// [batch or 1, keys, heads·head_dim]
    pub v: &'a [T],
    /// [batch, queries, heads·head_dim]
    pub d_out: &'a [T],
    /// As q; where q is shared by the batch, the sum over its images.
    pub d_q: Gradient<'a, T>,
    /// As k; likewise.
    pub d_k: Gradient<'a, T>,
    /// As v; likewise.
    pub d_v: Gradient<'a, T>,
}

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says, or there is nothing to attend to.
pub fn attention_backward<T: Element>(
    ctx: &mut Context,
    spec: &AttentionSpec,
    operands: AttentionBackwardOperands<'_, T>,
) {
    let AttentionSpec { batch, queries, keys, heads, head_dim, .. } = *spec;
    let AttentionBackwardOperands { q, k, v, d_out, d_q, d_k, d_v } = operands;
    let width = heads * head_dim;
    assert!(keys > 0, "attention without keys");
    assert_eq!(d_out.len(), batch * queries * width, "d_out");
    let image_stride = |x: &[T], tokens: usize, name: &str| {
        let len = tokens * width;
        assert!(
            x.len() == len || x.len() == batch * len,
            "{name} of {} elements, expected one or {batch} × {len}",
            x.len()
        );
        if x.len() == len { 0 } else { len }
    };
    let strides = [image_stride(q, queries, "q"), image_stride(k, keys, "k"), image_stride(v, keys, "v")];
    let lengths = [d_q.values.len(), d_k.values.len(), d_v.values.len()];
    assert_eq!(lengths, [q.len(), k.len(), v.len()], "d_q, d_k and d_v");
    if batch * queries * width == 0 {
        return;
    }
    let shared = batch > 1 && strides.contains(&0);
    let isa = ctx.isa();
    let row = keys.next_multiple_of(PANEL);
    let block = (SCORES / row).clamp(1, QUERIES).min(queries);
    let head = Head { isa, spec: *spec, strides, q, k, v, d_out, d_q: d_q.share(), d_k: d_k.share(), d_v: d_v.share() };
    let packed = packed_len::<T>(KEYS.min(keys), head_dim);
    let scratch = 2 * scratch_bytes::<f32>(block * row)
        + 2 * scratch_bytes::<f32>(keys * head_dim)
        + scratch_bytes::<f32>(queries * head_dim)
        + scratch_bytes::<T>(packed);
    let tasks = if shared { heads } else { heads * batch };
    ctx.parallel(tasks, scratch, |task, mut scratch| {
        let mut buffers = Buffers {
            row,
            block,
            weights: scratch.take(block * row),
            slopes: scratch.take(block * row),
            d_k: scratch.take(keys * head_dim),
            d_v: scratch.take(keys * head_dim),
            d_q: scratch.take(queries * head_dim),
            packed: scratch.take(packed),
        };
        clear_padding(keys, row, buffers.weights);
        clear_padding(keys, row, buffers.slopes);
        let images = if shared { 0..batch } else { task / heads..task / heads + 1 };
        for image in images {
            let first = !shared || image == 0;
            let last = !shared || image + 1 == batch;
            // SAFETY: each task has its own heads of its own images.
            unsafe { head.image(image, task % heads, (first, last), &mut buffers) };
        }
    });
}

/// What all tasks share.
struct Head<'a, T: Element> {
    isa: Isa,
    spec: AttentionSpec,
    /// From one image to the next in q, k and v; zero if it is shared.
    strides: [usize; 3],
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    d_out: &'a [T],
    d_q: SharedGradient<'a, T>,
    d_k: SharedGradient<'a, T>,
    d_v: SharedGradient<'a, T>,
}

/// Working memory of a task.
struct Buffers<'a, T> {
    /// From one query's scores to the next.
    row: usize,
    /// Queries of a block.
    block: usize,
    /// Scores, then P.
    weights: &'a mut [f32],
    /// d_out·vᵀ, then dS.
    slopes: &'a mut [f32],
    d_k: &'a mut [f32],
    d_v: &'a mut [f32],
    d_q: &'a mut [f32],
    packed: &'a mut [T],
}

impl<T: Element> Head<'_, T> {
    /// One head of one image, the first or last of those that share an operand.
    ///
    /// # Safety
    /// Nobody else uses that head of the gradients meanwhile.
    unsafe fn image(&self, image: usize, head: usize, (first, last): (bool, bool), buffers: &mut Buffers<'_, T>) {
        let AttentionSpec { queries, keys, heads, head_dim, scale, .. } = self.spec;
        let width = heads * head_dim;
        let start = |operand: usize| image * self.strides[operand] + head * head_dim;
        let [q_start, k_start, v_start] = [0, 1, 2].map(start);
        let fresh = [0, 1, 2].map(|operand| first || self.strides[operand] != 0);
        let Buffers { row, block, weights, slopes, d_k, d_v, d_q, packed } = buffers;
        let (row, isa) = (*row, self.isa);
        if isa == Isa::Portable {
            // SAFETY: as the caller promises.
            return unsafe { self.plain(image, head, (first, last), [d_q, d_k, d_v]) };
        }
        for query in (0..queries).step_by(*block) {
            let rows = (*block).min(queries - query);
            let q = &self.q[q_start + query * width..];
            let d_out = &self.d_out[(image * queries + query) * width + head * head_dim..];
            for key in (0..keys).step_by(KEYS) {
                let count = KEYS.min(keys - key);
                let k = pack_rows(isa, count, head_dim, &self.k[k_start + key * width..], width, packed);
                tile(isa, rows, q, width, k, 0..count, &mut weights[key..], row, false);
                let v = pack_rows(isa, count, head_dim, &self.v[v_start + key * width..], width, packed);
                tile(isa, rows, d_out, width, v, 0..count, &mut slopes[key..], row, false);
            }
            dispatch(isa, Slopes { rows, keys, row, scale, weights, slopes });
            let by_key = |values| Left::Columns { values, stride: row };
            let (sizes, later) = ([keys, rows, head_dim], query > 0);
            multiply(isa, sizes, by_key(weights), (d_out, width), (d_v, head_dim), later || !fresh[2]);
            multiply(isa, sizes, by_key(slopes), (q, width), (d_k, head_dim), later || !fresh[1]);
            let d_q = &mut d_q[query * head_dim..];
            let by_query = Left::Rows { values: slopes, stride: row };
            let k = &self.k[k_start..];
            multiply(isa, [rows, keys, head_dim], by_query, (k, width), (d_q, head_dim), !fresh[0]);
        }
        // SAFETY: as the caller promises.
        unsafe { self.put(image, head, last, [d_q, d_k, d_v]) };
    }

    /// Puts the sums of one head of one image, the last of those that share an operand, where they belong.
    ///
    /// # Safety
    /// As [`Head::image`].
    unsafe fn put(&self, image: usize, head: usize, last: bool, sums: [&[f32]; 3]) {
        let AttentionSpec { queries, keys, heads, head_dim, .. } = self.spec;
        let gradients = [(&self.d_q, queries), (&self.d_k, keys), (&self.d_v, keys)];
        for ((gradient, tokens), (sums, stride)) in gradients.into_iter().zip(sums.into_iter().zip(self.strides)) {
            if last || stride != 0 {
                let to = (image * stride + head * head_dim, heads * head_dim);
                // SAFETY: as the caller promises.
                unsafe { gradient.put(self.isa, (tokens, head_dim), (sums, head_dim), to) };
            }
        }
    }

    /// [`Head::image`] in plain loops in f64: without fused multiply-add f32 would be less accurate than libtorch's.
    ///
    /// # Safety
    /// As there.
    unsafe fn plain(&self, image: usize, head: usize, (first, last): (bool, bool), sums: [&mut [f32]; 3]) {
        let AttentionSpec { queries, keys, heads, head_dim, scale, .. } = self.spec;
        let (width, scale) = (heads * head_dim, f64::from(scale));
        let rows = |x: &[T], start: usize, tokens: usize| -> Vec<f64> {
            let row = |token: usize| &x[start + token * width + head * head_dim..][..head_dim];
            (0..tokens).flat_map(|token| row(token).iter().map(|v| f64::from(v.to_f32()))).collect()
        };
        let starts = self.strides.map(|stride| image * stride);
        let q = rows(self.q, starts[0], queries);
        let (k, v) = (rows(self.k, starts[1], keys), rows(self.v, starts[2], keys));
        let d_out = rows(self.d_out, image * queries * width, queries);
        let [mut d_q, mut d_k, mut d_v] = [queries, keys, keys].map(|tokens| vec![0.0f64; tokens * head_dim]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let add = |to: &mut [f64], from: &[f64], factor: f64| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
        };
        let of = |token: usize| token * head_dim..(token + 1) * head_dim;
        for query in 0..queries {
            let (own, slope) = (&q[of(query)], &d_out[of(query)]);
            let scores: Vec<f64> = (0..keys).map(|key| dot(own, &k[of(key)]) * scale).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let slopes: Vec<f64> = (0..keys).map(|key| dot(slope, &v[of(key)])).collect();
            let mean = dot(&weights, &slopes) / total;
            for key in 0..keys {
                let weight = weights[key] / total;
                let along = weight * (slopes[key] - mean) * scale;
                add(&mut d_v[of(key)], slope, weight);
                add(&mut d_k[of(key)], own, along);
                add(&mut d_q[of(query)], &k[of(key)], along);
            }
        }
        let mut sums = sums;
        for ((sums, image_sums), stride) in sums.iter_mut().zip([d_q, d_k, d_v]).zip(self.strides) {
            for (sum, value) in sums.iter_mut().zip(image_sums) {
                *sum = if first || stride != 0 { value as f32 } else { *sum + value as f32 };
            }
        }
        // SAFETY: as the caller promises.
        unsafe { self.put(image, head, last, sums.map(|sums| &*sums)) };
    }
}

/// Turns scores into P and d_out·vᵀ into dS; rows are padded to whole panels, see [`clear_padding`].
struct Slopes<'a> {
    rows: usize,
    keys: usize,
    /// From one row to the next.
    row: usize,
    scale: f32,
    weights: &'a mut [f32],
    slopes: &'a mut [f32],
}

impl Kernel for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, keys, row, scale, weights, slopes } = self;
        let rows = weights.chunks_exact_mut(row).zip(slopes.chunks_exact_mut(row)).take(rows);
        let scale = V::splat(scale);
        let padding = padding(keys);
        for (weights, slopes) in rows {
            let (weights, slopes) = (weights.as_mut_ptr(), slopes.as_mut_ptr());
            // SAFETY: a row is a multiple of 16 long.
            unsafe {
                let largest = scale_scores(weights, row, scale, &padding);
                // Two chains each: half as long, and they overlap.
                let (mut sums, mut means) = ([V::zero(); 2], [V::zero(); 2]);
                for key in (0..row).step_by(V::LANES) {
                    let weight = exp(V::splat(FLOOR).max(V::load(weights.add(key)).sub(largest)));
                    let turn = key / V::LANES % 2;
                    sums[turn] = sums[turn].add(weight);
                    means[turn] = weight.mul_add(V::load(slopes.add(key)), means[turn]);
                    weight.store(weights.add(key));
                }
                let inverse = 1.0 / sums[0].add(sums[1]).reduce_add();
                let mean = V::splat(means[0].add(means[1]).reduce_add() * inverse);
                let inverse = V::splat(inverse);
                for key in (0..row).step_by(V::LANES) {
                    let weight = V::load(weights.add(key)).mul(inverse);
                    weight.store(weights.add(key));
                    let slope = V::load(slopes.add(key)).sub(mean).mul(weight);
                    slope.mul(scale).store(slopes.add(key));
                }
            }
        }
    }
}

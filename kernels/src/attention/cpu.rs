//! The CPU twin, for plans without the token-attention pass, training's among them: a block of a head's queries is a task,
//! its scores stay in the second-level cache.

use super::{AttentionOperands, AttentionSpec};
use crate::act::exp;
use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::{Left, PANEL, multiply, pack_rows, packed_len, tile};
use crate::gradient::SharedGradient;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element, Isa};

/// Scores of one block of queries, about: two buffers of them fill the second-level cache.
pub(super) const SCORES: usize = 1 << 17;

/// Queries of a block at most.
pub(super) const QUERIES: usize = 256;

/// Keys that are packed at a time.
pub(super) const KEYS: usize = 512;

/// Score of the columns behind the last key: their exponential is e^[`FLOOR`].
pub(super) const NO_KEY: f32 = -1e30;

/// Scores this far below a row's largest count as this far: e⁻⁶⁰ is 2⁻⁸⁶ of the sum, and nothing becomes denormal.
pub(super) const FLOOR: f32 = -60.0;

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says, or there is nothing to attend to.
pub fn attention<T: Element>(ctx: &mut Context, spec: &AttentionSpec, operands: AttentionOperands<'_, T>) {
    let AttentionSpec { batch, queries, keys, heads, head_dim, .. } = *spec;
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

    let heads = Heads { spec: *spec, strides: [q_stride, k_stride, v_stride], q, k, v, out: Disjoint::new(out) };
    match ctx.isa() {
        // Without fused multiply-add f32 would be less accurate than libtorch's.
        Isa::Portable => heads.plain(ctx),
        _ => heads.blocks(ctx),
    }
}

/// What all tasks share.
struct Heads<'a, T> {
    spec: AttentionSpec,
    /// From one image to the next in q, k and v; zero if it is shared.
    strides: [usize; 3],
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    out: Disjoint<'a, T>,
}

impl<T: Element> Heads<'_, T> {
    fn blocks(&self, ctx: &mut Context) {
        let AttentionSpec { batch, queries, keys, heads, head_dim, scale } = self.spec;
        let width = heads * head_dim;
        let isa = ctx.isa();
        let row = keys.next_multiple_of(PANEL);
        let block = (SCORES / row).clamp(1, QUERIES).min(queries.max(1));
        let blocks = queries.div_ceil(block);
        let packed = packed_len::<T>(KEYS.min(keys), head_dim);
        let scratch =
            scratch_bytes::<f32>(block * row) + scratch_bytes::<f32>(block * head_dim) + scratch_bytes::<T>(packed);
        let out = SharedGradient { values: self.out, accumulate: false };
        ctx.parallel(batch * heads * blocks, scratch, |task, mut scratch| {
            let (image, head, first) = (task / (heads * blocks), task / blocks % heads, task % blocks * block);
            let rows = block.min(queries - first);
            let column = head * head_dim;
            let weights = scratch.take::<f32>(block * row);
            let mixed = scratch.take::<f32>(block * head_dim);
            let packed = scratch.take::<T>(packed);
            let [q_start, k_start, v_start] = self.strides.map(|stride| image * stride + column);
            let q = &self.q[q_start + first * width..];
            clear_padding(keys, row, weights);
            for key in (0..keys).step_by(KEYS) {
                let count = KEYS.min(keys - key);
                let k = pack_rows(isa, count, head_dim, &self.k[k_start + key * width..], width, packed);
                tile(isa, rows, q, width, k, 0..count, &mut weights[key..], row, false);
            }
            dispatch(isa, Weights { rows, keys, row, scale, weights });
            let by_query = Left::Rows { values: weights, stride: row };
            let v = &self.v[v_start..];
            multiply(isa, [rows, keys, head_dim], by_query, (v, width), (mixed, head_dim), false);
            let start = (image * queries + first) * width + column;
            // SAFETY: each task has its own rows and columns.
            unsafe { out.put(isa, (rows, head_dim), (mixed, head_dim), (start, width)) };
        });
    }

    /// Plain loops in f64.
    fn plain(&self, ctx: &mut Context) {
        let AttentionSpec { batch, queries, keys, heads, head_dim, scale } = self.spec;
        let Self { strides: [q_stride, k_stride, v_stride], q, k, v, out, .. } = *self;
        let width = heads * head_dim;
        let per_task = (SCORES / keys).clamp(1, QUERIES).min(queries.max(1));
        let tasks = queries.div_ceil(per_task);
        let scratch = scratch_bytes::<f64>(keys) + scratch_bytes::<f64>(head_dim);
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
}

/// Zeros behind the last key of every row, once: products do not write there, and what softmax leaves there stays as small.
pub(super) fn clear_padding(keys: usize, row: usize, rows: &mut [f32]) {
    rows.chunks_exact_mut(row).for_each(|row| row[keys..].fill(0.0));
}

/// What is added to the scores of a row's last panel: [`NO_KEY`] where there is none.
pub(super) fn padding(keys: usize) -> [f32; PANEL] {
    let real = (keys - 1) % PANEL;
    std::array::from_fn(|column| if column <= real { 0.0 } else { NO_KEY })
}

/// Turns scores into softmax's weights; rows are padded to whole panels, see [`clear_padding`].
struct Weights<'a> {
    rows: usize,
    keys: usize,
    /// From one row to the next.
    row: usize,
    scale: f32,
    weights: &'a mut [f32],
}

impl Kernel for Weights<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, keys, row, scale, weights } = self;
        let scale = V::splat(scale);
        let padding = padding(keys);
        for weights in weights.chunks_exact_mut(row).take(rows) {
            let weights = weights.as_mut_ptr();
            // SAFETY: a row is a multiple of 16 long.
            unsafe {
                let largest = scale_scores(weights, row, scale, &padding);
                // Two chains: half as long, and they overlap.
                let mut sums = [V::zero(); 2];
                for key in (0..row).step_by(V::LANES) {
                    let weight = exp(V::splat(FLOOR).max(V::load(weights.add(key)).sub(largest)));
                    let turn = key / V::LANES % 2;
                    sums[turn] = sums[turn].add(weight);
                    weight.store(weights.add(key));
                }
                let inverse = V::splat(1.0 / sums[0].add(sums[1]).reduce_add());
                for key in (0..row).step_by(V::LANES) {
                    V::load(weights.add(key)).mul(inverse).store(weights.add(key));
                }
            }
        }
    }
}

/// Scales a row of products, with the padding of its last panel; returns its largest in all lanes.
///
/// # Safety
/// `scores` is good for `row` values, a multiple of [`PANEL`].
#[inline(always)]
pub(super) unsafe fn scale_scores<V: Vector>(scores: *mut f32, row: usize, scale: V, padding: &[f32; PANEL]) -> V {
    let last = row - PANEL;
    let mut largest = V::splat(NO_KEY);
    // SAFETY: inside the row.
    unsafe {
        for key in (0..last).step_by(V::LANES) {
            let score = V::load(scores.add(key)).mul(scale);
            largest = largest.max(score);
            score.store(scores.add(key));
        }
        for column in (0..PANEL).step_by(V::LANES) {
            let at = scores.add(last + column);
            let score = V::load(at).mul_add(scale, V::load(padding.as_ptr().add(column)));
            largest = largest.max(score);
            score.store(at);
        }
    }
    V::splat(largest.reduce_max())
}

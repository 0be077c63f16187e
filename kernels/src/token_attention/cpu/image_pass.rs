//! A pass over the image tokens, tile by tile: a tile is updated and attended to while it is in the cache.
//!
//! Update: scores of a tile are [rows, T·8] with the heads side by side, so that the softmax over t is elementwise, and
//! serve as the left operand of the product with V_u as they are. Attend: scores are [8·T, rows], so that the softmax over
//! image tokens runs along rows, and they serve as the left operand of the product with x.

use super::passes::{Encode, Merge, OnlineSoftmax, Partial, PositionTables, ResidualNorm, TokenSoftmax};
use crate::context::{Disjoint, Scratch, scratch_bytes};
use crate::gemm::{PackedView, pack_columns, pack_columns_f32, pack_rows, pack_rows_f32, packed_len, tile};
use crate::rows::convert_row;
use crate::simd::dispatch;
use crate::token_attention::spec::{TILE, WIDTH};
use crate::token_attention::{ImagePassOperands, ImagePassSpec};
use crate::{Context, Element, Isa};

/// Image tokens updated at a time; small, so that scores and sums stay close to L1.
const UPDATE_TILE: usize = 64;

/// Runs the pass.
///
/// # Panics
/// If an operand's length is not what the spec says, or there are no tokens.
pub fn image_pass<T: Element>(ctx: &mut Context, spec: &ImagePassSpec, operands: ImagePassOperands<'_, T>) {
    let ImagePassSpec { batch, input: [_, columns], tokens, update, attend, shared_attend, eps } = *spec;
    let pixels = spec.pixels();
    let ImagePassOperands { pe, norm, x, pooled, workspace, update_bias, .. } = operands;
    let rows = spec.rows();
    assert!(tokens > 0 && pixels > 0, "{spec:?}");
    assert_eq!((pe.len(), x.len()), (spec.pe_rows() * WIDTH, batch * pixels * WIDTH), "pe and x");
    assert!(workspace.len() >= spec.workspace_len(), "workspace of {} numbers", workspace.len());
    if update {
        assert_eq!(operands.update_scores.len(), batch * rows * WIDTH, "update scores");
        assert_eq!(operands.update_score_bias.len(), batch * rows, "update score bias");
        assert_eq!(operands.update_values.len(), batch * rows * WIDTH, "update values");
        assert_eq!((update_bias.len(), norm.0.len(), norm.1.len()), (WIDTH, WIDTH, WIDTH), "update bias and norm");
    }
    if attend {
        let attend_batch = if shared_attend { 1 } else { batch };
        assert_eq!(operands.attend_scores.len(), attend_batch * rows * WIDTH, "attend scores");
        assert_eq!(pooled.len(), batch * rows * WIDTH, "pooled");
    }

    let isa = ctx.isa();
    let aligned = workspace.as_ptr().align_offset(64).min(15);
    let (prepared, partials) = workspace[aligned..].split_at_mut(batch * spec.prepared_len());
    let prepared = bytemuck::cast_slice_mut::<f32, T>(prepared);
    let prepared_len = prepared.len() / batch.max(1);
    {
        let prepared = Disjoint::new(prepared);
        ctx.parallel(batch * 3, 0, |task, _| {
            let (image, part) = (task / 3, task % 3);
            // SAFETY: each task has its own part of its image.
            let out = unsafe { prepared.slice(image * prepared_len + part * prepared_len / 3, prepared_len / 3) };
            let of_image = image * rows * WIDTH..(image + 1) * rows * WIDTH;
            match part {
                0 if update => {
                    let scores = &operands.update_scores[of_image];
                    pack_rows_f32(isa, rows, WIDTH, scores, WIDTH, out);
                }
                1 if update => {
                    let values = &operands.update_values[of_image];
                    pack_columns_f32(isa, WIDTH, rows, values, WIDTH, out);
                }
                2 if attend => {
                    let start = if shared_attend { 0 } else { image * rows * WIDTH };
                    let scores = &operands.attend_scores[start..start + rows * WIDTH];
                    convert_row(isa, scores, &mut out[..rows * WIDTH]);
                }
                _ => {}
            }
        });
    }

    let (chunk, chunks) = (spec.chunk(), spec.chunks());
    let partial_len = spec.partial_len();
    {
        let (x, partials) = (Disjoint::new(x), Disjoint::new(&mut *partials));
        let prepared = &*prepared;
        ctx.parallel(batch * chunks, scratch_len::<T>(spec), |task, mut scratch| {
            let (image, index) = (task / chunks, task % chunks);
            let first = index * chunk;
            let last = pixels.min(first + chunk);
            // SAFETY: each task has its own image tokens and its own partial sums.
            let (x, partial) = unsafe {
                let start = (image * pixels + first) * WIDTH;
                let partial = if attend { partials.slice(task * partial_len, partial_len) } else { &mut [][..] };
                (x.slice(start, (last - first) * WIDTH), partial)
            };
            let prepared = &prepared[image * prepared_len..][..prepared_len];
            let third = prepared_len / 3;
            let pass = Pass {
                isa,
                rows,
                pe: PositionTables { columns, tables: pe },
                update: update.then(|| Update {
                    tokens,
                    scores: PackedView::new(rows, WIDTH, &prepared[..third]),
                    score_bias: &operands.update_score_bias[image * rows..][..rows],
                    values: PackedView::new(WIDTH, rows, &prepared[third..2 * third]),
                    bias: update_bias,
                    norm,
                    eps,
                }),
                attend: attend.then(|| &prepared[2 * third..][..rows * WIDTH]),
            };
            pass.run(x, first, partial, &mut scratch);
        });
    }

    if attend {
        let pooled = Disjoint::new(pooled);
        let partials = &*partials;
        ctx.parallel(batch * tokens, 0, |task, _| {
            let image = task / tokens;
            let partials: Vec<Partial<'_>> = partials[image * chunks * partial_len..]
                .chunks_exact(partial_len)
                .take(chunks)
                .map(|partial| {
                    let (pooled, statistics) = partial.split_at(rows * WIDTH);
                    let (maxima, sums) = statistics.split_at(rows);
                    Partial { pooled, maxima, sums }
                })
                .collect();
            let per_task = rows / tokens;
            for row in task % tokens * per_task..(task % tokens + 1) * per_task {
                // SAFETY: each task has its own rows.
                let out = unsafe { pooled.slice((image * rows + row) * WIDTH, WIDTH) };
                dispatch(isa, Merge { partials: &partials, row, out });
            }
        });
    }
}

/// Row stride of the update's scores.
fn update_stride(rows: usize) -> usize {
    rows.next_multiple_of(16)
}

fn scratch_len<T: Element>(spec: &ImagePassSpec) -> usize {
    let rows = spec.rows();
    let encoded = scratch_bytes::<T>(TILE * WIDTH);
    let update = UPDATE_TILE * update_stride(rows);
    let update = scratch_bytes::<f32>(update)
        + scratch_bytes::<T>(update)
        + scratch_bytes::<f32>(UPDATE_TILE * WIDTH)
        + scratch_bytes::<f32>(update_stride(rows));
    let attend = scratch_bytes::<T>(packed_len::<T>(TILE, WIDTH))
        + scratch_bytes::<T>(packed_len::<T>(WIDTH, TILE))
        + scratch_bytes::<f32>(rows * TILE)
        + scratch_bytes::<T>(rows * TILE);
    encoded + update + attend
}

/// One image's operands, ready for the products.
struct Pass<'a, T: Element> {
    isa: Isa,
    /// N
    rows: usize,
    pe: PositionTables<'a>,
    update: Option<Update<'a>>,
    /// A_a [N, 256]
    attend: Option<&'a [T]>,
}

struct Update<'a> {
    tokens: usize,
    /// A_u [N, 256]
    scores: PackedView<'a>,
    /// c_u [N]
    score_bias: &'a [f32],
    /// V_u as columns: [256, N]
    values: PackedView<'a>,
    bias: &'a [f32],
    norm: (&'a [f32], &'a [f32]),
    eps: f32,
}

impl<T: Element> Pass<'_, T> {
    /// The pass over one chunk: x [.., 256], image tokens from `first` on, is updated; partial sums out.
    fn run(&self, x: &mut [T], mut first: usize, partial: &mut [f32], scratch: &mut Scratch<'_>) {
        let rows = self.rows;
        let stride = update_stride(rows);
        let encoded = scratch.take::<T>(TILE * WIDTH);
        let update_scores = scratch.take::<f32>(UPDATE_TILE * stride);
        let update_weights = scratch.take::<T>(UPDATE_TILE * stride);
        let sums = scratch.take::<f32>(UPDATE_TILE * WIDTH);
        let score_bias = scratch.take::<f32>(stride);
        let as_rows = scratch.take::<T>(packed_len::<T>(TILE, WIDTH));
        let as_columns = scratch.take::<T>(packed_len::<T>(WIDTH, TILE));
        let scores = scratch.take::<f32>(rows * TILE);
        let weights = scratch.take::<T>(rows * TILE);

        if let Some(update) = &self.update {
            // The softmax reads whole vectors of scores, also behind the last: anything finite will do there.
            update_scores.fill(0.0);
            score_bias.fill(f32::NEG_INFINITY);
            score_bias[..rows].copy_from_slice(update.score_bias);
        }
        if self.attend.is_some() {
            let (maxima, total) = partial[rows * WIDTH..].split_at_mut(rows);
            maxima.fill(f32::NEG_INFINITY);
            total.fill(0.0);
        }
        let isa = self.isa;
        for (index, x) in x.chunks_mut(TILE * WIDTH).enumerate() {
            let pe = self.pe;
            if let Some(update) = &self.update {
                for (part, x) in x.chunks_mut(UPDATE_TILE * WIDTH).enumerate() {
                    let m = x.len() / WIDTH;
                    let encoded = &mut encoded[..x.len()];
                    dispatch(isa, Encode { x, first: first + part * UPDATE_TILE, pe, out: encoded });
                    tile(isa, m, encoded, WIDTH, update.scores, 0..rows, update_scores, stride, false);
                    let softmax = TokenSoftmax {
                        rows: m,
                        tokens: update.tokens,
                        stride,
                        scores: update_scores,
                        bias: score_bias,
                        out: update_weights,
                    };
                    dispatch(isa, softmax);
                    tile(isa, m, update_weights, stride, update.values, 0..WIDTH, sums, WIDTH, false);
                    let Update { bias, norm, eps, .. } = *update;
                    dispatch(isa, ResidualNorm { x, sums, bias, norm, eps });
                }
            }
            if let Some(attend) = self.attend {
                let m = x.len() / WIDTH;
                let encoded = &mut encoded[..x.len()];
                dispatch(isa, Encode { x, first, pe, out: encoded });
                let keys = pack_rows(isa, m, WIDTH, encoded, WIDTH, as_rows);
                tile(isa, rows, attend, WIDTH, keys, 0..m, scores, TILE, false);
                let (pooled, statistics) = partial.split_at_mut(rows * WIDTH);
                let (maxima, total) = statistics.split_at_mut(rows);
                let softmax =
                    OnlineSoftmax { columns: m, stride: TILE, scores, out: weights, maxima, sums: total, pooled };
                dispatch(isa, softmax);
                let values = pack_columns(isa, WIDTH, m, x, WIDTH, as_columns);
                tile(isa, rows, weights, TILE, values, 0..WIDTH, pooled, WIDTH, index > 0);
            }
            first += x.len() / WIDTH;
        }
    }
}

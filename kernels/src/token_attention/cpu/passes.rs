//! What an image pass does to its tiles between the products, written over vectors of any instruction set.

use crate::Element;
use crate::act::exp;
use crate::simd::{Kernel, Vector};
use crate::token_attention::spec::{HEADS, WIDTH};

/// `out = x + pe`, rounded to T.
pub(super) struct Encode<'a, T> {
    pub(super) x: &'a [T],
    pub(super) pe: &'a [f32],
    pub(super) out: &'a mut [T],
}

impl<T: Element> Kernel for Encode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let len = self.out.len();
        assert!(self.x.len() == len && self.pe.len() == len && len.is_multiple_of(WIDTH));
        let (x, pe, out) = (self.x.as_ptr(), self.pe.as_ptr(), self.out.as_mut_ptr());
        for i in (0..len).step_by(V::LANES) {
            // SAFETY: all slices have `len` elements, a multiple of any vector's lanes.
            unsafe { V::load_as(x.add(i)).add(V::load(pe.add(i))).store_as(out.add(i)) }
        }
    }
}

/// The update's softmax: over the tokens t in each row of scores [rows, T·8 (t·8 + h)], separately for the heads.
///
/// Heads lie side by side, so that a row's maxima and sums are elementwise over its groups of eight and no lane meets
/// another one (but for the two halves of a vector of sixteen, see [`fold`]).
pub(super) struct TokenSoftmax<'a, T> {
    pub(super) rows: usize,
    pub(super) tokens: usize,
    /// Row stride of scores and probabilities: at least T·8 and a multiple of 16.
    pub(super) stride: usize,
    pub(super) scores: &'a mut [f32],
    /// Added to the scores: [stride], −∞ from T·8 on.
    pub(super) bias: &'a [f32],
    /// Probabilities; columns from T·8 on become 0.
    pub(super) out: &'a mut [T],
}

impl<T: Element> Kernel for TokenSoftmax<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, tokens, stride, scores, bias, out } = self;
        let columns = tokens * HEADS;
        assert!(stride >= columns && stride.is_multiple_of(16) && bias.len() == stride);
        assert!(rows * stride <= scores.len() && rows * stride <= out.len());
        // Vectors of one row that belong to the same heads are `step` apart.
        let step = HEADS.max(V::LANES);
        for row in 0..rows {
            let scores = scores[row * stride..].as_mut_ptr();
            let out = out[row * stride..].as_mut_ptr();
            for first in (0..step).step_by(V::LANES) {
                // SAFETY: a row has `stride` elements, a multiple of `step`; of the scores, only `columns` were computed.
                unsafe {
                    let mut most = V::splat(f32::NEG_INFINITY);
                    let mut i = first;
                    while i < columns {
                        let score: V = if i + V::LANES <= columns {
                            V::load(scores.add(i))
                        } else {
                            V::load_partial(scores.add(i), columns - i)
                        };
                        let score = score.add(V::load(bias.as_ptr().add(i)));
                        score.store(scores.add(i));
                        most = most.max(score);
                        i += step;
                    }
                    let most = fold(most, V::max);
                    let mut sum = V::zero();
                    let mut i = first;
                    while i < columns {
                        let value = exp(V::load(scores.add(i)).sub(most));
                        value.store(scores.add(i));
                        sum = sum.add(value);
                        i += step;
                    }
                    let scale = V::splat(1.0).div(fold(sum, V::add));
                    let mut i = first;
                    while i < columns {
                        V::load(scores.add(i)).mul(scale).store_as(out.add(i));
                        i += step;
                    }
                }
            }
        }
    }
}

/// Joins the lanes that belong to the same head, where a vector holds all heads twice.
#[inline(always)]
fn fold<V: Vector>(value: V, join: impl Fn(V, V) -> V) -> V {
    if V::LANES <= HEADS {
        return value;
    }
    let mut twice = [0f32; 4 * HEADS];
    // SAFETY: sixteen lanes at 0, 8 and 16 lie inside.
    unsafe {
        value.store(twice.as_mut_ptr());
        value.store(twice.as_mut_ptr().add(2 * HEADS));
        join(value, V::load(twice.as_ptr().add(HEADS)))
    }
}

/// `x ← LN(x + sums + bias)` for rows of 256.
pub(super) struct ResidualNorm<'a, T> {
    pub(super) x: &'a mut [T],
    /// Overwritten.
    pub(super) sums: &'a mut [f32],
    pub(super) bias: &'a [f32],
    pub(super) norm: (&'a [f32], &'a [f32]),
    pub(super) eps: f32,
}

impl<T: Element> Kernel for ResidualNorm<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, sums, bias, norm: (gamma, beta), eps } = self;
        assert!(x.len().is_multiple_of(WIDTH) && sums.len() >= x.len());
        assert!(bias.len() == WIDTH && gamma.len() == WIDTH && beta.len() == WIDTH);
        let (bias, gamma, beta) = (bias.as_ptr(), gamma.as_ptr(), beta.as_ptr());
        for (x, sums) in x.chunks_exact_mut(WIDTH).zip(sums.chunks_exact_mut(WIDTH)) {
            let (x, sums) = (x.as_mut_ptr(), sums.as_mut_ptr());
            // SAFETY: rows and parameters have 256 elements, a multiple of any vector's lanes.
            unsafe {
                let mut total = [V::zero(); 2];
                for i in (0..WIDTH).step_by(2 * V::LANES) {
                    for half in 0..2 {
                        let i = i + half * V::LANES;
                        let value = V::load(sums.add(i)).add(V::load(bias.add(i))).add(V::load_as(x.add(i)));
                        value.store(sums.add(i));
                        total[half] = total[half].add(value);
                    }
                }
                let mean = V::splat(total[0].add(total[1]).reduce_add() / WIDTH as f32);
                let mut squares = [V::zero(); 2];
                for i in (0..WIDTH).step_by(2 * V::LANES) {
                    for half in 0..2 {
                        let d = V::load(sums.add(i + half * V::LANES)).sub(mean);
                        squares[half] = d.mul_add(d, squares[half]);
                    }
                }
                let variance = squares[0].add(squares[1]).reduce_add() / WIDTH as f32;
                let scale = V::splat(1.0 / (variance + eps).sqrt());
                for i in (0..WIDTH).step_by(V::LANES) {
                    let normal = V::load(sums.add(i)).sub(mean).mul(scale);
                    normal.mul_add(V::load(gamma.add(i)), V::load(beta.add(i))).store_as(x.add(i));
                }
            }
        }
    }
}

/// The attend's softmax over one more tile of image tokens: scores [rows, columns] become e^(score − maximum), where the
/// maximum is that of all tiles so far; sums and pooled rows of the earlier tiles are brought to the new maximum.
pub(super) struct OnlineSoftmax<'a, T> {
    pub(super) columns: usize,
    /// Row stride of scores and `out`.
    pub(super) stride: usize,
    pub(super) scores: &'a [f32],
    pub(super) out: &'a mut [T],
    /// [rows]; −∞ before the first tile.
    pub(super) maxima: &'a mut [f32],
    /// [rows]; 0 before the first tile.
    pub(super) sums: &'a mut [f32],
    /// [rows, 256]; anything before the first tile.
    pub(super) pooled: &'a mut [f32],
}

impl<T: Element> Kernel for OnlineSoftmax<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { columns, stride, scores, out, maxima, sums, pooled } = self;
        let rows = maxima.len();
        let padded = columns.next_multiple_of(V::LANES);
        assert!(columns > 0 && padded <= stride && rows * stride <= scores.len() && rows * stride <= out.len());
        assert!(sums.len() == rows && pooled.len() == rows * WIDTH);
        let whole = columns / V::LANES * V::LANES;
        for row in 0..rows {
            let scores = scores[row * stride..].as_ptr();
            let out = out[row * stride..].as_mut_ptr();
            // SAFETY: a row has `columns` scores and room for as many values; `pooled` has rows of 256.
            unsafe {
                let mut most = [V::splat(maxima[row]); 2];
                for i in (0..whole).step_by(V::LANES) {
                    let other = most[1].max(V::load(scores.add(i)));
                    most = [other, most[0]];
                }
                let mut maximum = most[0].max(most[1]).reduce_max();
                for i in whole..columns {
                    maximum = maximum.max(scores.add(i).read());
                }
                if maximum > maxima[row] && maxima[row] > f32::NEG_INFINITY {
                    let factor = (maxima[row] - maximum).exp();
                    sums[row] *= factor;
                    let pooled = pooled[row * WIDTH..].as_mut_ptr();
                    for i in (0..WIDTH).step_by(V::LANES) {
                        V::load(pooled.add(i)).mul(V::splat(factor)).store(pooled.add(i));
                    }
                }
                maxima[row] = maximum;
                let shift = V::splat(maximum);
                let mut sum = V::zero();
                for i in (0..whole).step_by(V::LANES) {
                    let value = exp(V::load(scores.add(i)).sub(shift));
                    sum = sum.add(value);
                    value.store_as(out.add(i));
                }
                let mut total = sum.reduce_add();
                if whole < columns {
                    let count = columns - whole;
                    let value = exp(V::load_partial(scores.add(whole), count).sub(shift));
                    value.store_partial_as(out.add(whole), count);
                    let mut lanes = [0f32; 16];
                    value.store(lanes.as_mut_ptr());
                    total += lanes[..count].iter().sum::<f32>();
                }
                sums[row] += total;
            }
        }
    }
}

/// Partial softmax sums of one chunk of image tokens.
#[derive(Clone, Copy)]
pub(super) struct Partial<'a> {
    /// [rows, 256], relative to the chunk's own maxima.
    pub(super) pooled: &'a [f32],
    /// [rows]
    pub(super) maxima: &'a [f32],
    /// [rows]
    pub(super) sums: &'a [f32],
}

/// Brings the chunks' partial sums of one row to their common maximum, adds them in order and divides by the total.
pub(super) struct Merge<'a> {
    pub(super) partials: &'a [Partial<'a>],
    pub(super) row: usize,
    /// [256]
    pub(super) out: &'a mut [f32],
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { partials, row, out } = self;
        assert_eq!(out.len(), WIDTH);
        let maximum = partials.iter().fold(f32::NEG_INFINITY, |most, partial| most.max(partial.maxima[row]));
        let mut total = 0.0;
        out.fill(0.0);
        for partial in partials {
            let factor = (partial.maxima[row] - maximum).exp();
            total += factor * partial.sums[row];
            let pooled = &partial.pooled[row * WIDTH..][..WIDTH];
            for i in (0..WIDTH).step_by(V::LANES) {
                // SAFETY: both have 256 elements.
                unsafe {
                    let sum: V = V::load(out.as_ptr().add(i));
                    V::load(pooled.as_ptr().add(i)).mul_add(V::splat(factor), sum).store(out.as_mut_ptr().add(i));
                }
            }
        }
        let scale = V::splat(1.0 / total);
        for i in (0..WIDTH).step_by(V::LANES) {
            // SAFETY: `out` has 256 elements.
            unsafe { V::load(out.as_ptr().add(i)).mul(scale).store(out.as_mut_ptr().add(i)) }
        }
    }
}

//! What an image pass does to its tiles between the products, written over vectors of any instruction set.

use crate::Element;
use crate::act::exp;
use crate::simd::{Kernel, Vector};
use crate::token_attention::spec::{HEADS, WIDTH};

/// The positional encoding of the image tokens, see [`crate::token_attention::ImagePassOperands`].
#[derive(Clone, Copy)]
pub(super) struct PositionTables<'a> {
    /// Width of the map.
    pub(super) columns: usize,
    /// [w + h, 256]
    pub(super) tables: &'a [f32],
}

/// `out = x + pe`, rounded to T, for the image tokens from `first` on.
pub(super) struct Encode<'a, T> {
    pub(super) x: &'a [T],
    pub(super) first: usize,
    pub(super) pe: PositionTables<'a>,
    pub(super) out: &'a mut [T],
}

impl<T: Element> Kernel for Encode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        const HALF: usize = WIDTH / 2;
        let Self { x, first, pe: PositionTables { columns, tables }, out } = self;
        assert!(x.len() == out.len());
        for (token, (x, out)) in x.chunks_exact(WIDTH).zip(out.chunks_exact_mut(WIDTH)).enumerate() {
            let (row, column) = ((first + token) / columns, (first + token) % columns);
            let a = tables[column * WIDTH..][..WIDTH].as_ptr();
            let b = tables[(columns + row) * WIDTH..][..WIDTH].as_ptr();
            let (x, out) = (x.as_ptr(), out.as_mut_ptr());
            for i in (0..HALF).step_by(V::LANES) {
                // SAFETY: all rows have 256 elements; half of that is a multiple of any vector's lanes.
                unsafe {
                    let (sin_a, cos_a) = (V::load(a.add(i)), V::load(a.add(HALF + i)));
                    let (sin_b, cos_b) = (V::load(b.add(i)), V::load(b.add(HALF + i)));
                    let sin = cos_a.mul_add(sin_b, sin_a.mul(cos_b));
                    let cos = sin_a.neg_mul_add(sin_b, cos_a.mul(cos_b));
                    V::load_as(x.add(i)).add(sin).store_as(out.add(i));
                    V::load_as(x.add(HALF + i)).add(cos).store_as(out.add(HALF + i));
                }
            }
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
    /// Overwritten. Columns from T·8 on hold anything finite.
    pub(super) scores: &'a mut [f32],
    /// Added to the scores: [stride], −∞ from T·8 on.
    pub(super) bias: &'a [f32],
    /// Probabilities; what columns from T·8 on become says nothing.
    pub(super) out: &'a mut [T],
}

impl<T: Element> Kernel for TokenSoftmax<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, tokens, stride, bias, .. } = self;
        assert!(stride >= tokens * HEADS && stride.is_multiple_of(16) && bias.len() == stride);
        assert!(rows * stride <= self.scores.len() && rows * stride <= self.out.len());
        let mut row = 0;
        let mut this = self;
        // Rows side by side hide the latency of each other's maximum and sum.
        while row + 4 <= rows {
            // SAFETY: rows row..row + 4 exist.
            unsafe { this.softmax::<V, 4>(row) };
            row += 4;
        }
        while row < rows {
            // SAFETY: the row exists.
            unsafe { this.softmax::<V, 1>(row) };
            row += 1;
        }
    }
}

impl<T: Element> TokenSoftmax<'_, T> {
    /// `R` rows from `row` on.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn softmax<V: Vector, const R: usize>(&mut self, row: usize) {
        let (columns, stride, bias) = (self.tokens * HEADS, self.stride, self.bias.as_ptr());
        // Vectors of one row that belong to the same heads are `step` apart.
        let step = HEADS.max(V::LANES);
        // SAFETY: rows have `stride` elements, a multiple of `step` that covers all columns.
        unsafe {
            let scores = self.scores.as_mut_ptr().add(row * stride);
            let out = self.out.as_mut_ptr().add(row * stride);
            for first in (0..step).step_by(V::LANES) {
                let mut most = [V::splat(f32::NEG_INFINITY); R];
                let mut i = first;
                while i < columns {
                    let bias: V = V::load(bias.add(i));
                    for r in 0..R {
                        most[r] = most[r].max(V::load(scores.add(r * stride + i)).add(bias));
                    }
                    i += step;
                }
                for value in &mut most {
                    *value = fold(*value, V::max);
                }
                let mut sums = [V::zero(); R];
                let mut i = first;
                while i < columns {
                    let bias: V = V::load(bias.add(i));
                    for r in 0..R {
                        let score = V::load(scores.add(r * stride + i)).add(bias);
                        let value = weight(score, most[r]);
                        value.store(scores.add(r * stride + i));
                        sums[r] = sums[r].add(value);
                    }
                    i += step;
                }
                for value in &mut sums {
                    *value = V::splat(1.0).div(fold(*value, V::add));
                }
                let mut i = first;
                while i < columns {
                    for r in 0..R {
                        V::load(scores.add(r * stride + i)).mul(sums[r]).store_as(out.add(r * stride + i));
                    }
                    i += step;
                }
            }
        }
    }
}

/// e^(score − maximum), but never so small that it, or its share of a sum, is a denormal: those cost the CPU more than a
/// hundred cycles each, and beside the maximum's weight of 1, e^−80 is nothing.
#[inline(always)]
fn weight<V: Vector>(score: V, maximum: V) -> V {
    exp(V::splat(-80.0).max(score.sub(maximum)))
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
                    let value = weight(V::load(scores.add(i)), shift);
                    sum = sum.add(value);
                    value.store_as(out.add(i));
                }
                let mut total = sum.reduce_add();
                if whole < columns {
                    let count = columns - whole;
                    let value = weight(V::load_partial(scores.add(whole), count), shift);
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

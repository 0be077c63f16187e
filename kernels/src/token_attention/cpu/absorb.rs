//! What a token step does head by head.

use crate::act::exp;
use crate::simd::{Kernel, Vector};
use crate::token_attention::spec::WIDTH;

/// `out = scale · Σ_d coefficients[d]·matrix[d]`, a row of 256.
pub(super) struct Combine<'a> {
    /// [depth]
    pub(super) coefficients: &'a [f32],
    /// [depth, 256]
    pub(super) matrix: &'a [f32],
    pub(super) scale: f32,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { coefficients, matrix, scale, out } = self;
        assert!(matrix.len() == coefficients.len() * WIDTH && out.len() == WIDTH);
        for i in (0..WIDTH).step_by(V::LANES) {
            let mut sum = V::zero();
            for (d, coefficient) in coefficients.iter().enumerate() {
                // SAFETY: rows of 256, a multiple of any vector's lanes.
                sum = unsafe { V::load(matrix.as_ptr().add(d * WIDTH + i)) }.mul_add(V::splat(*coefficient), sum);
            }
            // SAFETY: as above.
            unsafe { sum.mul(V::splat(scale)).store(out.as_mut_ptr().add(i)) };
        }
    }
}

/// Width of a head of the class tokens' self-attention.
pub(super) const SELF_HEAD_DIM: usize = 32;

/// One head of the class tokens' self-attention: `out = softmax(q·kᵀ·scale)·v`, rows 256 apart.
pub(super) struct SelfAttentionHead<'a> {
    pub(super) tokens: usize,
    /// From the head's first column on.
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) scale: f32,
    /// [T] of scratch, in whole vectors of 16.
    pub(super) scores: &'a mut [f32],
    /// [T, 32]
    pub(super) out: &'a mut [f32],
}

impl Kernel for SelfAttentionHead<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { tokens, q, k, v, scale, scores, out } = self;
        assert!(scores.len() >= tokens.next_multiple_of(16) && out.len() == tokens * SELF_HEAD_DIM);
        let row = |x: &'_ [f32], t: usize| -> *const f32 { x[t * WIDTH..][..SELF_HEAD_DIM].as_ptr() };
        for t in 0..tokens {
            let q = row(q, t);
            scores.fill(f32::NEG_INFINITY);
            let mut most = f32::NEG_INFINITY;
            for (u, score) in scores[..tokens].iter_mut().enumerate() {
                let k = row(k, u);
                let mut sum = V::zero();
                for i in (0..SELF_HEAD_DIM).step_by(V::LANES) {
                    // SAFETY: heads of 32 columns.
                    sum = unsafe { V::load(q.add(i)).mul_add(V::load(k.add(i)), sum) };
                }
                *score = sum.reduce_add() * scale;
                most = most.max(*score);
            }
            let mut total = V::zero();
            for i in (0..tokens).step_by(V::LANES) {
                // SAFETY: whole vectors of scores, −∞ behind the last.
                unsafe {
                    let value = exp(V::load(scores.as_ptr().add(i)).sub(V::splat(most)));
                    total = total.add(value);
                    value.store(scores.as_mut_ptr().add(i));
                }
            }
            let total = V::splat(total.reduce_add());
            for i in (0..SELF_HEAD_DIM).step_by(V::LANES) {
                let mut sum = V::zero();
                for (u, weight) in scores[..tokens].iter().enumerate() {
                    // SAFETY: heads of 32 columns.
                    sum = unsafe { V::load(row(v, u).add(i)) }.mul_add(V::splat(*weight), sum);
                }
                // SAFETY: rows of 32 in `out`.
                unsafe { sum.div(total).store(out.as_mut_ptr().add(t * SELF_HEAD_DIM + i)) };
            }
        }
    }
}

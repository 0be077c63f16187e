//! Attention of one head inside one window, in f32, for every instruction set.
//!
//! Keys are transposed to [32, 64] so that a row of scores is a run of vectors; queries are taken a few at a time, so that
//! their scores, exponentials and sums stay in the first-level cache.

use super::geometry::{MAX_TOKENS, Window};
use crate::act::exp;
use crate::context::{Disjoint, Scratch, scratch_bytes};
use crate::simd::{Kernel, Vector, dispatch};
use crate::window_attention::WindowKind;
use crate::{DType, Element, Isa};

#[cfg(target_arch = "x86_64")]
use super::amx::{self, TileScratch};
#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "x86_64")]
use crate::bf16;

/// Width of a head.
pub(in crate::window_attention) const HEAD: usize = 32;

/// Added to the score of two tokens of different regions.
pub(in crate::window_attention) const MASK: f32 = -100.0;

/// Bias of the columns behind the last key: their exponential is e^[`FLOOR`].
pub(in crate::window_attention) const NO_KEY: f32 = -1e30;

/// Scores this far below a row's largest count as this far: e⁻⁶⁰ is 2⁻⁸⁶ of the sum, which f64 would not see either, and
/// nothing becomes denormal, which would cost a hundred times the time.
pub(in crate::window_attention) const FLOOR: f32 = -60.0;

/// Below this length a query or key of V2 is divided by it instead of its length.
pub(in crate::window_attention) const MIN_LENGTH: f32 = 1e-12;

/// What is the same for all windows.
pub(super) struct Head<'a> {
    pub(super) kind: WindowKind,
    /// Tokens of a window.
    pub(super) tokens: usize,
    /// Factor on q·k.
    pub(super) scale: f32,
    /// [tokens, tokens], query and key.
    pub(super) bias: &'a [f32],
    /// Added to q and to the result: the biases of the head's q and v. A padded token's v is the bias too, and softmax's
    /// weights sum to one, so the v bias may be added at the end. The bias of k is not asked for: in V1 it adds the same
    /// number to all scores of a query, in V2 it is zero.
    pub(super) q_bias: &'a [f32],
    pub(super) v_bias: &'a [f32],
}

/// q, k and v of a head, one row per real token, without biases; padded tokens are zeros then.
#[derive(Clone, Copy)]
pub(super) struct Qkv<'a> {
    pub(super) values: &'a [f32],
    /// From one row to the next.
    pub(super) stride: usize,
    /// Where in a row q, k and v begin.
    pub(super) starts: [usize; 3],
}

/// Where results go: the 32 values of row i at `start + i · stride`. Nobody else uses them meanwhile.
pub(super) struct Target<'a, T> {
    pub(super) values: &'a Disjoint<'a, T>,
    pub(super) stride: usize,
    pub(super) start: usize,
}

impl<T> Target<'_, T> {
    /// The 32 values of a row.
    pub(super) fn row(&self, row: usize) -> *mut T {
        // SAFETY: nobody else uses a target's rows, and the slice ends here.
        unsafe { self.values.slice(self.start + row * self.stride, HEAD) }.as_mut_ptr()
    }
}

/// Working memory of the tier's kernel.
pub(super) enum HeadScratch<'a> {
    /// f32 vectors.
    Vectors(VectorScratch<'a>),
    /// AMX tiles.
    #[cfg(target_arch = "x86_64")]
    Tiles(TileScratch<'a>),
}

impl<'a> HeadScratch<'a> {
    /// Bytes it takes at most.
    #[cfg(target_arch = "x86_64")]
    pub(super) const BYTES: usize =
        if TileScratch::BYTES > VectorScratch::BYTES { TileScratch::BYTES } else { VectorScratch::BYTES };
    /// Bytes it takes.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) const BYTES: usize = VectorScratch::BYTES;

    pub(super) fn take<T: Element>(isa: Isa, scratch: &mut Scratch<'a>) -> Self {
        match (isa, T::DTYPE) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, DType::Bf16) => Self::Tiles(TileScratch::take(scratch)),
            _ => Self::Vectors(VectorScratch::take(scratch)),
        }
    }

    /// Lays out the head's bias.
    pub(super) fn load_bias(&mut self, head: &Head<'_>) {
        match self {
            Self::Vectors(scratch) => scratch.load_bias(head),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(scratch) => scratch.load_bias(head),
        }
    }
}

/// Working memory of the vector kernel.
pub(super) struct VectorScratch<'a> {
    /// Rows of 64.
    bias: &'a mut [f32],
    keys: &'a mut [f32],
    values: &'a mut [f32],
    queries: &'a mut [f32],
    scores: &'a mut [f32],
    mixed: &'a mut [f32],
}

/// Queries taken at a time, at most.
const MAX_ROWS: usize = 8;

impl<'a> VectorScratch<'a> {
    const BYTES: usize = scratch_bytes::<f32>(MAX_TOKENS * MAX_TOKENS)
        + 2 * scratch_bytes::<f32>(HEAD * MAX_TOKENS)
        + 2 * scratch_bytes::<f32>(MAX_ROWS * HEAD)
        + scratch_bytes::<f32>(MAX_ROWS * MAX_TOKENS);

    fn take(scratch: &mut Scratch<'a>) -> Self {
        Self {
            bias: scratch.take(MAX_TOKENS * MAX_TOKENS),
            keys: scratch.take(HEAD * MAX_TOKENS),
            values: scratch.take(MAX_TOKENS * HEAD),
            queries: scratch.take(MAX_ROWS * HEAD),
            scores: scratch.take(MAX_ROWS * MAX_TOKENS),
            mixed: scratch.take(MAX_ROWS * HEAD),
        }
    }

    fn load_bias(&mut self, head: &Head<'_>) {
        let rows = self.bias.chunks_exact_mut(MAX_TOKENS).zip(head.bias.chunks_exact(head.tokens));
        for (row, from) in rows {
            row[..head.tokens].copy_from_slice(from);
            row[head.tokens..].fill(NO_KEY);
        }
    }
}

/// Attention of one window, after [`HeadScratch::load_bias`].
///
/// # Safety
/// Nobody else uses the target's rows meanwhile.
pub(super) unsafe fn attend<T: Element>(
    isa: Isa,
    head: &Head<'_>,
    window: &Window,
    qkv: Qkv<'_>,
    target: Target<'_, T>,
    scratch: &mut HeadScratch<'_>,
) {
    let rows = window.tokens().len();
    if rows == 0 {
        return;
    }
    assert!(head.tokens <= MAX_TOKENS && head.bias.len() == head.tokens * head.tokens);
    assert!(head.q_bias.len() == HEAD && head.v_bias.len() == HEAD);
    for start in qkv.starts {
        assert!((rows - 1) * qkv.stride + start + HEAD <= qkv.values.len(), "qkv of {rows} rows");
    }
    match scratch {
        HeadScratch::Vectors(scratch) => dispatch(isa, Attend { head, window, qkv, target, scratch }),
        #[cfg(target_arch = "x86_64")]
        HeadScratch::Tiles(scratch) => {
            let Target { values, stride, start } = target;
            assert!(isa == Isa::Amx && T::DTYPE == DType::Bf16, "scratch of another tier");
            let target = Target { values: &values.cast::<bf16>(), stride, start };
            // SAFETY: contexts have only tiers that the CPU has; sizes are checked above.
            unsafe { amx::attend(head, window, qkv, &target, scratch) };
        }
    }
}

struct Attend<'a, 'b, T> {
    head: &'a Head<'a>,
    window: &'a Window,
    qkv: Qkv<'a>,
    target: Target<'a, T>,
    scratch: &'a mut VectorScratch<'b>,
}

impl<T: Element> Kernel for Attend<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(mut self) {
        // SAFETY: `attend` has checked the sizes.
        unsafe {
            let values = self.load_keys_and_values::<V>();
            match V::LANES {
                16 => self.queries::<V, 5, 4, 2>(values),
                8 => self.queries::<V, 3, 4, 4>(values),
                _ => self.queries::<V, 5, 4, 4>(values),
            }
        }
    }
}

impl<T: Element> Attend<'_, '_, T> {
    /// Transposes the keys; returns where the values lie and their stride: where they are, or copied with zeros for padded
    /// tokens.
    ///
    /// # Safety
    /// Sizes are as `attend` checks them.
    #[inline(always)]
    unsafe fn load_keys_and_values<V: Vector>(&mut self) -> (*const f32, usize) {
        let (tokens, stride) = (self.window.tokens(), self.qkv.stride);
        let [_, k, v] = self.qkv.starts.map(|start| self.qkv.values[start..].as_ptr());
        // SAFETY: rows are as many as tokens, positions are below 64; vectors of 16 lanes are AVX-512's.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if V::LANES == 16 {
                avx512::transpose_keys(self.head.kind, tokens, k, stride, self.scratch.keys.as_mut_ptr());
            } else {
                self.transpose_keys::<V>(k);
            }
            #[cfg(not(target_arch = "x86_64"))]
            self.transpose_keys::<V>(k);
            if tokens.len() == self.head.tokens {
                return (v, stride);
            }
            self.scratch.values.fill(0.0);
            for (row, token) in tokens.iter().enumerate() {
                let to = self.scratch.values.as_mut_ptr().add(usize::from(*token) * HEAD);
                std::ptr::copy_nonoverlapping(v.add(row * stride), to, HEAD);
            }
            (self.scratch.values.as_ptr(), HEAD)
        }
    }

    /// Lays out the keys as [32, 64], V2's divided by their length; zeros for padded tokens and behind the last.
    ///
    /// # Safety
    /// `from` is good for 32 values for each of the rows.
    #[inline(always)]
    unsafe fn transpose_keys<V: Vector>(&mut self, from: *const f32) {
        self.scratch.keys.fill(0.0);
        let keys = self.scratch.keys.as_mut_ptr();
        for (row, token) in self.window.tokens().iter().enumerate() {
            // SAFETY: row < rows, token < 64.
            unsafe {
                let from = from.add(row * self.qkv.stride);
                let to = keys.add(usize::from(*token));
                let factor = match self.head.kind {
                    WindowKind::V1 => 1.0,
                    WindowKind::V2 => 1.0 / length::<V>(from).max(MIN_LENGTH),
                };
                for d in 0..HEAD {
                    *to.add(d * MAX_TOKENS) = *from.add(d) * factor;
                }
            }
        }
    }

    /// All queries, `ROWS` at a time; `SCORES` and `VALUES` vectors are columns of a block of scores and of results.
    ///
    /// # Safety
    /// Sizes are as `attend` checks them; `values` are [tokens, 32] with their stride.
    #[inline(always)]
    unsafe fn queries<V: Vector, const ROWS: usize, const SCORES: usize, const VALUES: usize>(
        &mut self,
        (values, value_stride): (*const f32, usize),
    ) {
        let tokens = self.window.tokens();
        let q = self.qkv.values[self.qkv.starts[0]..].as_ptr();
        let VectorScratch { keys, queries, scores, mixed, .. } = self.scratch;
        let (keys, queries) = (keys.as_ptr(), queries.as_mut_ptr());
        let (scores, mixed) = (scores.as_mut_ptr(), mixed.as_mut_ptr());
        let mut start = 0;
        while start < tokens.len() {
            let rows = ROWS.min(tokens.len() - start);
            let mut inverse_sums = [0.0; ROWS];
            // SAFETY: rows start..start + rows exist; scratch has room for ROWS ≤ MAX_ROWS rows.
            unsafe {
                for row in 0..ROWS {
                    let to = queries.add(row * HEAD);
                    if row < rows {
                        self.load_query::<V>(q.add((start + row) * self.qkv.stride), to);
                    } else {
                        to.write_bytes(0, HEAD);
                    }
                }
                for column in (0..MAX_TOKENS).step_by(SCORES * V::LANES) {
                    let (from, to) = (keys.add(column), scores.add(column));
                    product::<V, ROWS, SCORES>(HEAD, (queries, HEAD), (from, MAX_TOKENS), (to, MAX_TOKENS));
                }
                for (row, inverse_sum) in inverse_sums.iter_mut().enumerate().take(rows) {
                    let query = usize::from(tokens[start + row]);
                    *inverse_sum = self.softmax::<V>(scores.add(row * MAX_TOKENS), query);
                }
                for column in (0..HEAD).step_by(VALUES * V::LANES) {
                    let (weights, to) = (scores.cast_const(), mixed.add(column));
                    let from = (values.add(column), value_stride);
                    product::<V, ROWS, VALUES>(self.head.tokens, (weights, MAX_TOKENS), from, (to, HEAD));
                }
                for (row, inverse_sum) in inverse_sums.iter().enumerate().take(rows) {
                    let factor = V::splat(*inverse_sum);
                    let to = self.target.row(start + row);
                    for d in (0..HEAD).step_by(V::LANES) {
                        let bias = V::load(self.head.v_bias.as_ptr().add(d));
                        V::load(mixed.add(row * HEAD + d)).mul_add(factor, bias).store_as(to.add(d));
                    }
                }
            }
            start += rows;
        }
    }

    /// Bias, length and factor of one query.
    ///
    /// # Safety
    /// `from` and `to` are good for 32 values.
    #[inline(always)]
    unsafe fn load_query<V: Vector>(&self, from: *const f32, to: *mut f32) {
        // SAFETY: 32 values everywhere.
        unsafe {
            for d in (0..HEAD).step_by(V::LANES) {
                V::load(from.add(d)).add(V::load(self.head.q_bias.as_ptr().add(d))).store(to.add(d));
            }
            let factor = match self.head.kind {
                WindowKind::V1 => self.head.scale,
                WindowKind::V2 => self.head.scale / length::<V>(to).max(MIN_LENGTH),
            };
            for d in (0..HEAD).step_by(V::LANES) {
                V::load(to.add(d)).mul(V::splat(factor)).store(to.add(d));
            }
        }
    }

    /// Turns a row of 64 scores into exponentials; returns one over their sum.
    ///
    /// # Safety
    /// `scores` is good for 64 values, `query` is below the tokens of a window.
    #[inline(always)]
    unsafe fn softmax<V: Vector>(&self, scores: *mut f32, query: usize) -> f32 {
        // SAFETY: 64 scores, 64 biases per query, 64 regions.
        unsafe {
            let bias = self.scratch.bias.as_ptr().add(query * MAX_TOKENS);
            let mut largest = V::splat(NO_KEY);
            for key in (0..MAX_TOKENS).step_by(V::LANES) {
                let mut score = V::load(scores.add(key)).add(V::load(bias.add(key)));
                if let Some(regions) = self.window.regions() {
                    let apart = V::load(regions.as_ptr().add(key)).sub(V::splat(regions[query])).abs();
                    score = score.add(apart.select_below(V::splat(0.5), V::zero(), V::splat(MASK)));
                }
                largest = largest.max(score);
                score.store(scores.add(key));
            }
            let largest = V::splat(largest.reduce_max());
            let mut sum = V::zero();
            for key in (0..MAX_TOKENS).step_by(V::LANES) {
                let weight = exp(V::splat(FLOOR).max(V::load(scores.add(key)).sub(largest)));
                sum = sum.add(weight);
                weight.store(scores.add(key));
            }
            1.0 / sum.reduce_add()
        }
    }
}

/// √Σ of the squares of 32 values.
///
/// # Safety
/// `x` is good for 32 values.
#[inline(always)]
unsafe fn length<V: Vector>(x: *const f32) -> f32 {
    let mut squares = V::zero();
    for d in (0..HEAD).step_by(V::LANES) {
        // SAFETY: d + LANES ≤ 32.
        let value = unsafe { V::load(x.add(d)) };
        squares = value.mul_add(value, squares);
    }
    squares.reduce_add().sqrt()
}

/// `c[i, j] = Σ_k a[i, k] · b[k, j]` for `ROWS` rows and `COLUMNS` vectors of columns; operands with their strides.
///
/// # Safety
/// The operands are good for that.
#[inline(always)]
unsafe fn product<V: Vector, const ROWS: usize, const COLUMNS: usize>(
    depth: usize,
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    (c, c_stride): (*mut f32, usize),
) {
    let mut sums = [[V::zero(); COLUMNS]; ROWS];
    for k in 0..depth {
        let mut columns = [V::zero(); COLUMNS];
        // SAFETY: k < depth.
        unsafe {
            for (j, column) in columns.iter_mut().enumerate() {
                *column = V::load(b.add(k * b_stride + j * V::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let value = V::splat(*a.add(i * a_stride + k));
                for (sum, column) in sums.iter_mut().zip(&columns) {
                    *sum = value.mul_add(*column, *sum);
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: inside c's rows and columns.
            unsafe { sum.store(c.add(i * c_stride + j * V::LANES)) };
        }
    }
}

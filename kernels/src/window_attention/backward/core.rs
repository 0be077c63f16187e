//! Gradients of attention inside windows.
//!
//! Per head and window, with `S = scale·q·kᵀ + bias + mask` (V2: of q and k divided by their lengths), `P = softmax(S)` and
//! `D_i = Σ_j P_ij·(d_out_i·v_j)`: `d_v = Pᵀ·d_out`, `dS = P∘(d_out·vᵀ − D)`, `d_bias += dS`, `d_q = scale·dS·k`,
//! `d_k = scale·dSᵀ·q`, V2's through the division by the length; `d_scale += Σ dS∘(q·kᵀ)`. P is computed again: the forward
//! pass leaves nothing. Five products, 10·window²·window²·32 operations per head and window.
//!
//! Rows of P sum to one and rows of dS to zero, so the mean key may be taken from all keys and the mean value from all values
//! before they are multiplied: nothing changes but that less cancels.
//!
//! A head of an image is a task: it goes through the windows in order and sums up d_bias; images' sums are added in order.

use super::super::cpu::{FLOOR, Geometry, HEAD, MASK, MAX_TOKENS, MIN_LENGTH, NO_KEY, Window};
use super::super::{WindowCoreSpec, WindowKind};
use crate::act::exp;
use crate::context::{Disjoint, Scratch, scratch_bytes};
use crate::gemm::{Left, multiply, pack_rows, packed_len, tile};
use crate::gradient::{Gradient, add_partials};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element, Isa};

/// Operands of one call.
pub struct WindowCoreBackwardOperands<'a, T: Element> {
    /// [batch·windows, window², 3C], as the forward pass had it.
    pub qkv: &'a [T],
    /// Factor on q·k per head, `[heads]`.
    pub score_scale: &'a [f32],
    /// [heads, window², window²]: query, key.
    pub bias: &'a [f32],
    /// [batch·windows, window², C]
    pub d_out: &'a [T],
    /// As qkv.
    pub d_qkv: Gradient<'a, T>,
    /// As bias, added to.
    pub d_bias: Option<&'a mut [f32]>,
    /// `[heads]`, added to: V2's scale is trained.
    pub d_score_scale: Option<&'a mut [f32]>,
}

/// Runs the kernel.
///
/// # Panics
/// If operands do not have the sizes that the spec says, or heads are not 32 wide.
pub fn window_core_backward<T: Element>(
    context: &mut Context,
    spec: &WindowCoreSpec,
    operands: WindowCoreBackwardOperands<'_, T>,
) {
    let WindowCoreBackwardOperands { qkv, score_scale, bias, d_out, d_qkv, d_bias, d_score_scale } = operands;
    let WindowCoreSpec { batch, plan, channels, heads, kind } = *spec;
    let geometry = Geometry::new(batch, &plan);
    let tokens = plan.window * plan.window;
    let rows = geometry.windows() * tokens;
    assert_eq!(channels, heads * HEAD, "channels of {heads} heads");
    assert_eq!((qkv.len(), d_qkv.values.len()), (rows * 3 * channels, rows * 3 * channels), "qkv and d_qkv");
    assert_eq!(score_scale.len(), heads, "score scales");
    assert_eq!(bias.len(), heads * tokens * tokens, "the position bias");
    assert_eq!(d_out.len(), rows * channels, "d_out");
    assert!(d_bias.as_deref().is_none_or(|d| d.len() == bias.len()), "d_bias");
    assert!(d_score_scale.as_deref().is_none_or(|d| d.len() == heads), "d_score_scale");
    let isa = context.isa();
    let d_qkv = d_qkv.share();
    let windows = plan.windows().iter().product::<usize>();
    let square = tokens * tokens;
    let shared_bytes = scratch_bytes::<f32>(batch * heads * square) + scratch_bytes::<f32>(batch * heads);
    context.with_shared(shared_bytes, |context, mut shared| {
        let biases = shared.take::<f32>(batch * heads * square);
        let scales = shared.take::<f32>(batch * heads);
        {
            let (biases, scales) = (Disjoint::new(&mut *biases), Disjoint::new(&mut *scales));
            context.parallel(batch * heads, Buffers::bytes(tokens), |index, mut scratch| {
                let (image, number) = (index / heads, index % heads);
                let bias = &bias[number * square..(number + 1) * square];
                let head = Head { isa, kind, tokens, scale: score_scale[number] };
                let mut buffers = Buffers::take(tokens, bias, &mut scratch);
                let mut along = 0.0f64;
                for window in image * windows..(image + 1) * windows {
                    let window = geometry.padded_window(window);
                    let first = window.rows.start;
                    let column = |part: usize| &qkv[first * 3 * channels + part * channels + number * HEAD..];
                    let places = [&mut buffers.q, &mut buffers.k, &mut buffers.v];
                    for (part, to) in places.into_iter().enumerate() {
                        dispatch(isa, Take { from: column(part), stride: 3 * channels, to });
                    }
                    let from = &d_out[first * channels + number * HEAD..];
                    dispatch(isa, Take { from, stride: channels, to: buffers.d_out });
                    along += head.window(&window, &mut buffers);
                    for (part, values) in [&buffers.d_q, &buffers.d_k, &buffers.d_v].into_iter().enumerate() {
                        let start = window.rows.start * 3 * channels + part * channels + number * HEAD;
                        // SAFETY: every task has its own image and head.
                        unsafe { d_qkv.put(isa, (tokens, HEAD), (values, HEAD), (start, 3 * channels)) };
                    }
                }
                // SAFETY: as above.
                let (sums, scale) = unsafe { (biases.slice(index * square, square), scales.slice(index, 1)) };
                for (sums, padded) in sums.chunks_exact_mut(tokens).zip(buffers.d_bias.chunks_exact(MAX_TOKENS)) {
                    sums.copy_from_slice(&padded[..tokens]);
                }
                scale[0] = along as f32;
            });
        }
        if let Some(d_bias) = d_bias {
            add_partials(context, biases, d_bias);
        }
        if let Some(d_score_scale) = d_score_scale {
            add_partials(context, scales, d_score_scale);
        }
    });
}

/// Working memory of a task: matrices of one head of one window, [tokens, 32] or [tokens, 64].
struct Buffers<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
    d_out: &'a mut [f32],
    d_q: &'a mut [f32],
    d_k: &'a mut [f32],
    d_v: &'a mut [f32],
    /// k or v less its mean.
    centred: &'a mut [f32],
    /// One over the lengths of q and k; V2.
    inverse: [&'a mut [f32]; 2],
    packed: &'a mut [f32],
    /// Scores, then P.
    weights: &'a mut [f32],
    /// d_out·vᵀ, then dS.
    slopes: &'a mut [f32],
    bias: &'a mut [f32],
    /// Sum over windows.
    d_bias: &'a mut [f32],
}

impl<'a> Buffers<'a> {
    fn bytes(tokens: usize) -> usize {
        8 * scratch_bytes::<f32>(tokens * HEAD)
            + 2 * scratch_bytes::<f32>(tokens)
            + scratch_bytes::<f32>(packed_len::<f32>(tokens, HEAD))
            + 4 * scratch_bytes::<f32>(tokens * MAX_TOKENS)
    }

    fn take(tokens: usize, bias: &[f32], scratch: &mut Scratch<'a>) -> Self {
        let buffers = Self {
            q: scratch.take(tokens * HEAD),
            k: scratch.take(tokens * HEAD),
            v: scratch.take(tokens * HEAD),
            d_out: scratch.take(tokens * HEAD),
            d_q: scratch.take(tokens * HEAD),
            d_k: scratch.take(tokens * HEAD),
            d_v: scratch.take(tokens * HEAD),
            centred: scratch.take(tokens * HEAD),
            inverse: [scratch.take(tokens), scratch.take(tokens)],
            packed: scratch.take(packed_len::<f32>(tokens, HEAD)),
            weights: scratch.take(tokens * MAX_TOKENS),
            slopes: scratch.take(tokens * MAX_TOKENS),
            bias: scratch.take(tokens * MAX_TOKENS),
            d_bias: scratch.take(tokens * MAX_TOKENS),
        };
        for (row, from) in buffers.bias.chunks_exact_mut(MAX_TOKENS).zip(bias.chunks_exact(tokens)) {
            row[..tokens].copy_from_slice(from);
            row[tokens..].fill(NO_KEY);
        }
        buffers.d_bias.fill(0.0);
        // What a product leaves behind the last key is zero from the beginning.
        buffers.weights.fill(0.0);
        buffers.slopes.fill(0.0);
        buffers
    }
}

/// What is the same for all windows.
struct Head {
    isa: Isa,
    kind: WindowKind,
    tokens: usize,
    scale: f32,
}

impl Head {
    /// The gradients of one window, which is loaded; returns the gradient of the scale.
    fn window(&self, window: &Window, buffers: &mut Buffers<'_>) -> f64 {
        let Self { isa, kind, tokens, scale } = *self;
        let Buffers { q, k, v, d_out, d_q, d_k, d_v, centred, inverse, packed, weights, slopes, bias, d_bias } =
            buffers;
        if kind == WindowKind::V2 {
            dispatch(isa, Divide { x: q, inverse: inverse[0] });
            dispatch(isa, Divide { x: k, inverse: inverse[1] });
        }
        dispatch(isa, Centre { x: v, to: centred });
        let values = pack_rows(isa, tokens, HEAD, centred, HEAD, packed);
        tile(isa, tokens, d_out, HEAD, values, 0..tokens, slopes, MAX_TOKENS, false);
        dispatch(isa, Centre { x: k, to: centred });
        let keys = pack_rows(isa, tokens, HEAD, centred, HEAD, packed);
        tile(isa, tokens, q, HEAD, keys, 0..tokens, weights, MAX_TOKENS, false);
        dispatch(isa, Slopes { tokens, scale, regions: window.regions(), bias, weights, slopes, d_bias });
        let sizes = [tokens, tokens, HEAD];
        let by_key = |values| Left::Columns { values, stride: MAX_TOKENS };
        let by_query = Left::Rows { values: slopes, stride: MAX_TOKENS };
        multiply(isa, sizes, by_key(weights), (d_out, HEAD), (d_v, HEAD), false);
        multiply(isa, sizes, by_key(slopes), (q, HEAD), (d_k, HEAD), false);
        multiply(isa, sizes, by_query, (centred, HEAD), (d_q, HEAD), false);
        let lengths = (kind == WindowKind::V2).then_some(());
        let of = |index: usize| lengths.map(|()| &*inverse[index]);
        let along = dispatch(isa, Finish { x: q, d_x: d_q, scale, inverse: of(0) });
        dispatch(isa, Finish { x: k, d_x: d_k, scale, inverse: of(1) });
        along
    }
}

/// Rows of 32, widened, from rows further apart.
struct Take<'a, T> {
    from: &'a [T],
    stride: usize,
    to: &'a mut [f32],
}

impl<T: Element> Kernel for Take<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { from, stride, to } = self;
        let rows = to.len() / HEAD;
        assert!(rows == 0 || (rows - 1) * stride + HEAD <= from.len(), "{rows} rows, {stride} apart");
        for row in 0..rows {
            for d in (0..HEAD).step_by(V::LANES) {
                // SAFETY: 32 values of every row, in both.
                unsafe {
                    V::load_as(from.as_ptr().add(row * stride + d)).store(to.as_mut_ptr().add(row * HEAD + d));
                }
            }
        }
    }
}

/// Rows of 32 less their mean row.
struct Centre<'a> {
    x: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Centre<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, to } = self;
        let rows = x.len() / HEAD;
        assert!(to.len() == x.len() && x.len() == rows * HEAD);
        let share = V::splat(1.0 / rows.max(1) as f32);
        for d in (0..HEAD).step_by(V::LANES) {
            // SAFETY: rows of 32 values in both.
            unsafe {
                let mut sum = V::zero();
                for row in 0..rows {
                    sum = sum.add(V::load(x.as_ptr().add(row * HEAD + d)));
                }
                let mean = sum.mul(share);
                for row in 0..rows {
                    let at = row * HEAD + d;
                    V::load(x.as_ptr().add(at)).sub(mean).store(to.as_mut_ptr().add(at));
                }
            }
        }
    }
}

/// Divides rows of 32 by their lengths, and keeps one over those.
struct Divide<'a> {
    x: &'a mut [f32],
    inverse: &'a mut [f32],
}

impl Kernel for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (x, inverse) in self.x.chunks_exact_mut(HEAD).zip(self.inverse) {
            let x = x.as_mut_ptr();
            let mut squares = V::zero();
            for d in (0..HEAD).step_by(V::LANES) {
                // SAFETY: rows have 32 values.
                let value = unsafe { V::load(x.add(d)) };
                squares = value.mul_add(value, squares);
            }
            *inverse = 1.0 / squares.reduce_add().sqrt().max(MIN_LENGTH);
            for d in (0..HEAD).step_by(V::LANES) {
                // SAFETY: as above.
                unsafe { V::load(x.add(d)).mul(V::splat(*inverse)).store(x.add(d)) };
            }
        }
    }
}

/// Takes rows of d_x, gradients of the scores' second factor without the scale, on to the gradients of x: `scale·d_x`, and
/// where x was divided by its length, `(d − x·(x·d))` over that length. Returns `Σ x·d_x` of what was given.
struct Finish<'a> {
    x: &'a [f32],
    d_x: &'a mut [f32],
    scale: f32,
    inverse: Option<&'a [f32]>,
}

impl Kernel for Finish<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        let Self { x, d_x, scale, inverse } = self;
        let mut total = 0.0;
        for (row, (x, d_x)) in x.chunks_exact(HEAD).zip(d_x.chunks_exact_mut(HEAD)).enumerate() {
            let (x, d_x) = (x.as_ptr(), d_x.as_mut_ptr());
            // SAFETY: rows have 32 values.
            unsafe {
                let mut along = V::zero();
                for d in (0..HEAD).step_by(V::LANES) {
                    along = V::load(x.add(d)).mul_add(V::load(d_x.add(d)), along);
                }
                let along = along.reduce_add();
                total += f64::from(along);
                let (factor, along) = match inverse {
                    None => (scale, 0.0),
                    // A length below the least is a constant: nothing flows through it.
                    Some(inverse) if inverse[row] < 1.0 / MIN_LENGTH => (scale * inverse[row], along),
                    Some(inverse) => (scale * inverse[row], 0.0),
                };
                let (factor, along) = (V::splat(factor), V::splat(along));
                for d in (0..HEAD).step_by(V::LANES) {
                    let value = V::load(x.add(d)).neg_mul_add(along, V::load(d_x.add(d)));
                    value.mul(factor).store(d_x.add(d));
                }
            }
        }
        total
    }
}

/// Turns products into P and d_out·vᵀ into dS, which is added to d_bias.
struct Slopes<'a> {
    tokens: usize,
    scale: f32,
    regions: Option<&'a [f32; MAX_TOKENS]>,
    bias: &'a [f32],
    weights: &'a mut [f32],
    slopes: &'a mut [f32],
    d_bias: &'a mut [f32],
}

impl Kernel for Slopes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { tokens, scale, regions, bias, weights, slopes, d_bias } = self;
        let len = tokens * MAX_TOKENS;
        assert!(bias.len() == len && weights.len() == len && slopes.len() == len && d_bias.len() == len);
        let scale = V::splat(scale);
        for query in 0..tokens {
            let row = query * MAX_TOKENS;
            // SAFETY: rows of 64 of matrices of `tokens` rows, 64 regions.
            unsafe {
                let (bias, weights) = (bias.as_ptr().add(row), weights.as_mut_ptr().add(row));
                let (slopes, d_bias) = (slopes.as_mut_ptr().add(row), d_bias.as_mut_ptr().add(row));
                let mut largest = V::splat(NO_KEY);
                for key in (0..MAX_TOKENS).step_by(V::LANES) {
                    let mut score = V::load(weights.add(key)).mul_add(scale, V::load(bias.add(key)));
                    if let Some(regions) = regions {
                        let apart = V::load(regions.as_ptr().add(key)).sub(V::splat(regions[query])).abs();
                        score = score.add(apart.select_below(V::splat(0.5), V::zero(), V::splat(MASK)));
                    }
                    largest = largest.max(score);
                    score.store(weights.add(key));
                }
                let largest = V::splat(largest.reduce_max());
                let (mut sum, mut mean) = (V::zero(), V::zero());
                for key in (0..MAX_TOKENS).step_by(V::LANES) {
                    let weight = exp(V::splat(FLOOR).max(V::load(weights.add(key)).sub(largest)));
                    sum = sum.add(weight);
                    mean = weight.mul_add(V::load(slopes.add(key)), mean);
                    weight.store(weights.add(key));
                }
                let inverse = 1.0 / sum.reduce_add();
                let mean = V::splat(mean.reduce_add() * inverse);
                let inverse = V::splat(inverse);
                for key in (0..MAX_TOKENS).step_by(V::LANES) {
                    let weight = V::load(weights.add(key)).mul(inverse);
                    weight.store(weights.add(key));
                    let slope = V::load(slopes.add(key)).sub(mean).mul(weight);
                    V::load(d_bias.add(key)).add(slope).store(d_bias.add(key));
                    slope.store(slopes.add(key));
                }
            }
        }
    }
}

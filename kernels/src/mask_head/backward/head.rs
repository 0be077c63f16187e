//! Gradients of the whole mask head, fused: a tile of image tokens is upscaled again and the gradient goes back through it in
//! scratch, so that none of the maps in between is ever stored, in neither pass.
//!
//! Per token: 98 Ki multiply-adds to compute u again, 215 Ki for the gradients. x and d_logits are read once, d_x is written.
//! Tokens of an image are cut into parts by shape alone; a part is a task with sums of its own, which are added in order.

use super::super::MaskHeadSpec;
use crate::context::{Disjoint, Scratch, scratch_bytes};
use crate::gemm::{Left, PackedMatrix, multiply, tile};
use crate::gradient::{Gradient, SharedGradient, add_partials};
use crate::rows::convert_row;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element, Isa};

/// Image tokens of a tile: its maps, half a MiB, and the first convolution's gradient share the second-level cache.
const TILE: usize = 32;
/// Width of an image token.
const WIDTH: usize = 256;
/// Channels after the first transposed convolution.
const MIDDLE: usize = 64;
/// Channels after the second.
const UPSCALED: usize = 32;
/// Pixels of an image token.
const PIXELS: usize = 16;
/// ε of the norm between them.
const EPS: f32 = 1e-6;
/// Parts of a batch, about: each has a matrix as large as the first convolution's.
const PARTS: usize = 16;

/// Operands of one call.
pub struct MaskHeadBackwardOperands<'a, T: Element> {
    /// [batch, h, w, 256]
    pub x: &'a [T],
    /// W1 [256, 256]
    pub weight1: &'a PackedMatrix,
    /// b1 `[64]`
    pub bias1: &'a [f32],
    /// γ and β of the norm, `[64]` each.
    pub norm: (&'a [f32], &'a [f32]),
    /// W2 [128, 64]
    pub weight2: &'a PackedMatrix,
    /// b2 `[32]`
    pub bias2: &'a [f32],
    /// W1 and W2 packed the other way round: [256, 256] and [64, 128].
    pub transposed: [&'a PackedMatrix; 2],
    /// [batch, T, 32]
    pub hyper: &'a [f32],
    /// [batch, 4h, 4w, T]
    pub d_logits: &'a [f32],
    /// [batch, h, w, 256]
    pub d_x: Gradient<'a, T>,
    /// [batch, T, 32]
    pub d_hyper: Gradient<'a, f32>,
    /// Added to.
    pub d_parameters: MaskHeadParameters<'a>,
}

/// Gradients of the parameters.
pub struct MaskHeadParameters<'a> {
    /// [256, 256], as W1: row (i·2 + j)·64 + c.
    pub weight1: &'a mut [f32],
    /// `[64]`
    pub bias1: &'a mut [f32],
    /// γ's `[64]`
    pub norm_weight: &'a mut [f32],
    /// β's `[64]`
    pub norm_bias: &'a mut [f32],
    /// [128, 64]
    pub weight2: &'a mut [f32],
    /// `[32]`
    pub bias2: &'a mut [f32],
}

/// Lengths of a part's sums: W1, W2, b1, γ, β, b2.
const SUMS: [usize; 6] = [4 * MIDDLE * WIDTH, 4 * UPSCALED * MIDDLE, MIDDLE, MIDDLE, MIDDLE, UPSCALED];

/// Runs the kernel. What the forward head wrote, logits or labels, does not matter.
///
/// # Panics
/// If an operand's length is not what the spec says, or T is 0 or more than 256.
pub fn mask_head_backward<T: Element>(
    ctx: &mut Context,
    spec: &MaskHeadSpec,
    operands: MaskHeadBackwardOperands<'_, T>,
) {
    let MaskHeadSpec { batch, input: [height, width], classes, .. } = *spec;
    let MaskHeadBackwardOperands {
        x,
        weight1,
        bias1,
        norm,
        weight2,
        bias2,
        transposed,
        hyper,
        d_logits,
        d_x,
        d_hyper,
        d_parameters,
    } = operands;
    let tokens = height * width;
    assert!((1..=256).contains(&classes), "{classes} classes");
    assert_eq!((x.len(), d_x.values.len()), (batch * tokens * WIDTH, x.len()), "x and d_x");
    let size = |weight: &PackedMatrix| (weight.n(), weight.k());
    assert_eq!((size(weight1), size(weight2)), ((4 * MIDDLE, WIDTH), (4 * UPSCALED, MIDDLE)), "weights");
    let turned = transposed.map(size);
    assert_eq!(turned, [(WIDTH, 4 * MIDDLE), (MIDDLE, 4 * UPSCALED)], "transposed weights");
    assert_eq!((bias1.len(), norm.0.len(), norm.1.len()), (MIDDLE, MIDDLE, MIDDLE), "bias1 and norm");
    let filters = classes * UPSCALED;
    assert_eq!((bias2.len(), hyper.len()), (UPSCALED, batch * filters), "bias2 and hyper");
    assert_eq!(d_logits.len(), batch * PIXELS * tokens * classes, "d_logits");
    assert_eq!(d_hyper.values.len(), hyper.len(), "d_hyper");
    let MaskHeadParameters { weight1: d1, bias1: db1, norm_weight, norm_bias, weight2: d2, bias2: db2 } = d_parameters;
    let sums: [&mut [f32]; 6] = [d1, d2, db1, norm_weight, norm_bias, db2];
    assert_eq!(sums.each_ref().map(|sums| sums.len()), SUMS, "gradients of the parameters");
    if !d_hyper.accumulate {
        d_hyper.values.fill(0.0);
    }
    if batch * tokens == 0 {
        return;
    }

    let isa = ctx.isa();
    let tiles = tokens.div_ceil(TILE);
    let per_part = tiles.div_ceil((PARTS / batch).max(1));
    let parts = tiles.div_ceil(per_part);
    let head = Head { isa, spec: *spec, x, weight1, bias1, norm, weight2, bias2, transposed, hyper, d_logits };
    let tasks = batch * parts;
    let bytes = SUMS.map(|len| scratch_bytes::<f32>(tasks * len)).iter().sum::<usize>();
    ctx.with_shared(bytes + scratch_bytes::<f32>(tasks * filters), |ctx, mut shared| {
        let mut partial = SUMS.map(|len| shared.take::<f32>(tasks * len));
        let d_filters = shared.take::<f32>(tasks * filters);
        {
            let partial = partial.each_mut().map(|partial| Disjoint::new(partial));
            let d_filters = Disjoint::new(&mut *d_filters);
            let d_x = d_x.share();
            ctx.parallel(tasks, Buffers::<T>::bytes(classes), |task, mut scratch| {
                let (image, part) = (task / parts, task % parts);
                // SAFETY: each task has its own sums.
                let (mut sums, d_filters) = unsafe {
                    let sums = [0, 1, 2, 3, 4, 5].map(|i| partial[i].slice(task * SUMS[i], SUMS[i]));
                    (sums, d_filters.slice(task * filters, filters))
                };
                sums.iter_mut().for_each(|sums| sums.fill(0.0));
                d_filters.fill(0.0);
                let mut buffers = Buffers::take(classes, &mut scratch);
                for tile in part * per_part..tiles.min((part + 1) * per_part) {
                    let first = tile * TILE;
                    let rows = TILE.min(tokens - first);
                    // SAFETY: each task has its own tokens.
                    unsafe { head.tile(image, first, rows, &mut buffers, &mut sums, d_filters, &d_x) };
                }
            });
        }
        for (sums, partial) in sums.into_iter().zip(partial) {
            add_partials(ctx, partial, sums);
        }
        for image in 0..batch {
            let partial = &d_filters[image * parts * filters..(image + 1) * parts * filters];
            add_partials(ctx, partial, &mut d_hyper.values[image * filters..(image + 1) * filters]);
        }
    });
}

/// What all tasks share.
struct Head<'a, T> {
    isa: Isa,
    spec: MaskHeadSpec,
    x: &'a [T],
    weight1: &'a PackedMatrix,
    bias1: &'a [f32],
    norm: (&'a [f32], &'a [f32]),
    weight2: &'a PackedMatrix,
    bias2: &'a [f32],
    transposed: [&'a PackedMatrix; 2],
    hyper: &'a [f32],
    d_logits: &'a [f32],
}

/// Working memory of a task: a tile's maps.
struct Buffers<'a, T> {
    /// [tokens, 4, 64]: x̂ of the norm.
    normal: &'a mut [f32],
    /// One over the deviation of each of its rows.
    inverse: &'a mut [f32],
    /// Behind norm and GELU.
    middle: &'a mut [T],
    /// [tokens, 16, 32]: before the second GELU, and behind it.
    z: &'a mut [f32],
    u: &'a mut [f32],
    /// Their gradient.
    d_u: &'a mut [f32],
    /// [tokens, 4, 64]: that of the middle map; then [tokens, 256]: that of x.
    d_middle: &'a mut [f32],
    d_x: &'a mut [f32],
    /// A gradient as elements.
    narrow: &'a mut [T],
    /// [tokens, 16, T]
    d_logits: &'a mut [f32],
}

impl<'a, T: Element> Buffers<'a, T> {
    fn bytes(classes: usize) -> usize {
        3 * scratch_bytes::<f32>(TILE * WIDTH)
            + scratch_bytes::<f32>(TILE * 4)
            + scratch_bytes::<T>(TILE * WIDTH)
            + 3 * scratch_bytes::<f32>(TILE * PIXELS * UPSCALED)
            + scratch_bytes::<T>(TILE * PIXELS * UPSCALED)
            + scratch_bytes::<f32>(TILE * PIXELS * classes)
    }

    fn take(classes: usize, scratch: &mut Scratch<'a>) -> Self {
        Self {
            normal: scratch.take(TILE * WIDTH),
            inverse: scratch.take(TILE * 4),
            middle: scratch.take(TILE * WIDTH),
            z: scratch.take(TILE * PIXELS * UPSCALED),
            u: scratch.take(TILE * PIXELS * UPSCALED),
            d_u: scratch.take(TILE * PIXELS * UPSCALED),
            d_middle: scratch.take(TILE * WIDTH),
            d_x: scratch.take(TILE * WIDTH),
            narrow: scratch.take(TILE * PIXELS * UPSCALED),
            d_logits: scratch.take(TILE * PIXELS * classes),
        }
    }
}

impl<T: Element> Head<'_, T> {
    /// The tokens `first..first + rows` of an image.
    ///
    /// # Safety
    /// Nobody else uses those rows of d_x meanwhile.
    #[allow(clippy::too_many_arguments)] // where the tile lies, and the three places that its gradients go to
    unsafe fn tile(
        &self,
        image: usize,
        first: usize,
        rows: usize,
        buffers: &mut Buffers<'_, T>,
        sums: &mut [&mut [f32]; 6],
        d_filters: &mut [f32],
        d_x: &SharedGradient<'_, T>,
    ) {
        let MaskHeadSpec { input: [height, width], classes, .. } = self.spec;
        let (isa, tokens) = (self.isa, height * width);
        let [d_weight1, d_weight2, d_bias1, d_gamma, d_beta, d_bias2] = sums;
        let (cells, pixels) = (rows * 4, rows * PIXELS);
        let start = (image * tokens + first) * WIDTH;
        let x = &self.x[start..start + rows * WIDTH];
        let normal = &mut buffers.normal[..rows * WIDTH];
        let inverse = &mut buffers.inverse[..cells];
        let middle = &mut buffers.middle[..rows * WIDTH];
        let z = &mut buffers.z[..pixels * UPSCALED];
        let u = &mut buffers.u[..pixels * UPSCALED];
        let d_u = &mut buffers.d_u[..pixels * UPSCALED];
        let d_middle = &mut buffers.d_middle[..rows * WIDTH];
        let d_logits = &mut buffers.d_logits[..pixels * classes];
        let norm = self.norm;

        // Forward again.
        tile(isa, rows, x, WIDTH, self.weight1.view(), 0..4 * MIDDLE, normal, 4 * MIDDLE, false);
        dispatch(isa, Norm { sums: normal, bias: self.bias1, norm, inverse, out: middle });
        tile(isa, cells, middle, MIDDLE, self.weight2.view(), 0..4 * UPSCALED, z, 4 * UPSCALED, false);
        dispatch(isa, Upscale { z, bias: self.bias2, u });

        // Back: logits, second GELU, second convolution.
        for row in 0..rows {
            let (y, x) = ((first + row) / width, (first + row) % width);
            for line in 0..4 {
                let pixel = ((image * height + y) * 4 + line) * 4 * width + 4 * x;
                let from = &self.d_logits[pixel * classes..][..4 * classes];
                for (column, from) in from.chunks_exact(classes).enumerate() {
                    // The first convolution's sub-pixel, then the second's.
                    let (outer, inner) = (line / 2 * 2 + column / 2, line % 2 * 2 + column % 2);
                    d_logits[(row * PIXELS + outer * 4 + inner) * classes..][..classes].copy_from_slice(from);
                }
            }
        }
        let hyper = &self.hyper[image * classes * UPSCALED..][..classes * UPSCALED];
        let by_pixel = Left::Rows { values: d_logits, stride: classes };
        multiply(isa, [pixels, classes, UPSCALED], by_pixel, (hyper, UPSCALED), (d_u, UPSCALED), false);
        let by_class = Left::Columns { values: d_logits, stride: classes };
        multiply(isa, [classes, pixels, UPSCALED], by_class, (u, UPSCALED), (d_filters, UPSCALED), true);
        dispatch(isa, UpscaleSlope { z, d: d_u, d_bias: d_bias2 });
        let by_output = Left::Columns { values: d_u, stride: 4 * UPSCALED };
        multiply(isa, [4 * UPSCALED, cells, MIDDLE], by_output, (middle, MIDDLE), (d_weight2, MIDDLE), true);
        let narrow = &mut buffers.narrow[..pixels * UPSCALED];
        convert_row(isa, d_u, narrow);
        let weight2 = self.transposed[1].view();
        tile(isa, cells, narrow, 4 * UPSCALED, weight2, 0..MIDDLE, d_middle, MIDDLE, false);

        // First GELU, norm, first convolution.
        dispatch(isa, NormSlope { normal, inverse, norm, d: d_middle, d_gamma, d_beta, d_bias: d_bias1 });
        let by_output = Left::Columns { values: d_middle, stride: 4 * MIDDLE };
        multiply(isa, [4 * MIDDLE, rows, WIDTH], by_output, (x, WIDTH), (d_weight1, WIDTH), true);
        let narrow = &mut narrow[..rows * 4 * MIDDLE];
        convert_row(isa, d_middle, narrow);
        let weight1 = self.transposed[0].view();
        tile(isa, rows, narrow, 4 * MIDDLE, weight1, 0..WIDTH, buffers.d_x, WIDTH, false);
        // SAFETY: as the caller promises.
        unsafe { d_x.put(isa, (rows, WIDTH), (buffers.d_x, WIDTH), (start, WIDTH)) };
    }
}

/// Products to x̂, and its norm and GELU to `out`.
struct Norm<'a, T> {
    /// Rows of 64; overwritten by x̂.
    sums: &'a mut [f32],
    bias: &'a [f32],
    norm: (&'a [f32], &'a [f32]),
    inverse: &'a mut [f32],
    out: &'a mut [T],
}

impl<T: Element> Kernel for Norm<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { sums, bias, norm: (gamma, beta), inverse, out } = self;
        assert!(bias.len() == MIDDLE && gamma.len() == MIDDLE && beta.len() == MIDDLE && out.len() == sums.len());
        let (bias, gamma, beta) = (bias.as_ptr(), gamma.as_ptr(), beta.as_ptr());
        let rows = sums.chunks_exact_mut(MIDDLE).zip(out.chunks_exact_mut(MIDDLE)).zip(inverse);
        for ((sums, out), inverse) in rows {
            let (sums, out) = (sums.as_mut_ptr(), out.as_mut_ptr());
            // SAFETY: rows and parameters have 64 values.
            unsafe {
                let mut total = V::zero();
                for i in (0..MIDDLE).step_by(V::LANES) {
                    let value = V::load(sums.add(i)).add(V::load(bias.add(i)));
                    value.store(sums.add(i));
                    total = total.add(value);
                }
                let mean = V::splat(total.reduce_add() / MIDDLE as f32);
                let mut squares = V::zero();
                for i in (0..MIDDLE).step_by(V::LANES) {
                    let d = V::load(sums.add(i)).sub(mean);
                    squares = d.mul_add(d, squares);
                }
                *inverse = 1.0 / (squares.reduce_add() / MIDDLE as f32 + EPS).sqrt();
                let scale = V::splat(*inverse);
                for i in (0..MIDDLE).step_by(V::LANES) {
                    let normal = V::load(sums.add(i)).sub(mean).mul(scale);
                    normal.store(sums.add(i));
                    let value = normal.mul_add(V::load(gamma.add(i)), V::load(beta.add(i)));
                    Act::Gelu.apply(value).store_as(out.add(i));
                }
            }
        }
    }
}

/// Adds the bias to z; `u = gelu(z)`. Rows of 32.
struct Upscale<'a> {
    z: &'a mut [f32],
    bias: &'a [f32],
    u: &'a mut [f32],
}

impl Kernel for Upscale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { z, bias, u } = self;
        assert!(bias.len() == UPSCALED && z.len() == u.len());
        for (z, u) in z.chunks_exact_mut(UPSCALED).zip(u.chunks_exact_mut(UPSCALED)) {
            for i in (0..UPSCALED).step_by(V::LANES) {
                // SAFETY: rows and bias have 32 values.
                unsafe {
                    let value = V::load(z.as_ptr().add(i)).add(V::load(bias.as_ptr().add(i)));
                    value.store(z.as_mut_ptr().add(i));
                    Act::Gelu.apply(value).store(u.as_mut_ptr().add(i));
                }
            }
        }
    }
}

/// `d = d·gelu′(z)`, whose sum over rows of 32 is added to `d_bias`.
struct UpscaleSlope<'a> {
    z: &'a [f32],
    d: &'a mut [f32],
    d_bias: &'a mut [f32],
}

impl Kernel for UpscaleSlope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { z, d, d_bias } = self;
        let rows = d.len() / UPSCALED;
        assert!(d_bias.len() == UPSCALED && z.len() == d.len() && d.len() == rows * UPSCALED);
        for i in (0..UPSCALED).step_by(V::LANES) {
            let mut sum = V::zero();
            for row in 0..rows {
                // SAFETY: rows of 32 values.
                unsafe {
                    let at = row * UPSCALED + i;
                    let slope = Act::Gelu.derivative(V::load(z.as_ptr().add(at)));
                    let value = V::load(d.as_ptr().add(at)).mul(slope);
                    sum = sum.add(value);
                    value.store(d.as_mut_ptr().add(at));
                }
            }
            // SAFETY: as above.
            unsafe {
                let to = d_bias.as_mut_ptr().add(i);
                V::load(to).add(sum).store(to);
            }
        }
    }
}

/// From the gradient behind GELU and norm to that of the norm's operand, rows of 64; adds to the parameters' gradients.
struct NormSlope<'a> {
    normal: &'a [f32],
    inverse: &'a [f32],
    norm: (&'a [f32], &'a [f32]),
    d: &'a mut [f32],
    d_gamma: &'a mut [f32],
    d_beta: &'a mut [f32],
    d_bias: &'a mut [f32],
}

impl Kernel for NormSlope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { normal, inverse, norm: (gamma, beta), d, d_gamma, d_beta, d_bias } = self;
        assert!(gamma.len() == MIDDLE && beta.len() == MIDDLE && normal.len() == d.len());
        assert!(d_gamma.len() == MIDDLE && d_beta.len() == MIDDLE && d_bias.len() == MIDDLE);
        let (gamma, beta) = (gamma.as_ptr(), beta.as_ptr());
        let (d_gamma, d_beta, d_bias) = (d_gamma.as_mut_ptr(), d_beta.as_mut_ptr(), d_bias.as_mut_ptr());
        let rows = normal.chunks_exact(MIDDLE).zip(d.chunks_exact_mut(MIDDLE)).zip(inverse);
        for ((normal, d), inverse) in rows {
            let (normal, d) = (normal.as_ptr(), d.as_mut_ptr());
            // SAFETY: rows, parameters and sums have 64 values.
            unsafe {
                let (mut total, mut along) = (V::zero(), V::zero());
                for i in (0..MIDDLE).step_by(V::LANES) {
                    let x = V::load(normal.add(i));
                    let gamma = V::load(gamma.add(i));
                    let slope = Act::Gelu.derivative(x.mul_add(gamma, V::load(beta.add(i))));
                    let value = V::load(d.add(i)).mul(slope);
                    value.mul_add(x, V::load(d_gamma.add(i))).store(d_gamma.add(i));
                    value.add(V::load(d_beta.add(i))).store(d_beta.add(i));
                    let g = value.mul(gamma);
                    total = total.add(g);
                    along = g.mul_add(x, along);
                    g.store(d.add(i));
                }
                let mean = V::splat(total.reduce_add() / MIDDLE as f32);
                let along = V::splat(along.reduce_add() / MIDDLE as f32);
                let scale = V::splat(*inverse);
                for i in (0..MIDDLE).step_by(V::LANES) {
                    let x = V::load(normal.add(i));
                    let value = x.neg_mul_add(along, V::load(d.add(i)).sub(mean)).mul(scale);
                    value.store(d.add(i));
                    V::load(d_bias.add(i)).add(value).store(d_bias.add(i));
                }
            }
        }
    }
}

//! Gradients of a dense convolution, on the CPU.
//!
//! Data: `d_x[b, iy, ix, c] (+)= Σ_{i, j, o} d_out[b, (iy + p − i)/s, (ix + p − j)/s, o] · weight[o, (i·k + j)·C + c]` over the taps
//! for which the divisions leave no rest. Input pixels of one remainder (mod s, both ways) see the same taps, so each such phase
//! is a convolution of stride 1 of d_out: gathered rows times a matrix. FLOPs as forward.
//!
//! Weight: the weight gradient of a product whose rows are the gathered patches.

use super::ConvSpec;
use super::cpu::gather::Patches;
use crate::context::scratch_bytes;
use crate::gemm::backward::{RowSource, weight_gradient};
use crate::gemm::{pack_columns_f32, packed_len, tile};
use crate::{Context, Element, Gradient, Isa};
use std::ops::Range;

/// What gathered rows and sums of one task should stay below, a part of L2.
const TILE_BYTES: usize = 512 << 10;

/// Operands of [`conv_input`].
pub struct ConvInputOperands<'a, T: Element> {
    /// [batch, oh, ow, O]
    pub d_out: &'a [T],
    /// [O, k·k·C], row-major.
    pub weight: &'a [f32],
    /// [batch, h, w, C]
    pub d_x: Gradient<'a, T>,
}

/// Operands of [`conv_weight`].
pub struct ConvWeightOperands<'a, T: Element> {
    /// [batch, h, w, C], as the forward pass had it.
    pub x: &'a [T],
    /// [batch, oh, ow, O]
    pub d_out: &'a [T],
    /// [O, k·k·C], added to.
    pub d_weight: Option<&'a mut [f32]>,
    /// `[O]`, added to.
    pub d_bias: Option<&'a mut [f32]>,
}

/// Adds up the gradients of weight and bias. The spec's epilogue but for the bias must be empty.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn conv_weight<T: Element>(ctx: &mut Context, spec: &ConvSpec, operands: ConvWeightOperands<'_, T>) {
    let ConvWeightOperands { x, d_out, d_weight, d_bias } = operands;
    let patches = Patches::new(spec, x);
    weight_gradient(ctx, [spec.rows(), spec.out_channels, spec.depth()], &patches, d_out, d_weight, d_bias);
}

impl<T: Element> RowSource<T> for Patches<'_, T> {
    fn stride(&self) -> usize {
        self.row_len()
    }

    fn scratch_len(&self, rows: usize) -> usize {
        Patches::scratch_len(self, rows)
    }

    fn rows<'s>(&'s self, isa: Isa, range: Range<usize>, scratch: &'s mut [T]) -> &'s [T] {
        self.gather(isa, range, scratch);
        scratch
    }
}

/// The gradient of the data.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn conv_input<T: Element>(ctx: &mut Context, spec: &ConvSpec, operands: ConvInputOperands<'_, T>) {
    let ConvInputOperands { d_out, weight, d_x } = operands;
    let ConvSpec { batch, input, channels, out_channels, stride, .. } = *spec;
    assert_eq!(d_out.len(), spec.rows() * out_channels, "d_out");
    assert_eq!(weight.len(), out_channels * spec.depth(), "weight");
    assert_eq!(d_x.values.len(), batch * input[0] * input[1] * channels, "d_x");
    if d_x.values.is_empty() {
        return;
    }
    let d_x = d_x.share();
    for remainder in 0..stride * stride {
        let phase = Phase::new(spec, [remainder / stride, remainder % stride]);
        phase_input(ctx, spec, &phase, d_out, weight, &d_x);
    }
}

/// Input pixels (y·s + at_y, x·s + at_x).
struct Phase {
    at: [usize; 2],
    /// How many, per side.
    size: [usize; 2],
    /// Taps that reach them: index in the kernel, and where d_out is read relative to (y, x).
    taps: Vec<(usize, [isize; 2])>,
}

impl Phase {
    fn new(spec: &ConvSpec, at: [usize; 2]) -> Phase {
        let ConvSpec { input, kernel, stride, padding, .. } = *spec;
        let reach = |at: usize, i: usize| {
            let distance = (at + padding) as isize - i as isize;
            (distance.rem_euclid(stride as isize) == 0).then(|| distance.div_euclid(stride as isize))
        };
        let mut taps = Vec::new();
        for i in 0..kernel {
            for j in 0..kernel {
                if let (Some(dy), Some(dx)) = (reach(at[0], i), reach(at[1], j)) {
                    taps.push((i * kernel + j, [dy, dx]));
                }
            }
        }
        let size = [0, 1].map(|side| input[side].saturating_sub(at[side]).div_ceil(stride));
        Phase { at, size, taps }
    }
}

fn phase_input<T: Element>(
    ctx: &mut Context,
    spec: &ConvSpec,
    phase: &Phase,
    d_out: &[T],
    weight: &[f32],
    d_x: &crate::gradient::SharedGradient<'_, T>,
) {
    let ConvSpec { batch, input, channels, out_channels, stride, .. } = *spec;
    let Phase { at, size, ref taps } = *phase;
    let rows = batch * size[0] * size[1];
    let depth = taps.len() * out_channels;
    if rows == 0 || (depth == 0 && d_x.accumulate) {
        return;
    }
    let isa = ctx.isa();
    let (stacked_len, packed) = (depth * channels, packed_len::<T>(channels, depth));
    ctx.with_shared(scratch_bytes::<f32>(stacked_len) + scratch_bytes::<T>(packed), |ctx, mut shared| {
        let stacked = shared.take::<f32>(stacked_len);
        for (index, (tap, _)) in taps.iter().enumerate() {
            for o in 0..out_channels {
                let from = &weight[o * spec.depth() + tap * channels..][..channels];
                stacked[(index * out_channels + o) * channels..][..channels].copy_from_slice(from);
            }
        }
        let b = pack_columns_f32::<T>(isa, channels, depth, stacked, channels, shared.take::<T>(packed));
        let bytes = channels * size_of::<f32>() + depth * size_of::<T>();
        let fitting = (TILE_BYTES / bytes.max(1)).clamp(32, 512);
        let tasks = rows.div_ceil(fitting).next_multiple_of(ctx.threads());
        let pixels = rows.div_ceil(tasks).next_multiple_of(16);
        let scratch = scratch_bytes::<T>(pixels * depth) + scratch_bytes::<f32>(pixels * channels);
        ctx.parallel(rows.div_ceil(pixels), scratch, |task, mut scratch| {
            let range = task * pixels..rows.min((task + 1) * pixels);
            let gathered = scratch.take::<T>(pixels * depth);
            let sums = &mut scratch.take::<f32>(pixels * channels)[..range.len() * channels];
            for (pixel, row) in range.clone().zip(gathered.chunks_exact_mut(depth.max(1))) {
                gather(spec, phase, d_out, pixel, row);
            }
            if depth == 0 {
                sums.fill(0.0);
            } else {
                tile(isa, range.len(), gathered, depth, b, 0..channels, sums, channels, false);
            }
            // Runs of pixels of one row of the phase are `stride` pixels apart in d_x.
            let mut pixel = range.start;
            while pixel < range.end {
                let (line, x) = (pixel / size[1], pixel % size[1]);
                let (image, y) = (line / size[0], line % size[0]);
                let count = (size[1] - x).min(range.end - pixel);
                let start = ((image * input[0] + y * stride + at[0]) * input[1] + x * stride + at[1]) * channels;
                let from = &sums[(pixel - range.start) * channels..][..count * channels];
                // SAFETY: each task has its own pixels, and phases come one after another.
                unsafe { d_x.put(isa, (count, channels), (from, channels), (start, stride * channels)) };
                pixel += count;
            }
        });
    });
}

/// What the taps of one input pixel of a phase read of d_out, zero outside.
fn gather<T: Element>(spec: &ConvSpec, phase: &Phase, d_out: &[T], pixel: usize, row: &mut [T]) {
    let ([height, width], n) = (spec.output(), spec.out_channels);
    let (line, x) = (pixel / phase.size[1], pixel % phase.size[1]);
    let (image, y) = (line / phase.size[0], line % phase.size[0]);
    for ((_, [dy, dx]), to) in phase.taps.iter().zip(row.chunks_exact_mut(n)) {
        let inside = |at: usize, by: isize, side: usize| at.checked_add_signed(by).filter(|at| *at < side);
        match (inside(y, *dy, height), inside(x, *dx, width)) {
            (Some(y), Some(x)) => to.copy_from_slice(&d_out[((image * height + y) * width + x) * n..][..n]),
            _ => to.fill(T::default()),
        }
    }
}

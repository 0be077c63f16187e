//! The fused head: a tile of image tokens goes from 256-vectors to labels in scratch.

use super::vectors::{ArgMax, BiasNormGelu};
use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::{PackedView, pack_rows_f32, packed_len, tile};
use crate::mask_head::{MaskHeadOperands, MaskHeadOutput, MaskHeadSpec};
use crate::simd::dispatch;
use crate::{Context, Element};

/// Image tokens of a tile.
const TILE: usize = 64;
/// Width of an image token.
const WIDTH: usize = 256;
/// Channels after the first transposed convolution.
const MIDDLE: usize = 64;
/// Channels after the second.
const UPSCALED: usize = 32;
/// ε of the norm between them.
const EPS: f32 = 1e-6;

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says, the output asked for is missing, or T is 0 or more than 256.
pub fn mask_head<T: Element>(ctx: &mut Context, spec: &MaskHeadSpec, operands: MaskHeadOperands<'_, T>) {
    let MaskHeadSpec { batch, input: [height, width], classes, output } = *spec;
    let MaskHeadOperands { x, weight1, bias1, norm, weight2, bias2, hyper, logits, labels } = operands;
    let tokens = height * width;
    assert!((1..=256).contains(&classes), "{classes} classes");
    assert_eq!(x.len(), batch * tokens * WIDTH, "x");
    assert_eq!((weight1.n(), weight1.k()), (4 * MIDDLE, WIDTH), "weight1");
    assert_eq!((weight2.n(), weight2.k()), (4 * UPSCALED, MIDDLE), "weight2");
    assert_eq!((bias1.len(), norm.0.len(), norm.1.len()), (MIDDLE, MIDDLE, MIDDLE), "bias1 and norm");
    assert_eq!((bias2.len(), hyper.len()), (UPSCALED, batch * classes * UPSCALED), "bias2 and hyper");
    let (mut no_logits, mut no_labels) = ([], []);
    let (logits, labels): (&mut [f32], &mut [u8]) = match output {
        MaskHeadOutput::Logits => (logits.expect("a buffer for logits"), &mut no_labels),
        MaskHeadOutput::Labels => (&mut no_logits, labels.expect("a buffer for labels")),
    };
    match output {
        MaskHeadOutput::Logits => assert_eq!(logits.len(), batch * 16 * tokens * classes, "logits"),
        MaskHeadOutput::Labels => assert_eq!(labels.len(), batch * 16 * tokens, "labels"),
    }

    let isa = ctx.isa();
    let hyper_len = packed_len::<T>(classes, UPSCALED);
    let mut packed_hyper = vec![T::default(); batch * hyper_len];
    for (image, out) in packed_hyper.chunks_exact_mut(hyper_len).enumerate() {
        let hyper = &hyper[image * classes * UPSCALED..][..classes * UPSCALED];
        pack_rows_f32(isa, classes, UPSCALED, hyper, UPSCALED, out);
    }

    // Logits of a tile, rows padded to whole cache lines.
    let stride = classes.next_multiple_of(16);
    let sums_len = (TILE * 16 * stride).max(TILE * 16 * UPSCALED);
    let scratch = scratch_bytes::<f32>(sums_len)
        + scratch_bytes::<T>(TILE * 4 * MIDDLE)
        + scratch_bytes::<T>(TILE * 16 * UPSCALED)
        + scratch_bytes::<u8>(TILE * 16);
    let tiles = tokens.div_ceil(TILE);
    let (logits, labels) = (Disjoint::new(logits), Disjoint::new(labels));
    ctx.parallel(batch * tiles, scratch, |task, mut scratch| {
        let (image, first) = (task / tiles, task % tiles * TILE);
        let rows = TILE.min(tokens - first);
        let sums = scratch.take::<f32>(sums_len);
        let middle = &mut scratch.take::<T>(TILE * 4 * MIDDLE)[..rows * 4 * MIDDLE];
        let upscaled = &mut scratch.take::<T>(TILE * 16 * UPSCALED)[..rows * 16 * UPSCALED];
        let best = &mut scratch.take::<u8>(TILE * 16)[..rows * 16];

        let x = &x[(image * tokens + first) * WIDTH..][..rows * WIDTH];
        tile(isa, rows, x, WIDTH, weight1.view(), 0..4 * MIDDLE, sums, 4 * MIDDLE, false);
        dispatch(isa, BiasNormGelu { sums, bias: bias1, norm: Some((norm.0, norm.1, EPS)), out: middle });
        tile(isa, rows * 4, middle, MIDDLE, weight2.view(), 0..4 * UPSCALED, sums, 4 * UPSCALED, false);
        dispatch(isa, BiasNormGelu { sums, bias: bias2, norm: None, out: upscaled });
        let hyper = PackedView::new(classes, UPSCALED, &packed_hyper[image * hyper_len..][..hyper_len]);
        tile(isa, rows * 16, upscaled, UPSCALED, hyper, 0..classes, sums, stride, false);
        if output == MaskHeadOutput::Labels {
            dispatch(isa, ArgMax { logits: sums, classes, stride, out: best });
        }

        for row in 0..rows {
            let (y, x) = ((first + row) / width, (first + row) % width);
            for line in 0..4 {
                // Pixel `column` of this line: the first convolution's sub-pixel, then the second's.
                let source = |column: usize| {
                    let (outer, inner) = (line / 2 * 2 + column / 2, line % 2 * 2 + column % 2);
                    row * 16 + outer * 4 + inner
                };
                let pixel = ((image * height + y) * 4 + line) * 4 * width + 4 * x;
                // SAFETY: each image token has its own pixels.
                match output {
                    MaskHeadOutput::Labels => {
                        let out = unsafe { labels.slice(pixel, 4) };
                        out.iter_mut().enumerate().for_each(|(column, label)| *label = best[source(column)]);
                    }
                    MaskHeadOutput::Logits => {
                        let out = unsafe { logits.slice(pixel * classes, 4 * classes) };
                        for (column, out) in out.chunks_exact_mut(classes).enumerate() {
                            out.copy_from_slice(&sums[source(column) * stride..][..classes]);
                        }
                    }
                }
            }
        }
    });
}

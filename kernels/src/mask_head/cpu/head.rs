//! The fused head: a tile of image tokens goes from 256-vectors to labels in scratch.

use super::vectors::{ArgMaxColumns, BiasNormGelu, class_id};
use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::{PackedView, pack_rows, pack_rows_f32, packed_len, tile};
use crate::mask_head::{MaskHeadOperands, MaskHeadOutput, MaskHeadSpec};
use crate::rows::convert_row;
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
/// Pixels of an image token.
const PIXELS: usize = 16;
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
        MaskHeadOutput::Logits => assert_eq!(logits.len(), batch * PIXELS * tokens * classes, "logits"),
        MaskHeadOutput::Labels => assert_eq!(labels.len(), batch * PIXELS * tokens, "labels"),
    }

    let isa = ctx.isa();
    // Logits are wanted pixel by pixel, so that the hypernetwork is the right operand. For labels it is the left one: a class
    // is a row then, and the argmax is elementwise over rows.
    let labelled = output == MaskHeadOutput::Labels;
    let hyper_len = if labelled { classes * UPSCALED } else { packed_len::<T>(classes, UPSCALED) };
    let mut filters = vec![T::default(); batch * hyper_len];
    for (hyper, out) in hyper.chunks_exact(classes * UPSCALED).zip(filters.chunks_exact_mut(hyper_len)) {
        if labelled {
            convert_row(isa, hyper, out);
        } else {
            pack_rows_f32(isa, classes, UPSCALED, hyper, UPSCALED, out);
        }
    }

    // Logits of a tile by pixel, rows padded to whole cache lines.
    let stride = classes.next_multiple_of(16);
    let sums_len = TILE * PIXELS * stride.max(UPSCALED);
    let packed_pixels = packed_len::<T>(TILE * PIXELS, UPSCALED);
    let scratch = scratch_bytes::<f32>(sums_len)
        + scratch_bytes::<T>(TILE * 4 * MIDDLE)
        + scratch_bytes::<T>(TILE * PIXELS * UPSCALED)
        + scratch_bytes::<T>(packed_pixels)
        + scratch_bytes::<f32>(TILE * PIXELS);
    let tiles = tokens.div_ceil(TILE);
    let (logits, labels) = (Disjoint::new(logits), Disjoint::new(labels));
    ctx.parallel(batch * tiles, scratch, |task, mut scratch| {
        let (image, first) = (task / tiles, task % tiles * TILE);
        let rows = TILE.min(tokens - first);
        let sums = scratch.take::<f32>(sums_len);
        let middle = &mut scratch.take::<T>(TILE * 4 * MIDDLE)[..rows * 4 * MIDDLE];
        let upscaled = &mut scratch.take::<T>(TILE * PIXELS * UPSCALED)[..rows * PIXELS * UPSCALED];
        let packed = scratch.take::<T>(packed_pixels);
        let best = scratch.take::<f32>(TILE * PIXELS);

        let x = &x[(image * tokens + first) * WIDTH..][..rows * WIDTH];
        tile(isa, rows, x, WIDTH, weight1.view(), 0..4 * MIDDLE, sums, 4 * MIDDLE, false);
        dispatch(isa, BiasNormGelu { sums, bias: bias1, norm: Some((norm.0, norm.1, EPS)), out: middle });
        tile(isa, rows * 4, middle, MIDDLE, weight2.view(), 0..4 * UPSCALED, sums, 4 * UPSCALED, false);
        dispatch(isa, BiasNormGelu { sums, bias: bias2, norm: None, out: upscaled });
        let filters = &filters[image * hyper_len..][..hyper_len];
        if labelled {
            let pixels = pack_rows(isa, rows * PIXELS, UPSCALED, upscaled, UPSCALED, packed);
            tile(isa, classes, filters, UPSCALED, pixels, 0..rows * PIXELS, sums, TILE * PIXELS, false);
            dispatch(isa, ArgMaxColumns { logits: sums, classes, out: best });
        } else {
            let filters = PackedView::new(classes, UPSCALED, filters);
            tile(isa, rows * PIXELS, upscaled, UPSCALED, filters, 0..classes, sums, stride, false);
        }

        for row in 0..rows {
            let (y, x) = ((first + row) / width, (first + row) % width);
            for line in 0..4 {
                // Pixel `column` of this line: the first convolution's sub-pixel, then the second's.
                let source = |column: usize| {
                    let (outer, inner) = (line / 2 * 2 + column / 2, line % 2 * 2 + column % 2);
                    row * PIXELS + outer * 4 + inner
                };
                let pixel = ((image * height + y) * 4 + line) * 4 * width + 4 * x;
                match output {
                    MaskHeadOutput::Labels => {
                        // SAFETY: each image token has its own pixels.
                        let out = unsafe { labels.slice(pixel, 4) };
                        out.iter_mut().enumerate().for_each(|(column, label)| *label = class_id(best[source(column)]));
                    }
                    MaskHeadOutput::Logits => {
                        // SAFETY: as above.
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

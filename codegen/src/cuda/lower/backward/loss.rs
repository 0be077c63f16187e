//! The loss and its gradient.

use super::super::Lowering;
use super::{THREADS, integer, launch, launch_beside};
use crate::cuda::kernel::{Argument, KernelText};
use crate::ir::Slot;
use segface_kernels::loss::LossSpec;

/// Three launches; where images were warped, one before and one behind them.
pub(super) fn loss(l: &mut Lowering<'_>, spec: &LossSpec) {
    let LossSpec { batch, pixels, classes } = *spec;
    let pixels = batch * pixels;
    let blocks = pixels.div_ceil(THREADS);
    let partial = l.workspace(blocks * (3 * classes + 1) * size_of::<f32>());
    let factors = l.workspace((2 * classes + 1) * size_of::<f32>());
    let (mut logits, mut d_logits) = (l.f32(Slot::X), l.output(0));
    let map = l.node().input(Slot::X).map(|value| &l.graph.values[value.0].shape);
    let [height, width] = map.map_or([0; 2], |shape| [shape[1], shape[2]]);
    if l.warps {
        let bytes = pixels * classes * size_of::<f32>();
        let image = l.workspace(bytes);
        unwarp(l, logits, image, [batch, height, width, classes]);
        (logits, d_logits) = (image, l.workspace(bytes));
    }
    let open = |room: &'static str| {
        let mut text = KernelText::new(room, "loss/backward.cuh");
        let bytes = (THREADS * (classes | 1) + THREADS + (3 * classes + 1) * (THREADS / 32)) * size_of::<f32>();
        text.block(THREADS, bytes, &format!("loss::bytes<{classes}>()"));
        text.parameter("const float *logits", logits);
        text.parameter("const u8 *labels", Argument::Labels);
        text
    };
    let mut text = open("loss_sums");
    text.parameter("float *partial", partial);
    integer(&mut text, "pixels", pixels);
    text.line(format!("loss::sums<{classes}>(logits, labels, partial, pixels);"));
    launch_beside(l, &text, [blocks, 1, 1]);

    let mut text = KernelText::new("loss_merge", "loss/backward.cuh");
    text.block(THREADS, 0, "loss::THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("double *loss", Argument::Loss);
    text.parameter("float *factors", factors);
    integer(&mut text, "blocks", blocks);
    integer(&mut text, "pixels", pixels);
    text.parameter("const StepData *step", Argument::Step);
    text.line(format!("loss::merge<{classes}>(partial, loss, factors, blocks, pixels, step);"));
    launch_beside(l, &text, [1, 1, 1]);

    let mut text = open("loss_gradient");
    text.parameter("const float *factors", factors);
    text.parameter("float *d_logits", d_logits);
    integer(&mut text, "pixels", pixels);
    text.line(format!("loss::gradient<{classes}>(logits, labels, factors, d_logits, pixels);"));
    launch(l, &text, [blocks, 1, 1]);
    if l.warps {
        unwarp_backward(l, d_logits, [batch, height, width, classes]);
    }
}

/// `LabelTile::PIXELS` and `THREADS` for few classes.
const UNWARP_PIXELS: usize = 256;

/// Logits of the network's frame to those of the images.
fn unwarp(l: &mut Lowering<'_>, logits: Argument, image: Argument, [batch, height, width, classes]: [usize; 4]) {
    let mut text = KernelText::new("loss_unwarp", "image/labels.cuh");
    text.block(UNWARP_PIXELS, 0, &format!("image::LabelTile<{classes}>::PIXELS - 256"));
    text.parameter("const float *logits", logits);
    text.parameter("const float *matrices", Argument::Warps);
    text.parameter("float *out", image);
    // What the kernel says besides.
    text.parameter("u8 *labels", l.workspace(batch * height * width));
    integer(&mut text, "height", height);
    integer(&mut text, "width", width);
    text.line(format!(
        "image::unwarp<float, {classes}>(logits, width, height, float(width), float(height), matrices, out, labels, width, height);"
    ));
    l.launch(&text, [(height * width).div_ceil(UNWARP_PIXELS) as u32, 1, batch as u32], 0, 0);
}

/// The gradient of the images' logits to that of the network's.
fn unwarp_backward(l: &mut Lowering<'_>, d_image: Argument, [batch, height, width, classes]: [usize; 4]) {
    let mut text = KernelText::new("loss_unwarp_backward", "image/backward.cuh");
    text.block(THREADS, 0, "image::UNWARP_BACKWARD_THREADS - 256");
    text.parameter("const float *d_out", d_image);
    text.parameter("float *d_logits", l.output(0));
    text.parameter("const float *matrices", Argument::Warps);
    text.parameter("const u32 *starts", Argument::WarpStarts);
    text.parameter("const u32 *pixels", Argument::WarpPixels);
    integer(&mut text, "height", height);
    integer(&mut text, "width", width);
    text.line(format!(
        "image::unwarp_backward<{classes}>(d_out, d_logits, matrices, starts, pixels, width, height, width, height);"
    ));
    launch_beside(l, &text, [(height * width).div_ceil(THREADS / 32), batch, 1]);
}

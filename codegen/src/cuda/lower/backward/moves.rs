//! Gradients of moves and poolings.

use super::super::{Lowering, vector_width};
use super::{THREADS, begin, integer, launch, result};
use crate::cuda::kernel::KernelText;
use crate::ir::Slot;
use segface_kernels::patch_merge::PatchGatherSpec;
use segface_kernels::resample::{BilinearSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec};

/// The beginning of a kernel of the folder: d_out, and the numbers that a thread moves at a time.
fn open(l: &mut Lowering<'_>, name: &'static str, channels: usize) -> (KernelText, usize) {
    let mut text = begin(l, name, "resample/backward.cuh");
    text.block(THREADS, 0, "resample::THREADS - 256");
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    (text, vector_width(l.precision.dtype(), &[channels]))
}

/// Sizes of both maps as parameters, and the launch: a thread for each vector of `grid`'s pixels.
fn close(
    l: &mut Lowering<'_>,
    mut text: KernelText,
    call: &str,
    [input, output]: [[usize; 2]; 2],
    [batch, vectors, height]: [usize; 3],
) {
    for (name, size) in ["height", "width", "out_height", "out_width"].into_iter().zip([input, output].concat()) {
        integer(&mut text, name, size);
    }
    text.line(format!("resample::{call};"));
    launch(l, &text, [vectors.div_ceil(THREADS), height, batch]);
}

/// One launch.
pub(super) fn bilinear(l: &mut Lowering<'_>, spec: &BilinearSpec) {
    let BilinearSpec { batch, input, output, channels } = *spec;
    let (mut text, width) = open(l, "bilinear_backward", channels);
    result(l, &mut text);
    let call = format!(
        "bilinear_backward<E, {channels}, {width}>(d_out, residual, d_x, {{height, width}}, {{out_height, out_width}})"
    );
    close(l, text, &call, [input, output], [batch, input[1] * channels / width, input[0]]);
}

/// One launch.
pub(super) fn max_pool(l: &mut Lowering<'_>, spec: &MaxPoolSpec) {
    let MaxPoolSpec { batch, input, channels } = *spec;
    let (mut text, width) = open(l, "max_pool_backward", channels);
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const E *out", l.element(Slot::Other));
    result(l, &mut text);
    let call = format!(
        "max_pool_backward<E, {channels}, {width}>(x, out, d_out, residual, d_x, {{height, width}}, {{out_height, out_width}})"
    );
    close(l, text, &call, [input, spec.output()], [batch, input[1] * channels / width, input[0]]);
}

/// One launch.
pub(super) fn pixel_shuffle(l: &mut Lowering<'_>, spec: &PixelShuffleSpec) {
    let PixelShuffleSpec { batch, input, channels } = *spec;
    let output = input.map(|side| 2 * side);
    let (mut text, width) = open(l, "pixel_shuffle_backward", channels);
    result(l, &mut text);
    let call = format!("pixel_shuffle_backward<E, {channels}, {width}>(d_out, residual, d_x, {{height, width}})");
    close(l, text, &call, [input, output], [batch, input[1] * 4 * channels / width, input[0]]);
}

/// One launch.
pub(super) fn patch_gather(l: &mut Lowering<'_>, spec: &PatchGatherSpec) {
    let PatchGatherSpec { batch, input, channels } = *spec;
    let (mut text, width) = open(l, "patch_gather_backward", channels);
    result(l, &mut text);
    let call = format!("patch_gather_backward<E, {channels}, {width}>(d_out, residual, d_x, {{height, width}})");
    close(l, text, &call, [input, spec.output()], [batch, input[1] * channels / width, input[0]]);
}

/// One launch.
pub(super) fn sum_pool(l: &mut Lowering<'_>, spec: &SumPoolSpec) {
    let SumPoolSpec { batch, pixels, channels } = *spec;
    let mut text = begin(l, "sum_pool_backward", "resample/backward.cuh");
    text.block(THREADS, 0, "resample::THREADS - 256");
    let width = vector_width(l.precision.dtype(), &[channels]);
    text.parameter("const float *d_out", l.f32(Slot::Gradient));
    result(l, &mut text);
    integer(&mut text, "pixels", pixels);
    text.line(format!("resample::sum_pool_backward<E, {channels}, {width}>(d_out, residual, d_x, pixels);"));
    launch(l, &text, [(pixels * (channels / width)).div_ceil(THREADS), batch, 1]);
}

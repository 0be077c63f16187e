//! Resizes, moves and poolings.

use super::super::kernel::{Argument, KernelText};
use super::depthwise::{Lanes, channel_sums, lanes};
use super::{Lowering, element_type, vector_width};
use crate::ir::Slot;
use segface_kernels::resample::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec};

/// `resample::THREADS`.
const THREADS: usize = 256;
/// `resample::SUM_RUN`.
const SUM_RUN: usize = 16;

/// One launch.
pub(super) fn bilinear(l: &mut Lowering<'_>, spec: &BilinearSpec) {
    let BilinearSpec { batch, input, output, channels } = *spec;
    map(l, "bilinear", "{height, width}, {out_height, out_width}", batch, [input, output], channels);
}

/// One launch.
pub(super) fn max_pool(l: &mut Lowering<'_>, spec: &MaxPoolSpec) {
    let MaxPoolSpec { batch, input, channels } = *spec;
    map(l, "max_pool", "{height, width}, {out_height, out_width}", batch, [input, spec.output()], channels);
}

/// One launch.
pub(super) fn pixel_shuffle(l: &mut Lowering<'_>, spec: &PixelShuffleSpec) {
    let PixelShuffleSpec { batch, input, channels } = *spec;
    map(l, "pixel_shuffle", "{height, width}", batch, [input, input.map(|side| 2 * side)], channels);
}

/// A kernel with a thread for each vector of each output pixel.
fn map(
    l: &mut Lowering<'_>,
    name: &'static str,
    sizes: &str,
    batch: usize,
    [input, output]: [[usize; 2]; 2],
    channels: usize,
) {
    let mut text = begin(l, name);
    let width = vector_width(l.precision.dtype(), &[channels]);
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("E *out", l.output(0));
    for (name, size) in ["height", "width", "out_height", "out_width"].into_iter().zip([input, output].concat()) {
        text.parameter(format!("int {name}"), Argument::I32(size as i32));
    }
    text.line(format!("resample::{name}<E, {channels}, {width}>(x, out, {sizes});"));
    let blocks = (output[1] * channels / width).div_ceil(THREADS);
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [blocks as u32, output[0] as u32, batch as u32], flops, bytes);
}

/// One launch.
pub(super) fn concat(l: &mut Lowering<'_>, spec: &ConcatSpec) {
    let ConcatSpec { rows, channels } = *spec;
    let mut text = begin(l, "concat");
    let width = vector_width(l.precision.dtype(), &channels);
    for (index, slot) in [Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().enumerate() {
        text.parameter(format!("const E *x{index}"), l.element(slot));
    }
    text.parameter("E *out", l.output(0));
    text.parameter("int rows", Argument::I32(rows as i32));
    let [a, b, c, d] = channels;
    text.line(format!("resample::concat<E, {a}, {b}, {c}, {d}, {width}>(x0, x1, x2, x3, out, rows);"));
    let blocks = (rows * spec.out_channels() / width).div_ceil(THREADS);
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [blocks as u32, 1, 1], flops, bytes);
}

/// One launch.
pub(super) fn sum_pool(l: &mut Lowering<'_>, spec: &SumPoolSpec) {
    let SumPoolSpec { batch, pixels, channels } = *spec;
    let dtype = l.precision.dtype();
    let width = vector_width(dtype, &[channels]);
    let Lanes { lanes, rows } = lanes(channels / width, THREADS);
    let (groups, blocks) = (channels / width / lanes, pixels.div_ceil(rows * SUM_RUN));
    let mut text = KernelText::new("sum_pool", "resample/forward.cuh");
    text.define(format!("using E = {};", element_type(dtype)));
    let threads = lanes * rows;
    text.block(threads, threads * width * 4, &format!("channel_sums_bytes({threads}, {width})"));
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("float *sums", l.output(0));
    let (partial, counters) = channel_sums(l, true, [batch, blocks, groups], channels);
    text.parameter("float *partial", partial);
    text.parameter("u32 *counters", counters);
    text.parameter("int pixels", Argument::I32(pixels as i32));
    text.line(format!(
        "resample::sum_pool<E, {channels}, {width}, {lanes}, {rows}>(x, sums, partial, counters, pixels);"
    ));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [blocks as u32, groups as u32, batch as u32], flops, bytes);
}

fn begin(l: &Lowering<'_>, name: &'static str) -> KernelText {
    let mut text = KernelText::new(name, "resample/forward.cuh");
    text.define(format!("using E = {};", element_type(l.precision.dtype())));
    text.block(THREADS, 0, "resample::THREADS - 256");
    text
}

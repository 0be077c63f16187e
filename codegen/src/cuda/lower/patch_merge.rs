//! Patch merges: products of gathered rows, and the gather alone.

use super::super::kernel::{Argument, KernelText};
use super::gemm::{EpilogueArguments, Product};
use super::{Lowering, literal};
use crate::ir::Slot;
use segface_kernels::Epilogue;
use segface_kernels::patch_merge::{MergeNorm, PatchGatherSpec, PatchMergeSpec};

/// One launch.
pub(super) fn patch_merge(l: &mut Lowering<'_>, spec: &PatchMergeSpec) {
    let PatchMergeSpec { batch, input, channels, norm, eps } = *spec;
    let (n, k) = (2 * channels, 4 * channels);
    let rows = batch * spec.output().iter().product::<usize>();
    let x = l.element(Slot::X);
    let weight = l.packed(Slot::Weight, n, k);
    let norms = [l.f32(Slot::NormWeight), l.f32(Slot::NormBias)];
    let out = l.output(0);
    let after = norm == MergeNorm::After;
    let epilogue = Epilogue { norm: after.then_some(eps), ..Epilogue::default() };
    let (source, reads) = if after { ("Patches", 1) } else { ("NormedPatches", 2) };
    let plan = Product::new(l, source, &epilogue, [rows, n, k]);
    let mut text = KernelText::new("patch_merge", "patch_merge/forward.cuh");
    plan.define(&mut text, l, &epilogue);
    text.define(format!("using Patches = patch_merge::PatchRows<S, {channels}>;"));
    text.parameter("const E *x", x);
    text.parameter("const u8 *weight", weight);
    text.parameter("E *out", out);
    text.parameter("int rows", Argument::I32(rows as i32));
    text.parameter("int height", Argument::I32(input[0] as i32));
    text.parameter("int width", Argument::I32(input[1] as i32));
    if after {
        text.line("Patches source(x, height, width);");
    } else {
        text.parameter("const float *norm_weight", norms[0]);
        text.parameter("const float *norm_bias", norms[1]);
        text.line(format!(
            "gemm::NormedRows<S, {k}, Patches> source(Patches(x, height, width), norm_weight, norm_bias, {});",
            literal(eps)
        ));
    }
    let nothing = Argument::Null;
    let arguments = EpilogueArguments { bias: nothing, scale: nothing, norm: norms, residual: nothing };
    arguments.write(&mut text, &epilogue);
    text.line(format!("{}<S, {n}, {k}>(source, weight, epilogue, out, rows);", plan.function));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, plan.tile.grid(rows, n), flops, bytes);
    plan.detail(l, &epilogue, reads);
}

/// Threads of a block: `patch_merge::GATHER_THREADS`.
const GATHER_THREADS: usize = 256;

/// One launch.
pub(super) fn gather(l: &mut Lowering<'_>, spec: &PatchGatherSpec) {
    let PatchGatherSpec { batch, input, channels } = *spec;
    let rows = batch * spec.output().iter().product::<usize>();
    let chunks = rows * 4 * channels * l.precision.dtype().size() / 16;
    let (x, out) = (l.element(Slot::X), l.output(0));
    let mut text = KernelText::new("patch_gather", "patch_merge/forward.cuh");
    text.define(format!("using E = {};", l.element_name()));
    text.block(GATHER_THREADS, 0, "0");
    text.parameter("const E *x", x);
    text.parameter("E *out", out);
    text.parameter("int rows", Argument::I32(rows as i32));
    text.parameter("int height", Argument::I32(input[0] as i32));
    text.parameter("int width", Argument::I32(input[1] as i32));
    text.line(format!("patch_merge::gather<E, {channels}>(x, out, rows, height, width);"));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [chunks.div_ceil(GATHER_THREADS) as u32, 1, 1], flops, bytes);
}

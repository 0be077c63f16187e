//! Gates of squeeze-excite.

use super::super::kernel::{Argument, KernelText};
use super::{Lowering, act};
use crate::ir::Slot;
use segface_kernels::squeeze_excite::SqueezeExciteSpec;

/// `squeeze_excite::THREADS`.
const THREADS: usize = 256;
/// Blocks that even a small card runs at once, as they must: they wait for one another.
const MOST_BLOCKS: usize = 64;

/// One launch.
pub(super) fn squeeze_excite(l: &mut Lowering<'_>, spec: &SqueezeExciteSpec) {
    let SqueezeExciteSpec { batch, pixels, channels, squeeze, .. } = *spec;
    // A warp for each row of the first weight, eight lanes for each of the second.
    let blocks = squeeze.div_ceil(THREADS / 32).max(channels.div_ceil(THREADS / 8)).min(MOST_BLOCKS);
    let operands = [
        ("sums", Slot::Sums),
        ("weight1", Slot::Weight),
        ("bias1", Slot::Bias),
        ("weight2", Slot::Weight1),
        ("bias2", Slot::Bias1),
    ];
    let mut text = KernelText::new("squeeze_excite", "squeeze_excite/forward.cuh");
    text.define(format!("static_assert(squeeze_excite::THREADS == {THREADS}, \"threads as launched\");"));
    text.block(THREADS, 0, "0");
    for (name, slot) in operands {
        text.parameter(format!("const float *{name}"), l.f32(slot));
    }
    text.parameter("float *gate", l.output(0));
    text.parameter("float *hidden", l.workspace(batch * squeeze * size_of::<f32>()));
    text.parameter("u32 *counters", l.counters(2));
    text.parameter("int batch", Argument::I32(batch as i32));
    text.parameter("float pixels", Argument::F32(pixels as f32));
    text.line(format!(
        "squeeze_excite::forward<{channels}, {squeeze}, {}, {}>(sums, weight1, bias1, weight2, bias2, gate, hidden, counters, \
         batch, pixels);",
        act(spec.act),
        act(spec.gate_act)
    ));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch_cooperative(&text, [blocks as u32, 1, 1], flops, bytes);
    l.detail(|detail| detail.barriers = 1);
}

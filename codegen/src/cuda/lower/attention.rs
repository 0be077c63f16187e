//! Un-fused attention.

use super::super::kernel::{Argument, KernelText};
use super::Lowering;
use crate::ir::Slot;
use segface_kernels::attention::AttentionSpec;

/// `attention::THREADS`, and the queries of a block.
const THREADS: usize = 256;
const QUERIES: usize = THREADS / 32;

/// One launch.
pub(super) fn attention(l: &mut Lowering<'_>, spec: &AttentionSpec) {
    let AttentionSpec { batch, queries, keys, heads, head_dim, scale } = *spec;
    let mut text = KernelText::new("attention", "attention/forward.cuh");
    text.define(format!("using E = {}::Element;", l.precision.fragment().name()));
    text.block(THREADS, 0, "0");
    for (slot, name) in [(Slot::Query, "q"), (Slot::Key, "k"), (Slot::Value, "v")] {
        text.parameter(format!("const E *{name}"), l.element(slot));
    }
    text.parameter("E *out", l.output(0));
    text.parameter("int queries", Argument::I32(queries as i32));
    text.parameter("int keys", Argument::I32(keys as i32));
    for (slot, name, tokens) in [(Slot::Query, "q", queries), (Slot::Key, "k", keys), (Slot::Value, "v", keys)] {
        // An operand of one image is shared by all.
        let image = tokens * heads * head_dim;
        let len = l.node().input(slot).map_or(0, |value| l.graph.values[value.0].shape.iter().product());
        let stride = if len == image { 0 } else { image };
        text.parameter(format!("int {name}_stride"), Argument::I32(stride as i32));
    }
    text.parameter("float scale", Argument::F32(scale));
    text.line(format!(
        "attention::forward<E, {head_dim}>(q, k, v, out, queries, keys, q_stride, k_stride, v_stride, scale);"
    ));
    let grid = [queries.div_ceil(QUERIES) as u32, heads as u32, batch as u32];
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, grid, flops, bytes);
}

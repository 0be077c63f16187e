//! A graph in words: what `segface explain` prints.

use crate::ir::{Graph, Op, Source, ValueId};
use crate::passes::plan_memory;
use segface_kernels::DType;
use std::fmt::Write;

/// What one stage of a compilation costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Name of the stage.
    pub name: String,
    /// How many places the pass rewrote.
    pub rewrites: usize,
    /// Number of kernel calls.
    pub nodes: usize,
    /// Floating-point operations, two per multiply-add.
    pub flops: u64,
    /// Bytes that the calls read and write in memory, constants included.
    pub bytes: u64,
    /// Size of the arena if memory were planned now.
    pub arena_bytes: usize,
}

impl Summary {
    /// Measures a graph.
    pub fn of(name: &str, rewrites: usize, graph: &Graph) -> Self {
        Summary {
            name: name.into(),
            rewrites,
            nodes: graph.nodes.len(),
            flops: graph.nodes.iter().map(|n| n.flops(graph)).sum(),
            bytes: graph.nodes.iter().map(|n| n.bytes(graph)).sum(),
            arena_bytes: plan_memory(graph).arena_bytes,
        }
    }
}

/// One line per summary, with headings.
pub fn table(summaries: &[Summary]) -> String {
    let mut text = format!(
        "{:<24} {:>8} {:>6} {:>10} {:>10} {:>10}\n",
        "after", "rewrites", "calls", "GFLOP", "MB moved", "MB arena"
    );
    for s in summaries {
        let _ = writeln!(
            text,
            "{:<24} {:>8} {:>6} {:>10.3} {:>10.1} {:>10.1}",
            s.name,
            s.rewrites,
            s.nodes,
            s.flops as f64 / 1e9,
            s.bytes as f64 / 1e6,
            s.arena_bytes as f64 / 1e6
        );
    }
    text
}

/// Every call of a graph: operator, name, what it writes, its cost and where its operands come from.
pub fn listing(graph: &Graph) -> String {
    let mut text = String::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let outputs: Vec<String> = node.outputs.iter().map(|v| shape(graph, *v)).collect();
        let _ = writeln!(
            text,
            "{index:>4}  {:<16} {:<48} → {:<28} {:>9.3} GFLOP {:>8.2} MB",
            operator(&node.op),
            node.name,
            outputs.join(", "),
            node.flops(graph) as f64 / 1e9,
            node.bytes(graph) as f64 / 1e6
        );
    }
    text
}

/// Shape and type of a value, e.g. `1×128×128×256 bf16`.
fn shape(graph: &Graph, id: ValueId) -> String {
    let value = &graph.values[id.0];
    let sides: Vec<String> = value.shape.iter().map(ToString::to_string).collect();
    let dtype = match value.dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F16 => "f16",
        DType::U8 => "u8",
    };
    let known = if matches!(value.source, Source::Constant(_)) { " known" } else { "" };
    format!("{} {dtype}{known}", sides.join("×"))
}

/// The operator's name: that of its kernel.
pub fn operator(op: &Op) -> &'static str {
    match op {
        Op::Gemm(_) => "gemm",
        Op::Conv(_) => "conv",
        Op::Depthwise(_) => "depthwise",
        Op::Elementwise(_) => "elementwise",
        Op::LayerNorm(_) => "layer_norm",
        Op::SqueezeExcite(_) => "squeeze_excite",
        Op::Mlp(_) => "mlp",
        Op::PatchMerge(_) => "patch_merge",
        Op::PatchGather(_) => "patch_gather",
        Op::WindowAttention(_) => "window_attention",
        Op::WindowGather(_) => "window_gather",
        Op::WindowCore(_) => "window_core",
        Op::WindowScatter(_) => "window_scatter",
        Op::MlpFusion(_) => "mlp_fusion",
        Op::Attention(_) => "attention",
        Op::ImagePass(_) => "image_pass",
        Op::TokenStep(_) => "token_step",
        Op::MaskHead(_) => "mask_head",
        Op::MaskProduct(_) => "mask_product",
        Op::ArgMax(_) => "arg_max",
        Op::Bilinear(_) => "bilinear",
        Op::Concat(_) => "concat",
        Op::PixelShuffle(_) => "pixel_shuffle",
        Op::MaxPool(_) => "max_pool",
        Op::SumPool(_) => "sum_pool",
        Op::Convert(_) => "convert",
        Op::BatchNorm(_) => "batch_norm",
        Op::StochasticDepth(_) => "stochastic_depth",
        Op::Backward(op) => op.name(),
    }
}

//! Products, and the epilogue that convolutions and others share.

use super::super::kernel::{Argument, KernelText};
use super::super::tile::{self, Problem, Tile};
use super::{Lowering, act, literal};
use crate::ir::Slot;
use segface_kernels::Epilogue;
use segface_kernels::gemm::{GemmSpec, Prologue};

/// One launch.
pub(super) fn gemm(l: &mut Lowering<'_>, spec: &GemmSpec) {
    let x = l.element(Slot::X);
    let weight = l.packed(Slot::Weight, spec.n, spec.k);
    let norm = [l.f32(Slot::NormWeight), l.f32(Slot::NormBias)];
    let gate = l.f32(Slot::Gate);
    let epilogue = EpilogueArguments::of(l, Slot::Bias);
    let out = l.output(0);
    let flops = l.node().flops(l.graph);
    let bytes = l.node().bytes(l.graph);
    product(l, &Rows { spec: *spec, x, weight, norm, gate, epilogue, out, flops, bytes });
}

/// A product of rows that lie in memory one after the other. Other folders (an MLP's two layers) launch it too.
pub(super) struct Rows {
    pub(super) spec: GemmSpec,
    pub(super) x: Argument,
    pub(super) weight: Argument,
    /// γ and β of the prologue's norm.
    pub(super) norm: [Argument; 2],
    pub(super) gate: Argument,
    pub(super) epilogue: EpilogueArguments,
    pub(super) out: Argument,
    pub(super) flops: u64,
    pub(super) bytes: u64,
}

/// Launches a product of rows.
pub(super) fn product(l: &mut Lowering<'_>, rows: &Rows) {
    let Rows { spec, x, weight, norm, gate, .. } = *rows;
    let k = spec.k;
    let (source, reads) = match spec.prologue {
        Prologue::None => ("Rows", 1),
        Prologue::LayerNorm { .. } => ("NormedRows", 2),
        Prologue::Gate { .. } => ("GatedRows", 1),
    };
    let plan = Product::new(l, source, &spec.epilogue, [spec.rows, spec.n, k]);
    let mut text = KernelText::new("gemm", plan.header);
    plan.define(&mut text, l, &spec.epilogue);
    text.define(format!("using Source = gemm::{source}<S, {k}>;"));
    text.parameter("const E *x", x);
    text.parameter("const u8 *weight", weight);
    text.parameter("E *out", rows.out);
    text.parameter("int rows", Argument::I32(spec.rows as i32));
    text.line("Source source;");
    text.line("source.x = x;");
    match spec.prologue {
        Prologue::None => {}
        Prologue::LayerNorm { eps } => {
            text.parameter("const float *norm_weight", norm[0]);
            text.parameter("const float *norm_bias", norm[1]);
            text.line("source.weight = norm_weight;");
            text.line("source.bias = norm_bias;");
            text.line(format!("source.eps = {};", literal(eps)));
        }
        Prologue::Gate { rows_per_gate } => {
            text.parameter("const float *gate", gate);
            text.parameter("int rows_per_gate", Argument::I32(rows_per_gate as i32));
            text.line("source.gate = gate;");
            text.line("source.rows_per_gate = rows_per_gate;");
        }
    }
    rows.epilogue.write(&mut text, &spec.epilogue);
    text.line(format!("{}<S, {}, {k}>(source, weight, epilogue, out, rows);", plan.function, spec.n));
    l.launch(&text, plan.tile.grid(spec.rows, spec.n), rows.flops, rows.bytes);
    plan.detail(l, &spec.epilogue, reads);
}

/// How a product is cut, and which of gemm's functions makes it.
pub(super) struct Product {
    pub(super) tile: Tile,
    pub(super) header: &'static str,
    pub(super) function: &'static str,
    bytes: &'static str,
    shared: usize,
    /// Rows, columns and terms of the product.
    sides: [usize; 3],
}

impl Product {
    /// For rows of `source`, [rows, k], times [k, n], with that epilogue.
    pub(super) fn new(l: &mut Lowering<'_>, source: &str, epilogue: &Epilogue, sides: [usize; 3]) -> Self {
        let norm = epilogue.norm.is_some();
        let [rows, n, k] = sides;
        let tile = l.tile(Problem { source: source.into(), norm, precision: l.precision, rows, n, k });
        if norm && n > tile::WIDE {
            let (header, function, bytes) = ("gemm/wide.cuh", "gemm::forward_wide", "gemm::bytes_wide<S, Epi>()");
            Self { tile, header, function, bytes, shared: tile.wide_bytes(norm), sides }
        } else {
            let (header, function, bytes) = ("gemm/forward.cuh", "gemm::forward", "gemm::bytes<S, Epi>()");
            Self { tile, header, function, bytes, shared: tile.bytes(norm), sides }
        }
    }

    /// What the launch just added costs beside FLOPs and bytes, if it reads its rows `reads` times.
    pub(super) fn detail(&self, l: &mut Lowering<'_>, epilogue: &Epilogue, reads: usize) {
        let ([rows, n, k], size) = (self.sides, l.size());
        let [tiles_m, tiles_n, _] = self.tile.grid(rows, n).map(|side| side as usize);
        let elements = tiles_n * rows * k * reads + tiles_m * n * k + rows * n * (1 + usize::from(epilogue.residual));
        let steps = (k * size).div_ceil(self.tile.row_bytes);
        l.detail(|detail| (detail.traffic, detail.steps) = ((elements * size) as u64, steps as u32));
    }

    /// S, E and Epi, and the block.
    pub(super) fn define(&self, text: &mut KernelText, l: &Lowering<'_>, epilogue: &Epilogue) {
        text.define(format!("using S = {};", self.tile.shape(&l.fragment_name())));
        text.define(format!("using E = S::E;\nusing Epi = {};", epilogue_type(epilogue)));
        text.block(self.tile.threads(), self.shared, self.bytes);
    }
}

/// The operands of an epilogue.
#[derive(Clone, Copy)]
pub(super) struct EpilogueArguments {
    pub(super) bias: Argument,
    pub(super) scale: Argument,
    pub(super) norm: [Argument; 2],
    pub(super) residual: Argument,
}

impl EpilogueArguments {
    /// Those of the node; its bias is in slot `bias`.
    pub(super) fn of(l: &mut Lowering<'_>, bias: Slot) -> Self {
        Self {
            bias: l.f32(bias),
            scale: l.f32(Slot::Scale),
            norm: [l.f32(Slot::PostNormWeight), l.f32(Slot::PostNormBias)],
            residual: l.element(Slot::Residual),
        }
    }

    /// Parameters of the operands that `epilogue` asks for, and `Epi epilogue` filled with them.
    pub(super) fn write(&self, text: &mut KernelText, epilogue: &Epilogue) {
        text.line("Epi epilogue;");
        let mut operand = |there: bool, ty: &str, name: &str, argument: Argument| {
            if there {
                text.parameter(format!("const {ty} *epilogue_{name}"), argument);
                text.line(format!("epilogue.{name} = epilogue_{name};"));
            }
        };
        operand(epilogue.bias, "float", "bias", self.bias);
        operand(epilogue.scale, "float", "scale", self.scale);
        operand(epilogue.norm.is_some(), "float", "norm_weight", self.norm[0]);
        operand(epilogue.norm.is_some(), "float", "norm_bias", self.norm[1]);
        operand(epilogue.residual, "E", "residual", self.residual);
        if let Some(eps) = epilogue.norm {
            text.line(format!("epilogue.eps = {};", literal(eps)));
        }
    }
}

/// The C++ type of an epilogue.
pub(super) fn epilogue_type(epilogue: &Epilogue) -> String {
    format!(
        "Epilogue<{}, {}, {}, {}, {}, {}>",
        epilogue.bias,
        act(epilogue.act),
        epilogue.scale,
        epilogue.norm.is_some(),
        epilogue.residual,
        act(epilogue.act_after)
    )
}

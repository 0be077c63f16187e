//! MLPs: one launch where channels are few and rows many, two products where not.

use super::super::kernel::{Argument, KernelText};
use super::gemm::{EpilogueArguments, Rows, epilogue_type, product};
use super::{Lowering, act, literal};
use crate::ir::Slot;
use crate::plan::Precision;
use segface_kernels::Epilogue;
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::mlp::MlpSpec;

/// One launch or two.
pub(super) fn mlp(l: &mut Lowering<'_>, spec: &MlpSpec) {
    let MlpSpec { rows, channels, hidden, norm, act, epilogue } = *spec;
    let x = l.element(Slot::X);
    let weights = [l.packed(Slot::Weight, hidden, channels), l.packed(Slot::Weight1, channels, hidden)];
    let bias = l.f32(Slot::Bias);
    let norms = [l.f32(Slot::NormWeight), l.f32(Slot::NormBias)];
    let arguments = EpilogueArguments::of(l, Slot::Bias1);
    let out = l.output(0);
    if let Some(tile) = FusedTile::choose(l.precision, spec, l.tuning.card.multiprocessors) {
        return fused(l, spec, tile, &Operands { x, weights, bias, norms, arguments, out });
    }
    let size = l.precision.dtype().size();
    let space = l.workspace(rows * hidden * size);
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    let between = (rows * hidden * size) as u64;
    let first_bytes = ((rows + hidden) * channels * size + hidden * 4) as u64;
    let first = GemmSpec {
        rows,
        n: hidden,
        k: channels,
        prologue: norm.map_or(Prologue::None, |eps| Prologue::LayerNorm { eps }),
        epilogue: Epilogue { bias: true, act, ..Epilogue::default() },
    };
    let nothing = Argument::Null;
    let inner = EpilogueArguments { bias, scale: nothing, norm: [nothing; 2], residual: nothing };
    product(
        l,
        &Rows {
            spec: first,
            x,
            weight: weights[0],
            norm: norms,
            gate: nothing,
            epilogue: inner,
            out: space,
            flops: flops / 2,
            bytes: first_bytes + between,
        },
    );
    product(
        l,
        &Rows {
            spec: GemmSpec { rows, n: channels, k: hidden, prologue: Prologue::None, epilogue },
            x: space,
            weight: weights[1],
            norm: [nothing; 2],
            gate: nothing,
            epilogue: arguments,
            out,
            flops: flops - flops / 2,
            bytes: between + bytes.saturating_sub(first_bytes),
        },
    );
}

struct Operands {
    x: Argument,
    weights: [Argument; 2],
    bias: Argument,
    norms: [Argument; 2],
    arguments: EpilogueArguments,
    out: Argument,
}

/// How the fused kernel is cut: `mlp::Config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FusedTile {
    /// Rows of a block, 32 or 64.
    rows: usize,
    /// Hidden columns at a time.
    slab: usize,
    /// Buffers of weights.
    slabs: usize,
}

impl FusedTile {
    /// `None` where hidden values had better go through memory: channels that do not fit a block, or too few rows to keep a card
    /// busy with blocks that each make whole rows.
    fn choose(precision: Precision, spec: &MlpSpec, multiprocessors: usize) -> Option<Self> {
        let wide = precision.dtype().size() == 4;
        let (rows, slab, slabs) = match (wide, spec.channels) {
            (true, 0..=96) => (32, 64, 2),
            (true, 97..=128) => (32, 32, 2),
            (false, 0..=128) => (64, 64, 3),
            (false, 129..=192) => (64, 64, 2),
            (false, 193..=256) => (64, 32, 2),
            _ => return None,
        };
        let whole = spec.channels.is_multiple_of(32) && spec.hidden.is_multiple_of(slab);
        (whole && spec.rows.div_ceil(rows) >= multiprocessors).then_some(Self { rows, slab, slabs })
    }

    fn threads(self) -> usize {
        self.rows * 4
    }

    /// `mlp::bytes`.
    fn bytes(self, spec: &MlpSpec, size: usize) -> usize {
        let row = spec.channels.next_multiple_of(128 / size);
        let rows = self.rows * (row + self.slab) * size + self.slabs * self.slab * spec.channels * size;
        let staging = self.threads() / 32 * 16 * (spec.channels / 4 + 8) * 4;
        rows.max(staging + if spec.epilogue.norm.is_some() { self.rows * 4 * 8 } else { 0 })
    }
}

fn fused(l: &mut Lowering<'_>, spec: &MlpSpec, tile: FusedTile, operands: &Operands) {
    let MlpSpec { rows, channels, hidden, norm, act: activation, epilogue } = *spec;
    let FusedTile { rows: tile_rows, slab, slabs } = tile;
    let mut text = KernelText::new("mlp", "mlp/forward.cuh");
    text.define(format!(
        "using C = mlp::Config<{}, {tile_rows}, {channels}, {hidden}, {slab}, {slabs}, {}, {}>;",
        l.precision.fragment().name(),
        norm.is_some(),
        act(activation)
    ));
    text.define(format!("using E = C::E;\nusing Epi = {};", epilogue_type(&epilogue)));
    text.block(tile.threads(), tile.bytes(spec, l.precision.dtype().size()), "mlp::bytes<C, Epi>()");
    text.parameter("const E *x", operands.x);
    text.parameter("const float *norm_weight", operands.norms[0]);
    text.parameter("const float *norm_bias", operands.norms[1]);
    text.parameter("const u8 *weight1", operands.weights[0]);
    text.parameter("const float *bias1", operands.bias);
    text.parameter("const u8 *weight2", operands.weights[1]);
    text.parameter("E *out", operands.out);
    text.parameter("int rows", Argument::I32(rows as i32));
    operands.arguments.write(&mut text, &epilogue);
    text.line(format!(
        "mlp::forward<C>(x, norm_weight, norm_bias, {}, weight1, bias1, weight2, epilogue, out, rows);",
        literal(norm.unwrap_or(0.0))
    ));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    let blocks = rows.div_ceil(tile_rows);
    l.launch(&text, [blocks as u32, 1, 1], flops, bytes);
    // Both weights once a block, rows three times: in, as the residual, out.
    let elements = 2 * blocks * channels * hidden + (2 + usize::from(epilogue.residual)) * rows * channels;
    let (traffic, steps) = (elements * l.size(), 2 * hidden / slab);
    l.detail(|detail| (detail.traffic, detail.steps) = (traffic as u64, steps as u32));
}

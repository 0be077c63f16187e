//! The lower rungs of the ladders: how a kernel is computed without what makes it fast. Tests hold them to the same rule as the
//! kernels that networks use, benches say what each step gains.

use super::super::kernel::{Argument, KernelText};
use super::gemm::{EpilogueArguments, epilogue_type};
use super::window_attention::plan;
use super::{Lowering, act, literal};
use crate::ir::{Op, Slot};
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::mlp::MlpSpec;
use segface_kernels::mlp_fusion::MlpFusionSpec;
use segface_kernels::token_attention::ImagePassSpec;
use segface_kernels::window_attention::{WindowCoreSpec, WindowKind};
use segface_kernels::{Act, Epilogue};
use serde::{Deserialize, Serialize};

/// A rung below the top of a ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rung {
    /// A thread for each number, straight from memory.
    Naive,
    /// Tiles in shared memory, no tensor cores.
    Tiled,
}

/// Whether the rung of the operator is its usual kernels with `cuda/plain.cuh`, or without any tensor cores already.
pub(super) fn is_plain(rung: Rung, op: &Op) -> bool {
    let usual = matches!(op, Op::WindowAttention(_) | Op::WindowCore(_) | Op::MlpFusion(_) | Op::ImagePass(_));
    rung == Rung::Tiled && usual
}

/// Adds the launches of `rung` for a node that has one; says whether it has.
pub(super) fn lower(l: &mut Lowering<'_>, rung: Rung) -> bool {
    match l.node().op {
        Op::Gemm(spec) if spec.prologue == Prologue::None && spec.epilogue.norm.is_none() => gemm(l, &spec, rung),
        Op::Mlp(spec) if has_plain_epilogue(&spec.epilogue) => mlp(l, &spec, rung),
        Op::WindowCore(spec) if rung == Rung::Naive => window_core(l, &spec),
        Op::MlpFusion(spec) if rung == Rung::Naive => mlp_fusion(l, &spec),
        Op::ImagePass(spec) if rung == Rung::Naive => image_pass(l, &spec),
        _ => return false,
    }
    true
}

/// What the MLP's lower rungs can do behind the second layer: bias, scale, residual.
fn has_plain_epilogue(epilogue: &Epilogue) -> bool {
    let nothing = Act::Identity;
    epilogue.bias && epilogue.norm.is_none() && (epilogue.act, epilogue.act_after) == (nothing, nothing)
}

/// `gemm::naive` and `gemm::tiled`.
fn gemm(l: &mut Lowering<'_>, spec: &GemmSpec, rung: Rung) {
    let (name, header, [rows, columns]) = match rung {
        Rung::Naive => ("naive", "gemm/naive.cuh", [8, 32]),
        Rung::Tiled => ("tiled", "gemm/tiled.cuh", [64, 64]),
    };
    let mut text = KernelText::new("gemm_rung", header);
    text.define(format!("using P = {};\nusing E = P::Element;", l.precision.fragment().name()));
    text.define(format!("using Epi = {};", epilogue_type(&spec.epilogue)));
    text.block(256, 0, "0");
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const u8 *weight", l.packed(Slot::Weight, spec.n, spec.k));
    text.parameter("E *out", l.output(0));
    text.parameter("int rows", Argument::I32(spec.rows as i32));
    EpilogueArguments::of(l, Slot::Bias).write(&mut text, &spec.epilogue);
    text.line(format!("gemm::{name}<P, {}, {}>(x, weight, epilogue, out, rows);", spec.n, spec.k));
    launch(l, &text, [spec.rows.div_ceil(rows), spec.n.div_ceil(columns), 1]);
}

/// `mlp::naive::layer` and `mlp::tiled::layer`, twice.
fn mlp(l: &mut Lowering<'_>, spec: &MlpSpec, rung: Rung) {
    let MlpSpec { rows, channels, hidden, norm, act: activation, epilogue } = *spec;
    let between = l.workspace(rows * hidden * l.precision.dtype().size());
    let null = Argument::Null;
    let norms = match norm {
        Some(_) => [l.f32(Slot::NormWeight), l.f32(Slot::NormBias)],
        None => [null; 2],
    };
    let scale = if epilogue.scale { l.f32(Slot::Scale) } else { null };
    let residual = if epilogue.residual { l.element(Slot::Residual) } else { null };
    let layers = [
        (l.element(Slot::X), norms, [Slot::Weight, Slot::Bias], [null; 2], between, [channels, hidden], activation),
        (
            between,
            [null; 2],
            [Slot::Weight1, Slot::Bias1],
            [scale, residual],
            l.output(0),
            [hidden, channels],
            Act::Identity,
        ),
    ];
    for (x, norms, [weight, bias], [scale, residual], out, [k, n], activation) in layers {
        let mut text = KernelText::new("mlp_rung", if rung == Rung::Naive { "mlp/naive.cuh" } else { "mlp/tiled.cuh" });
        text.define(format!("using E = {};", l.element_name()));
        for (parameter, argument) in [
            ("const E *x", x),
            ("const float *norm_weight", norms[0]),
            ("const float *norm_bias", norms[1]),
            ("const E *weight", l.element(weight)),
            ("const float *bias", l.f32(bias)),
            ("const float *scale", scale),
            ("const E *residual", residual),
            ("E *out", out),
            ("int rows", Argument::I32(rows as i32)),
        ] {
            text.parameter(parameter, argument);
        }
        let layer = format!("layer<E, {k}, {n}, {}>", act(activation));
        let operands =
            format!("x, norm_weight, norm_bias, {}, weight, bias, scale, residual, out", literal(norm.unwrap_or(0.0)));
        let grid = match rung {
            Rung::Naive => {
                text.block(128, 0, "0");
                text.line(format!("mlp::naive::{layer}({operands});"));
                [n.div_ceil(128), rows, 1]
            }
            Rung::Tiled => {
                text.block(256, (2 * 16 * (64 + 4) + 2 * 64) * 4, "mlp::tiled::bytes()");
                text.line(format!("mlp::tiled::{layer}({operands}, rows);"));
                [n.div_ceil(64), rows.div_ceil(64), 1]
            }
        };
        launch(l, &text, grid);
    }
}

/// `window_attention::naive::core`.
fn window_core(l: &mut Lowering<'_>, spec: &WindowCoreSpec) {
    let WindowCoreSpec { batch, plan: geometry, channels, heads, kind } = *spec;
    let mut text = KernelText::new("window_core_rung", "window_attention/naive.cuh");
    text.define(format!("using E = {};", l.element_name()));
    text.block(64, 0, "0");
    text.parameter("const E *qkv", l.element(Slot::X));
    text.parameter("const float *score_scale", l.f32(Slot::ScoreScale));
    text.parameter("const float *bias", l.f32(Slot::ScoreBias));
    text.parameter("E *out", l.output(0));
    plan(&mut text, geometry.window, geometry.input, geometry.shift);
    text.line(format!(
        "window_attention::naive::core<E, {}, {channels}, {}>(qkv, score_scale, bias, out, plan);",
        geometry.window,
        kind == WindowKind::V2
    ));
    launch(l, &text, [batch * geometry.windows().iter().product::<usize>(), heads, 1]);
}

/// `mlp_fusion::naive_project` for each coarse tap, then `naive_fuse`.
fn mlp_fusion(l: &mut Lowering<'_>, spec: &MlpFusionSpec) {
    let MlpFusionSpec { batch, taps, width } = *spec;
    let header = "mlp_fusion/naive.cuh";
    let pixels = taps.map(|[height, width, _]| batch * height * width);
    let slots = [(Slot::X1, Slot::Weight1), (Slot::X2, Slot::Weight2), (Slot::X3, Slot::Weight3)];
    let mut projected = Vec::new();
    for (i, (x, weight)) in slots.into_iter().enumerate() {
        let out = l.workspace(pixels[i + 1] * width * l.precision.dtype().size());
        let mut text = KernelText::new("mlp_fusion_rung", header);
        text.define(format!("using E = {};", l.element_name()));
        text.block(256, 0, "0");
        text.parameter("const E *x", l.element(x));
        text.parameter("const E *weight", l.element(weight));
        text.parameter("E *projected", out);
        text.parameter("int pixels", Argument::I32(pixels[i + 1] as i32));
        text.parameter("int channels", Argument::I32(taps[i + 1][2] as i32));
        text.line(format!("mlp_fusion::naive_project<E>(x, weight, projected, pixels, channels, {width});"));
        launch(l, &text, [(pixels[i + 1] * width).div_ceil(256), 1, 1]);
        projected.push(out);
    }
    let mut text = KernelText::new("mlp_fusion_rung", header);
    text.define(format!("using E = {};", l.element_name()));
    text.block(256, 0, "0");
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const E *weight", l.element(Slot::Weight));
    text.parameter("const float *bias", l.f32(Slot::Bias));
    text.parameter("E *out", l.output(0));
    for (name, number) in [("batch", batch), ("height", taps[0][0]), ("width", taps[0][1]), ("channels", taps[0][2])] {
        text.parameter(format!("int {name}"), Argument::I32(number as i32));
    }
    for (i, map) in projected.into_iter().enumerate() {
        text.parameter(format!("E *projected{i}"), map);
        text.parameter(format!("int height{i}"), Argument::I32(taps[i + 1][0] as i32));
        text.parameter(format!("int width{i}"), Argument::I32(taps[i + 1][1] as i32));
    }
    let tap = |i| format!("{{nullptr, nullptr, projected{i}, height{i}, width{i}, 0}}");
    text.line(format!("const mlp_fusion::Coarse taps[3] = {{{}, {}, {}}};", tap(0), tap(1), tap(2)));
    text.line(format!(
        "mlp_fusion::naive_fuse<E>(x, weight, bias, out, batch, height, width, channels, {width}, taps);"
    ));
    launch(l, &text, [(pixels[0] * width).div_ceil(256), 1, 1]);
}

/// `token_attention/naive.cuh`: a kernel for each line of the formula.
fn image_pass(l: &mut Lowering<'_>, spec: &ImagePassSpec) {
    let ImagePassSpec { batch, input: [_, width], tokens, update, attend, shared_attend, eps } = *spec;
    let (n, pixels) = (spec.rows(), spec.pixels());
    let scores = l.workspace(batch * pixels * n * size_of::<f32>());
    let (x, pe) = (l.element(Slot::X), l.f32(Slot::Pe));
    let numbers = [("pixels", pixels), ("width", width), ("n", n), ("tokens", tokens)];
    let step = |l: &mut Lowering<'_>, parameters: &[(&str, Argument)], call: String, grid: [usize; 2]| {
        let mut text = KernelText::new("image_pass_rung", "token_attention/naive.cuh");
        text.define(format!("using E = {};", l.element_name()));
        text.block(256, 0, "0");
        for (declaration, argument) in parameters {
            text.parameter(*declaration, *argument);
        }
        for (name, number) in numbers {
            text.parameter(format!("int {name}"), Argument::I32(number as i32));
        }
        text.line(format!("token_attention::{call};"));
        launch(l, &text, [grid[0], grid[1], 1]);
    };
    let all_scores = [(pixels * n).div_ceil(256), batch];
    let mut map = x;
    if update {
        let (a, bias) = (l.f32(Slot::UpdateScores), l.f32(Slot::UpdateScoreBias));
        let parameters = [
            ("const E *x", x),
            ("const float *pe", pe),
            ("const float *a", a),
            ("const float *bias", bias),
            ("float *scores", scores),
        ];
        step(l, &parameters, "naive_scores<E>(x, pe, a, bias, scores, pixels, width, n, false)".into(), all_scores);
        let call = "naive_softmax_over_tokens(scores, pixels, tokens)".into();
        step(l, &[("float *scores", scores)], call, [(8 * pixels).div_ceil(256), batch]);
        map = l.output(0);
        let parameters = [
            ("const E *x", x),
            ("E *out", map),
            ("const float *scores", scores),
            ("const float *values", l.f32(Slot::UpdateValues)),
            ("const float *bias", l.f32(Slot::UpdateBias)),
            ("const float *norm_weight", l.f32(Slot::NormWeight)),
            ("const float *norm_bias", l.f32(Slot::NormBias)),
        ];
        let call =
            format!("naive_update<E>(x, out, scores, values, bias, norm_weight, norm_bias, n, {})", literal(eps));
        step(l, &parameters, call, [pixels, batch]);
    }
    if attend {
        let parameters = [
            ("const E *x", map),
            ("const float *pe", pe),
            ("const float *a", l.f32(Slot::AttendScores)),
            ("float *scores", scores),
        ];
        let call = format!("naive_scores<E>(x, pe, a, nullptr, scores, pixels, width, n, {shared_attend})");
        step(l, &parameters, call, all_scores);
        step(
            l,
            &[("float *scores", scores)],
            "naive_softmax_over_image(scores, pixels, n)".into(),
            [n.div_ceil(8), batch],
        );
        let pooled = l.output(usize::from(update));
        let parameters = [("const E *x", map), ("const float *scores", scores), ("float *pooled", pooled)];
        step(l, &parameters, "naive_pool<E>(x, scores, pooled, pixels)".into(), [n, batch]);
    }
}

/// Costs are the node's: a bench of one node is what looks at them.
fn launch(l: &mut Lowering<'_>, text: &KernelText, grid: [usize; 3]) {
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(text, grid.map(|side| side as u32), flops, bytes);
}

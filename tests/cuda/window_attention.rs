//! Window attention: the fused branch of both Swin versions, with every way of padding and shifting, and its un-fused core.

use half::{bf16, f16};
use proptest::prelude::*;
use segface_codegen::cuda::Rung;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    DType, Element,
    window_attention::{WindowAttentionSpec, WindowCoreSpec, WindowKind, WindowPlan},
};
use segface_reference::{
    layer_norm::layer_norm,
    mlp::Linear,
    window_attention::{Scores, WindowAttention, attend, shift_mask},
};
use segface_tests::{
    cuda::{judge_rung, rungs},
    judge::{Failure, Floor},
    operand::{Operand, Values, values},
    problems::random_problems,
};
use tch::{Kind, Tensor};

const EPS: f64 = 1e-5;
const HEAD: usize = 32;

#[derive(Debug, Clone)]
struct Problem {
    values: Values,
    batch: usize,
    input: [usize; 2],
    heads: usize,
    kind: WindowKind,
    shifted: bool,
}

fn problem() -> impl Strategy<Value = Problem> {
    let kind = prop_oneof![Just(WindowKind::V1), Just(WindowKind::V2)];
    (values(), 1..3usize, [1..20usize, 1..20usize], 1..7usize, kind, any::<bool>())
        .prop_map(|(values, batch, input, heads, kind, shifted)| Problem { values, batch, input, heads, kind, shifted })
}

impl Problem {
    fn window(&self) -> usize {
        if self.kind == WindowKind::V1 { 7 } else { 8 }
    }

    fn plan(&self) -> WindowPlan {
        WindowPlan::new(self.input, self.window(), if self.shifted { self.window() / 2 } else { 0 })
    }

    fn position_bias<T: Element>(&self) -> Operand {
        let area = self.window() * self.window();
        self.values.weight::<T>("position bias", &[self.heads, area, area], 1.0)
    }

    /// The same without padding if it is V2. There a padded token's key is zero, and libtorch in f16 divides it by an ε of 1e-12,
    /// which is zero in f16.
    fn whole_windows(&self) -> Problem {
        let input = if self.kind == WindowKind::V2 { self.input.map(|n| n.next_multiple_of(8)) } else { self.input };
        Problem { input, ..self.clone() }
    }

    /// ln of scales around 20 and up to beyond the published limit of 100.
    fn logit_scale<T: Element>(&self) -> Operand {
        let spread = self.values.weight::<T>("logit scale", &[self.heads, 1, 1], 1.0);
        Operand::from_values::<T>(&[self.heads, 1, 1], spread.f32().iter().map(|v| 3.0 + v * 1.3))
    }

    fn scores<T: Element>(&self, kind: Kind) -> Scores {
        match self.kind {
            WindowKind::V1 => Scores::ScaledDot,
            WindowKind::V2 => Scores::Cosine(self.logit_scale::<T>().tensor(kind)),
        }
    }

    /// What the kernel multiplies q·k with.
    fn score_scale<T: Element>(&self) -> Operand {
        let logits = self.logit_scale::<T>();
        let scales = logits.f32().iter().map(|&v| match self.kind {
            WindowKind::V1 => (HEAD as f64).powf(-0.5) as f32,
            WindowKind::V2 => f64::from(v).min(100f64.ln()).exp() as f32,
        });
        Operand::from_values::<f32>(&[self.heads], scales)
    }
}

/// What rounding the last sum of `terms` may cost.
fn floor(precision: Precision, terms: usize) -> Floor {
    match precision {
        Precision::Tf32 => Floor::of_sum(DType::F16, terms),
        other => Floor::of_sum(other.dtype(), terms),
    }
}

fn fused<T: Element>(p: &Problem, precision: Precision, rung: Option<Rung>) -> Result<(), Failure> {
    let channels = HEAD * p.heads;
    let width = 1.0 / (channels as f64).sqrt();
    let x = p.values.input::<T>("x", &[p.batch, p.input[0], p.input[1], channels]);
    let qkv_weight = p.values.weight::<T>("qkv weight", &[3 * channels, channels], width);
    let proj_weight = p.values.weight::<T>("proj weight", &[channels, channels], width);
    let qkv_bias = p.values.weight::<T>("qkv bias", &[3 * channels], 0.5);
    let proj_bias = p.values.weight::<T>("proj bias", &[channels], 0.5);
    let (gamma, beta) = (p.values.factor::<T>("γ", &[channels]), p.values.weight::<T>("β", &[channels], 0.3));
    let (position_bias, score_scale) = (p.position_bias::<T>(), p.score_scale::<T>());
    // V2's compiler zeroes the bias of k.
    let zeroed = |i: usize| p.kind == WindowKind::V2 && i / channels == 1;
    let kernel_bias = qkv_bias.f32().iter().enumerate().map(|(i, v)| if zeroed(i) { 0.0 } else { *v });
    let kernel_bias = Operand::from_values::<f32>(&[3 * channels], kernel_bias);
    let spec = WindowAttentionSpec {
        batch: p.batch,
        input: p.input,
        channels,
        heads: p.heads,
        window: p.window(),
        shift: p.plan().shift,
        kind: p.kind,
        eps: EPS as f32,
    };
    let operands = [
        (Slot::X, &x),
        (Slot::NormWeight, &gamma),
        (Slot::NormBias, &beta),
        (Slot::QkvWeight, &qkv_weight),
        (Slot::QkvBias, &kernel_bias),
        (Slot::ScoreScale, &score_scale),
        (Slot::ScoreBias, &position_bias),
        (Slot::ProjWeight, &proj_weight),
        (Slot::ProjBias, &proj_bias),
    ];
    judge_rung(rung, precision, floor(precision, channels), Op::WindowAttention(spec), &operands, |kind| {
        let attention = WindowAttention {
            qkv: Linear { weight: qkv_weight.tensor(kind), bias: qkv_bias.tensor(kind) },
            proj: Linear { weight: proj_weight.tensor(kind), bias: proj_bias.tensor(kind) },
            position_bias: position_bias.tensor(kind),
            scores: p.scores::<T>(kind),
            window: p.window() as i64,
            shift: if p.shifted { p.window() as i64 / 2 } else { 0 },
        };
        let norm = |x: &Tensor| layer_norm(x, &gamma.tensor(kind), &beta.tensor(kind), EPS);
        let x = x.tensor(kind);
        vec![match p.kind {
            WindowKind::V1 => &x + attention.apply(&norm(&x)),
            WindowKind::V2 => &x + norm(&attention.apply(&x)),
        }]
    })
}

fn core<T: Element>(p: &Problem, precision: Precision, rung: Option<Rung>) -> Result<(), Failure> {
    let (plan, channels, area) = (p.plan(), HEAD * p.heads, p.window() * p.window());
    let windows = p.batch * plan.windows().iter().product::<usize>();
    let qkv = p.values.input::<T>("qkv", &[windows, area, 3 * channels]);
    let (position_bias, score_scale) = (p.position_bias::<T>(), p.score_scale::<T>());
    let spec = WindowCoreSpec { batch: p.batch, plan, channels, heads: p.heads, kind: p.kind };
    let operands = [(Slot::X, &qkv), (Slot::ScoreScale, &score_scale), (Slot::ScoreBias, &position_bias)];
    judge_rung(rung, precision, floor(precision, area), Op::WindowCore(spec), &operands, |kind| {
        let [height, width] = plan.padded().map(|n| n as i64);
        let shift = plan.shift.map(|s| s as i64);
        let mask = shift_mask(height, width, p.window() as i64, shift[0], shift[1], kind);
        vec![attend(&qkv.tensor(kind), &p.scores::<T>(kind), &position_bias.tensor(kind), &mask).contiguous()]
    })
}

#[test]
pub(crate) fn the_fused_branch() {
    random_problems("cuda window attention", 10, problem(), |p| fused_in_every_precision(p, None));
}

#[test]
pub(crate) fn the_fused_branch_without_tensor_cores() {
    random_problems("cuda window attention tiled", 3, problem(), |p| fused_in_every_precision(p, Some(Rung::Tiled)));
}

fn fused_in_every_precision(p: &Problem, rung: Option<Rung>) -> Result<(), Failure> {
    if rungs(Precision::F32).contains(&rung) {
        fused::<f32>(p, Precision::F32, rung)?;
    }
    fused::<bf16>(p, Precision::Bf16, rung)?;
    let p = &p.whole_windows();
    fused::<f32>(p, Precision::Tf32, rung)?;
    fused::<f16>(p, Precision::F16, rung)
}

#[test]
pub(crate) fn attention_within_windows() {
    random_problems("cuda window core", 6, problem(), |p| {
        // The tiled rung is what un-fused networks use.
        for rung in [None, Some(Rung::Naive)] {
            core::<f32>(p, Precision::F32, rung)?;
            core::<f16>(p, Precision::F16, rung)?;
            core::<bf16>(p, Precision::Bf16, rung)?;
        }
        Ok(())
    });
}

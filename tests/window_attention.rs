//! `window_attention` against libtorch: the fused branch of both Swin versions, and its un-fused parts.

use proptest::prelude::*;
use segface_kernels::{
    Element, bf16,
    gemm::PackedMatrix,
    window_attention::{
        WindowAttentionOperands, WindowAttentionSpec, WindowCoreOperands, WindowCoreSpec, WindowGatherOperands,
        WindowGatherSpec, WindowKind, WindowPlan, WindowScatterOperands, WindowScatterSpec, cpu,
    },
};
use segface_reference::{
    layer_norm::layer_norm,
    mlp::Linear,
    window_attention::{Scores, WindowAttention, attend, from_windows, shift_mask, to_windows},
};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Operand, Values, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

const EPS: f64 = 1e-5;
const HEAD: usize = 32;

/// A map that one window covers or not, each axis for itself.
#[derive(Debug)]
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
    (values(), 1..3usize, [1..27usize, 1..27usize], 1..4usize, kind, any::<bool>())
        .prop_map(|(values, batch, input, heads, kind, shifted)| Problem { values, batch, input, heads, kind, shifted })
}

impl Problem {
    fn window(&self) -> usize {
        if self.kind == WindowKind::V1 { 7 } else { 8 }
    }

    fn plan(&self) -> WindowPlan {
        let shift = if self.shifted { self.window() / 2 } else { 0 };
        WindowPlan::new(self.input, self.window(), shift)
    }

    fn channels(&self) -> usize {
        HEAD * self.heads
    }

    fn windows(&self) -> usize {
        self.plan().windows().iter().product()
    }

    fn x<T: Element>(&self) -> Operand {
        self.values.input::<T>("x", &[self.batch, self.input[0], self.input[1], self.channels()])
    }

    fn position_bias<T: Element>(&self) -> Operand {
        let area = self.window() * self.window();
        self.values.weight::<T>("position bias", &[self.heads, area, area], 1.0)
    }

    /// ln of scales from 2 to beyond the published limit of 100.
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
    fn score_scale<T: Element>(&self) -> Vec<f32> {
        match self.kind {
            WindowKind::V1 => vec![(HEAD as f64).powf(-0.5) as f32; self.heads],
            WindowKind::V2 => {
                let scales = self.logit_scale::<T>();
                scales.f32().iter().map(|&v| f64::from(v).min(100f64.ln()).exp() as f32).collect()
            }
        }
    }

    fn mask(&self, kind: Kind) -> Tensor {
        let plan = self.plan();
        let [height, width] = plan.padded().map(|n| n as i64);
        shift_mask(height, width, self.window() as i64, plan.shift[0] as i64, plan.shift[1] as i64, kind)
    }
}

fn fused<T: Element>(p: &Problem) -> Result<(), Failure> {
    let channels = p.channels();
    let width = 1.0 / (channels as f64).sqrt();
    let x = p.x::<T>();
    let (qkv_weight, proj_weight) = (
        p.values.weight::<T>("qkv weight", &[3 * channels, channels], width),
        p.values.weight::<T>("proj weight", &[channels, channels], width),
    );
    let (qkv_bias, proj_bias) =
        (p.values.weight::<T>("qkv bias", &[3 * channels], 0.5), p.values.weight::<T>("proj bias", &[channels], 0.5));
    let (gamma, beta) = (p.values.factor::<T>("γ", &[channels]), p.values.weight::<T>("β", &[channels], 0.3));
    let position_bias = p.position_bias::<T>();

    let reference = |kind| {
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
        match p.kind {
            WindowKind::V1 => &x + attention.apply(&norm(&x)),
            WindowKind::V2 => &x + norm(&attention.apply(&x)),
        }
    };
    let mut kernel_bias = qkv_bias.f32().to_vec();
    if p.kind == WindowKind::V2 {
        kernel_bias[channels..2 * channels].fill(0.0);
    }
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
    judge_kernel::<T>("window attention", Floor::of_sum(T::DTYPE, channels), reference, |context| {
        let mut out = x.elements::<T>();
        let operands = WindowAttentionOperands {
            norm: (gamma.f32(), beta.f32()),
            qkv_weight: &PackedMatrix::pack::<T>(context.isa(), 3 * channels, channels, qkv_weight.f32()),
            qkv_bias: &kernel_bias,
            score_scale: &p.score_scale::<T>(),
            bias: position_bias.f32(),
            proj_weight: &PackedMatrix::pack::<T>(context.isa(), channels, channels, proj_weight.f32()),
            proj_bias: proj_bias.f32(),
            x: &mut out,
        };
        cpu::window_attention(context, &spec, operands);
        widen(&out)
    })
}

#[test]
fn the_fused_branch_in_f32() {
    random_problems("window attention f32", 48, problem(), fused::<f32>);
}

#[test]
fn the_fused_branch_in_bf16() {
    random_problems("window attention bf16", 48, problem(), fused::<bf16>);
}

fn core<T: Element>(p: &Problem) -> Result<(), Failure> {
    let (channels, area) = (p.channels(), p.window() * p.window());
    let qkv = p.values.input::<T>("qkv", &[p.batch * p.windows(), area, 3 * channels]);
    let position_bias = p.position_bias::<T>();
    let reference =
        |kind| attend(&qkv.tensor(kind), &p.scores::<T>(kind), &position_bias.tensor(kind), &p.mask(kind)).contiguous();
    let spec = WindowCoreSpec { batch: p.batch, plan: p.plan(), channels, heads: p.heads, kind: p.kind };
    let elements = qkv.elements::<T>();
    judge_kernel::<T>("window core", Floor::of_sum(T::DTYPE, area), reference, |context| {
        let mut out = vec![T::from_f32(f32::NAN); elements.len() / 3];
        let operands = WindowCoreOperands {
            qkv: &elements,
            score_scale: &p.score_scale::<T>(),
            bias: position_bias.f32(),
            out: &mut out,
        };
        cpu::window_core(context, &spec, operands);
        widen(&out)
    })
}

#[test]
fn attention_within_windows() {
    random_problems("window core", 32, problem(), |p| core::<f32>(p).and_then(|()| core::<bf16>(p)));
}

/// Gathering and scattering move elements and change none.
fn moves<T: Element>(p: &Problem) -> Result<(), Failure> {
    let (plan, channels, batch) = (p.plan(), p.channels(), p.batch);
    let ([height, width], [padded_height, padded_width]) = (plan.input, plan.padded());
    let side = p.window() as i64;
    let [rows, columns] = plan.windows().map(|n| n as i64);
    let shift = plan.shift.map(|s| s as i64);
    let exact = Floor(0.0);

    let x = p.x::<T>();
    let fill = p.values.weight::<T>("fill", &[channels], 1.0);
    let gathered = |kind| {
        let padded = fill.tensor(kind).expand([batch as i64, padded_height as i64, padded_width as i64, -1], false);
        let padded = padded.contiguous();
        padded.narrow(1, 0, height as i64).narrow(2, 0, width as i64).copy_(&x.tensor(kind));
        to_windows(&padded.roll([-shift[0], -shift[1]], [1, 2]), side).contiguous()
    };
    let spec = WindowGatherSpec { batch, plan, channels };
    let elements = x.elements::<T>();
    judge_kernel::<T>("window gather", exact, gathered, |context| {
        let mut out = vec![T::from_f32(f32::NAN); batch * padded_height * padded_width * channels];
        let operands = WindowGatherOperands { x: &elements, fill: Some(fill.f32()), out: &mut out };
        cpu::window_gather(context, &spec, operands);
        widen(&out)
    })?;

    let windows = p.values.input::<T>("windows", &[batch * p.windows(), (side * side) as usize, channels]);
    let scattered = |kind| {
        let map = from_windows(&windows.tensor(kind), side, rows, columns).roll(shift, [1, 2]);
        map.narrow(1, 0, height as i64).narrow(2, 0, width as i64).contiguous()
    };
    let spec = WindowScatterSpec { batch, plan, channels };
    let elements = windows.elements::<T>();
    judge_kernel::<T>("window scatter", exact, scattered, |context| {
        let mut out = vec![T::from_f32(f32::NAN); batch * height * width * channels];
        cpu::window_scatter(context, &spec, WindowScatterOperands { x: &elements, out: &mut out });
        widen(&out)
    })
}

#[test]
fn gathering_and_scattering_windows() {
    random_problems("window moves", 32, problem(), |p| moves::<f32>(p).and_then(|()| moves::<bf16>(p)));
}

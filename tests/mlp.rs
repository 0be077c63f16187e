//! `mlp` against libtorch: with and without norm, in place and not, odd sizes.

use proptest::prelude::*;
use segface_kernels::{
    Act, Element, bf16,
    epilogue::Residual,
    gemm::PackedMatrix,
    mlp::{self, MlpOperands, MlpSpec},
};
use segface_reference::{elementwise::activate, gemm::linear, layer_norm::layer_norm};
use segface_tests::{
    epilogue::{EpilogueChoice, EpilogueNumbers, any_act, any_epilogue},
    judge::{Failure, Floor},
    operand::{Values, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    rows: usize,
    channels: usize,
    hidden: usize,
    norm: Option<f32>,
    act: Act,
    /// x is the output buffer itself.
    in_place: bool,
    epilogue: EpilogueChoice,
    values: Values,
}

/// `rows` by `channels` by `hidden` at most.
fn problem(rows: usize, channels: usize, hidden: usize) -> impl Strategy<Value = Problem> {
    let norm = prop::sample::select(vec![None, Some(1e-5), Some(1e-6)]);
    (1..=rows, 1..=channels, 1..=hidden, norm, any_act(), any::<bool>(), any_epilogue(), values()).prop_map(
        |(rows, channels, hidden, norm, act, in_place, epilogue, values)| Problem {
            rows,
            channels,
            hidden,
            norm,
            act,
            in_place,
            epilogue,
            values,
        },
    )
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { rows, channels, hidden, norm, act, in_place, mut epilogue, ref values } = *problem;
    // What the output buffer holds is x, so an in-place residual is x too.
    epilogue.in_place &= !in_place;
    let scale = |k: usize| 1.0 / (k as f64).sqrt();
    let x = values.input::<T>("x", &[rows, channels]);
    let (weight1, bias1) = (
        values.weight::<T>("weight1", &[hidden, channels], scale(channels)),
        values.weight::<T>("bias1", &[hidden], 0.5),
    );
    let weight2 = values.weight::<T>("weight2", &[channels, hidden], scale(hidden));
    let (norm_weight, norm_bias) = (values.factor::<T>("γ", &[channels]), values.weight::<T>("β", &[channels], 0.5));
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, rows, channels);
    let elements = x.elements::<T>();
    let reference = |kind: Kind| -> Tensor {
        let mut y = x.tensor(kind);
        if let Some(eps) = norm {
            y = layer_norm(&y, &norm_weight.tensor(kind), &norm_bias.tensor(kind), f64::from(eps));
        }
        let y = activate(act, &linear(&y, &weight1.tensor(kind), Some(&bias1.tensor(kind))));
        numbers.reference(kind, &linear(&y, &weight2.tensor(kind), None))
    };
    judge_kernel::<T>("mlp", Floor::of(T::DTYPE), reference, |context| {
        let weight1 = PackedMatrix::pack::<T>(context.isa(), hidden, channels, weight1.f32());
        let weight2 = PackedMatrix::pack::<T>(context.isa(), channels, hidden, weight2.f32());
        let mut out = if in_place { elements.clone() } else { numbers.output() };
        let spec = MlpSpec { rows, channels, hidden, norm, act, epilogue: epilogue.epilogue };
        let operands = MlpOperands {
            x: (!in_place).then_some(elements.as_slice()),
            norm: norm.map(|_| (norm_weight.f32(), norm_bias.f32())),
            weight1: &weight1,
            bias1: bias1.f32(),
            weight2: &weight2,
            epilogue: numbers.operands(),
            out: &mut out,
        };
        mlp::cpu::mlp(context, &spec, operands);
        widen(&out)
    })
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn small_odd_mlps_with_every_epilogue() {
    random_problems("mlp small", 48, problem(40, 50, 70), both);
}

#[test]
fn mlps_of_many_rows_and_a_hidden_layer_in_pieces() {
    random_problems("mlp large", 6, problem(300, 40, 1300), both);
}

#[test]
fn a_swin_block_in_place_adds_to_its_own_input() {
    random_problems("mlp in place", 8, problem(60, 96, 384), |problem| {
        check_swin::<f32>(problem)?;
        check_swin::<bf16>(problem)
    });
}

/// `x += W2·gelu(W1·LN(x) + b1) + b2` with x, residual and output in one buffer.
fn check_swin<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { rows, channels, hidden, ref values, .. } = *problem;
    let x = values.input::<T>("x", &[rows, channels]);
    let weight1 = values.weight::<T>("weight1", &[hidden, channels], 1.0 / (channels as f64).sqrt());
    let weight2 = values.weight::<T>("weight2", &[channels, hidden], 1.0 / (hidden as f64).sqrt());
    let [bias1, bias2] = [("bias1", hidden), ("bias2", channels)].map(|(name, n)| values.weight::<T>(name, &[n], 0.5));
    let (norm_weight, norm_bias) = (values.factor::<T>("γ", &[channels]), values.weight::<T>("β", &[channels], 0.5));
    let reference = |kind: Kind| -> Tensor {
        let x = x.tensor(kind);
        let y = layer_norm(&x, &norm_weight.tensor(kind), &norm_bias.tensor(kind), 1e-5);
        let y = activate(Act::Gelu, &linear(&y, &weight1.tensor(kind), Some(&bias1.tensor(kind))));
        x + linear(&y, &weight2.tensor(kind), Some(&bias2.tensor(kind)))
    };
    judge_kernel::<T>("mlp in place", Floor::of(T::DTYPE), reference, |context| {
        let weight1 = PackedMatrix::pack::<T>(context.isa(), hidden, channels, weight1.f32());
        let weight2 = PackedMatrix::pack::<T>(context.isa(), channels, hidden, weight2.f32());
        let epilogue = segface_kernels::Epilogue { bias: true, residual: true, ..Default::default() };
        let spec = MlpSpec { rows, channels, hidden, norm: Some(1e-5), act: Act::Gelu, epilogue };
        let mut out = x.elements::<T>();
        let operands = MlpOperands {
            x: None,
            norm: Some((norm_weight.f32(), norm_bias.f32())),
            weight1: &weight1,
            bias1: bias1.f32(),
            weight2: &weight2,
            epilogue: segface_kernels::epilogue::EpilogueOperands {
                bias: Some(bias2.f32()),
                scale: None,
                norm: None,
                residual: Residual::InPlace,
            },
            out: &mut out,
        };
        mlp::cpu::mlp(context, &spec, operands);
        widen(&out)
    })
}

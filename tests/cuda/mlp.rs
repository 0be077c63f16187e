//! MLPs: in one launch (many rows, few channels) and in two, every epilogue.

use proptest::prelude::*;
use segface_codegen::cuda::Rung;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{Act, Element, mlp::MlpSpec};
use segface_reference::{elementwise::activate, gemm::linear, layer_norm::layer_norm};
use segface_tests::{
    cuda::{floor, judge_rung},
    epilogue::{EpilogueChoice, EpilogueNumbers, any_act, any_epilogue},
    in_every_precision,
    judge::Failure,
    operand::{Values, values},
    problems::random_problems,
};
use tch::Kind;

#[derive(Debug, Clone)]
struct Problem {
    rows: usize,
    channels: usize,
    hidden: usize,
    norm: Option<f32>,
    act: Act,
    epilogue: EpilogueChoice,
    /// Which rung of the ladder computes it; the top if none.
    rung: Option<Rung>,
    values: Values,
}

/// Rows in that range, 8·`channels` by 8·`hidden` at most.
fn problem(rows: std::ops::Range<usize>, channels: usize, hidden: usize) -> impl Strategy<Value = Problem> {
    let norm = prop::sample::select(vec![None, Some(1e-5), Some(1e-6)]);
    (rows, 1..=channels, 1..=hidden, norm, any_act(), any_epilogue(), values()).prop_map(
        |(rows, channels, hidden, norm, act, epilogue, values)| Problem {
            rows,
            channels: 8 * channels,
            hidden: 8 * hidden,
            norm,
            act,
            epilogue,
            rung: None,
            values,
        },
    )
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { rows, channels, hidden, norm, act, epilogue, rung, ref values } = *problem;
    let x = values.input::<T>("x", &[rows, channels]);
    let weight1 = values.weight::<T>("weight1", &[hidden, channels], 1.0 / (channels as f64).sqrt());
    let weight2 = values.weight::<T>("weight2", &[channels, hidden], 1.0 / (hidden as f64).sqrt());
    let bias1 = values.weight::<T>("bias1", &[hidden], 0.5);
    let (norm_weight, norm_bias) = (values.factor::<T>("γ", &[channels]), values.weight::<T>("β", &[channels], 0.5));
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, rows, channels);
    let mut operands = vec![(Slot::X, &x), (Slot::Weight, &weight1), (Slot::Bias, &bias1), (Slot::Weight1, &weight2)];
    if norm.is_some() {
        operands.extend([(Slot::NormWeight, &norm_weight), (Slot::NormBias, &norm_bias)]);
    }
    operands.extend(numbers.slots(Slot::Bias1));
    let op = Op::Mlp(MlpSpec { rows, channels, hidden, norm, act, epilogue: epilogue.epilogue });
    judge_rung(rung, precision, floor(precision), op, &operands, |kind: Kind| {
        let mut y = x.tensor(kind);
        if let Some(eps) = norm {
            y = layer_norm(&y, &norm_weight.tensor(kind), &norm_bias.tensor(kind), f64::from(eps));
        }
        let y = activate(act, &linear(&y, &weight1.tensor(kind), Some(&bias1.tensor(kind))));
        vec![numbers.reference(kind, &linear(&y, &weight2.tensor(kind), None))]
    })
}

fn every_precision(problem: &Problem) -> Result<(), Failure> {
    in_every_precision!(check(problem))
}

#[test]
pub(crate) fn small_odd_mlps_with_every_epilogue() {
    random_problems("cuda mlp small", 8, problem(1..60, 12, 20), every_precision);
}

#[test]
pub(crate) fn mlps_of_wide_rows() {
    random_problems("cuda mlp wide", 3, problem(1..30, 96, 24), every_precision);
}

/// Enough rows, and channels and hidden columns in whole atoms, for the fused kernel.
#[test]
pub(crate) fn mlps_in_one_launch() {
    let fused = problem(6912..7000, 3, 3).prop_map(|p| Problem { channels: 4 * p.channels, hidden: 8 * p.hidden, ..p });
    random_problems("cuda mlp fused", 3, fused, every_precision);
}

/// The lower rungs end in bias, scale and residual.
#[test]
pub(crate) fn mlps_on_every_rung() {
    let rung = prop::sample::select(vec![Some(Rung::Naive), Some(Rung::Tiled)]);
    let plain = (problem(1..90, 8, 12), rung).prop_map(|(mut problem, rung)| {
        let epilogue = &mut problem.epilogue.epilogue;
        (epilogue.bias, epilogue.norm) = (true, None);
        (epilogue.act, epilogue.act_after) = (Act::Identity, Act::Identity);
        Problem { rung, ..problem }
    });
    random_problems("cuda mlp rungs", 6, plain, every_precision);
}

//! Elementwise operators, on rows of whole chunks and on odd ones.

use half::{bf16, f16};
use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Element,
    elementwise::{ElementwiseOp, ElementwiseSpec},
};
use segface_reference::elementwise::{BatchNorm, activate, batch_norm};
use segface_tests::{
    cuda::{floor, judge_single},
    epilogue::any_act,
    judge::Failure,
    operand::{Operand, Values, values},
    problems::random_problems,
};
use tch::Kind;

#[derive(Debug, Clone)]
struct Problem {
    /// Groups of rows that share a gate, or take the same other operand.
    groups: usize,
    /// Rows of a group.
    rows: usize,
    channels: usize,
    op: ElementwiseOp,
    values: Values,
}

fn problem(rows: usize, channels: impl Strategy<Value = usize>) -> impl Strategy<Value = Problem> {
    // Row counts are filled in below.
    let op = prop_oneof![
        any_act().prop_map(ElementwiseOp::Act),
        Just(ElementwiseOp::Add { other_rows: 0 }),
        Just(ElementwiseOp::Scale),
        Just(ElementwiseOp::Gate { rows_per_gate: 0 }),
        prop::sample::select(vec![1e-3f32, 1e-5]).prop_map(|eps| ElementwiseOp::BatchNorm { eps }),
    ];
    (1..=3usize, 1..=rows, channels, op, values()).prop_map(|(groups, rows, channels, op, values)| {
        let op = match op {
            ElementwiseOp::Add { .. } => ElementwiseOp::Add { other_rows: rows },
            ElementwiseOp::Gate { .. } => ElementwiseOp::Gate { rows_per_gate: rows },
            other => other,
        };
        Problem { groups, rows, channels, op, values }
    })
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { groups, rows, channels, op, ref values } = *problem;
    let spec = ElementwiseSpec { rows: groups * rows, channels, op };
    let x = values.input::<T>("x", &[groups, rows, channels]);
    let other = values.input::<T>("other", &[1, rows, channels]);
    let scale = values.factor::<T>("scale", &[channels]);
    let gate = values.factor::<T>("gate", &[groups, 1, channels]);
    let spread = values.factor::<T>("variance", &[channels]);
    let statistics = [
        values.factor::<T>("γ", &[channels]),
        values.weight::<T>("β", &[channels], 0.5),
        values.input::<T>("mean", &[channels]),
        Operand::from_values::<T>(&[channels], spread.f32().iter().map(|v| v.abs())),
    ];
    let mut operands = vec![(Slot::X, &x)];
    match op {
        ElementwiseOp::Act(_) => {}
        ElementwiseOp::Add { .. } => operands.push((Slot::Other, &other)),
        ElementwiseOp::Scale => operands.push((Slot::Scale, &scale)),
        ElementwiseOp::Gate { .. } => operands.push((Slot::Gate, &gate)),
        ElementwiseOp::BatchNorm { .. } => {
            let slots = [Slot::NormWeight, Slot::NormBias, Slot::Mean, Slot::Variance];
            operands.extend(slots.into_iter().zip(&statistics));
        }
    }
    judge_single(precision, floor(precision), Op::Elementwise(spec), &operands, |kind: Kind| {
        let x = x.tensor(kind);
        vec![match op {
            ElementwiseOp::Act(act) => activate(act, &x),
            ElementwiseOp::Add { .. } => x + other.tensor(kind),
            ElementwiseOp::Scale => x * scale.tensor(kind),
            ElementwiseOp::Gate { .. } => x * gate.tensor(kind),
            ElementwiseOp::BatchNorm { eps } => {
                let [weight, bias, running_mean, running_var] = statistics.each_ref().map(|s| s.tensor(kind));
                let parameters = BatchNorm { weight, bias, running_mean, running_var };
                batch_norm(&x.view([-1, channels as i64, 1, 1]), &parameters, f64::from(eps))
            }
        }]
    })
}

fn every_precision(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem, Precision::F32)?;
    check::<f16>(problem, Precision::F16)?;
    check::<bf16>(problem, Precision::Bf16)
}

#[test]
pub(crate) fn every_operator_on_rows_of_whole_chunks() {
    random_problems("cuda elementwise", 12, problem(40, (1..=20usize).prop_map(|c| 8 * c)), every_precision);
}

#[test]
pub(crate) fn every_operator_on_odd_rows() {
    random_problems("cuda elementwise odd", 6, problem(20, 1..=30usize), every_precision);
}

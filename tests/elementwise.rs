//! `elementwise` against libtorch: every operator, in place and not, odd row lengths.

use proptest::prelude::*;
use segface_kernels::{
    Element, bf16,
    elementwise::{self, ElementwiseOp, ElementwiseOperands, ElementwiseSpec},
};
use segface_reference::elementwise::{BatchNorm, activate, batch_norm};
use segface_tests::{
    epilogue::any_act,
    judge::{Failure, Floor},
    operand::{Operand, Values, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

#[derive(Debug, Clone)]
struct Problem {
    /// Groups of rows that share a gate, or take the same other operand.
    groups: usize,
    /// Rows of a group.
    rows: usize,
    channels: usize,
    op: ElementwiseOp,
    in_place: bool,
    values: Values,
}

fn problem(rows: usize, channels: usize) -> impl Strategy<Value = Problem> {
    // Row counts are filled in below.
    let op = prop_oneof![
        any_act().prop_map(ElementwiseOp::Act),
        Just(ElementwiseOp::Add { other_rows: 0 }),
        Just(ElementwiseOp::Scale),
        Just(ElementwiseOp::Gate { rows_per_gate: 0 }),
        prop::sample::select(vec![1e-3f32, 1e-5]).prop_map(|eps| ElementwiseOp::BatchNorm { eps }),
    ];
    (1..=3usize, 1..=rows, 1..=channels, op, any::<bool>(), values()).prop_map(
        |(groups, rows, channels, op, in_place, values)| {
            let op = match op {
                ElementwiseOp::Add { .. } => ElementwiseOp::Add { other_rows: rows },
                ElementwiseOp::Gate { .. } => ElementwiseOp::Gate { rows_per_gate: rows },
                other => other,
            };
            Problem { groups, rows, channels, op, in_place, values }
        },
    )
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { groups, rows, channels, op, in_place, ref values } = *problem;
    let spec = ElementwiseSpec { rows: groups * rows, channels, op };
    let x = values.input::<T>("x", &[groups, rows, channels]);
    let other = values.input::<T>("other", &[1, rows, channels]);
    let scale = values.factor::<T>("scale", &[channels]);
    let gate = values.factor::<T>("gate", &[groups, 1, channels]);
    let positive = |name: &str| {
        let values = values.factor::<T>(name, &[channels]);
        Operand::from_values::<T>(&[channels], values.f32().iter().map(|v| v.abs()))
    };
    let statistics = [
        values.factor::<T>("γ", &[channels]),
        values.weight::<T>("β", &[channels], 0.5),
        values.input::<T>("mean", &[channels]),
        positive("variance"),
    ];
    let (elements, other_elements) = (x.elements::<T>(), other.elements::<T>());
    let reference = |kind: Kind| -> Tensor {
        let x = x.tensor(kind);
        match op {
            ElementwiseOp::Act(act) => activate(act, &x),
            ElementwiseOp::Add { .. } => x + other.tensor(kind),
            ElementwiseOp::Scale => x * scale.tensor(kind),
            ElementwiseOp::Gate { .. } => x * gate.tensor(kind),
            ElementwiseOp::BatchNorm { eps } => {
                let [weight, bias, running_mean, running_var] = statistics.each_ref().map(|s| s.tensor(kind));
                let parameters = BatchNorm { weight, bias, running_mean, running_var };
                let y = batch_norm(&x.view([-1, channels as i64, 1, 1]), &parameters, f64::from(eps));
                y.view([groups as i64, rows as i64, channels as i64])
            }
        }
    };
    judge_kernel::<T>("elementwise", Floor::of(T::DTYPE), reference, |context| {
        let mut out = if in_place { elements.clone() } else { vec![T::from_f32(f32::NAN); elements.len()] };
        let operands = ElementwiseOperands {
            x: (!in_place).then_some(&elements),
            other: matches!(op, ElementwiseOp::Add { .. }).then_some(&other_elements),
            factors: match op {
                ElementwiseOp::Scale => scale.f32(),
                ElementwiseOp::Gate { .. } => gate.f32(),
                _ => &[],
            },
            statistics: matches!(op, ElementwiseOp::BatchNorm { .. }).then(|| statistics.each_ref().map(Operand::f32)),
            out: &mut out,
        };
        elementwise::cpu::elementwise(context, &spec, operands);
        widen(&out)
    })
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn every_operator_on_small_odd_rows() {
    random_problems("elementwise small", 128, problem(30, 70), both);
}

#[test]
fn every_operator_on_several_tasks() {
    random_problems("elementwise large", 16, problem(300, 300), both);
}

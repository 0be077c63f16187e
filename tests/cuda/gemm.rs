//! Products: every prologue and epilogue, odd sizes, few rows and many.

use proptest::prelude::*;
use segface_codegen::cuda::Rung;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Element,
    gemm::{GemmSpec, Prologue},
};
use segface_reference::{gemm::linear, layer_norm::layer_norm};
use segface_tests::{
    cuda::{floor, judge_rung},
    epilogue::{EpilogueChoice, EpilogueNumbers, any_epilogue},
    in_every_precision,
    judge::Failure,
    operand::{Values, values},
    problems::random_problems,
};
use tch::Kind;

#[derive(Debug, Clone)]
struct Problem {
    batch: usize,
    rows: usize,
    n: usize,
    k: usize,
    prologue: Prologue,
    epilogue: EpilogueChoice,
    /// Which rung of the ladder computes it; the top if none.
    rung: Option<Rung>,
    values: Values,
}

/// At most `rows` rows of an image by 8·`n` by 8·`k`.
fn problem(rows: usize, n: usize, k: usize) -> impl Strategy<Value = Problem> {
    let prologue = prop::sample::select(vec![
        Prologue::None,
        Prologue::LayerNorm { eps: 1e-5 },
        Prologue::Gate { rows_per_gate: 0 },
    ]);
    (1..=3usize, 1..=rows, 1..=n, 1..=k, prologue, any_epilogue(), values()).prop_map(
        |(batch, rows, n, k, prologue, epilogue, values)| {
            let prologue = match prologue {
                Prologue::Gate { .. } => Prologue::Gate { rows_per_gate: rows },
                other => other,
            };
            Problem { batch, rows, n: 8 * n, k: 8 * k, prologue, epilogue, rung: None, values }
        },
    )
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { batch, rows: image_rows, n, k, prologue, epilogue, rung, ref values } = *problem;
    let rows = batch * image_rows;
    let x = values.input::<T>("x", &[rows, k]);
    let weight = values.weight::<T>("weight", &[n, k], 1.0 / (k as f64).sqrt());
    let (norm_weight, norm_bias) = (values.factor::<T>("γ", &[k]), values.weight::<T>("β", &[k], 0.5));
    let gates = values.factor::<T>("gates", &[batch, k]);
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, rows, n);
    let mut operands = vec![(Slot::X, &x), (Slot::Weight, &weight)];
    match prologue {
        Prologue::None => {}
        Prologue::LayerNorm { .. } => operands.extend([(Slot::NormWeight, &norm_weight), (Slot::NormBias, &norm_bias)]),
        Prologue::Gate { .. } => operands.push((Slot::Gate, &gates)),
    }
    operands.extend(numbers.slots(Slot::Bias));
    let op = Op::Gemm(GemmSpec { rows, n, k, prologue, epilogue: epilogue.epilogue });
    judge_rung(rung, precision, floor(precision), op, &operands, |kind: Kind| {
        let x = x.tensor(kind);
        let x = match prologue {
            Prologue::None => x,
            Prologue::LayerNorm { eps } => {
                layer_norm(&x, &norm_weight.tensor(kind), &norm_bias.tensor(kind), f64::from(eps))
            }
            Prologue::Gate { .. } => {
                let shape = [batch as i64, image_rows as i64, k as i64];
                (x.view(shape) * gates.tensor(kind).unsqueeze(1)).view([rows as i64, k as i64])
            }
        };
        vec![numbers.reference(kind, &linear(&x, &weight.tensor(kind), None))]
    })
}

fn every_precision(problem: &Problem) -> Result<(), Failure> {
    in_every_precision!(check(problem))
}

#[test]
pub(crate) fn small_odd_products_with_every_prologue_and_epilogue() {
    random_problems("cuda gemm small", 8, problem(40, 12, 12), every_precision);
}

#[test]
pub(crate) fn products_of_many_rows() {
    random_problems("cuda gemm rows", 3, problem(400, 8, 12), every_precision);
}

#[test]
pub(crate) fn products_of_few_rows_and_many_columns() {
    random_problems("cuda gemm columns", 3, problem(7, 128, 40), every_precision);
}

#[test]
pub(crate) fn deep_products() {
    random_problems("cuda gemm deep", 2, problem(40, 12, 200), every_precision);
}

/// The lower rungs take rows as they are and norm nothing.
#[test]
pub(crate) fn products_on_every_rung() {
    let rung = prop::sample::select(vec![Some(Rung::Naive), Some(Rung::Tiled)]);
    let plain = (problem(90, 10, 8), rung).prop_map(|(mut problem, rung)| {
        problem.epilogue.epilogue.norm = None;
        Problem { prologue: Prologue::None, rung, ..problem }
    });
    random_problems("cuda gemm rungs", 6, plain, every_precision);
}

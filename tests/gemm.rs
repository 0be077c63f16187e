//! `gemm` against libtorch: every prologue and epilogue, odd sizes, few rows and many.

use proptest::prelude::*;
use segface_kernels::{
    Act, Element, bf16,
    epilogue::Residual,
    gemm::{
        self, GemmOperands, GemmSpec, PackedMatrix, Prologue, PrologueOperands,
        plain::{PlainOperands, PlainWeight, SlopeAt, gemm_plain},
    },
};
use segface_reference::{gemm::linear, layer_norm::layer_norm};
use segface_tests::{
    epilogue::{EpilogueChoice, EpilogueNumbers, any_epilogue},
    judge::{Failure, Floor},
    operand::{Values, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    /// Images, for the gate.
    batch: usize,
    /// Rows of an image.
    rows: usize,
    n: usize,
    k: usize,
    prologue: Prologue,
    epilogue: EpilogueChoice,
    values: Values,
}

/// `rows` of an image by `n` by `k` at most.
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
            Problem { batch, rows, n, k, prologue, epilogue, values }
        },
    )
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, rows: image_rows, n, k, prologue, epilogue, ref values } = *problem;
    let rows = batch * image_rows;
    let x = values.input::<T>("x", &[rows, k]);
    let weight = values.weight::<T>("weight", &[n, k], 1.0 / (k as f64).sqrt());
    let (norm_weight, norm_bias) = (values.factor::<T>("γ", &[k]), values.weight::<T>("β", &[k], 0.5));
    let gates = values.factor::<T>("gates", &[batch, k]);
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, rows, n);
    let elements = x.elements::<T>();
    let reference = |kind: Kind| -> Tensor {
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
        numbers.reference(kind, &linear(&x, &weight.tensor(kind), None))
    };
    judge_kernel::<T>("gemm", Floor::of(T::DTYPE), reference, |context| {
        let packed = PackedMatrix::pack::<T>(context.isa(), n, k, weight.f32());
        let mut out = numbers.output();
        let operands = GemmOperands {
            x: &elements,
            prologue: match prologue {
                Prologue::None => PrologueOperands::None,
                Prologue::LayerNorm { .. } => PrologueOperands::LayerNorm(norm_weight.f32(), norm_bias.f32()),
                Prologue::Gate { .. } => PrologueOperands::Gate(gates.f32()),
            },
            weight: &packed,
            epilogue: numbers.operands(),
            out: &mut out,
        };
        let spec = GemmSpec { rows, n, k, prologue, epilogue: epilogue.epilogue };
        gemm::cpu::gemm(context, &spec, operands);
        widen(&out)
    })
}

/// The product by a weight as it is stored, either way round.
fn check_plain<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, rows: image_rows, n, k, ref epilogue, ref values, .. } = *problem;
    let rows = batch * image_rows;
    let mut epilogue = *epilogue;
    epilogue.epilogue.norm = None;
    let x = values.input::<T>("x", &[rows, k]);
    let weight = values.weight::<T>("weight", &[n, k], 1.0 / (k as f64).sqrt());
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, rows, n);
    // Half of the products are multiplied by an activation's slope, as a data gradient behind it is.
    let before = values.input::<T>("before", &[rows, n]);
    let (act, before_elements) = (Act::Gelu, before.elements::<T>());
    let sloped = n % 2 == 0;
    let elements = x.elements::<T>();
    let turned: Vec<f32> = (0..k * n).map(|i| weight.f32()[i % n * k + i / n]).collect();
    let reference = |kind: Kind| {
        let mut product = linear(&x.tensor(kind), &weight.tensor(kind), None);
        if sloped {
            let before = before.tensor(kind).set_requires_grad(true);
            let gradients = Tensor::run_backward(&[&before.gelu("none").sum(kind)], &[&before], false, false);
            product *= &gradients[0];
        }
        numbers.reference(kind, &product)
    };
    // The operand may lie where the result does, unless a residual does.
    let free = !matches!(numbers.operands().residual, Residual::InPlace);
    for (name, weight, in_place) in [
        ("rows", PlainWeight::Rows(weight.f32()), false),
        ("columns", PlainWeight::Columns(&turned), false),
        ("columns, in place", PlainWeight::Columns(&turned), sloped && free),
    ] {
        judge_kernel::<T>(&format!("gemm_plain, {name}"), Floor::of(T::DTYPE), reference, |context| {
            let mut out = if in_place { before_elements.clone() } else { numbers.output() };
            let at = if in_place { SlopeAt::InPlace } else { SlopeAt::From(&before_elements) };
            let slope = sloped.then_some((act, at));
            let operands = PlainOperands { x: &elements, weight, epilogue: numbers.operands(), slope, out: &mut out };
            let spec = GemmSpec { rows, n, k, prologue: Prologue::None, epilogue: epilogue.epilogue };
            gemm_plain(context, &spec, operands);
            widen(&out)
        })?;
    }
    Ok(())
}

#[test]
fn products_by_plain_weights() {
    let both = |problem: &Problem| {
        check_plain::<f32>(problem)?;
        check_plain::<bf16>(problem)
    };
    random_problems("gemm_plain small", 48, problem(40, 70, 70), both);
    random_problems("gemm_plain rows", 8, problem(900, 64, 96), both);
    random_problems("gemm_plain columns", 8, problem(30, 700, 300), both);
    random_problems("gemm_plain deep", 8, problem(40, 100, 1500), both);
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn small_odd_products_with_every_prologue_and_epilogue() {
    random_problems("gemm small", 96, problem(40, 70, 70), both);
}

#[test]
fn products_of_many_rows() {
    random_problems("gemm rows", 12, problem(400, 64, 96), both);
}

#[test]
fn products_of_few_rows_and_many_columns() {
    random_problems("gemm columns", 12, problem(7, 1100, 300), both);
}

#[test]
fn deep_products() {
    random_problems("gemm deep", 8, problem(40, 100, 1500), both);
}

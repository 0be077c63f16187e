//! `layer_norm` against libtorch, on the inputs that show what whole networks hide: rows whose variance is near ε, rows whose
//! mean is far from zero.

use proptest::prelude::*;
use segface_kernels::{
    Context, Element, Isa, bf16,
    layer_norm::{self, LayerNormOperands, LayerNormSpec},
};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Operand, Values, values, widen},
    problems::{judge_kernel, random_problems},
};

#[derive(Debug, Clone)]
struct Problem {
    spec: LayerNormSpec,
    in_place: bool,
    values: Values,
}

fn problem(rows: usize, channels: usize) -> impl Strategy<Value = Problem> {
    let eps = prop::sample::select(vec![1e-5f32, 1e-6]);
    (1..=rows, 1..=channels, eps, any::<bool>(), values()).prop_map(|(rows, channels, eps, in_place, values)| Problem {
        spec: LayerNormSpec { rows, channels, eps },
        in_place,
        values,
    })
}

fn run<T: Element>(
    context: &mut Context,
    spec: &LayerNormSpec,
    x: &[T],
    operands: [&[f32]; 2],
    in_place: bool,
) -> Vec<T> {
    let mut out = if in_place { x.to_vec() } else { vec![T::from_f32(f32::NAN); x.len()] };
    let [weight, bias] = operands;
    let operands = LayerNormOperands { x: (!in_place).then_some(x), weight, bias, out: &mut out };
    layer_norm::cpu::layer_norm(context, spec, operands);
    out
}

fn judge<T: Element>(spec: &LayerNormSpec, x: &Operand, values: &Values, in_place: bool) -> Result<(), Failure> {
    let weight = values.factor::<T>("weight", &[spec.channels]);
    let bias = values.weight::<T>("bias", &[spec.channels], 0.5);
    let elements = x.elements::<T>();
    judge_kernel::<T>(
        "layer_norm",
        Floor::of(T::DTYPE),
        |kind| {
            let (weight, bias) = (weight.tensor(kind), bias.tensor(kind));
            segface_reference::layer_norm::layer_norm(&x.tensor(kind), &weight, &bias, f64::from(spec.eps))
        },
        |context| widen(&run(context, spec, &elements, [weight.f32(), bias.f32()], in_place)),
    )
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { spec, in_place, values } = problem;
    let x = values.input::<T>("x", &[spec.rows, spec.channels]);
    judge::<T>(spec, &x, values, *in_place)
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn rows_of_odd_lengths() {
    random_problems("layer_norm small", 96, problem(40, 100), both);
}

#[test]
fn rows_of_the_networks_lengths() {
    random_problems("layer_norm long", 12, problem(300, 4096), both);
}

#[test]
fn a_large_mean_costs_no_more_than_it_costs_libtorch() {
    // Mean 1000, variance 1: E[x²] − E[x]² has no correct digit left in f32.
    random_problems("layer_norm mean", 16, problem(20, 1024), |Problem { spec, in_place, values }| {
        let unit = values.weight::<f32>("x", &[spec.rows, spec.channels], 1.0);
        let shifted = unit.f32().iter().map(|v| v + 1000.0);
        let x = Operand::from_values::<f32>(&[spec.rows, spec.channels], shifted);
        judge::<f32>(spec, &x, values, *in_place)
    });
}

#[test]
fn epsilon_is_the_one_asked_for() {
    // Deviations of ±1e-3: variance 1e-6, so that 1e-5 and 1e-6 give ±0.3015 and ±0.7071.
    let x: Vec<f32> = (0..64).map(|i| if i % 2 == 0 { 1e-3 } else { -1e-3 }).collect();
    for isa in Isa::available() {
        for (eps, expected) in [(1e-5f32, 1.0 / 11f32.sqrt()), (1e-6, 0.5f32.sqrt())] {
            let spec = LayerNormSpec { rows: 2, channels: 32, eps };
            let out = run(&mut Context::new(1, isa), &spec, &x, [&[1.0; 32], &[0.0; 32]], false);
            for (x, y) in x.iter().zip(out) {
                assert!((y - expected * x.signum()).abs() < 1e-6, "{isa:?}, ε {eps}: {y}, not ±{expected}");
            }
        }
    }
}

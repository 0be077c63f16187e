//! Layer norm: rows whose variance is near ε, rows whose mean is far from zero, many rows.

use proptest::prelude::*;
use segface_kernels::layer_norm::LayerNormSpec;
use segface_kernels::layer_norm::backward::{LayerNormBackwardOperands, LayerNormParameters, layer_norm_backward};
use segface_kernels::{Context, Element, Gradient, bf16};
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, values, widen},
    problems::random_problems,
};
use tch::Tensor;

#[derive(Debug, Clone)]
struct Problem {
    spec: LayerNormSpec,
    values: Values,
}

fn problem(rows: usize, channels: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Problem> {
    let eps = prop::sample::select(vec![1e-5f32, 1e-6]);
    (1..=rows, channels, eps, values())
        .prop_map(|(rows, channels, eps, values)| Problem { spec: LayerNormSpec { rows, channels, eps }, values })
}

struct Case {
    x: Operand,
    weight: Operand,
    bias: Operand,
    d_out: Operand,
}

impl Problem {
    fn case<T: Element>(&self) -> Case {
        let LayerNormSpec { rows, channels, .. } = self.spec;
        Case {
            x: self.values.input::<T>("x", &[rows, channels]),
            weight: self.values.factor::<T>("weight", &[channels]),
            bias: self.values.weight::<T>("bias", &[channels], 0.5),
            d_out: self.values.weight::<T>("d_out", &[rows, channels], 1.0),
        }
    }
}

/// Gradients of x, γ and β; `start` is what they begin as, to be added to.
fn run<T: Element>(context: &mut Context, spec: &LayerNormSpec, case: &Case, start: Option<f32>) -> Vec<Vec<f32>> {
    let (x, d_out) = (case.x.elements::<T>(), case.d_out.elements::<T>());
    let mut d_x = start.map_or(unset::<T>(x.len()), |value| vec![T::from_f32(value); x.len()]);
    let mut d_weight = vec![start.unwrap_or(0.0); spec.channels];
    let mut d_bias = d_weight.clone();
    let operands = LayerNormBackwardOperands {
        x: &x,
        weight: case.weight.f32(),
        d_out: &d_out,
        d_x: Gradient { values: &mut d_x, accumulate: start.is_some() },
        d_parameters: Some(LayerNormParameters { d_weight: &mut d_weight, d_bias: &mut d_bias }),
    };
    layer_norm_backward(context, spec, operands);
    vec![widen(&d_x), d_weight, d_bias]
}

fn reference(eps: f32) -> impl Fn(&[Tensor]) -> Tensor {
    move |inputs| segface_reference::layer_norm::layer_norm(&inputs[0], &inputs[1], &inputs[2], f64::from(eps))
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { spec, .. } = problem;
    let case = problem.case::<T>();
    let function = Differentiable {
        inputs: &[("x", &case.x), ("weight", &case.weight), ("bias", &case.bias)],
        cotangent: &case.d_out,
        forward: reference(spec.eps),
    };
    let floor = |input: &str| if input == "x" { Floor::of(T::DTYPE) } else { Floor::of_sum(T::DTYPE, spec.rows) };
    function.judge::<T>("layer_norm", floor, |context| run::<T>(context, spec, &case, None))
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn rows_of_odd_lengths() {
    random_problems("layer_norm backward small", 48, problem(40, 2..=100), both);
}

#[test]
fn rows_of_the_networks_lengths() {
    random_problems("layer_norm backward long", 8, problem(300, 2..=2048), both);
}

#[test]
fn many_rows_of_several_tasks() {
    random_problems("layer_norm backward many", 4, problem(20_000, 2..=64), both);
}

#[test]
fn differences_agree_and_gradients_are_added() {
    random_problems("layer_norm backward differences", 8, problem(3, 3..=20), |problem| {
        let Problem { spec, .. } = problem;
        let case = problem.case::<f32>();
        let function = Differentiable {
            inputs: &[("x", &case.x), ("weight", &case.weight), ("bias", &case.bias)],
            cotangent: &case.d_out,
            forward: reference(spec.eps),
        };
        // Rows of deviation 1e-3 have slopes of a hundred and a thousand times that curvature: no place for differences.
        let spread = case.x.f32().iter().fold(0f32, |most, x| most.max(x.abs()));
        if spread > 0.1 {
            function.judge_differences("layer_norm", |context| run::<f32>(context, spec, &case, None))?;
        }
        let context = &mut Context::new(2, segface_kernels::Isa::best());
        let fresh = run::<f32>(context, spec, &case, None);
        let sums = run::<f32>(context, spec, &case, Some(0.75));
        for (fresh, sums) in fresh.iter().zip(&sums) {
            added("layer_norm", &vec![0.75; fresh.len()], fresh, sums)?;
        }
        Ok(())
    });
}

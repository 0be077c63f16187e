//! The mask product: image tokens upscaled times the hypernetwork's vectors.

use proptest::prelude::*;
use segface_kernels::mask_head::MaskProductSpec;
use segface_kernels::mask_head::backward::{MaskProductBackwardOperands, mask_product_backward};
use segface_kernels::{Context, Element, Gradient, Isa, bf16};
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, values, widen},
    problems::random_problems,
};
use tch::Tensor;

#[derive(Debug, Clone)]
struct Problem {
    spec: MaskProductSpec,
    values: Values,
}

fn problem(pixels: usize) -> impl Strategy<Value = Problem> {
    (1..=3usize, 1..=pixels, 1..=40usize, values()).prop_map(|(batch, pixels, classes, values)| Problem {
        spec: MaskProductSpec { batch, pixels, classes },
        values,
    })
}

struct Case {
    u: Operand,
    hyper: Operand,
    d_logits: Operand,
}

impl Problem {
    fn case<T: Element>(&self) -> Case {
        let MaskProductSpec { batch, pixels, classes } = self.spec;
        Case {
            u: self.values.input::<T>("u", &[batch, pixels, 32]),
            hyper: self.values.weight::<T>("hyper", &[batch, classes, 32], 0.3),
            d_logits: self.values.weight::<T>("d_logits", &[batch, pixels, classes], 1.0),
        }
    }
}

fn reference(inputs: &[Tensor]) -> Tensor {
    inputs[0].matmul(&inputs[1].transpose(1, 2))
}

fn run<T: Element>(context: &mut Context, spec: &MaskProductSpec, case: &Case, start: Option<f32>) -> Vec<Vec<f32>> {
    let u = case.u.elements::<T>();
    let mut d_u = start.map_or(unset::<T>(u.len()), |value| vec![T::from_f32(value); u.len()]);
    let mut d_hyper = start.map_or(unset::<f32>(case.hyper.f32().len()), |value| vec![value; case.hyper.f32().len()]);
    let operands = MaskProductBackwardOperands {
        u: &u,
        hyper: case.hyper.f32(),
        d_logits: case.d_logits.f32(),
        d_u: Gradient { values: &mut d_u, accumulate: start.is_some() },
        d_hyper: Gradient { values: &mut d_hyper, accumulate: start.is_some() },
    };
    mask_product_backward(context, spec, operands);
    vec![widen(&d_u), d_hyper]
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let case = problem.case::<T>();
    let function = Differentiable {
        inputs: &[("u", &case.u), ("hyper", &case.hyper)],
        cotangent: &case.d_logits,
        forward: reference,
    };
    let floor =
        |input: &str| if input == "u" { Floor::of(T::DTYPE) } else { Floor::of_sum(T::DTYPE, problem.spec.pixels) };
    function.judge::<T>("mask_product", floor, |context| run::<T>(context, &problem.spec, &case, None))
}

#[test]
fn maps_of_any_size() {
    for (name, cases, pixels) in [("small", 32, 60), ("large", 6, 9000)] {
        random_problems(&format!("mask_product backward {name}"), cases, problem(pixels), |problem| {
            check::<f32>(problem)?;
            check::<bf16>(problem)
        });
    }
}

#[test]
fn differences_agree_and_gradients_are_added() {
    random_problems("mask_product backward differences", 6, problem(4), |problem| {
        let case = problem.case::<f32>();
        let function = Differentiable {
            inputs: &[("u", &case.u), ("hyper", &case.hyper)],
            cotangent: &case.d_logits,
            forward: reference,
        };
        function.judge_differences("mask_product", |context| run::<f32>(context, &problem.spec, &case, None))?;
        let context = &mut Context::new(2, Isa::best());
        let fresh = run::<f32>(context, &problem.spec, &case, None);
        let sums = run::<f32>(context, &problem.spec, &case, Some(0.75));
        for (fresh, sums) in fresh.iter().zip(&sums) {
            added("mask_product", &vec![0.75; fresh.len()], fresh, sums)?;
        }
        Ok(())
    });
}

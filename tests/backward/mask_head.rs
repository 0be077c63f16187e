//! The mask product, upscaled image tokens times the hypernetwork's vectors, and the whole head, fused.

use proptest::prelude::*;
use segface_kernels::gemm::PackedMatrix;
use segface_kernels::mask_head::backward::{
    MaskHeadBackwardOperands, MaskHeadParameters, MaskProductBackwardOperands, mask_head_backward,
    mask_product_backward,
};
use segface_kernels::mask_head::{MaskHeadOutput, MaskHeadSpec, MaskProductSpec};
use segface_kernels::{Context, Element, Gradient, Isa, bf16};
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, unit_values, values, widen},
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

/// A whole head: image tokens and filters, and its parameters.
#[derive(Debug, Clone)]
struct Head {
    spec: MaskHeadSpec,
    values: Values,
}

fn head(side: usize) -> impl Strategy<Value = Head> {
    (1..=2usize, [1..=side, 1..=side], 1..=24usize, values()).prop_map(|(batch, input, classes, values)| Head {
        spec: MaskHeadSpec { batch, input, classes, output: MaskHeadOutput::Logits },
        values,
    })
}

/// Names of a head's inputs.
const INPUTS: [&str; 8] = ["x", "weight1", "bias1", "norm_weight", "norm_bias", "weight2", "bias2", "hyper"];

impl Head {
    /// The inputs in the order of [`INPUTS`], and the logits' gradient.
    fn operands<T: Element>(&self) -> (Vec<Operand>, Operand) {
        let MaskHeadSpec { batch, input: [height, width], classes, .. } = self.spec;
        let values = &self.values;
        let inputs = vec![
            values.input::<T>("x", &[batch, height, width, 256]),
            values.weight::<T>("weight1", &[256, 256], 1.0 / 16.0),
            values.weight::<T>("bias1", &[64], 0.3),
            values.factor::<T>("norm_weight", &[64]),
            values.weight::<T>("norm_bias", &[64], 0.3),
            values.weight::<T>("weight2", &[128, 64], 1.0 / 8.0),
            values.weight::<T>("bias2", &[32], 0.3),
            values.weight::<T>("hyper", &[batch, classes, 32], 0.3),
        ];
        (inputs, values.weight::<T>("d_logits", &[batch, 4 * height, 4 * width, classes], 1.0))
    }

    /// Both transposed convolutions as products per pixel, whose sub-pixels are then put in their places.
    fn reference(&self) -> impl Fn(&[Tensor]) -> Tensor + use<> {
        let [batch, height, width] = [self.spec.batch, self.spec.input[0], self.spec.input[1]].map(|n| n as i64);
        move |inputs| {
            let [x, weight1, bias1, gamma, beta, weight2, bias2, hyper] = std::array::from_fn(|i| &inputs[i]);
            let cells = x.matmul(&weight1.tr()).view([batch, height, width, 2, 2, 64]) + bias1;
            let middle = segface_reference::layer_norm::layer_norm(&cells, gamma, beta, 1e-6).gelu("none");
            let pixels = middle.matmul(&weight2.tr()).view(&[batch, height, width, 2, 2, 2, 2, 32][..]) + bias2;
            let u = pixels.gelu("none").permute([0, 1, 3, 5, 2, 4, 6, 7]).reshape([batch, -1, 32]);
            u.matmul(&hyper.transpose(1, 2))
        }
    }

    fn run<T: Element>(&self, context: &mut Context, start: Option<f32>) -> Vec<Vec<f32>> {
        let (inputs, d_logits) = self.operands::<T>();
        let isa = context.isa();
        let x = inputs[0].elements::<T>();
        let [weight1, weight2] = [(1, 256, 256), (5, 128, 64)].map(|(i, n, k): (usize, usize, usize)| {
            let mut turned = PackedMatrix::empty();
            turned.repack::<T>(isa, k, n, inputs[i].f32(), true);
            (PackedMatrix::pack::<T>(isa, n, k, inputs[i].f32()), turned)
        });
        let mut d_x = start.map_or(unset::<T>(x.len()), |value| vec![T::from_f32(value); x.len()]);
        let mut d_hyper = start.map_or(unset::<f32>(inputs[7].f32().len()), |value| vec![value; inputs[7].f32().len()]);
        let mut sums: [Vec<f32>; 6] = std::array::from_fn(|i| vec![start.unwrap_or(0.0); inputs[i + 1].f32().len()]);
        let [d_weight1, d_bias1, norm_weight, norm_bias, d_weight2, d_bias2] = sums.each_mut().map(Vec::as_mut_slice);
        let operands = MaskHeadBackwardOperands {
            x: &x,
            weight1: &weight1.0,
            bias1: inputs[2].f32(),
            norm: (inputs[3].f32(), inputs[4].f32()),
            weight2: &weight2.0,
            bias2: inputs[6].f32(),
            transposed: [&weight1.1, &weight2.1],
            hyper: inputs[7].f32(),
            d_logits: d_logits.f32(),
            d_x: Gradient { values: &mut d_x, accumulate: start.is_some() },
            d_hyper: Gradient { values: &mut d_hyper, accumulate: start.is_some() },
            d_parameters: MaskHeadParameters {
                weight1: d_weight1,
                bias1: d_bias1,
                norm_weight,
                norm_bias,
                weight2: d_weight2,
                bias2: d_bias2,
            },
        };
        mask_head_backward(context, &self.spec, operands);
        let mut gradients = vec![widen(&d_x)];
        gradients.extend(sums);
        gradients.push(d_hyper);
        gradients
    }

    fn check<T: Element>(&self) -> Result<(), Failure> {
        let (inputs, d_logits) = self.operands::<T>();
        let named: Vec<_> = INPUTS.into_iter().zip(&inputs).collect();
        let function = Differentiable { inputs: &named, cotangent: &d_logits, forward: self.reference() };
        let pixels = self.spec.batch * self.spec.input[0] * self.spec.input[1];
        let terms = |input: &str| match input {
            "x" => 256,
            "weight2" | "bias1" | "norm_weight" | "norm_bias" => 4 * pixels,
            "weight1" => pixels,
            _ => 16 * pixels,
        };
        let floor = |input: &str| Floor::of_sum(T::DTYPE, terms(input));
        function.judge::<T>("mask_head", floor, |context| self.run::<T>(context, None))
    }
}

#[test]
fn whole_heads() {
    for (name, cases, side) in [("small", 12, 5), ("large", 3, 20)] {
        random_problems(&format!("mask_head backward {name}"), cases, head(side), |head| {
            head.check::<f32>()?;
            head.check::<bf16>()
        });
    }
}

#[test]
fn gradients_of_a_whole_head_are_added() {
    random_problems("mask_head backward added", 3, head(10), |head| {
        let context = &mut Context::new(2, Isa::best());
        let fresh = head.run::<f32>(context, None);
        let sums = head.run::<f32>(context, Some(0.75));
        for (fresh, sums) in fresh.iter().zip(&sums) {
            added("mask_head", &vec![0.75; fresh.len()], fresh, sums)?;
        }
        Ok(())
    });
}

#[test]
fn differences_of_a_head_agree() {
    // One token of one class; differences of the two matrices would take their time.
    random_problems("mask_head backward differences", 1, unit_values(), |values| {
        let output = MaskHeadOutput::Logits;
        let spec = MaskHeadSpec { batch: 1, input: [1, 1], classes: 1, output };
        let head = Head { spec, values: values.clone() };
        let (inputs, d_logits) = head.operands::<f32>();
        let whole = head.reference();
        let moved = [0, 2, 3, 4, 6, 7];
        let named: Vec<_> = moved.into_iter().map(|i| (INPUTS[i], &inputs[i])).collect();
        let forward = |some: &[Tensor]| {
            let mut all: Vec<Tensor> = inputs.iter().map(|x| x.tensor(some[0].kind())).collect();
            moved.into_iter().zip(some).for_each(|(i, x)| all[i] = x.shallow_clone());
            whole(&all)
        };
        let function = Differentiable { inputs: &named, cotangent: &d_logits, forward };
        function.judge_differences("mask_head", |context| {
            let mut all = head.run::<f32>(context, None);
            moved.into_iter().map(|i| std::mem::take(&mut all[i])).collect()
        })
    });
}

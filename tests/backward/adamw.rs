//! AdamW against libtorch's, and the gradient's norm.

use proptest::prelude::*;
use segface_kernels::adamw::{AdamWOperands, AdamWSpec, clip_factor, cpu};
use segface_kernels::{Context, DType, Isa};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Operand, Values, values},
    problems::{judge_kernel, random_problems},
};
use tch::nn::{AdamW, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

#[derive(Debug, Clone)]
struct Problem {
    parameters: usize,
    steps: u64,
    learning_rate: f64,
    weight_decay: f64,
    values: Values,
}

fn problem(parameters: usize) -> impl Strategy<Value = Problem> {
    let learning_rate = prop::sample::select(vec![1e-4, 1e-2]);
    let weight_decay = prop::sample::select(vec![0.0, 1e-5, 0.1]);
    (1..=parameters, 1..=20u64, learning_rate, weight_decay, values()).prop_map(
        |(parameters, steps, learning_rate, weight_decay, values)| Problem {
            parameters,
            steps,
            learning_rate,
            weight_decay,
            values,
        },
    )
}

impl Problem {
    fn start(&self) -> Operand {
        self.values.weight::<f32>("parameters", &[self.parameters], 0.1)
    }

    fn gradient(&self, step: u64) -> Operand {
        self.values.input::<f32>(&format!("gradient {step}"), &[self.parameters])
    }

    /// libtorch's parameters after all steps.
    fn reference(&self, kind: Kind) -> Tensor {
        let store = VarStore::new(Device::Cpu);
        let parameters = store.root().add("p", self.start().tensor(kind), true);
        let config = AdamW { beta1: 0.9, beta2: 0.999, wd: self.weight_decay, eps: 1e-8, amsgrad: false };
        let mut optimizer = config.build(&store, self.learning_rate).expect("an optimizer");
        for step in 1..=self.steps {
            // The gradient of Σ p·g is g.
            optimizer.backward_step(&(&parameters * self.gradient(step).tensor(kind)).sum(kind));
        }
        parameters.detach()
    }

    /// Ours.
    fn run(&self, context: &mut Context) -> Vec<f32> {
        let mut parameters = self.start().f32().to_vec();
        let (mut first, mut second) = (vec![0.0; parameters.len()], vec![0.0; parameters.len()]);
        for step in 1..=self.steps {
            let spec = AdamWSpec {
                learning_rate: self.learning_rate,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: self.weight_decay,
                step,
                gradient_scale: 1.0,
            };
            let gradient = self.gradient(step);
            let operands = AdamWOperands {
                gradients: gradient.f32(),
                parameters: &mut parameters,
                first_moments: &mut first,
                second_moments: &mut second,
            };
            cpu::adamw(context, &spec, operands);
        }
        parameters
    }
}

fn check(problem: &Problem) -> Result<(), Failure> {
    judge_kernel::<f32>(
        "adamw",
        Floor::of(DType::F32),
        |kind| problem.reference(kind),
        |context| problem.run(context),
    )?;
    // Beside libtorch's own f32: the same parameter but for its rounding at each step, and a few roundings of the steps.
    let theirs = Vec::<f32>::try_from(problem.reference(Kind::Float)).expect("f32 parameters");
    for isa in Isa::available() {
        let ours = problem.run(&mut Context::new(1, isa));
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let moved = (problem.learning_rate * problem.steps as f64) as f32;
            let close = f32::EPSILON * (problem.steps as f32 * theirs.abs() + 4.0 * moved);
            if (ours - theirs).abs() > close {
                return Err(Failure::new(format!("{isa:?}, parameter {i}: {ours:e}, libtorch's {theirs:e}")));
            }
        }
    }
    Ok(())
}

#[test]
fn steps_are_libtorchs() {
    random_problems("adamw small", 24, problem(100), check);
    random_problems("adamw large", 3, problem(40_000), check);
}

#[test]
fn a_scaled_gradient_is_one_that_was_scaled_before() {
    let gradients: Vec<f32> = (0..100).map(|i| (i as f32 - 50.0) * 0.01).collect();
    let run = |gradients: &[f32], gradient_scale: f32| {
        let mut buffers = [vec![0.5f32; 100], vec![0.1; 100], vec![0.2; 100]];
        let [parameters, first_moments, second_moments] = buffers.each_mut().map(Vec::as_mut_slice);
        let spec = AdamWSpec {
            learning_rate: 1e-3,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 1e-2,
            step: 3,
            gradient_scale,
        };
        let operands = AdamWOperands { gradients, parameters, first_moments, second_moments };
        cpu::adamw(&mut Context::new(2, Isa::best()), &spec, operands);
        buffers
    };
    let scaled: Vec<f32> = gradients.iter().map(|g| g * 0.3).collect();
    assert_eq!(run(&gradients, 0.3), run(&scaled, 1.0));
}

#[test]
fn norms_are_exact_to_f32_and_tell_what_is_not_finite() {
    random_problems("gradient norm", 12, (1..=100_000usize, values()), |(len, values)| {
        let gradients = values.input::<f32>("gradients", &[*len]);
        let truth = gradients.f32().iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        for isa in Isa::available() {
            let alone = cpu::norm(&mut Context::new(1, isa), gradients.f32());
            let shared = cpu::norm(&mut Context::new(3, isa), gradients.f32());
            if alone.to_bits() != shared.to_bits() || (alone / truth - 1.0).abs() > 1e-6 {
                return Err(Failure::new(format!("{isa:?}: {alone:e}, with three threads {shared:e}, not {truth:e}")));
            }
        }
        Ok(())
    });
    let context = &mut Context::new(2, Isa::best());
    let mut gradients = vec![1e25f32; 40_000];
    assert!((cpu::norm(context, &gradients) / 2e27 - 1.0).abs() < 1e-6);
    gradients[30_000] = f32::NAN;
    assert!(cpu::norm(context, &gradients).is_nan());
    gradients[30_000] = f32::INFINITY;
    assert_eq!(cpu::norm(context, &gradients), f64::INFINITY);
    assert_eq!(cpu::norm(context, &[]), 0.0);
}

#[test]
fn clipping_shortens_and_never_lengthens() {
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert_eq!(clip_factor(4.0, 1.0), (1.0 / (4.0 + 1e-6)) as f32);
    assert!(clip_factor(f64::NAN, 1.0).is_nan());
    assert_eq!(clip_factor(f64::INFINITY, 1.0), 0.0);
}

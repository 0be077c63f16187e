//! The loss and its gradient: any number of classes, confident and undecided pixels, classes that nobody has.

use proptest::prelude::*;
use segface_kernels::loss::{LossOperands, LossSpec, cpu};
use segface_kernels::{Context, DType, Isa};
use segface_tests::{
    gradients::{Differentiable, unset},
    judge::{Failure, Floor, judge},
    operand::{Operand, Values, values},
    problems::random_problems,
};
use tch::{Kind, Tensor};

#[derive(Debug, Clone)]
struct Problem {
    spec: LossSpec,
    /// Classes that labels take.
    present: usize,
    scale: f32,
    values: Values,
}

fn problem(pixels: usize) -> impl Strategy<Value = Problem> {
    let scale = prop::sample::select(vec![1.0f32, 0.25]);
    let classes = prop_oneof![2 => Just(19usize), 1 => Just(11), 2 => 2..=40usize];
    (1..=3usize, 1..=pixels, classes, 1..=40usize, scale, values()).prop_map(
        |(batch, pixels, classes, present, scale, values)| Problem {
            spec: LossSpec { batch, pixels, classes },
            present: present.min(classes),
            scale,
            values,
        },
    )
}

impl Problem {
    fn logits(&self) -> Operand {
        let LossSpec { batch, pixels, classes } = self.spec;
        self.values.input::<f32>("logits", &[batch * pixels, classes])
    }

    fn labels(&self) -> Vec<u8> {
        let LossSpec { batch, pixels, .. } = self.spec;
        let uniform = self.values.weight::<f32>("labels", &[batch * pixels], 1.0);
        let share = |v: &f32| (v / 3f32.sqrt() + 1.0) / 2.0;
        uniform.f32().iter().map(|v| ((share(v) * self.present as f32) as usize).min(self.present - 1) as u8).collect()
    }
}

/// Half cross-entropy, half dice, as the recipe has them.
fn reference(logits: &Tensor, labels: &Tensor) -> Tensor {
    let classes = logits.size()[1];
    // Not tch's `cross_entropy_for_logits`, which is f32 whatever it is given.
    let cross_entropy = logits.log_softmax(1, None).nll_loss(labels);
    let p = logits.softmax(1, None);
    let t = labels.one_hot(classes).to_kind(logits.kind());
    let sum = |x: Tensor| x.sum_dim_intlist(0, false, None);
    let over = sum(&p * &t) * 2.0 + 1e-5;
    let under = sum(p.square()) + sum(t.square()) + 1e-5;
    let dice = (over / under * -1.0 + 1.0).mean(None);
    cross_entropy * 0.5 + dice * 0.5
}

fn check(problem: &Problem) -> Result<(), Failure> {
    let (logits, labels) = (problem.logits(), problem.labels());
    let ids = Tensor::from_slice(&labels).to_kind(Kind::Int64);
    let scale = Operand::from_values::<f32>(&[1], [problem.scale]);
    let function = Differentiable {
        inputs: &[("logits", &logits)],
        cotangent: &scale,
        forward: |inputs: &[Tensor]| reference(&inputs[0], &ids),
    };
    let run = |context: &mut Context| {
        let mut d_logits = unset::<f32>(logits.f32().len());
        let operands =
            LossOperands { logits: logits.f32(), labels: &labels, scale: problem.scale, d_logits: Some(&mut d_logits) };
        let loss = cpu::loss(context, &problem.spec, operands).expect("labels are classes");
        (loss, d_logits)
    };
    function.judge::<f32>("loss", |_| Floor::of(DType::F32), |context| vec![run(context).1])?;
    if logits.f32().len() < 60 {
        function.judge_differences("loss", |context| vec![run(context).1])?;
    }

    let of_kind = |kind| reference(&logits.tensor(kind), &ids).view([1]);
    for isa in Isa::available() {
        let (alone, _) = run(&mut Context::new(1, isa));
        let (shared, _) = run(&mut Context::new(3, isa));
        if alone != shared {
            return Err(Failure::new(format!("{alone:?} with one thread, {shared:?} with three")));
        }
        let (truth, peer) = (of_kind(Kind::Double), of_kind(Kind::Float));
        judge("loss", &[alone.total as f32], &truth, &peer, Floor::of(DType::F32))?;
        let operands = LossOperands { logits: logits.f32(), labels: &labels, scale: problem.scale, d_logits: None };
        if cpu::loss(&mut Context::new(2, isa), &problem.spec, operands).expect("as above") != alone {
            return Err(Failure::new("the loss is another without its gradient"));
        }
    }
    Ok(())
}

#[test]
fn losses_of_any_size() {
    for (name, cases, pixels) in [("small", 48, 50), ("large", 6, 5000)] {
        random_problems(&format!("loss {name}"), cases, problem(pixels), check);
    }
}

#[test]
fn a_label_that_is_no_class_is_named_and_nothing_is_written() {
    let spec = LossSpec { batch: 2, pixels: 3, classes: 19 };
    let mut labels = [0, 18, 3, 4, 5, 6];
    let logits = vec![0.0; 6 * 19];
    labels[4] = 255;
    let mut d_logits = vec![7.0; logits.len()];
    let operands = LossOperands { logits: &logits, labels: &labels, scale: 1.0, d_logits: Some(&mut d_logits) };
    let error = cpu::loss(&mut Context::new(1, Isa::best()), &spec, operands).expect_err("255 is no class");
    let message = error.to_string();
    assert!(message.contains("label 255 at pixel 1 of image 1") && message.contains("0 to 18"), "{message}");
    assert!(d_logits.iter().all(|d| *d == 7.0));
}

//! The mask head against libtorch: fused and in parts, maps of any size, any number of classes.

use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Context, Element, Isa, bf16,
    gemm::PackedMatrix,
    mask_head::{self, ArgMaxSpec, MaskHeadOperands, MaskHeadOutput, MaskHeadSpec, MaskProductSpec},
};
use segface_reference::{mask_head::MaskHead, mlp::Linear};
use segface_tests::{
    cuda::{floor, judge_single, run_single},
    in_every_precision,
    judge::{Failure, Floor},
    modes::assert_no_findings,
    operand::{Operand, Values, to_nhwc, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Device, Kind, Tensor};

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    batch: usize,
    input: [usize; 2],
    classes: usize,
    values: Values,
}

fn problem(side: usize) -> impl Strategy<Value = Problem> {
    let classes = prop_oneof![2 => Just(19usize), 2 => Just(11usize), 1 => 1..=40usize];
    (1..=3usize, [1..=side, 1..=side], classes, values()).prop_map(|(batch, input, classes, values)| Problem {
        batch,
        input,
        classes,
        values,
    })
}

struct Numbers {
    x: Operand,
    /// [i, j, out, in]
    weight1: Operand,
    bias1: Operand,
    gamma: Operand,
    beta: Operand,
    weight2: Operand,
    bias2: Operand,
    hyper: Operand,
}

impl Numbers {
    fn new<T: Element>(problem: &Problem) -> Self {
        let Problem { batch, input: [height, width], classes, ref values } = *problem;
        Self {
            x: values.input::<T>("x", &[batch, height, width, 256]),
            weight1: values.weight::<T>("weight1", &[2, 2, 64, 256], 1.0 / 16.0),
            bias1: values.weight::<T>("bias1", &[64], 1e-3),
            gamma: values.factor::<T>("gamma", &[64]),
            beta: values.weight::<T>("beta", &[64], 0.3),
            weight2: values.weight::<T>("weight2", &[2, 2, 32, 64], 1.0 / 8.0),
            bias2: values.weight::<T>("bias2", &[32], 0.3),
            hyper: values.weight::<T>("hyper", &[batch, classes, 32], 1.0),
        }
    }

    fn reference(&self, kind: Kind) -> Tensor {
        // libtorch wants [in, out, i, j].
        let up = |weight: &Operand| weight.tensor(kind).permute([3, 2, 0, 1]).contiguous();
        let head = MaskHead {
            up1_weight: up(&self.weight1),
            up1_bias: self.bias1.tensor(kind),
            norm_weight: self.gamma.tensor(kind),
            norm_bias: self.beta.tensor(kind),
            up2_weight: up(&self.weight2),
            up2_bias: self.bias2.tensor(kind),
            hypernetwork: vec![Linear {
                weight: Tensor::eye(32, (kind, Device::Cpu)),
                bias: Tensor::zeros([32], (kind, Device::Cpu)),
            }],
        };
        to_nhwc(&segface_reference::mask_head::mask_head(&self.x.nchw(kind), &self.hyper.tensor(kind), &head))
    }

    fn run<T: Element>(&self, context: &mut Context, problem: &Problem, output: MaskHeadOutput) -> (Vec<f32>, Vec<u8>) {
        let Problem { batch, input, classes, .. } = *problem;
        let x = self.x.elements::<T>();
        let weight1 = PackedMatrix::pack::<T>(context.isa(), 256, 256, self.weight1.f32());
        let weight2 = PackedMatrix::pack::<T>(context.isa(), 128, 64, self.weight2.f32());
        let pixels = batch * 16 * input[0] * input[1];
        let (mut logits, mut labels) = (vec![f32::NAN; pixels * classes], vec![255; pixels]);
        let operands = MaskHeadOperands {
            x: &x,
            weight1: &weight1,
            bias1: self.bias1.f32(),
            norm: (self.gamma.f32(), self.beta.f32()),
            weight2: &weight2,
            bias2: self.bias2.f32(),
            hyper: self.hyper.f32(),
            logits: (output == MaskHeadOutput::Logits).then_some(&mut logits),
            labels: (output == MaskHeadOutput::Labels).then_some(&mut labels),
        };
        mask_head::cpu::mask_head(context, &MaskHeadSpec { batch, input, classes, output }, operands);
        (logits, labels)
    }
}

/// Labels of logits [.., T] by libtorch.
fn arg_max(logits: &[f32], classes: usize) -> Vec<u8> {
    let labels = Tensor::from_slice(logits).view([-1, classes as i64]).argmax(1, false).to_kind(Kind::Uint8);
    Vec::try_from(labels).expect("class ids")
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let numbers = Numbers::new::<T>(problem);
    let reference = |kind: Kind| numbers.reference(kind);
    judge_kernel::<T>("mask_head", Floor::of(T::DTYPE), reference, |context| {
        numbers.run::<T>(context, problem, MaskHeadOutput::Logits).0
    })?;
    for isa in Isa::available() {
        let mut context = Context::new(2, isa);
        let (logits, _) = numbers.run::<T>(&mut context, problem, MaskHeadOutput::Logits);
        let (_, labels) = numbers.run::<T>(&mut context, problem, MaskHeadOutput::Labels);
        let mut alone = vec![255; labels.len()];
        let spec = ArgMaxSpec { rows: labels.len(), classes: problem.classes };
        mask_head::cpu::arg_max(&mut context, &spec, &logits, &mut alone);
        let expected = arg_max(&logits, problem.classes);
        for (who, found) in [("the fused head", labels), ("arg_max", alone)] {
            if let Some(pixel) = found.iter().zip(&expected).position(|(a, b)| a != b) {
                let (found, expected) = (found[pixel], expected[pixel]);
                let place = format!("{who} ({:?}, {})", T::DTYPE, isa.name());
                return Err(Failure::new(format!("pixel {pixel} is {found}, libtorch says {expected}")).at(place));
            }
        }
    }
    Ok(())
}

#[test]
fn fused_heads_on_odd_maps() {
    random_problems("mask_head", 12, problem(13), |problem| {
        check::<f32>(problem)?;
        check::<bf16>(problem)
    });
}

fn check_on_device<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    // The class counts that the kernels are made for.
    let problem = &Problem { classes: if problem.classes < 15 { 11 } else { 19 }, ..problem.clone() };
    let Problem { batch, input, classes, .. } = *problem;
    let n = Numbers::new::<T>(problem);
    let op = |output| Op::MaskHead(MaskHeadSpec { batch, input, classes, output });
    let operands = [
        (Slot::X, &n.x),
        (Slot::Weight, &n.weight1),
        (Slot::Bias, &n.bias1),
        (Slot::NormWeight, &n.gamma),
        (Slot::NormBias, &n.beta),
        (Slot::Weight1, &n.weight2),
        (Slot::Bias1, &n.bias2),
        (Slot::Hyper, &n.hyper),
    ];
    let reference = |kind: Kind| vec![n.reference(kind)];
    judge_single(precision, floor(precision), op(MaskHeadOutput::Logits), &operands, reference)?;
    let logits = run_single(precision, op(MaskHeadOutput::Logits), &operands).remove(0);
    let labels = run_single(precision, op(MaskHeadOutput::Labels), &operands).remove(0);
    let expected = arg_max(&logits, classes);
    match labels.iter().zip(&expected).position(|(found, expected)| *found != f32::from(*expected)) {
        None => Ok(()),
        Some(pixel) => {
            Err(Failure::new(format!("pixel {pixel} is {}, libtorch says {}", labels[pixel], expected[pixel])))
        }
    }
}

#[test]
fn heads_on_a_device() {
    random_problems("mask_head cuda", 5, problem(13), |problem| in_every_precision!(check_on_device(problem)));
}

#[test]
fn heads_have_no_findings() {
    assert_no_findings("heads_on_a_device");
}

fn check_product<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, classes, ref values } = *problem;
    let pixels = 16 * input[0] * input[1];
    let x = values.input::<T>("x", &[batch, pixels, 32]);
    let hyper = values.weight::<T>("hyper", &[batch, classes, 32], 0.2);
    let elements = x.elements::<T>();
    judge_kernel::<T>(
        "mask_product",
        Floor::of(T::DTYPE),
        |kind| x.tensor(kind).matmul(&hyper.tensor(kind).transpose(1, 2)),
        |context| {
            let mut out = vec![f32::NAN; batch * pixels * classes];
            let spec = MaskProductSpec { batch, pixels, classes };
            mask_head::cpu::mask_product(context, &spec, &elements, hyper.f32(), &mut out);
            widen(&out)
        },
    )
}

#[test]
fn the_product_alone() {
    random_problems("mask_product", 16, problem(13), |problem| {
        check_product::<f32>(problem)?;
        check_product::<bf16>(problem)
    });
}

//! `mlp_fusion` against libtorch: maps of any size ratio, any number of channels, batches.

use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Element, bf16,
    gemm::PackedMatrix,
    mlp_fusion::{self, MlpFusionOperands, MlpFusionSpec},
};
use segface_reference::{gemm::linear, mlp::Linear, resample::bilinear};
use segface_tests::{
    cuda::{floor, judge_rung, rungs},
    in_every_precision,
    judge::{Failure, Floor},
    modes::assert_no_findings,
    operand::{Operand, Values, to_nchw, to_nhwc, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    spec: MlpFusionSpec,
    values: Values,
}

/// Taps as the backbones make them: each half the one before, rounded up or down, so that ratios are not exactly 2, 4, 8.
fn pyramids(side: usize, channels: usize) -> impl Strategy<Value = [[usize; 3]; 4]> {
    let halving = any::<[[bool; 2]; 3]>();
    ([1..=side, 1..=side], halving, [1..=channels, 1..=channels, 1..=channels, 1..=channels]).prop_map(
        |([mut height, mut width], halving, channels)| {
            let half = |side: usize, up: bool| if up { side.div_ceil(2) } else { (side / 2).max(1) };
            std::array::from_fn(|i| {
                if i > 0 {
                    height = half(height, halving[i - 1][0]);
                    width = half(width, halving[i - 1][1]);
                }
                [height, width, channels[i]]
            })
        },
    )
}

fn problem(side: usize, channels: usize) -> impl Strategy<Value = Problem> {
    let width = prop::sample::select(vec![256, 256, 40]);
    (1..=2usize, pyramids(side, channels), width, values())
        .prop_map(|(batch, taps, width, values)| Problem { spec: MlpFusionSpec { batch, taps, width }, values })
}

struct Numbers {
    taps: [Operand; 4],
    weights: [Operand; 4],
    bias: Operand,
}

impl Numbers {
    fn new<T: Element>(Problem { spec, values }: &Problem) -> Self {
        Self {
            taps: std::array::from_fn(|i| {
                let [height, width, channels] = spec.taps[i];
                values.input::<T>(&format!("tap{i}"), &[spec.batch, height, width, channels])
            }),
            weights: std::array::from_fn(|i| {
                let channels = spec.taps[i][2];
                values.weight::<T>(&format!("weight{i}"), &[spec.width, channels], 1.0 / (channels as f64).sqrt())
            }),
            bias: values.weight::<T>("bias", &[spec.width], 1.0),
        }
    }

    fn reference(&self, spec: &MlpFusionSpec, kind: Kind) -> Tensor {
        let mut sum = self.bias.tensor(kind);
        for (tap, weight) in self.taps.iter().zip(&self.weights) {
            let map = to_nchw(&linear(&tap.tensor(kind), &weight.tensor(kind), None));
            let upsampled = to_nhwc(&bilinear(&map, spec.taps[0][0] as i64, spec.taps[0][1] as i64));
            sum = &sum + upsampled;
        }
        sum
    }

    fn run<T: Element>(&self, spec: &MlpFusionSpec, context: &mut segface_kernels::Context) -> Vec<f32> {
        let weights = [0, 1, 2, 3]
            .map(|i| PackedMatrix::pack::<T>(context.isa(), spec.width, spec.taps[i][2], self.weights[i].f32()));
        let taps = [0, 1, 2, 3].map(|i| self.taps[i].elements::<T>());
        let nan = T::from_f32(f32::NAN);
        let mut projected = vec![nan; spec.projected_len()];
        let mut out = vec![nan; spec.batch * spec.taps[0][0] * spec.taps[0][1] * spec.width];
        let operands = MlpFusionOperands {
            taps: [0, 1, 2, 3].map(|i| &taps[i][..]),
            weights: [0, 1, 2, 3].map(|i| &weights[i]),
            bias: self.bias.f32(),
            projected: &mut projected,
            out: &mut out,
        };
        mlp_fusion::cpu::mlp_fusion(context, spec, operands);
        widen(&out)
    }
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let spec = &problem.spec;
    let numbers = Numbers::new::<T>(problem);
    let reference = |kind: Kind| numbers.reference(spec, kind);
    judge_kernel::<T>("mlp_fusion", Floor::of(T::DTYPE), reference, |context| numbers.run::<T>(spec, context))
}

fn check_on_device<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let mut problem = problem.clone();
    for tap in &mut problem.spec.taps {
        tap[2] = tap[2].next_multiple_of(8);
    }
    let spec = problem.spec;
    let numbers = Numbers::new::<T>(&problem);
    let taps = [Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().zip(&numbers.taps);
    let weights = [Slot::Weight, Slot::Weight1, Slot::Weight2, Slot::Weight3].into_iter().zip(&numbers.weights);
    let operands: Vec<_> = taps.chain(weights).chain([(Slot::Bias, &numbers.bias)]).collect();
    let reference = |kind: Kind| vec![numbers.reference(&spec, kind)];
    for rung in rungs(precision) {
        judge_rung(rung, precision, floor(precision), Op::MlpFusion(spec), &operands, reference)?;
    }
    Ok(())
}

#[test]
fn maps_on_a_device() {
    random_problems("mlp_fusion cuda", 6, problem(40, 100), |problem| in_every_precision!(check_on_device(problem)));
}

#[test]
fn maps_have_no_findings() {
    assert_no_findings("maps_on_a_device");
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn small_odd_maps() {
    random_problems("mlp_fusion small", 24, problem(20, 40), both);
}

#[test]
fn wide_maps_of_many_channels() {
    random_problems("mlp_fusion wide", 4, problem(150, 300), both);
}

/// The folded form is the published one: project, upsample, concatenate coarsest first, mix.
#[test]
fn folding_changes_nothing() {
    random_problems("mlp_fusion folded", 8, problem(20, 40), |problem| {
        let Problem { spec, values } = problem;
        let width = spec.width;
        let fuse = values.weight::<f32>("fuse", &[width, 4 * width, 1, 1], 0.5 / (width as f64).sqrt());
        let mut numbers = Numbers::new::<f32>(problem);
        let biases = [0, 1, 2, 3].map(|i| values.weight::<f32>(&format!("bias{i}"), &[width], 1.0));
        let projections = |kind: Kind| {
            [0, 1, 2, 3].map(|i| Linear { weight: numbers.weights[i].tensor(kind), bias: biases[i].tensor(kind) })
        };
        let published = |kind: Kind| {
            let taps = [0, 1, 2, 3].map(|i| numbers.taps[i].nchw(kind));
            to_nhwc(&segface_reference::mlp_fusion::mlp_fusion(&taps, &projections(kind), &fuse.tensor(kind)))
        };
        let [truth, peer] = [Kind::Double, Kind::Float].map(published);

        let folded: [(Tensor, Tensor); 4] = {
            let parts = fuse.tensor(Kind::Double).view([width as i64, 4 * width as i64]).chunk(4, 1);
            let projections = projections(Kind::Double);
            std::array::from_fn(|i| {
                let mix = &parts[3 - i];
                (mix.matmul(&projections[i].weight), mix.matmul(&projections[i].bias))
            })
        };
        let operand = |x: &Tensor, shape: &[usize]| {
            Operand::from_values::<f32>(
                shape,
                Vec::<f32>::try_from(x.to_kind(Kind::Float).flatten(0, -1)).expect("numbers"),
            )
        };
        numbers.bias = operand(&folded.iter().map(|(_, bias)| bias.shallow_clone()).sum::<Tensor>(), &[width]);
        numbers.weights = std::array::from_fn(|i| operand(&folded[i].0, &[width, spec.taps[i][2]]));
        judge_kernel::<f32>(
            "folded mlp_fusion",
            Floor::of(segface_kernels::DType::F32),
            |kind| if kind == Kind::Double { truth.shallow_clone() } else { peer.shallow_clone() },
            |context| numbers.run::<f32>(spec, context),
        )
    });
}

//! Gates of squeeze-excite.

use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{Act, DType, squeeze_excite::SqueezeExciteSpec};
use segface_reference::{conv::conv, elementwise::activate};
use segface_tests::{
    cuda::judge_single,
    judge::{Failure, Floor},
    operand::{Operand, Values, values},
    problems::random_problems,
};
use tch::{Kind, Tensor};

#[derive(Debug, Clone)]
struct Problem {
    spec: SqueezeExciteSpec,
    values: Values,
}

/// At most 8·`channels` and 4·`squeeze`.
fn problem(channels: usize, squeeze: usize) -> impl Strategy<Value = Problem> {
    let acts = prop::sample::select(vec![(Act::Relu, Act::HardSigmoid), (Act::Silu, Act::Sigmoid)]);
    (1..=3usize, 1..=500usize, 1..=channels, 1..=squeeze, acts, values()).prop_map(
        |(batch, pixels, channels, squeeze, (act, gate_act), values)| {
            let (channels, squeeze) = (8 * channels, 4 * squeeze);
            Problem { spec: SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act }, values }
        },
    )
}

fn check(problem: &Problem) -> Result<(), Failure> {
    let Problem { spec, ref values } = *problem;
    let SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act } = spec;
    let mean = values.input::<f32>("mean", &[batch, channels]);
    let sums = Operand::from_values::<f32>(&[batch, channels], mean.f32().iter().map(|mean| mean * pixels as f32));
    let weights = [
        values.weight::<f32>("squeeze weight", &[squeeze, channels, 1, 1], 1.0 / (channels as f64).sqrt()),
        values.weight::<f32>("squeeze bias", &[squeeze], 0.5),
        values.weight::<f32>("excite weight", &[channels, squeeze, 1, 1], 1.0 / (squeeze as f64).sqrt()),
        values.weight::<f32>("excite bias", &[channels], 0.5),
    ];
    let operands = [
        (Slot::Sums, &sums),
        (Slot::Weight, &weights[0]),
        (Slot::Bias, &weights[1]),
        (Slot::Weight1, &weights[2]),
        (Slot::Bias1, &weights[3]),
    ];
    // f32 in every precision.
    let floor = Floor::of(DType::F32);
    judge_single(Precision::F32, floor, Op::SqueezeExcite(spec), &operands, |kind: Kind| {
        let [fc1_weight, fc1_bias, fc2_weight, fc2_bias] = weights.each_ref().map(|weight| weight.tensor(kind));
        let layer = |x: &Tensor, weight, bias| conv(x, weight, Some(bias), 1, 0);
        let sums = sums.tensor(kind).view([batch as i64, channels as i64, 1, 1]);
        let hidden = activate(act, &layer(&(sums / pixels as f64), &fc1_weight, &fc1_bias));
        vec![activate(gate_act, &layer(&hidden, &fc2_weight, &fc2_bias))]
    })
}

#[test]
pub(crate) fn gates_of_few_channels() {
    random_problems("cuda squeeze_excite small", 8, problem(12, 8), check);
}

#[test]
pub(crate) fn gates_of_the_networks_sizes() {
    random_problems("cuda squeeze_excite large", 3, problem(384, 60), check);
}

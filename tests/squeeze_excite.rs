//! `squeeze_excite` against libtorch: the gate of both networks, from the channel sums of a map.

use proptest::prelude::*;
use segface_kernels::{
    Act,
    squeeze_excite::{self, SqueezeExciteOperands, SqueezeExciteSpec},
};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Values, values},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

#[derive(Debug, Clone)]
struct Problem {
    spec: SqueezeExciteSpec,
    values: Values,
}

fn problem(channels: usize, squeeze: usize) -> impl Strategy<Value = Problem> {
    let acts = prop::sample::select(vec![(Act::Relu, Act::HardSigmoid), (Act::Silu, Act::Sigmoid)]);
    (1..=3usize, 1..=500usize, 1..=channels, 1..=squeeze, acts, values()).prop_map(
        |(batch, pixels, channels, squeeze, (act, gate_act), values)| Problem {
            spec: SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act },
            values,
        },
    )
}

fn check(problem: &Problem) -> Result<(), Failure> {
    let Problem { spec, values } = problem;
    let SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act } = *spec;
    let mean = values.input::<f32>("mean", &[batch, channels, 1, 1]);
    let sums: Vec<f32> = mean.f32().iter().map(|mean| mean * pixels as f32).collect();
    let weights = [
        values.weight::<f32>("squeeze weight", &[squeeze, channels, 1, 1], 1.0 / (channels as f64).sqrt()),
        values.weight::<f32>("squeeze bias", &[squeeze], 0.5),
        values.weight::<f32>("excite weight", &[channels, squeeze, 1, 1], 1.0 / (squeeze as f64).sqrt()),
        values.weight::<f32>("excite bias", &[channels], 0.5),
    ];
    let reference = |kind: Kind| -> Tensor {
        let [fc1_weight, fc1_bias, fc2_weight, fc2_bias] = weights.each_ref().map(|weight| weight.tensor(kind));
        let conv = |x: &Tensor, weight, bias| segface_reference::conv::conv(x, weight, Some(bias), 1, 0);
        let sums = Tensor::from_slice(&sums).view([batch as i64, channels as i64, 1, 1]).to_kind(kind);
        let hidden = conv(&(sums / pixels as f64), &fc1_weight, &fc1_bias);
        let hidden = segface_reference::elementwise::activate(act, &hidden);
        segface_reference::elementwise::activate(gate_act, &conv(&hidden, &fc2_weight, &fc2_bias))
    };
    judge_kernel::<f32>("squeeze_excite", Floor::of(segface_kernels::DType::F32), reference, |context| {
        let mut gate = vec![f32::NAN; batch * channels];
        let [squeeze_weight, squeeze_bias, excite_weight, excite_bias] = weights.each_ref().map(|weight| weight.f32());
        squeeze_excite::cpu::squeeze_excite(
            context,
            spec,
            SqueezeExciteOperands {
                sums: &sums,
                squeeze_weight,
                squeeze_bias,
                excite_weight,
                excite_bias,
                gate: &mut gate,
            },
        );
        gate
    })
}

#[test]
fn gates_of_odd_sizes() {
    random_problems("squeeze_excite small", 64, problem(70, 20), check);
}

#[test]
fn gates_of_the_networks_sizes() {
    random_problems("squeeze_excite large", 8, problem(3072, 128), check);
}

//! Depthwise convolutions: every window, maps smaller than it, channel sums in one block and in many.

use half::{bf16, f16};
use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{DType, Element, depthwise::DepthwiseSpec};
use segface_reference::elementwise::activate;
use segface_tests::{
    cuda::{floor, peer_kind, run_single},
    epilogue::any_act,
    judge::{Failure, Floor, judge},
    operand::{Values, to_nhwc, values},
    problems::random_problems,
};
use tch::{Kind, Tensor};

#[derive(Debug, Clone)]
struct Problem {
    spec: DepthwiseSpec,
    bias: bool,
    values: Values,
}

/// At most 8·`channels`.
fn problem(side: usize, channels: usize) -> impl Strategy<Value = Problem> {
    let sizes = (1..=3usize, [1..=side, 1..=side], 1..=channels);
    let window = (prop::sample::select(vec![3usize, 5, 7]), 1..=2usize);
    (sizes, window, any_act(), any::<bool>(), any::<bool>(), values()).prop_map(
        |((batch, input, channels), (kernel, stride), act, pool, bias, values)| Problem {
            spec: DepthwiseSpec { batch, input, channels: 8 * channels, kernel, stride, act, pool },
            bias,
            values,
        },
    )
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { spec, bias, ref values } = *problem;
    let DepthwiseSpec { batch, input: [height, width], channels, kernel, stride, act, .. } = spec;
    let x = values.input::<T>("x", &[batch, height, width, channels]);
    let weight = values.weight::<T>("weight", &[kernel, kernel, channels], 1.0 / kernel as f64);
    let bias = bias.then(|| values.weight::<T>("bias", &[channels], 0.5));
    let mut operands = vec![(Slot::X, &x), (Slot::Weight, &weight)];
    operands.extend(bias.as_ref().map(|bias| (Slot::Bias, bias)));
    let reference = |kind: Kind| -> Tensor {
        let weight = weight.tensor(kind).permute([2, 0, 1]).unsqueeze(1).contiguous();
        let bias = bias.as_ref().map(|bias| bias.tensor(kind));
        activate(act, &segface_reference::depthwise::depthwise(&x.nchw(kind), &weight, bias.as_ref(), stride as i64))
    };
    let results = run_single(precision, Op::Depthwise(spec), &operands);
    let name = format!("{spec:?} in {}", precision.name());
    let (truth, peer) = (reference(Kind::Double), reference(peer_kind(precision)));
    judge(&name, &results[0], &to_nhwc(&truth), &to_nhwc(&peer), floor(precision))?;
    if let Some(sums) = results.get(1) {
        // Ours are sums of what was not yet rounded, so libtorch's are taken in f32.
        let count = (spec.output()[0] * spec.output()[1]) as f64;
        let means: Vec<f32> = sums.iter().map(|sum| (f64::from(*sum) / count) as f32).collect();
        let mean = |map: &Tensor| map.mean_dim([2i64, 3].as_slice(), false, map.kind());
        let (truth, peer) = (mean(&truth), mean(&reference(Kind::Float)));
        judge(&format!("sums of {name}"), &means, &truth, &peer, Floor::of(DType::F32))?;
    }
    Ok(())
}

fn every_precision(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem, Precision::F32)?;
    check::<f16>(problem, Precision::F16)?;
    check::<bf16>(problem, Precision::Bf16)
}

#[test]
pub(crate) fn tiny_maps() {
    random_problems("cuda depthwise tiny", 8, problem(9, 9), every_precision);
}

#[test]
pub(crate) fn maps_of_many_blocks_and_long_runs() {
    random_problems("cuda depthwise large", 3, problem(70, 12), every_precision);
}

#[test]
pub(crate) fn many_channels() {
    random_problems("cuda depthwise channels", 3, problem(7, 130), every_precision);
}

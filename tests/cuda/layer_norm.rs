//! Layer norms by themselves.

use half::{bf16, f16};
use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{Element, layer_norm::LayerNormSpec};
use segface_reference::layer_norm::layer_norm;
use segface_tests::{
    cuda::{floor, judge_single},
    judge::Failure,
    operand::{Values, values},
    problems::random_problems,
};

#[derive(Debug, Clone)]
struct Problem {
    spec: LayerNormSpec,
    values: Values,
}

fn problem(rows: usize, channels: usize) -> impl Strategy<Value = Problem> {
    let eps = prop::sample::select(vec![1e-5f32, 1e-6]);
    (1..=rows, 1..=channels, eps, values()).prop_map(|(rows, channels, eps, values)| Problem {
        spec: LayerNormSpec { rows, channels: 8 * channels, eps },
        values,
    })
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { spec, ref values } = *problem;
    let x = values.input::<T>("x", &[spec.rows, spec.channels]);
    let (weight, bias) = (values.factor::<T>("γ", &[spec.channels]), values.weight::<T>("β", &[spec.channels], 0.5));
    let operands = [(Slot::X, &x), (Slot::NormWeight, &weight), (Slot::NormBias, &bias)];
    judge_single(precision, floor(precision), Op::LayerNorm(spec), &operands, |kind| {
        vec![layer_norm(&x.tensor(kind), &weight.tensor(kind), &bias.tensor(kind), f64::from(spec.eps))]
    })
}

#[test]
pub(crate) fn norms_of_short_and_long_rows() {
    random_problems("cuda layer norm", 10, problem(70, 256), |p| {
        check::<f32>(p, Precision::F32)?;
        check::<f16>(p, Precision::F16)?;
        check::<bf16>(p, Precision::Bf16)
    });
}

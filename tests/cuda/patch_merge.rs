//! Patch merges of both Swin versions, odd sizes, and the gather alone.

use half::{bf16, f16};
use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Element,
    patch_merge::{MergeNorm, PatchGatherSpec, PatchMergeSpec},
};
use segface_reference::patch_merge::{gather_neighbours, patch_merge_v1, patch_merge_v2};
use segface_tests::{
    cuda::{floor, judge_single},
    judge::{Failure, Floor},
    operand::{Values, values},
    problems::random_problems,
};

#[derive(Debug, Clone)]
struct Problem {
    values: Values,
    batch: usize,
    input: [usize; 2],
    channels: usize,
    norm: MergeNorm,
}

fn problem() -> impl Strategy<Value = Problem> {
    let norm = prop_oneof![Just(MergeNorm::Before), Just(MergeNorm::After)];
    (values(), 1..4usize, [1..16usize, 1..16usize], 1..28usize, norm).prop_map(
        |(values, batch, input, channels, norm)| Problem { values, batch, input, channels: 8 * channels, norm },
    )
}

fn check<T: Element>(p: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { batch, input, channels, norm, ref values } = *p;
    let x = values.input::<T>("x", &[batch, input[0], input[1], channels]);
    let gather = Op::PatchGather(PatchGatherSpec { batch, input, channels });
    judge_single(precision, Floor(0.0), gather, &[(Slot::X, &x)], |kind| {
        vec![gather_neighbours(&x.tensor(kind)).contiguous()]
    })?;

    let normed = if norm == MergeNorm::Before { 4 * channels } else { 2 * channels };
    let (gamma, beta) = (values.factor::<T>("γ", &[normed]), values.weight::<T>("β", &[normed], 0.3));
    let weight = values.weight::<T>("weight", &[2 * channels, 4 * channels], 0.5 / (channels as f64).sqrt());
    let op = Op::PatchMerge(PatchMergeSpec { batch, input, channels, norm, eps: 1e-5 });
    let operands = [(Slot::X, &x), (Slot::NormWeight, &gamma), (Slot::NormBias, &beta), (Slot::Weight, &weight)];
    judge_single(precision, floor(precision), op, &operands, |kind| {
        let merge = if norm == MergeNorm::Before { patch_merge_v1 } else { patch_merge_v2 };
        vec![merge(&x.tensor(kind), &gamma.tensor(kind), &beta.tensor(kind), &weight.tensor(kind))]
    })
}

#[test]
pub(crate) fn merging_patches() {
    random_problems("cuda patch merge", 8, problem(), |p| {
        check::<f32>(p, Precision::F32)?;
        check::<f32>(p, Precision::Tf32)?;
        check::<f16>(p, Precision::F16)?;
        check::<bf16>(p, Precision::Bf16)
    });
}

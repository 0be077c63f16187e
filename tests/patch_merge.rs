//! `patch_merge` against libtorch: both Swin versions, odd sizes.

use proptest::prelude::*;
use segface_kernels::{
    Element, bf16,
    gemm::PackedMatrix,
    patch_merge::{MergeNorm, PatchGatherOperands, PatchGatherSpec, PatchMergeOperands, PatchMergeSpec, cpu},
};
use segface_reference::patch_merge::{gather_neighbours, patch_merge_v1, patch_merge_v2};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Values, values, widen},
    problems::{judge_kernel, random_problems},
};

#[derive(Debug)]
struct Problem {
    values: Values,
    batch: usize,
    input: [usize; 2],
    channels: usize,
    norm: MergeNorm,
}

fn problem() -> impl Strategy<Value = Problem> {
    let norm = prop_oneof![Just(MergeNorm::Before), Just(MergeNorm::After)];
    (values(), 1..4usize, [1..24usize, 1..24usize], 1..80usize, norm)
        .prop_map(|(values, batch, input, channels, norm)| Problem { values, batch, input, channels, norm })
}

fn check<T: Element>(p: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, channels, norm, ref values } = *p;
    let pixels = batch * input[0].div_ceil(2) * input[1].div_ceil(2);
    let x = values.input::<T>("x", &[batch, input[0], input[1], channels]);
    let elements = x.elements::<T>();
    let gathered = |kind| gather_neighbours(&x.tensor(kind)).contiguous();
    judge_kernel::<T>("patch gather", Floor(0.0), gathered, |context| {
        let mut out = vec![T::from_f32(f32::NAN); pixels * 4 * channels];
        let spec = PatchGatherSpec { batch, input, channels };
        cpu::patch_gather(context, &spec, PatchGatherOperands { x: &elements, out: &mut out });
        widen(&out)
    })?;

    let normed = if norm == MergeNorm::Before { 4 * channels } else { 2 * channels };
    let (gamma, beta) = (values.factor::<T>("γ", &[normed]), values.weight::<T>("β", &[normed], 0.3));
    let weight = values.weight::<T>("weight", &[2 * channels, 4 * channels], 0.5 / (channels as f64).sqrt());
    let reference = |kind| {
        let merge = if norm == MergeNorm::Before { patch_merge_v1 } else { patch_merge_v2 };
        merge(&x.tensor(kind), &gamma.tensor(kind), &beta.tensor(kind), &weight.tensor(kind))
    };
    let spec = PatchMergeSpec { batch, input, channels, norm, eps: 1e-5 };
    judge_kernel::<T>("patch merge", Floor::of_sum(T::DTYPE, 4 * channels), reference, |context| {
        let mut out = vec![T::from_f32(f32::NAN); pixels * 2 * channels];
        let operands = PatchMergeOperands {
            x: &elements,
            norm: (gamma.f32(), beta.f32()),
            weight: &PackedMatrix::pack::<T>(context.isa(), 2 * channels, 4 * channels, weight.f32()),
            out: &mut out,
        };
        cpu::patch_merge(context, &spec, operands);
        widen(&out)
    })
}

#[test]
fn merging_patches_in_f32() {
    random_problems("patch merge f32", 64, problem(), check::<f32>);
}

#[test]
fn merging_patches_in_bf16() {
    random_problems("patch merge bf16", 64, problem(), check::<bf16>);
}

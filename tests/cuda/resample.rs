//! Resizes, pooling; concat and pixel shuffle exactly. Rows of whole chunks and odd ones.

use half::{bf16, f16};
use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    DType, Element,
    resample::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec},
};
use segface_tests::{
    cuda::{floor, judge_single, run_single},
    judge::{Failure, Floor, judge},
    operand::{Operand, Values, to_nhwc, values},
    problems::random_problems,
};
use tch::{Kind, Tensor};

/// A map of random size, and another size.
#[derive(Debug, Clone)]
struct Problem {
    batch: usize,
    input: [usize; 2],
    output: [usize; 2],
    channels: usize,
    values: Values,
}

fn problem(side: usize, channels: usize) -> impl Strategy<Value = Problem> {
    let channels = prop_oneof![2 => (1..=channels).prop_map(|c| 8 * c), 1 => 1..=channels];
    (1..=3usize, [1..=side, 1..=side], [1..=side, 1..=side], channels, values())
        .prop_map(|(batch, input, output, channels, values)| Problem { batch, input, output, channels, values })
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { batch, input, output, channels, ref values } = *problem;
    let [height, width] = input;
    let (rows, exact) = (batch * height * width, Floor(0.0));
    let x = values.input::<T>("x", &[batch, height, width, channels]);

    let op = Op::Bilinear(BilinearSpec { batch, input, output, channels });
    let [oh, ow] = output.map(|side| side as i64);
    judge_single(precision, floor(precision), op, &[(Slot::X, &x)], |kind: Kind| {
        vec![to_nhwc(&segface_reference::resample::bilinear(&x.nchw(kind), oh, ow))]
    })?;

    let op = Op::MaxPool(MaxPoolSpec { batch, input, channels });
    judge_single(precision, exact, op, &[(Slot::X, &x)], |kind: Kind| {
        vec![to_nhwc(&segface_reference::resample::max_pool_3x3(&x.nchw(kind)))]
    })?;

    // f32 sums in every precision.
    let op = Op::SumPool(SumPoolSpec { batch, pixels: height * width, channels });
    let sums = run_single(precision, op, &[(Slot::X, &x)]);
    let sum = |kind: Kind| x.tensor(kind).sum_dim_intlist([1i64, 2].as_slice(), false, kind);
    judge(&format!("{op:?}"), &sums[0], &sum(Kind::Double), &sum(Kind::Float), Floor::of(DType::F32))?;

    let op = Op::PixelShuffle(PixelShuffleSpec { batch, input, channels });
    let wide = values.input::<T>("wide", &[batch, height, width, 4 * channels]);
    judge_single(precision, exact, op, &[(Slot::X, &wide)], |kind: Kind| {
        let [n, h, w, c] = [batch, height, width, channels].map(|size| size as i64);
        vec![wide.tensor(kind).view([n, h, w, 2, 2, c]).permute([0, 1, 3, 2, 4, 5]).reshape([n, 2 * h, 2 * w, c])]
    })?;

    let spec = ConcatSpec { rows, channels: [channels, 8, 2 * channels, channels + 8] };
    let part = |i: usize| values.input::<T>(&format!("part {i}"), &[rows, spec.channels[i]]);
    let parts: [Operand; 4] = std::array::from_fn(part);
    let operands: Vec<_> = [Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().zip(&parts).collect();
    judge_single(precision, exact, Op::Concat(spec), &operands, |kind: Kind| {
        let parts: Vec<_> = parts.iter().map(|part| part.tensor(kind)).collect();
        vec![Tensor::cat(&parts, 1)]
    })
}

fn every_precision(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem, Precision::F32)?;
    check::<f16>(problem, Precision::F16)?;
    check::<bf16>(problem, Precision::Bf16)
}

#[test]
pub(crate) fn small_maps() {
    random_problems("cuda resample small", 6, problem(9, 6), every_precision);
}

#[test]
pub(crate) fn maps_of_many_blocks() {
    random_problems("cuda resample large", 2, problem(50, 5), every_precision);
}

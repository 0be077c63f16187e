//! Convolutions: every window of our networks and some of none, maps smaller than the window, stems, every epilogue.

use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{Element, conv::ConvSpec};
use segface_tests::{
    cuda::{floor, judge_single},
    epilogue::{EpilogueChoice, EpilogueNumbers, any_epilogue},
    in_every_precision,
    judge::Failure,
    operand::{Values, to_nhwc, values},
    problems::random_problems,
};
use tch::Kind;

#[derive(Debug, Clone)]
struct Problem {
    spec: ConvSpec,
    epilogue: EpilogueChoice,
    values: Values,
}

/// `channels` to at most 8·`n`; kernel, stride and padding out of `windows`.
fn problem(
    side: usize,
    channels: impl Strategy<Value = usize>,
    n: usize,
    windows: Vec<[usize; 3]>,
) -> impl Strategy<Value = Problem> {
    let sizes = (1..=3usize, [1..=side, 1..=side], channels, 1..=n);
    (prop::sample::select(windows), sizes, any_epilogue(), values())
        .prop_map(|([kernel, stride, padding], (batch, input, channels, n), choice, values)| {
            let (out_channels, epilogue) = (8 * n, choice.epilogue);
            let spec = ConvSpec { batch, input, channels, out_channels, kernel, stride, padding, epilogue };
            Problem { spec, epilogue: choice, values }
        })
        .prop_filter("the padded map is smaller than the kernel", |problem| problem.spec.rows() > 0)
}

fn check<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { spec, epilogue, ref values } = *problem;
    let ConvSpec { batch, input: [height, width], channels, out_channels, kernel, stride, padding, .. } = spec;
    let x = values.input::<T>("x", &[batch, height, width, channels]);
    let scale = 1.0 / (spec.depth() as f64).sqrt();
    let weight = values.weight::<T>("weight", &[out_channels, kernel, kernel, channels], scale);
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, spec.rows(), out_channels);
    let mut operands = vec![(Slot::X, &x), (Slot::Weight, &weight)];
    operands.extend(numbers.slots(Slot::Bias));
    judge_single(precision, floor(precision), Op::Conv(spec), &operands, |kind: Kind| {
        let y = segface_reference::conv::conv(&x.nchw(kind), &weight.nchw(kind), None, stride as i64, padding as i64);
        vec![numbers.reference(kind, &to_nhwc(&y).view([spec.rows() as i64, out_channels as i64]))]
    })
}

fn every_precision(problem: &Problem) -> Result<(), Failure> {
    in_every_precision!(check(problem))
}

#[test]
pub(crate) fn windows_of_whole_chunks() {
    let windows = vec![[3, 1, 1], [3, 2, 1], [2, 2, 0], [1, 2, 0], [1, 1, 2], [3, 1, 3], [5, 3, 2]];
    let channels = (1..=8usize).prop_map(|c| 8 * c);
    random_problems("cuda conv", 8, problem(14, channels, 12, windows), every_precision);
}

#[test]
pub(crate) fn stems_of_three_channels() {
    let windows = vec![[4, 4, 0], [3, 2, 1], [7, 2, 3]];
    random_problems("cuda conv stem", 6, problem(33, Just(3), 12, windows), every_precision);
}

//! `conv` against libtorch: every kernel, stride and padding, maps smaller than the kernel, batches, every epilogue.

use proptest::prelude::*;
use segface_kernels::{
    Element, bf16,
    conv::{self, ConvOperands, ConvSpec},
    gemm::PackedMatrix,
};
use segface_tests::{
    epilogue::{EpilogueChoice, EpilogueNumbers, any_epilogue},
    judge::{Failure, Floor},
    operand::{Values, to_nhwc, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::Kind;

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    spec: ConvSpec,
    epilogue: EpilogueChoice,
    values: Values,
}

/// Kernel, stride and padding of every convolution in our networks, and some that are in none.
fn shapes() -> impl Strategy<Value = [usize; 3]> {
    prop::sample::select(vec![
        [1, 2, 0],
        [2, 2, 0],
        [3, 1, 1],
        [3, 2, 1],
        [4, 4, 0],
        [7, 2, 3],
        [1, 1, 0],
        [1, 1, 2],
        [3, 1, 0],
        [3, 1, 3],
        [5, 3, 2],
    ])
}

fn problem(side: usize, channels: usize, out_channels: usize) -> impl Strategy<Value = Problem> {
    let sizes = (1..=3usize, [1..=side, 1..=side], 1..=channels, 1..=out_channels);
    (shapes(), sizes, any_epilogue(), values())
        .prop_map(|([kernel, stride, padding], (batch, input, channels, out_channels), epilogue, values)| {
            let epilogue_spec = epilogue.epilogue;
            let spec =
                ConvSpec { batch, input, channels, out_channels, kernel, stride, padding, epilogue: epilogue_spec };
            Problem { spec, epilogue, values }
        })
        .prop_filter("the padded map is smaller than the kernel", |problem| problem.spec.rows() > 0)
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { ref spec, epilogue, ref values } = *problem;
    let ConvSpec { batch, input: [height, width], channels, out_channels, kernel, stride, padding, .. } = *spec;
    let x = values.input::<T>("x", &[batch, height, width, channels]);
    let scale = 1.0 / (spec.depth() as f64).sqrt();
    // Our order of a weight: output channel, row, column, input channel.
    let weight = values.weight::<T>("weight", &[out_channels, kernel, kernel, channels], scale);
    let numbers = EpilogueNumbers::<T>::new(epilogue, values, spec.rows(), out_channels);
    let elements = x.elements::<T>();
    let reference = |kind: Kind| {
        let y = segface_reference::conv::conv(&x.nchw(kind), &weight.nchw(kind), None, stride as i64, padding as i64);
        numbers.reference(kind, &to_nhwc(&y).view([spec.rows() as i64, out_channels as i64]))
    };
    judge_kernel::<T>("conv", Floor::of(T::DTYPE), reference, |context| {
        let packed = PackedMatrix::pack::<T>(context.isa(), out_channels, spec.depth(), weight.f32());
        let mut out = numbers.output();
        let operands = ConvOperands { x: &elements, weight: &packed, epilogue: numbers.operands(), out: &mut out };
        conv::cpu::conv(context, spec, operands);
        widen(&out)
    })
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn small_odd_maps_with_every_epilogue() {
    random_problems("conv small", 64, problem(9, 40, 40), both);
}

#[test]
fn stems_of_three_channels() {
    random_problems("conv stem", 12, problem(40, 3, 32), both);
}

#[test]
fn deep_convolutions() {
    random_problems("conv deep", 8, problem(8, 300, 100), both);
}

#[test]
fn large_maps() {
    random_problems("conv large", 8, problem(64, 24, 48), both);
}

#[test]
fn a_tap_outside_the_map_is_zero_and_not_a_neighbour() {
    // A single pixel under a 3×3 kernel whose centre is zero: everything it sees is padding.
    let spec = ConvSpec {
        batch: 2,
        input: [1, 1],
        channels: 2,
        out_channels: 1,
        kernel: 3,
        stride: 1,
        padding: 1,
        epilogue: Default::default(),
    };
    let weight: Vec<f32> = (0..18).map(|i| if i / 2 == 4 { 0.0 } else { 1.0 }).collect();
    for isa in segface_kernels::Isa::available() {
        let mut out = [f32::NAN; 2];
        let packed = PackedMatrix::pack::<f32>(isa, 1, 18, &weight);
        let operands = ConvOperands { x: &[5.0; 4], weight: &packed, epilogue: Default::default(), out: &mut out };
        conv::cpu::conv(&mut segface_kernels::Context::new(1, isa), &spec, operands);
        assert_eq!(out, [0.0; 2], "{isa:?}");
    }
}

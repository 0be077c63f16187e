//! `resample` against libtorch: bilinear resize, pooling; concat and pixel shuffle exactly.

use proptest::prelude::*;
use segface_kernels::{
    Context, Element, bf16,
    resample::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec, cpu},
};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Operand, Values, to_nhwc, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::Kind;

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
    (1..=3usize, [1..=side, 1..=side], [1..=side, 1..=side], 1..=channels, values())
        .prop_map(|(batch, input, output, channels, values)| Problem { batch, input, output, channels, values })
}

impl Problem {
    fn map<T: Element>(&self) -> Operand {
        self.values.input::<T>("x", &[self.batch, self.input[0], self.input[1], self.channels])
    }
}

/// Runs `test` in both precisions on tiny maps, on maps of many channels and on maps of several tasks.
fn on_all_maps(name: &str, single: fn(&Problem) -> Result<(), Failure>, half: fn(&Problem) -> Result<(), Failure>) {
    for (sizes, cases, side, channels) in [("small", 64, 9, 40), ("deep", 8, 6, 600), ("large", 8, 80, 20)] {
        random_problems(&format!("{name} {sizes}"), cases, problem(side, channels), |problem| {
            single(problem)?;
            half(problem)
        });
    }
}

/// An output buffer that must be overwritten.
fn unset<T: Element>(len: usize) -> Vec<T> {
    vec![T::from_f32(f32::NAN); len]
}

fn bilinear<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, output, channels, .. } = *problem;
    let x = problem.map::<T>();
    let spec = BilinearSpec { batch, input, output, channels };
    let elements = x.elements::<T>();
    let [height, width] = output.map(|side| side as i64);
    let reference = |kind: Kind| to_nhwc(&segface_reference::resample::bilinear(&x.nchw(kind), height, width));
    judge_kernel::<T>("bilinear", Floor::of(T::DTYPE), reference, |context| {
        let mut out = unset::<T>(batch * output[0] * output[1] * channels);
        cpu::bilinear(context, &spec, &elements, &mut out);
        widen(&out)
    })
}

#[test]
fn bilinear_up_and_down() {
    on_all_maps("bilinear", bilinear::<f32>, bilinear::<bf16>);
}

fn max_pool<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, channels, .. } = *problem;
    let x = problem.map::<T>();
    let spec = MaxPoolSpec { batch, input, channels };
    let elements = x.elements::<T>();
    let reference = |kind: Kind| to_nhwc(&segface_reference::resample::max_pool_3x3(&x.nchw(kind)));
    judge_kernel::<T>("max_pool", Floor::of(T::DTYPE), reference, |context| {
        let [height, width] = spec.output();
        let mut out = unset::<T>(batch * height * width * channels);
        cpu::max_pool(context, &spec, &elements, &mut out);
        widen(&out)
    })
}

#[test]
fn max_pooling_whose_padding_never_wins() {
    on_all_maps("max_pool", max_pool::<f32>, max_pool::<bf16>);
    // All values are below the zero that a wrong padding would bring in.
    let mut out = [0.0f32; 4];
    let spec = MaxPoolSpec { batch: 1, input: [3, 3], channels: 1 };
    let x: Vec<f32> = (0..9).map(|i| -1.0 - i as f32).collect();
    for isa in segface_kernels::Isa::available() {
        cpu::max_pool(&mut Context::new(1, isa), &spec, &x, &mut out);
        assert_eq!(out, [-1.0, -2.0, -4.0, -5.0], "{isa:?}");
    }
}

fn sum_pool<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input: [height, width], channels, .. } = *problem;
    let x = problem.map::<T>();
    let spec = SumPoolSpec { batch, pixels: height * width, channels };
    let elements = x.elements::<T>();
    // Ours are f32 sums in every precision.
    let reference = |kind: Kind| {
        let kind = if kind == Kind::Double { kind } else { Kind::Float };
        x.tensor(kind).sum_dim_intlist([1i64, 2].as_slice(), false, kind)
    };
    judge_kernel::<T>("sum_pool", Floor::of(segface_kernels::DType::F32), reference, |context| {
        let mut out = unset::<f32>(batch * channels);
        cpu::sum_pool(context, &spec, &elements, &mut out);
        out
    })
}

#[test]
fn sum_pooling() {
    on_all_maps("sum_pool", sum_pool::<f32>, sum_pool::<bf16>);
}

fn moves<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input: [height, width], channels, ref values, .. } = *problem;
    let rows = batch * height * width;
    let x = values.input::<T>("x", &[batch, height, width, 4 * channels]);
    let spec = PixelShuffleSpec { batch, input: [height, width], channels };
    let elements = x.elements::<T>();
    let shuffled = |kind: Kind| {
        let [n, h, w, c] = [batch, height, width, channels].map(|size| size as i64);
        x.tensor(kind).view([n, h, w, 2, 2, c]).permute([0, 1, 3, 2, 4, 5]).reshape([n, 2 * h, 2 * w, c])
    };
    let exact = Floor(0.0);
    judge_kernel::<T>("pixel_shuffle", exact, shuffled, |context| {
        let mut out = unset::<T>(elements.len());
        cpu::pixel_shuffle(context, &spec, &elements, &mut out);
        widen(&out)
    })?;

    let spec = ConcatSpec { rows, channels: [channels, 1, 2 * channels, channels + 3] };
    let parts: Vec<Operand> = spec
        .channels
        .iter()
        .enumerate()
        .map(|(i, channels)| values.input::<T>(&format!("part {i}"), &[rows, *channels]))
        .collect();
    let elements: Vec<Vec<T>> = parts.iter().map(Operand::elements).collect();
    let joined = |kind: Kind| {
        let parts: Vec<_> = parts.iter().map(|part| part.tensor(kind)).collect();
        tch::Tensor::cat(&parts, 1)
    };
    judge_kernel::<T>("concat", exact, joined, |context| {
        let mut out = unset::<T>(rows * spec.out_channels());
        cpu::concat(context, &spec, std::array::from_fn(|i| elements[i].as_slice()), &mut out);
        widen(&out)
    })
}

#[test]
fn pixel_shuffle_and_concat_move_every_element_to_its_place() {
    on_all_maps("moves", moves::<f32>, moves::<bf16>);
}

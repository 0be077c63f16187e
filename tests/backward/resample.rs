//! Resamplers: bilinear up and down, pooling; concat and pixel shuffle exactly.

use proptest::prelude::*;
use segface_kernels::resample::backward::{
    bilinear_backward, concat_backward, max_pool_backward, pixel_shuffle_backward, sum_pool_backward,
};
use segface_kernels::resample::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec, cpu};
use segface_kernels::{Context, DType, Element, Gradient, Isa, bf16};
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, to_nchw, to_nhwc, values, widen},
    problems::random_problems,
};
use tch::Tensor;

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
    for (sizes, cases, side, channels) in [("small", 32, 9, 40), ("deep", 4, 6, 600), ("large", 4, 60, 20)] {
        random_problems(&format!("{name} backward {sizes}"), cases, problem(side, channels), |problem| {
            single(problem)?;
            half(problem)
        });
    }
}

/// A gradient of `len` elements, written by `kernel`; where it is added to 0.75, whether it was.
fn written<T: Element>(len: usize, kernel: impl Fn(Gradient<'_, T>)) -> Result<Vec<f32>, Failure> {
    let mut fresh = unset::<T>(len);
    kernel(Gradient::overwrite(&mut fresh));
    let fresh = widen(&fresh);
    if T::DTYPE == DType::F32 {
        let mut sums = vec![T::from_f32(0.75); len];
        kernel(Gradient::add_to(&mut sums));
        added("accumulated", &vec![0.75; len], &fresh, &widen(&sums))?;
    }
    Ok(fresh)
}

fn bilinear<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, output, channels, ref values } = *problem;
    let x = problem.map::<T>();
    let d_out = values.weight::<T>("d_out", &[batch, output[0], output[1], channels], 1.0);
    let spec = BilinearSpec { batch, input, output, channels };
    let elements = d_out.elements::<T>();
    let function = Differentiable {
        inputs: &[("x", &x)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| {
            let [height, width] = output.map(|side| side as i64);
            to_nhwc(&segface_reference::resample::bilinear(&to_nchw(&inputs[0]), height, width))
        },
    };
    let run = |context: &mut Context| {
        let context = std::cell::RefCell::new(context);
        written(x.f32().len(), |d_x| bilinear_backward::<T>(&mut context.borrow_mut(), &spec, &elements, d_x))
    };
    // As many terms as output pixels fall on an input pixel and its neighbours.
    let terms: usize = (0..2).map(|axis| 2 * output[axis].div_ceil(input[axis])).product();
    function.judge::<T>(
        "bilinear",
        |_| Floor::of_sum(T::DTYPE, terms),
        |context| vec![run(context).expect("a gradient that is added to")],
    )?;
    if T::DTYPE == DType::F32 && x.f32().len() < 60 {
        function.judge_differences("bilinear", |context| vec![run(context).expect("as above")])?;
    }
    Ok(())
}

#[test]
fn bilinear_up_and_down() {
    on_all_maps("bilinear", bilinear::<f32>, bilinear::<bf16>);
}

fn max_pool<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, channels, ref values, .. } = *problem;
    // Few different values, so that a window often holds its largest twice.
    let x: Vec<f32> = problem.map::<T>().f32().iter().map(|x| (2.0 * x).round() / 2.0).collect();
    let x = Operand::from_values::<T>(&[batch, input[0], input[1], channels], x);
    let spec = MaxPoolSpec { batch, input, channels };
    let [height, width] = spec.output();
    let d_out = values.weight::<T>("d_out", &[batch, height, width, channels], 1.0);
    let function = Differentiable {
        inputs: &[("x", &x)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| to_nhwc(&segface_reference::resample::max_pool_3x3(&to_nchw(&inputs[0]))),
    };
    let (elements, slopes) = (x.elements::<T>(), d_out.elements::<T>());
    function.judge::<T>(
        "max_pool",
        |_| Floor::of(T::DTYPE),
        |context| {
            let mut out = unset::<T>(slopes.len());
            cpu::max_pool(context, &spec, &elements, &mut out);
            let context = std::cell::RefCell::new(context);
            let run = |d_x: Gradient<'_, T>| {
                max_pool_backward(&mut context.borrow_mut(), &spec, &elements, &out, &slopes, d_x);
            };
            vec![written(elements.len(), run).expect("a gradient that is added to")]
        },
    )
}

#[test]
fn max_pooling_gives_to_the_first_of_equal_ones() {
    on_all_maps("max_pool", max_pool::<f32>, max_pool::<bf16>);
}

fn sum_pool<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input: [height, width], channels, ref values, .. } = *problem;
    let spec = SumPoolSpec { batch, pixels: height * width, channels };
    let d_out = values.weight::<T>("d_out", &[batch, channels], 1.0);
    let run = |d_x: Gradient<'_, T>| {
        sum_pool_backward::<T>(&mut Context::new(2, Isa::best()), &spec, d_out.f32(), d_x);
    };
    let found = written(batch * spec.pixels * channels, run)?;
    for (image, found) in found.chunks_exact(spec.pixels * channels).enumerate() {
        let expected = &d_out.f32()[image * channels..][..channels];
        if !found.chunks_exact(channels).all(|pixel| pixel == expected) {
            return Err(Failure::new(format!("image {image} of {spec:?}")));
        }
    }
    Ok(())
}

#[test]
fn sum_pooling_gives_to_every_pixel() {
    on_all_maps("sum_pool", sum_pool::<f32>, sum_pool::<bf16>);
}

fn moves<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input: [height, width], channels, ref values, .. } = *problem;
    let rows = batch * height * width;
    let mut context = Context::new(2, Isa::best());
    // Moved there and back is as it was.
    let x = values.input::<T>("x", &[batch, height, width, 4 * channels]);
    let spec = PixelShuffleSpec { batch, input: [height, width], channels };
    let elements = x.elements::<T>();
    let mut moved = unset::<T>(elements.len());
    cpu::pixel_shuffle(&mut context, &spec, &elements, &mut moved);
    let back = written(elements.len(), |d_x: Gradient<'_, T>| {
        pixel_shuffle_backward(&mut Context::new(3, Isa::best()), &spec, &moved, d_x);
    })?;
    if back != x.f32() {
        return Err(Failure::new("pixel shuffle is not undone"));
    }

    let spec = ConcatSpec { rows, channels: [channels, 1, 2 * channels, channels + 3] };
    let parts: Vec<Vec<T>> =
        (0..4).map(|i| values.input::<T>(&format!("part {i}"), &[rows, spec.channels[i]]).elements::<T>()).collect();
    let mut joined = unset::<T>(rows * spec.out_channels());
    cpu::concat(&mut context, &spec, std::array::from_fn(|i| parts[i].as_slice()), &mut joined);
    let mut back: Vec<Vec<T>> = parts.iter().map(|part| unset::<T>(part.len())).collect();
    let mut places = back.iter_mut().map(|part| Some(Gradient::overwrite(part)));
    let places: [_; 4] = std::array::from_fn(|i| places.next().flatten().filter(|_| i != 2));
    concat_backward(&mut context, &spec, &joined, places);
    for (i, (part, back)) in parts.iter().zip(&back).enumerate() {
        let untouched = back.iter().all(|v| v.to_f32().is_nan());
        if if i == 2 { !untouched } else { part != back } {
            return Err(Failure::new(format!("part {i} of a concat is not given back")));
        }
    }
    Ok(())
}

#[test]
fn pixel_shuffle_and_concat_give_every_element_back() {
    on_all_maps("moves", moves::<f32>, moves::<bf16>);
}

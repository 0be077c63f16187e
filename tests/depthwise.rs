//! `depthwise` against libtorch: kernels 3, 5 and 7, strides 1 and 2, maps smaller than the kernel, odd channel counts, sums.

use proptest::prelude::*;
use segface_kernels::{
    Act, Element, bf16,
    depthwise::{self, DepthwiseOperands, DepthwiseSpec},
};
use segface_reference::elementwise::activate;
use segface_tests::{
    epilogue::any_act,
    judge::{Failure, Floor},
    operand::{Operand, Values, to_nhwc, values, widen},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    spec: DepthwiseSpec,
    bias: bool,
    values: Values,
}

fn problem(side: usize, channels: usize) -> impl Strategy<Value = Problem> {
    let sizes = (1..=3usize, [1..=side, 1..=side], 1..=channels);
    let window = (prop::sample::select(vec![3usize, 5, 7]), 1..=2usize);
    (sizes, window, any_act(), any::<bool>(), any::<bool>(), values()).prop_map(
        |((batch, input, channels), (kernel, stride), act, pool, bias, values)| Problem {
            spec: DepthwiseSpec { batch, input, channels, kernel, stride, act, pool },
            bias,
            values,
        },
    )
}

struct Numbers<T> {
    x: Operand,
    elements: Vec<T>,
    /// [K, K, C]
    weight: Operand,
    bias: Option<Operand>,
}

impl<T: Element> Numbers<T> {
    fn new(problem: &Problem) -> Self {
        let Problem { spec, bias, values } = problem;
        let DepthwiseSpec { batch, input: [height, width], channels, kernel, .. } = *spec;
        let x = values.input::<T>("x", &[batch, height, width, channels]);
        Self {
            elements: x.elements(),
            x,
            weight: values.weight::<T>("weight", &[kernel, kernel, channels], 1.0 / kernel as f64),
            bias: bias.then(|| values.weight::<T>("bias", &[channels], 0.5)),
        }
    }

    /// The map [N, C, H, W].
    fn reference(&self, kind: Kind, spec: &DepthwiseSpec) -> Tensor {
        // Ours is [row, column, channel], torch's [channel, 1, row, column].
        let weight = self.weight.tensor(kind).permute([2, 0, 1]).unsqueeze(1).contiguous();
        let bias = self.bias.as_ref().map(|bias| bias.tensor(kind));
        let y = segface_reference::depthwise::depthwise(&self.x.nchw(kind), &weight, bias.as_ref(), spec.stride as i64);
        activate(spec.act, &y)
    }

    fn run(&self, context: &mut segface_kernels::Context, spec: &DepthwiseSpec) -> (Vec<T>, Vec<f32>) {
        let [height, width] = spec.output();
        let mut out = vec![T::from_f32(f32::NAN); spec.batch * height * width * spec.channels];
        let mut sums = vec![f32::NAN; spec.batch * spec.channels];
        let operands = DepthwiseOperands {
            x: &self.elements,
            weight: self.weight.f32(),
            bias: self.bias.as_ref().map(Operand::f32),
            out: &mut out,
            sums: spec.pool.then_some(&mut sums),
        };
        depthwise::cpu::depthwise(context, spec, operands);
        (out, sums)
    }
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let spec = &problem.spec;
    let numbers = Numbers::<T>::new(problem);
    judge_kernel::<T>(
        "depthwise",
        Floor::of(T::DTYPE),
        |kind| to_nhwc(&numbers.reference(kind, spec)),
        |context| widen(&numbers.run(context, spec).0),
    )?;
    if !spec.pool {
        return Ok(());
    }
    // Ours are sums of what was not yet rounded to T, so libtorch's are taken in f32.
    let count = (spec.output()[0] * spec.output()[1]) as f64;
    let sums = |kind: Kind| {
        let kind = if kind == Kind::Double { kind } else { Kind::Float };
        numbers.reference(kind, spec).mean_dim([2i64, 3].as_slice(), false, kind)
    };
    judge_kernel::<T>("depthwise sums", Floor::of(f32::DTYPE), sums, |context| {
        numbers.run(context, spec).1.iter().map(|sum| (f64::from(*sum) / count) as f32).collect()
    })
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn tiny_maps_and_odd_channels() {
    random_problems("depthwise tiny", 96, problem(8, 40), both);
}

#[test]
fn maps_of_several_blocks_and_bands() {
    random_problems("depthwise large", 16, problem(75, 24), both);
}

#[test]
fn many_channels() {
    random_problems("depthwise channels", 12, problem(12, 700), both);
}

#[test]
fn every_window_with_the_networks_activations() {
    for (kernel, stride) in [3, 5, 7].into_iter().flat_map(|kernel| [(kernel, 1), (kernel, 2)]) {
        let shape = move |(values, act, pool)| Problem {
            spec: DepthwiseSpec { batch: 1, input: [19, 21], channels: 33, kernel, stride, act, pool },
            bias: true,
            values,
        };
        let acts = prop::sample::select(vec![Act::Identity, Act::Relu, Act::HardSwish, Act::Silu]);
        let problems = (values(), acts, any::<bool>()).prop_map(shape);
        random_problems(&format!("depthwise {kernel} stride {stride}"), 8, problems, both);
    }
}

//! The backward kernels of products, convolutions, batch norm, elementwise operators and squeeze-excite against libtorch's autograd.

use proptest::prelude::*;
use segface_kernels::batch_norm::backward::{BatchNormBackwardOperands, batch_norm_backward};
use segface_kernels::batch_norm::cpu::batch_norm;
use segface_kernels::batch_norm::{BatchNormOperands, BatchNormSpec};
use segface_kernels::conv::ConvSpec;
use segface_kernels::conv::backward::{ConvInputOperands, ConvWeightOperands, conv_input, conv_weight};
use segface_kernels::depthwise::DepthwiseSpec;
use segface_kernels::depthwise::backward::{
    DepthwiseInputOperands, DepthwiseWeightOperands, depthwise_input, depthwise_weight,
};
use segface_kernels::elementwise::backward::{act_backward, factor_backward, sum_repeats};
use segface_kernels::gemm::backward::{GemmWeightOperands, gemm_weight};
use segface_kernels::squeeze_excite::SqueezeExciteSpec;
use segface_kernels::squeeze_excite::backward::{SqueezeExciteBackwardOperands, squeeze_excite_backward};
use segface_kernels::{Act, Context, Element, Epilogue, Gradient, bf16};
use segface_reference::elementwise::{BatchNorm, activate, batch_norm_in_training};
use segface_tests::gradients::{Differentiable, unset};
use segface_tests::judge::{Failure, Floor};
use segface_tests::operand::{Values, unit_values, widen};
use segface_tests::problems::random_problems;
use tch::Tensor;

const ACTS: [Act; 7] = [Act::Identity, Act::Relu, Act::Gelu, Act::Silu, Act::HardSwish, Act::HardSigmoid, Act::Sigmoid];

/// [N, H, W, C] as libtorch's convolutions take it.
fn nchw(x: &Tensor) -> Tensor {
    x.permute([0, 3, 1, 2])
}

fn nhwc(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1])
}

#[derive(Debug, Clone)]
struct Product {
    sizes: [usize; 3],
    values: Values,
}

fn check_product<T: Element>(problem: &Product) -> Result<(), Failure> {
    let [rows, n, k] = problem.sizes;
    let values = &problem.values;
    let x = values.input::<T>("x", &[rows, k]);
    let weight = values.weight::<T>("weight", &[n, k], 0.5);
    let bias = values.weight::<f32>("bias", &[n], 0.5);
    let d_out = values.weight::<T>("d_out", &[rows, n], 1.0);
    let function = Differentiable {
        inputs: &[("weight", &weight), ("bias", &bias)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| x.tensor(inputs[0].kind()).linear(&inputs[0], Some(&inputs[1])),
    };
    let floor = |_: &str| Floor::of_sum(T::DTYPE, rows);
    function.judge::<T>("gemm_weight", floor, |context| {
        let (mut d_weight, mut d_bias) = (vec![0.0; n * k], vec![0.0; n]);
        let (x, d_out) = (x.elements::<T>(), d_out.elements::<T>());
        let operands =
            GemmWeightOperands { x: &x, d_out: &d_out, d_weight: Some(&mut d_weight), d_bias: Some(&mut d_bias) };
        gemm_weight(context, rows, n, k, operands);
        vec![d_weight, d_bias]
    })
}

#[test]
fn weights_of_products_of_any_size() {
    let problem = |rows: usize, n: usize, k: usize| {
        (1..=rows, 1..=n, 1..=k, unit_values()).prop_map(|(rows, n, k, values)| Product { sizes: [rows, n, k], values })
    };
    let both = |problem: &Product| {
        check_product::<f32>(problem)?;
        check_product::<bf16>(problem)
    };
    random_problems("gemm_weight small", 24, problem(300, 70, 70), both);
    random_problems("gemm_weight long", 6, problem(5000, 64, 40), both);
    random_problems("gemm_weight wide", 4, problem(300, 600, 1300), both);
}

#[derive(Debug, Clone)]
struct Conv {
    spec: ConvSpec,
    values: Values,
}

fn conv_problem() -> impl Strategy<Value = Conv> {
    let kernel =
        prop::sample::select(vec![(1, 1, 0), (1, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (4, 4, 0), (7, 2, 3)]);
    (1..=2usize, 4..=19usize, 4..=19usize, 1..=20usize, 1..=40usize, kernel, unit_values()).prop_map(
        |(batch, height, width, channels, out_channels, (kernel, stride, padding), values)| {
            let input = [height.max(kernel), width.max(kernel)];
            let epilogue = Epilogue { bias: true, ..Epilogue::default() };
            let spec = ConvSpec { batch, input, channels, out_channels, kernel, stride, padding, epilogue };
            Conv { spec, values }
        },
    )
}

fn check_conv<T: Element>(problem: &Conv) -> Result<(), Failure> {
    let Conv { spec, values } = problem;
    let ConvSpec { batch, input: [height, width], channels, out_channels, kernel, stride, padding, .. } = *spec;
    let [oh, ow] = spec.output();
    let x = values.input::<T>("x", &[batch, height, width, channels]);
    let weight = values.weight::<T>("weight", &[out_channels, kernel, kernel, channels], 0.5);
    let bias = values.weight::<f32>("bias", &[out_channels], 0.5);
    let d_out = values.weight::<T>("d_out", &[batch, oh, ow, out_channels], 1.0);
    let function = Differentiable {
        inputs: &[("x", &x), ("weight", &weight), ("bias", &bias)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| {
            let (stride, padding) = (stride as i64, padding as i64);
            nhwc(&segface_reference::conv::conv(
                &nchw(&inputs[0]),
                &nchw(&inputs[1]),
                Some(&inputs[2]),
                stride,
                padding,
            ))
        },
    };
    let terms = |input: &str| if input == "x" { kernel * kernel * out_channels } else { spec.rows() };
    function.judge::<T>(
        "conv",
        |input| Floor::of_sum(T::DTYPE, terms(input)),
        |context| {
            let (x, d_out) = (x.elements::<T>(), d_out.elements::<T>());
            let mut d_x = unset::<T>(x.len());
            let (mut d_weight, mut d_bias) = (vec![0.0; weight.f32().len()], vec![0.0; out_channels]);
            let operands =
                ConvInputOperands { d_out: &d_out, weight: weight.f32(), d_x: Gradient::overwrite(&mut d_x) };
            conv_input(context, spec, operands);
            let operands =
                ConvWeightOperands { x: &x, d_out: &d_out, d_weight: Some(&mut d_weight), d_bias: Some(&mut d_bias) };
            conv_weight(context, spec, operands);
            vec![widen(&d_x), d_weight, d_bias]
        },
    )
}

#[test]
fn convolutions_of_the_networks_kernels_and_strides() {
    random_problems("conv backward", 32, conv_problem(), |problem| {
        check_conv::<f32>(problem)?;
        check_conv::<bf16>(problem)
    });
}

#[derive(Debug, Clone)]
struct Depthwise {
    spec: DepthwiseSpec,
    values: Values,
}

fn check_depthwise<T: Element>(problem: &Depthwise) -> Result<(), Failure> {
    let Depthwise { spec, values } = problem;
    let DepthwiseSpec { batch, input: [height, width], channels, kernel, stride, .. } = *spec;
    let [oh, ow] = spec.output();
    let x = values.input::<T>("x", &[batch, height, width, channels]);
    let weight = values.weight::<T>("weight", &[kernel, kernel, channels], 0.5);
    let bias = values.weight::<f32>("bias", &[channels], 0.5);
    let d_out = values.weight::<T>("d_out", &[batch, oh, ow, channels], 1.0);
    let function = Differentiable {
        inputs: &[("x", &x), ("weight", &weight), ("bias", &bias)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| {
            let weight = inputs[1].permute([2, 0, 1]).unsqueeze(1);
            nhwc(&segface_reference::depthwise::depthwise(&nchw(&inputs[0]), &weight, Some(&inputs[2]), stride as i64))
        },
    };
    let terms = |input: &str| if input == "x" { kernel * kernel } else { batch * oh * ow };
    function.judge::<T>(
        "depthwise",
        |input| Floor::of_sum(T::DTYPE, terms(input)),
        |context| {
            let (x, d_out) = (x.elements::<T>(), d_out.elements::<T>());
            let mut d_x = unset::<T>(x.len());
            let (mut d_weight, mut d_bias) = (vec![0.0; weight.f32().len()], vec![0.0; channels]);
            let operands =
                DepthwiseInputOperands { d_out: &d_out, weight: weight.f32(), d_x: Gradient::overwrite(&mut d_x) };
            depthwise_input(context, spec, operands);
            let operands =
                DepthwiseWeightOperands { x: &x, d_out: &d_out, d_weight: &mut d_weight, d_bias: Some(&mut d_bias) };
            depthwise_weight(context, spec, operands);
            vec![widen(&d_x), d_weight, d_bias]
        },
    )
}

#[test]
fn depthwise_convolutions() {
    let kernel = prop::sample::select(vec![(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)]);
    let problem = (1..=2usize, 1..=23usize, 1..=23usize, 1..=40usize, kernel, unit_values()).prop_map(
        |(batch, height, width, channels, (kernel, stride), values)| {
            let (act, input) = (Act::Identity, [height, width]);
            Depthwise { spec: DepthwiseSpec { batch, input, channels, kernel, stride, act, pool: false }, values }
        },
    );
    random_problems("depthwise backward", 32, problem, |problem| {
        check_depthwise::<f32>(problem)?;
        check_depthwise::<bf16>(problem)
    });
}

#[derive(Debug, Clone)]
struct Norm {
    spec: BatchNormSpec,
    values: Values,
}

fn check_norm(problem: &Norm) -> Result<(), Failure> {
    let Norm { spec, values } = problem;
    let BatchNormSpec { rows, channels, eps, momentum, act } = *spec;
    let x = values.input::<f32>("x", &[rows, channels]);
    let weight = values.factor::<f32>("weight", &[channels]);
    let bias = values.weight::<f32>("bias", &[channels], 0.5);
    let d_out = values.weight::<f32>("d_out", &[rows, channels], 1.0);
    let function = Differentiable {
        inputs: &[("x", &x), ("weight", &weight), ("bias", &bias)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| {
            let p = BatchNorm {
                weight: inputs[1].shallow_clone(),
                bias: inputs[2].shallow_clone(),
                running_mean: inputs[1].detach().zeros_like(),
                running_var: inputs[1].detach().ones_like(),
            };
            activate(act, &batch_norm_in_training(&inputs[0], &p, f64::from(momentum), f64::from(eps)))
        },
    };
    let floor = |_: &str| Floor::of_sum(segface_kernels::DType::F32, rows);
    function.judge::<f32>("batch_norm", floor, |context| {
        let (mut mean, mut scale) = (vec![0.0; channels], vec![0.0; channels]);
        let mut out = unset::<f32>(rows * channels);
        let operands = BatchNormOperands {
            x: x.f32(),
            weight: weight.f32(),
            bias: bias.f32(),
            running: None,
            mean: &mut mean,
            scale: &mut scale,
            out: &mut out,
        };
        batch_norm(context, spec, operands);
        let mut d_x = unset::<f32>(rows * channels);
        let (mut d_weight, mut d_bias) = (vec![0.0; channels], vec![0.0; channels]);
        let operands = BatchNormBackwardOperands {
            x: x.f32(),
            weight: weight.f32(),
            bias: bias.f32(),
            mean: &mean,
            scale: &scale,
            d_out: d_out.f32(),
            d_x: Gradient::overwrite(&mut d_x),
            d_parameters: Some((&mut d_weight, &mut d_bias)),
        };
        batch_norm_backward(context, spec, operands);
        vec![d_x, d_weight, d_bias]
    })
}

#[test]
fn batch_norms_with_smooth_activations() {
    let act = prop::sample::select(vec![Act::Identity, Act::Silu, Act::Gelu, Act::Sigmoid]);
    let problem = (8..=3000usize, 1..=70usize, act, unit_values()).prop_map(|(rows, channels, act, values)| Norm {
        spec: BatchNormSpec { rows, channels, eps: 1e-3, momentum: 0.1, act },
        values,
    });
    random_problems("batch_norm backward", 24, problem, check_norm);
}

#[test]
fn activations_have_libtorchs_derivatives() {
    for act in ACTS {
        random_problems("act backward", 4, (1..=3000usize, unit_values()), |(len, values)| {
            let x = values.weight::<f32>("x", &[*len], 5.0);
            let d_out = values.weight::<f32>("d_out", &[*len], 1.0);
            let function = Differentiable {
                inputs: &[("x", &x)],
                cotangent: &d_out,
                forward: |inputs: &[Tensor]| activate(act, &inputs[0]),
            };
            let floor = |_: &str| Floor::of(segface_kernels::DType::F32);
            function.judge::<f32>(&format!("{act:?}"), floor, |context| {
                let mut d_x = unset::<f32>(*len);
                act_backward(context, act, x.f32(), d_out.f32(), Gradient::overwrite(&mut d_x));
                vec![d_x]
            })
        });
    }
}

#[test]
fn factors_and_repeated_operands() {
    let problem = (1..=3usize, 1..=400usize, 1..=70usize, unit_values());
    random_problems("factor backward", 16, problem, |&(groups, rows, channels, ref values)| {
        let shape = [groups, rows, channels];
        let x = values.input::<f32>("x", &shape);
        let factor = values.factor::<f32>("factor", &[groups, 1, channels]);
        let other = values.factor::<f32>("other", &[1, rows, channels]);
        let d_out = values.weight::<f32>("d_out", &shape, 1.0);
        let function = Differentiable {
            inputs: &[("factor", &factor), ("other", &other)],
            cotangent: &d_out,
            forward: |inputs: &[Tensor]| x.tensor(inputs[0].kind()) * &inputs[0] + &inputs[1],
        };
        let floor = |_: &str| Floor::of_sum(segface_kernels::DType::F32, rows);
        function.judge::<f32>("factor", floor, |context| {
            let mut d_factor = unset::<f32>(groups * channels);
            factor_backward(context, shape, x.f32(), d_out.f32(), Gradient::overwrite(&mut d_factor));
            let mut d_other = unset::<f32>(rows * channels);
            sum_repeats(context, rows * channels, d_out.f32(), Gradient::overwrite(&mut d_other));
            vec![d_factor, d_other]
        })
    });
}

#[test]
fn gates_of_squeeze_excite() {
    let problem = (1..=4usize, 1..=64usize, 1..=24usize, unit_values());
    random_problems("squeeze_excite backward", 16, problem, |&(batch, channels, squeeze, ref values)| {
        let spec = SqueezeExciteSpec { batch, pixels: 9, channels, squeeze, act: Act::Silu, gate_act: Act::Sigmoid };
        let sums = values.input::<f32>("sums", &[batch, channels]);
        let weight = values.weight::<f32>("weight", &[squeeze, channels], 0.5);
        let bias = values.weight::<f32>("bias", &[squeeze], 0.5);
        let weight1 = values.weight::<f32>("weight1", &[channels, squeeze], 0.5);
        let bias1 = values.weight::<f32>("bias1", &[channels], 0.5);
        let d_gate = values.weight::<f32>("d_gate", &[batch, channels], 1.0);
        let function = Differentiable {
            inputs: &[("sums", &sums), ("weight", &weight), ("bias", &bias), ("weight1", &weight1), ("bias1", &bias1)],
            cotangent: &d_gate,
            forward: |inputs: &[Tensor]| {
                let hidden = (&inputs[0] / 9.0).linear(&inputs[1], Some(&inputs[2])).silu();
                hidden.linear(&inputs[3], Some(&inputs[4])).sigmoid()
            },
        };
        let floor = |_: &str| Floor::of_sum(segface_kernels::DType::F32, channels);
        function.judge::<f32>("squeeze_excite", floor, |context: &mut Context| {
            let mut d_sums = unset::<f32>(batch * channels);
            let mut d =
                [vec![0.0; squeeze * channels], vec![0.0; squeeze], vec![0.0; squeeze * channels], vec![0.0; channels]];
            let [d_weight, d_bias, d_weight1, d_bias1] = &mut d;
            let operands = SqueezeExciteBackwardOperands {
                sums: sums.f32(),
                squeeze_weight: weight.f32(),
                squeeze_bias: bias.f32(),
                excite_weight: weight1.f32(),
                excite_bias: bias1.f32(),
                d_gate: d_gate.f32(),
                d_sums: Gradient::overwrite(&mut d_sums),
                d_parameters: Some([d_weight, d_bias, d_weight1, d_bias1]),
            };
            squeeze_excite_backward(context, &spec, operands);
            [vec![d_sums], d.to_vec()].concat()
        })
    });
}

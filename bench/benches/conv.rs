//! Convolutions, depthwise convolutions and what stands beside them in the convolutional networks, at the sizes a 512-pixel
//! image gives them, on one thread.
//!
//! Dense convolutions report elements per second that are FLOP/s; the others, bound by memory, report bytes per second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segface_kernels::{
    Act, Context, Element, Epilogue, Isa, bf16,
    conv::{self, ConvOperands, ConvSpec},
    depthwise::{self, DepthwiseOperands, DepthwiseSpec},
    epilogue::EpilogueOperands,
    gemm::PackedMatrix,
    layer_norm::{self, LayerNormOperands, LayerNormSpec},
    resample::{self, BilinearSpec, MaxPoolSpec},
};

/// Values in −1..1, the same in every run.
fn values<T: Element>(len: usize) -> Vec<T> {
    (0..len).map(|i| T::from_f32(((i * 7919) % 2003) as f32 / 1001.5 - 1.0)).collect()
}

fn context() -> Context {
    Context::new(1, Isa::best())
}

/// kernel, stride, padding, channels, output channels, input side, activation, where it is from.
type Dense = (usize, usize, usize, usize, usize, usize, Act, &'static str);

const DENSE: [Dense; 12] = [
    (3, 2, 1, 3, 16, 512, Act::HardSwish, "mobilenet stem"),
    (3, 2, 1, 3, 24, 512, Act::Silu, "efficientnet stem"),
    (3, 1, 1, 24, 24, 256, Act::Silu, "efficientnet stage 1"),
    (3, 1, 1, 48, 192, 128, Act::Silu, "efficientnet stage 2"),
    (3, 1, 1, 80, 320, 64, Act::Silu, "efficientnet stage 3"),
    (7, 2, 3, 3, 64, 512, Act::Relu, "resnet stem"),
    (3, 1, 1, 64, 64, 128, Act::Relu, "resnet layer 1"),
    (3, 1, 1, 256, 256, 32, Act::Relu, "resnet layer 3"),
    (3, 1, 1, 512, 512, 16, Act::Relu, "resnet layer 4"),
    (1, 2, 0, 1024, 2048, 32, Act::Identity, "resnet shortcut"),
    (4, 4, 0, 3, 128, 512, Act::Identity, "patch embedding"),
    (2, 2, 0, 512, 1024, 32, Act::Identity, "convnext downsampling"),
];

fn dense<T: Element>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("conv {:?}", T::DTYPE));
    let mut ctx = context();
    for (kernel, stride, padding, channels, out_channels, side, act, name) in DENSE {
        let epilogue = Epilogue { bias: true, act, ..Epilogue::default() };
        let input = [side, side];
        let spec = ConvSpec { batch: 1, input, channels, out_channels, kernel, stride, padding, epilogue };
        let (x, bias) = (values::<T>(side * side * channels), values::<f32>(out_channels));
        let weight = values::<f32>(out_channels * spec.depth());
        let weight = PackedMatrix::pack::<T>(ctx.isa(), out_channels, spec.depth(), &weight);
        let mut out = vec![T::default(); spec.rows() * out_channels];
        group.throughput(Throughput::Elements(spec.flops() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let epilogue = EpilogueOperands { bias: Some(&bias), ..EpilogueOperands::default() };
                conv::cpu::conv(&mut ctx, &spec, ConvOperands { x: &x, weight: &weight, epilogue, out: &mut out });
            });
        });
    }
}

/// kernel, stride, channels, input side, activation, whether it pools, where it is from.
const DEPTHWISE: [(usize, usize, usize, usize, Act, bool, &str); 10] = [
    (3, 1, 16, 256, Act::Relu, false, "mobilenet 1"),
    (3, 2, 64, 256, Act::Relu, false, "mobilenet 2"),
    (5, 2, 72, 128, Act::Relu, true, "mobilenet 4"),
    (5, 1, 120, 64, Act::Relu, true, "mobilenet 5"),
    (3, 1, 672, 32, Act::HardSwish, true, "mobilenet 12"),
    (5, 1, 960, 16, Act::HardSwish, true, "mobilenet 14"),
    (7, 1, 128, 128, Act::Identity, false, "convnext stage 1"),
    (7, 1, 512, 32, Act::Identity, false, "convnext stage 3"),
    (7, 1, 1024, 16, Act::Identity, false, "convnext stage 4"),
    (3, 1, 1056, 32, Act::Silu, true, "efficientnet stage 5"),
];

fn depthwise_convolutions<T: Element>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("depthwise {:?}", T::DTYPE));
    let mut ctx = context();
    for (kernel, stride, channels, side, act, pool, name) in DEPTHWISE {
        let spec = DepthwiseSpec { batch: 1, input: [side, side], channels, kernel, stride, act, pool };
        let (x, bias) = (values::<T>(side * side * channels), values::<f32>(channels));
        let weight = values::<f32>(kernel * kernel * channels);
        let [height, width] = spec.output();
        let mut out = vec![T::default(); height * width * channels];
        let mut sums = vec![0.0; channels];
        group.throughput(Throughput::Bytes(spec.bytes(T::DTYPE) as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                let sums = pool.then_some(sums.as_mut_slice());
                let operands = DepthwiseOperands { x: &x, weight: &weight, bias: Some(&bias), out: &mut out, sums };
                depthwise::cpu::depthwise(&mut ctx, &spec, operands);
            });
        });
    }
}

fn others<T: Element>(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("memory-bound {:?}", T::DTYPE));
    let mut ctx = context();

    let spec = LayerNormSpec { rows: 128 * 128, channels: 128, eps: 1e-6 };
    let (x, weight) = (values::<T>(spec.rows * spec.channels), values::<f32>(spec.channels));
    let mut out = x.clone();
    group.throughput(Throughput::Bytes(spec.bytes(T::DTYPE) as u64));
    group.bench_function("layer norm, convnext stem", |b| {
        b.iter(|| {
            let operands = LayerNormOperands { x: Some(&x), weight: &weight, bias: &weight, out: &mut out };
            layer_norm::cpu::layer_norm(&mut ctx, &spec, operands);
        });
    });

    let spec = MaxPoolSpec { batch: 1, input: [256, 256], channels: 64 };
    let x = values::<T>(256 * 256 * 64);
    let mut out = vec![T::default(); 128 * 128 * 64];
    group.throughput(Throughput::Bytes(spec.bytes(T::DTYPE) as u64));
    group.bench_function("max pooling, resnet stem", |b| {
        b.iter(|| resample::cpu::max_pool(&mut ctx, &spec, &x, &mut out));
    });

    let spec = BilinearSpec { batch: 1, input: [64, 64], output: [128, 128], channels: 256 };
    let x = values::<T>(64 * 64 * 256);
    let mut out = vec![T::default(); 128 * 128 * 256];
    group.throughput(Throughput::Bytes(spec.bytes(T::DTYPE) as u64));
    group.bench_function("bilinear ×2, unfolded fusion", |b| {
        b.iter(|| resample::cpu::bilinear(&mut ctx, &spec, &x, &mut out));
    });
}

fn all(c: &mut Criterion) {
    dense::<f32>(c);
    dense::<bf16>(c);
    depthwise_convolutions::<f32>(c);
    depthwise_convolutions::<bf16>(c);
    others::<f32>(c);
    others::<bf16>(c);
}

criterion_group! { name = conv_family; config = Criterion::default().sample_size(20); targets = all }
criterion_main!(conv_family);

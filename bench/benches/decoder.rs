//! The decoder's large kernels at 512 px (128×128 image tokens, 19 classes) on one thread. Elements per second are FLOP/s.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use segface_kernels::{
    Context, Element, Isa, bf16,
    gemm::PackedMatrix,
    mask_head::{self, MaskHeadOperands, MaskHeadOutput, MaskHeadSpec},
    mlp_fusion::{self, MlpFusionOperands, MlpFusionSpec},
    token_attention::{self, ImagePassOperands, ImagePassSpec},
};

const SIDE: usize = 128;
const CLASSES: usize = 19;
const WIDTH: usize = 256;

/// Values in −1..1, the same in every run.
fn values<T: Element>(len: usize) -> Vec<T> {
    (0..len).map(|i| T::from_f32(((i * 7919) % 2003) as f32 / 1001.5 - 1.0)).collect()
}

fn packed<T: Element>(n: usize, k: usize) -> PackedMatrix {
    let weight: Vec<f32> = values::<f32>(n * k).iter().map(|v| v / (k as f32).sqrt()).collect();
    PackedMatrix::pack::<T>(Isa::best(), n, k, &weight)
}

fn image_pass<T: Element>(c: &mut Criterion) {
    let mut context = Context::new(1, Isa::best());
    let mut group = c.benchmark_group(format!("image pass {:?}", T::DTYPE));
    for (name, update, attend) in [("attend", false, true), ("update", true, false), ("both", true, true)] {
        let input = [SIDE, SIDE];
        let spec = ImagePassSpec { batch: 1, input, tokens: CLASSES, update, attend, shared_attend: false, eps: 1e-5 };
        let rows = spec.rows();
        let (pe, scores) = (values::<f32>(spec.pe_rows() * WIDTH), values::<f32>(rows * WIDTH));
        let (bias, gamma, beta) = (vec![0.1; rows], vec![1.0; WIDTH], vec![0.0; WIDTH]);
        let mut x = values::<T>(SIDE * SIDE * WIDTH);
        let mut pooled = vec![0.0; if attend { rows * WIDTH } else { 0 }];
        let mut workspace = vec![0.0; spec.workspace_len()];
        group.throughput(Throughput::Elements(spec.flops()));
        group.bench_function(name, |b| {
            b.iter(|| {
                let operands = ImagePassOperands {
                    pe: &pe,
                    update_scores: if update { &scores } else { &[] },
                    update_score_bias: if update { &bias } else { &[] },
                    update_values: if update { &scores } else { &[] },
                    update_bias: if update { &beta } else { &[] },
                    norm: if update { (&gamma, &beta) } else { (&[], &[]) },
                    attend_scores: if attend { &scores } else { &[] },
                    x: &mut x,
                    pooled: &mut pooled,
                    workspace: &mut workspace,
                };
                token_attention::cpu::image_pass::<T>(&mut context, &spec, operands);
            });
        });
    }
    group.finish();
}

fn mask_head<T: Element>(c: &mut Criterion) {
    let mut context = Context::new(1, Isa::best());
    let spec = MaskHeadSpec { batch: 1, input: [SIDE, SIDE], classes: CLASSES, output: MaskHeadOutput::Labels };
    let (weight1, weight2) = (packed::<T>(256, WIDTH), packed::<T>(128, 64));
    let (x, hyper) = (values::<T>(SIDE * SIDE * WIDTH), values::<f32>(CLASSES * 32));
    let (gamma, zeros) = (vec![1.0; 64], vec![0.0; 64]);
    let mut labels = vec![0u8; 16 * SIDE * SIDE];
    let mut group = c.benchmark_group(format!("mask head {:?}", T::DTYPE));
    group.throughput(Throughput::Elements(spec.flops()));
    group.bench_function("labels", |b| {
        b.iter(|| {
            let operands = MaskHeadOperands {
                x: &x,
                weight1: &weight1,
                bias1: &zeros,
                norm: (&gamma, &zeros),
                weight2: &weight2,
                bias2: &zeros[..32],
                hyper: &hyper,
                logits: None,
                labels: Some(&mut labels),
            };
            mask_head::cpu::mask_head::<T>(&mut context, &spec, operands);
        });
    });
    group.finish();
}

fn fusion<T: Element>(c: &mut Criterion) {
    let mut context = Context::new(1, Isa::best());
    let taps = [[128, 128, 128], [64, 64, 256], [32, 32, 512], [16, 16, 1024]];
    let spec = MlpFusionSpec { batch: 1, taps, width: WIDTH };
    let maps = taps.map(|[height, width, channels]| values::<T>(height * width * channels));
    let weights = taps.map(|[_, _, channels]| packed::<T>(WIDTH, channels));
    let bias = vec![0.1; WIDTH];
    let mut projected = vec![T::default(); spec.projected_len()];
    let mut out = vec![T::default(); SIDE * SIDE * WIDTH];
    let mut group = c.benchmark_group(format!("mlp fusion {:?}", T::DTYPE));
    group.throughput(Throughput::Elements(spec.flops()));
    group.bench_function("swin_base taps", |b| {
        b.iter(|| {
            let operands = MlpFusionOperands {
                taps: maps.each_ref().map(|map| &map[..]),
                weights: weights.each_ref(),
                bias: &bias,
                projected: &mut projected,
                out: &mut out,
            };
            mlp_fusion::cpu::mlp_fusion::<T>(&mut context, &spec, operands);
        });
    });
    group.finish();
}

criterion_group!(
    benches,
    image_pass::<f32>,
    image_pass::<bf16>,
    mask_head::<f32>,
    mask_head::<bf16>,
    fusion::<f32>,
    fusion::<bf16>
);
criterion_main!(benches);

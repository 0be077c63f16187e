//! The fused window attention of `swin_base` at its four stages, on one thread, beside the products inside it alone.
//!
//! Elements per second are FLOP/s of the tokens there are (padding is not computed and not counted). What the products reach
//! alone and the whole branch does not is the price of norm, softmax, residual and of moving windows.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segface_kernels::{
    Context, Element, Isa, bf16,
    gemm::{PackedMatrix, tile},
    window_attention::{WindowAttentionOperands, WindowAttentionSpec, WindowKind, WindowPlan, cpu},
};

/// Side of the image, side of the map, heads.
const STAGES: [(usize, usize, usize); 8] = [
    (512, 128, 4),
    (512, 64, 8),
    (512, 32, 16),
    (512, 16, 32),
    (224, 56, 4),
    (224, 28, 8),
    (224, 14, 16),
    (224, 7, 32),
];

/// Rows of a product, as many as four windows have.
const ROWS: usize = 196;

/// Values in −1..1 times `spread`, the same in every run.
fn values(len: usize, spread: f32) -> Vec<f32> {
    (0..len).map(|i| (((i * 7919) % 2003) as f32 / 1001.5 - 1.0) * spread).collect()
}

fn branch<T: Element>(c: &mut Criterion) {
    let mut context = Context::new(1, Isa::best());
    let isa = context.isa();
    let mut group = c.benchmark_group(format!("window attention {:?}", T::DTYPE));
    for (size, side, heads) in STAGES {
        let (channels, window) = (32 * heads, 7);
        let plan = WindowPlan::new([side, side], window, window / 2);
        let spec = WindowAttentionSpec {
            batch: 1,
            input: plan.input,
            channels,
            heads,
            window,
            shift: plan.shift,
            kind: WindowKind::V1,
            eps: 1e-5,
        };
        let spread = (3.0 / channels as f32).sqrt();
        let qkv_weight = PackedMatrix::pack::<T>(isa, 3 * channels, channels, &values(3 * channels * channels, spread));
        let proj_weight = PackedMatrix::pack::<T>(isa, channels, channels, &values(channels * channels, spread));
        let (ones, small) = (vec![1.0; channels], values(3 * channels, 0.1));
        let bias = values(heads * window.pow(4), 1.0);
        let score_scale = vec![32f32.powf(-0.5); heads];
        let x: Vec<T> = values(side * side * channels, 1.0).into_iter().map(T::from_f32).collect();

        let mut out = x.clone();
        group.throughput(Throughput::Elements(spec.flops() as u64));
        group.bench_function(BenchmarkId::new("branch", format!("{side}² of {size}")), |b| {
            b.iter(|| {
                let operands = WindowAttentionOperands {
                    norm: (&ones, &small[..channels]),
                    qkv_weight: &qkv_weight,
                    qkv_bias: &small,
                    score_scale: &score_scale,
                    bias: &bias,
                    proj_weight: &proj_weight,
                    proj_bias: &small[..channels],
                    x: &mut out,
                };
                cpu::window_attention(&mut context, &spec, operands);
            });
        });

        let rows = side * side;
        let mut product = vec![0.0; ROWS * 128];
        group.throughput(Throughput::Elements((8 * rows * channels * channels) as u64));
        group.bench_function(BenchmarkId::new("products", format!("{side}² of {size}")), |b| {
            b.iter(|| {
                for row in (0..rows).step_by(ROWS) {
                    let m = ROWS.min(rows - row);
                    for weight in [&qkv_weight, &proj_weight] {
                        for column in (0..weight.n()).step_by(128) {
                            let columns = column..(column + 128).min(weight.n());
                            let a = &x[row * channels..];
                            tile(isa, m, a, channels, weight.view(), columns, &mut product, 128, false);
                        }
                    }
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, branch::<f32>, branch::<bf16>);
criterion_main!(benches);

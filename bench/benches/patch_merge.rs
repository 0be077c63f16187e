//! Patch merging of `swin_base` between its stages, on one thread. Elements per second are FLOP/s.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segface_kernels::{
    Context, Element, Isa, bf16,
    gemm::PackedMatrix,
    patch_merge::{MergeNorm, PatchMergeOperands, PatchMergeSpec, cpu},
};

/// Side of the image, side of the map, its channels.
const MERGES: [(usize, usize, usize); 6] =
    [(512, 128, 128), (512, 64, 256), (512, 32, 512), (224, 56, 128), (224, 28, 256), (224, 14, 512)];

/// Values in −1..1, the same in every run.
fn values<T: Element>(len: usize) -> Vec<T> {
    (0..len).map(|i| T::from_f32(((i * 7919) % 2003) as f32 / 1001.5 - 1.0)).collect()
}

fn merge<T: Element>(c: &mut Criterion) {
    let mut context = Context::new(1, Isa::best());
    let mut group = c.benchmark_group(format!("patch merge {:?}", T::DTYPE));
    for (size, side, channels) in MERGES {
        let spec = PatchMergeSpec { batch: 1, input: [side, side], channels, norm: MergeNorm::Before, eps: 1e-5 };
        let weight = values::<f32>(8 * channels * channels);
        let weight = PackedMatrix::pack::<T>(context.isa(), 2 * channels, 4 * channels, &weight);
        let (gamma, beta) = (vec![1.0; 4 * channels], vec![0.1; 4 * channels]);
        let x = values::<T>(side * side * channels);
        let mut out = vec![T::default(); spec.output().iter().product::<usize>() * 2 * channels];
        group.throughput(Throughput::Elements(spec.flops() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{side}² of {size}")), |b| {
            b.iter(|| {
                let operands = PatchMergeOperands { x: &x, norm: (&gamma, &beta), weight: &weight, out: &mut out };
                cpu::patch_merge(&mut context, &spec, operands);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, merge::<f32>, merge::<bf16>);
criterion_main!(benches);

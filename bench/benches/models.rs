//! Whole networks on one thread: time of a run and FLOPs of the folded plan per second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use segface::engine::CpuEngine;
use segface::weights::{seeded, seeded_values};
use segface::{Backbone, ModelSpec, Variant};
use segface_codegen::ir::Output;
use segface_codegen::plan::{CompileOptions, Precision, compile};
use segface_kernels::Isa;
use std::sync::Arc;

fn models(c: &mut Criterion) {
    let mut group = c.benchmark_group("models");
    group.sample_size(10);
    for (backbone, size) in [
        (Backbone::MobileNet, 512),
        (Backbone::EfficientNet, 512),
        (Backbone::ResNet, 512),
        (Backbone::SwinBase, 224),
        (Backbone::SwinBase, 512),
        (Backbone::SwinV2Base, 512),
        (Backbone::ConvNextBase, 512),
    ] {
        let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
        for precision in [Precision::F32, Precision::Bf16] {
            let options = CompileOptions {
                batch: 1,
                height: size,
                width: size,
                precision,
                outputs: vec![Output::Labels],
                disabled: vec![],
            };
            let plan = compile(&weights.spec, &weights, &options).expect("a size every network takes");
            group.throughput(Throughput::Elements(plan.flops()));
            let mut engine = CpuEngine::new(Arc::new(plan), 1, Isa::best()).expect("this CPU's own instruction set");
            let input = seeded_values("input", 3 * size * size);
            group.bench_function(format!("{backbone}@{size} {}", precision.name()), |b| {
                b.iter(|| engine.run(&input).expect("an input of the right size"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, models);
criterion_main!(benches);

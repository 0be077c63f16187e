//! Gradients of whole networks.

use crate::common::{Problem, ours, reference};
use segface::train::Engine;
use segface::weights::seeded;
use segface_codegen::grad::Means;
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::Isa;
use segface_tests::judge::Errors;
use segface_tests::whole::f32_bound;
use tch::{Kind, Tensor};

/// How much worse than libtorch in f32 the gradients may be, as a whole and tensor by tensor.
const FACTOR: f64 = 2.0;

/// Errors of both engines for one network.
struct Table {
    /// Relative L2 of all gradients as one vector: ours, libtorch's in f32.
    whole: [f64; 2],
    /// Tensors that are further off than twice libtorch's error plus the floor.
    worse: Vec<String>,
    tensors: usize,
}

fn table(spec: ModelSpec, number: usize, floor: f64, (isa, precision): (Isa, Precision)) -> Table {
    let problem = Problem { spec, batch: 2, side: 64, stochastic_depth: true, number };
    let weights = seeded(spec);
    let mut engine = problem.engine_by(&weights, 2, isa, Means { precision, ..Means::default() });
    let kind = if precision == Precision::Bf16 { Kind::BFloat16 } else { Kind::Float };
    let (loss, gradients) = ours(&mut engine, &problem);
    let (truth_loss, truth) = reference(&weights, &problem, Kind::Double);
    let (peer_loss, peer) = reference(&weights, &problem, kind);
    for (own, truth, peer) in
        [(loss.cross_entropy, truth_loss[0], peer_loss[0]), (loss.dice, truth_loss[1], peer_loss[1])]
    {
        let allowed = FACTOR * (peer - truth).abs() + floor.max(1e-6) * truth.abs();
        assert!((own - truth).abs() <= allowed, "{spec}: loss {own}, truth {truth}, libtorch {peer}");
    }
    let square = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]);
    let mut squares = [0.0f64; 3];
    let mut errors = Vec::new();
    for (name, own) in &gradients {
        let Some(truth) = truth.get(name) else {
            assert!(own.iter().all(|d| *d == 0.0), "{spec}: {name} feeds nothing, but has a gradient");
            continue;
        };
        let (truth, peer) = (truth.to_kind(Kind::Double), peer[name].to_kind(Kind::Double));
        let own = Tensor::from_slice(own).to_kind(Kind::Double).view_as(&truth);
        squares[0] += square(&(&own - &truth));
        squares[1] += square(&(&peer - &truth));
        squares[2] += square(&truth);
        let norms = [square(&(&own - &truth)).sqrt(), square(&truth).sqrt()];
        errors.push((name, Errors::of(&own, &truth).l2, Errors::of(&peer, &truth).l2, norms));
    }
    let whole = [(squares[0] / squares[2]).sqrt(), (squares[1] / squares[2]).sqrt()];
    // A ReLU whose x is within rounding of zero has another slope in f32 and changes all gradients before it. Where that happens is chance:
    // a tensor may be as far off as libtorch's are as a whole. A gradient that is zero but for the rounding of f64 (of a bias that the next batch
    // norm takes away again) is nothing but rounding, whose share of all gradients must be that of one number in f32.
    let all = squares[2].sqrt();
    let worse = errors.iter().filter(|(_, own, peer, [distance, truth])| match *truth < 1e-12 * all {
        true => *distance > f64::from(f32::EPSILON) / 2.0 * all,
        false => *own > FACTOR * peer.max(whole[1]) + floor,
    });
    let worse: Vec<String> = worse
        .map(|(name, own, peer, [distance, _])| {
            format!("{name}: {own:.2e}, libtorch {peer:.2e}; {:.1e} of all gradients", distance / all)
        })
        .collect();
    // Running statistics by the same rule.
    for entry in engine.layout().buffers().iter().filter(|entry| entry.role == segface::train::Role::Statistic) {
        let own = Tensor::from_slice(&engine.buffers()[entry.range.clone()]);
        let (own, peer) = (Errors::of(&own, &truth[&entry.name]), Errors::of(&peer[&entry.name], &truth[&entry.name]));
        assert!(
            own.l2 <= FACTOR * peer.l2 + floor.max(1e-6),
            "{spec}: {}: {:.2e}, libtorch {:.2e}",
            entry.name,
            own.l2,
            peer.l2
        );
    }
    Table { whole, worse, tensors: errors.len() }
}

fn check(backbone: Backbone) {
    check_variant(ModelSpec { backbone, variant: Variant::Celeb }, 0, 2e-6, (Isa::best(), Precision::F32));
}

/// In bf16, by every tier that has products of its own for it: error allowed where libtorch makes none is half a unit in the last place.
fn check_bf16(backbone: Backbone) {
    for isa in Isa::available().filter(|isa| *isa == Isa::best() || *isa == Isa::Avx512) {
        check_variant(ModelSpec { backbone, variant: Variant::Celeb }, 0, 2e-3, (isa, Precision::Bf16));
    }
}

/// `number`: which batch; `floor`: error allowed even where libtorch makes none.
fn check_variant(spec: ModelSpec, number: usize, floor: f64, means: (Isa, Precision)) {
    let Table { whole: [own, peer], worse, tensors } = table(spec, number, floor, means);
    println!(
        "{spec}, {means:?}: relative L2 of all gradients {own:.2e}, libtorch {peer:.2e}; {} of {tensors} tensors worse",
        worse.len()
    );
    for line in worse.iter().take(12) {
        println!("  {line}");
    }
    assert!(own <= FACTOR * peer + floor, "{spec}: {own:.2e}, libtorch {peer:.2e}");
    assert!(worse.is_empty(), "{spec}: {} of {tensors} tensors", worse.len());
}

#[test]
fn gradients_of_mobilenet_are_within_twice_libtorchs_f32_error() {
    check(Backbone::MobileNet);
}

#[test]
fn gradients_go_back_through_lapas_warp() {
    // What f32 coordinates of the warp may cost a network (docs/ARCHITECTURE.md, Numerics), forward and backward alike. In batch 0 a ReLU of
    // the class tokens changes its slope besides.
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Lapa };
    check_variant(spec, 1, f32_bound(Variant::Lapa), (Isa::best(), Precision::F32));
}

#[test]
fn gradients_of_swin_are_within_twice_libtorchs_f32_error() {
    check(Backbone::SwinBase);
}

#[test]
fn gradients_of_swin_v2_are_within_twice_libtorchs_f32_error() {
    check(Backbone::SwinV2Tiny);
}

#[test]
fn gradients_of_convnext_are_within_twice_libtorchs_f32_error() {
    check(Backbone::ConvNextTiny);
}

#[test]
fn gradients_in_bf16_are_within_twice_libtorchs_bf16_error() {
    for backbone in [Backbone::MobileNet, Backbone::SwinBase, Backbone::SwinV2Tiny, Backbone::ConvNextTiny] {
        check_bf16(backbone);
    }
}

/// What does not fit into the arena is computed again, by the same kernels from the same numbers.
#[test]
fn gradients_do_not_depend_on_the_arena() {
    for (backbone, precision) in [
        (Backbone::SwinV2Tiny, Precision::F32),
        (Backbone::SwinV2Tiny, Precision::Bf16),
        (Backbone::SwinBase, Precision::F32),
        (Backbone::ConvNextTiny, Precision::F32),
        (Backbone::MobileNet, Precision::F32),
        (Backbone::EfficientNet, Precision::F32),
    ] {
        let spec = ModelSpec { backbone, variant: Variant::Celeb };
        let problem = Problem { spec, batch: 2, side: 64, stochastic_depth: true, number: 0 };
        let weights = seeded(spec);
        let mut bytes = usize::MAX;
        let mut expected = None;
        for share in [1.0, 0.75, 0.0] {
            let memory = (bytes as f64 * share) as usize;
            let mut engine = problem.engine_by(&weights, 2, Isa::best(), Means { precision, memory });
            let arena = engine.training().memory.arena_bytes;
            assert!(arena < bytes, "{spec}: an arena of {arena} bytes was to be smaller than {bytes}");
            assert!(share < 0.5 || arena <= memory, "{spec}: an arena of {arena} bytes for {memory}");
            let result = (ours(&mut engine, &problem), engine.buffers().to_vec());
            println!("{spec}, {precision:?}: {arena} bytes, {} nodes", engine.training().graph.nodes.len());
            assert!(*expected.get_or_insert_with(|| result.clone()) == result, "{spec}: other bits in {arena} bytes");
            bytes = arena;
        }
    }
}

#[test]
fn gradients_of_resnet_are_within_twice_libtorchs_f32_error() {
    check(Backbone::ResNet);
}

#[test]
fn gradients_of_efficientnet_are_within_twice_libtorchs_f32_error() {
    check(Backbone::EfficientNet);
}

#[test]
#[ignore = "the same code as the smaller ones; takes minutes"]
fn gradients_of_the_other_backbones_are_within_twice_libtorchs_f32_error() {
    for backbone in [Backbone::SwinV2Small, Backbone::SwinV2Base, Backbone::ConvNextSmall, Backbone::ConvNextBase] {
        check(backbone);
    }
}

#[test]
fn gradients_do_not_depend_on_the_number_of_threads_and_are_the_same_twice() {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    let problem = Problem { spec, batch: 2, side: 64, stochastic_depth: true, number: 0 };
    let weights = seeded(spec);
    let mut one = problem.engine(&weights, 1);
    let mut three = problem.engine(&weights, 3);
    let first = ours(&mut one, &problem);
    assert!(first == ours(&mut three, &problem), "three threads give other bits than one");
    assert!(first == ours(&mut one, &problem), "the second run gives other bits");
}

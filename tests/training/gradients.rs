//! Gradients of whole networks.

use crate::common::{Problem, ours, reference};
use segface::train::Engine;
use segface::weights::seeded;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_tests::judge::Errors;
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

fn table(spec: ModelSpec, batch: usize) -> Table {
    let problem = Problem { spec, batch, side: 64, stochastic_depth: true, number: 0 };
    let weights = seeded(spec);
    let mut engine = problem.engine(&weights, 2);
    let (loss, gradients) = ours(&mut engine, &problem);
    let (truth_loss, truth) = reference(&weights, &problem, Kind::Double);
    let (peer_loss, peer) = reference(&weights, &problem, Kind::Float);
    for (own, truth, peer) in [(loss.cross_entropy, truth_loss[0], peer_loss[0]), (loss.dice, truth_loss[1], peer_loss[1])]
    {
        let allowed = FACTOR * (peer - truth).abs() + 1e-6 * truth.abs();
        assert!((own - truth).abs() <= allowed, "{spec}: loss {own}, truth {truth}, libtorch {peer}");
    }
    let mut squares = [0.0f64; 3];
    let mut worse = Vec::new();
    let mut tensors = 0;
    for (name, own) in &gradients {
        let Some(truth) = truth.get(name) else {
            assert!(own.iter().all(|d| *d == 0.0), "{spec}: {name} feeds nothing, but has a gradient");
            continue;
        };
        let (truth, peer) = (truth.to_kind(Kind::Double), peer[name].to_kind(Kind::Double));
        let own = Tensor::from_slice(own).to_kind(Kind::Double).view_as(&truth);
        let square = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]);
        squares[0] += square(&(&own - &truth));
        squares[1] += square(&(&peer - &truth));
        squares[2] += square(&truth);
        let (own, peer) = (Errors::of(&own, &truth), Errors::of(&peer, &truth));
        tensors += 1;
        let rms = square(&truth).sqrt() / (truth.numel() as f64).sqrt();
        if own.l2 > FACTOR * peer.l2 + 2e-6 {
            worse.push(format!("{name}: {:.2e}, libtorch {:.2e}, rms {rms:.1e}", own.l2, peer.l2));
        }
    }
    // Running statistics by the same rule.
    for entry in engine.layout().buffers().iter().filter(|entry| entry.role == segface::train::Role::Statistic) {
        let own = Tensor::from_slice(&engine.buffers()[entry.range.clone()]);
        let (own, peer) = (Errors::of(&own, &truth[&entry.name]), Errors::of(&peer[&entry.name], &truth[&entry.name]));
        assert!(own.l2 <= FACTOR * peer.l2 + 1e-6, "{spec}: {}: {:.2e}, libtorch {:.2e}", entry.name, own.l2, peer.l2);
    }
    let whole = [(squares[0] / squares[2]).sqrt(), (squares[1] / squares[2]).sqrt()];
    Table { whole, worse, tensors }
}

fn check(backbone: Backbone, batch: usize) {
    check_variant(ModelSpec { backbone, variant: Variant::Celeb }, batch);
}

fn check_variant(spec: ModelSpec, batch: usize) {
    let Table { whole: [own, peer], worse, tensors } = table(spec, batch);
    println!("{spec}: relative L2 of all gradients {own:.2e}, libtorch f32 {peer:.2e}; {} of {tensors} tensors worse", worse.len());
    for line in worse.iter().take(12) {
        println!("  {line}");
    }
    assert!(own <= FACTOR * peer + 1e-6, "{spec}: {own:.2e}, libtorch {peer:.2e}");
    // Tensors whose true gradient is (nearly) nothing have errors of any size in both.
    assert!(worse.len() * 20 <= tensors, "{spec}: {} of {tensors} tensors", worse.len());
}

#[test]
fn gradients_of_mobilenet_are_within_twice_libtorchs_f32_error() {
    check(Backbone::MobileNet, 2);
}

#[test]
fn gradients_go_back_through_lapas_warp() {
    check_variant(ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Lapa }, 2);
}

#[test]
fn gradients_of_swin_are_within_twice_libtorchs_f32_error() {
    check(Backbone::SwinBase, 2);
}

#[test]
fn gradients_of_swin_v2_are_within_twice_libtorchs_f32_error() {
    check(Backbone::SwinV2Tiny, 2);
}

#[test]
fn gradients_of_convnext_are_within_twice_libtorchs_f32_error() {
    check(Backbone::ConvNextTiny, 2);
}

#[test]
fn gradients_of_resnet_are_within_twice_libtorchs_f32_error() {
    check(Backbone::ResNet, 2);
}

#[test]
fn gradients_of_efficientnet_are_within_twice_libtorchs_f32_error() {
    check(Backbone::EfficientNet, 2);
}

#[test]
#[ignore = "the same code as the smaller ones; takes minutes"]
fn gradients_of_the_other_backbones_are_within_twice_libtorchs_f32_error() {
    for backbone in [Backbone::SwinV2Small, Backbone::SwinV2Base, Backbone::ConvNextSmall, Backbone::ConvNextBase] {
        check(backbone, 2);
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

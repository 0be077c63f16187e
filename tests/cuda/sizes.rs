//! Every network at sizes that people use, on the device, beside libtorch: minutes for each, so these run only when asked for,
//! `cargo xtask test -p segface-tests --test cuda -- --ignored --nocapture sizes`, and print a table of errors.

use segface::weights::{Weights, seeded};
use segface_codegen::{Backbone, ModelSpec, Variant, plan::Precision};
use segface_reference::Outputs;
use segface_tests::{
    cuda::{floor, peer_kind},
    judge::{Errors, label_flips},
    network::{Setup, run},
    parity::{self, Case},
    whole::{check_f32, check_peer, f32_bound, faces, reference},
};
use std::time::Instant;
use tch::{Kind, Tensor};

/// Every precision of the target.
const PRECISIONS: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];

/// A line of the table: the network, its size and precision, errors of logits, labels that differ, seconds on the device.
fn print(what: &str, precision: Precision, ours: &Tensor, truth: &Tensor, peer: Option<&Tensor>, seconds: f64) {
    let flips = label_flips(ours, truth);
    let pixels = truth.numel() as i64 / truth.size()[1];
    let peer = peer.map_or("-".into(), |peer| format!("{:.1e}", Errors::of(peer, truth).l2));
    println!(
        "| {what} | {} | {:.1e} | {peer} | {} of {pixels} | {:.1e} | {seconds:.0} |",
        precision.name(),
        Errors::of(ours, truth).l2,
        flips.count,
        flips.widest_margin
    );
}

/// Holds a network against libtorch in each of `precisions`.
fn check(weights: &Weights, [batch, height, width]: [i64; 3], precisions: &[Precision]) {
    let spec = weights.spec;
    let (input, landmarks) = (parity::input(batch, height, width), faces(batch, height, width));
    let truth = reference(weights, &input, &landmarks, Kind::Double);
    for &precision in precisions {
        let start = Instant::now();
        let ours = run(weights, &input, Some(&landmarks), &Setup::cuda(precision));
        let seconds = start.elapsed().as_secs_f64();
        let peer = reference(weights, &input, &landmarks, peer_kind(precision));
        let what = format!("{spec} {batch}x{height}x{width}");
        print(&what, precision, &ours.logits, &truth.logits, Some(&peer.logits), seconds);
        hold(&what, precision, spec.variant, &ours, &truth, &peer);
    }
}

fn hold(what: &str, precision: Precision, variant: Variant, ours: &Outputs, truth: &Outputs, peer: &Outputs) {
    let what = format!("{what} {}", precision.name());
    match precision {
        Precision::F32 => check_f32(&what, ours, truth, f32_bound(variant)),
        _ => check_peer(&what, floor(precision), ours, truth, peer),
    }
}

/// Where libtorch in f16 has no result: there it divides SwinV2's padded keys, which are zero, by an ε that is zero in f16.
fn is_padded_v2(backbone: Backbone, side: i64) -> bool {
    let v2 = [Backbone::SwinV2Base, Backbone::SwinV2Small, Backbone::SwinV2Tiny].contains(&backbone);
    v2 && side % 256 != 0
}

fn every_variant(backbone: Backbone) {
    tch::set_num_threads(1);
    for variant in Variant::ALL {
        let weights = seeded(ModelSpec { backbone, variant });
        let side = 128;
        let mut precisions = PRECISIONS.to_vec();
        precisions.retain(|precision| peer_kind(*precision) != Kind::Half || !is_padded_v2(backbone, side));
        check(&weights, [1, side, side], &precisions);
    }
    let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
    check(&weights, [1, 224, 224], &[Precision::Bf16]);
    if is_padded_v2(backbone, 128) {
        check(&weights, [1, 256, 256], &[Precision::F16, Precision::Tf32]);
    }
}

macro_rules! networks {
    ($($test:ident $backbone:ident)*) => {
        $(#[test]
        #[ignore = "takes minutes"]
        fn $test() {
            every_variant(Backbone::$backbone);
        })*
    };
}

networks! {
    swin_base_at_128_and_224 SwinBase
    swinv2_base_at_128_and_224 SwinV2Base
    swinv2_small_at_128_and_224 SwinV2Small
    swinv2_tiny_at_128_and_224 SwinV2Tiny
    convnext_base_at_128_and_224 ConvNextBase
    convnext_small_at_128_and_224 ConvNextSmall
    convnext_tiny_at_128_and_224 ConvNextTiny
    resnet_at_128_and_224 ResNet
    mobilenet_at_128_and_224 MobileNet
    efficientnet_at_128_and_224 EfficientNet
}

fn at_512(backbone: Backbone, precisions: &[Precision]) {
    tch::set_num_threads(1);
    check(&seeded(ModelSpec { backbone, variant: Variant::Celeb }), [1, 512, 512], precisions);
}

#[test]
#[ignore = "takes minutes"]
fn mobilenet_at_512() {
    at_512(Backbone::MobileNet, &[Precision::Bf16, Precision::F16]);
}

#[test]
#[ignore = "takes minutes"]
fn swin_base_at_512() {
    at_512(Backbone::SwinBase, &[Precision::Bf16]);
}

/// The published network's own outputs, in every precision. In f32 `models` holds all of them; lower precisions may flip labels only
/// where the two best classes are as close as logits are off.
#[test]
#[ignore = "takes minutes"]
fn stored_cases_in_every_precision() {
    tch::set_num_threads(1);
    for name in Case::names() {
        let case = Case::load(&name);
        let weights = seeded(case.spec);
        let truth = case.tensor("logits");
        for precision in PRECISIONS {
            let start = Instant::now();
            let ours = run(&weights, &case.input(), Some(&case.landmarks()), &Setup::cuda(precision)).logits;
            print(&name, precision, &ours, &truth, None, start.elapsed().as_secs_f64());
            let off = (&ours - &truth).abs().max().double_value(&[]);
            let flips = label_flips(&ours, &truth);
            assert!(flips.widest_margin <= 2.0 * off, "{name} {}: {flips:?}, off by {off:.1e}", precision.name());
            if precision == Precision::F32 {
                let error = Errors::of(&ours, &truth).l2;
                assert!(error <= f32_bound(case.spec.variant), "{name}: off by {error:.1e}");
            }
        }
    }
}

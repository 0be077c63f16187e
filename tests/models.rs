//! Whole networks: what the compiler makes of them computes what the published code computes.
//!
//! The stored cases decide first. Then every backbone with every label set, on seeded weights, at two sizes, against
//! the reference. In f32 the relative L2 error of logits, taps, fused map and tokens is at most 1e-4, or 2e-3 for LaPa,
//! whose float32 warp grid is ill-conditioned; in bf16 at most twice libtorch's in bf16 plus a rounding. Labels differ
//! only where the two best logits are closer than those errors allow.

use segface::weights::{Weights, seeded};
use segface_codegen::{Backbone, ModelSpec, Variant, passes::Pass, plan::Precision};
use segface_kernels::{DType, Isa};
use segface_reference::{Model, Outputs};
use segface_tests::{
    judge::{Errors, Floor, judge, label_flips},
    network::{Setup, run},
    parity::{self, Case},
};
use tch::{Kind, Tensor};

/// Every tensor of `outputs` with its name.
fn named(outputs: &Outputs) -> [(&'static str, &Tensor); 7] {
    let [stage0, stage1, stage2, stage3] = &outputs.taps;
    [
        ("logits", &outputs.logits),
        ("tokens", &outputs.tokens),
        ("fused", &outputs.fused),
        ("stage0", stage0),
        ("stage1", stage1),
        ("stage2", stage2),
        ("stage3", stage3),
    ]
}

fn f32_bound(variant: Variant) -> f64 {
    if variant == Variant::Lapa { 2e-3 } else { 1e-4 }
}

/// Largest absolute difference.
fn largest(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Labels may flip only where twice the error that logits of this precision may have reaches over the margin.
fn check_labels(what: &str, ours: &Tensor, truth: &Tensor, error: f64) {
    let flips = label_flips(ours, truth);
    assert!(flips.widest_margin <= 2.0 * error, "{what}: {flips:?}, but logits may be off by {error:.2e} only");
}

fn check_f32(what: &str, ours: &Outputs, truth: &Outputs, bound: f64) {
    for ((name, ours), (_, truth)) in named(ours).into_iter().zip(named(truth)) {
        let error = Errors::of(ours, truth).l2;
        assert!(error <= bound, "{what}: {name} is off by {error:.2e}, allowed {bound:.0e}");
    }
    let rms = truth.logits.square().mean(Kind::Double).sqrt().double_value(&[]);
    // The largest of n errors of a given root mean square is rarely beyond ten times that.
    check_labels(what, &ours.logits, &truth.logits, 10.0 * bound * rms);
}

fn check_bf16(what: &str, ours: &Outputs, truth: &Outputs, peer: &Outputs) {
    for (((name, ours), (_, truth)), (_, peer)) in named(ours).into_iter().zip(named(truth)).zip(named(peer)) {
        let values: Vec<f32> = Vec::try_from(ours.to_kind(Kind::Float).flatten(0, -1)).expect("values");
        if let Err(failure) = judge(&format!("{what}, {name}"), &values, truth, peer, Floor::of(DType::Bf16)) {
            panic!("{failure}");
        }
    }
    check_labels(what, &ours.logits, &truth.logits, 2.0 * largest(&peer.logits, &truth.logits));
}

fn reference(weights: &Weights, input: &Tensor, landmarks: &Tensor, kind: Kind) -> Outputs {
    Model::new(weights.spec, weights, kind).forward(input, Some(landmarks)).expect("the reference runs")
}

/// A stored case in f32, against what is stored.
fn check_stored(case: &Case, weights: &Weights, setup: &Setup) {
    let ours = run(weights, &case.input(), Some(&case.landmarks()), setup);
    let bound = f32_bound(case.spec.variant);
    for (name, tensor) in named(&ours) {
        let whole = matches!(name, "logits" | "tokens");
        let tensor = if whole { tensor.shallow_clone() } else { case.thin(name, tensor) };
        let error = Errors::of(&tensor, &case.tensor(name)).l2;
        assert!(error <= bound, "{}, {setup:?}: {name} is off by {error:.2e}, allowed {bound:.0e}", case.name);
    }
}

#[test]
fn stored_cases_in_f32() {
    tch::set_num_threads(1);
    for name in Case::names() {
        let case = Case::load(&name);
        check_stored(&case, &seeded(case.spec), &Setup::usual(Precision::F32));
    }
}

#[test]
fn stored_cases_in_bf16() {
    tch::set_num_threads(1);
    for name in Case::names() {
        let case = Case::load(&name);
        let weights = seeded(case.spec);
        let (input, landmarks) = (case.input(), case.landmarks());
        let truth = reference(&weights, &input, &landmarks, Kind::Double);
        let peer = reference(&weights, &input, &landmarks, Kind::BFloat16);
        let ours = run(&weights, &input, Some(&landmarks), &Setup::usual(Precision::Bf16));
        check_bf16(&name, &ours, &truth, &peer);
    }
}

/// One case of each kind of network on everything this machine can run.
const SMALL_CASES: [&str; 4] = [
    "celeb_mobilenet_72x100x2",
    "celeb_swin_base_64x64x1",
    "celeb_swinv2_tiny_80x112x1",
    "celeb_convnext_small_64x64x1",
];

#[test]
fn every_instruction_set_and_thread_count_gives_the_stored_logits() {
    for name in SMALL_CASES {
        let case = Case::load(name);
        let weights = seeded(case.spec);
        for isa in Isa::available() {
            let setup = |threads| Setup { isa, threads, ..Setup::usual(Precision::F32) };
            check_stored(&case, &weights, &setup(1));
            let alone = run(&weights, &case.input(), None, &setup(1)).logits;
            let shared = run(&weights, &case.input(), None, &setup(3)).logits;
            assert_eq!(largest(&alone, &shared), 0.0, "{name}, {}: thread count changes the result", isa.name());
        }
    }
}

#[test]
fn each_pass_can_be_left_out() {
    for name in SMALL_CASES {
        let case = Case::load(name);
        let weights = seeded(case.spec);
        for pass in Pass::ALL {
            check_stored(&case, &weights, &Setup { disabled: vec![pass], ..Setup::usual(Precision::F32) });
        }
        check_stored(&case, &weights, &Setup { disabled: Pass::ALL.to_vec(), ..Setup::usual(Precision::F32) });
    }
}

/// Every label set of `backbone`, at two sizes, one of them neither square nor a multiple of 4.
fn check_backbone(backbone: Backbone) {
    tch::set_num_threads(1);
    for variant in Variant::ALL {
        let weights = seeded(ModelSpec { backbone, variant });
        let models = [Kind::Double, Kind::BFloat16].map(|kind| Model::new(weights.spec, &weights, kind));
        for (batch, height, width) in [(1, 64, 64), (2, 74, 109)] {
            let what = |precision: Precision| format!("{} {batch}x{height}x{width} {}", weights.spec, precision.name());
            let input = parity::input(batch, height, width);
            let landmarks = landmarks(batch, height, width);
            let [truth, peer] = models.each_ref().map(|model| {
                model.forward(&input, Some(&landmarks)).unwrap_or_else(|e| panic!("{}: {e}", weights.spec))
            });
            let ours = |precision| run(&weights, &input, Some(&landmarks), &Setup::usual(precision));
            check_f32(&what(Precision::F32), &ours(Precision::F32), &truth, f32_bound(variant));
            check_bf16(&what(Precision::Bf16), &ours(Precision::Bf16), &truth, &peer);
        }
    }
}

/// Plausible faces, each a little beside the one before: [N, 5, 2] in pixels.
fn landmarks(batch: i64, height: i64, width: i64) -> Tensor {
    let face = [0.36, 0.42, 0.63, 0.4, 0.51, 0.57, 0.41, 0.71, 0.6, 0.7];
    let face = Tensor::from_slice(&face).view([1, 5, 2]);
    let beside = Tensor::arange(batch, (Kind::Double, tch::Device::Cpu)).view([-1, 1, 1]) * 0.03;
    (face + beside) * Tensor::from_slice(&[width as f64, height as f64])
}

macro_rules! backbones {
    ($($test:ident $backbone:ident)*) => {
        $(#[test] fn $test() { check_backbone(Backbone::$backbone) })*

        #[test]
        fn every_backbone_has_its_test() {
            assert_eq!(Backbone::ALL, [$(Backbone::$backbone),*]);
        }
    };
}

backbones! {
    swin_base SwinBase
    swinv2_base SwinV2Base
    swinv2_small SwinV2Small
    swinv2_tiny SwinV2Tiny
    convnext_base ConvNextBase
    convnext_small ConvNextSmall
    convnext_tiny ConvNextTiny
    resnet ResNet
    mobilenet MobileNet
    efficientnet EfficientNet
}

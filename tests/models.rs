//! Whole networks: what the compiler makes of them computes what the published code computes.
//!
//! The stored cases decide first. Then every backbone with every label set, on seeded weights, at two sizes, against
//! the reference. In f32 the relative L2 error of logits, taps, fused map and tokens is at most 1e-4, or 2e-3 for LaPa,
//! whose float32 warp grid is ill-conditioned; in bf16 at most twice libtorch's in bf16 plus a rounding. Labels differ
//! only where the two best logits are closer than those errors allow.

use segface::weights::seeded;
use segface_codegen::{Backbone, ModelSpec, Variant, passes::Pass, plan::Precision};
use segface_kernels::{DType, Isa};
use segface_reference::Model;
use segface_tests::{
    judge::Floor,
    network::{Setup, run},
    parity::{self, Case},
    whole::{check_f32, check_peer, check_stored, f32_bound, faces, largest, reference},
};
use tch::Kind;

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
        check_peer(&name, Floor::of(DType::Bf16), &ours, &truth, &peer);
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
            let landmarks = faces(batch, height, width);
            let [truth, peer] = models.each_ref().map(|model| {
                model.forward(&input, Some(&landmarks)).unwrap_or_else(|e| panic!("{}: {e}", weights.spec))
            });
            let ours = |precision| run(&weights, &input, Some(&landmarks), &Setup::usual(precision));
            check_f32(&what(Precision::F32), &ours(Precision::F32), &truth, f32_bound(variant));
            check_peer(&what(Precision::Bf16), Floor::of(DType::Bf16), &ours(Precision::Bf16), &truth, &peer);
        }
    }
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

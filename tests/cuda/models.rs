//! Whole networks as kernels on a device: stored cases in exact f32; every backbone and label set in every precision.

use segface::weights::seeded;
use segface_codegen::{Backbone, ModelSpec, Variant, plan::Precision};
use segface_reference::Model;
use segface_tests::{
    cuda::{floor, peer_kind},
    network::{Setup, run},
    parity::{self, Case},
    whole::{check_f32, check_peer, check_stored, f32_bound, faces},
};
use tch::Kind;

#[test]
fn stored_cases_in_f32() {
    tch::set_num_threads(1);
    for name in Case::names() {
        let case = Case::load(&name);
        check_stored(&case, &seeded(case.spec), &Setup::cuda(Precision::F32));
    }
}

/// One of each kind of network.
const KINDS: [Backbone; 4] = [Backbone::MobileNet, Backbone::SwinBase, Backbone::SwinV2Tiny, Backbone::ConvNextTiny];

/// Every label set of `backbone`, in f32 and bf16; one network of each kind in f16 and tf32 too. Compiling the kernels is what takes
/// long here, and those are the same for all label sets but for the number of classes.
fn check_backbone(backbone: Backbone) {
    tch::set_num_threads(1);
    let others: &[Precision] = if KINDS.contains(&backbone) { &[Precision::Tf32, Precision::F16] } else { &[] };
    // SwinV2 without padding: there libtorch in f16 divides a padded token's key, which is zero, by an ε that is zero in f16.
    let other_size = if backbone == Backbone::SwinV2Tiny { [1, 256, 256] } else { [1, 96, 64] };
    let plans: [(Variant, [usize; 3], &[Precision]); 3] = [
        (Variant::Celeb, [1, 64, 64], &[Precision::F32]),
        (Variant::Lapa, [2, 74, 109], &[Precision::Bf16]),
        (Variant::Helen, other_size, others),
    ];
    for (variant, [batch, height, width], precisions) in plans {
        let weights = seeded(ModelSpec { backbone, variant });
        let [batch, height, width] = [batch, height, width].map(|side| side as i64);
        let (input, landmarks) = (parity::input(batch, height, width), faces(batch, height, width));
        let libtorch = |kind| {
            let model = Model::new(weights.spec, &weights, kind);
            model.forward(&input, Some(&landmarks)).unwrap_or_else(|e| panic!("{}: {e}", weights.spec))
        };
        let truth = libtorch(Kind::Double);
        for &precision in precisions {
            let what = format!("{} {batch}x{height}x{width} {}", weights.spec, precision.name());
            let ours = run(&weights, &input, Some(&landmarks), &Setup::cuda(precision));
            match precision {
                Precision::F32 => check_f32(&what, &ours, &truth, f32_bound(variant)),
                _ => check_peer(&what, floor(precision), &ours, &truth, &libtorch(peer_kind(precision))),
            }
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

//! Gradients of whole networks, by the rule that the CPU's are judged by.

use crate::common::{Problem, load};
use crate::near::gradients_are_near;
use segface::train::Layout;
use segface::train::cuda::CudaTrainer;
use segface::weights::{Weights, seeded};
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_tests::cuda::device;
use segface_tests::whole::f32_bound;
use tch::Kind;

/// An engine on the device with these weights.
pub(crate) fn engine(problem: &Problem, weights: &Weights, precision: Precision) -> CudaTrainer {
    let layout = Layout::new(problem.spec);
    let mut engine =
        CudaTrainer::new(layout, &problem.options(), device(), precision).unwrap_or_else(|e| panic!("{e}"));
    load(&mut engine, weights);
    engine
}

/// `number`: which batch; `floor`: error allowed even where libtorch makes none.
fn check(backbone: Backbone, variant: Variant, number: usize, floor: f64) {
    check_sizes([2, 64], backbone, variant, number, floor);
}

fn check_sizes([batch, side]: [usize; 2], backbone: Backbone, variant: Variant, number: usize, floor: f64) {
    let spec = ModelSpec { backbone, variant };
    let problem = Problem { spec, batch, side, stochastic_depth: true, number };
    let weights = seeded(spec);
    let mut engine = engine(&problem, &weights, Precision::F32);
    assert!(
        gradients_are_near(&mut engine, &problem, &weights, Kind::Float, floor),
        "{spec}: gradients are further off than libtorch's"
    );
}

const FLOOR: f64 = 2e-6;

#[test]
fn mobilenet() {
    check(Backbone::MobileNet, Variant::Celeb, 0, FLOOR);
}

#[test]
fn mobilenet_with_lapas_warp() {
    // As on the CPU: what f32 coordinates of the warp may cost a network.
    check(Backbone::MobileNet, Variant::Lapa, 1, f32_bound(Variant::Lapa));
}

#[test]
fn swin_base() {
    check(Backbone::SwinBase, Variant::Celeb, 0, FLOOR);
}

#[test]
fn swinv2_tiny() {
    check(Backbone::SwinV2Tiny, Variant::Celeb, 0, FLOOR);
}

#[test]
fn convnext_true_tiny() {
    check(Backbone::ConvNextTiny, Variant::Celeb, 0, FLOOR);
}

#[test]
fn resnet() {
    check(Backbone::ResNet, Variant::Celeb, 0, FLOOR);
}

#[test]
fn efficientnet() {
    check(Backbone::EfficientNet, Variant::Celeb, 0, FLOOR);
}

#[test]
fn odd_maps_of_strided_convolutions() {
    check_sizes([3, 36], Backbone::ConvNextTiny, Variant::Helen, 0, FLOOR);
}

#[test]
fn odd_maps_of_padded_windows() {
    check_sizes([3, 36], Backbone::SwinV2Tiny, Variant::Helen, 0, FLOOR);
}

#[test]
fn odd_maps_of_depthwise_convolutions() {
    check_sizes([3, 44], Backbone::MobileNet, Variant::Helen, 0, FLOOR);
}

#[test]
#[ignore = "the same kernels as the smaller ones, for other channels; takes minutes"]
fn the_other_backbones() {
    for backbone in [Backbone::SwinV2Small, Backbone::SwinV2Base, Backbone::ConvNextSmall, Backbone::ConvNextBase] {
        check(backbone, Variant::Helen, 0, FLOOR);
    }
}

//! Whole steps in ptxvm's checked mode: no access out of bounds, no race, no byte read that nobody wrote.

use crate::common::{Problem, ours};
use crate::gradients::engine;
use segface::weights::seeded;
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_tests::modes::assert_no_findings;

fn step(backbone: Backbone, variant: Variant, precision: Precision) {
    let spec = ModelSpec { backbone, variant };
    // Sides that are no multiple of a window.
    let problem = Problem { spec, batch: 2, side: 36, stochastic_depth: true, number: 0 };
    let weights = seeded(spec);
    let (loss, _) = ours(&mut engine(&problem, &weights, precision), &problem);
    assert!(loss.total().is_finite());
}

macro_rules! networks {
    ($($test:ident $inner:ident $backbone:ident $variant:ident $precision:ident)*) => {$(
        #[test]
        fn $test() {
            assert_no_findings(concat!("checked::", stringify!($inner)));
        }

        #[test]
        #[ignore = "run in checked mode by the test beside it"]
        fn $inner() {
            step(Backbone::$backbone, Variant::$variant, Precision::$precision);
        }
    )*};
}

networks! {
    mobilenet_has_no_findings mobilenet MobileNet Celeb F32
    mobilenet_with_a_warp_has_no_findings mobilenet_lapa MobileNet Lapa Tf32
    swin_base_has_no_findings swin_base SwinBase Helen Tf32
    swinv2_tiny_has_no_findings swinv2_tiny SwinV2Tiny Celeb F32
    convnext_true_tiny_has_no_findings convnext_true_tiny ConvNextTiny Celeb Tf32
    resnet_has_no_findings resnet ResNet Helen F32
    efficientnet_has_no_findings efficientnet EfficientNet Celeb Tf32
}

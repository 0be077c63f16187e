//! Whole networks and every operator in ptxvm's checked mode: no access out of bounds, no race, no byte read that nobody wrote. Tests
//! of operators are those of the modules beside this, on a few of their problems; a room whose device test is elsewhere
//! (`tests/mask_head.rs` and others) has its checked test there.

use segface::weights::seeded;
use segface_codegen::{Backbone, ModelSpec, Variant, plan::Precision};
use segface_tests::modes::assert_no_findings;
use segface_tests::network::{Setup, run};
use segface_tests::parity;

fn network(backbone: Backbone, precision: Precision) {
    let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
    // Two images, neither side a multiple of a window.
    let input = parity::input(2, 68, 76);
    run(&weights, &input, None, &Setup::cuda(precision));
}

macro_rules! networks {
    ($($(#[$attribute:meta])? $test:ident $inner:ident $backbone:ident $precision:ident)*) => {$(
        #[test]
        $(#[$attribute])?
        fn $test() {
            assert_no_findings(concat!("checked::", stringify!($inner)));
        }

        #[test]
        #[ignore = "run in checked mode by the test beside it"]
        fn $inner() {
            network(Backbone::$backbone, Precision::$precision);
        }
    )*};
}

networks! {
    mobilenet_has_no_findings mobilenet MobileNet F16
    swin_base_has_no_findings swin_base SwinBase Bf16
    swinv2_tiny_has_no_findings swinv2_tiny SwinV2Tiny F16
    convnext_tiny_has_no_findings convnext_tiny ConvNextTiny F32
    resnet_has_no_findings resnet ResNet Tf32
    efficientnet_has_no_findings efficientnet EfficientNet Bf16
    #[ignore = "minutes: the kernels of a network above, for other channels"]
    swinv2_base_has_no_findings swinv2_base SwinV2Base Bf16
    #[ignore = "minutes: the kernels of a network above, for other channels"]
    swinv2_small_has_no_findings swinv2_small SwinV2Small Tf32
    #[ignore = "minutes: the kernels of a network above, for other channels"]
    convnext_base_has_no_findings convnext_base ConvNextBase Bf16
    #[ignore = "minutes: the kernels of a network above, for other channels"]
    convnext_small_has_no_findings convnext_small ConvNextSmall F16
}

macro_rules! operators {
    ($($test:ident $module:ident $beside:ident)*) => {$(
        #[test]
        fn $test() {
            // Named as a path, so that a test which is no more does not compile.
            let _: fn() = crate::$module::$beside;
            assert_no_findings(concat!(stringify!($module), "::", stringify!($beside)));
        }
    )*};
}

operators! {
    convolutions_have_no_findings conv windows_of_whole_chunks
    stems_have_no_findings conv stems_of_three_channels
    depthwise_convolutions_have_no_findings depthwise tiny_maps
    depthwise_convolutions_of_many_channels_have_no_findings depthwise many_channels
    elementwise_operators_have_no_findings elementwise every_operator_on_rows_of_whole_chunks
    elementwise_operators_on_odd_rows_have_no_findings elementwise every_operator_on_odd_rows
    products_have_no_findings gemm small_odd_products_with_every_prologue_and_epilogue
    wide_products_have_no_findings gemm products_of_few_rows_and_many_columns
    products_on_lower_rungs_have_no_findings gemm products_on_every_rung
    norms_have_no_findings layer_norm norms_of_short_and_long_rows
    mlps_have_no_findings mlp small_odd_mlps_with_every_epilogue
    mlps_on_lower_rungs_have_no_findings mlp mlps_on_every_rung
    patch_merging_has_no_findings patch_merge merging_patches
    photos_have_no_findings photo whole_photos_and_crops
    warped_photos_have_no_findings photo faces_are_warped_and_labels_come_back_unwarped
    resampling_has_no_findings resample small_maps
    gates_have_no_findings squeeze_excite gates_of_few_channels
    window_attention_has_no_findings window_attention the_fused_branch
    window_attention_without_tensor_cores_has_no_findings window_attention the_fused_branch_without_tensor_cores
    window_attention_in_parts_has_no_findings window_attention attention_within_windows
}

//! The reference computes what the published network computes: every stored case, every stored tensor.
//!
//! The published code ran in f64 and stored f32, so the f64 reference may be off by the rounding and by the few tables
//! that the published code holds in f32: relative L2 ≤ 1e-6. LaPa's cases were computed in f32 throughout, and their
//! warp is ill-conditioned: 2e-3. The f32 reference may be off by twice what the published f32 run is.

use segface_codegen::Variant;
use segface_reference::{Model, Outputs, mask_head};
use segface_tests::{judge::Errors, parity::Case};
use tch::Kind;

/// Relative L2 error of each stored tensor.
fn errors(case: &Case, out: &Outputs) -> Vec<(&'static str, f64)> {
    let maps = [("fused", &out.fused)].into_iter();
    let maps = maps.chain(["stage0", "stage1", "stage2", "stage3"].into_iter().zip(&out.taps));
    let thinned = maps.map(|(name, map)| (name, case.thin(name, map)));
    let whole = [("logits", &out.logits), ("tokens", &out.tokens)];
    whole
        .map(|(name, tensor)| (name, tensor.shallow_clone()))
        .into_iter()
        .chain(thinned)
        .map(|(name, tensor)| (name, Errors::of(&tensor, &case.tensor(name)).l2))
        .collect()
}

fn check(name: &str) {
    tch::set_num_threads(1);
    let case = Case::load(name);
    let weights = segface::weights::seeded(case.spec);
    let run = |kind: Kind| {
        let model = Model::new(case.spec, &weights, kind);
        model.forward(&case.input(), Some(&case.landmarks())).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let lapa = case.spec.variant == Variant::Lapa;

    let truth = run(Kind::Double);
    let bound = if lapa { 2e-3 } else { 1e-6 };
    for (tensor, error) in errors(&case, &truth) {
        assert!(error <= bound, "{name}: {tensor} in f64 is off by {error:.2e}, allowed {bound:.0e}");
    }
    let labels = mask_head::labels(&truth.logits);
    let flips = labels.not_equal_tensor(&case.tensor("labels")).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(flips, 0, "{name}: labels that differ from the published ones");

    let single = run(Kind::Float);
    let bound = if lapa { 2e-3 } else { 2.0 * case.published_f32_error() };
    for (tensor, error) in errors(&case, &single) {
        assert!(error <= bound, "{name}: {tensor} in f32 is off by {error:.2e}, allowed {bound:.1e}");
    }
}

macro_rules! cases {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)) })*

        #[test]
        fn every_stored_case_has_its_test() {
            assert_eq!(Case::names(), [$(stringify!($name)),*]);
        }
    };
}

cases! {
    celeb_convnext_small_64x64x1
    celeb_efficientnet_64x64x1
    celeb_mobilenet_224x224x1
    celeb_mobilenet_64x64x2
    celeb_mobilenet_72x100x2
    celeb_resnet_64x64x1
    celeb_swin_base_64x64x1
    celeb_swinv2_tiny_64x64x1
    celeb_swinv2_tiny_80x112x1
    helen_swinv2_small_96x96x1
    lapa_mobilenet_64x64x2
}

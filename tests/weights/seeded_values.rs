//! Seeded weights against numbers computed by the definition in fixtures/parity/README.md, in Python:
//!
//!     M = 2**64 - 1
//!     def mix(x):
//!         z = x + 0x9E3779B97F4A7C15 & M
//!         z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M
//!         z = (z ^ z >> 27) * 0x94D049BB133111EB & M
//!         return z ^ z >> 31
//!     def fnv(s):
//!         h = 0xCBF29CE484222325
//!         for b in s.encode(): h = (h ^ b) * 0x100000001B3 & M
//!         return h
//!     def u(name, i): return 2 * (mix(fnv(name) + i & M) >> 40) / 2**24 - 1
//!
//! and then e.g. `numpy.float32(0.3 * (1 + 0.2 * u(name, i)))`.

use segface::{
    Backbone, ModelSpec, Variant,
    weights::{DType, seeded, seeded_values},
};

/// (backbone, tensor, index, value)
const EXPECTED: &[(Backbone, &str, usize, f32)] = &[
    (Backbone::MobileNet, "backbone.0.1.running_mean", 3, -0.056577574),
    (Backbone::MobileNet, "backbone.0.1.running_var", 15, 0.7624185),
    (Backbone::MobileNet, "backbone.0.1.weight", 7, 1.0640099),
    (Backbone::MobileNet, "backbone.0.1.bias", 7, 0.0074157356),
    (Backbone::MobileNet, "backbone.0.0.weight", 431, 0.08395727),
    (Backbone::MobileNet, "backbone.4.block.3.1.weight", 11, 0.3215197),
    (Backbone::MobileNet, "pe_layer.positional_encoding_gaussian_matrix", 255, -1.4479709),
    (Backbone::MobileNet, "face_decoder.hat_token.weight", 200, 0.07492423),
    (Backbone::MobileNet, "face_decoder.output_upscaling.0.weight", 65535, 0.12334724),
    (Backbone::MobileNet, "face_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight", 1, 0.0024821386),
    (Backbone::MobileNet, "linear_fuse.weight", 0, 0.015467693),
    (Backbone::ResNet, "backbone.4.0.bn3.weight", 255, 0.274819),
    (Backbone::SwinV2Tiny, "backbone.0.1.0.attn.logit_scale", 2, 2.5811849),
    (Backbone::SwinBase, "backbone.0.1.1.attn.relative_position_bias_table", 675, -0.06146729),
    (Backbone::SwinBase, "backbone.0.7.1.mlp.3.weight", 4194303, 0.026270315),
    (Backbone::ConvNextTiny, "backbone.0.1.0.layer_scale", 95, 0.30771092),
];

#[test]
fn values_are_those_of_the_definition() {
    assert_eq!(seeded_values("input", 2), [-0.80436337, -0.70504284]);
    for backbone in Backbone::ALL {
        let rows: Vec<_> = EXPECTED.iter().filter(|row| row.0 == backbone).collect();
        if rows.is_empty() {
            continue;
        }
        let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
        for &&(_, name, index, expected) in &rows {
            assert_eq!(weights.tensors()[name].values()[index], expected, "{backbone} {name}[{index}]");
        }
    }
}

#[test]
fn they_make_complete_checkpoints_with_the_tables_the_architecture_defines() {
    let swin = seeded(ModelSpec { backbone: Backbone::SwinBase, variant: Variant::Celeb });
    let index = &swin.tensors()["backbone.0.1.0.attn.relative_position_index"];
    assert_eq!((index.dtype(), index.shape()), (DType::I64, &[2401][..]));
    // Window 7: query (0, 0) and key (0, 0) differ by nothing, which is the middle of 13 x 13; key (6, 6) comes first.
    let values = index.values();
    assert_eq!((values[0], values[1], values[48], values[48 * 49]), (84.0, 83.0, 0.0, 168.0));

    let swin = seeded(ModelSpec { backbone: Backbone::SwinV2Tiny, variant: Variant::Lapa });
    let table = &swin.tensors()["backbone.0.1.0.attn.relative_coords_table"];
    assert_eq!((table.dtype(), table.shape()), (DType::F32, &[1, 15, 15, 2][..]));
    let values = table.values();
    let at = |y: usize, x: usize| [values[(y * 15 + x) * 2], values[(y * 15 + x) * 2 + 1]];
    // sign(t) log2(|t| + 1) / 3 at t = 8, -8, 0 and 8/7; y before x.
    let far = 9f32.log2() / 3.0;
    assert_eq!(at(14, 0), [far, -far]);
    assert_eq!(at(7, 7), [0.0, 0.0]);
    assert!((at(8, 7)[0] - (8.0f32 / 7.0 + 1.0).log2() / 3.0).abs() < 1e-7);
    let index = swin.tensors()["backbone.0.1.0.attn.relative_position_index"].values().into_owned();
    assert_eq!((index.len(), index[0], index[63]), (4096, 112.0, 0.0));

    let resnet = seeded(ModelSpec { backbone: Backbone::ResNet, variant: Variant::Celeb });
    let counter = &resnet.tensors()["backbone.1.num_batches_tracked"];
    assert_eq!((counter.dtype(), counter.shape(), counter.values()[0]), (DType::I64, &[][..], 0.0));
}

use super::{build, least_side, manifest};
use crate::check::check;
use crate::ir::{Graph, Output, Source};
use crate::weights::Make;
use crate::{Backbone, CodegenError, ModelSpec, Variant};
use std::collections::{BTreeMap, BTreeSet};

/// Sizes every backbone takes: square and not, multiples of 32, of 4 and of nothing, smaller than one window.
const SIZES: [[usize; 2]; 9] =
    [[32, 32], [64, 64], [72, 100], [33, 47], [96, 64], [101, 63], [224, 224], [130, 259], [511, 513]];

fn celeb(backbone: Backbone) -> ModelSpec {
    ModelSpec { backbone, variant: Variant::Celeb }
}

/// `<name> <shape>` of every line of a fixture, shapes as in `16x3x3x3`, `scalar` for none.
fn keys(file: &str) -> BTreeMap<String, Vec<usize>> {
    let path = format!("{}/../fixtures/keys/{file}_celeb.tsv", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the fixture is in the repository");
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let mut columns = line.split_whitespace();
            let name = columns.next().expect("a name").to_owned();
            let shape = columns.next().expect("a shape");
            let sides = if shape == "scalar" { vec![] } else { shape.split('x').map(|s| s.parse().unwrap()).collect() };
            (name, sides)
        })
        .collect()
}

const KEY_FILES: [(Backbone, &str); 10] = [
    (Backbone::SwinBase, "swin_base"),
    (Backbone::SwinV2Base, "swinv2_base"),
    (Backbone::SwinV2Small, "swinv2_small"),
    (Backbone::SwinV2Tiny, "swinv2_tiny"),
    (Backbone::ConvNextBase, "convnext_base"),
    (Backbone::ConvNextSmall, "convnext_small"),
    (Backbone::ConvNextSmall, "convnext_tiny"),
    (Backbone::ResNet, "resnet"),
    (Backbone::MobileNet, "mobilenet"),
    (Backbone::EfficientNet, "efficientnet"),
];

/// The order in which the published code concatenates the class tokens of `lapa` and `helen`.
const LAPA_TOKENS: [&str; 11] = [
    "background",
    "face",
    "leftbro",
    "rightbro",
    "lefteye",
    "righteye",
    "nose",
    "upperlip",
    "innermouth",
    "lowerlip",
    "hair",
];

/// The same of `celeb`.
const CELEB_TOKENS: [&str; 19] = [
    "background",
    "neck",
    "face",
    "cloth",
    "rightear",
    "leftear",
    "rightbro",
    "leftbro",
    "righteye",
    "lefteye",
    "nose",
    "innermouth",
    "lowerlip",
    "upperlip",
    "hair",
    "glass",
    "hat",
    "earring",
    "necklace",
];

fn named_shapes(model: &ModelSpec) -> BTreeMap<String, Vec<usize>> {
    let tensors = manifest(model);
    let count = tensors.len();
    let by_name: BTreeMap<_, _> = tensors.into_iter().map(|t| (t.name, t.shape)).collect();
    assert_eq!(by_name.len(), count, "{model}: a tensor is declared twice");
    by_name
}

#[test]
fn the_manifest_is_the_published_state_dict() {
    for (backbone, file) in KEY_FILES {
        assert_eq!(named_shapes(&celeb(backbone)), keys(file), "{backbone}");
    }
}

#[test]
fn the_manifests_of_lapa_and_helen_differ_from_celebs_in_the_class_tokens_alone() {
    for (backbone, file) in KEY_FILES {
        let mut expected = keys(file);
        for class in CELEB_TOKENS {
            assert!(expected.remove(&format!("face_decoder.{class}_token.weight")).is_some(), "{file} lacks {class}");
        }
        assert!(!expected.keys().any(|name| name.contains("_token.weight")), "{file} has another class token");
        for class in LAPA_TOKENS {
            expected.insert(format!("face_decoder.{class}_token.weight"), vec![1, 256]);
        }
        for variant in [Variant::Lapa, Variant::Helen] {
            assert_eq!(named_shapes(&ModelSpec { backbone, variant }), expected, "{backbone} {variant}");
        }
    }
}

#[test]
fn the_true_convnext_tiny_is_small_with_nine_blocks_in_the_third_stage() {
    let third_stage =
        |name: &str| -> Option<usize> { name.strip_prefix("backbone.0.5.")?.split('.').next()?.parse().ok() };
    let expected: BTreeMap<_, _> = keys("convnext_small")
        .into_iter()
        .filter(|(name, _)| third_stage(name).is_none_or(|block| block < 9))
        .collect();
    assert_eq!(named_shapes(&celeb(Backbone::ConvNextTiny)), expected);
}

#[test]
fn only_tensors_that_feed_nothing_are_optional() {
    for model in ModelSpec::all() {
        let used: BTreeSet<_> =
            build(&model, 1, 64, 64).expect("64 px fit").required_tensors().into_iter().map(|t| t.name).collect();
        for tensor in manifest(&model) {
            let unused = ["num_batches_tracked", "relative_position_index", "relative_coords_table"]
                .iter()
                .any(|leaf| tensor.name.ends_with(leaf))
                || (tensor.name.starts_with("backbone.1.")
                    && tensor.name.split('.').count() == 3
                    && swin(model.backbone));
            assert_eq!(tensor.required, !unused, "{model}: {}", tensor.name);
            assert_eq!(used.contains(&tensor.name), tensor.required, "{model}: {}", tensor.name);
        }
    }
}

fn swin(backbone: Backbone) -> bool {
    matches!(backbone, Backbone::SwinBase | Backbone::SwinV2Base | Backbone::SwinV2Small | Backbone::SwinV2Tiny)
}

fn convnext(backbone: Backbone) -> bool {
    matches!(backbone, Backbone::ConvNextBase | Backbone::ConvNextSmall | Backbone::ConvNextTiny)
}

#[test]
fn class_tokens_stand_in_the_published_order() {
    for (variant, expected) in
        [(Variant::Celeb, &CELEB_TOKENS[..]), (Variant::Lapa, &LAPA_TOKENS[..]), (Variant::Helen, &LAPA_TOKENS[..])]
    {
        let graph = build(&ModelSpec { backbone: Backbone::MobileNet, variant }, 1, 64, 64).expect("64 px fit");
        let stacks: Vec<Vec<String>> = graph
            .values
            .iter()
            .filter_map(|value| match &value.source {
                Source::Weight(recipe) if recipe.make == Make::Stack => {
                    Some(recipe.tensors.iter().map(|t| t.name.clone()).collect())
                }
                _ => None,
            })
            .collect();
        let names: Vec<_> = expected.iter().map(|class| format!("face_decoder.{class}_token.weight")).collect();
        assert_eq!(stacks, [names], "{variant}");
    }
}

/// Side of tap `stage` for an input side: Swin's stem and ConvNeXt's convolutions have no padding and round down, patch
/// merging and the padded convolutions of the others round up.
fn tap_side(backbone: Backbone, side: usize, stage: u32) -> usize {
    let stride = 4 << stage;
    if swin(backbone) {
        (side / 4).div_ceil(stride / 4)
    } else if convnext(backbone) {
        side / stride
    } else {
        side.div_ceil(stride)
    }
}

fn output_shape(graph: &Graph, output: Output) -> &[usize] {
    let (_, value) = graph.outputs.iter().find(|(o, _)| *o == output).expect("the model gives it out");
    &graph.values[value.0].shape
}

#[test]
fn taps_tokens_and_logits_have_the_published_shapes_at_every_size() {
    for model in ModelSpec::all() {
        let classes = if model.variant == Variant::Celeb { 19 } else { 11 };
        for [height, width] in SIZES {
            for batch in [1, 3] {
                let graph = build(&model, batch, height, width).expect("a size every network takes");
                let side = |stage: usize| {
                    [height, width].map(|side| tap_side(model.backbone, side, u32::try_from(stage).expect("0..4")))
                };
                for stage in 0..4 {
                    let [h, w] = side(stage);
                    let channels = model.backbone.tap_channels()[stage];
                    let found = output_shape(&graph, Output::Stage(stage));
                    assert_eq!(found, [batch, h, w, channels], "{model} tap {stage} of {height}x{width}");
                }
                let [h, w] = side(0);
                assert_eq!(output_shape(&graph, Output::Fused), [batch, h, w, 256], "{model}");
                assert_eq!(output_shape(&graph, Output::Tokens), [batch, classes, 256], "{model}");
                assert_eq!(output_shape(&graph, Output::Logits), [batch, 4 * h, 4 * w, classes], "{model}");
            }
        }
    }
}

#[test]
fn every_network_is_a_sound_graph_at_odd_sizes_and_batches() {
    for model in ModelSpec::all() {
        let least = least_side(model.backbone);
        for (batch, height, width) in
            [(1, 64, 64), (2, 72, 100), (1, 33, 47), (3, 96, 64), (2, least, least), (1, least, 64)]
        {
            let graph = build(&model, batch, height, width).expect("a size every network takes");
            check(&graph).unwrap_or_else(|wrong| panic!("{model} {batch}x{height}x{width}: {wrong}"));
        }
    }
}

#[test]
fn sizes_that_leave_a_tap_empty_are_refused_and_no_others() {
    for backbone in Backbone::ALL {
        let model = celeb(backbone);
        for side in 1..=40 {
            let empty = (0..4).any(|stage| tap_side(backbone, side, stage) == 0);
            assert_eq!(build(&model, 1, side, 64).is_err(), empty, "{backbone} {side}x64");
            assert_eq!(build(&model, 1, 64, side).is_err(), empty, "{backbone} 64x{side}");
        }
    }
}

#[test]
fn refused_sizes_say_what_would_do() {
    let model = celeb(Backbone::ConvNextBase);
    for (batch, height, width, part) in [
        (1, 31, 512, "at least 32 pixels"),
        (1, 0, 512, "at least 32 pixels"),
        (0, 512, 512, "at least one image"),
        (1, 16_385, 64, "at most 16384 pixels"),
        (1, usize::MAX, 64, "at most 16384 pixels"),
        (usize::MAX, 512, 512, "at most 16384 pixels"),
    ] {
        let error = build(&model, batch, height, width).expect_err("no such size");
        assert!(matches!(error, CodegenError::Size { .. }));
        let text = error.to_string();
        assert!(text.contains(part) && text.contains(&format!("{height}x{width}")), "{text}");
    }
}

/// Multiply-adds of one image in units of 10⁹: of the backbone, and of all behind it.
fn gmac(backbone: Backbone, side: usize) -> [f64; 2] {
    let graph = build(&celeb(backbone), 1, side, side).expect("a published size");
    let mut totals = [0u64; 2];
    for node in &graph.nodes {
        totals[usize::from(!node.name.starts_with("backbone."))] += node.flops(&graph);
    }
    totals.map(|flops| flops as f64 / 2e9)
}

#[test]
fn work_per_image_is_what_the_architecture_says() {
    let is = |found: f64, expected: f64, what: &str| {
        assert!((found - expected).abs() <= 0.06, "{what}: {found:.3} GMAC, expected {expected}");
    };
    is(gmac(Backbone::SwinBase, 224)[0], 15.4, "swin_base at 224");
    is(gmac(Backbone::SwinBase, 448)[0], 61.7, "swin_base at 448");
    let [backbone, decoder] = gmac(Backbone::SwinBase, 512);
    is(backbone, 86.8, "swin_base at 512");
    is(decoder, 12.9, "decoder of swin_base at 512");
    is(gmac(Backbone::MobileNet, 512)[0], 1.1, "mobilenet at 512");
    // torchvision's own table, at the sizes it was measured at (v2: 256), classifier (1 MMAC) aside.
    is(gmac(Backbone::ConvNextBase, 224)[0], 15.36, "convnext_base at 224");
    is(gmac(Backbone::ConvNextTiny, 224)[0], 4.46, "convnext_tiny at 224");
    is(gmac(Backbone::ResNet, 224)[0], 7.80, "resnet101 at 224");
    is(gmac(Backbone::MobileNet, 224)[0], 0.22, "mobilenet at 224");
}

#[test]
fn work_grows_with_the_batch_but_for_what_is_shared() {
    let model = celeb(Backbone::SwinV2Tiny);
    let flops = |batch: usize| -> u64 {
        let graph = build(&model, batch, 64, 96).expect("a size it takes");
        graph.nodes.iter().map(|node| node.flops(&graph)).sum()
    };
    // Of one image only: layer 0's self-attention of the class tokens and the query behind it.
    let (tokens, width) = (19u64, 256u64);
    let shared = 2 * tokens * (4 * width * width + 2 * tokens * width + width * 128);
    assert_eq!(flops(3) - shared, 3 * (flops(1) - shared));
}

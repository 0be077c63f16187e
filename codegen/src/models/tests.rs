use super::{build, manifest};
use crate::check::check;
use crate::{Backbone, ModelSpec, Variant};
use std::collections::BTreeMap;

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

#[test]
fn the_manifest_is_the_published_state_dict() {
    for (backbone, file) in [
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
    ] {
        let model = ModelSpec { backbone, variant: Variant::Celeb };
        let ours: BTreeMap<_, _> = manifest(&model).into_iter().map(|t| (t.name, t.shape)).collect();
        assert_eq!(ours, keys(file), "{backbone}");
    }
}

#[test]
fn every_network_is_a_sound_graph_at_odd_sizes_and_batches() {
    for model in ModelSpec::all() {
        for (batch, height, width) in [(1, 64, 64), (2, 72, 100), (1, 33, 47), (3, 96, 64)] {
            let graph = build(&model, batch, height, width).expect("a size every network takes");
            check(&graph).unwrap_or_else(|wrong| panic!("{model} {batch}x{height}x{width}: {wrong}"));
        }
    }
}

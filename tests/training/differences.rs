//! Gradients against finite differences of the whole loss: libtorch's network in f64, no autograd.

use crate::common::{DRAWS, Problem, ours};
use segface::weights::{seeded, seeded_values};
use segface_codegen::{Backbone, ModelSpec, Variant};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// How far the parameters move along a direction of length 1; in f64 the loss is known to 1e-10 of what it changes by.
const STEP: f64 = 1e-6;

/// Largest deviation of a slope relative to the length of the group's gradient. Gradients are f32: see the table of their errors.
const TOLERANCE: f64 = 1e-3;

/// What tensors are moved together: a stage's, the fusion's, the transformer's, the other ones of the decoder.
fn group(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["backbone", feature, ..] => {
            let feature: usize = feature.parse().expect("a number");
            format!("stage {}", [4, 7, 13, 17].iter().take_while(|end| feature >= **end).count())
        }
        ["face_decoder", "transformer", ..] => "transformer".into(),
        ["face_decoder", ..] => "head".into(),
        _ => "fusion".into(),
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
#[ignore = "takes minutes"]
fn the_whole_loss_moves_as_the_gradients_say() {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    let problem = Problem { spec, batch: 1, side: 64, stochastic_depth: true, number: 0 };
    let weights = seeded(spec);
    let (_, gradients) = ours(&mut problem.engine(&weights, 2), &problem);
    let factor = problem.factor(DRAWS);
    let model = problem.model(&weights, Kind::Double, &factor);
    let _guard = tch::no_grad_guard();
    let loss = || problem.reference_loss(&model, Kind::Double).0.double_value(&[]);
    // The model makes its tensors when it first needs them.
    let _ = loss();
    let tensors = model.tensors();
    let mut groups: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for name in gradients.keys().filter(|name| tensors.contains_key(*name)) {
        groups.entry(group(name)).or_default().push(name);
    }
    assert_eq!(groups.len(), 7, "{:?}", groups.keys());
    for (group, names) in &groups {
        let gradient: Vec<f64> = names.iter().flat_map(|name| &gradients[*name]).map(|d| f64::from(*d)).collect();
        let length = norm(&gradient);
        assert!(length > 0.0, "{group} has no gradient");
        let random: Vec<f64> = seeded_values(group, gradient.len()).into_iter().map(f64::from).collect();
        for (which, direction) in [("its own", &gradient), ("a random", &random)] {
            let of_one: Vec<f64> = direction.iter().map(|d| d / norm(direction)).collect();
            let moved = |by: f64| {
                let mut at = 0;
                for name in names {
                    let tensor = &tensors[*name];
                    let len = tensor.numel();
                    let part = Tensor::from_slice(&of_one[at..at + len]).view_as(tensor);
                    let _ = tensor.shallow_clone().g_add_(&(part * by));
                    at += len;
                }
            };
            moved(STEP);
            let above = loss();
            moved(-2.0 * STEP);
            let below = loss();
            moved(STEP);
            let (slope, said) = ((above - below) / (2.0 * STEP), dot(&gradient, &of_one));
            println!("{group}, {which} direction: {said:.6e}, by differences {slope:.6e}");
            let off = (slope - said).abs() / length;
            assert!(off < TOLERANCE, "{group}, {which} direction: {said:e}, by differences {slope:e}");
        }
    }
}

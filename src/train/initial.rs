//! What parameters and buffers start from.

use super::{Layout, Role, Start, TrainError};
use crate::Error;
use crate::weights::{Checkpoint, Hints, Tensor};
use segface_codegen::Backbone;
use segface_kernels::stochastic_depth::philox;
use std::collections::BTreeMap;
use std::f64::consts::TAU;

/// Flat parameters and buffers, in the order of a layout.
pub type Arrays = (Vec<f32>, Vec<f32>);

/// Parameters and buffers of a run's start.
///
/// # Errors
/// If the file cannot be read, or its tensors are not those of the network.
pub fn initial(layout: &Layout, start: &Start, seed: u64) -> Result<Arrays, Error> {
    let mut arrays = random(layout, seed);
    match start {
        Start::Random => {}
        Start::File(path) => {
            let checkpoint = Checkpoint::open(path)?;
            let model = layout.model();
            if checkpoint.tensors.keys().any(|name| name.starts_with("face_decoder.")) {
                let weights = checkpoint.into_weights(Hints { variant: Some(model.variant), resolution: None })?;
                if weights.spec != model {
                    let reason = format!("it is a {} network, the run trains {model}", weights.spec);
                    return Err(TrainError::Start { file: weights.file().into(), reason }.into());
                }
                take(layout, weights.tensors(), &mut arrays);
            } else {
                let named = checkpoint
                    .tensors
                    .iter()
                    .filter_map(|(name, tensor)| Some((published_name(model.backbone, name)?, tensor.clone())));
                let tensors: BTreeMap<String, Tensor> = named.collect();
                check_backbone(layout, &checkpoint.file, &tensors)?;
                take(layout, &tensors, &mut arrays);
            }
        }
    }
    Ok(arrays)
}

/// Copies the tensors that there are.
fn take(layout: &Layout, tensors: &BTreeMap<String, Tensor>, (parameters, buffers): &mut Arrays) {
    for (entries, values) in [(layout.parameters(), parameters), (layout.buffers(), buffers)] {
        for entry in entries {
            if let Some(tensor) = tensors.get(&entry.name) {
                values[entry.range.clone()].copy_from_slice(&tensor.values());
                tensor.release();
            }
        }
    }
}

/// The name in a SegFace network of a tensor of a torchvision classifier; `None` for what comes behind the features.
///
/// `backbone` is `Sequential(children()[:-1])` of the classifier, or its `.features`.
fn published_name(backbone: Backbone, name: &str) -> Option<String> {
    let (first, rest) = name.split_once('.')?;
    match backbone {
        Backbone::MobileNet | Backbone::EfficientNet => (first == "features").then(|| format!("backbone.{rest}")),
        Backbone::ResNet => {
            let place = match first {
                "conv1" => 0,
                "bn1" => 1,
                _ => first.strip_prefix("layer")?.parse::<usize>().ok()? + 3,
            };
            Some(format!("backbone.{place}.{rest}"))
        }
        _ => match first {
            "features" => Some(format!("backbone.0.{rest}")),
            "norm" => Some(format!("backbone.1.{rest}")),
            _ => None,
        },
    }
}

/// Makes sure that a classifier has what the backbone needs.
fn check_backbone(layout: &Layout, file: &str, tensors: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    let mut problems = Vec::new();
    for entry in layout.parameters().iter().chain(layout.buffers()) {
        let needed = entry.name.starts_with("backbone.") && matches!(entry.role, Role::Parameter | Role::Statistic);
        match tensors.get(&entry.name) {
            None if needed && entry.trained => problems.push(format!("`{}` is missing", entry.name)),
            Some(tensor) if tensor.shape() != entry.shape => {
                problems.push(format!("`{}` has shape {:?}, expected {:?}", entry.name, tensor.shape(), entry.shape));
            }
            Some(tensor) if needed && tensor.values().iter().any(|value| !value.is_finite()) => {
                problems.push(format!("`{}` has values that are NaN or infinite", entry.name));
            }
            _ => {}
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let shown = problems.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = if problems.len() > 5 { format!(" and {} more", problems.len() - 5) } else { String::new() };
    let expected = torchvision_name(layout.model().backbone);
    let reason = format!("expected the weights of torchvision's {expected}: {shown}{more}");
    Err(TrainError::Start { file: file.into(), reason })
}

/// What torchvision calls a backbone.
fn torchvision_name(backbone: Backbone) -> &'static str {
    match backbone {
        Backbone::SwinBase => "swin_b",
        Backbone::SwinV2Base => "swin_v2_b",
        Backbone::SwinV2Small => "swin_v2_s",
        Backbone::SwinV2Tiny => "swin_v2_t",
        Backbone::ConvNextBase => "convnext_base",
        Backbone::ConvNextSmall => "convnext_small",
        Backbone::ConvNextTiny => "convnext_tiny",
        Backbone::ResNet => "resnet101",
        Backbone::MobileNet => "mobilenet_v3_large",
        Backbone::EfficientNet => "efficientnet_v2_m",
    }
}

/// How a tensor is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Draw {
    Constant(f32),
    /// Normal of this standard deviation.
    Normal(f64),
    /// Uniform within ± this.
    Uniform(f64),
}

/// Random numbers by torchvision's initialisers for the backbone and torch's defaults for the rest. A tensor is a function of the seed, its
/// name and its shape.
fn random(layout: &Layout, seed: u64) -> Arrays {
    let mut arrays = (vec![0.0; layout.parameters_len()], vec![0.0; layout.buffers_len()]);
    let shapes: BTreeMap<&str, &[usize]> =
        layout.parameters().iter().map(|entry| (&entry.name[..], &entry.shape[..])).collect();
    for (entries, values) in [(layout.parameters(), &mut arrays.0), (layout.buffers(), &mut arrays.1)] {
        for entry in entries {
            let values = &mut values[entry.range.clone()];
            match rule(layout.model().backbone, &entry.name, &entry.shape, &shapes) {
                Some(draw) => fill(values, draw, seed, &entry.name),
                None => {
                    if let Some(table) = crate::weights::table(&entry.name, &entry.shape) {
                        values.copy_from_slice(&table.values());
                    }
                }
            }
        }
    }
    arrays
}

/// The rule for a tensor; `None` for a fixed table.
fn rule(backbone: Backbone, name: &str, shape: &[usize], shapes: &BTreeMap<&str, &[usize]>) -> Option<Draw> {
    use Draw::{Constant, Normal, Uniform};
    let (stem, leaf) = name.rsplit_once('.').unwrap_or(("", name));
    Some(match leaf {
        "running_mean" | "num_batches_tracked" => return Some(Constant(0.0)),
        "running_var" => Constant(1.0),
        "positional_encoding_gaussian_matrix" => Normal(1.0),
        "relative_position_index" | "relative_coords_table" => return None,
        "relative_position_bias_table" => Normal(0.02),
        "logit_scale" => Constant(10f32.ln()),
        "layer_scale" => Constant(1e-6),
        // An embedding of a class.
        "weight" if stem.ends_with("_token") => Normal(1.0),
        _ => {
            let weight =
                if leaf == "weight" { Some(shape) } else { shapes.get(&format!("{stem}.weight")[..]).copied() };
            match weight {
                // Norms.
                Some(&[_]) => Constant(if leaf == "weight" { 1.0 } else { 0.0 }),
                Some(weight) if name.starts_with("backbone.") => backbone_rule(backbone, stem, leaf, weight),
                Some(weight) => {
                    // Of a transposed convolution, torch takes the second extent for what goes in.
                    let fan_in: usize = weight[1..].iter().product();
                    Uniform(1.0 / (fan_in as f64).sqrt())
                }
                None => Constant(0.0),
            }
        }
    })
}

/// A product or convolution of a backbone, and its bias.
fn backbone_rule(backbone: Backbone, stem: &str, leaf: &str, weight: &[usize]) -> Draw {
    let field: usize = weight[2..].iter().product();
    match backbone {
        Backbone::MobileNet | Backbone::EfficientNet | Backbone::ResNet => match leaf {
            "weight" => Draw::Normal((2.0 / (weight[0] * field) as f64).sqrt()),
            _ => Draw::Constant(0.0),
        },
        Backbone::ConvNextBase | Backbone::ConvNextSmall | Backbone::ConvNextTiny => match leaf {
            "weight" => Draw::Normal(0.02),
            _ => Draw::Constant(0.0),
        },
        // Swin leaves its first convolution to torch's default.
        _ if stem == "backbone.0.0.0" => Draw::Uniform(1.0 / ((weight[1] * field) as f64).sqrt()),
        _ => match leaf {
            "weight" => Draw::Normal(0.02),
            _ => Draw::Constant(0.0),
        },
    }
}

fn fill(values: &mut [f32], draw: Draw, seed: u64, name: &str) {
    // FNV-1a keeps the numbers of two tensors apart.
    let hash =
        name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let words = |counter: usize| {
        philox([counter as u32, hash as u32, (hash >> 32) as u32, 1], [seed as u32, (seed >> 32) as u32])
    };
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    match draw {
        Draw::Constant(value) => values.fill(value),
        Draw::Uniform(reach) => {
            for (counter, four) in values.chunks_mut(4).enumerate() {
                for (value, word) in four.iter_mut().zip(words(counter)) {
                    *value = ((2.0 * unit(word) - 1.0) * reach) as f32;
                }
            }
        }
        Draw::Normal(deviation) => {
            // Box and Muller's: two uniform numbers make two normal ones.
            for (counter, four) in values.chunks_mut(4).enumerate() {
                let [a, b, c, d] = words(counter).map(unit);
                let pair = |u: f64, v: f64| {
                    let (sin, cos) = (TAU * v).sin_cos();
                    let radius = (-2.0 * u.ln()).sqrt() * deviation;
                    [(radius * cos) as f32, (radius * sin) as f32]
                };
                let ([a, b], [c, d]) = (pair(a, b), pair(c, d));
                for (value, normal) in four.iter_mut().zip([a, b, c, d]) {
                    *value = normal;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use segface_codegen::{ModelSpec, Variant};

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        (mean, (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn random_tensors_have_the_spread_of_torchs_initialisers() {
        let cases = [
            // out × k² = 24 × 25 … of a depthwise convolution, kaiming normal of fan out.
            (Backbone::MobileNet, "backbone.4.block.1.0.weight", (2.0f64 / (72.0 * 25.0)).sqrt()),
            (Backbone::ResNet, "backbone.4.0.conv1.weight", (2.0f64 / 64.0).sqrt()),
            (Backbone::SwinBase, "backbone.0.1.0.attn.qkv.weight", 0.02),
            (Backbone::SwinBase, "backbone.0.0.0.weight", 1.0 / 48f64.sqrt() / 3f64.sqrt()),
            (Backbone::ConvNextSmall, "backbone.0.1.0.block.0.weight", 0.02),
            (Backbone::MobileNet, "face_decoder.output_upscaling.0.weight", 1.0 / (64.0f64 * 4.0).sqrt() / 3f64.sqrt()),
            (Backbone::MobileNet, "face_decoder.hair_token.weight", 1.0),
            (Backbone::MobileNet, "pe_layer.positional_encoding_gaussian_matrix", 1.0),
        ];
        for (backbone, name, deviation) in cases {
            let layout = Layout::new(ModelSpec { backbone, variant: Variant::Celeb });
            let (parameters, buffers) = random(&layout, 32);
            let entry = layout.find(name).unwrap_or_else(|| panic!("{name}"));
            let values = match entry.role {
                Role::Parameter => &parameters[entry.range.clone()],
                _ => &buffers[entry.range.clone()],
            };
            let (mean, found) = moments(values);
            let n = values.len() as f64;
            // Five standard errors.
            assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "{name}: mean {mean}");
            assert!((found / deviation - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{name}: {found}, expected {deviation}");
        }
    }

    #[test]
    fn seeds_differ_and_equal_seeds_do_not() {
        let layout = Layout::new(ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Helen });
        let (a, again, b) = (random(&layout, 1), random(&layout, 1), random(&layout, 2));
        assert!(a == again && a.0 != b.0);
        let norm = &layout.find("backbone.0.1.running_var").unwrap().range;
        assert!(a.1[norm.clone()].iter().all(|&v| v == 1.0));
        assert!(a.0.iter().chain(&a.1).all(|v| v.is_finite()));
    }

    #[test]
    fn names_of_torchvision_become_those_of_the_published_networks() {
        for (backbone, theirs, ours) in [
            (Backbone::MobileNet, "features.0.0.weight", Some("backbone.0.0.weight")),
            (Backbone::MobileNet, "classifier.0.weight", None),
            (Backbone::ResNet, "conv1.weight", Some("backbone.0.weight")),
            (Backbone::ResNet, "bn1.running_mean", Some("backbone.1.running_mean")),
            (Backbone::ResNet, "layer3.22.conv2.weight", Some("backbone.6.22.conv2.weight")),
            (Backbone::ResNet, "fc.weight", None),
            (Backbone::SwinV2Tiny, "features.1.0.attn.qkv.weight", Some("backbone.0.1.0.attn.qkv.weight")),
            (Backbone::SwinBase, "norm.bias", Some("backbone.1.bias")),
            (Backbone::SwinBase, "head.weight", None),
            (Backbone::ConvNextBase, "classifier.2.weight", None),
        ] {
            assert_eq!(published_name(backbone, theirs).as_deref(), ours, "{theirs}");
        }
    }
}

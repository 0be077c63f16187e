//! Values that are pure functions of names, as `fixtures/parity/README.md` defines them: neither weights nor inputs of
//! the parity cases are stored.

use segface_codegen::{Backbone, ModelSpec, WeightSource};
use std::{borrow::Cow, collections::HashMap, fs};

/// `u(name, i)` in [−1, 1) for i = 0, 1, 2, …
pub fn uniform(name: &str) -> impl Iterator<Item = f64> + use<> {
    let start = fnv1a64(name);
    (0..).map(move |i| 2.0 * ((splitmix64(start.wrapping_add(i)) >> 40) as f64 / (1u64 << 24) as f64) - 1.0)
}

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

pub(crate) fn fnv1a64(s: &str) -> u64 {
    s.bytes().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// The seeded weights of a network: names and shapes of the published state dict, values from [`uniform`].
#[derive(Debug)]
pub struct SeededWeights {
    shapes: HashMap<String, Vec<usize>>,
}

impl SeededWeights {
    /// The weights of `spec`.
    pub fn new(spec: ModelSpec) -> Self {
        // The published code never builds a true tiny ConvNeXt: its tensors are small's without the last 18 blocks of
        // the third stage.
        let (keys, skipped): (_, fn(&str) -> bool) = match spec.backbone {
            Backbone::ConvNextTiny => (Backbone::ConvNextSmall, |name| {
                let block = name.strip_prefix("backbone.0.5.").and_then(|rest| rest.split('.').next());
                block.is_some_and(|index| index.parse::<u32>().expect("a block's index") >= 9)
            }),
            other => (other, |_| false),
        };
        let path = crate::fixtures().join(format!("keys/{keys}_celeb.tsv"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut shapes = HashMap::new();
        for line in text.lines() {
            let mut columns = line.split('\t');
            let (Some(name), Some(shape)) = (columns.next(), columns.next()) else {
                panic!("{}: not a line of name, shape, type: {line:?}", path.display());
            };
            let class_token = name.strip_prefix("face_decoder.").is_some_and(|leaf| leaf.ends_with("_token.weight"));
            if !class_token && !skipped(name) {
                let shape = shape.split('x').filter(|&n| n != "scalar").map(|n| n.parse().expect("a size"));
                shapes.insert(name.to_owned(), shape.collect());
            }
        }
        for class in spec.variant.classes() {
            shapes.insert(format!("face_decoder.{class}_token.weight"), vec![1, 256]);
        }
        SeededWeights { shapes }
    }
}

impl WeightSource for SeededWeights {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        let shape = self.shapes.get(name)?;
        let (offset, scale) = affine(name, shape)?;
        let count = shape.iter().product();
        let values = uniform(name).take(count).map(|u| (offset + scale * u) as f32);
        Some((shape, values.collect()))
    }
}

/// Offset and scale of the values of tensor `name`; none for tables that the architecture defines.
fn affine(name: &str, shape: &[usize]) -> Option<(f64, f64)> {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let fan_in = |axes: &[usize]| (4.5 / axes.iter().product::<usize>() as f64).sqrt();
    Some(match leaf {
        "relative_position_index" | "relative_coords_table" | "num_batches_tracked" => return None,
        "running_mean" => (0.0, 0.1),
        "running_var" => (1.0, 0.5),
        "relative_position_bias_table" => (0.0, 1.0),
        "logit_scale" => (10f64.ln(), 0.3),
        "layer_scale" => (0.3, 0.1),
        "positional_encoding_gaussian_matrix" => (0.0, 1.5),
        "weight" if name.contains("_token") && shape == [1, 256] => (0.0, 1.0),
        _ if name.ends_with(".bn3.weight") || name.ends_with(".block.3.1.weight") => (0.3, 0.3 * 0.2),
        "weight" if shape.len() == 1 => (1.0, 0.2),
        _ if shape.len() == 1 => (0.0, 0.1),
        _ if name.starts_with("face_decoder.output_upscaling.") => (0.0, fan_in(&shape[..1])),
        _ => (0.0, fan_in(&shape[1..])),
    })
}

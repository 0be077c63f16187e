//! From `--weights` and `--model` to weights.

use super::{Hints, Hub, Published, Weights, WeightsError, seeded};
use segface_codegen::ModelSpec;
use std::path::Path;

/// Finds the weights a command asks for: a file, a model by name (see below), or neither, which means the built-in
/// demonstration weights.
///
/// Names: a published one (`swinb_celeba_512`, from the cache, else downloaded), `demo`, or `random:<backbone>/<variant>`,
/// whose seeded values compute nothing sensible but cost the same (for benches and tests).
pub fn resolve(weights: Option<&Path>, model: Option<&str>, hints: Hints) -> Result<Weights, WeightsError> {
    match (weights, model) {
        (Some(path), None) => Weights::load_with(path, hints),
        (None, Some(name)) => by_name(name),
        (None, None) => Weights::demo(),
        (Some(path), Some(name)) => Err(WeightsError::TwoSources { weights: path.into(), model: name.into() }),
    }
}

fn by_name(name: &str) -> Result<Weights, WeightsError> {
    if name == "demo" {
        return Weights::demo();
    }
    if let Some(network) = name.strip_prefix("random:") {
        let spec = network.split_once('/').and_then(|(backbone, variant)| {
            Some(ModelSpec { backbone: backbone.parse().ok()?, variant: variant.parse().ok()? })
        });
        return spec.map(seeded).ok_or_else(|| WeightsError::UnknownModel {
            name: name.into(),
            known: "random:<backbone>/<variant>, e.g. random:swin_base/celeb".into(),
        });
    }
    let model = Published::named(name)?;
    Weights::load(&Hub::from_env()?.fetch(&model, false)?)
}

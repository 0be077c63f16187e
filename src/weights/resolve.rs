//! From `--weights` and `--model` to weights.

use super::{Hints, Hub, Published, Weights, WeightsError, seeded};
use segface_codegen::ModelSpec;
use std::path::Path;

/// Finds the weights a command asks for: a file, a model by name (see below), or neither, which means the built-in
/// demonstration weights.
///
/// Names: a published one (`swinb_celeba_512`, from the cache, else downloaded), `demo`, or `random:<backbone>/<variant>`,
/// whose seeded values compute nothing sensible but cost the same (for benches and tests).
///
/// `asked` settles what a file leaves open. A variant that the model does not have is an error.
pub fn resolve(weights: Option<&Path>, model: Option<&str>, asked: Hints) -> Result<Weights, WeightsError> {
    let mut found = match (weights, model) {
        (Some(path), None) => return Weights::load_with(path, asked),
        (None, Some(name)) => by_name(name)?,
        (None, None) => Weights::demo()?,
        (Some(path), Some(name)) => {
            return Err(WeightsError::TwoSources { weights: path.into(), model: name.into() });
        }
    };
    if let Some(wanted) = asked.variant.filter(|&variant| variant != found.spec.variant) {
        let (file, found) = (found.file, found.spec.variant.name());
        return Err(WeightsError::VariantMismatch { file, found, wanted, said_by: "the command line" });
    }
    found.resolution = asked.resolution.or(found.resolution);
    Ok(found)
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

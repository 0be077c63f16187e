//! Telling which network a checkpoint holds.
//!
//! Backbone and class count come from the tensors: the network whose manifest shares most tensors (name and shape) with the
//! file. So a damaged checkpoint is still compared with the network it was meant to be, and what is wrong with it can be
//! named. LaPa and Helen networks have the same tensors; metadata, the command line or the file's name tell them apart.

use super::{Tensor, WeightsError, published::Published};
use segface_codegen::{Backbone, ModelSpec, Variant, manifest};
use std::{collections::BTreeMap, path::Path};

/// Share of tensors that must agree, counted over those of either side. The decoder alone makes 0.04 to 0.24; the closest
/// two networks of the family (the base models of Swin V1 and V2) share 0.71.
const LEAST_AGREEMENT: f64 = 0.4;

/// What the user, the file's metadata or the file's name say about a checkpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// The variant, needed where the tensors allow two.
    pub variant: Option<Variant>,
    /// Side of the square input the network was trained with.
    pub resolution: Option<usize>,
}

impl Hints {
    /// What a path says: `swinb_lapa_512/model_299.pt`, `my-helen-run.safetensors`. The file's own name counts before its
    /// folder's; a name with two variants says nothing.
    pub(super) fn from_path(path: &Path) -> Hints {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let folder = std::path::absolute(path)
            .ok()
            .and_then(|p| Some(p.parent()?.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default();
        let mut hints = Hints::default();
        for name in [stem, folder] {
            let name = name.to_ascii_lowercase();
            let words: Vec<_> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
            let mut variants = Variant::ALL
                .into_iter()
                .filter(|v| words.contains(&v.name()) || (*v == Variant::Celeb && words.contains(&"celeba")));
            if let (Some(variant), None) = (variants.next(), variants.next()) {
                hints.variant = hints.variant.or(Some(variant));
            }
            hints.resolution = hints.resolution.or(Published::find(&name).map(|p| p.resolution));
        }
        hints
    }

    /// What the metadata of a safetensors file says about things that were not `asked`.
    pub(super) fn from_metadata(
        file: &str,
        metadata: &BTreeMap<String, String>,
        asked: Hints,
    ) -> Result<Hints, WeightsError> {
        let wrong = |key: &str, value: &str, reason: String| WeightsError::Metadata {
            file: file.into(),
            key: key.into(),
            value: value.into(),
            reason,
        };
        let variant = match metadata.get("variant").filter(|_| asked.variant.is_none()) {
            Some(value) => Some(value.parse().map_err(|reason| wrong("variant", value, reason))?),
            None => None,
        };
        let resolution = match metadata.get("resolution").filter(|_| asked.resolution.is_none()) {
            Some(value) => match value.parse() {
                Ok(side @ 1..=65_536) => Some(side),
                _ => return Err(wrong("resolution", value, "expected a number of pixels from 1 to 65536".into())),
            },
            None => None,
        };
        Ok(Hints { variant, resolution })
    }

    /// These where they say something, else `other`.
    pub(super) fn or(self, other: Hints) -> Hints {
        Hints { variant: self.variant.or(other.variant), resolution: self.resolution.or(other.resolution) }
    }
}

/// The backbone and the variants the tensors allow: one of celeb, or lapa and helen.
pub(super) fn from_tensors(
    file: &str,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(Backbone, &'static [Variant]), WeightsError> {
    let not_recognised = |reason: String| WeightsError::NotRecognised { file: file.into(), reason };
    if tensors.is_empty() {
        return Err(not_recognised("it holds no tensors".into()));
    }
    let celeb = Backbone::ALL.map(|backbone| {
        let spec = ModelSpec { backbone, variant: Variant::Celeb };
        (agreement(tensors, &spec), backbone)
    });
    // Missing or surplus class tokens lower the share of every backbone alike, so the best is found with any variant.
    let best = celeb.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((with_celeb, backbone)) if with_celeb >= LEAST_AGREEMENT => {
            let with_lapa = agreement(tensors, &ModelSpec { backbone, variant: Variant::Lapa });
            let variants: &[Variant] =
                if with_celeb >= with_lapa { &[Variant::Celeb] } else { &[Variant::Lapa, Variant::Helen] };
            Ok((backbone, variants))
        }
        _ => {
            let examples: Vec<_> = tensors.keys().take(3).map(|name| format!("`{name}`")).collect();
            let closest = match best {
                Some((agreement, backbone)) if agreement > 0.0 => {
                    format!("; the closest, {backbone}, shares {:.0} %", 100.0 * agreement)
                }
                _ => String::new(),
            };
            Err(not_recognised(format!(
                "of its {} tensors (such as {}) too few belong to any SegFace network{closest}",
                tensors.len(),
                examples.join(", "),
            )))
        }
    }
}

/// Tensors that agree in name and shape, over the tensors of either side.
fn agreement(tensors: &BTreeMap<String, Tensor>, spec: &ModelSpec) -> f64 {
    let manifest = manifest(spec);
    let same_name = manifest.iter().filter_map(|decl| Some((decl, tensors.get(&decl.name)?)));
    let (mut named, mut agreeing) = (0, 0);
    for (decl, tensor) in same_name {
        named += 1;
        agreeing += usize::from(tensor.shape() == decl.shape);
    }
    agreeing as f64 / (manifest.len() + tensors.len() - named).max(1) as f64
}

/// Settles the variant: the command line's word first, then the metadata's, then the file name's.
pub(super) fn variant(
    file: &str,
    allowed: &[Variant],
    asked: Option<Variant>,
    metadata: Option<Variant>,
    path: Option<Variant>,
) -> Result<Variant, WeightsError> {
    for (said, said_by) in [(asked, "the command line"), (metadata, "the file's metadata")] {
        if let Some(wanted) = said {
            if allowed.contains(&wanted) {
                return Ok(wanted);
            }
            let found = if allowed == [Variant::Celeb] { "celeb" } else { "lapa or helen" };
            return Err(WeightsError::VariantMismatch { file: file.into(), found, wanted, said_by });
        }
    }
    match (allowed, path) {
        ([only], _) => Ok(*only),
        (_, Some(variant)) if allowed.contains(&variant) => Ok(variant),
        _ => Err(WeightsError::VariantUnknown { file: file.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::DType;

    #[test]
    fn networks_agree_with_themselves_and_little_with_each_other() {
        let spec = |backbone| ModelSpec { backbone, variant: Variant::Celeb };
        for this in Backbone::ALL {
            // The system provides the zeroed memory only once it is touched, which it is not.
            let zeros = |shape: &[usize]| vec![0; 4 * shape.iter().product::<usize>()];
            let tensors: BTreeMap<_, _> = manifest(&spec(this))
                .into_iter()
                .filter_map(|d| Some((d.name, Tensor::from_bytes(DType::F32, d.shape.clone(), zeros(&d.shape))?)))
                .collect();
            for other in Backbone::ALL {
                let agreement = agreement(&tensors, &spec(other));
                println!("{this} with {other}: {agreement:.2}");
                assert!(
                    if this == other { agreement == 1.0 } else { agreement < 0.75 },
                    "{this} with {other}: {agreement}"
                );
            }
        }
    }
}

//! Writing weights as safetensors.

use super::{DType, Tensor, Weights, WeightsError, problems::overflows, safetensors_file};
use crate::files::{self, WriteError};
use segface_codegen::ModelSpec;
use std::{collections::BTreeMap, path::Path};

/// Version of the metadata this program writes; a reader of another version ignores keys it does not know.
pub const FORMAT_VERSION: u32 = 1;

/// How weights are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveAs {
    /// Element type of the floating-point weights; `None` keeps each tensor's own. Statistics of batch norms, fixed tables
    /// and the position matrix keep 32 bits or more whatever is asked: they are small, and their range or precision matters.
    pub dtype: Option<DType>,
    /// Whether an existing file is replaced.
    pub force: bool,
}

impl Weights {
    /// Writes a safetensors file with metadata variant, backbone, resolution (where known) and format version. The same
    /// weights give the same bytes. Another file of that name is only replaced when asked, and only once the new one is
    /// complete.
    pub fn save(&self, path: &Path, options: SaveAs) -> Result<(), WeightsError> {
        let file = path.display().to_string();
        let tensors = match options.dtype {
            None => self.tensors.clone(),
            Some(dtype) => self
                .tensors
                .iter()
                .map(|(name, tensor)| Ok((name.clone(), stored_as(name, tensor, dtype)?)))
                .collect::<Result<_, WeightsError>>()?,
        };
        let metadata = metadata(self.spec, self.resolution);
        files::write_atomically(path, options.force, |out| safetensors_file::write(out, &tensors, &metadata)).map_err(
            |error| match error {
                WriteError::Exists => WeightsError::Exists { file },
                WriteError::Io(source) => WeightsError::Io { action: "write", file, source },
            },
        )
    }
}

/// What is written beside the tensors of a network.
pub(crate) fn metadata(spec: ModelSpec, resolution: Option<usize>) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([
        ("backbone".to_owned(), spec.backbone.to_string()),
        ("variant".to_owned(), spec.variant.to_string()),
        ("format".to_owned(), "pt".to_owned()),
        ("segface_format_version".to_owned(), FORMAT_VERSION.to_string()),
    ]);
    if let Some(resolution) = resolution {
        metadata.insert("resolution".to_owned(), resolution.to_string());
    }
    metadata
}

fn stored_as(name: &str, tensor: &Tensor, dtype: DType) -> Result<Tensor, WeightsError> {
    let narrow = matches!(dtype, DType::F16 | DType::BF16);
    let keeps_precision = super::is_buffer(name) || name.ends_with(".logit_scale");
    if !tensor.dtype().is_float() || (narrow && keeps_precision) {
        return Ok(tensor.clone());
    }
    let stored = tensor.to_float(dtype);
    match overflows(tensor, &stored, dtype) {
        0 => Ok(stored),
        count => Err(WeightsError::Overflow { tensor: name.into(), dtype, count }),
    }
}

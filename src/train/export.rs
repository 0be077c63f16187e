//! A run's parameters as a network in the published format.

use super::{Entry, Layout, Role};
use crate::Error;
use crate::files::{WriteError, write_atomically};
use crate::weights::{DType, Tensor, View, Weights, WeightsError, metadata, write_views};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes all tensors of a network under their published names, with metadata, as [`Weights::save`] does: what `segface parse`, `eval` and
/// `convert` read. Replaces an earlier file, once the new one is on disk.
///
/// # Errors
/// [`WeightsError::Io`]: no permission, a full disk.
pub fn export(
    path: &Path,
    layout: &Layout,
    resolution: usize,
    parameters: &[f32],
    buffers: &[f32],
) -> Result<(), Error> {
    let stored: Vec<(&Entry, DType, Cow<'_, [u8]>)> = entries(layout, parameters, buffers).collect();
    let views = stored.iter().map(|(entry, dtype, bytes)| View {
        name: entry.name.clone(),
        dtype: *dtype,
        shape: &entry.shape,
        bytes,
    });
    let metadata = metadata(layout.model(), Some(resolution));
    write_atomically(path, true, |out| write_views(out, views.collect(), &metadata)).map_err(|error| {
        let file = path.display().to_string();
        match error {
            WriteError::Io(source) => WeightsError::Io { action: "write", file, source }.into(),
            WriteError::Exists => WeightsError::Exists { file }.into(),
        }
    })
}

/// The same in memory.
///
/// # Errors
/// [`WeightsError::Problems`] if a value is not finite.
pub fn weights(layout: &Layout, resolution: usize, parameters: &[f32], buffers: &[f32]) -> Result<Weights, Error> {
    let tensors: BTreeMap<String, Tensor> = entries(layout, parameters, buffers)
        .filter_map(|(entry, dtype, bytes)| {
            Some((entry.name.clone(), Tensor::from_bytes(dtype, entry.shape.clone(), bytes.into_owned())?))
        })
        .collect();
    Ok(Weights::from_tensors("the network in training", layout.model(), Some(resolution), tensors)?)
}

/// Tensors as they are stored: integers are integers again.
fn entries<'a>(
    layout: &'a Layout,
    parameters: &'a [f32],
    buffers: &'a [f32],
) -> impl Iterator<Item = (&'a Entry, DType, Cow<'a, [u8]>)> {
    let parameters = layout.parameters().iter().map(move |entry| (entry, &parameters[entry.range.clone()]));
    let buffers = layout.buffers().iter().map(move |entry| (entry, &buffers[entry.range.clone()]));
    parameters.chain(buffers).map(|(entry, values)| {
        let integer = entry.role == Role::Count || entry.name.ends_with("relative_position_index");
        match integer {
            true => {
                let bytes = values.iter().flat_map(|value| (value.round() as i64).to_le_bytes()).collect();
                (entry, DType::I64, Cow::Owned(bytes))
            }
            false => (entry, DType::F32, Cow::Borrowed(bytemuck::cast_slice(values))),
        }
    })
}

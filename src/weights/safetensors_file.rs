//! Reading and writing safetensors files.
//!
//! Layout: u64 header length, a JSON header (name → dtype, shape, byte range; `__metadata__` → strings), then the data.
//! The reader leans on the `safetensors` crate, which refuses overlaps, holes and ranges outside the file. The writer is our
//! own because the crate's orders metadata by a random hash: the same weights must give the same bytes.

use super::{
    DType, Tensor, WeightsError,
    tensor::{Bytes, shape_name},
};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write},
};

/// Tensors by name, and the metadata beside them.
pub(super) type Contents = (BTreeMap<String, Tensor>, BTreeMap<String, String>);

/// The header is padded with spaces to this, so that the data of a mapped file is aligned for every element type.
const ALIGNMENT: usize = 64;

pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Contents, WeightsError> {
    let broken = |reason: String| WeightsError::Safetensors { file: file.into(), reason };
    let (header_len, header) = SafeTensors::read_metadata(bytes.as_slice()).map_err(|e| broken(e.to_string()))?;
    let data_start = size_of::<u64>() + header_len;
    let mut tensors = BTreeMap::new();
    let mut unsupported = Vec::new();
    for (name, info) in header.tensors() {
        let Some(dtype) = DType::ALL.into_iter().find(|d| d.safetensors_name() == info.dtype.to_string()) else {
            unsupported.push(format!("`{name}` ({})", info.dtype));
            continue;
        };
        let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
        let tensor = Tensor::new(dtype, info.shape.clone(), bytes.clone(), range).ok_or_else(|| {
            broken(format!("`{name}` of shape {} does not fit its byte range", shape_name(&info.shape)))
        })?;
        tensors.insert(name, tensor);
    }
    if !unsupported.is_empty() {
        unsupported.sort();
        let names: Vec<_> = DType::ALL.iter().map(|d| d.safetensors_name()).collect();
        return Err(broken(format!(
            "these tensors have element types that are not read (those read are {}): {}",
            names.join(", "),
            unsupported.join(", ")
        )));
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok((tensors, metadata))
}

/// Writes tensors and metadata; the same arguments always give the same bytes.
pub(super) fn write(
    out: &mut dyn Write,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let views = tensors.iter().map(|(name, tensor)| View {
        name: name.clone(),
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        bytes: tensor.bytes(),
    });
    write_views(out, views.collect(), metadata)
}

/// A tensor to be written, wherever it lies.
pub(crate) struct View<'a> {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// Row-major, little-endian, as many as the shape asks.
    pub(crate) bytes: &'a [u8],
}

/// The same for tensors that lie in memory of others; names must differ.
pub(crate) fn write_views(
    out: &mut dyn Write,
    mut views: Vec<View<'_>>,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    // Wide elements first keep every tensor aligned to its own element size.
    views.sort_by(|a, b| (Reverse(a.dtype.size()), &a.name).cmp(&(Reverse(b.dtype.size()), &b.name)));
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!(metadata));
    let mut end = 0;
    for view in &views {
        let start = end;
        end += view.bytes.len();
        header.insert(
            view.name.clone(),
            json!({ "dtype": view.dtype.safetensors_name(), "shape": view.shape, "data_offsets": [start, end] }),
        );
    }
    let mut header = serde_json::to_vec(&Value::Object(header))?;
    let padded = (size_of::<u64>() + header.len()).next_multiple_of(ALIGNMENT) - size_of::<u64>();
    header.resize(padded, b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    views.iter().try_for_each(|view| out.write_all(view.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn float32_is_aligned_whatever_lies_beside_it() {
        let odd = Tensor::from_bytes(DType::F16, vec![3], vec![0; 6]).unwrap();
        let byte = Tensor::from_bytes(DType::U8, vec![1], vec![7]).unwrap();
        let floats = Tensor::from_f32(vec![2], &[1.0, 2.0]).unwrap();
        let tensors = BTreeMap::from([("a".into(), odd), ("b".into(), byte), ("c".into(), floats)]);
        let mut file = Vec::new();
        write(&mut file, &tensors, &BTreeMap::new()).unwrap();
        let file = Bytes::Owned(Arc::new(file));
        let (read, _) = read("test", &file).unwrap();
        for tensor in read.values() {
            // Mapped files start at a page, so the place in the file decides.
            let place = tensor.bytes().as_ptr().addr() - file.as_slice().as_ptr().addr();
            assert_eq!(place % tensor.dtype().size(), 0, "{tensor:?} lies at byte {place}");
        }
        assert_eq!(*read["c"].values(), [1.0, 2.0]);
    }
}

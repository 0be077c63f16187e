//! Reading the files `torch.save` writes (PyTorch 1.6 and later): a zip archive of uncompressed records.
//!
//! `<name>/data.pkl` is a pickle of the saved object, in which a tensor is a strided view of a numbered storage;
//! `<name>/data/<number>` holds the elements of that storage; `<name>/byteorder` says `little` or `big` (absent before
//! PyTorch 2.1, when it was the machine's: little). SegFace's training saves the dict {epoch, iteration,
//! state_dict_backbone, optimizer, scheduler}.
//!
//! Nothing is decompressed, so no file unfolds to more than its own size, and tensors that lie contiguously are views of
//! the mapped file.

mod object;
mod pickle;

pub use pickle::PickleError;

use super::{
    Tensor, WeightsError,
    safetensors_file::Contents,
    tensor::{Bytes, byte_len},
};
use object::{Object, TensorView, Unpickled, Value};
use pickle::MAX_PICKLE;
use std::{
    collections::{BTreeMap, HashMap},
    io::Cursor,
    ops::Range,
};
use zip::{CompressionMethod, ZipArchive};

/// Where checkpoints keep the network's tensors: SegFace's own key first, then those other training scripts use.
const STATE_DICT_KEYS: [&str; 4] = ["state_dict_backbone", "state_dict", "model_state_dict", "model"];

/// How a file of the time before PyTorch 1.6 starts: a pickle (protocol 2) of torch.save's magic number.
const LEGACY_MAGIC: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether the file starts like a zip archive.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

/// Whether it is a `torch.save` file of the time before PyTorch 1.6: a bare sequence of pickles, or a tar archive.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.starts_with(LEGACY_MAGIC) || bytes.get(257..262) == Some(b"ustar")
}

/// The tensors of the state dict in a `torch.save` file; its epoch and iteration as metadata.
pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Contents, WeightsError> {
    let broken = |reason: String| WeightsError::Torch { file: file.into(), reason };
    let mut archive = Archive::open(bytes).map_err(broken)?;
    let big_endian = match archive.record("byteorder").map_err(broken)? {
        None => false,
        Some(range) => match &bytes.as_slice()[range] {
            b"little" => false,
            b"big" => true,
            _ => return Err(broken("its record `byteorder` says neither `little` nor `big`".into())),
        },
    };
    let Some(range) = archive.record("data.pkl").map_err(broken)? else {
        return Err(broken("it has no record `data.pkl`".into()));
    };
    let unpickled = pickle::unpickle(&bytes.as_slice()[range])
        .map_err(|source| WeightsError::Pickle { file: file.into(), source })?;

    let state_dict = find_state_dict(&unpickled).map_err(broken)?;
    let mut builder = TensorBuilder { archive, bytes, big_endian, records: HashMap::new(), copied: 0 };
    let mut tensors = BTreeMap::new();
    let mut problems = Vec::new();
    for &(key, value) in state_dict {
        let Some(name) = unpickled.text(key) else {
            problems.push("a key that is not a string".into());
            continue;
        };
        match unpickled.object(value) {
            Some(Object::Tensor(view)) => match builder.build(view) {
                Ok(tensor) => {
                    tensors.insert(name.to_owned(), tensor);
                }
                Err(reason) => problems.push(format!("`{name}`: {reason}")),
            },
            _ => problems.push(format!("`{name}` is not a tensor")),
        }
    }
    if !problems.is_empty() {
        return Err(broken(format!("its state dict has entries that cannot be read:\n  {}", problems.join("\n  "))));
    }
    Ok((tensors, training_progress(&unpickled)))
}

/// The dict of tensors: under one of [`STATE_DICT_KEYS`], or the saved object itself.
fn find_state_dict<'p>(unpickled: &'p Unpickled<'_>) -> Result<&'p [(Value, Value)], String> {
    let Some(root) = unpickled.dict(unpickled.root) else {
        return Err("it holds something other than a dict".into());
    };
    let holds_tensors = |entries: &[(Value, Value)]| {
        entries.iter().any(|&(_, value)| matches!(unpickled.object(value), Some(Object::Tensor(_))))
    };
    for wanted in STATE_DICT_KEYS {
        let found = root.iter().rev().find(|&&(key, _)| unpickled.text(key) == Some(wanted));
        if let Some(entries) = found.and_then(|&(_, value)| unpickled.dict(value))
            && holds_tensors(entries)
        {
            return Ok(entries);
        }
    }
    if holds_tensors(root) {
        return Ok(root);
    }
    let keys: Vec<_> = root.iter().filter_map(|&(key, _)| unpickled.text(key)).take(20).collect();
    Err(format!(
        "no state dict was found: expected tensors by name, or such a dict under one of {}; its keys are: {}",
        STATE_DICT_KEYS.join(", "),
        if keys.is_empty() { "none".into() } else { keys.join(", ") }
    ))
}

fn training_progress(unpickled: &Unpickled<'_>) -> BTreeMap<String, String> {
    let root = unpickled.dict(unpickled.root).unwrap_or_default();
    root.iter()
        .filter_map(|&(key, value)| match (unpickled.text(key), value) {
            (Some(name @ ("epoch" | "iteration")), Value::Int(count)) => Some((name.to_owned(), count.to_string())),
            _ => None,
        })
        .collect()
}

/// The zip archive around the records.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    bytes: &'a [u8],
    /// What every record's name starts with, `/` included.
    prefix: String,
    /// Bytes of the records looked at so far.
    looked_at: usize,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a Bytes) -> Result<Archive<'a>, String> {
        let bytes = bytes.as_slice();
        let zip = ZipArchive::new(Cursor::new(bytes))
            .map_err(|e| format!("its zip directory cannot be read; is the download complete? ({e})"))?;
        let mut prefixes = zip.file_names_raw().filter_map(|name| name.strip_suffix(b"data.pkl")).filter(|prefix| {
            // TorchScript archives hold `code/` and pickles of their own beside `data.pkl`.
            prefix.ends_with(b"/") && prefix.iter().filter(|&&b| b == b'/').count() == 1
        });
        let prefix = match (prefixes.next(), prefixes.next()) {
            (Some(prefix), None) => String::from_utf8(prefix.to_vec()).map_err(|_| "a record's name is not UTF-8")?,
            (None, _) => return Err("it is a zip archive without the record `<name>/data.pkl` of torch.save".into()),
            (Some(_), Some(_)) => return Err("it has more than one record `data.pkl`".into()),
        };
        drop(prefixes);
        if zip.index_for_name(&format!("{prefix}constants.pkl")).is_some() {
            return Err("it is a TorchScript program, not a checkpoint: save the state dict with torch.save".into());
        }
        Ok(Archive { zip, bytes, prefix, looked_at: 0 })
    }

    /// Where a record's content lies in the file, after checking its checksum. `None` if there is no such record.
    fn record(&mut self, name: &str) -> Result<Option<Range<usize>>, String> {
        let Some(index) = self.zip.index_for_name(&format!("{}{name}", self.prefix)) else { return Ok(None) };
        let entry = self.zip.by_index_raw(index).map_err(|e| format!("record `{name}` cannot be read: {e}"))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(format!("record `{name}` is compressed or encrypted; torch.save writes plain records"));
        }
        let range = entry.data_start().and_then(|start| {
            Some(usize::try_from(start).ok()?..usize::try_from(start.checked_add(entry.size())?).ok()?)
        });
        let crc = entry.crc32();
        let Some((range, content)) = range.and_then(|range| Some((range.clone(), self.bytes.get(range)?))) else {
            return Err(format!("record `{name}` reaches beyond the end of the file: it is truncated"));
        };
        if name == "data.pkl" && content.len() > MAX_PICKLE {
            return Err(format!(
                "record `{name}` has {} bytes, more than any checkpoint's ({MAX_PICKLE})",
                content.len()
            ));
        }
        // Records that overlap would make a small file long to check.
        self.looked_at += content.len();
        if self.looked_at > self.bytes.len() {
            return Err(format!("record `{name}` overlaps others"));
        }
        if crc32fast::hash(content) != crc {
            return Err(format!("record `{name}` is damaged: its checksum does not match"));
        }
        Ok(Some(range))
    }
}

struct TensorBuilder<'a> {
    archive: Archive<'a>,
    bytes: &'a Bytes,
    big_endian: bool,
    /// Records whose checksum was checked, by storage key.
    records: HashMap<String, Range<usize>>,
    /// Bytes of tensors that had to be laid out anew.
    copied: usize,
}

impl TensorBuilder<'_> {
    fn build(&mut self, view: &TensorView<'_>) -> Result<Tensor, String> {
        let storage = view.storage;
        let size = storage.dtype.size();
        let record = match self.records.get(storage.key) {
            Some(range) => range.clone(),
            None => {
                let name = format!("data/{}", storage.key);
                let range = self.archive.record(&name)?.ok_or_else(|| format!("its record `{name}` is missing"))?;
                self.records.insert(storage.key.to_owned(), range.clone());
                range
            }
        };
        if storage.len.checked_mul(size) != Some(record.len()) {
            return Err(format!(
                "its storage of {} {} should take {} bytes each, but the record has {}",
                storage.len,
                storage.dtype,
                size,
                record.len()
            ));
        }
        // The unpickler checked that the view lies inside the storage and is not larger than it.
        let len = byte_len(storage.dtype, &view.shape).ok_or("its size overflows")?;
        if is_contiguous(view) && !self.big_endian {
            let start = if len == 0 { record.start } else { record.start + view.offset * size };
            return Tensor::new(storage.dtype, view.shape.clone(), self.bytes.clone(), start..start + len)
                .ok_or_else(|| "it reaches beyond its record".into());
        }
        // Views that overlap could together be far larger than the file; those of a network do not overlap.
        self.copied += len;
        if self.copied > self.bytes.as_slice().len() {
            return Err("the strided tensors together are larger than the file".into());
        }
        let mut copy = gather(view, &self.bytes.as_slice()[record], len);
        if self.big_endian {
            copy.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Tensor::from_bytes(storage.dtype, view.shape.clone(), copy).ok_or_else(|| "its size overflows".into())
    }
}

fn is_contiguous(view: &TensorView<'_>) -> bool {
    if view.shape.contains(&0) {
        return true;
    }
    // The product of extents is at most the storage's length, so this cannot overflow.
    let mut expected = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(&extent, &stride)| {
        let fits = extent == 1 || stride == expected;
        expected *= extent;
        fits
    })
}

/// The elements of a strided view in row-major order.
fn gather(view: &TensorView<'_>, storage: &[u8], len: usize) -> Vec<u8> {
    let size = view.storage.dtype.size();
    let mut out = Vec::with_capacity(len);
    let mut index = vec![0; view.shape.len()];
    let mut element = view.offset;
    while out.len() < len {
        out.extend_from_slice(&storage[element * size..(element + 1) * size]);
        for dim in (0..index.len()).rev() {
            index[dim] += 1;
            // Wraps only past the last element of the view, where it is not used: a dimension of extent 1 may have any stride.
            element = element.wrapping_add(view.strides[dim]);
            if index[dim] < view.shape[dim] {
                break;
            }
            element = element.wrapping_sub(view.strides[dim].wrapping_mul(view.shape[dim]));
            index[dim] = 0;
        }
    }
    out
}

//! The file format of engines: a checked preamble, a header, blobs.
//!
//! Little-endian: 64 bytes of `Preamble`, the header, zeros to the next multiple of 64, then the blobs, each at a multiple of
//! 64. A loaded file stays mapped; it must not be changed in place meanwhile (writing a new one over it is fine: files are
//! replaced, never edited).

use super::EngineError;
use crate::files::{WriteError, write_atomically};
use bytemuck::{Pod, Zeroable};
use segface_kernels::gemm::core::SharedBytes;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// What an engine file was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every CPU.
    Cpu,
    /// CUDA devices.
    Cuda,
}

impl Kind {
    const fn magic(self) -> [u8; 8] {
        match self {
            Kind::Cpu => *b"segface\0",
            Kind::Cuda => *b"segcuda\0",
        }
    }

    /// Raised whenever a file of an older program would be misread.
    const fn version(self) -> u32 {
        1
    }
}

const ALIGNMENT: usize = 64;

/// The first 64 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Preamble {
    magic: [u8; 8],
    version: u32,
    /// CRC-32 of the header.
    header_crc: u32,
    /// CRC-32 of everything behind the header's padding.
    data_crc: u32,
    reserved: u32,
    header_bytes: u64,
    data_bytes: u64,
    rest: [u64; 3],
}

/// What kind of engine the file begins like. Files shorter than that are none.
pub(super) fn kind(path: &Path) -> Result<Option<Kind>, EngineError> {
    let mut begin = Vec::new();
    File::open(path).and_then(|file| file.take(8).read_to_end(&mut begin)).map_err(|source| EngineError::Io {
        action: "read",
        path: path.into(),
        source,
    })?;
    Ok([Kind::Cpu, Kind::Cuda].into_iter().find(|kind| begin == kind.magic()))
}

/// Where the blob after one that ends at `offset` begins.
pub(super) fn next(offset: usize) -> usize {
    offset.next_multiple_of(ALIGNMENT)
}

/// Zeros from `len` to the next multiple of [`ALIGNMENT`].
fn padding(len: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..next(len) - len]
}

/// Writes a file: whole or not at all.
pub(super) fn save(path: &Path, kind: Kind, header: &[u8], blobs: &[&[u8]], replace: bool) -> Result<(), EngineError> {
    let mut crc = crc32fast::Hasher::new();
    let mut data_bytes = 0;
    for blob in blobs {
        crc.update(blob);
        crc.update(padding(blob.len()));
        data_bytes += next(blob.len());
    }
    let preamble = Preamble {
        magic: kind.magic(),
        version: kind.version(),
        header_crc: crc32fast::hash(header),
        data_crc: crc.finalize(),
        reserved: 0,
        header_bytes: header.len() as u64,
        data_bytes: data_bytes as u64,
        rest: [0; 3],
    };
    let content = |out: &mut dyn Write| -> io::Result<()> {
        out.write_all(bytemuck::bytes_of(&preamble))?;
        out.write_all(header)?;
        out.write_all(padding(header.len()))?;
        for blob in blobs {
            out.write_all(blob)?;
            out.write_all(padding(blob.len()))?;
        }
        Ok(())
    };
    write_atomically(path, replace, content).map_err(|error| match error {
        WriteError::Exists => {
            EngineError::File { path: path.into(), reason: "the file exists; `--force` replaces it".into() }
        }
        WriteError::Io(source) => EngineError::Io { action: "write", path: path.into(), source },
    })
}

/// A mapped file whose checksums fit.
pub(super) struct Content {
    pub(super) map: SharedBytes,
    header: std::ops::Range<usize>,
    /// Where the blobs begin.
    pub(super) data_begin: usize,
}

impl Content {
    pub(super) fn header(&self) -> &[u8] {
        &(*self.map).as_ref()[self.header.clone()]
    }
}

/// Maps a file and checks it.
pub(super) fn load(path: &Path, kind: Kind) -> Result<Content, EngineError> {
    let failed = |source| EngineError::Io { action: "read", path: path.into(), source };
    let bad = |reason: String| EngineError::File { path: path.into(), reason };
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the mapping is read-only. Its bytes change only if someone writes into the file in place, against the contract
    // in the module's documentation; this program replaces files instead.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    let found = map.len();
    let preamble: Preamble = match map.get(..size_of::<Preamble>()) {
        Some(bytes) => bytemuck::pod_read_unaligned(bytes),
        None => return Err(bad(format!("{found} bytes are too few for an engine file"))),
    };
    if preamble.magic != kind.magic() {
        return Err(bad("this is not an engine file; `segface compile` makes one from weights".into()));
    }
    if preamble.version != kind.version() {
        return Err(bad(format!(
            "an engine of format {}, this program reads format {}; compile the model again",
            preamble.version,
            kind.version()
        )));
    }
    let begin = size_of::<Preamble>();
    let header_end = usize::try_from(preamble.header_bytes).ok().and_then(|n| begin.checked_add(n));
    let data_begin = header_end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
    let data_end = usize::try_from(preamble.data_bytes).ok().and_then(|n| data_begin?.checked_add(n));
    let (Some(header_end), Some(data_begin), Some(data_end)) = (header_end, data_begin, data_end) else {
        return Err(bad("its sizes are impossible; compile the model again".into()));
    };
    if data_end != found {
        return Err(bad(format!(
            "{found} bytes, expected {data_end}: it was cut off or extended; compile the model again"
        )));
    }
    let (header, data) = (begin..header_end, &map[data_begin..]);
    if crc32fast::hash(&map[header.clone()]) != preamble.header_crc || crc32fast::hash(data) != preamble.data_crc {
        return Err(bad("its checksum does not fit: the file was damaged; compile the model again".into()));
    }
    Ok(Content { map: Arc::new(map), header, data_begin })
}

//! Module images: PTX text, and fat binaries that hold PTX.
//!
//! A fat binary is a header and entries, each with a header of its own that says what it holds, for which architecture,
//! and how it is compressed.

use super::status::{Failure, Outcome, Status};
use crate::card::Card;
use crate::program::Program;
use crate::settings::settings;
use std::io::Read;

const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const FATBIN_MAGIC: u32 = 0xba55_ed50;
const ELF_MAGIC: u32 = 0x464c_457f;
const KIND_PTX: u16 = 1;
const KIND_ELF: u16 = 2;
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;

/// Bytes of the header of a fat binary, and of that of an entry at least.
const HEADER: usize = 16;
const ENTRY_HEADER: usize = 64;

/// More than any program's PTX: the size that a damaged header states is not believed beyond it.
const LONGEST: u64 = 1 << 30;

/// What an entry of a fat binary is.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    kind: u16,
    target: u32,
    flags: u64,
    start: usize,
    bytes: usize,
    unpacked: usize,
}

fn invalid(reason: impl Into<String>) -> Failure {
    Status::InvalidImage.because(reason)
}

fn number<const BYTES: usize>(data: &[u8], at: usize) -> Option<[u8; BYTES]> {
    data.get(at..at.checked_add(BYTES)?)?.try_into().ok()
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    number(data, at).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    number(data, at).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    number(data, at).map(u64::from_le_bytes)
}

/// The entries of a fat binary.
fn entries(data: &[u8]) -> Outcome<Vec<Entry>> {
    let mut at = usize::from(u16_at(data, 6).unwrap_or(0)).max(HEADER);
    let mut found = Vec::new();
    while at < data.len() {
        let entry = || {
            let header = u32_at(data, at + 4)? as usize;
            let padded = usize::try_from(u64_at(data, at + 8)?).ok()?;
            let flags = u64_at(data, at + 40)?;
            let packed = if flags & (LZ4 | ZSTD) == 0 { padded } else { u32_at(data, at + 16)? as usize };
            let unpacked = u64_at(data, at + 56).filter(|bytes| *bytes <= LONGEST)?;
            let start = at.checked_add(header.max(ENTRY_HEADER))?;
            let next = at.checked_add(header)?.checked_add(padded)?;
            let entry = Entry {
                kind: u16_at(data, at)?,
                target: u32_at(data, at + 28)?,
                flags,
                start,
                bytes: packed,
                unpacked: usize::try_from(unpacked).ok()?,
            };
            (next > at && start.checked_add(packed)? <= data.len()).then_some((entry, next))
        };
        let Some((entry, next)) = entry() else {
            return Err(invalid(format!(
                "the fat binary's entry at byte {at} does not fit into its {} bytes",
                data.len()
            )));
        };
        found.push(entry);
        at = next;
    }
    Ok(found)
}

fn unpack(data: &[u8], entry: &Entry) -> Outcome<String> {
    let packed = &data[entry.start..entry.start + entry.bytes];
    let bytes = if entry.flags & LZ4 != 0 {
        lz4_flex::block::decompress(packed, entry.unpacked)
            .map_err(|error| invalid(format!("the PTX in the fat binary is not valid LZ4: {error}")))?
    } else if entry.flags & ZSTD != 0 {
        let mut bytes = Vec::with_capacity(entry.unpacked);
        let unpacked =
            ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| error.to_string()).and_then(|decoder| {
                decoder.take(entry.unpacked as u64).read_to_end(&mut bytes).map_err(|error| error.to_string())
            });
        unpacked.map_err(|error| invalid(format!("the PTX in the fat binary is not valid zstd: {error}")))?;
        bytes
    } else {
        packed.to_vec()
    };
    text(&bytes)
}

fn text(bytes: &[u8]) -> Outcome<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[..end]) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(invalid(format!("the PTX is not UTF-8 after byte {}", error.valid_up_to()))),
    }
}

/// The PTX of a fat binary that suits the card best: the newest architecture that the card can run.
pub(super) fn ptx_of_fat_binary(data: &[u8], card: &Card) -> Outcome<String> {
    if u32_at(data, 0) != Some(FATBIN_MAGIC) {
        return Err(invalid("no fat binary starts here"));
    }
    let entries = entries(data)?;
    let ptx = entries.iter().filter(|entry| entry.kind == KIND_PTX);
    if let Some(best) = ptx.clone().filter(|entry| entry.target <= card.target()).max_by_key(|entry| entry.target) {
        return unpack(data, best);
    }
    let list = |kind| {
        let targets = entries.iter().filter(|entry| entry.kind == kind).map(|entry| format!("sm_{}", entry.target));
        targets.collect::<Vec<_>>().join(", ")
    };
    let reason = match (list(KIND_PTX), list(KIND_ELF)) {
        (ptx, _) if !ptx.is_empty() => format!("it holds PTX for {ptx} only, and the card is sm_{}", card.target()),
        (_, elf) if !elf.is_empty() => format!(
            "it holds machine code (cubin) for {elf} only; ptxvm runs PTX: compile with -gencode arch=compute_XX,code=compute_XX"
        ),
        _ => "it holds neither PTX nor machine code".to_owned(),
    };
    Err(Status::NoBinaryForGpu.because(format!("the fat binary cannot be run: {reason}")))
}

/// Reads memory whose length its own contents say.
pub(super) trait Image {
    /// The first `bytes` bytes.
    fn read(&self, bytes: usize) -> Outcome<Vec<u8>>;
    /// The bytes up to the first NUL.
    fn text(&self) -> Outcome<String>;
    /// The image at another address that this one names.
    fn at(&self, address: u64) -> Self;
}

/// The PTX of an image of any kind.
pub(super) fn ptx_of(image: &impl Image, card: &Card) -> Outcome<String> {
    let first = image.read(4)?;
    match u32_at(&first, 0) {
        Some(WRAPPER_MAGIC) => {
            let wrapper = image.read(24)?;
            let data = u64_at(&wrapper, 8).unwrap_or(0);
            ptx_of(&image.at(data), card)
        }
        Some(FATBIN_MAGIC) => {
            let header = image.read(HEADER)?;
            let bytes = u64_at(&header, 8).unwrap_or(0).saturating_add(u16_at(&header, 6).unwrap_or(16).into());
            if bytes > LONGEST {
                return Err(invalid(format!("a fat binary of {bytes} bytes")));
            }
            let bytes = usize::try_from(bytes).map_err(|_| invalid("a fat binary larger than memory"))?;
            ptx_of_fat_binary(&image.read(bytes)?, card)
        }
        Some(ELF_MAGIC) => Err(Status::NoBinaryForGpu.because(
            "the image is machine code (cubin) for a GPU; ptxvm runs PTX: give it PTX, or a fat binary that holds PTX \
             (nvcc -gencode arch=compute_XX,code=compute_XX; NVRTC: --gpu-architecture=compute_XX and nvrtcGetPTX)",
        )),
        _ => {
            let text = image.text()?;
            let start = text.trim_start();
            if start.starts_with('.') || start.starts_with("//") || start.starts_with("/*") {
                return Ok(text);
            }
            let beginning: String = start.chars().take(40).collect();
            if beginning.is_empty()
                || beginning.contains(|c: char| c.is_control() && !c.is_whitespace() || c == '\u{fffd}')
            {
                return Err(invalid("the image is neither PTX, nor a fat binary, nor a cubin"));
            }
            // A driver takes any text for PTX.
            Err(Status::InvalidPtx.because(format!("'{beginning}' is not how PTX begins; expected .version")))
        }
    }
}

/// The value after a directive such as `.version`.
fn directive<'a>(ptx: &'a str, name: &str) -> Option<&'a str> {
    // Comments may come before; a directive in a comment is not at the start of its line.
    let line = ptx.lines().map(str::trim_start).find_map(|line| line.strip_prefix(name))?;
    line.trim_start().split([' ', '\t', ',', ';', '/', '\r']).next()
}

/// Checks version and target of PTX as a driver does before it compiles.
pub(super) fn check_directives(ptx: &str, card: &Card) -> Outcome {
    if let Some(version) = directive(ptx, ".version") {
        let parts = version
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
        let newest = settings().newest_ptx();
        if parts.is_some_and(|(major, minor)| major * 10 + minor > newest) {
            return Err(Status::UnsupportedPtxVersion.because(format!(
                "the PTX is version {version}, and a driver of CUDA {}.{} takes {}.{} at most (PTXVM_DRIVER sets another)",
                settings().driver_version / 1000,
                settings().driver_version % 1000 / 10,
                newest / 10,
                newest % 10
            )));
        }
    }
    if let Some(target) = directive(ptx, ".target") {
        let digits: String = target.trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
        let needs: u32 = digits.parse().unwrap_or(0);
        let suffix = target.chars().last().filter(char::is_ascii_alphabetic);
        // sm_90a runs on 9.0 only; sm_100f runs on its family, of one major version.
        let wrong_family = match suffix {
            Some('a') => needs != card.target(),
            Some('f') => needs / 10 != card.target() / 10,
            _ => false,
        };
        if needs > card.target() || wrong_family {
            return Err(Status::NoBinaryForGpu.because(format!(
                "the PTX is for {target}, and {} is sm_{} (PTXVM_DEVICE sets another card)",
                card.name,
                card.target()
            )));
        }
    }
    Ok(())
}

/// Compiles one PTX text, or links several.
pub(super) fn compile(texts: &[&str], card: &Card) -> Outcome<Program> {
    // What the linker made consists of several texts.
    let parts: Vec<&str> = texts.iter().flat_map(|ptx| super::link::parts(ptx)).collect();
    for ptx in &parts {
        check_directives(ptx, card)?;
    }
    let program = match parts[..] {
        [ptx] => Program::compile(ptx),
        _ => Program::link(&parts),
    };
    program.map_err(|error| Status::InvalidPtx.because(error.to_string()))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;

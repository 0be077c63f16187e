//! `cuGetProcAddress`: functions by name and version.

use super::entry::{Opaque, Out, entries};
use super::status::{Outcome, Status};
use super::types::Text;
use std::collections::HashMap;
use std::sync::OnceLock;

/// One of the functions that share a base name: `cuMemAlloc_v2` is a `cuMemAlloc`.
struct Variant {
    since: u32,
    address: usize,
    /// The variant whose NULL stream is the thread's own.
    per_thread: Option<usize>,
}

/// `CUdriverProcAddressQueryResult`.
const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;
const TOO_NEW: u32 = 2;

const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;

/// Since which CUDA version a function exists, where that matters because an older one has the same base name, or it is
/// newer than 11.
static INTRODUCED: &str = include_str!("introduced.txt");

/// All functions that are exported, by base name; variants from old to new.
fn table() -> &'static HashMap<&'static str, Vec<Variant>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Variant>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let introduced: HashMap<&str, u32> = INTRODUCED
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(name, version)| Some((name, version.parse().ok()?)))
            .collect();
        let exported = super::exported();
        let addresses: HashMap<&str, usize> = exported.iter().copied().collect();
        let mut table: HashMap<&str, Vec<Variant>> = HashMap::new();
        for (name, address) in exported.iter().copied() {
            if name.ends_with("_ptsz") || name.ends_with("_ptds") {
                continue;
            }
            let per_thread = ["_ptsz", "_ptds"].iter().find_map(|suffix| addresses.get(&*format!("{name}{suffix}")));
            let since = introduced.get(name).copied().unwrap_or(0);
            let variant = Variant { since, address, per_thread: per_thread.copied() };
            table.entry(base_name(name)).or_default().push(variant);
        }
        table.values_mut().for_each(|variants| variants.sort_by_key(|variant| variant.since));
        table
    })
}

/// The name without `_v2`, `_v3`, ….
fn base_name(name: &'static str) -> &'static str {
    match name.rsplit_once("_v") {
        Some((base, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => base,
        _ => name,
    }
}

fn look_up(name: &str, version: i32, flags: u64) -> Result<usize, u32> {
    let variants = table().get(name).ok_or(NOT_FOUND)?;
    let version = u32::try_from(version).unwrap_or(0);
    let variant = variants.iter().rev().find(|variant| variant.since <= version).ok_or(TOO_NEW)?;
    let per_thread = variant.per_thread.filter(|_| flags & PER_THREAD_STREAM != 0);
    Ok(per_thread.unwrap_or(variant.address))
}

fn answer(symbol: Text, function: Out<Opaque>, version: i32, flags: u64, status: Out<u32>) -> Outcome {
    let symbol = symbol.text("symbol")?;
    function.check("pfn")?;
    if flags & !(LEGACY_STREAM | PER_THREAD_STREAM) != 0 || flags == LEGACY_STREAM | PER_THREAD_STREAM {
        return Err(Status::InvalidValue.because(format!("there are no CUdriverProcAddress_flags {flags:#x}")));
    }
    match look_up(&symbol, version, flags) {
        Ok(address) => {
            status.set_if_given(FOUND);
            function.set("pfn", address as Opaque)
        }
        Err(why) => {
            function.set("pfn", std::ptr::null_mut())?;
            // Who asks for the status reads it there.
            if status.is_null() {
                return Err(Status::NotFound.into());
            }
            status.set_if_given(why);
            Ok(())
        }
    }
}

entries! { list:
    [always] fn cuGetProcAddress(symbol: Text, function: Out<Opaque>, version: i32, flags: u64) {
        answer(symbol, function, version, flags, Out::from(std::ptr::null_mut()))
    }

    [always] fn cuGetProcAddress_v2(symbol: Text, function: Out<Opaque>, version: i32, flags: u64, status: Out<u32>) {
        answer(symbol, function, version, flags, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(name: &str, version: i32, flags: u64) -> Result<&'static str, u32> {
        let address = look_up(name, version, flags)?;
        let found = super::super::exported().into_iter().find(|(_, other)| *other == address);
        Ok(found.expect("the address is one of the table").0)
    }

    #[test]
    fn the_newest_variant_not_newer_than_asked_for_is_found() {
        assert_eq!(name_of("cuMemAlloc", 13_000, 0), Ok("cuMemAlloc_v2"));
        assert_eq!(name_of("cuCtxCreate", 3020, 0), Ok("cuCtxCreate_v2"));
        assert_eq!(name_of("cuCtxCreate", 11_040, 0), Ok("cuCtxCreate_v3"));
        assert_eq!(name_of("cuCtxCreate", 12_050, 0), Ok("cuCtxCreate_v4"));
        assert_eq!(name_of("cuStreamGetCaptureInfo", 11_030, 0), Ok("cuStreamGetCaptureInfo_v2"));
        assert_eq!(name_of("cuCtxSynchronize", 12_090, 0), Ok("cuCtxSynchronize"));
        assert_eq!(name_of("cuCtxSynchronize", 13_000, 0), Ok("cuCtxSynchronize_v2"));
    }

    #[test]
    fn the_flag_selects_the_thread_s_own_stream() {
        assert_eq!(name_of("cuLaunchKernel", 12_000, PER_THREAD_STREAM), Ok("cuLaunchKernel_ptsz"));
        assert_eq!(name_of("cuMemcpyHtoD", 12_000, PER_THREAD_STREAM), Ok("cuMemcpyHtoD_v2_ptds"));
        assert_eq!(name_of("cuLaunchKernel", 12_000, LEGACY_STREAM), Ok("cuLaunchKernel"));
        assert_eq!(name_of("cuMemAlloc", 12_000, PER_THREAD_STREAM), Ok("cuMemAlloc_v2"));
    }

    #[test]
    fn what_is_missing_and_what_is_too_new_are_told_apart() {
        assert_eq!(look_up("cuNoSuchFunction", 13_000, 0), Err(NOT_FOUND));
        assert_eq!(look_up("cuLibraryLoadData", 11_080, 0), Err(TOO_NEW));
        assert!(look_up("cuLibraryLoadData", 12_000, 0).is_ok());
    }
}

//! Images made here, byte by byte.

use super::super::module::FileImage;
use super::*;

fn card(key: &str) -> &'static Card {
    crate::card::find(key).expect("a known card")
}

fn ptx(target: u32) -> String {
    format!(".version 8.0\n.target sm_{target}\n.address_size 64\n")
}

/// An entry: kind, architecture, flags, what is stored, and how long it is unpacked.
fn entry(kind: u16, target: u32, flags: u64, stored: &[u8], unpacked: usize) -> Vec<u8> {
    let padded = stored.len().next_multiple_of(8);
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0x101_u16.to_le_bytes());
    bytes.extend((ENTRY_HEADER as u32).to_le_bytes());
    bytes.extend((padded as u64).to_le_bytes());
    bytes.extend((stored.len() as u32).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(target.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(flags.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend((unpacked as u64).to_le_bytes());
    bytes.extend(stored);
    bytes.resize(ENTRY_HEADER + padded, 0);
    bytes
}

fn fat_binary(entries: &[Vec<u8>]) -> Vec<u8> {
    let body: Vec<u8> = entries.concat();
    let mut bytes = FATBIN_MAGIC.to_le_bytes().to_vec();
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend((HEADER as u16).to_le_bytes());
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn plain(target: u32) -> Vec<u8> {
    let text = ptx(target);
    entry(KIND_PTX, target, 1, text.as_bytes(), 0)
}

/// LZ4 that says everything literally.
fn lz4(text: &str) -> Vec<u8> {
    let mut bytes = vec![0xf0];
    let mut left = text.len() - 15;
    while left >= 255 {
        bytes.push(255);
        left -= 255;
    }
    bytes.push(left as u8);
    bytes.extend(text.as_bytes());
    bytes
}

/// A zstd frame of one raw block.
fn zstd(text: &str) -> Vec<u8> {
    let mut bytes = 0xfd2f_b528_u32.to_le_bytes().to_vec();
    bytes.extend([0x20, text.len() as u8]);
    let block = 1 | (text.len() as u32) << 3;
    bytes.extend(&block.to_le_bytes()[..3]);
    bytes.extend(text.as_bytes());
    bytes
}

fn status<T>(result: Outcome<T>) -> Status {
    result.map(|_| ()).expect_err("this must fail").status
}

#[test]
fn the_newest_ptx_that_the_card_can_run_is_picked() {
    let binary = fat_binary(&[plain(75), entry(KIND_ELF, 86, 1, b"\x7fELF", 0), plain(80), plain(90), plain(100)]);
    for (key, target) in [("t4", 75), ("a100", 80), ("a6000", 80), ("h100", 90), ("b200", 100), ("rtx5090", 100)] {
        assert_eq!(ptx_of_fat_binary(&binary, card(key)), Ok(ptx(target)), "{key}");
    }
}

#[test]
fn compressed_entries_are_unpacked() {
    let text = ptx(80).repeat(3);
    let packed = [
        entry(KIND_PTX, 80, 1 | LZ4, &lz4(&text), text.len()),
        entry(KIND_PTX, 80, 1 | ZSTD, &zstd(&text), text.len()),
    ];
    for entry in packed {
        assert_eq!(ptx_of_fat_binary(&fat_binary(&[entry]), card("h100")), Ok(text.clone()));
    }
}

#[test]
fn what_cannot_run_is_said_clearly() {
    let newer = ptx_of_fat_binary(&fat_binary(&[plain(90)]), card("a100")).expect_err("too new");
    assert_eq!(newer.status, Status::NoBinaryForGpu);
    assert!(newer.reason.expect("a reason").contains("PTX for sm_90 only, and the card is sm_80"));
    let elf = fat_binary(&[entry(KIND_ELF, 80, 1, b"\x7fELF", 0)]);
    let elf = ptx_of_fat_binary(&elf, card("a100")).expect_err("machine code");
    assert_eq!(elf.status, Status::NoBinaryForGpu);
    assert!(elf.reason.expect("a reason").contains("machine code (cubin) for sm_80 only"));
    assert_eq!(status(ptx_of(&FileImage(b"\x7fELF\x02\x01".to_vec()), card("a100"))), Status::NoBinaryForGpu);
    assert_eq!(status(ptx_of(&FileImage(b"\x01\x02\x03\x04 ".to_vec()), card("a100"))), Status::InvalidImage);
    assert_eq!(status(ptx_of(&FileImage(b"int main()".to_vec()), card("a100"))), Status::InvalidPtx);
}

#[test]
fn damaged_fat_binaries_are_errors_and_no_panics() {
    let text = ptx(80);
    let binary = fat_binary(&[plain(75), entry(KIND_PTX, 80, 1 | LZ4, &lz4(&text), text.len())]);
    let mut failed = 0;
    for at in 0..binary.len() {
        for value in [0, 0x7f, 0xff] {
            let mut damaged = binary.clone();
            damaged[at] = value;
            failed += usize::from(ptx_of_fat_binary(&damaged, card("h100")).is_err());
        }
        let cut = ptx_of(&FileImage(binary[..at].to_vec()), card("h100"));
        assert!(cut.is_err(), "cut off after {at} bytes");
    }
    assert!(failed > 20);
}

#[test]
fn versions_and_targets_are_judged_as_a_driver_does() {
    let judge = |version: &str, target: &str, key: &str| {
        check_directives(&format!("// made by hand\n.version {version}\n.target {target}\n"), card(key))
    };
    assert_eq!(judge("9.0", "sm_80", "h100"), Ok(()));
    assert_eq!(status(judge("9.1", "sm_80", "h100")), Status::UnsupportedPtxVersion);
    assert_eq!(status(judge("8.0", "sm_90", "a100")), Status::NoBinaryForGpu);
    assert_eq!(judge("8.0", "sm_90a, texmode_independent", "h100"), Ok(()));
    assert_eq!(status(judge("8.0", "sm_90a", "b200")), Status::NoBinaryForGpu);
    assert_eq!(judge("8.8", "sm_100f", "b200"), Ok(()));
    assert_eq!(status(judge("8.8", "sm_100f", "rtx5090")), Status::NoBinaryForGpu);
}

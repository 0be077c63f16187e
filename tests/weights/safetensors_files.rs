//! Safetensors files: damaged ones, and the ones this program writes.

use segface::weights::{Checkpoint, WeightsError};

/// A file with this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn read(bytes: Vec<u8>) -> Result<Checkpoint, WeightsError> {
    Checkpoint::from_memory("test.safetensors", bytes)
}

#[track_caller]
fn assert_unsound(bytes: Vec<u8>) -> String {
    match read(bytes) {
        Err(WeightsError::Safetensors { reason, .. }) => reason,
        other => panic!("expected an unsound safetensors file, got {other:?}"),
    }
}

#[test]
fn overlapping_tensors_holes_and_ranges_outside_the_file_are_refused() {
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    assert_eq!(read(file(&two("[0,8]", "[8,16]"), 16)).unwrap().tensors.len(), 2);
    assert_unsound(file(&two("[0,8]", "[4,12]"), 12));
    assert_unsound(file(&two("[0,8]", "[0,8]"), 8));
    assert_unsound(file(&two("[0,8]", "[12,20]"), 20));
    assert_unsound(file(&two("[0,8]", "[8,16]"), 12));
    assert_unsound(file(&two("[0,8]", "[8,16]"), 20));
    assert_unsound(file(&two("[8,0]", "[8,16]"), 16));
    assert_unsound(file(&two("[0,8]", "[8,18446744073709551615]"), 16));
    assert_unsound(file(&two("[0,8]", "[8,99999999999999999999]"), 16));
}

#[test]
fn shapes_that_overflow_or_do_not_fit_their_bytes_are_refused() {
    let one =
        |shape: &str, end: usize| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
    assert!(read(file(&one("[2,3]", 24), 24)).is_ok());
    assert!(read(file(&one("[]", 4), 4)).is_ok());
    assert_unsound(file(&one("[2,4]", 24), 24));
    assert_unsound(file(&one("[4611686018427387904,4]", 0), 0));
    assert_unsound(file(&one("[9223372036854775807,9223372036854775807]", 24), 24));
    assert_unsound(file(&one("[-1]", 4), 4));
    assert_unsound(file(&one("[1.5]", 4), 4));
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
    assert_unsound(file(header, 16));
}

#[test]
fn headers_that_are_damaged_are_refused() {
    assert_unsound(file("{", 0));
    assert_unsound(file("{\"a\":", 0));
    assert_unsound(file("{\"\u{0}\":1}", 0));
    assert_unsound([&8u64.to_le_bytes()[..], b"{\xff\xfe\"a\":}"].concat());
    assert_unsound(file(&"{\"a\":".repeat(10_000), 0));
    // Lengths that the file does not have.
    for len in [1u64 << 20, 100_000_000, 100_000_001, u64::MAX, u64::MAX - 7] {
        assert_unsound([&len.to_le_bytes()[..], b"{}"].concat());
    }
    let unsupported = r#"{"x":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U16","shape":[2],"data_offsets":[4,8]}}"#;
    let reason = assert_unsound(file(unsupported, 8));
    assert!(reason.contains("`x` (F8_E4M3)") && reason.contains("`y` (U16)"), "{reason}");
}

#[test]
fn truncated_anywhere_a_safetensors_file_is_refused() {
    let header = r#"{"__metadata__":{"variant":"celeb"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let whole = file(header, 12);
    assert!(read(whole.clone()).is_ok());
    for len in 0..whole.len() {
        assert!(read(whole[..len].to_vec()).is_err(), "cut to {len} of {} bytes it was read", whole.len());
    }
}

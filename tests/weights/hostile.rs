//! Damaged and malicious `torch.save` files: a clear error each, no code run, no memory beyond the file's own size.

use crate::pt::{Pickle, View, archive, one_tensor, sound_view, with_pickle, zip_of};
use segface::weights::{Checkpoint, PickleError, WeightsError};
use std::path::Path;

fn read(bytes: Vec<u8>) -> Result<Checkpoint, WeightsError> {
    Checkpoint::from_memory("test.pt", bytes)
}

/// The message of the error and of its causes.
fn refusal(bytes: Vec<u8>) -> String {
    let error = match read(bytes) {
        Ok(checkpoint) => panic!("it was read: {:?}", checkpoint.tensors),
        Err(error) => error,
    };
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[track_caller]
fn assert_refused(bytes: Vec<u8>, because: &str) {
    let message = refusal(bytes);
    assert!(message.contains(because), "expected `{because}` in: {message}");
}

#[track_caller]
fn assert_forbidden(pickle: &[u8], global: &str) {
    match read(with_pickle(pickle)) {
        Err(WeightsError::Pickle { source: PickleError::Forbidden { name, .. }, .. }) => assert_eq!(name, global),
        other => panic!("expected `{global}` to be refused, got {other:?}"),
    }
}

#[test]
fn the_sound_file_these_cases_are_made_from_is_read() {
    let checkpoint = read(with_pickle(&one_tensor(&sound_view()))).unwrap();
    assert_eq!(*checkpoint.tensors["w"].values(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn a_pickle_that_asks_for_code_is_refused_by_name() {
    let call = |module: &str, name: &str| {
        Pickle::new().global(module, name).op(b'(').text("touch /tmp/owned").raw(b"tR").end()
    };
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("", ""),
    ] {
        assert_forbidden(&call(module, name), &format!("{module}.{name}"));
    }
    // A class of the user's own with a `__reduce__`, beside sound tensors.
    let hidden = Pickle::new().op(b'}').text("w").tensor(&sound_view()).op(b's').text("x");
    assert_forbidden(&hidden.global("posix", "system").op(b'(').text("id").raw(b"tRs").end(), "posix.system");
    // Protocol 4: the names come from the stack.
    let stacked = [&b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."[..]].concat();
    assert_forbidden(&stacked, "os.system");
    // Opcode INST names and calls in one.
    assert_forbidden(&Pickle::new().op(b'(').text("id").raw(b"ios\nsystem\n").end(), "os.system");
}

#[test]
fn the_listed_globals_cannot_be_called_with_other_arguments() {
    let list = || Pickle::new().global("collections", "OrderedDict").op(b'(');
    assert_refused(with_pickle(&list().raw(b"]tR").end()), "OrderedDict called with arguments");
    let nested = Pickle::new().global("collections", "OrderedDict").global("torch", "Size").raw(b"\x85R").end();
    assert_refused(with_pickle(&nested), "arguments it does not take");
    assert_refused(with_pickle(&Pickle::new().int(1).raw(b")R").end()), "REDUCE");
    // BUILD may set attributes of a state dict, of nothing else.
    assert_refused(with_pickle(&Pickle::new().tensor(&sound_view()).raw(b"}b").end()), "BUILD");
    assert_refused(with_pickle(&Pickle::new().global("torch", "FloatStorage").raw(b"}b").end()), "BUILD");
}

#[test]
fn opcodes_torch_save_does_not_write_are_refused() {
    for opcode in [
        b'P', b'I', b'L', b'F', b'S', b'T', b'U', b'V', b'o', b'p', b'g', 0x81, 0x82, 0x83, 0x84, 0x92, 0x97, 0x98,
        0xff,
    ] {
        assert_refused(with_pickle(&Pickle::new().op(opcode).raw(&[0; 16]).end()), &format!("opcode 0x{opcode:02x}"));
    }
    assert_refused(with_pickle(b"(lp0\n."), "protocol");
    assert_refused(with_pickle(b"\x80\x06}."), "protocol 6");
    assert_refused(with_pickle(b""), "protocol");
}

#[test]
fn unbalanced_stacks_are_refused() {
    for pickle in [
        &b"."[..],
        b"0.",
        b"2.",
        b"1.",
        b"t.",
        b"a.",
        b"e.",
        b"s.",
        b"u.",
        b"}s.",
        b"}(s.",
        b"}(Nu.",
        b"]u.",
        b"}a.",
        b"(0.",
        b"N(\x85.",
        b"\x86.",
        b"R.",
        b"b.",
        b"Q.",
        b"q\x00.",
        b"h\x00.",
        b"\x94.",
        b"\x93.",
        b"N\x90.",
        b"(.",
    ] {
        let pickle = [b"\x80\x02", pickle].concat();
        assert_refused(with_pickle(&pickle), "its pickle is damaged");
    }
}

#[test]
fn a_million_nested_lists_cost_no_stack() {
    let mut pickle = Pickle::new();
    pickle.0.extend(std::iter::repeat_n(b']', 1_000_000));
    pickle.0.extend(std::iter::repeat_n(b'a', 999_999));
    assert_refused(with_pickle(&pickle.end()), "something other than a dict");
}

#[test]
fn a_pickle_longer_than_any_checkpoint_s_is_refused() {
    let mut pickle = vec![b'N'; (8 << 20) + 1];
    pickle[..2].copy_from_slice(&[0x80, 2]);
    assert_refused(with_pickle(&pickle), "more than any checkpoint's");
}

#[test]
fn a_dict_that_holds_itself_is_not_followed() {
    // d = {}; d["state_dict"] = d; d["w"] = d
    let pickle = Pickle::new().raw(b"}q\x00").text("state_dict").raw(b"h\x00s").text("w").raw(b"h\x00s").end();
    assert_refused(with_pickle(&pickle), "no state dict was found");
}

#[test]
fn announced_lengths_do_not_reserve_memory() {
    let long = |opcode: &[u8], len: &[u8]| [b"\x80\x04", opcode, len, b"abc."].concat();
    let cases: [(&[u8], &[u8]); 7] = [
        (b"X", &u32::MAX.to_le_bytes()),
        (b"\x8d", &u64::MAX.to_le_bytes()),
        (b"B", &u32::MAX.to_le_bytes()),
        (b"\x8e", &(u64::MAX / 2).to_le_bytes()),
        (b"\x96", &u64::MAX.to_le_bytes()),
        (b"\x8b", &u32::MAX.to_le_bytes()),
        (b"\x8c", &[255]),
    ];
    for (opcode, len) in cases {
        assert_refused(with_pickle(&long(opcode, len)), "it ends early");
    }
    // A memo index picked to make a table of 4 G entries.
    let memo = Pickle::new().raw(b"}r\xff\xff\xff\xff").text("w").tensor(&sound_view()).op(b's').end();
    assert!(read(with_pickle(&memo)).is_ok());
    assert_refused(
        with_pickle(&Pickle::new().raw(b"}r\xfe\xff\xff\xffj\xff\xff\xff\xff").end()),
        "memo entry 4294967295",
    );
}

#[test]
fn tensors_that_reach_outside_their_storage_are_refused() {
    let with = |change: fn(&mut View)| {
        let mut view = sound_view();
        change(&mut view);
        with_pickle(&one_tensor(&view))
    };
    assert_refused(with(|v| v.offset = 1), "reaches beyond its storage");
    assert_refused(with(|v| v.shape = vec![3, 3]), "reaches beyond its storage");
    assert_refused(with(|v| v.strides = vec![4, 1]), "reaches beyond its storage");
    assert_refused(with(|v| v.strides = vec![i64::MAX, 1]), "reaches beyond its storage");
    assert_refused(with(|v| v.shape = vec![i64::MAX, 3]), "reaches beyond its storage");
    assert_refused(with(|v| v.offset = i64::MAX), "reaches beyond its storage");
    assert_refused(with(|v| v.offset = -1), "not counts");
    assert_refused(with(|v| v.shape = vec![-2, 3]), "not counts");
    assert_refused(with(|v| v.strides = vec![-3, 1]), "not counts");
    assert_refused(with(|v| v.shape = vec![2]), "more strides");
    assert_refused(with(|v| (v.shape, v.strides) = (vec![1; 17], vec![1; 17])), "not counts");
    // Stride 0 repeats one element: a small file, a huge tensor.
    assert_refused(with(|v| (v.shape, v.strides) = (vec![1 << 40], vec![0])), "repeats the elements");
    assert_refused(with(|v| (v.shape, v.strides) = (vec![1 << 40, 1 << 40], vec![0, 0])), "repeats the elements");
    assert_refused(with(|v| (v.shape, v.strides) = (vec![1 << 40, 1 << 40, 0], vec![0, 0, 0])), "repeats the elements");
    // The pickle says more elements, or of another size, than the record has.
    assert_refused(with(|v| v.storage_len = 7), "but the record has 24");
    assert_refused(with(|v| v.storage_len = i64::MAX), "but the record has 24");
    assert_refused(with(|v| v.class = "DoubleStorage"), "but the record has 24");
    assert_refused(with(|v| v.storage_len = -1), "persistent id");
    assert_refused(with(|v| v.class = "Size"), "persistent id");
    assert_refused(with(|v| v.key = "1"), "record `data/1` is missing");
    assert_refused(with(|v| v.key = "../data.pkl"), "is missing");
}

#[test]
fn many_strided_views_of_one_storage_cannot_outgrow_the_file() {
    let view = View { shape: vec![3, 2], strides: vec![1, 3], ..sound_view() };
    let mut pickle = Pickle::new().op(b'}').text("w").tensor(&view).raw(b"q\x07s");
    for i in 0..1000 {
        pickle = pickle.text(&i.to_string()).raw(b"h\x07s");
    }
    assert_refused(with_pickle(&pickle.end()), "larger than the file");
}

#[test]
fn entries_that_are_no_tensors_are_all_named() {
    let pickle = Pickle::new().op(b'}').text("w").tensor(&sound_view()).op(b's');
    let pickle = pickle.text("note").text("hello").op(b's').text("count").int(3).raw(b"sK\x01Ns").end();
    let message = refusal(with_pickle(&pickle));
    for part in ["`note` is not a tensor", "`count` is not a tensor", "a key that is not a string"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn archives_with_missing_doubled_or_compressed_records_are_refused() {
    let pickle = one_tensor(&sound_view());
    let storage = [0u8; 24];
    assert_refused(archive(&[]), "without the record");
    assert_refused(archive(&[("version", b"3")]), "without the record");
    let twice = [("a/data.pkl".to_owned(), &pickle[..]), ("b/data.pkl".to_owned(), &pickle)];
    assert_refused(zip_of(&twice), "more than one record");
    assert_refused(archive(&[("data.pkl", &pickle), ("constants.pkl", b"")]), "TorchScript");
    assert_refused(archive(&[("data.pkl", &pickle), ("byteorder", b"middle")]), "byteorder");
    assert_refused(archive(&[("data.pkl", &pickle)]), "record `data/0` is missing");
    assert!(read(archive(&[("data.pkl", &pickle), ("data/0", &storage)])).is_ok());
    // The compressed record of a zip bomb; nothing of it is unpacked. (The method alone: the content stays as it is.)
    let mut bomb = archive(&[("data.pkl", &pickle), ("data/0", &storage)]);
    for signature in [&b"PK\x03\x04"[..], b"PK\x01\x02"] {
        let at = bomb.windows(4).rposition(|w| w == signature).unwrap();
        bomb[at + if signature[2] == 3 { 8 } else { 10 }] = 8;
    }
    assert_refused(bomb, "is compressed");
}

#[test]
fn records_that_overlap_are_refused() {
    // Forty storages of 100 kB whose entries in the zip directory all point at the content of the first.
    let keys: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    let pickle = keys.iter().fold(Pickle::new().op(b'}'), |pickle, key| {
        let view = View { key: key.clone().leak(), storage_len: 25_000, ..sound_view() };
        pickle.text(key).tensor(&view).op(b's')
    });
    let (pickle, bulk) = (pickle.end(), vec![0; 100_000]);
    let names: Vec<String> = keys.iter().map(|key| format!("data/{key}")).collect();
    let mut records: Vec<(&str, &[u8])> = vec![("data.pkl", &pickle), ("data/0", &bulk)];
    records.extend(names[1..].iter().map(|name| (name.as_str(), &[][..])));
    let mut bytes = archive(&records);
    let entries: Vec<_> = (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"PK\x01\x02")).collect();
    assert_eq!(entries.len(), 41);
    for &entry in &entries[2..] {
        // Checksum and sizes, then the place of the local header.
        for field in [16..28, 42..46] {
            bytes.copy_within(entries[1] + field.start..entries[1] + field.end, entry + field.start);
        }
    }
    assert_refused(bytes, "overlaps others");
}

#[test]
fn a_flipped_bit_in_the_weights_is_found() {
    let mut bytes = with_pickle(&one_tensor(&sound_view()));
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let at = bytes.windows(24).position(|w| w == storage).unwrap();
    bytes[at + 10] ^= 1;
    assert_refused(bytes, "record `data/0` is damaged");
}

#[test]
fn truncated_anywhere_a_checkpoint_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torch_save");
    for name in ["training.pt", "every_type.pt", "protocol_5.pt", "views.pt"] {
        let whole = std::fs::read(folder.join(name)).unwrap();
        assert!(read(whole.clone()).is_ok());
        for len in 0..whole.len() {
            assert!(read(whole[..len].to_vec()).is_err(), "{name} cut to {len} of {} bytes was read", whole.len());
        }
    }
}

#[test]
fn zip_directories_that_promise_too_much_are_refused() {
    let sound = with_pickle(&one_tensor(&sound_view()));
    let end = sound.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
    for (offset, len) in [(8, 2), (10, 2), (12, 4), (16, 4), (20, 2)] {
        let mut bytes = sound.clone();
        bytes[end + offset..end + offset + len].fill(0xfe);
        if let Ok(checkpoint) = read(bytes) {
            assert_eq!(checkpoint.tensors.len(), 1);
        }
    }
    // A zip64 directory of 2^40 entries at 2^50.
    let mut bytes = sound[..end].to_vec();
    let zip64_at = bytes.len() as u64;
    bytes.extend(b"PK\x06\x06");
    bytes.extend(44u64.to_le_bytes());
    bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for value in [1u64 << 40, 1 << 40, 1 << 50, 1 << 50] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(b"PK\x06\x07\0\0\0\0");
    bytes.extend(zip64_at.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([0xff; 12]);
    bytes.extend([0, 0]);
    assert_refused(bytes, "zip directory");
}

//! Files that torch.save writes, read without torch. See fixtures/torch_save/make.py for what is in them.

use segface::weights::{Checkpoint, DType, WeightsError};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torch_save").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn refusal(name: &str) -> String {
    Checkpoint::open(&fixture(name)).expect_err(name).to_string()
}

const KINDS: [(&str, DType); 10] = [
    ("double", DType::F64),
    ("float", DType::F32),
    ("half", DType::F16),
    ("bfloat16", DType::BF16),
    ("long", DType::I64),
    ("int", DType::I32),
    ("short", DType::I16),
    ("char", DType::I8),
    ("byte", DType::U8),
    ("bool", DType::Bool),
];

#[test]
fn every_element_type_protocol_and_byte_order_gives_the_same_values() {
    for file in ["every_type.pt", "protocol_4.pt", "protocol_5.pt", "big_endian.pt", "data_parallel.pt"] {
        let checkpoint = open(file);
        assert_eq!(checkpoint.tensors.len(), KINDS.len(), "{file}");
        for (name, dtype) in KINDS {
            let tensor = &checkpoint.tensors[name];
            assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &[2, 3][..]), "{file} {name}");
            let expected =
                if dtype == DType::Bool { [0.0, 1.0, 1.0, 0.0, 1.0, 0.0] } else { [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] };
            assert_eq!(*tensor.values(), expected, "{file} {name}");
        }
    }
}

#[test]
fn a_training_checkpoint_gives_its_network_and_leaves_optimizer_and_scheduler_behind() {
    let checkpoint = open("training.pt");
    let names: Vec<_> = checkpoint.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, ["backbone.0.num_batches_tracked", "backbone.0.weight", "pe_layer.matrix"]);
    assert_eq!(*checkpoint.tensors["backbone.0.num_batches_tracked"].values(), [226_500.0]);
    assert!(checkpoint.tensors["backbone.0.num_batches_tracked"].shape().is_empty());
    assert_eq!(*checkpoint.tensors["pe_layer.matrix"].values(), [-2.0, -1.0, 0.0, 1.0]);
    assert_eq!(checkpoint.metadata["epoch"], "299");
    assert_eq!(checkpoint.metadata["iteration"], "226500");
}

#[test]
fn strided_and_shared_views_are_laid_out_in_row_major_order() {
    let checkpoint = open("views.pt");
    let values = |name: &str| checkpoint.tensors[name].values().into_owned();
    let counted = |indices: &[u8]| indices.iter().map(|&i| f32::from(i)).collect::<Vec<_>>();
    assert_eq!(values("whole"), (0..24).map(|i| i as f32).collect::<Vec<_>>());
    // Shape [4, 6], strides (1, 4).
    let transposed: Vec<f32> = (0..4).flat_map(|r| (0..6).map(move |c| (r + 4 * c) as f32)).collect();
    assert_eq!(values("transposed"), transposed);
    // Shape [1, 3, 2, 4], strides (24, 1, 12, 3).
    let channels_last: Vec<f32> =
        (0..3).flat_map(|c| (0..2).flat_map(move |y| (0..4).map(move |x| (c + 12 * y + 3 * x) as f32))).collect();
    assert_eq!(values("channels_last"), channels_last);
    assert_eq!(values("row"), counted(&[8, 9, 10, 11]));
    assert_eq!(values("column"), counted(&[3, 7, 11, 15, 19, 23]));
    assert_eq!(values("one_wide"), counted(&[21, 22, 23]));
    assert_eq!(values("scalar"), counted(&[23]));
    assert!(values("empty").is_empty());
    assert_eq!(checkpoint.tensors["empty"].shape(), [0, 5]);
}

#[test]
fn make_py_still_makes_these_files() {
    // Another Python may pickle the same objects in other bytes, so what is read is compared. Without Python there is
    // nothing to compare.
    let folder = tempfile::tempdir().unwrap();
    let Ok(made) = Command::new("python3").arg(fixture("make.py")).arg(folder.path()).output() else { return };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let stored = fs::read_dir(fixture("")).unwrap().map(|entry| entry.unwrap().path());
    let mut compared = 0;
    for path in stored.filter(|path| path.extension().is_some_and(|e| e == "pt")) {
        let again = folder.path().join(path.file_name().unwrap());
        match (Checkpoint::open(&path), Checkpoint::open(&again)) {
            (Ok(a), Ok(b)) => {
                assert_eq!(a.metadata, b.metadata);
                assert_eq!(a.tensors.keys().collect::<Vec<_>>(), b.tensors.keys().collect::<Vec<_>>());
                for (a, b) in a.tensors.values().zip(b.tensors.values()) {
                    assert_eq!((a.dtype(), a.shape(), a.bytes()), (b.dtype(), b.shape(), b.bytes()));
                }
            }
            (Err(_), Err(_)) => {}
            (a, b) => panic!("{}: {a:?} was stored, {b:?} was made", path.display()),
        }
        compared += 1;
    }
    assert_eq!(compared, fs::read_dir(folder.path()).unwrap().count());
}

#[test]
fn parameters_are_read_as_tensors() {
    let checkpoint = open("parameters.pt");
    assert_eq!(*checkpoint.tensors["weight"].values(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(*checkpoint.tensors["bias"].values(), [0.0, 1.0, 2.0]);
}

#[test]
fn files_without_a_state_dict_say_what_they_hold() {
    assert!(refusal("no_dict.pt").contains("something other than a dict"));
    let message = refusal("no_tensors.pt");
    assert!(message.contains("state_dict_backbone") && message.contains("its keys are: epoch, lr"), "{message}");
}

#[test]
fn the_format_before_pytorch_1_6_is_named() {
    assert!(refusal("legacy.pt").contains("before PyTorch 1.6"));
}

#[test]
fn files_that_are_something_else_are_described() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 5] = [
        ("empty.pt", b"", "it is empty"),
        ("pointer.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS pointer"),
        ("page.pt", b"\n <!DOCTYPE html><html>", "web page"),
        ("photo.pt", b"\x89PNG\r\n\x1a\n....", "89 50 4e 47"),
        ("tiny.safetensors", b"\x02", "bytes 02"),
    ];
    for (name, content, expected) in cases {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let message = Checkpoint::open(&path).expect_err(name).to_string();
        assert!(message.contains(expected) && message.contains(name), "{message}");
    }
    let message = Checkpoint::open(folder.path()).expect_err("a folder").to_string();
    assert!(message.contains("folder"), "{message}");
    assert!(matches!(Checkpoint::open(&folder.path().join("missing.pt")), Err(WeightsError::Io { .. })));
}

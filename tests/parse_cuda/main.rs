//! `segface parse --device cuda` as a user runs it, on ptxvm's devices: the labels of the CPU, photos shared by devices, and what is
//! said and left behind when something fails.
//!
//! Networks are small: MobileNet at 64x64 with the demonstration weights, in f32 on both sides.

mod devices;
mod engine;
mod errors;
#[path = "../finished.rs"]
mod finished;
mod labels;

use finished::{json, names, stderr};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A photo of `fixtures/images`, 37x29 pixels or so.
fn small(name: &str) -> PathBuf {
    root().join("fixtures/images").join(name)
}

/// A face of 512x512 pixels.
fn face(name: &str) -> PathBuf {
    root().join("examples").join(name)
}

/// A folder with photos of different sizes and kinds.
fn album(folder: &Path, photos: &[PathBuf]) -> PathBuf {
    let album = folder.join("photos");
    fs::create_dir(&album).unwrap();
    for photo in photos {
        fs::copy(photo, album.join(photo.file_name().unwrap())).unwrap();
    }
    album
}

/// The folder of ptxvm's driver library.
fn machine() -> PathBuf {
    env::var_os("PTXVM_TEST_LIBRARY").expect("`cargo xtask test` provides a device").into()
}

/// The program on devices of `cards`.
fn on_devices(cards: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    let nvrtc = env::var_os("SEGFACE_NVRTC").map(PathBuf::from);
    let searched = env::join_paths([machine()].into_iter().chain(nvrtc)).unwrap();
    command.env("LD_LIBRARY_PATH", searched).env("PTXVM_DEVICE", cards).env("PTXVM_LOG", "off");
    command.env_remove("CUDA_VISIBLE_DEVICES").env("RUST_LOG", "segface=debug").env("NO_COLOR", "1");
    command
}

/// The demonstration network, small and in f32, on `device`.
fn parse(mut command: Command, device: &str, out: &Path, photos: &[&Path], more: &[&str]) -> Output {
    command.args(["parse", "--size", "64", "--precision", "f32", "--device", device, "--threads", "2", "--out"]);
    command.arg(out).args(photos).args(more).output().unwrap()
}

/// What the CPU makes of it.
fn parse_on_cpu(out: &Path, photos: &[&Path], more: &[&str]) -> Output {
    parse(Command::new(env!("CARGO_BIN_EXE_segface")), "cpu", out, photos, more)
}

/// Width, height and bytes of a PNG.
fn pixels(path: &Path) -> (u32, u32, Vec<u8>) {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut bytes).unwrap();
    (reader.info().width, reader.info().height, bytes)
}

/// Holds the results of a photo against the CPU's, and says how many labels differ.
///
/// Both sides sum in f32, in another order: where two classes are as good as equal the label may be the other one. With the same
/// labels everything is the same.
fn differing(device: &Path, cpu: &Path, name: &str) -> usize {
    let labels = |folder: &Path| pixels(&folder.join(format!("{name}.labels.png")));
    let (ours, theirs) = (labels(device), labels(cpu));
    assert_eq!((ours.0, ours.1), (theirs.0, theirs.1), "size of {name}");
    let differing = ours.2.iter().zip(&theirs.2).filter(|(a, b)| a != b).count();
    assert!(differing * 2000 <= ours.2.len(), "{differing} of {} labels of {name} differ", ours.2.len());
    let overlays = [device, cpu].map(|folder| folder.join(format!("{name}.overlay.png")));
    assert_eq!(overlays[0].exists(), overlays[1].exists());
    if differing == 0 && overlays[0].exists() {
        assert!(pixels(&overlays[0]) == pixels(&overlays[1]), "overlay of {name}");
    }
    let summary = json(&device.join(format!("{name}.json")));
    let classes = summary["classes"].as_array().unwrap();
    for (id, class) in classes.iter().enumerate() {
        let at = |index: &usize| ours.2[*index] == id as u8;
        let places = || (0..ours.2.len()).filter(at);
        assert_eq!(class["pixels"], places().count(), "class {id} of {name}");
        let (columns, rows) = (places().map(|i| i % ours.0 as usize), places().map(|i| i / ours.0 as usize));
        let bounds = columns
            .clone()
            .min()
            .zip(rows.clone().min())
            .map(|(x, y)| [x, y, columns.max().unwrap_or(0) + 1 - x, rows.max().unwrap_or(0) + 1 - y]);
        assert_eq!(class["box"], serde_json::json!(bounds), "box of class {id} of {name}");
    }
    if differing == 0 {
        assert_eq!(summary["classes"], json(&cpu.join(format!("{name}.json")))["classes"], "{name}");
    }
    differing
}

/// What the program said about which device labelled what: photo and device.
fn labelled(output: &Output) -> Vec<(String, String)> {
    let said = stderr(output);
    let lines = said.lines().filter_map(|line| line.split_once(" labelled on "));
    lines
        .map(|(before, device)| {
            let file = before.rsplit(['/', ' ']).next().unwrap_or_default();
            (file.to_owned(), device.split(' ').next().unwrap_or_default().to_owned())
        })
        .collect()
}

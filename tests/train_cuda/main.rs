//! `segface train --device cuda` as a user runs it, on ptxvm's device: the losses of the CPU, runs that go on to the same bits, and what is
//! said of options that do not go together.

#[path = "../finished.rs"]
mod finished;
#[path = "../data/synthetic.rs"]
mod synthetic;

use finished::stderr;
use segface::train::{LOG, Line, STATE};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A run of a MobileNet at 32 pixels: two steps an epoch, two epochs.
fn run(home: &Path, name: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    let machine = PathBuf::from(env::var_os("PTXVM_TEST_LIBRARY").expect("`cargo xtask test` provides a device"));
    let nvrtc = env::var_os("SEGFACE_NVRTC").map(PathBuf::from);
    let searched = env::join_paths([machine].into_iter().chain(nvrtc)).unwrap();
    command.env("LD_LIBRARY_PATH", searched).env("PTXVM_LOG", "off").env_remove("CUDA_VISIBLE_DEVICES");
    command.args(["train", "--dataset", "celebamask_hq", "--model", "mobilenet", "--train_bs", "2", "--epochs", "2"]);
    command.args(["--lr", "1e-4", "--lr_schedule", "constant", "--input_resolution", "32", "--threads", "1"]);
    command.args(["--seed", "5", "--log_interval", "1", "--val_interval", "0", "--clip", "1", "--data"]);
    command.arg(home.join("data")).arg("--out").arg(home.join(name)).args(more);
    command.output().unwrap()
}

fn state(home: &Path, name: &str) -> Vec<u8> {
    fs::read(home.join(name).join(STATE)).unwrap()
}

/// The losses of a run's steps.
fn losses(home: &Path, name: &str) -> Vec<f64> {
    let text = fs::read_to_string(home.join(name).join(LOG)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
    lines.filter_map(|line| if let Line::Steps { loss, .. } = line { Some(loss) } else { None }).collect()
}

fn home() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    synthetic::celeb(&folder.path().join("data"));
    folder
}

#[test]
fn it_has_the_losses_of_the_cpu_and_goes_on_to_the_same_bits() {
    let folder = home();
    let home = folder.path();
    for (name, more) in [
        ("cpu", &[][..]),
        ("whole", &["--device", "cuda"]),
        ("parts", &["--device", "cuda:0", "--stop_after", "2"]),
        ("parts", &["--device", "cuda:0", "--resume", "True"]),
    ] {
        let done = run(home, name, more);
        assert!(done.status.success(), "{name}: {}", stderr(&done));
    }
    let (ours, expected) = (losses(home, "whole"), losses(home, "cpu"));
    assert_eq!((ours.len(), expected.len()), (4, 4));
    for (step, (own, expected)) in ours.iter().zip(&expected).enumerate() {
        // AdamW divides by roots of gradients that are nearly zero: differences of f32 grow from step to step.
        assert!((own - expected).abs() < 1e-3 * expected, "step {step}: {own}, on the CPU {expected}");
    }
    assert!((ours[0] - expected[0]).abs() < 1e-5 * expected[0], "{} and {}", ours[0], expected[0]);
    assert!(state(home, "whole") == state(home, "parts"), "a resumed run has another state");
    assert!(state(home, "whole") != state(home, "cpu"), "two engines round alike to the last bit?");
    // A state is the device's that it is of: on another, the run would not go on to the same bits.
    let before = state(home, "cpu");
    let refused = run(home, "cpu", &["--device", "cuda", "--resume", "True"]);
    assert!(!refused.status.success() && stderr(&refused).contains("engine"), "{}", stderr(&refused));
    assert!(state(home, "cpu") == before);
}

#[test]
fn what_does_not_go_together_is_said() {
    let folder = home();
    for (more, said) in [
        (&["--precision", "tf32"][..], "give --device cuda"),
        (&["--precision", "f16"], "expected f32, bf16 or tf32"),
        (&["--precision", "bf16", "--device", "cuda"], "trains in f32 or tf32"),
        (&["--engine", "tch", "--device", "cuda"], "compute on the CPU"),
        (&["--device", "cuda", "--memory", "100"], "leave it out"),
        (&["--device", "auto"], "say where"),
        (&["--device", "cuda:all"], "one device"),
        (&["--device", "cuda:7"], "there is no CUDA device 7"),
    ] {
        let done = run(folder.path(), "wrong", more);
        assert!(!done.status.success() && stderr(&done).contains(said), "{more:?}: {}", stderr(&done));
    }
}

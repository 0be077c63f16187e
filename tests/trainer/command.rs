//! `segface train` with the engine that ships, on a small folder.

use crate::finished::{json, names, stderr};
use crate::process::free_port;
use crate::synthetic;
use segface::train::{LOG, Line, STATE};
use segface::weights::Weights;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A run of a MobileNet at 64 pixels; folders come from a file `.env`.
struct Run {
    home: PathBuf,
    name: &'static str,
}

impl Run {
    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
        command.args(["train", "--dataset", "celebamask_hq", "--backbone", "segface_celeb", "--model", "mobilenet"]);
        command.args(["--expt_name", self.name, "--lr", "1e-3", "--lr_schedule", "1,200", "--input_resolution", "64"]);
        command.args(["--val_bs", "2", "--test_bs", "1", "--num_workers", "2", "--epochs", "2", "--threads", "1"]);
        command.args(["--weight_decay", "1e-5", "--seed", "5", "--log_interval", "1", "--val_interval", "1"]);
        for variable in ["DATA_PATH", "LOG_PATH", "ROOT_PATH", "RANK", "WORLD_SIZE"] {
            command.env_remove(variable);
        }
        command.args(more).current_dir(&self.home).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn finish(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.home.join("logs/ckpts").join(self.name)
    }

    fn state(&self) -> Vec<u8> {
        fs::read(self.folder().join(STATE)).unwrap()
    }
}

fn home(folder: &Path) -> PathBuf {
    synthetic::celeb(&folder.join("data/CelebAMask-HQ"));
    fs::write(folder.join(".env"), format!("ROOT_PATH={}\nDATA_PATH=data\nLOG_PATH=logs\n", folder.display())).unwrap();
    folder.into()
}

#[test]
fn the_published_command_line_trains_and_what_it_writes_is_scored_alike() {
    let folder = tempfile::tempdir().unwrap();
    let run = Run { home: home(folder.path()), name: "mobilenet_celeba_64" };
    let done = run.finish(&["--train_bs", "2"]);
    assert!(done.status.success(), "{}", stderr(&done));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("mobilenet/celeb at 64x64, 5 images") && said.contains("4 of 4 steps"), "{said}");
    let text = fs::read_to_string(run.folder().join(LOG)).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scored = lines.iter().rev().find_map(|line| match line {
        Line::Validation { epoch: 1, mean_f1_of_present, images: 2, .. } => *mean_f1_of_present,
        _ => None,
    });
    let model = run.folder().join("model_1.safetensors");
    let weights = Weights::load(&model).unwrap();
    assert_eq!((weights.spec.to_string(), weights.resolution), ("mobilenet/celeb".into(), Some(64)));
    let counts = weights.tensors()["backbone.0.1.num_batches_tracked"].values();
    assert_eq!(*counts, [4.0]);
    let out = folder.path().join("scores");
    let eval = Command::new(env!("CARGO_BIN_EXE_segface"))
        .args(["eval", "--device", "cpu", "--split", "val", "--threads", "1", "--weights"])
        .arg(&model)
        .arg("--data")
        .arg(folder.path().join("data/CelebAMask-HQ"))
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(eval.status.success(), "{}", stderr(&eval));
    assert_eq!(json(&out.join("eval.json"))["mean_f1_of_present"].as_f64(), scored);
    // What it did once it refuses to do over.
    let again = run.finish(&["--train_bs", "2"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));
}

#[test]
fn stopped_by_a_signal_or_killed_it_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let more = ["--train_bs", "1", "--accumulate", "2", "--ema", "0.9", "--clip", "1", "--state_interval", "1"];
    let whole = Run { home: home.clone(), name: "whole" };
    let done = whole.finish(&more);
    assert!(done.status.success(), "{}", stderr(&done));
    for (name, signal) in [("told", libc::SIGTERM), ("killed", libc::SIGKILL)] {
        let run = Run { home: home.clone(), name };
        let mut child = run.command(&more).spawn().unwrap();
        // As soon as there is a state to go on from.
        while !run.folder().join(STATE).exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        // SAFETY: it is a child of ours that was not waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        let ended = child.wait_with_output().unwrap();
        if signal == libc::SIGTERM {
            assert!(ended.status.success(), "{}", stderr(&ended));
            let said = String::from_utf8_lossy(&ended.stdout).into_owned();
            assert!(said.contains("give --resume to go on") || said.contains("6 of 6 steps"), "{said}");
        }
        let done = run.finish(&[&more[..], &["--resume", "True"]].concat());
        assert!(done.status.success(), "{}", stderr(&done));
        assert!(whole.state() == run.state(), "{name}: another state");
        for file in ["model_1.safetensors", "model_best.safetensors"] {
            let read = |run: &Run| fs::read(run.folder().join(file)).unwrap();
            assert!(read(&whole) == read(&run), "{name}: another {file}");
        }
        assert!(names(&run.folder()).iter().all(|name| !name.ends_with(".tmp")));
    }
}

#[test]
fn two_and_four_processes_end_with_the_bits_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let alone = Run { home: home.clone(), name: "alone" };
    let done = alone.finish(&["--train_bs", "1", "--accumulate", "2", "--val_interval", "0", "--epochs", "1"]);
    // clap does not take an option twice.
    assert_eq!(done.status.code(), Some(2), "{}", stderr(&done));
    for (size, name, shared) in [(2, "alone2", ["shared2", "late2"]), (4, "alone4", ["shared4", "late4"])] {
        let alone = Run { home: home.clone(), name };
        let done = alone.finish(&["--train_bs", "1", "--accumulate", &size.to_string()]);
        assert!(done.status.success(), "{}", stderr(&done));
        for (overlap, name) in ["true", "false"].into_iter().zip(shared) {
            let shared = Run { home: home.clone(), name };
            let port = free_port().to_string();
            let children: Vec<_> = (0..size)
                .map(|rank| {
                    let mut command = shared.command(&["--train_bs", "1", "--overlap", overlap]);
                    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
                    command.env("MASTER_PORT", &port).spawn().unwrap()
                })
                .collect();
            for child in children {
                let done = child.wait_with_output().unwrap();
                assert!(done.status.success(), "{}", stderr(&done));
            }
            assert!(alone.state() == shared.state(), "{size} processes, --overlap {overlap}");
        }
    }
}

#[test]
fn lapa_and_helen_are_trained_too() {
    let folder = tempfile::tempdir().unwrap();
    for dataset in ["lapa", "helen"] {
        let home = folder.path().join(dataset);
        fs::create_dir_all(&home).unwrap();
        let data =
            if dataset == "lapa" { synthetic::lapa(&home.join("data")) } else { synthetic::helen(&home.join("data")) };
        if dataset == "lapa" {
            // The synthetic folder has a pixel in each that is to be ignored, which training refuses.
            for number in 0..5 {
                let face = synthetic::lapa_face(number);
                let path = data.join(format!("train/labels/{number:03}_0.png"));
                synthetic::write_grey(&path, face.width, face.height, &face.eleven());
            }
        }
        let out = home.join("run");
        let done = Command::new(env!("CARGO_BIN_EXE_segface"))
            .args(["train", "--dataset", dataset, "--model", "mobilenet", "--input_resolution", "64", "--epochs", "1"])
            .args(["--train_bs", "2", "--lr", "1e-3", "--log_interval", "1", "--threads", "1", "--data"])
            .arg(&data)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        assert!(done.status.success(), "{dataset}: {}", stderr(&done));
        let text = fs::read_to_string(out.join(LOG)).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Eleven classes that are as good as guessed: about ln 11 for cross-entropy, dice near one.
        let Some(Line::Steps { cross_entropy, dice, .. }) =
            lines.iter().find(|line| matches!(line, Line::Steps { step: 1, .. }))
        else {
            panic!("{text}");
        };
        assert!((1.5..4.0).contains(cross_entropy) && (0.7..1.0).contains(dice), "{dataset}: {cross_entropy}, {dice}");
        assert!(lines.iter().any(|line| matches!(line, Line::Validation { .. })), "{text}");
    }
}

#[test]
fn wrong_command_lines_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let home = home(folder.path());
    let train = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
        command.arg("train").args(args).current_dir(&home);
        for variable in ["DATA_PATH", "LOG_PATH", "ROOT_PATH", "RANK", "WORLD_SIZE"] {
            command.env_remove(variable);
        }
        let done = command.output().unwrap();
        assert!(!done.status.success());
        stderr(&done)
    };
    for (args, part) in [
        (&["--dataset", "celeb", "--expt_name", "x"][..], "Give --model"),
        (&["--dataset", "celeb", "--expt_name", "x", "--backbone", "segface_lapa"], "expected segface_celeb"),
        (&["--dataset", "celeb", "--expt_name", "x", "--backbone", "resnet", "--model", "mobilenet"], "two backbones"),
        (&["--dataset", "celeb", "--expt_name", "x", "--model", "vgg"], "unknown backbone"),
        (&["--dataset", "celeb", "--expt_name", "x", "--model", "mobilenet", "--num_classes", "11"], "which has 19"),
        (&["--dataset", "celeb", "--expt_name", "x", "--model", "mobilenet", "--lr_schedule", "9,3"], "rising epochs"),
        (&["--dataset", "helen", "--expt_name", "x", "--model", "mobilenet"], "helen"),
        (&["--dataset", "celeb", "--model", "mobilenet"], "--expt_name"),
        (
            &[
                "--dataset",
                "celeb",
                "--expt_name",
                "x",
                "--model",
                "mobilenet",
                "--init",
                "nowhere.pth",
                "--input_resolution",
                "32",
            ],
            "nowhere.pth",
        ),
    ] {
        let said = train(args);
        assert!(said.contains(part), "{args:?}: {said}");
    }
    if cfg!(not(feature = "libtorch")) {
        for engine in ["tch", "mixed"] {
            let said = train(&["--dataset", "celeb", "--expt_name", "x", "--model", "mobilenet", "--engine", engine]);
            assert!(said.contains("cargo xtask torch"), "{said}");
        }
    }
}

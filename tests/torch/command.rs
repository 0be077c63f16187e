//! `segface train --engine tch` and `mixed`.

use crate::finished::stderr;
use crate::synthetic;
use segface::train::{EngineChoice, LOG, Line, STATE};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn command(data: &Path, out: &Path, engine: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    command.args(["train", "--dataset", "celebamask_hq", "--model", "mobilenet", "--input_resolution", "64"]);
    command.args(["--epochs", "2", "--threads", "1", "--lr", "1e-3", "--log_interval", "1", "--val_interval", "0"]);
    command.args(["--engine", engine]).args(more).arg("--data").arg(data).arg("--out").arg(out);
    for variable in ["DATA_PATH", "LOG_PATH", "ROOT_PATH", "RANK", "WORLD_SIZE"] {
        command.env_remove(variable);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(data: &Path, out: &Path, engine: &str, more: &[&str]) -> Output {
    command(data, out, engine, more).output().unwrap()
}

fn succeed(data: &Path, out: &Path, engine: &str, more: &[&str]) -> Output {
    let done = finish(data, out, engine, more);
    assert!(done.status.success(), "{}", stderr(&done));
    done
}

fn state(out: &Path) -> Vec<u8> {
    fs::read(out.join(STATE)).unwrap()
}

/// The recipe's engine in the log, and the losses by step.
fn log(out: &Path) -> (EngineChoice, Vec<f64>) {
    let text = fs::read_to_string(out.join(LOG)).unwrap();
    let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let engine = lines.iter().find_map(|line| match line {
        Line::Start { recipe, .. } => Some(recipe.engine.clone()),
        _ => None,
    });
    let losses = lines.iter().filter_map(|line| match line {
        Line::Steps { loss, .. } => Some(*loss),
        _ => None,
    });
    (engine.unwrap(), losses.collect())
}

#[test]
fn libtorchs_runs_are_resumed_to_the_same_bits_and_only_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let more = ["--train_bs", "2", "--ema", "0.9"];
    let [whole, parts, ours] = ["whole", "parts", "ours"].map(|name| folder.path().join(name));
    succeed(&data, &whole, "tch", &more);
    succeed(&data, &parts, "tch", &[&more[..], &["--stop_after", "3"]].concat());
    let refused = finish(&data, &parts, "ours", &[&more[..], &["--resume"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("engine was \"tch\""), "{}", stderr(&refused));
    succeed(&data, &parts, "tch", &[&more[..], &["--resume"]].concat());
    assert!(state(&whole) == state(&parts));
    succeed(&data, &ours, "ours", &more);
    let ((choice, by_torch), (our_choice, by_us)) = (log(&whole), log(&ours));
    assert_eq!((choice, our_choice), (EngineChoice::Tch, EngineChoice::Ours));
    assert_eq!((by_torch.len(), by_us.len()), (4, 4));
    // From random weights at a rate of 1e-3, what rounding does grows tenfold with every step.
    for (step, (a, b)) in by_torch.iter().zip(&by_us).enumerate() {
        let allowed = 1e-5 * 10f64.powi(step as i32);
        assert!((a - b).abs() < allowed, "step {step}: {a} by libtorch, {b} by ours");
    }
}

#[test]
fn two_processes_of_libtorch_end_with_the_bits_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let [alone, shared] = ["alone", "shared"].map(|name| folder.path().join(name));
    succeed(&data, &alone, "tch", &["--train_bs", "1", "--accumulate", "2"]);
    together(&data, &shared, "tch");
    assert!(state(&alone) == state(&shared));
}

fn together(data: &Path, out: &Path, engine: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |rank: usize| {
        let mut command = command(data, out, engine, &["--train_bs", "1"]);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("MASTER_PORT", &port).spawn().unwrap()
    };
    let children: Vec<Child> = (0..2).map(start).collect();
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
    }
}

#[test]
fn a_mixed_run_says_what_it_measured_and_keeps_its_choice_when_it_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let more = ["--train_bs", "2"];
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    let done = succeed(&data, &first, "mixed", &[&more[..], &["--stop_after", "1"]].concat());
    let said = stderr(&done);
    for part in ["stage1: ours", "stage4: ours", "decoder: ours", "a step: all ours"] {
        assert!(said.contains(part), "{said}");
    }
    let copied: Vec<PathBuf> = fs::read_dir(&first).unwrap().map(|entry| entry.unwrap().path()).collect();
    fs::create_dir(&second).unwrap();
    for path in copied {
        fs::copy(&path, second.join(path.file_name().unwrap())).unwrap();
    }
    let (EngineChoice::Mixed(chosen), _) = log(&first) else { panic!("it is mixed") };
    let resume = [&more[..], &["--resume"]].concat();
    let done = succeed(&data, &first, "mixed", &resume);
    assert!(!stderr(&done).contains("stage1"), "it measures again: {}", stderr(&done));
    succeed(&data, &second, "mixed", &[&resume[..], &["--stop_after", "3"]].concat());
    succeed(&data, &second, "mixed", &resume);
    assert!(state(&first) == state(&second));
    assert_eq!(log(&second).0, EngineChoice::Mixed(chosen));
}

#[test]
fn processes_of_a_mixed_run_agree_about_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let shared = folder.path().join("shared");
    together(&data, &shared, "mixed");
    let (EngineChoice::Mixed(_), losses) = log(&shared) else { panic!("it is mixed") };
    assert_eq!(losses.len(), 6);
}

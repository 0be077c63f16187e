//! `ptxvm exec`: any CUDA program, with this machine as its driver.

use crate::{Failure, Mode};
use clap::Args;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

#[derive(Args)]
pub(crate) struct Exec {
    /// What is watched; several may be given.
    #[arg(long, value_enum, value_delimiter = ',')]
    mode: Vec<Mode>,
    /// Cards to be: h100, a100, l4, rtx4090, a6000, …; several make several devices.
    #[arg(long, value_name = "CARDS")]
    device: Option<String>,
    /// Order of streams, blocks, warps and lanes to draw.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the program with so many seeds, from 0 on, and say which of them show what.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["seed", "report"])]
    seeds: Option<u64>,
    /// Find out how few blocks show each finding, by running them again.
    #[arg(long)]
    shrink: bool,
    /// Where the findings and counts go as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The folder with libcuda.so.1 (else found beside this program).
    #[arg(long, value_name = "FOLDER")]
    library: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    program: Vec<OsString>,
}

/// The folder that holds our `libcuda.so.1`: beside this program, or in `ptxvm` beside it or beside its folder.
pub(crate) fn library_folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let holds = |folder: &Path| folder.join("libcuda.so.1").exists();
    if let Some(folder) = given {
        return if holds(folder) {
            Ok(folder.to_owned())
        } else {
            Err(format!("{} holds no libcuda.so.1", folder.display()).into())
        };
    }
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(Path::new("."));
    let places = [folder.to_owned(), folder.join("ptxvm"), folder.join("../ptxvm"), folder.join("../lib")];
    places.iter().find(|place| holds(place)).cloned().ok_or_else(|| {
        let place = folder.display();
        format!("no libcuda.so.1 near {place}: build it with `cargo xtask ptxvm`, or name its folder with --library")
            .into()
    })
}

pub(crate) fn exec(command: &Exec) -> Result<ExitCode, Failure> {
    let folder = library_folder(command.library.as_deref())?;
    let [program, arguments @ ..] = command.program.as_slice() else { return Err("no program is given".into()) };
    let mut path = OsString::from(folder);
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty()) {
        path.push(":");
        path.push(others);
    }
    let mut child = Command::new(program);
    child.args(arguments).env("LD_LIBRARY_PATH", path);
    if !command.mode.is_empty() {
        let words: Vec<_> = command.mode.iter().map(|mode| format!("{mode:?}").to_lowercase()).collect();
        child.env("PTXVM_MODE", words.join(","));
    }
    child.envs(command.device.as_ref().map(|cards| ("PTXVM_DEVICE", cards)));
    child.envs(command.seed.map(|seed| ("PTXVM_SEED", seed.to_string())));
    child.envs(command.shrink.then_some(("PTXVM_SHRINK", "1")));
    child.envs(command.report.as_ref().map(|file| ("PTXVM_REPORT", file)));
    let failed = |error: std::io::Error| format!("{}: {error}", program.to_string_lossy());
    if let Some(count) = command.seeds {
        return sweep(&mut child, count).map_err(|error| failed(error).into());
    }
    let status = child.status().map_err(failed)?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code.clamp(0, 255) as u8)))
}

/// Runs the program with seeds 0, 1, … and says how it ended with each of them, and with which findings.
fn sweep(child: &mut Command, count: u64) -> std::io::Result<ExitCode> {
    let report = std::env::temp_dir().join(format!("ptxvm-{}.json", std::process::id()));
    let mut failures = 0;
    for seed in 0..count {
        let status = child.env("PTXVM_SEED", seed.to_string()).env("PTXVM_REPORT", &report).status()?;
        let text = std::fs::read_to_string(&report).unwrap_or_default();
        // The next run may end without a report.
        let _ = std::fs::remove_file(&report);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let findings = json["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut kinds: Vec<&str> = findings.iter().filter_map(|finding| finding["kind"].as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kinds = if kinds.is_empty() { "no findings".to_owned() } else { kinds.join(", ") };
        println!("seed {seed}: {status}, {kinds}");
        failures += u64::from(!status.success() || !findings.is_empty());
    }
    println!("{failures} of {count} seeds failed");
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

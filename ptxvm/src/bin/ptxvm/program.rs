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
    child.envs(command.report.as_ref().map(|file| ("PTXVM_REPORT", file)));
    let status = child.status().map_err(|error| format!("{}: {error}", program.to_string_lossy()))?;
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code.clamp(0, 255) as u8)))
}

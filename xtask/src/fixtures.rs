//! Fixtures that a program writes: the formats of others, made by those others.
//!
//! `fixtures/keys` and `fixtures/parity` are not made here: they come from the published PyTorch code.

use crate::{
    deps::PYTHON,
    error::Error,
    steps::{root, step},
};
use std::process::Command;

/// Each script writes the files beside it. Its packages are pinned, so that it writes the same bytes.
const SCRIPTS: [(&str, &[&str]); 2] = [
    ("fixtures/torch_save/make.py", &[]),
    ("fixtures/images/make.py", &["numpy==2.4.6", "pillow==10.4.0", "opencv-python-headless==5.0.0.93"]),
];

/// Runs every script, in an environment of its own under `.deps`, then lists what changed.
pub(crate) fn make() -> Result<(), Error> {
    let environment = root().join(".deps/python");
    let python = environment.join("bin/python3");
    if !python.exists() {
        step(command(PYTHON).args(["-m", "venv"]).arg(&environment))?;
    }
    for (script, packages) in SCRIPTS {
        if !packages.is_empty() {
            step(command(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
        }
        step(command(&python).arg(script))?;
    }
    step(command("git").args(["status", "--short", "--", "fixtures"]))
}

fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

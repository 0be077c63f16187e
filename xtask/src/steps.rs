//! Runs of cargo that make up a task.

use crate::error::Error;
use std::{env, path::Path, process::Command, time::Instant};

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Every test of every crate. `arguments` go to `cargo test`; without any, the whole workspace is tested.
pub(crate) fn test(seed: Option<String>, cases: Option<u32>, arguments: &[String]) -> Result<(), Error> {
    let chosen = arguments.iter().any(|argument| argument == "-p" || argument.starts_with("--package"));
    let mut command = cargo(&["test"]);
    if !chosen {
        command.arg("--workspace");
    }
    command.args(arguments);
    command.envs(seed.map(|seed| ("SEGFACE_SEED", seed)));
    command.envs(cases.map(|cases| ("SEGFACE_CASES", cases.to_string())));
    step(command)
}

/// What must hold before a change is accepted.
pub(crate) fn ci() -> Result<(), Error> {
    step(cargo(&["fmt", "--all", "--check"]))?;
    step(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    step(documentation)?;
    test(None, None, &[])
}

/// The table of speeds.
pub(crate) fn bench(arguments: &[String]) -> Result<(), Error> {
    let mut command = cargo(&["run", "--release", "--package", "segface-bench", "--"]);
    command.args(arguments);
    step(command)
}

/// Tests named `regenerate_…` write generated fixtures; they are ignored otherwise.
pub(crate) fn fixtures() -> Result<(), Error> {
    step(cargo(&["test", "--workspace", "regenerate_", "--", "--ignored"]))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command`, showing it before and its time after.
fn step(mut command: Command) -> Result<(), Error> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let shown = format!("cargo {}", words.join(" "));
    eprintln!("$ {shown}");
    let start = Instant::now();
    let status = command.status().map_err(|source| Error::Start { command: shown.clone(), source })?;
    eprintln!("  took {:.0} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(Error::Step { command: shown, status }) }
}

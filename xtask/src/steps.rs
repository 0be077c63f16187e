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
    step(&mut command)
}

/// What must hold before a change is accepted.
pub(crate) fn ci() -> Result<(), Error> {
    step(&mut cargo(&["fmt", "--all", "--check"]))?;
    step(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    step(&mut documentation)?;
    test(None, None, &[])
}

/// The table of speeds.
pub(crate) fn bench(arguments: &[String]) -> Result<(), Error> {
    let mut command = cargo(&["run", "--release", "--package", "segface-bench", "--"]);
    command.args(arguments);
    step(&mut command)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command`, showing it before and its time after.
pub(crate) fn step(command: &mut Command) -> Result<(), Error> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let words = command.get_args().map(|word| word.to_string_lossy());
    let shown = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
    eprintln!("$ {shown}");
    let start = Instant::now();
    let status = command.status().map_err(|source| Error::Start { command: shown.clone(), source })?;
    eprintln!("  took {:.0} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(()) } else { Err(Error::Step { command: shown, status }) }
}

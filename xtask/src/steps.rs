//! Runs of cargo that make up a task.

use crate::{deps, error::Error, libraries::LIBTORCH, ptxvm, scope::Scope};
use std::{
    env, io,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Every test of every crate. `arguments` go to `cargo test`; without a package there, the whole workspace is tested.
pub(crate) fn test(seed: Option<String>, cases: Option<u32>, arguments: &[String]) -> Result<(), Error> {
    let scope = Scope::of(arguments);
    let mut command = cargo(&["test"]);
    if scope.is_workspace() {
        command.arg("--workspace");
    }
    command.args(arguments);
    command.envs(seed.map(|seed| ("SEGFACE_SEED", seed)));
    command.envs(cases.map(|cases| ("SEGFACE_CASES", cases.to_string())));
    if scope.has_others() {
        deps::provide(&[&LIBTORCH])?;
    }
    if scope.has_cuda() {
        deps::provide(&ptxvm::NEEDED)?;
        command.envs(ptxvm::environment(&ptxvm::build()?)?);
    }
    step(&mut command)?;
    // The program with libtorch in it is another one, which the others' tests must not meet.
    if arguments.is_empty() {
        step(&mut cargo(&["test", "--package", "segface", WITH_TORCH, "--test", "torch"]))
    } else {
        Ok(())
    }
}

/// Of `segface`: engines by libtorch.
const WITH_TORCH: &str = "--features=libtorch";

/// The program with libtorch in it.
pub(crate) fn torch() -> Result<(), Error> {
    deps::provide(&[&LIBTORCH])?;
    step(&mut cargo(&["build", "--release", "--package", "segface", WITH_TORCH]))
}

/// What must hold before a change is accepted.
pub(crate) fn ci() -> Result<(), Error> {
    // Before the lints: they compile what needs libtorch.
    deps::provide(&[&LIBTORCH])?;
    step(&mut cargo(&["fmt", "--all", "--check"]))?;
    step(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step(&mut cargo(&["clippy", "--package", "segface", WITH_TORCH, "--all-targets", "--", "-D", "warnings"]))?;
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    step(&mut documentation)?;
    test(None, None, &[])
}

/// The table of what kernels need of a multiprocessor.
pub(crate) fn ptxas() -> Result<(), Error> {
    deps::provide(&[&LIBTORCH])?;
    deps::provide(&ptxvm::NEEDED)?;
    let mut command = cargo(&["test", "--package", "segface-tests", "--test", "machine_code", "--"]);
    command.args(["--ignored", "--exact", "table::write", "--nocapture"]);
    command.env("SEGFACE_WRITE_PTXAS", "1").envs(ptxvm::environment(&ptxvm::build()?)?);
    step(&mut command)
}

/// The table of speeds.
pub(crate) fn bench(arguments: &[String]) -> Result<(), Error> {
    deps::provide(&[&LIBTORCH])?;
    let mut command = cargo(&["run", "--release", "--package", "segface-bench", "--"]);
    command.args(arguments);
    step(&mut command)
}

pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command`, showing it before and its time after.
pub(crate) fn step(command: &mut Command) -> Result<(), Error> {
    timed(command, |command| Ok((command.status()?, ())))
}

/// The same, and returns what `command` prints on its standard output.
pub(crate) fn step_output(command: &mut Command) -> Result<Vec<u8>, Error> {
    timed(command, |command| {
        let output = command.stderr(Stdio::inherit()).output()?;
        Ok((output.status, output.stdout))
    })
}

fn timed<T>(command: &mut Command, run: impl FnOnce(&mut Command) -> io::Result<(ExitStatus, T)>) -> Result<T, Error> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let words = command.get_args().map(|word| word.to_string_lossy());
    let shown = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
    eprintln!("$ {shown}");
    let start = Instant::now();
    let (status, result) = run(command).map_err(|source| Error::Start { command: shown.clone(), source })?;
    eprintln!("  took {:.0} s", start.elapsed().as_secs_f64());
    if status.success() { Ok(result) } else { Err(Error::Step { command: shown, status }) }
}

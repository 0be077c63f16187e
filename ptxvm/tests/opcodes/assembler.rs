//! NVIDIA's assembler, where it is at hand.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// `PTXVM_PTXAS`, or the one among the fetched dependencies.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PTXVM_PTXAS") {
        return Some(PathBuf::from(path));
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().map(|folder| folder.join(".deps/cuda-tools/bin/ptxas")).find(|path| path.is_file())
}

/// What the assembler says against a module, with the lines it means; empty if it takes it.
pub(crate) fn refusals(ptxas: &Path, target: &str, name: &str, module: &str) -> String {
    let path = std::env::temp_dir().join(format!("ptxvm-{}-{name}-{target}.ptx", std::process::id()));
    std::fs::write(&path, module).expect("the folder for temporary files is writable");
    let arch = format!("-arch={target}");
    let output = Command::new(ptxas).arg(arch).arg("-O0").arg(&path).args(["-o", "/dev/null"]).output();
    let output = output.expect("ptxas starts");
    std::fs::remove_file(&path).expect("the file just written can be removed");
    let mut refused = String::new();
    if output.status.success() {
        return refused;
    }
    for message in String::from_utf8_lossy(&output.stderr).lines().take(40) {
        let line = message.split("line ").nth(1).and_then(|rest| rest.split(';').next()?.parse::<usize>().ok());
        let quoted = line.and_then(|line| module.lines().nth(line - 1)).unwrap_or("").trim();
        let message = message.split("; ").nth(1).unwrap_or(message);
        writeln!(refused, "{target}: `{quoted}`: {message}").expect("writing to a string cannot fail");
    }
    refused
}

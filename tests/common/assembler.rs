//! NVIDIA's own assembler and disassembler, which need no GPU.

use segface::engine::cuda::Resources;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Architectures that every kernel is assembled for.
pub const ARCHITECTURES: [u32; 5] = [80, 86, 89, 90, 120];

/// A kernel as machine code.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// What it needs.
    pub resources: Resources,
    /// The ELF file.
    pub cubin: Vec<u8>,
}

/// Assembles PTX for `sm_<arch>`.
///
/// # Panics
/// If the assembler is not there or refuses.
pub fn assemble(ptx: &str, arch: u32) -> Assembled {
    let folder = Scratch::new();
    let (source, target) = (folder.0.join("kernel.ptx"), folder.0.join("kernel.cubin"));
    std::fs::write(&source, ptx).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let arguments = ["-v".to_owned(), format!("-arch=sm_{arch}"), "-o".to_owned()];
    let output = run("ptxas", arguments.iter().map(String::as_str), &[&target, &source]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "ptxas for sm_{arch}: {log}");
    let resources = Resources::read(&log).unwrap_or_else(|| panic!("ptxas says no registers:\n{log}"));
    let cubin = std::fs::read(&target).unwrap_or_else(|e| panic!("{}: {e}", target.display()));
    Assembled { resources, cubin }
}

/// The instructions of a cubin, as text.
///
/// # Panics
/// If the disassembler is not there or refuses.
pub fn disassemble(cubin: &[u8]) -> String {
    let folder = Scratch::new();
    let source = folder.0.join("kernel.cubin");
    std::fs::write(&source, cubin).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let output = run("nvdisasm", ["-c"].into_iter(), &[&source]);
    assert!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the assembler says it is.
///
/// # Panics
/// If it is not there.
pub fn version() -> String {
    let output = run("ptxas", ["--version"].into_iter(), &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.split_once("release ")).map_or(text.clone(), |(_, version)| version.to_owned())
}

fn run<'a>(tool: &str, arguments: impl Iterator<Item = &'a str>, files: &[&Path]) -> Output {
    let folder = std::env::var_os("PTXVM_TEST_CUDA_TOOLS").map(PathBuf::from).unwrap_or_default();
    let program = folder.join("bin").join(tool);
    let output = Command::new(&program).args(arguments).args(files).output();
    output.unwrap_or_else(|e| panic!("{}: {e}; `cargo xtask deps` fetches it", program.display()))
}

/// A folder that goes when this does.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("segface-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

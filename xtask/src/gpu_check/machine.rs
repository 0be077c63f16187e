//! What there is on this machine: Python with PyTorch, NVRTC, a driver; and what to do where something is not.

use super::process::run;
use crate::{
    deps::PYTHON,
    libraries::{LIBTORCH, NVRTC},
    steps::root,
};
use serde_json::Value;
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Prints what is asked of PyTorch as JSON. Importing it loads gigabytes of libraries, which takes seconds.
const ASK: &str = "
import json, os, platform, torch
gpu = torch.cuda.is_available()
print(json.dumps({'version': torch.__version__, 'folder': os.path.dirname(torch.__file__), 'cuda': torch.version.cuda,
                  'gpu': torch.cuda.get_device_name(0) if gpu else None, 'python': platform.python_version()}))
";
/// The version that tch is made for.
const TCH_VERSION: &str = "2.13.0";

/// PyTorch as Python imports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PyTorch {
    pub(super) python: String,
    pub(super) version: String,
    pub(super) folder: PathBuf,
    /// The CUDA version it was built with.
    pub(super) cuda: Option<String>,
    /// Its first device.
    pub(super) gpu: Option<String>,
}

/// The interpreter to ask: `chosen`, that of an active virtual environment, or the system's.
pub(super) fn python(chosen: Option<&str>) -> String {
    let active = env::var_os("VIRTUAL_ENV").map(|folder| Path::new(&folder).join("bin/python").display().to_string());
    chosen.map(str::to_owned).or(active).unwrap_or_else(|| PYTHON.to_owned())
}

/// Asks Python for PyTorch.
///
/// # Errors
/// What is missing, and how to get it.
pub(super) fn pytorch(python: &str) -> Result<PyTorch, String> {
    let outcome = run(Command::new(python).args(["-c", ASK]), Duration::from_secs(90));
    if let Some(problem) = outcome.problem() {
        let reason = problem.lines().last().unwrap_or_default();
        return Err(format!(
            "no PyTorch in `{python}` ({reason}): activate the environment that has it, name its interpreter with --python, or \
             `pip install torch=={TCH_VERSION}`"
        ));
    }
    let value = outcome.lines.iter().rev().find_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |name: &str| value.as_ref().and_then(|value| value[name].as_str()).map(str::to_owned);
    match (text("version"), text("folder")) {
        (Some(version), Some(folder)) => Ok(PyTorch {
            python: python.to_owned(),
            version,
            folder: folder.into(),
            cuda: text("cuda"),
            gpu: text("gpu"),
        }),
        _ => Err(format!("`{python}` did not say which PyTorch it has")),
    }
}

/// Environment that makes the tests link a libtorch that is on this machine, and which one, in words: the user's LIBTORCH, what
/// `cargo xtask deps` fetched before, or PyTorch's own.
///
/// # Errors
/// If there is none.
pub(super) fn libtorch(pytorch: Option<&PyTorch>) -> Result<(Vec<(String, OsString)>, String), String> {
    let holds = |folder: &Path| LIBTORCH.signs.iter().any(|sign| folder.join(sign).exists());
    let place = LIBTORCH.place();
    if holds(&place) {
        let shown = place.strip_prefix(root()).unwrap_or(&place).display().to_string();
        return Ok((vec![(LIBTORCH.variable.into(), place.into())], format!("{} in {shown}", LIBTORCH.name)));
    }
    let Some(pytorch) = pytorch else {
        return Err(format!("no libtorch for the tests: neither PyTorch nor {} is here", place.display()));
    };
    if !holds(&pytorch.folder) {
        return Err(format!("PyTorch in {} has no lib/libtorch_cpu.so", pytorch.folder.display()));
    }
    let mut environment = vec![(LIBTORCH.variable.to_owned(), pytorch.folder.clone().into())];
    let mut words = format!("of PyTorch {}", pytorch.version);
    if pytorch.version.split('+').next() != Some(TCH_VERSION) {
        environment.push(("LIBTORCH_BYPASS_VERSION_CHECK".into(), "1".into()));
        words += &format!(" (tch is made for {TCH_VERSION}: building the tests may fail)");
    }
    Ok((environment, words))
}

/// The folder that holds NVRTC, where the library would not find it by itself or which is better named.
///
/// # Errors
/// Where it was looked for.
pub(super) fn nvrtc(pytorch: Option<&PyTorch>) -> Result<PathBuf, String> {
    let folders = nvrtc_folders(pytorch);
    folders.iter().find(|folder| holds_nvrtc(folder)).cloned().ok_or_else(|| {
        let looked: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!(
            "no NVRTC, which compiles the kernels (looked in {}): install the CUDA toolkit, set CUDA_HOME to it, or name the folder of \
             libnvrtc.so in SEGFACE_NVRTC",
            looked.join(", ")
        )
    })
}

fn nvrtc_folders(pytorch: Option<&PyTorch>) -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = variable("SEGFACE_NVRTC").into_iter().collect();
    let mut toolkits: Vec<PathBuf> = [variable("CUDA_HOME"), variable("CUDA_PATH")].into_iter().flatten().collect();
    toolkits.push("/usr/local/cuda".into());
    // `nvcc` on the path lies in the toolkit's folder `bin`.
    let paths = env::var_os("PATH").unwrap_or_default();
    let compilers = env::split_paths(&paths).filter(|folder| folder.join("nvcc").exists());
    toolkits.extend(compilers.filter_map(|folder| folder.parent().map(Path::to_owned)));
    for toolkit in toolkits {
        folders.extend(["lib64", "targets/x86_64-linux/lib", "lib"].map(|folder| toolkit.join(folder)));
    }
    folders.push("/usr/lib/x86_64-linux-gnu".into());
    // Wheels beside PyTorch: nvidia/cu13/lib, or nvidia/cuda_nvrtc/lib of CUDA 12.
    if let Some(site) = pytorch.and_then(|pytorch| pytorch.folder.parent()) {
        let wheels = fs::read_dir(site.join("nvidia")).into_iter().flatten().flatten();
        let mut wheels: Vec<PathBuf> = wheels.map(|wheel| wheel.path().join("lib")).collect();
        wheels.sort();
        folders.extend(wheels);
    }
    // What `cargo xtask deps` fetched.
    folders.push(NVRTC.place().join("lib"));
    folders
}

fn holds_nvrtc(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libnvrtc.so"))
}

/// What the machine says about itself: name and value.
pub(super) fn describe() -> Vec<(String, String)> {
    let said = |program: &str, arguments: &[&str]| -> Option<String> {
        let outcome = run(Command::new(program).args(arguments).current_dir(root()), Duration::from_secs(10));
        let line = outcome.lines.first().map(|line| line.trim().to_owned());
        line.filter(|line| outcome.problem().is_none() && !line.is_empty())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let gpu = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm";
    let dirty =
        if said("git", &["status", "--porcelain", "--untracked-files=no"]).is_some() { ", changed" } else { "" };
    let entries = [
        ("version of segface", said("git", &["rev-parse", "--short=12", "HEAD"]).map(|commit| commit + dirty)),
        ("processor", Some(format!("{}, {cores} threads", cpu.unwrap_or_else(|| env::consts::ARCH.into())))),
        ("rustc", said("rustc", &["--version"])),
        ("nvidia-smi", said("nvidia-smi", &[gpu, "--format=csv,noheader"])),
        (
            "nvcc",
            run(Command::new("nvcc").arg("--version"), Duration::from_secs(10))
                .lines
                .into_iter()
                .find(|line| line.contains("release")),
        ),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value.unwrap_or_else(|| "not found".into()))).collect()
}

/// ptxvm's name of a card with the compute capability of the device, so that both run the same PTX.
pub(super) fn like(capability: &str) -> &'static str {
    match capability {
        "8.0" => "a100",
        "8.6" => "a6000",
        "8.9" => "l4",
        "10.0" => "b200",
        "12.0" => "rtx5090",
        _ => "h100",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(folder: &Path, version: &str) -> PyTorch {
        PyTorch { python: "python3".into(), version: version.into(), folder: folder.into(), cuda: None, gpu: None }
    }

    #[test]
    fn a_python_without_pytorch_says_what_to_do() {
        let error = pytorch("xtask-test-no-such-python").expect_err("there is none");
        assert!(error.contains("--python") && error.contains("pip install torch"), "{error}");
    }

    #[test]
    fn nvrtc_is_found_beside_pytorch_and_else_told_where_it_was_looked_for() {
        let site = tempfile::tempdir().expect("a folder");
        let wheel = site.path().join("nvidia/cu13/lib");
        fs::create_dir_all(&wheel).expect("a folder");
        let pytorch = installed(&site.path().join("torch"), TCH_VERSION);
        assert!(!holds_nvrtc(&wheel) && nvrtc_folders(Some(&pytorch)).contains(&wheel));
        fs::write(wheel.join("libnvrtc.so.13"), "").expect("a file");
        assert!(holds_nvrtc(&wheel));
    }

    #[test]
    fn pytorch_of_another_version_is_taken_with_a_warning() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("lib")).expect("a folder");
        fs::write(folder.path().join("lib/libtorch_cpu.so"), "").expect("a file");
        if LIBTORCH.signs.iter().any(|sign| LIBTORCH.place().join(sign).exists()) {
            // What is there already goes first.
            let (environment, words) =
                libtorch(Some(&installed(folder.path(), "2.9.1+cu128"))).expect("fetched before");
            assert!(environment.len() == 1 && words.contains(LIBTORCH.name), "{words}");
        } else {
            let (environment, words) = libtorch(Some(&installed(folder.path(), "2.9.1+cu128"))).expect("PyTorch's");
            assert!(environment.len() == 2 && words.contains("may fail"), "{words}");
            assert!(libtorch(None).is_err());
        }
    }

    #[test]
    fn ptxvm_plays_a_card_of_the_same_architecture() {
        assert_eq!([like("8.0"), like("8.9"), like("9.0"), like("12.0")], ["a100", "l4", "h100", "rtx5090"]);
    }
}

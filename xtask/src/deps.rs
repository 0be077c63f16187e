//! Native libraries that only tests and benches need, fetched into `.deps` once.
//!
//! libtorch comes from PyPI's torch wheel, without the CUDA libraries that it otherwise drags in: the CPU library needs
//! only `libcupti` and `libcudart` beside it. A library is unpacked beside its place and then moved there, with a stamp
//! of what it was made from, so an interrupted run leaves nothing that looks whole.

use crate::{
    archive::Wheel,
    error::{At, Error},
    steps::root,
};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) const PYTHON: &str = "python3";
const STAMP: &str = ".done";
/// What tch is built for; torch-sys refuses others.
const LIBTORCH_VERSION: &str = "2.13.0";

/// A library: wheels unpacked into one folder, and files of our own.
struct Library {
    folder: &'static str,
    wheels: &'static [Wheel],
    written: &'static [(&'static str, &'static str)],
}

const LIBTORCH: Library = Library {
    folder: "libtorch",
    wheels: &[
        Wheel {
            package: "torch",
            version: LIBTORCH_VERSION,
            file: "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            sha256: "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
            take: &[
                ("torch/include/", "include"),
                ("torch/lib/libtorch_cpu.so", "lib"),
                ("torch/lib/libc10.so", "lib"),
                ("torch/lib/libgomp.so.1", "lib"),
            ],
        },
        Wheel {
            package: "nvidia-cuda-cupti",
            version: "13.0.85",
            file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
            sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
            take: &[("nvidia/cu13/lib/libcupti.so.13", "lib")],
        },
        Wheel {
            package: "nvidia-cuda-runtime",
            version: "13.0.96",
            file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            take: &[("nvidia/cu13/lib/libcudart.so.13", "lib")],
        },
    ],
    written: &[
        // torch-sys always links -ltorch, and the wheel's own libtorch.so needs CUDA: the linker gets this script.
        ("lib/libtorch.so", "INPUT(libtorch_cpu.so)\n"),
        // torch-sys reads the version here.
        ("build-version", "2.13.0\n"),
    ],
};

/// Makes sure that every library is there; says what it does if that takes time.
pub(crate) fn provide() -> Result<(), Error> {
    let deps = root().join(".deps");
    // Cargo sets LIBTORCH to the place in .deps (.cargo/config.toml) unless the user has set it.
    let ours = deps.join(LIBTORCH.folder);
    if let Some(folder) = env::var_os("LIBTORCH").map(PathBuf::from).filter(|folder| *folder != ours) {
        let library = ["so", "dylib"].map(|ending| folder.join(format!("lib/libtorch_cpu.{ending}")));
        let found = library.iter().any(|path| path.exists()) || folder.join("lib/torch_cpu.lib").exists();
        return if found { Ok(()) } else { Err(Error::Libtorch { folder }) };
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Error::Platform { version: LIBTORCH_VERSION });
    }
    LIBTORCH.provide(&deps)
}

impl Library {
    fn provide(&self, deps: &Path) -> Result<(), Error> {
        if self.is_whole(deps) {
            return Ok(());
        }
        fs::create_dir_all(deps).at(deps)?;
        // Two runs at once: the second waits, then finds the work done.
        let lock = deps.join(".lock");
        File::create(&lock).at(&lock)?.lock().at(&lock)?;
        if self.is_whole(deps) {
            return Ok(());
        }

        let wheels = deps.join("wheels");
        fs::create_dir_all(&wheels).at(&wheels)?;
        for wheel in self.wheels {
            if !wheel.is_in(&wheels)? {
                download(wheel, &wheels)?;
            }
        }
        self.build(deps, &wheels)?;
        fs::remove_dir_all(&wheels).at(&wheels)
    }

    fn is_whole(&self, deps: &Path) -> bool {
        fs::read_to_string(deps.join(self.folder).join(STAMP)).is_ok_and(|stamp| stamp == self.stamp())
    }

    /// What the library is made from.
    fn stamp(&self) -> String {
        self.wheels.iter().map(|wheel| format!("{} {}\n", wheel.file, wheel.sha256)).collect()
    }

    /// Unpacks `wheels` and moves the result to its place.
    fn build(&self, deps: &Path, wheels: &Path) -> Result<(), Error> {
        let partial = deps.join(format!("{}.partial", self.folder));
        remove_if_there(&partial)?;
        fs::create_dir_all(&partial).at(&partial)?;
        for wheel in self.wheels {
            eprintln!("unpacking {}", wheel.requirement());
            wheel.unpack(wheels, &partial)?;
        }
        for (file, content) in self.written {
            let path = partial.join(file);
            fs::write(&path, content).at(&path)?;
        }
        let stamp = partial.join(STAMP);
        fs::write(&stamp, self.stamp()).at(&stamp)?;
        let place = deps.join(self.folder);
        remove_if_there(&place)?;
        fs::rename(&partial, &place).at(&place)
    }
}

fn remove_if_there(folder: &Path) -> Result<(), Error> {
    if folder.exists() { fs::remove_dir_all(folder).at(folder) } else { Ok(()) }
}

/// Downloads `wheel` into `folder` with pip, which knows the user's mirrors and proxies.
fn download(wheel: &Wheel, folder: &Path) -> Result<(), Error> {
    let what = wheel.requirement();
    let pip = |reason| Error::Pip { python: PYTHON, reason, what: what.clone(), version: LIBTORCH_VERSION };
    let version = Command::new(PYTHON).args(["-m", "pip", "--version"]).output();
    let version = version.map_err(|error| pip(error.to_string()))?;
    if !version.status.success() {
        return Err(pip(String::from_utf8_lossy(&version.stderr).trim().to_owned()));
    }
    eprintln!("downloading {what}");
    // The wheel for CPython 3.11, whichever Python runs pip: no Python code of it is used.
    let mut command = Command::new(PYTHON);
    command.args(["-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--only-binary=:all:"]);
    command.args(["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--abi", "none"]);
    for tag in ["_2_28", "_2_25", "_2_17", "2014", "2010", "_2_12"] {
        command.args(["--platform", &format!("manylinux{tag}_x86_64")]);
    }
    let status = command.arg("--dest").arg(folder).arg(&what).status().map_err(|error| pip(error.to_string()))?;
    if status.success() && wheel.is_in(folder)? { Ok(()) } else { Err(Error::Download { what }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Library = Library { folder: "example", wheels: &[], written: &[("note", "made\n")] };

    #[test]
    fn a_library_is_whole_only_with_the_stamp_of_its_wheels() {
        let deps = tempfile::tempdir().expect("a folder");
        assert!(!EMPTY.is_whole(deps.path()));
        fs::create_dir_all(deps.path().join("example")).expect("a half-fetched library");
        fs::write(deps.path().join("example").join(STAMP), "another.whl 00\n").expect("of another version");
        assert!(!EMPTY.is_whole(deps.path()));
    }

    #[test]
    fn a_half_fetched_library_is_made_anew() {
        let deps = tempfile::tempdir().expect("a folder");
        for folder in ["example", "example.partial"] {
            fs::create_dir_all(deps.path().join(folder)).expect("a folder");
            fs::write(deps.path().join(folder).join("left"), "over").expect("a file");
        }
        fs::create_dir_all(deps.path().join("example.partial")).expect("a folder");
        EMPTY.provide(deps.path()).expect("nothing to download");
        assert!(EMPTY.is_whole(deps.path()));
        assert!(!deps.path().join("example/left").exists() && !deps.path().join("example.partial").exists());
        assert_eq!(fs::read_to_string(deps.path().join("example/note")).expect("written"), "made\n");
    }
}

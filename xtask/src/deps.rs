//! Native libraries and tools that only tests and benches need, fetched into `.deps` once.
//!
//! They come from wheels of the Python package index, of which only a part is taken. A library is unpacked beside its
//! place and then moved there, with a stamp of what it was made from, so an interrupted run leaves nothing that looks
//! whole.

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

/// A library: wheels unpacked into one folder, and files of our own.
pub(crate) struct Library {
    /// What it is, with its version.
    pub(crate) name: &'static str,
    /// Where it lies under `.deps`.
    pub(crate) folder: &'static str,
    /// The environment variable that names another folder with the same in it. Cargo sets it to the folder under `.deps`
    /// (`.cargo/config.toml`) unless the user has set it.
    pub(crate) variable: &'static str,
    /// Files of which one at least must be in a folder of the user's.
    pub(crate) signs: &'static [&'static str],
    pub(crate) wheels: &'static [Wheel],
    /// Files of our own: their place and their content.
    pub(crate) written: &'static [(&'static str, &'static str)],
}

/// Makes sure that every one of `libraries` is there; says what it does if that takes time.
pub(crate) fn provide(libraries: &[&Library]) -> Result<(), Error> {
    let deps = root().join(".deps");
    for library in libraries {
        let chosen = env::var_os(library.variable).map(PathBuf::from);
        match chosen.filter(|folder| *folder != deps.join(library.folder)) {
            Some(folder) => library.is_good(folder)?,
            None if cfg!(all(target_os = "linux", target_arch = "x86_64")) => library.provide(&deps)?,
            None => return Err(Error::Platform { name: library.name, remedy: library.remedy() }),
        }
    }
    Ok(())
}

impl Library {
    /// Where the library is, unless it is still to be fetched.
    pub(crate) fn place(&self) -> PathBuf {
        env::var_os(self.variable).map_or_else(|| root().join(".deps").join(self.folder), PathBuf::from)
    }

    /// What one can do where it cannot be fetched.
    fn remedy(&self) -> String {
        format!("unpack {} yourself and set {} to its folder", self.name, self.variable)
    }

    /// Whether the user's `folder` holds the library.
    fn is_good(&self, folder: PathBuf) -> Result<(), Error> {
        if self.signs.iter().any(|sign| folder.join(sign).exists()) {
            return Ok(());
        }
        Err(Error::Library { variable: self.variable, name: self.name, folder, sign: self.signs[0] })
    }

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
                self.download(wheel, &wheels)?;
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

    /// Downloads `wheel` into `folder` with pip, which knows the user's mirrors and proxies.
    fn download(&self, wheel: &Wheel, folder: &Path) -> Result<(), Error> {
        let what = wheel.requirement();
        let pip = |reason| Error::Pip { python: PYTHON, reason, what: what.clone(), remedy: self.remedy() };
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
}

fn remove_if_there(folder: &Path) -> Result<(), Error> {
    if folder.exists() { fs::remove_dir_all(folder).at(folder) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libraries::{CUDA_TOOLS, LIBTORCH, NVRTC, NVRTC_12};
    use std::collections::HashSet;

    const EMPTY: Library = Library {
        name: "example 1.0",
        folder: "example",
        variable: "XTASK_TEST_EXAMPLE",
        signs: &["lib/libexample.so", "lib/libexample.dylib"],
        wheels: &[],
        written: &[("note", "made\n")],
    };
    const ALL: [&Library; 4] = [&LIBTORCH, &NVRTC, &NVRTC_12, &CUDA_TOOLS];

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

    #[test]
    fn a_folder_of_the_users_counts_if_it_holds_the_library() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = EMPTY.is_good(folder.path().to_owned()).expect_err("empty").to_string();
        for part in ["XTASK_TEST_EXAMPLE", "example 1.0", "lib/libexample.so"] {
            assert!(error.contains(part), "{error}");
        }
        fs::create_dir_all(folder.path().join("lib")).expect("a folder");
        fs::write(folder.path().join("lib/libexample.dylib"), "").expect("a file");
        EMPTY.is_good(folder.path().to_owned()).expect("any of the signs will do");
    }

    #[test]
    fn what_can_be_done_names_the_library_that_is_missing() {
        for library in ALL {
            let errors = [
                Error::Platform { name: library.name, remedy: library.remedy() },
                Error::Pip {
                    python: PYTHON,
                    reason: "none".to_owned(),
                    what: library.wheels[0].requirement(),
                    remedy: library.remedy(),
                },
            ];
            for error in errors.map(|error| error.to_string()) {
                assert!(error.contains(library.name) && error.contains(library.variable), "{error}");
                assert_eq!(error.contains("libtorch"), library.folder == "libtorch", "{error}");
            }
        }
    }

    #[test]
    fn every_library_has_a_place_of_its_own_and_whole_pins() {
        let folders: HashSet<_> = ALL.iter().flat_map(|library| [library.folder, library.variable]).collect();
        assert_eq!(folders.len(), 2 * ALL.len());
        for wheel in ALL.iter().flat_map(|library| library.wheels) {
            let start = format!("{}-{}-", wheel.package.replace('-', "_"), wheel.version);
            assert!(wheel.file.starts_with(&start) && wheel.file.ends_with("x86_64.whl"), "{}", wheel.file);
            assert!(wheel.sha256.len() == 64 && wheel.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn cargo_points_every_variable_into_deps() {
        for library in ALL {
            let config = fs::read_to_string(root().join(".cargo/config.toml")).expect("cargo's configuration");
            let line = format!("{} = {{ value = \".deps/{}\", relative = true }}", library.variable, library.folder);
            assert!(config.lines().any(|found| found == line), "{line}");
            assert!(env::var_os(library.variable).is_some(), "{} is not set", library.variable);
        }
    }
}

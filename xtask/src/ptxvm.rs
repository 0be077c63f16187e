//! The CUDA driver library of ptxvm, built and laid into a folder that a program's loader can be pointed at.

use crate::{
    deps::Library,
    error::{At, Error},
    libraries::{CUDA_TOOLS, NVRTC, NVRTC_12},
    steps::{cargo, step_output},
};
use serde_json::Value;
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process,
};

/// What the tests of ptxvm compile and judge kernels with.
pub(crate) const NEEDED: [&Library; 3] = [&NVRTC, &NVRTC_12, &CUDA_TOOLS];

const PACKAGE: &str = "ptxvm-libcuda";
/// The name under which programs are linked with the CUDA driver, and the one that they open at run time.
const LINKED_AS: &str = "libcuda.so";
const OPENED_AS: &str = "libcuda.so.1";
const SEARCHED: &str = "LD_LIBRARY_PATH";

/// Builds the library and lays it beside cargo's own output. Returns the folder.
pub(crate) fn build() -> Result<PathBuf, Error> {
    let mut command = cargo(&["build", "--release", "--package", PACKAGE]);
    let messages = step_output(command.arg("--message-format=json-render-diagnostics"))?;
    let library = artifact(&String::from_utf8_lossy(&messages)).ok_or(Error::Artifact { package: PACKAGE })?;
    let profiles = library.parent().and_then(Path::parent).ok_or(Error::Artifact { package: PACKAGE })?;
    let folder = profiles.join("ptxvm");
    lay(&library, &folder)?;
    Ok(folder)
}

/// The command that lets programs started from the same shell find the library in `folder`.
pub(crate) fn export(folder: &Path) -> String {
    format!("export {SEARCHED}='{}'${{{SEARCHED}:+:${SEARCHED}}}", folder.display().to_string().replace('\'', r"'\''"))
}

/// The environment of tests that run CUDA programs with the library in `folder`. NVRTC 13.0 has no run path, so its
/// folder must be searched too.
pub(crate) fn environment(folder: &Path) -> Result<Vec<(&'static str, OsString)>, Error> {
    let before = env::var_os(SEARCHED);
    let paths = [folder.to_owned(), NVRTC.place().join("lib")].into_iter();
    let searched = env::join_paths(paths.chain(before.iter().flat_map(env::split_paths)));
    let searched = searched.map_err(|source| Error::SearchPath { folder: folder.to_owned(), source })?;
    let places = NEEDED.map(|library| (library.variable, library.place().into_os_string()));
    Ok([(SEARCHED, searched), ("PTXVM_TEST_LIBRARY", folder.into())].into_iter().chain(places).collect())
}

/// Which file cargo says it made of the library.
fn artifact(messages: &str) -> Option<PathBuf> {
    let is_library = |message: &Value| {
        let kinds = message["target"]["crate_types"].as_array();
        message["reason"] == "compiler-artifact"
            && message["target"]["name"] == "cuda"
            && kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "cdylib"))
    };
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter(is_library).find_map(|message| message["filenames"][0].as_str().map(PathBuf::from))
}

/// Lays `library` into `folder` under both its names. A program that has it open keeps what it has: a name is moved onto
/// the new file, the old file is never written to.
fn lay(library: &Path, folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).at(folder)?;
    let unfinished = folder.join(format!(".unfinished-{}", process::id()));
    if unfinished.symlink_metadata().is_ok() {
        fs::remove_file(&unfinished).at(&unfinished)?;
    }
    for name in [OPENED_AS, LINKED_AS] {
        if name == LINKED_AS && cfg!(unix) {
            link(Path::new(OPENED_AS), &unfinished)?;
        } else {
            fs::copy(library, &unfinished).at(library)?;
        }
        let place = folder.join(name);
        fs::rename(&unfinished, &place).at(&place)?;
    }
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, name: &Path) -> Result<(), Error> {
    std::os::unix::fs::symlink(target, name).at(name)
}

#[cfg(not(unix))]
fn link(target: &Path, name: &Path) -> Result<(), Error> {
    fs::copy(target, name).map(drop).at(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, kind: &str, file: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","target":{{"name":"{name}","crate_types":["{kind}"]}},"filenames":["{file}"]}}"#
        )
    }

    #[test]
    fn the_library_is_found_among_what_cargo_made() {
        let library = message("cuda", "cdylib", "/t/release/libcuda.so");
        let others = [message("ptxvm", "lib", "/t/libptxvm.rlib"), message("cuda", "lib", "/t/libcuda.rlib")];
        let messages = format!("not json\n{}\n{library}\n{{\"reason\":\"build-finished\"}}\n", others.join("\n"));
        assert_eq!(artifact(&messages), Some(PathBuf::from("/t/release/libcuda.so")));
        assert_eq!(artifact(&others.join("\n")), None);
    }

    #[test]
    fn a_library_is_laid_under_both_names_beside_one_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let (library, place) = (folder.path().join("built.so"), folder.path().join("ptxvm"));
        fs::write(&library, "first").expect("a library");
        lay(&library, &place).expect("laid");
        let mut open = fs::File::open(place.join(OPENED_AS)).expect("there");
        fs::write(&library, "second").expect("a library");
        lay(&library, &place).expect("laid over the first");
        for name in [OPENED_AS, LINKED_AS] {
            assert_eq!(fs::read_to_string(place.join(name)).expect("there"), "second");
        }
        assert_eq!(std::io::read_to_string(&mut open).expect("still there"), "first");
        assert_eq!(fs::read_dir(&place).expect("a folder").count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_takes_the_export_line_whatever_the_folder_is_called() {
        let line = export(Path::new("/it's a $HOME"));
        let run = |before: Option<&str>| {
            let mut shell = process::Command::new("sh");
            shell.args(["-c", &format!("{line}; printf %s \"${SEARCHED}\"")]).env_remove(SEARCHED);
            let output = shell.envs(before.map(|before| (SEARCHED, before))).output().expect("a shell");
            String::from_utf8(output.stdout).expect("text")
        };
        assert_eq!(run(None), "/it's a $HOME");
        assert_eq!(run(Some("/before")), "/it's a $HOME:/before");
    }

    #[test]
    fn tests_search_the_library_first_then_nvrtc() {
        let environment = environment(Path::new("/laid")).expect("an environment");
        let value = |name| environment.iter().find(|entry| entry.0 == name).map(|entry| entry.1.clone());
        let searched: Vec<_> = env::split_paths(&value(SEARCHED).expect("set")).collect();
        assert_eq!(searched[..2], [PathBuf::from("/laid"), NVRTC.place().join("lib")]);
        assert_eq!(value("PTXVM_TEST_LIBRARY"), Some("/laid".into()));
        assert_eq!(value("PTXVM_TEST_NVRTC12"), Some(NVRTC_12.place().into()));
    }
}

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
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
};

/// What the tests of ptxvm compile and judge kernels with.
pub(crate) const NEEDED: [&Library; 3] = [&NVRTC, &NVRTC_12, &CUDA_TOOLS];

const LIBRARY: &str = "ptxvm-libcuda";
const COMMAND: &str = "ptxvm";
/// The name under which programs are linked with the CUDA driver, and the one that they open at run time.
const LINKED_AS: &str = "libcuda.so";
const OPENED_AS: &str = "libcuda.so.1";
const SEARCHED: &str = "LD_LIBRARY_PATH";

/// Builds the library and lays it beside cargo's own output. Returns the folder.
pub(crate) fn build() -> Result<PathBuf, Error> {
    built(&[LIBRARY]).map(|(folder, _)| folder)
}

/// Builds the library and the command `ptxvm`, which finds the library beside itself. Returns the folder of both.
pub(crate) fn build_all() -> Result<PathBuf, Error> {
    let (folder, messages) = built(&[LIBRARY, COMMAND])?;
    let command = executable(&messages, COMMAND).ok_or(Error::Artifact { package: COMMAND })?;
    lay(&command, &folder, command.file_name().unwrap_or_default())?;
    Ok(folder)
}

/// Builds `packages`, lays the library, and returns its folder and what cargo said.
fn built(packages: &[&str]) -> Result<(PathBuf, String), Error> {
    let messages = String::from_utf8_lossy(&step_output(&mut build_command(packages))?).into_owned();
    Ok((lay_built(&messages)?, messages))
}

/// The command that builds the library and says what it made.
pub(crate) fn build_library() -> Command {
    build_command(&[LIBRARY])
}

fn build_command(packages: &[&str]) -> Command {
    let mut command = cargo(&["build", "--release", "--message-format=json-render-diagnostics"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    command
}

/// Lays the library that cargo says it made, and returns the folder.
pub(crate) fn lay_built(messages: &str) -> Result<PathBuf, Error> {
    let library = library(messages).ok_or(Error::Artifact { package: LIBRARY })?;
    let profiles = library.parent().and_then(Path::parent).ok_or(Error::Artifact { package: LIBRARY })?;
    let folder = profiles.join("ptxvm");
    lay_library(&library, &folder)?;
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
    let nvrtc = NVRTC.place().join("lib").into_os_string();
    let places = NEEDED.map(|library| (library.variable, library.place().into_os_string()));
    Ok([(SEARCHED, searched), ("PTXVM_TEST_LIBRARY", folder.into()), ("SEGFACE_NVRTC", nvrtc)]
        .into_iter()
        .chain(places)
        .collect())
}

/// Which file cargo says it made of the library.
fn library(messages: &str) -> Option<PathBuf> {
    let mut made = artifacts(messages, "cuda", "cdylib");
    made.find_map(|message| message["filenames"][0].as_str().map(PathBuf::from))
}

/// Which file cargo says it made of the program `name`.
pub(crate) fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    artifacts(messages, name, "bin").find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// What cargo said about targets of that name and kind.
fn artifacts<'a>(messages: &'a str, name: &'a str, kind: &'a str) -> impl Iterator<Item = Value> + 'a {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter(move |message| {
        let kinds = message["target"]["crate_types"].as_array();
        message["reason"] == "compiler-artifact"
            && message["target"]["name"] == name
            && kinds.is_some_and(|kinds| kinds.iter().any(|found| found == kind))
    })
}

/// Lays `library` into `folder` under both its names.
fn lay_library(library: &Path, folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).at(folder)?;
    lay(library, folder, OPENED_AS.as_ref())?;
    let unfinished = unfinished(folder)?;
    link(&folder.join(OPENED_AS), &unfinished)?;
    let place = folder.join(LINKED_AS);
    fs::rename(&unfinished, &place).at(&place)
}

/// Lays `file` into `folder` as `name`. A program that has that open keeps what it has: the name is moved onto the new
/// file, the old one is never written to.
fn lay(file: &Path, folder: &Path, name: &OsStr) -> Result<(), Error> {
    let unfinished = unfinished(folder)?;
    fs::copy(file, &unfinished).at(file)?;
    let place = folder.join(name);
    fs::rename(&unfinished, &place).at(&place)
}

/// A name in `folder` that nothing has.
fn unfinished(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join(format!(".unfinished-{}", process::id()));
    if path.symlink_metadata().is_ok() {
        fs::remove_file(&path).at(&path)?;
    }
    Ok(path)
}

/// Makes `name` another name of the file `target` in the same folder.
#[cfg(unix)]
fn link(target: &Path, name: &Path) -> Result<(), Error> {
    std::os::unix::fs::symlink(target.file_name().unwrap_or_default(), name).at(name)
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
        assert_eq!(super::library(&messages), Some(PathBuf::from("/t/release/libcuda.so")));
        assert_eq!(super::library(&others.join("\n")), None);
    }

    #[test]
    fn the_command_is_found_among_what_cargo_made() {
        let library = message("ptxvm", "lib", "/t/libptxvm.rlib");
        let command = r#"{"reason":"compiler-artifact","target":{"name":"ptxvm","crate_types":["bin"]},"executable":"/t/release/ptxvm"}"#;
        assert_eq!(executable(&format!("{library}\n{command}\n"), COMMAND), Some(PathBuf::from("/t/release/ptxvm")));
        assert_eq!(executable(&library, COMMAND), None);
    }

    #[test]
    fn a_library_is_laid_under_both_names_beside_one_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let (library, place) = (folder.path().join("built.so"), folder.path().join("ptxvm"));
        fs::write(&library, "first").expect("a library");
        lay_library(&library, &place).expect("laid");
        let mut open = fs::File::open(place.join(OPENED_AS)).expect("there");
        fs::write(&library, "second").expect("a library");
        lay_library(&library, &place).expect("laid over the first");
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

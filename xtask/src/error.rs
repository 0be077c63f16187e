//! What can keep a task from being done.

use std::{env, io, path::PathBuf, process::ExitStatus};

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: not a readable wheel: {source}; delete it and run again", path.display())]
    Wheel { path: PathBuf, source: zip::result::ZipError },
    #[error("{}: holds nothing under {wanted}: its version must be the pinned one", path.display())]
    Content { path: PathBuf, wanted: &'static str },
    #[error(
        "{}: SHA-256 is {found}, expected {expected}; the download is damaged or not what was pinned: run again, and if \
         that does not help do not use it",
        path.display()
    )]
    Checksum { path: PathBuf, found: String, expected: &'static str },
    #[error(
        "`{python} -m pip` cannot be run ({reason}), and it is what downloads {what}: install Python 3 with pip (Debian: \
         apt install python3-pip), or {remedy}"
    )]
    Pip { python: &'static str, reason: String, what: String, remedy: String },
    #[error("pip could not download {what} (its message is above); what was already fetched is kept, run again")]
    Download { what: String },
    #[error("{name} is not pinned for this platform (only for Linux on x86-64): {remedy}")]
    Platform { name: &'static str, remedy: String },
    #[error("{variable} is {}, but there is no {sign} in it: {variable} must name a folder with {name}", folder.display())]
    Library { variable: &'static str, name: &'static str, folder: PathBuf, sign: &'static str },
    #[error("cargo built {package} without saying where the library is: this version of cargo is not known")]
    Artifact { package: &'static str },
    #[error("{}: programs cannot be made to search this folder: {source}; move the workspace", folder.display())]
    SearchPath { folder: PathBuf, source: env::JoinPathsError },
    #[error("`{command}` cannot be started: {source}")]
    Start { command: String, source: io::Error },
    #[error("not everything could be checked or was right: {phases}; {} says what and why", report.display())]
    Check { phases: String, report: PathBuf },
    #[error("`{command}` failed: {status}")]
    Step { command: String, status: ExitStatus },
}

/// Says which file an input or output error was about.
pub(crate) trait At<T> {
    fn at(self, path: &std::path::Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &std::path::Path) -> Result<T, Error> {
        self.map_err(|source| Error::File { path: path.to_owned(), source })
    }
}

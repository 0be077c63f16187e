//! What can keep a task from being done.

use std::{io, path::PathBuf, process::ExitStatus};

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
         apt install python3-pip), or unpack libtorch {version} for CPU yourself and set LIBTORCH to its folder"
    )]
    Pip { python: &'static str, reason: String, what: String, version: &'static str },
    #[error("pip could not download {what} (its message is above); what was already fetched is kept, run again")]
    Download { what: String },
    #[error(
        "no libtorch is pinned for this platform (only for Linux on x86-64): unpack libtorch {version} for CPU and set \
         LIBTORCH to its folder"
    )]
    Platform { version: &'static str },
    #[error("LIBTORCH is {}, but there is no lib/libtorch_cpu library in it", folder.display())]
    Libtorch { folder: PathBuf },
    #[error("`{command}` cannot be started: {source}")]
    Start { command: String, source: io::Error },
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

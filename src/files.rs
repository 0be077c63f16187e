//! Writing files so that nobody ever sees half of one.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Why a file was not written.
#[derive(Debug)]
pub enum WriteError {
    /// There is a file of that name, which was not to be replaced.
    Exists,
    /// The operating system refused, or the disk is full.
    Io(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        WriteError::Io(error)
    }
}

/// Writes `path` through a temporary file in the same folder, which takes its name only once it is complete and on disk.
/// When anything fails, the temporary is removed and whatever was at `path` is still there.
pub fn write_atomically(
    path: &Path,
    replace: bool,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    if !replace && path.symlink_metadata().is_ok() {
        return Err(WriteError::Exists);
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".segface-").suffix(".tmp");
    // As any new file would be: what the user's umask leaves of it, not the private mode of temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(&folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary);
    content(&mut out)?;
    let temporary = out.into_inner().map_err(|e| e.into_error())?;
    temporary.as_file().sync_all()?;
    if replace {
        // A folder of that name cannot be replaced by a file.
        if fs::metadata(path).is_ok_and(|m| m.is_dir()) {
            return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
        }
        temporary.persist(path).map_err(|e| e.error)?;
    } else {
        temporary.persist_noclobber(path).map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => WriteError::Exists,
            _ => WriteError::Io(e.error),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let failed = write_atomically(&path, true, |out| {
            out.write_all(b"half of the new")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(failed, Err(WriteError::Io(_))));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn an_existing_file_is_only_replaced_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        write_atomically(&path, false, |out| out.write_all(b"first")).unwrap();
        assert!(matches!(write_atomically(&path, false, |out| out.write_all(b"second")), Err(WriteError::Exists)));
        assert_eq!(fs::read(&path).unwrap(), b"first");
        write_atomically(&path, true, |out| out.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[cfg(unix)]
    #[test]
    fn new_files_have_the_mode_of_ordinary_ones() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, false, |_| Ok(())).unwrap();
        fs::write(&plain, "").unwrap();
        assert_eq!(fs::metadata(ours).unwrap().permissions().mode(), fs::metadata(plain).unwrap().permissions().mode());
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("nowhere/out");
        assert!(matches!(write_atomically(&nowhere, false, |_| Ok(())), Err(WriteError::Io(_))));
    }
}

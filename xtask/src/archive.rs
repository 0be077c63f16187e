//! Wheels: checked against their pinned hash, unpacked in part.

use crate::error::{At, Error};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The bits of a Unix mode that let a file be run.
const EXECUTABLE: u32 = 0o111;

/// A wheel of the Python package index, pinned, and what is taken out of it.
pub(crate) struct Wheel {
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    pub(crate) file: &'static str,
    pub(crate) sha256: &'static str,
    /// From where in the wheel (a file, or a folder if it ends in `/`) to which folder.
    pub(crate) take: &'static [(&'static str, &'static str)],
}

impl Wheel {
    /// What pip calls it.
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    /// Whether `folder` holds this wheel. A file of its name with other content is an error.
    pub(crate) fn is_in(&self, folder: &Path) -> Result<bool, Error> {
        let path = folder.join(self.file);
        if !path.exists() {
            return Ok(false);
        }
        let found = sha256(&path)?;
        if found == self.sha256 {
            return Ok(true);
        }
        fs::remove_file(&path).at(&path)?;
        Err(Error::Checksum { path, found, expected: self.sha256 })
    }

    /// Unpacks what is taken from the wheel in `wheels` under `target`.
    pub(crate) fn unpack(&self, wheels: &Path, target: &Path) -> Result<(), Error> {
        let path = wheels.join(self.file);
        let wheel = |source| Error::Wheel { path: path.clone(), source };
        let mut archive = zip::ZipArchive::new(File::open(&path).at(&path)?).map_err(wheel)?;
        let mut taken = vec![false; self.take.len()];
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(wheel)?;
            let Some(name) = entry.enclosed_name() else { continue };
            let Some((rule, inside)) = entry.is_file().then(|| self.place(&name)).flatten() else { continue };
            taken[rule] = true;
            let out = target.join(inside);
            let folder = out.parent().unwrap_or(target);
            fs::create_dir_all(folder).at(folder)?;
            io::copy(&mut entry, &mut File::create(&out).at(&out)?).at(&out)?;
            if entry.unix_mode().is_some_and(|mode| mode & EXECUTABLE != 0) {
                make_executable(&out)?;
            }
        }
        match taken.iter().position(|&taken| !taken) {
            None => Ok(()),
            Some(rule) => Err(Error::Content { path, wanted: self.take[rule].0 }),
        }
    }

    /// By which rule the file `name` of the wheel is taken, and where it goes.
    fn place(&self, name: &Path) -> Option<(usize, PathBuf)> {
        self.take.iter().enumerate().find_map(|(rule, &(from, to))| {
            let inside = if from.ends_with('/') {
                name.strip_prefix(from).ok()?.to_owned()
            } else if name == Path::new(from) {
                PathBuf::from(name.file_name()?)
            } else {
                return None;
            };
            Some((rule, Path::new(to).join(inside)))
        })
    }
}

/// Whoever may read a program may run it.
#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = fs::metadata(path).at(path)?.permissions();
    let mode = permissions.mode();
    permissions.set_mode(mode | (mode & 0o444) >> 2);
    fs::set_permissions(path, permissions).at(path)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<(), Error> {
    Ok(())
}

fn sha256(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).at(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).at(path)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const WHEEL: Wheel = Wheel {
        package: "example",
        version: "1.0",
        file: "example-1.0.whl",
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        take: &[("pkg/include/", "include"), ("pkg/lib/a.so", "lib")],
    };

    fn write_wheel(folder: &Path, names: &[&str]) {
        let mut writer = zip::ZipWriter::new(File::create(folder.join(WHEEL.file)).expect("a file"));
        for name in names {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).expect("an entry");
            writer.write_all(name.as_bytes()).expect("content");
        }
        writer.finish().expect("a wheel");
    }

    #[test]
    fn only_what_is_asked_for_is_unpacked() {
        let folder = tempfile::tempdir().expect("a folder");
        write_wheel(folder.path(), &["pkg/include/x/y.h", "pkg/lib/a.so", "pkg/lib/b.so", "../escape"]);
        let target = folder.path().join("out");
        WHEEL.unpack(folder.path(), &target).expect("unpacks");
        assert_eq!(fs::read(target.join("include/x/y.h")).expect("taken"), b"pkg/include/x/y.h");
        assert!(target.join("lib/a.so").exists() && !target.join("lib/b.so").exists());
        assert!(!folder.path().join("escape").exists());
    }

    #[cfg(unix)]
    #[test]
    fn only_programs_can_be_run() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = zip::ZipWriter::new(File::create(folder.path().join(WHEEL.file)).expect("a file"));
        for (name, mode) in [("pkg/include/program", 0o744), ("pkg/lib/a.so", 0o644)] {
            let options = zip::write::SimpleFileOptions::default().unix_permissions(mode);
            writer.start_file(name, options).expect("an entry");
        }
        writer.finish().expect("a wheel");
        let target = folder.path().join("out");
        WHEEL.unpack(folder.path(), &target).expect("unpacks");
        let mode = |path| fs::metadata(target.join(path)).expect("unpacked").permissions().mode();
        assert_eq!(mode("include/program") & EXECUTABLE, (mode("lib/a.so") & 0o444) >> 2);
        assert_eq!(mode("lib/a.so") & EXECUTABLE, 0);
    }

    #[test]
    fn a_wheel_that_lacks_a_part_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        write_wheel(folder.path(), &["pkg/include/x.h"]);
        let error = WHEEL.unpack(folder.path(), &folder.path().join("out")).expect_err("no library");
        assert!(error.to_string().contains("pkg/lib/a.so"), "{error}");
    }

    #[test]
    fn a_truncated_wheel_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        write_wheel(folder.path(), &["pkg/include/x.h", "pkg/lib/a.so"]);
        let path = folder.path().join(WHEEL.file);
        let bytes = fs::read(&path).expect("written");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("cut");
        assert!(matches!(WHEEL.unpack(folder.path(), &folder.path().join("out")), Err(Error::Wheel { .. })));
    }

    #[test]
    fn the_hash_decides_whether_a_wheel_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!WHEEL.is_in(folder.path()).expect("nothing there"));
        fs::write(folder.path().join(WHEEL.file), "abc").expect("written");
        assert!(WHEEL.is_in(folder.path()).expect("the pinned content"));
        fs::write(folder.path().join(WHEEL.file), "abd").expect("written");
        assert!(matches!(WHEEL.is_in(folder.path()), Err(Error::Checksum { .. })));
        assert!(!WHEEL.is_in(folder.path()).expect("the damaged file is gone"));
    }
}

//! Where results go.

use super::ImageError;
use crate::files::{WriteError, write_atomically};
use std::{
    collections::HashSet,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The files made of one photo: `<name>.labels.png`, `<name>.overlay.png`, `<name>.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputNames {
    /// Indexed PNG of class ids.
    pub labels: PathBuf,
    /// RGB PNG to look at.
    pub overlay: PathBuf,
    /// Summary, written last: where it is, the others are complete.
    pub summary: PathBuf,
}

impl OutputNames {
    /// Names in `folder` for each of `photos`, in order. A name is the photo's without ending; where two photos would share it
    /// (also if they differ in case only, which some file systems ignore), the later ones get `-2`, `-3`, … A photo whose own name
    /// is `a-2` keeps it.
    pub fn for_photos(folder: &Path, photos: &[PathBuf]) -> Vec<OutputNames> {
        let stems: Vec<String> =
            photos.iter().map(|p| p.file_stem().unwrap_or_default().to_string_lossy().into_owned()).collect();
        let own: HashSet<String> = stems.iter().map(|stem| stem.to_lowercase()).collect();
        let mut taken = HashSet::new();
        stems
            .iter()
            .map(|stem| {
                let mut name = stem.clone();
                if !taken.insert(name.to_lowercase()) {
                    name = (2..)
                        .map(|number| format!("{stem}-{number}"))
                        .find(|name| !own.contains(&name.to_lowercase()) && taken.insert(name.to_lowercase()))
                        .unwrap_or_else(|| stem.clone());
                }
                let file = |ending: &str| folder.join(format!("{name}.{ending}"));
                OutputNames { labels: file("labels.png"), overlay: file("overlay.png"), summary: file("json") }
            })
            .collect()
    }
}

/// Makes the folder for results, if it is not there, and checks that files can be made in it: before the network is loaded, not
/// after the first photo.
///
/// # Errors
/// [`ImageError::Write`] with the system's reason.
pub fn prepare_output_folder(folder: &Path) -> Result<(), ImageError> {
    let tried = std::fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder).map(drop));
    tried.map_err(|source| ImageError::Write { path: folder.into(), source })
}

/// Writes a result, whole or not at all; replaces an earlier one.
///
/// # Errors
/// [`ImageError::Write`] with the path and the system's reason: no permission, disk full, no such folder.
pub fn write_output(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), ImageError> {
    write_atomically(path, true, content).map_err(|error| {
        let source = match error {
            WriteError::Io(source) => source,
            WriteError::Exists => io::ErrorKind::AlreadyExists.into(),
        };
        ImageError::Write { path: path.into(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn names_are_the_photos_own_and_never_shared() {
        let photos = ["x/a.jpg", "y/a.png", "a-2.jpg", "A.webp", "b.tar.jpg", "z/a.jpg"].map(PathBuf::from);
        let names: Vec<String> = OutputNames::for_photos(Path::new("out"), &photos)
            .into_iter()
            .map(|n| n.summary.to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            names,
            ["out/a.json", "out/a-3.json", "out/a-2.json", "out/A-4.json", "out/b.tar.json", "out/a-5.json"]
        );
    }

    #[test]
    fn an_output_folder_is_made_and_tried() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        prepare_output_folder(&deep).unwrap();
        prepare_output_folder(&deep).unwrap();
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
        fs::write(folder.path().join("file"), "").unwrap();
        for path in [folder.path().join("file"), folder.path().join("file/below")] {
            let error = prepare_output_folder(&path).unwrap_err();
            assert!(matches!(&error, ImageError::Write { path: at, .. } if *at == path), "{error}");
        }
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.labels.png");
        let error = write_output(&path, |out| {
            out.write_all(&[0; 100_000])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.labels.png"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("out"), "").unwrap();
        let path = folder.path().join("out/a.json");
        let error = write_output(&path, |out| out.write_all(b"{}")).unwrap_err();
        assert!(matches!(&error, ImageError::Write { path: at, .. } if *at == path), "{error}");
    }
}

//! Which photos a command means: files, folders, patterns.

use super::ImageError;
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

/// Endings by which a folder's photos are told from its other files; compared without case. A file named on the command line is
/// read whatever its name.
pub const IMAGE_EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// The photos that some arguments mean, and the arguments that mean none.
#[derive(Debug, Default)]
pub struct Inputs {
    /// Files in the order of the arguments; those of one folder or pattern sorted by path; each once.
    pub files: Vec<PathBuf>,
    /// Arguments that gave nothing, and why.
    pub failures: Vec<(PathBuf, ImageError)>,
}

/// Expands arguments to files.
///
/// - A folder means the photos directly inside it (by extension, hidden files left out), not those of folders within.
/// - An argument that names nothing but has one of `* ? [` is a pattern: `photos/*.jpg`, `photos/**/*.png`. Shells expand patterns
///   themselves unless they are quoted.
/// - Anything else is a file, even if it does not exist: it then fails where the others succeed.
pub fn expand_inputs(arguments: &[PathBuf]) -> Inputs {
    let mut inputs = Inputs::default();
    let mut seen = HashSet::new();
    for argument in arguments {
        match expand(argument) {
            Ok(files) => inputs.files.extend(files.into_iter().filter(|file| seen.insert(file.clone()))),
            Err(error) => inputs.failures.push((argument.clone(), error)),
        }
    }
    inputs
}

fn expand(argument: &Path) -> Result<Vec<PathBuf>, ImageError> {
    if argument.is_dir() {
        return folder(argument);
    }
    match argument.to_str() {
        Some(pattern) if !argument.exists() && pattern.contains(['*', '?', '[']) => {
            let found = glob::glob(pattern).map_err(ImageError::Pattern)?;
            // Unreadable folders on the way are passed over, as shells do; a folder that matches stands for itself no more than there.
            let mut files: Vec<PathBuf> = found.flatten().filter(|path| !path.is_dir()).collect();
            files.sort();
            if files.is_empty() { Err(ImageError::NoMatch) } else { Ok(files) }
        }
        _ => Ok(vec![argument.to_owned()]),
    }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(ImageError::Read)? {
        let entry = entry.map_err(ImageError::Read)?;
        let file = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let image = file
            .extension()
            .is_some_and(|ending| IMAGE_EXTENSIONS.iter().any(|known| ending.eq_ignore_ascii_case(known)));
        if image && !hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() { Err(ImageError::EmptyFolder) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(inputs: &Inputs, base: &Path) -> Vec<String> {
        inputs.files.iter().map(|f| f.strip_prefix(base).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_folder_means_its_own_photos_in_order() {
        let folder =
            folder_of(&["b.JPG", "a.png", "c.jpeg", "d.webp", "notes.txt", ".hidden.jpg", "inner/e.jpg", "f.gif"]);
        fs::create_dir(folder.path().join("looks_like.jpg")).unwrap();
        let inputs = expand_inputs(&[folder.path().into()]);
        assert_eq!(names(&inputs, folder.path()), ["a.png", "b.JPG", "c.jpeg", "d.webp"]);
        assert!(inputs.failures.is_empty());
    }

    #[test]
    fn patterns_files_and_repetitions() {
        let folder = folder_of(&["b.jpg", "a.jpg", "c.txt", "inner/d.jpg", "odd[1].jpg"]);
        let at = |name: &str| folder.path().join(name);
        let inputs = expand_inputs(&[
            at("b.jpg"),
            at("*.jpg"),
            at("odd[1].jpg"),
            at("missing.jpg"),
            at("**/d.jpg"),
            at("b.jpg"),
        ]);
        assert_eq!(names(&inputs, folder.path()), ["b.jpg", "a.jpg", "odd[1].jpg", "missing.jpg", "inner/d.jpg"]);
        assert!(inputs.failures.is_empty());
    }

    #[test]
    fn arguments_that_mean_nothing_are_named() {
        let folder = folder_of(&["notes.txt"]);
        let inputs = expand_inputs(&[folder.path().into(), folder.path().join("*.png"), folder.path().join("***.png")]);
        assert!(inputs.files.is_empty());
        assert!(matches!(
            &inputs.failures[..],
            [(_, ImageError::EmptyFolder), (_, ImageError::NoMatch), (_, ImageError::Pattern(_))]
        ));
    }
}

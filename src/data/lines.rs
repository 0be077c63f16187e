//! Lists as text, one entry a line.

use super::DataError;
use std::{fs, path::Path};

/// The whole of a text file. Bytes that are no UTF-8 become �, and are then wrong where they matter.
pub(super) fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(|reason| DataError::Read { path: path.into(), reason })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines that are not blank, with their numbers from 1.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())).filter(|(_, line)| !line.is_empty())
}

/// Finite numbers as `[x, y]` pairs.
///
/// # Errors
/// A word that is no finite number, as a sentence.
pub(super) fn pairs<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<[f32; 2]>, String> {
    let numbers: Vec<f32> = words
        .map(|word| {
            let number: Option<f32> = word.parse().ok().filter(|v: &f32| v.is_finite());
            number.ok_or_else(|| format!("`{word}` is no coordinate; expected finite numbers"))
        })
        .collect::<Result<_, _>>()?;
    Ok(numbers.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
}

/// File names of a folder that end in `ending`, without it, sorted; hidden files left out.
pub(super) fn stems(folder: &Path, ending: &str) -> Result<Vec<String>, DataError> {
    let failed = |reason| DataError::Read { path: folder.into(), reason };
    let mut stems = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(ending).filter(|stem| !stem.is_empty() && !stem.starts_with('.')) {
            stems.push(stem.to_owned());
        }
    }
    stems.sort();
    Ok(stems)
}

//! LaPa: `{train,val,test}/{images/<name>.jpg, labels/<name>.png, landmarks/<name>.txt}`; landmarks are the number 106 and 106 pairs.

use super::lines::{numbered, pairs, read_text};
use super::{DataError, Split};
use std::path::{Path, PathBuf};

pub(super) fn folder(root: &Path, split: Split, kind: &str) -> PathBuf {
    root.join(split.name()).join(kind)
}

pub(super) fn file(root: &Path, split: Split, kind: &str, name: &str) -> PathBuf {
    let ending = match kind {
        "images" => "jpg",
        "labels" => "png",
        _ => "txt",
    };
    folder(root, split, kind).join(format!("{name}.{ending}"))
}

/// Reads the 106 landmarks of one image.
pub(super) fn landmarks(path: &Path) -> Result<Vec<[f32; 2]>, DataError> {
    let text = read_text(path)?;
    let bad = |reason: String| DataError::File { path: path.into(), reason };
    let first =
        text.split_whitespace().next().ok_or_else(|| bad("no landmarks; expected 106 and as many pairs".into()))?;
    if first.parse::<f32>().ok() != Some(106.0) {
        return Err(bad(format!("it begins with `{first}`; expected the number of landmarks, 106")));
    }
    let words = text.split_whitespace().count() - 1;
    if words != 2 * 106 {
        return Err(bad(format!("{words} coordinates after the number 106; expected 212")));
    }
    pairs(text.split_whitespace().skip(1)).map_err(|reason| match line_of(&text) {
        Some(line) => DataError::Line { path: path.into(), line, reason },
        None => bad(reason),
    })
}

/// The first line with a word that is no finite number.
fn line_of(text: &str) -> Option<usize> {
    numbered(text).find(|(_, line)| pairs(line.split_whitespace()).is_err()).map(|(number, _)| number)
}

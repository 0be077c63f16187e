//! Helen, relabelled: `{train,test}/<name>_image.jpg`, `<name>_label.png`, and `landmarks.txt`, on each line 136 numbers (68 pairs at twice the
//! image's scale), then the name. There is no validation split: the published code validates on the test split.

use super::lines::{numbered, pairs, read_text};
use super::{DataError, Split};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub(super) const LANDMARKS: &str = "landmarks.txt";
pub(super) const IMAGE_ENDING: &str = "_image.jpg";
pub(super) const LABEL_ENDING: &str = "_label.png";

pub(super) fn folder(root: &Path, split: Split) -> PathBuf {
    root.join(if split == Split::Train { "train" } else { "test" })
}

/// Landmarks in pixels of the image, by name. Lines that are wrong go to `problems`.
pub(super) fn landmarks(
    root: &Path,
    problems: &mut Vec<DataError>,
) -> Result<HashMap<String, Vec<[f32; 2]>>, DataError> {
    let path = root.join(LANDMARKS);
    let mut faces = HashMap::new();
    for (line, text) in numbered(&read_text(&path)?) {
        let mut wrong = |reason: String| problems.push(DataError::Line { path: path.clone(), line, reason });
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.len() < 137 {
            wrong(format!("{} words; expected 136 numbers and a name", words.len()));
            continue;
        }
        match pairs(words[..136].iter().copied()) {
            Err(reason) => wrong(reason),
            Ok(points) => {
                let halved = points.into_iter().map(|point| point.map(|v| v / 2.0)).collect();
                let name = words[words.len() - 1];
                // As published, a later line counts.
                if faces.insert(name.to_owned(), halved).is_some() {
                    wrong(format!("`{name}` is listed a second time"));
                }
            }
        }
    }
    Ok(faces)
}

//! CelebAMask-HQ: `CelebA-HQ-img/<id>.jpg`, one mask per part in `CelebAMask-HQ-mask-anno/<id / 2000>/<id:05>_<part>.png`, and splits through
//! two lists: `CelebA-HQ-to-CelebA-mapping.txt` (id → file of CelebA) and `list_eval_partition.txt` (file of CelebA → 0, 1, 2).

use super::labels::read_mask;
use super::lines::{numbered, read_text};
use super::{DataError, Split};
use crate::image::LabelMap;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Parts in the order of classes 1 to 18, which is the order they are painted in: later ones cover earlier ones.
pub(super) const PARTS: [&str; 18] = [
    "neck", "skin", "cloth", "l_ear", "r_ear", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "mouth", "l_lip", "u_lip",
    "hair", "eye_g", "hat", "ear_r", "neck_l",
];

pub(super) const IMAGES: &str = "CelebA-HQ-img";
pub(super) const MASKS: &str = "CelebAMask-HQ-mask-anno";
pub(super) const MAPPING: &str = "CelebA-HQ-to-CelebA-mapping.txt";
pub(super) const PARTITION: &str = "list_eval_partition.txt";

/// Images of one folder of masks.
pub(super) const IDS_PER_FOLDER: usize = 2000;

/// Ids by split (0 train, 1 val, 2 test), each in the order of the partition list. Lines that are wrong go to `problems`.
pub(super) fn list(root: &Path, problems: &mut Vec<DataError>) -> Result<[Vec<usize>; 3], DataError> {
    let (mapping, partition) = (root.join(MAPPING), root.join(PARTITION));
    let mut id_of: HashMap<String, usize> = HashMap::new();
    let mut ids = HashSet::new();
    for (line, text) in numbered(&read_text(&mapping)?) {
        // As published: the header, and whatever else names no image, is passed over.
        if !text.contains(".jpg") {
            continue;
        }
        let mut wrong = |reason: String| problems.push(DataError::Line { path: mapping.clone(), line, reason });
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[id, _, file] = &words[..] else {
            wrong(format!("{} words; expected three: idx, orig_idx, orig_file", words.len()));
            continue;
        };
        let Ok(id) = id.parse::<usize>() else {
            wrong(format!("`{id}` is no image number; expected e.g. `0 119613 119614.jpg`"));
            continue;
        };
        if !ids.insert(id) {
            wrong(format!("image {id} is listed a second time"));
        } else if id_of.insert(file.to_owned(), id).is_some() {
            wrong(format!("{file} is listed a second time"));
        }
    }
    let mut splits = [const { Vec::new() }; 3];
    let mut dealt = HashSet::new();
    for (line, text) in numbered(&read_text(&partition)?) {
        if !text.contains(".jpg") {
            continue;
        }
        let mut wrong = |reason: String| problems.push(DataError::Line { path: partition.clone(), line, reason });
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[file, group] = &words[..] else {
            wrong(format!("{} words; expected two: orig_file and 0 (train), 1 (val) or 2 (test)", words.len()));
            continue;
        };
        let Some(split) = group.parse().ok().and_then(|group: usize| splits.get_mut(group)) else {
            wrong(format!("split `{group}`; expected 0 (train), 1 (val) or 2 (test)"));
            continue;
        };
        // CelebA has 202 599 images, CelebA-HQ 30 000 of them.
        let Some(&id) = id_of.get(file) else { continue };
        if dealt.insert(id) {
            split.push(id);
        } else {
            wrong(format!("{file} is listed a second time"));
        }
    }
    Ok(splits)
}

/// The number of a split in the partition list.
pub(super) fn group(split: Split) -> usize {
    match split {
        Split::Train => 0,
        Split::Val => 1,
        Split::Test => 2,
    }
}

pub(super) fn image(root: &Path, id: usize) -> PathBuf {
    root.join(IMAGES).join(format!("{id}.jpg"))
}

pub(super) fn mask(root: &Path, id: usize, part: &str) -> PathBuf {
    root.join(MASKS).join((id / IDS_PER_FOLDER).to_string()).join(format!("{id:05}_{part}.png"))
}

/// The masks of an image merged in the published order. Parts without a file are not visible in the picture, but an image without any is
/// an error: the published loader would take it for background only, which is what masks that were not unpacked look like.
pub(super) fn labels(root: &Path, id: usize, problems: &mut Vec<DataError>) -> Option<LabelMap> {
    let mut merged: Option<(LabelMap, PathBuf)> = None;
    let mut broken = false;
    for (index, part) in PARTS.iter().enumerate() {
        let path = mask(root, id, part);
        let mask = match read_mask(&path) {
            Ok(Some(mask)) => mask,
            Ok(None) => continue,
            Err(error) => {
                problems.push(error);
                broken = true;
                continue;
            }
        };
        let class = index as u8 + 1;
        match &mut merged {
            None => {
                let labels = mask.labels.iter().map(|&inside| inside * class).collect();
                merged = Some((LabelMap { labels, ..mask }, path));
            }
            Some((labels, _)) if (labels.width, labels.height) == (mask.width, mask.height) => {
                for (label, inside) in labels.labels.iter_mut().zip(mask.labels) {
                    *label = if inside == 1 { class } else { *label };
                }
            }
            Some((labels, first)) => {
                let reason = format!(
                    "{}x{} pixels, but {} has {}x{}; masks of one image must have one size",
                    mask.width,
                    mask.height,
                    first.display(),
                    labels.width,
                    labels.height
                );
                problems.push(DataError::File { path, reason });
                broken = true;
            }
        }
    }
    if merged.is_none() && !broken {
        let path = mask(root, id, "skin");
        let reason = format!("image {id} has no mask of any part; expected {id:05}_skin.png and others there");
        problems.push(DataError::File { path, reason });
    }
    merged.filter(|_| !broken).map(|(labels, _)| labels)
}

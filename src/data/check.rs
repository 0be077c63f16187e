//! `segface data check`: everything that is wrong with a whole folder.

use super::celeb::{self, IDS_PER_FOLDER, PARTS};
use super::{DataError, Dataset, IGNORE, Split, helen, lapa, lines};
use rayon::prelude::*;
use segface_codegen::Variant;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a split holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitReport {
    /// Which split.
    pub split: Split,
    /// Images it lists, usable or not.
    pub images: usize,
    /// Pixels of each class, over all label maps that could be read.
    pub pixels: Vec<u64>,
    /// Images in which each class occurs.
    pub images_with: Vec<usize>,
    /// Pixels labelled [`IGNORE`].
    pub ignored: u64,
}

/// What a folder holds and what is wrong with it.
#[derive(Debug)]
pub struct FolderReport {
    /// Its layout.
    pub dataset: Variant,
    /// The splits that could be listed. Helen's `val` is its `test` and not repeated.
    pub splits: Vec<SplitReport>,
    /// Everything wrong: lists first, then images split by split, then files that belong to nothing.
    pub problems: Vec<DataError>,
}

/// Reads a whole folder with `threads` threads: every list, image, label map and landmarks file. `progress(done, total)` is called, from any
/// thread, after each image.
pub fn check_folder(
    dataset: Variant,
    root: &Path,
    threads: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> FolderReport {
    let mut problems = Vec::new();
    let mut opened = Vec::new();
    for split in Split::ALL {
        if dataset == Variant::Helen && split == Split::Val {
            continue;
        }
        let mut wrong = Vec::new();
        match Dataset::list(dataset, root, split, &mut wrong) {
            Ok(dataset) => opened.push(dataset),
            Err(error) => wrong.push(error),
        }
        problems.extend(wrong);
    }
    // Lists are read once per split: their problems, and a missing folder's, would come as often.
    let mut seen = HashSet::new();
    problems.retain(|problem| seen.insert(problem.to_string()));
    // A list whose layout is missing says nothing about its images.
    let total = opened.iter().map(Dataset::len).sum();
    let done = AtomicUsize::new(0);
    let count = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let mut splits = Vec::new();
    let check = |splits: &mut Vec<SplitReport>, problems: &mut Vec<DataError>| {
        for dataset in &opened {
            let (report, wrong) = check_images(dataset, &count);
            splits.push(report);
            problems.extend(wrong);
            problems.extend(strays(dataset));
        }
        if dataset == Variant::Celeb && !opened.is_empty() {
            problems.extend(celeb_strays(root));
        }
    };
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(|| check(&mut splits, &mut problems)),
        // Without threads of our own, in rayon's common ones.
        Err(_) => check(&mut splits, &mut problems),
    }
    FolderReport { dataset, splits, problems }
}

/// Pixels per value of one label map.
type Histogram = [u64; 256];

fn check_images(dataset: &Dataset, count: &(dyn Fn() + Sync)) -> (SplitReport, Vec<DataError>) {
    let results: Vec<(Option<Histogram>, Vec<DataError>)> = (0..dataset.len())
        .into_par_iter()
        .map(|index| {
            let mut problems = Vec::new();
            let (raw, labels) = dataset.inspect(index, &mut problems);
            let labels = raw.map(|raw| raw.labels).or(labels);
            let histogram = labels.map(|map| {
                let mut counts = [0; 256];
                map.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
                counts
            });
            count();
            (histogram, problems)
        })
        .collect();
    let classes = dataset.variant().classes().len();
    let mut report = SplitReport {
        split: dataset.split(),
        images: dataset.len(),
        pixels: vec![0; classes],
        images_with: vec![0; classes],
        ignored: 0,
    };
    let mut problems = Vec::new();
    for (histogram, wrong) in results {
        problems.extend(wrong);
        let Some(counts) = histogram else { continue };
        for class in 0..classes {
            report.pixels[class] += counts[class];
            report.images_with[class] += usize::from(counts[class] > 0);
        }
        report.ignored += counts[usize::from(IGNORE)];
    }
    (report, problems)
}

/// Label and landmarks files of LaPa and Helen without an image.
fn strays(dataset: &Dataset) -> Vec<DataError> {
    let (root, split) = (dataset.root(), dataset.split());
    let names: HashSet<String> = (0..dataset.len()).map(|index| dataset.name(index)).collect();
    let kinds = match dataset.variant() {
        Variant::Celeb => vec![],
        Variant::Lapa => vec![
            (lapa::folder(root, split, "labels"), ".png", "label map"),
            (lapa::folder(root, split, "landmarks"), ".txt", "landmarks file"),
        ],
        Variant::Helen => vec![(helen::folder(root, split), helen::LABEL_ENDING, "label map")],
    };
    let mut problems = Vec::new();
    for (folder, ending, what) in kinds {
        // Where the folder is missing, each image has been found without its file.
        for stem in lines::stems(&folder, ending).unwrap_or_default() {
            if !names.contains(&stem) {
                let path = folder.join(format!("{stem}{ending}"));
                problems.push(DataError::File { path, reason: format!("a {what} without an image") });
            }
        }
    }
    problems
}

/// Images of CelebAMask-HQ that no list names, and masks of no image, of no part or in the wrong folder.
fn celeb_strays(root: &Path) -> Vec<DataError> {
    let mut problems = Vec::new();
    let listed: HashSet<usize> = match celeb::list(root, &mut Vec::new()) {
        Ok(splits) => splits.concat().into_iter().collect(),
        Err(_) => return problems,
    };
    let images = root.join(celeb::IMAGES);
    let mut ids = HashSet::new();
    for stem in lines::stems(&images, ".jpg").unwrap_or_default() {
        let path = images.join(format!("{stem}.jpg"));
        let reason = match stem.parse::<usize>() {
            Err(_) => format!("`{stem}` is no image number"),
            Ok(id) => {
                ids.insert(id);
                if listed.contains(&id) {
                    continue;
                }
                format!("in no split: {} and {} do not lead to image {id}", celeb::MAPPING, celeb::PARTITION)
            }
        };
        problems.push(DataError::File { path, reason });
    }
    let masks = root.join(celeb::MASKS);
    for folder in lines::stems(&masks, "").unwrap_or_default() {
        let path = masks.join(&folder);
        if !path.is_dir() {
            continue;
        }
        for stem in lines::stems(&path, ".png").unwrap_or_default() {
            let parsed = stem.split_once('_').and_then(|(id, part)| Some((id.parse::<usize>().ok()?, part)));
            let reason = match parsed {
                Some((_, part)) if !PARTS.contains(&part) => format!("no part is called `{part}`"),
                None => "the name is not <number>_<part>.png".into(),
                Some((id, _)) if !ids.contains(&id) => format!("a mask of image {id}, which is not there"),
                Some((id, _)) if folder != (id / IDS_PER_FOLDER).to_string() => {
                    format!("masks of image {id} belong in folder {}", id / IDS_PER_FOLDER)
                }
                Some(_) => continue,
            };
            problems.push(DataError::File { path: path.join(format!("{stem}.png")), reason });
        }
    }
    problems
}

//! A split of one of the data sets: which images it has, and how one of them is read.

use super::labels::{out_of_range, read_labels};
use super::landmarks::{count, helen_window};
use super::{DataError, celeb, helen, lapa, lines};
use crate::image::{DEFAULT_MAX_PIXELS, LabelMap, Photo, decode_file};
use segface_codegen::Variant;
use segface_kernels::image::Window;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// What networks are trained on.
    Train,
    /// What training is watched with. Helen has none of its own; its test split is taken, as published.
    Val,
    /// What is reported.
    Test,
}

impl Split {
    /// Every split.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Split::ALL.into_iter().find(|split| split.name() == name);
        found.ok_or_else(|| format!("unknown split `{name}`; known are train, val, test"))
    }
}

/// A data set by its published option name (`celebamask_hq`, `lapa`, `helen`) or by the name of its label set.
///
/// # Errors
/// A name that is none, as a sentence.
pub fn dataset_named(name: &str) -> Result<Variant, String> {
    match name {
        "celebamask_hq" => Ok(Variant::Celeb),
        _ => name
            .parse()
            .map_err(|_| format!("unknown data set `{name}`; known are celebamask_hq (or celeb), lapa, helen")),
    }
}

/// The folder of `dataset` below the folder of all data sets, which the published code calls DATA_PATH.
pub fn folder_in(data_path: &Path, dataset: Variant) -> PathBuf {
    data_path.join(match dataset {
        Variant::Celeb => "CelebAMask-HQ",
        Variant::Lapa => "LaPa",
        Variant::Helen => "helen",
    })
}

/// Which of the layouts a folder has.
///
/// # Errors
/// [`DataError::Unrecognised`].
pub fn recognise_folder(root: &Path) -> Result<Variant, DataError> {
    let has = |name: &str| root.join(name).exists();
    let splits = Split::ALL.map(Split::name);
    if has(celeb::MASKS) || has(celeb::MAPPING) {
        Ok(Variant::Celeb)
    } else if splits.iter().any(|split| root.join(split).join("images").is_dir()) {
        Ok(Variant::Lapa)
    } else if has(helen::LANDMARKS) {
        Ok(Variant::Helen)
    } else {
        Err(DataError::Unrecognised { path: root.into() })
    }
}

/// What the folder of a data set holds, in words.
pub(super) fn layout(dataset: Variant) -> &'static str {
    match dataset {
        Variant::Celeb => {
            "CelebA-HQ-img/, CelebAMask-HQ-mask-anno/, CelebA-HQ-to-CelebA-mapping.txt and list_eval_partition.txt"
        }
        Variant::Lapa => "train/, val/ and test/, each with images/, labels/ and landmarks/",
        Variant::Helen => "train/, test/ and landmarks.txt",
    }
}

/// One image as it is stored, with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// The photo.
    pub photo: Photo,
    /// Class ids, or [`super::IGNORE`]. Of the photo's size, but for CelebAMask-HQ, whose masks are half as large.
    pub labels: LabelMap,
    /// LaPa's 106 or Helen's 68 landmarks, in pixels of the photo.
    pub landmarks: Vec<[f32; 2]>,
    /// The part of the photo that is looked at: Helen's square around the face, else all.
    pub window: Window,
}

/// The images of one split of one data set.
#[derive(Debug)]
pub struct Dataset {
    variant: Variant,
    split: Split,
    root: PathBuf,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    /// Image numbers.
    Celeb(Vec<usize>),
    /// Names.
    Lapa(Vec<String>),
    /// Names, and landmarks by name.
    Helen(Vec<String>, HashMap<String, Vec<[f32; 2]>>),
}

impl Dataset {
    /// Lists the images of a split. `root` is the data set's own folder, as published. No image is read.
    ///
    /// Order: CelebAMask-HQ's partition list, else names. (The published LaPa loader takes whatever order the file system gives.)
    ///
    /// # Errors
    /// When the layout is not there, a list has a wrong line, or the split is empty.
    pub fn open(variant: Variant, root: &Path, split: Split) -> Result<Dataset, DataError> {
        let mut problems = Vec::new();
        let dataset = Dataset::list(variant, root, split, &mut problems)?;
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(dataset),
        }
    }

    /// [`Dataset::open`], with wrong lines and an empty split in `problems`.
    pub(super) fn list(
        variant: Variant,
        root: &Path,
        split: Split,
        problems: &mut Vec<DataError>,
    ) -> Result<Dataset, DataError> {
        let need = |path: PathBuf, folder: bool| {
            let there = if folder { path.is_dir() } else { path.is_file() };
            let what = if folder { "folder" } else { "file" };
            if there { Ok(path) } else { Err(DataError::Missing { path, what, dataset: variant }) }
        };
        let root = need(root.into(), true)?;
        let (samples, source, reason) = match variant {
            Variant::Celeb => {
                for (name, folder) in
                    [(celeb::MAPPING, false), (celeb::PARTITION, false), (celeb::IMAGES, true), (celeb::MASKS, true)]
                {
                    need(root.join(name), folder)?;
                }
                let mut splits = celeb::list(&root, problems)?;
                let ids = std::mem::take(&mut splits[celeb::group(split)]);
                let reason = format!("no line gives the group {} to an image of the mapping", celeb::group(split));
                (Samples::Celeb(ids), root.join(celeb::PARTITION), reason)
            }
            Variant::Lapa => {
                let images = need(lapa::folder(&root, split, "images"), true)?;
                let names = lines::stems(&images, ".jpg")?;
                (Samples::Lapa(names), images, "no .jpg file".into())
            }
            Variant::Helen => {
                let images = need(helen::folder(&root, split), true)?;
                need(root.join(helen::LANDMARKS), false)?;
                let names = lines::stems(&images, helen::IMAGE_ENDING)?;
                let faces = helen::landmarks(&root, problems)?;
                (Samples::Helen(names, faces), images, format!("no file NAME{}", helen::IMAGE_ENDING))
            }
        };
        let dataset = Dataset { variant, split, root, samples };
        if dataset.is_empty() {
            problems.push(DataError::EmptySplit { path: source, split, dataset: variant, reason });
        }
        Ok(dataset)
    }

    /// Which data set, and so which classes.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Which split.
    pub fn split(&self) -> Split {
        self.split
    }

    /// The data set's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match &self.samples {
            Samples::Celeb(ids) => ids.len(),
            Samples::Lapa(names) | Samples::Helen(names, _) => names.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of an image: its number in CelebAMask-HQ, else its file's name without ending.
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`]; so for all that take one.
    pub fn name(&self, index: usize) -> String {
        match &self.samples {
            Samples::Celeb(ids) => ids[index].to_string(),
            Samples::Lapa(names) | Samples::Helen(names, _) => names[index].clone(),
        }
    }

    /// The photo's file.
    pub fn image_file(&self, index: usize) -> PathBuf {
        match &self.samples {
            Samples::Celeb(ids) => celeb::image(&self.root, ids[index]),
            Samples::Lapa(names) => lapa::file(&self.root, self.split, "images", &names[index]),
            Samples::Helen(names, _) => self.helen_file(&names[index], helen::IMAGE_ENDING),
        }
    }

    /// Where an image's landmarks come from, or should, for messages.
    pub(super) fn landmarks_file(&self, index: usize) -> PathBuf {
        match &self.samples {
            Samples::Lapa(names) => lapa::file(&self.root, self.split, "landmarks", &names[index]),
            Samples::Helen(..) => self.root.join(helen::LANDMARKS),
            Samples::Celeb(ids) => celeb::image(&self.root, ids[index]),
        }
    }

    fn helen_file(&self, name: &str, ending: &str) -> PathBuf {
        helen::folder(&self.root, self.split).join(format!("{name}{ending}"))
    }

    /// Reads an image with its labels and landmarks.
    ///
    /// # Errors
    /// The first thing that is wrong with its files.
    pub fn read(&self, index: usize) -> Result<Raw, DataError> {
        let mut problems = Vec::new();
        let (raw, _) = self.inspect(index, &mut problems);
        match (problems.into_iter().next(), raw) {
            (None, Some(raw)) => Ok(raw),
            (Some(problem), _) => Err(problem),
            (None, None) => unreachable!("what cannot be read has a problem"),
        }
    }

    /// Reads an image, everything that is wrong with it into `problems`. Labels come also where the rest is unusable.
    pub(super) fn inspect(&self, index: usize, problems: &mut Vec<DataError>) -> (Option<Raw>, Option<LabelMap>) {
        let before = problems.len();
        let image = self.image_file(index);
        let photo = decode_file(&image, DEFAULT_MAX_PIXELS);
        let photo = photo.map_err(|reason| problems.push(DataError::Photo { path: image.clone(), reason })).ok();
        let labels = self.labels(index, problems);
        let landmarks = self.landmarks(index, problems);
        let mut window = None;
        if let Some(photo) = &photo {
            let size = (photo.width, photo.height);
            if let Some((labels, path)) = &labels {
                problems.extend(self.check_sizes(&image, size, path, labels));
            }
            window = Some(Window::whole(photo.width, photo.height));
            if let Some(landmarks) = landmarks.as_ref().filter(|points| !points.is_empty()) {
                problems.extend(self.check_landmarks(index, landmarks, size));
                if self.variant == Variant::Helen {
                    window = helen_window(landmarks, size);
                }
            }
        }
        let labels = labels.map(|(labels, _)| labels);
        if problems.len() > before {
            return (None, labels);
        }
        let raw = photo.zip(labels).zip(landmarks.zip(window));
        (raw.map(|((photo, labels), (landmarks, window))| Raw { photo, labels, landmarks, window }), None)
    }

    /// The labels, and the file to blame for their size.
    fn labels(&self, index: usize, problems: &mut Vec<DataError>) -> Option<(LabelMap, PathBuf)> {
        let path = match &self.samples {
            Samples::Celeb(ids) => {
                let folder = celeb::mask(&self.root, ids[index], "skin");
                return Some((celeb::labels(&self.root, ids[index], problems)?, folder));
            }
            Samples::Lapa(names) => lapa::file(&self.root, self.split, "labels", &names[index]),
            Samples::Helen(names, _) => self.helen_file(&names[index], helen::LABEL_ENDING),
        };
        match read_labels(&path) {
            Err(error) => {
                problems.push(error);
                None
            }
            Ok(labels) => {
                if let Some(reason) = out_of_range(&labels, self.variant.classes().len()) {
                    problems.push(DataError::File { path: path.clone(), reason });
                }
                Some((labels, path))
            }
        }
    }

    /// The landmarks; an empty list for a data set without.
    fn landmarks(&self, index: usize, problems: &mut Vec<DataError>) -> Option<Vec<[f32; 2]>> {
        let found = match &self.samples {
            Samples::Celeb(_) => Ok(Vec::new()),
            Samples::Lapa(_) => lapa::landmarks(&self.landmarks_file(index)),
            Samples::Helen(names, faces) => faces.get(&names[index]).cloned().ok_or_else(|| DataError::File {
                path: self.landmarks_file(index),
                reason: format!(
                    "no line for `{}`, of which there is an image; expected 136 numbers and that name",
                    names[index]
                ),
            }),
        };
        found.map_err(|error| problems.push(error)).ok()
    }

    fn check_sizes(
        &self,
        image: &Path,
        (width, height): (usize, usize),
        path: &Path,
        labels: &LabelMap,
    ) -> Option<DataError> {
        // CelebAMask-HQ's masks are smaller than its photos, but show the same.
        let agree = match self.variant {
            Variant::Celeb => width * labels.height == height * labels.width,
            _ => (width, height) == (labels.width, labels.height),
        };
        if agree {
            return None;
        }
        let reason = format!(
            "{}x{} pixels, but the image {} has {width}x{height}; expected {}",
            labels.width,
            labels.height,
            image.display(),
            if self.variant == Variant::Celeb { "the same shape" } else { "the same size" }
        );
        Some(DataError::File { path: path.into(), reason })
    }

    /// Faces may be cut off by the border, so points may lie outside, but not further than the photo is large.
    fn check_landmarks(
        &self,
        index: usize,
        landmarks: &[[f32; 2]],
        (width, height): (usize, usize),
    ) -> Option<DataError> {
        debug_assert_eq!(landmarks.len(), count(self.variant));
        let far = |v: f32, side: usize| v < -(side as f32) || v > 2.0 * side as f32;
        let outside = landmarks.iter().position(|point| far(point[0], width) || far(point[1], height));
        let name = self.name(index);
        let reason = match outside {
            Some(which) => {
                let [x, y] = landmarks[which];
                format!(
                    "landmark {which} of `{name}` is ({x}, {y}), far outside of its image of {width}x{height} pixels"
                )
            }
            None if self.variant == Variant::Helen && helen_window(landmarks, (width, height)).is_none() => {
                format!("the landmarks of `{name}` lie outside of its image of {width}x{height} pixels")
            }
            None => return None,
        };
        Some(DataError::File { path: self.landmarks_file(index), reason })
    }
}

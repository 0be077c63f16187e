//! Small folders in each of the three layouts, made anew by every test that wants one: drawn faces with exact labels and landmarks.
//!
//! Images are PNG inside although they are called .jpg, which readers tell by content: nothing is lost, so tests know every pixel. Other test
//! crates use this file through `#[path]`.

#![allow(dead_code, reason = "each test program uses its part of it")]

use std::fs;
use std::path::{Path, PathBuf};

/// A face drawn into a picture of (width, height): everything about it is a function of a number.
pub(crate) struct Face {
    pub(crate) width: usize,
    pub(crate) height: usize,
    number: u32,
    center: [f64; 2],
    size: [f64; 2],
}

/// CelebAMask-HQ's parts in the order of classes 1 to 18.
pub(crate) const PARTS: [&str; 18] = [
    "neck", "skin", "cloth", "l_ear", "r_ear", "l_brow", "r_brow", "l_eye", "r_eye", "nose", "mouth", "l_lip", "u_lip",
    "hair", "eye_g", "hat", "ear_r", "neck_l",
];

/// LaPa's and Helen's class of each of these parts (its 19th, the background, is 0); what they do not have is background.
const ELEVEN: [u8; 18] = [0, 1, 0, 1, 1, 3, 2, 5, 4, 6, 8, 9, 7, 10, 0, 0, 0, 0];

impl Face {
    pub(crate) fn new(number: u32, width: usize, height: usize) -> Face {
        let wobble = |salt: u32| f64::from(mix(number * 16 + salt) % 1000) / 1000.0 - 0.5;
        let (w, h) = (width as f64, height as f64);
        Face {
            width,
            height,
            number,
            center: [w * (0.5 + 0.1 * wobble(0)), h * (0.5 + 0.1 * wobble(1))],
            size: [w * (0.3 + 0.06 * wobble(2)), h * (0.34 + 0.06 * wobble(3))],
        }
    }

    /// Whether part `class` (1 to 18) covers a pixel. Parts overlap; later ones count.
    fn covers(&self, class: usize, x: usize, y: usize) -> bool {
        let u = (x as f64 + 0.5 - self.center[0]) / self.size[0];
        let v = (y as f64 + 0.5 - self.center[1]) / self.size[1];
        let oval = |cu: f64, cv: f64, ru: f64, rv: f64| ((u - cu) / ru).powi(2) + ((v - cv) / rv).powi(2) < 1.0;
        let bar = |cu: f64, cv: f64, ru: f64, rv: f64| (u - cu).abs() < ru && (v - cv).abs() < rv;
        match class {
            1 => bar(0.0, 1.0, 0.4, 0.4),
            2 => oval(0.0, 0.0, 0.8, 1.0),
            3 => v > 1.2,
            4 => oval(0.85, 0.0, 0.15, 0.25),
            5 => oval(-0.85, 0.0, 0.15, 0.25),
            6 => bar(0.35, -0.42, 0.22, 0.07),
            7 => bar(-0.35, -0.42, 0.22, 0.07),
            8 => oval(0.35, -0.2, 0.16, 0.1),
            9 => oval(-0.35, -0.2, 0.16, 0.1),
            10 => oval(0.0, 0.15, 0.14, 0.22),
            11 => oval(0.0, 0.55, 0.24, 0.1),
            12 => oval(0.0, 0.65, 0.24, 0.08),
            13 => oval(0.0, 0.46, 0.24, 0.08),
            14 => oval(0.0, -0.85, 0.85, 0.35),
            15 => {
                self.number % 3 == 1
                    && (oval(0.35, -0.2, 0.25, 0.17) || oval(-0.35, -0.2, 0.25, 0.17))
                    && !oval(0.35, -0.2, 0.2, 0.13)
                    && !oval(-0.35, -0.2, 0.2, 0.13)
            }
            16 => self.number % 3 == 2 && bar(0.0, -1.1, 0.9, 0.25),
            17 => self.number.is_multiple_of(2) && oval(0.9, 0.32, 0.09, 0.09),
            _ => self.number % 2 == 1 && bar(0.0, 1.1, 0.4, 0.06),
        }
    }

    fn map(&self, of: impl Fn(usize, usize) -> u8) -> Vec<u8> {
        (0..self.width * self.height).map(|at| of(at % self.width, at / self.width)).collect()
    }

    /// CelebAMask-HQ's mask of one part, 0 or 255.
    pub(crate) fn mask(&self, class: usize) -> Vec<u8> {
        self.map(|x, y| if self.covers(class, x, y) { 255 } else { 0 })
    }

    /// CelebAMask-HQ's 19 classes.
    pub(crate) fn nineteen(&self) -> Vec<u8> {
        self.map(|x, y| (1..=18).rev().find(|&class| self.covers(class, x, y)).unwrap_or(0) as u8)
    }

    /// LaPa's and Helen's 11 classes.
    pub(crate) fn eleven(&self) -> Vec<u8> {
        self.nineteen().iter().map(|&class| if class == 0 { 0 } else { ELEVEN[usize::from(class) - 1] }).collect()
    }

    /// RGB8: a colour per class, with noise.
    pub(crate) fn photo(&self) -> Vec<u8> {
        let colors = self.nineteen();
        let noise = |at: usize, channel: u32| mix(self.number.wrapping_mul(7919) ^ (at as u32 * 3 + channel)) % 24;
        colors
            .iter()
            .enumerate()
            .flat_map(|(at, &class)| {
                [0, 1, 2]
                    .map(|channel| (mix(u32::from(class) * 3 + channel + 50) % 200 + 20 + noise(at, channel)) as u8)
            })
            .collect()
    }

    fn at(&self, u: f64, v: f64) -> [f64; 2] {
        [self.center[0] + u * self.size[0], self.center[1] + v * self.size[1]]
    }

    /// A point on the outline of the face.
    fn outline(&self, part: f64) -> [f64; 2] {
        let (sin, cos) = (part * std::f64::consts::TAU).sin_cos();
        self.at(0.8 * cos, sin)
    }

    /// LaPa's 106 landmarks: those that matter in their places, the others on the outline.
    pub(crate) fn landmarks106(&self) -> Vec<[f64; 2]> {
        let mut points: Vec<[f64; 2]> = (0..106).map(|i| self.outline(f64::from(i) / 106.0)).collect();
        for (index, (u, v)) in [
            (74, (-0.37, -0.2)),
            (104, (-0.33, -0.2)),
            (83, (0.33, -0.2)),
            (105, (0.37, -0.2)),
            (54, (0.0, 0.2)),
            (84, (-0.24, 0.55)),
            (90, (0.24, 0.55)),
        ] {
            points[index] = self.at(u, v);
        }
        points
    }

    /// Helen's 68.
    pub(crate) fn landmarks68(&self) -> Vec<[f64; 2]> {
        let mut points: Vec<[f64; 2]> = (0..68).map(|i| self.outline(f64::from(i) / 68.0)).collect();
        for i in 0..6 {
            let (sin, cos) = (f64::from(i) / 6.0 * std::f64::consts::TAU).sin_cos();
            points[36 + i as usize] = self.at(-0.35 + 0.16 * cos, -0.2 + 0.1 * sin);
            points[42 + i as usize] = self.at(0.35 + 0.16 * cos, -0.2 + 0.1 * sin);
        }
        points[30] = self.at(0.0, 0.2);
        points[48] = self.at(-0.24, 0.55);
        points[54] = self.at(0.24, 0.55);
        points
    }
}

fn mix(value: u32) -> u32 {
    let value = (value ^ 61 ^ (value >> 16)).wrapping_mul(9);
    let value = (value ^ (value >> 4)).wrapping_mul(0x27d4_eb2d);
    value ^ (value >> 15)
}

/// Writes a PNG of 8-bit samples.
pub(crate) fn write_png(path: &Path, color: png::ColorType, width: usize, height: usize, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fastest);
    encoder.write_header().unwrap().write_image_data(data).unwrap();
}

pub(crate) fn write_rgb(path: &Path, width: usize, height: usize, data: &[u8]) {
    write_png(path, png::ColorType::Rgb, width, height, data);
}

pub(crate) fn write_grey(path: &Path, width: usize, height: usize, data: &[u8]) {
    write_png(path, png::ColorType::Grayscale, width, height, data);
}

/// Images of each split in every folder made here: train, val, test.
pub(crate) const SPLITS: [(&str, std::ops::Range<u32>); 3] = [("train", 0..5), ("val", 5..7), ("test", 7..10)];

fn split_of(number: u32) -> usize {
    SPLITS.iter().position(|(_, range)| range.contains(&number)).unwrap()
}

/// The face of CelebAMask-HQ's image `id`, at the size of its masks; photos are twice as large.
pub(crate) fn celeb_face(id: u32) -> Face {
    Face::new(id, 48, 48)
}

/// CelebAMask-HQ with images 0 to 9, photos 96×96, masks 48×48, and lists with the header and with lines of other images.
pub(crate) fn celeb(root: &Path) -> PathBuf {
    let (mut mapping, mut partition) = (String::from("idx      orig_idx  orig_file\n"), String::from("000001.jpg 0\n"));
    for id in 0..10 {
        let photo = Face::new(id, 96, 96).photo();
        write_rgb(&root.join(format!("CelebA-HQ-img/{id}.jpg")), 96, 96, &photo);
        let face = celeb_face(id);
        for (index, part) in PARTS.iter().enumerate() {
            let mask = face.mask(index + 1);
            if mask.contains(&255) {
                let path = root.join(format!("CelebAMask-HQ-mask-anno/0/{id:05}_{part}.png"));
                write_grey(&path, 48, 48, &mask);
            }
        }
        // Files of CelebA in another order than images of CelebA-HQ.
        let file = 1000 - id;
        mapping += &format!("{id}        {}      {file:06}.jpg\n", file - 1);
    }
    for id in (0..10).rev() {
        partition += &format!("{:06}.jpg {}\n", 1000 - id, split_of(id));
    }
    fs::write(root.join("CelebA-HQ-to-CelebA-mapping.txt"), mapping).unwrap();
    fs::write(root.join("list_eval_partition.txt"), partition).unwrap();
    root.into()
}

/// The face of LaPa's image `number`.
pub(crate) fn lapa_face(number: u32) -> Face {
    Face::new(number, 72 + 4 * number as usize, 80)
}

fn text(points: &[[f64; 2]]) -> String {
    points.iter().map(|[x, y]| format!("{x:.4} {y:.4}\n")).collect()
}

/// LaPa with images 0 to 9 of several sizes; a pixel of each label map is to be ignored.
pub(crate) fn lapa(root: &Path) -> PathBuf {
    for number in 0..10 {
        let face = lapa_face(number);
        let folder = root.join(SPLITS[split_of(number)].0);
        let mut labels = face.eleven();
        labels[0] = 255;
        write_rgb(&folder.join(format!("images/{number:03}_0.jpg")), face.width, face.height, &face.photo());
        write_grey(&folder.join(format!("labels/{number:03}_0.png")), face.width, face.height, &labels);
        fs::create_dir_all(folder.join("landmarks")).unwrap();
        let landmarks = format!("106\n{}", text(&face.landmarks106()));
        fs::write(folder.join(format!("landmarks/{number:03}_0.txt")), landmarks).unwrap();
    }
    root.into()
}

/// Helen with images 0 to 9; what would be validation belongs to train.
pub(crate) fn helen(root: &Path) -> PathBuf {
    let mut lines = String::new();
    for number in 0..10 {
        let face = Face::new(number, 90, 84 + 2 * number as usize);
        let folder = root.join(if number < 7 { "train" } else { "test" });
        write_rgb(&folder.join(format!("{number}_image.jpg")), face.width, face.height, &face.photo());
        write_grey(&folder.join(format!("{number}_label.png")), face.width, face.height, &face.eleven());
        let numbers: Vec<String> = face.landmarks68().iter().flatten().map(|v| format!("{:.4}", 2.0 * v)).collect();
        lines += &format!("{} {number}\n", numbers.join(" "));
    }
    fs::write(root.join("landmarks.txt"), lines).unwrap();
    root.into()
}

//! Pictures of an evaluation.

use super::Confusion;
use crate::data::{IGNORE, Sample};
use crate::drawing::{CHARACTER_HEIGHT, Canvas, text_width};
use crate::image::palette;
use segface_codegen::Variant;
use segface_kernels::image::{MEAN, STD};

const WHITE: [u8; 3] = [255; 3];
const INK: [u8; 3] = [25, 25, 30];
const QUIET: [u8; 3] = [120, 120, 125];

/// An image to be looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its score, from 0 to 1.
    pub mean_f1: f64,
    /// Columns of what follows.
    pub width: usize,
    /// Rows of it.
    pub height: usize,
    /// RGB8 as the network saw it, un-warped.
    pub photo: Vec<u8>,
    /// Class ids or [`IGNORE`].
    pub truth: Vec<u8>,
    /// Class ids.
    pub prediction: Vec<u8>,
}

/// The confusion matrix as a picture: truth downwards, prediction to the right, each row in per cent of the class's pixels. The diagonal
/// is blue, mistakes are red, both on a square-root scale, so that one per cent can be seen.
///
/// # Panics
/// If the matrix is not of the data set's classes.
pub fn confusion_picture(confusion: &Confusion, dataset: Variant, title: &str) -> Canvas {
    const CELL: usize = 40;
    const GAP: usize = 8;
    let names = dataset.classes();
    assert_eq!(confusion.classes(), names.len(), "{dataset} has other classes");
    let longest = names.iter().map(|name| text_width(name, 2)).max().unwrap_or(0);
    let letter = 2 * CHARACTER_HEIGHT;
    let (left, top) = (GAP + letter + GAP + longest + GAP, GAP + letter + GAP + longest + GAP);
    let side = CELL * names.len();
    let (width, height) = ((left + side + GAP).max(text_width(title, 2) + 2 * GAP), top + side + 2 * GAP + letter);
    let mut canvas = Canvas::new(width, height, WHITE);
    canvas.text(GAP, GAP, title, 2, INK);
    canvas.text_upwards(GAP, top + side / 2 + text_width("truth", 2) / 2, "truth", 2, QUIET);
    canvas.text(left + side / 2 - text_width("predicted", 2) / 2, top + side + GAP, "predicted", 2, QUIET);
    for (class, name) in names.iter().enumerate() {
        let middle = class * CELL + (CELL - letter) / 2;
        canvas.text(left - GAP - text_width(name, 2), top + middle, name, 2, INK);
        canvas.text_upwards(left + middle, top - GAP, name, 2, INK);
        let all = confusion.truth(class);
        for column in 0..names.len() {
            let (x, y) = (left + column * CELL, top + class * CELL);
            if all == 0 {
                canvas.fill(x, y, CELL - 1, CELL - 1, [235, 235, 235]);
                continue;
            }
            let share = confusion.count(class, column) as f64 / all as f64;
            let full = if class == column { [20.0, 70.0, 150.0] } else { [190.0, 30.0, 30.0] };
            let weight = share.sqrt();
            let color = full.map(|channel: f64| (246.0 + (channel - 246.0) * weight) as u8);
            canvas.fill(x, y, CELL - 1, CELL - 1, color);
            if share >= 0.005 {
                let text = format!("{:.0}", 100.0 * share);
                let ink = if weight > 0.6 { WHITE } else { INK };
                let (dx, dy) = ((CELL - text_width(&text, 2)) / 2, (CELL - letter) / 2);
                canvas.text(x + dx, y + dy, &text, 2, ink);
            }
        }
    }
    canvas
}

/// Images side by side: for each the photo, the truth and the prediction, in the colours of the classes; pixels to ignore are grey.
/// Wrong pixels of the prediction are marked in the fourth column.
pub fn worst_sheet(shown: &[Shown], dataset: Variant, title: &str) -> Canvas {
    const GAP: usize = 8;
    /// Longer side of a tile, unless the images are smaller.
    const TILE: usize = 192;
    /// Images beside each other.
    const ACROSS: usize = 2;
    let colors = palette(dataset);
    let longer = shown.iter().map(|image| image.width.max(image.height)).max().unwrap_or(1);
    let side = longer.min(TILE);
    let line = CHARACTER_HEIGHT * 2 + GAP;
    let group = 4 * (side + 2) + 2 * GAP;
    let header = GAP + 2 * line;
    let legend = legend_rows(dataset, ACROSS * group - 2 * GAP);
    let rows = shown.len().div_ceil(ACROSS);
    let height = header + rows * (line + side + GAP) + legend.len() * line + GAP;
    let mut canvas = Canvas::new(ACROSS * group, height, WHITE);
    canvas.text(GAP, GAP, title, 2, INK);
    canvas.text(GAP, GAP + line, "photo, truth, prediction, mistakes", 2, QUIET);
    for (place, image) in shown.iter().enumerate() {
        let (x, y) = (GAP + place % ACROSS * group, header + place / ACROSS * (line + side + GAP));
        let caption = format!("{}  F1 {:.1}", image.name, 100.0 * image.mean_f1);
        canvas.text(x, y, &caption, 2, INK);
        let mistakes: Vec<u8> = image
            .truth
            .iter()
            .zip(&image.prediction)
            .flat_map(|(&truth, &prediction)| match truth {
                IGNORE => [128; 3],
                _ if truth == prediction => [235; 3],
                _ => colors[usize::from(prediction)].map(|channel| channel / 4 * 3),
            })
            .collect();
        let tiles =
            [image.photo.clone(), painted(&image.truth, &colors), painted(&image.prediction, &colors), mistakes];
        for (column, pixels) in tiles.iter().enumerate() {
            let (tile, width, height) = shrink(pixels, image.width, image.height, side);
            canvas.image(x + column * (side + 2), y + line, &tile, width, height);
        }
    }
    let mut y = header + rows * (line + side + GAP);
    for row in legend {
        let mut x = GAP;
        for class in row {
            let name = dataset.classes()[class];
            canvas.fill(x, y, 14, 14, colors[class]);
            canvas.text(x + 18, y, name, 2, INK);
            x += legend_width(name);
        }
        y += line;
    }
    canvas
}

/// Labels in the colours of their classes; pixels to ignore are grey.
fn painted(labels: &[u8], colors: &[[u8; 3]]) -> Vec<u8> {
    let paint = |&label: &u8| if label == IGNORE { [128; 3] } else { colors[usize::from(label)] };
    labels.iter().flat_map(paint).collect()
}

/// Samples of `side` pixels as a network is shown them: a row of image and labels side by side for each name.
pub fn sample_sheet(rows: &[(String, Vec<Sample>)], side: usize, dataset: Variant) -> Canvas {
    const GAP: usize = 8;
    const TILE: usize = 192;
    let colors = palette(dataset);
    let tile = side.min(TILE);
    let (group, line) = (2 * (tile + 2) + GAP, CHARACTER_HEIGHT * 2 + GAP);
    let across = rows.iter().map(|(_, samples)| samples.len()).max().unwrap_or(0);
    let mut canvas = Canvas::new(GAP + across * group, GAP + rows.len() * (line + tile + GAP), WHITE);
    for (row, (name, samples)) in rows.iter().enumerate() {
        let y = GAP + row * (line + tile + GAP);
        canvas.text(GAP, y, name, 2, INK);
        for (column, sample) in samples.iter().enumerate() {
            let x = GAP + column * group;
            let byte = |(i, &value): (usize, &f32)| (255.0 * (value * STD[i % 3] + MEAN[i % 3])).round() as u8;
            let photo: Vec<u8> = sample.image.iter().enumerate().map(byte).collect();
            for (part, pixels) in [photo, painted(&sample.labels, &colors)].iter().enumerate() {
                let (small, width, height) = shrink(pixels, side, side, tile);
                canvas.image(x + part * (tile + 2), y + line, &small, width, height);
            }
        }
    }
    canvas
}

fn legend_width(name: &str) -> usize {
    18 + text_width(name, 2) + 20
}

/// Classes in rows that fit a width.
fn legend_rows(dataset: Variant, width: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = vec![vec![]];
    let mut used = 0;
    for (class, name) in dataset.classes().iter().enumerate() {
        if used > 0 && used + legend_width(name) > width {
            rows.push(vec![]);
            used = 0;
        }
        used += legend_width(name);
        if let Some(row) = rows.last_mut() {
            row.push(class);
        }
    }
    rows
}

/// An RGB8 image shrunk so that its longer side is at most `side`; nearest, so that class colours stay pure.
fn shrink(pixels: &[u8], width: usize, height: usize, side: usize) -> (Vec<u8>, usize, usize) {
    let longer = width.max(height);
    if longer <= side {
        return (pixels.to_vec(), width, height);
    }
    let [small_width, small_height] = [width, height].map(|length| (length * side / longer).max(1));
    let mut out = Vec::with_capacity(3 * small_width * small_height);
    for y in 0..small_height {
        for x in 0..small_width {
            let (from_x, from_y) = ((2 * x + 1) * width / (2 * small_width), (2 * y + 1) * height / (2 * small_height));
            out.extend_from_slice(&pixels[3 * (from_y * width + from_x)..][..3]);
        }
    }
    (out, small_width, small_height)
}

//! Logits to labels, at the network's size and at any other.
//!
//! Bilinear interpolation is a convex combination of four logit vectors. A class that is the largest in all four is the
//! largest in every combination, so between four source pixels of one label there is nothing to compute: the cell takes that
//! label. Only cells on a boundary between parts, a few per cent, are interpolated, and the H·W·T upscaled logits never exist.
//!
//! Work: argmax over h·w·T logits, then about (boundary share)·H·W·T multiply-adds; bytes: h·w·T·4 read, H·W written.

use super::Tier;
#[cfg(target_arch = "x86_64")]
use super::labels_x86 as x86;
use crate::Context;
use crate::context::{Disjoint, scratch_bytes};
use crate::image::Window;

/// Source pixels of one task of the argmax.
const PIXELS_PER_TASK: usize = 4096;

/// Bands (rows of cells) of one task of the resize.
const BANDS_PER_TASK: usize = 4;

/// Label of each of the pixels of `logits` `[pixels, classes]`: the first index of the largest value, a NaN
/// counting as −∞. Overwrites `labels` `[pixels]`.
///
/// # Panics
/// If a length does not fit, there are more than 256 classes or none.
pub fn argmax_labels(ctx: &mut Context, logits: &[f32], classes: usize, labels: &mut [u8]) {
    let tier = Tier::of(ctx);
    assert!((1..=256).contains(&classes), "{classes} classes do not fit a byte");
    assert_eq!(logits.len(), labels.len() * classes, "logits of {} pixels × {classes} classes", labels.len());
    let pixels = labels.len();
    let shared = Disjoint::new(labels);
    ctx.parallel(pixels.div_ceil(PIXELS_PER_TASK), 0, |task, _| {
        let range = task * PIXELS_PER_TASK..((task + 1) * PIXELS_PER_TASK).min(pixels);
        let logits = &logits[range.start * classes..range.end * classes];
        // SAFETY: the ranges of different tasks lie apart.
        let labels = unsafe { shared.slice(range.start, range.len()) };
        match tier {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has what a context's instruction set needs.
            Tier::Avx512 if classes <= x86::MOST_CLASSES => unsafe {
                x86::avx512::argmax_rows(logits, classes, labels)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx2 if classes <= x86::MOST_CLASSES => unsafe { x86::avx2::argmax_rows(logits, classes, labels) },
            _ => argmax_rows(logits, classes, labels),
        }
    });
}

/// First index of the largest value, a NaN counting as −∞. Largest first, in lanes, then where it is: a running pair of both would be a
/// chain of as many dependent steps as there are classes.
#[inline(always)]
fn argmax(values: &[f32]) -> u8 {
    const LANES: usize = 8;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut best = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            best[lane] = larger(best[lane], chunk[lane]);
        }
    }
    for (best, &value) in best.iter_mut().zip(rest) {
        *best = larger(*best, value);
    }
    let best = best.into_iter().fold(f32::NEG_INFINITY, larger);
    if best == f32::NEG_INFINITY {
        return 0;
    }
    values.iter().position(|&value| value == best).unwrap_or(0) as u8
}

#[inline(always)]
fn argmax_rows(logits: &[f32], classes: usize, labels: &mut [u8]) {
    for (label, values) in labels.iter_mut().zip(logits.chunks_exact(classes)) {
        *label = argmax(values);
    }
}

/// Output index to source: `(lower neighbour, weight of the upper one)`, half-pixel centres, as torch computes it in f32.
fn source_of(index: usize, input: usize, output: usize) -> (usize, f32) {
    let scale = input as f32 / output as f32;
    let position = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
    let lower = (position as usize).min(input - 1);
    (lower, (position - lower as f32).clamp(0.0, 1.0))
}

/// Consecutive output indices with the same lower neighbour.
struct Cell {
    /// Output indices.
    start: usize,
    end: usize,
    /// Source indices; equal at the far edge.
    lower: usize,
    upper: usize,
}

struct Axis {
    cells: Vec<Cell>,
    /// Weight of the upper neighbour per output index.
    weights: Vec<f32>,
}

impl Axis {
    fn new(input: usize, output: usize) -> Axis {
        let mut cells: Vec<Cell> = Vec::new();
        let mut weights = Vec::with_capacity(output);
        for index in 0..output {
            let (lower, weight) = source_of(index, input, output);
            weights.push(weight);
            match cells.last_mut() {
                Some(cell) if cell.lower == lower => cell.end = index + 1,
                _ => cells.push(Cell { start: index, end: index + 1, lower, upper: (lower + 1).min(input - 1) }),
            }
        }
        Axis { cells, weights }
    }
}

/// Turns logits `[h, w, classes]` into labels at another size: `argmax(bilinear(logits))`.
pub struct LabelResizer {
    source: (usize, usize),
    classes: usize,
    horizontal: Axis,
    vertical: Axis,
    target: (usize, usize),
}

impl LabelResizer {
    /// From logits of `source` = (width, height) to labels of `target` = (width, height).
    ///
    /// # Panics
    /// If a side is zero, there are more than 256 classes or none.
    pub fn new(source: (usize, usize), target: (usize, usize), classes: usize) -> LabelResizer {
        assert!(source.0 > 0 && source.1 > 0 && target.0 > 0 && target.1 > 0, "{source:?} to {target:?}");
        assert!((1..=256).contains(&classes), "{classes} classes do not fit a byte");
        let (horizontal, vertical) = (Axis::new(source.0, target.0), Axis::new(source.1, target.1));
        LabelResizer { source, classes, horizontal, vertical, target }
    }

    /// Writes the labels into the rectangle `window` of a label map of `stride` columns; the rest of `out` is left as it is.
    ///
    /// # Panics
    /// If `window` is not of the target's size or does not fit into `out`, or `logits` is not of the source's size.
    pub fn run(&self, ctx: &mut Context, logits: &[f32], out: &mut [u8], stride: usize, window: Window) {
        assert_eq!(logits.len(), self.source.0 * self.source.1 * self.classes, "logits {:?}", self.source);
        assert_eq!((window.width, window.height), self.target, "window of another size");
        assert!(
            stride > 0 && window.fits(stride, out.len() / stride),
            "{window:?} in {} × {stride}",
            out.len() / stride
        );
        let mut corners = vec![0; self.source.0 * self.source.1];
        argmax_labels(ctx, logits, self.classes, &mut corners);
        let tier = Tier::of(ctx);
        let shared = Disjoint::new(out);
        let bands = &self.vertical.cells;
        let scratch_len = 3 * self.classes;
        ctx.parallel(bands.len().div_ceil(BANDS_PER_TASK), scratch_bytes::<f32>(scratch_len), |task, mut scratch| {
            let scratch = scratch.take::<f32>(scratch_len);
            for band in &bands[task * BANDS_PER_TASK..((task + 1) * BANDS_PER_TASK).min(bands.len())] {
                let row_at = |y: usize| (window.y + y) * stride + window.x;
                // SAFETY: bands hold different rows, each band belongs to one task, and rows do not overlap.
                let first = unsafe { shared.slice(row_at(band.start), window.width) };
                let mixed = self.fill_band(band, &corners, first);
                for y in band.start + 1..band.end {
                    // SAFETY: another row of the same band.
                    unsafe { shared.slice(row_at(y), window.width) }.copy_from_slice(first);
                }
                for y in band.start..band.end {
                    // SAFETY: `first` is not used any more, and this row is of this band.
                    let row = unsafe { shared.slice(row_at(y), window.width) };
                    for &cell in &mixed {
                        self.interpolate(tier, logits, (band, y), &self.horizontal.cells[cell], scratch, row);
                    }
                }
            }
        });
    }

    /// Fills the cells of one band whose corners agree; returns the others.
    fn fill_band(&self, band: &Cell, corners: &[u8], row: &mut [u8]) -> Vec<usize> {
        let upper = &corners[band.lower * self.source.0..][..self.source.0];
        let lower = &corners[band.upper * self.source.0..][..self.source.0];
        let mut mixed = Vec::new();
        for (index, cell) in self.horizontal.cells.iter().enumerate() {
            let label = upper[cell.lower];
            if label == upper[cell.upper] && label == lower[cell.lower] && label == lower[cell.upper] {
                row[cell.start..cell.end].fill(label);
            } else {
                mixed.push(index);
            }
        }
        mixed
    }

    /// One cell of one output row, pixel by pixel. `scratch`: three times the classes.
    fn interpolate(
        &self,
        tier: Tier,
        logits: &[f32],
        (band, y): (&Cell, usize),
        cell: &Cell,
        scratch: &mut [f32],
        row: &mut [u8],
    ) {
        let at = |y: usize, x: usize| &logits[(y * self.source.0 + x) * self.classes..][..self.classes];
        let corners = [
            at(band.lower, cell.lower),
            at(band.lower, cell.upper),
            at(band.upper, cell.lower),
            at(band.upper, cell.upper),
        ];
        let weights = &self.horizontal.weights[cell.start..cell.end];
        let labels = &mut row[cell.start..cell.end];
        match tier {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has what a context's instruction set needs.
            Tier::Avx512 if self.classes <= x86::MOST_CLASSES => unsafe {
                x86::avx512::interpolate(corners, self.vertical.weights[y], weights, labels);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Tier::Avx2 if self.classes <= x86::MOST_CLASSES => unsafe {
                x86::avx2::interpolate(corners, self.vertical.weights[y], weights, labels);
            },
            _ => interpolate(corners, self.vertical.weights[y], weights, scratch, labels),
        }
    }
}

/// Labels of the pixels between four logit vectors (upper left, upper right, lower left, lower right).
#[inline(always)]
fn interpolate(corners: [&[f32]; 4], down: f32, across: &[f32], scratch: &mut [f32], labels: &mut [u8]) {
    let classes = corners[0].len();
    let corners = corners.map(|values| &values[..classes]);
    let (left, rest) = scratch.split_at_mut(classes);
    let (right, values) = rest.split_at_mut(classes);
    let values = &mut values[..classes];
    for t in 0..classes {
        left[t] = corners[0][t] * (1.0 - down) + corners[2][t] * down;
        right[t] = corners[1][t] * (1.0 - down) + corners[3][t] * down;
    }
    for (label, &weight) in labels.iter_mut().zip(across) {
        for t in 0..classes {
            values[t] = left[t] * (1.0 - weight) + right[t] * weight;
        }
        *label = argmax(values);
    }
}

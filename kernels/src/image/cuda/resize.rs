//! The two launches of a resize, and its weights as the kernels take them.

use super::{Argument, Kernel, Launch, blocks, int};
use crate::image::Resampler;

/// Taps of a group: four bytes of a word.
const GROUP: usize = 4;

/// Words of a group's chunk.
const CHUNK: usize = 4;

/// What a resize leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeOutput {
    /// RGB8 `[height, width, 3]` at a multiple of 4.
    Rgb,
    /// Normalised elements of the network's input, `[height, width, 3]` at a multiple of 16.
    Nhwc,
    /// The same, `[3, height, width]`.
    Nchw,
}

/// A resize from one size to another on the device: [`Resampler`]. It depends on the sizes alone, so photos of one size share it.
#[derive(Debug, Clone)]
pub struct Resize {
    source: (usize, usize),
    target: (usize, usize),
    /// Chunks per output index, across and down.
    strides: [usize; 2],
    weights: Vec<u32>,
}

impl Resize {
    /// From `source` = (width, height) to `target` = (width, height).
    ///
    /// # Panics
    /// If a side is zero.
    pub fn new(source: (usize, usize), target: (usize, usize)) -> Resize {
        let resampler = Resampler::new(source, target);
        let (across, across_stride) = chunks(&resampler, false, target.0);
        let (down, down_stride) = chunks(&resampler, true, target.1);
        Resize { source, target, strides: [across_stride, down_stride], weights: [across, down].concat() }
    }

    /// Words that the launches read, to be put at a multiple of 16.
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Bytes of working memory, at a multiple of 4. They need no zeros, and are free again after the second launch.
    pub fn middle_bytes(&self) -> usize {
        (3 * self.target.0).next_multiple_of(4) * self.source.1.next_multiple_of(GROUP)
    }

    /// Resizes the RGB8 whose first pixel is at `source`, any address, with `stride` bytes from row to row: a window of a photo is the
    /// address of its first pixel and the photo's stride. Nothing outside of its rows is read.
    pub fn launches(
        &self,
        source: u64,
        stride: usize,
        weights: u64,
        middle: u64,
        output: ResizeOutput,
        out: u64,
    ) -> [Launch; 2] {
        let (width, height) = self.target;
        let across = Launch {
            kernel: Kernel::ResizeHorizontal,
            grid: [blocks(width, 32), blocks(self.source.1, 32), 1],
            arguments: vec![
                Argument::Address(source),
                int(self.source.0),
                int(self.source.1),
                Argument::U64(stride as u64),
                Argument::Address(weights),
                int(self.strides[0]),
                Argument::Address(middle),
                int(width),
            ],
        };
        let down = Launch {
            kernel: match output {
                ResizeOutput::Rgb => Kernel::ResizeRgb,
                ResizeOutput::Nhwc => Kernel::ResizeNormalise,
                ResizeOutput::Nchw => Kernel::ResizeNormalisePlanar,
            },
            grid: [blocks(3 * width, 128), blocks(height, 8), 1],
            arguments: vec![
                Argument::Address(middle),
                Argument::Address(weights + (16 * self.strides[0] * width) as u64),
                int(self.strides[1]),
                Argument::Address(out),
                int(width),
                int(height),
            ],
        };
        [across, down]
    }
}

/// An axis as `Axis` of `resize.cuh` has it, and its chunks per output index.
fn chunks(resampler: &Resampler, vertical: bool, length: usize) -> (Vec<u32>, usize) {
    let spans: Vec<_> = (0..length).map(|index| resampler.span(vertical, index)).collect();
    let groups = |first: usize, weights: &[i32]| first / GROUP..(first + weights.len()).div_ceil(GROUP);
    // Two chunks carry the span's numbers.
    let stride = spans.iter().map(|(first, weights)| groups(*first, weights).len()).max().unwrap_or(0).max(2);
    let mut words = vec![0u32; length * stride * CHUNK];
    for ((first, weights), words) in spans.iter().zip(words.chunks_exact_mut(stride * CHUNK)) {
        let span = groups(*first, weights);
        words[3] = span.start as u32;
        words[CHUNK + 3] = span.end as u32;
        for (tap, weight) in (first - span.start * GROUP..).zip(*weights) {
            let [low, middle, high, sign] = weight.to_le_bytes();
            debug_assert_eq!(sign, if high >= 128 { 255 } else { 0 }, "{weight} fits 24 bits");
            for (word, byte) in [low, middle, high].into_iter().enumerate() {
                words[tap / GROUP * CHUNK + word] |= u32::from(byte) << (8 * (tap % GROUP));
            }
        }
    }
    (words, stride)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_weight_at_its_tap() {
        for (source, target) in [((37, 5), (16, 16)), ((16, 300), (61, 7)), ((9, 9), (9, 9)), ((1, 4000), (3, 2))] {
            let resize = Resize::new(source, target);
            let resampler = Resampler::new(source, target);
            let across = target.0 * resize.strides[0] * CHUNK;
            for (vertical, words) in [(false, &resize.weights[..across]), (true, &resize.weights[across..])] {
                let stride = resize.strides[usize::from(vertical)];
                let (input, output) = if vertical { (source.1, target.1) } else { (source.0, target.0) };
                assert_eq!(words.len(), output * stride * CHUNK);
                for (index, words) in words.chunks_exact(stride * CHUNK).enumerate() {
                    let (first, weights) = resampler.span(vertical, index);
                    let (begin, end) = (words[3] as usize, words[CHUNK + 3] as usize);
                    assert!(begin * GROUP <= first && end * GROUP >= first + weights.len() && end - begin <= stride);
                    assert!((end - 1) * GROUP < input, "the last group begins inside");
                    for tap in begin * GROUP..end * GROUP {
                        let byte = |word: usize| words[(tap / GROUP - begin) * CHUNK + word].to_le_bytes()[tap % GROUP];
                        let sum = i32::from(byte(0)) + (i32::from(byte(1)) << 8) + (i32::from(byte(2) as i8) << 16);
                        let expected = tap.checked_sub(first).and_then(|k| weights.get(k)).copied().unwrap_or(0);
                        assert_eq!(sum, expected, "{source:?} to {target:?}, index {index}, tap {tap}");
                    }
                }
            }
        }
    }
}

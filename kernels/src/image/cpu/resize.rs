//! PIL's antialiased bicubic resize, bit for bit, and normalisation into the network's input.

use super::Tier;
use crate::context::{Disjoint, scratch_bytes};
use crate::image::{Layout, MEAN, RgbView, STD};
use crate::{Context, Element};

/// Fractional bits of a weight: a byte times weights that sum to less than 2 in absolute value stays inside an i32.
const FRACTION_BITS: u32 = 32 - 8 - 2;

/// Support of the cubic on either side, in (scaled) input pixels.
const SUPPORT: f64 = 2.0;

/// Weights are padded with zeros to a multiple of this, the widest load of the horizontal pass.
const TAP_GROUP: usize = 4;

/// Rows that one task of the parallel loop handles.
const ROWS_PER_TASK: usize = 16;

/// Keys' cubic convolution with a = −½.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// One axis of the resize: for each output index, the first input index and fixed-point weights from there on.
struct Axis {
    /// (first input index, number of weights) per output index.
    spans: Vec<(usize, usize)>,
    /// `stride` weights per output index, zero beyond its span.
    weights: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// `None` when the axis keeps its size, which skips the pass.
    fn new(input: usize, output: usize) -> Option<Axis> {
        if input == output {
            return None;
        }
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let stride = (support.ceil() as usize * 2 + 1).next_multiple_of(TAP_GROUP);
        let mut spans = Vec::with_capacity(output);
        let mut weights = vec![0; output * stride];
        let mut exact = Vec::with_capacity(stride);
        for index in 0..output {
            let center = (index as f64 + 0.5) * scale;
            // Conversions truncate towards zero, as C's do; a negative first index is clipped.
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            exact.clear();
            exact.extend((first..end).map(|x| cubic((x as f64 - center + 0.5) * (1.0 / filter_scale))));
            let sum: f64 = exact.iter().sum();
            for (weight, &value) in weights[index * stride..].iter_mut().zip(&exact) {
                let scaled = value / sum * f64::from(1u32 << FRACTION_BITS);
                *weight = (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
            }
            spans.push((first, end - first));
        }
        Some(Axis { spans, weights, stride })
    }

    /// First input index and weights (padded with zeros to a multiple of [`TAP_GROUP`]) of an output index.
    fn taps(&self, index: usize) -> (usize, usize, &[i32]) {
        let (first, count) = self.spans[index];
        (first, count, &self.weights[index * self.stride..][..count.next_multiple_of(TAP_GROUP)])
    }
}

/// A sum of weighted bytes back to a byte: rounded (the half is already in), clamped.
#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (FRACTION_BITS - 1);

/// `(v/255 − mean)/std` for every byte and channel.
fn normalisation_table<T: Element>() -> Vec<[T; 256]> {
    (0..3).map(|c| std::array::from_fn(|v| T::from_f32((v as f32 / 255.0 - MEAN[c]) / STD[c]))).collect()
}

/// Resizes RGB8 from one size to another. Building one costs microseconds, so make it per photo.
pub struct Resampler {
    source: (usize, usize),
    target: (usize, usize),
    horizontal: Option<Axis>,
    vertical: Option<Axis>,
}

impl Resampler {
    /// From `source` = (width, height) to `target` = (width, height).
    ///
    /// # Panics
    /// If a side is zero.
    pub fn new(source: (usize, usize), target: (usize, usize)) -> Resampler {
        assert!(source.0 > 0 && source.1 > 0 && target.0 > 0 && target.1 > 0, "{source:?} to {target:?}");
        let (horizontal, vertical) = (Axis::new(source.0, target.0), Axis::new(source.1, target.1));
        Resampler { source, target, horizontal, vertical }
    }

    /// First input index and weights of an output index on one axis; an axis that keeps its size has weights of one.
    pub(in crate::image) fn span(&self, vertical: bool, index: usize) -> (usize, &[i32]) {
        match if vertical { &self.vertical } else { &self.horizontal } {
            Some(axis) => {
                let (first, count, weights) = axis.taps(index);
                (first, &weights[..count])
            }
            None => (index, &[1 << FRACTION_BITS]),
        }
    }

    /// The resized image as RGB8, `[height, width, 3]`.
    ///
    /// # Panics
    /// If `source` is not of the size given to [`Resampler::new`].
    pub fn resize(&self, ctx: &mut Context, source: RgbView<'_>) -> Vec<u8> {
        let mut out = vec![0; 3 * self.target.0 * self.target.1];
        let row_bytes = 3 * self.target.0;
        let shared = Disjoint::new(&mut out);
        self.each_row(ctx, source, &|y, row| {
            // SAFETY: `each_row` gives every row to one call only.
            unsafe { shared.slice(y * row_bytes, row_bytes) }.copy_from_slice(row);
        });
        out
    }

    /// The network's input: resized, then `(v/255 − mean)/std`, overwriting `out` = one image in `layout`.
    ///
    /// # Panics
    /// If `source` is not of the size given to [`Resampler::new`] or `out` does not hold `3·width·height` values.
    pub fn resize_normalise<T: Element>(&self, ctx: &mut Context, source: RgbView<'_>, layout: Layout, out: &mut [T]) {
        let (width, height) = self.target;
        assert_eq!(out.len(), 3 * width * height, "input of {width}×{height}");
        let table = normalisation_table::<T>();
        let shared = Disjoint::new(out);
        self.each_row(ctx, source, &|y, row| match layout {
            Layout::Nhwc => {
                // SAFETY: `each_row` gives every row to one call only.
                let out = unsafe { shared.slice(3 * y * width, 3 * width) };
                for (values, pixel) in out.chunks_exact_mut(3).zip(row.chunks_exact(3)) {
                    for c in 0..3 {
                        values[c] = table[c][usize::from(pixel[c])];
                    }
                }
            }
            Layout::Nchw => {
                for (c, table) in table.iter().enumerate() {
                    let start = (c * height + y) * width;
                    // SAFETY: as above, and the planes lie apart.
                    let out = unsafe { shared.slice(start, width) };
                    for (value, pixel) in out.iter_mut().zip(row.chunks_exact(3)) {
                        *value = table[usize::from(pixel[c])];
                    }
                }
            }
        });
    }

    /// Calls `sink(y, row)` once for each row of the result, from any thread.
    fn each_row(&self, ctx: &mut Context, source: RgbView<'_>, sink: &(dyn Fn(usize, &[u8]) + Sync)) {
        let tier = Tier::of(ctx);
        assert_eq!((source.width(), source.height()), self.source, "resampler made for another size");
        let row_bytes = 3 * self.target.0;
        // Width first, for all rows: the vertical pass then reads bytes that are already rounded, as PIL's does.
        let narrowed = self.horizontal.as_ref().map(|axis| {
            let mut rows = vec![0; self.source.1 * row_bytes];
            let shared = Disjoint::new(&mut rows);
            ctx.parallel(self.source.1.div_ceil(ROWS_PER_TASK), 0, |task, _| {
                for y in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(self.source.1) {
                    // SAFETY: each `y` belongs to one task.
                    let out = unsafe { shared.slice(y * row_bytes, row_bytes) };
                    horizontal_row(tier, axis, source.tail_from(y), out);
                }
            });
            rows
        });
        let middle = match &narrowed {
            Some(rows) => RgbView::new(rows, self.target.0, self.source.1),
            None => source,
        };
        ctx.parallel(self.target.1.div_ceil(ROWS_PER_TASK), scratch_bytes::<u8>(row_bytes), |task, mut scratch| {
            let row = scratch.take::<u8>(row_bytes);
            for y in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(self.target.1) {
                match &self.vertical {
                    None => sink(y, middle.row(y)),
                    Some(axis) => {
                        vertical_row(tier, axis, middle, y, row);
                        sink(y, row);
                    }
                }
            }
        });
    }
}

fn horizontal_row(tier: Tier, axis: &Axis, source: &[u8], out: &mut [u8]) {
    match tier {
        Tier::Portable => horizontal_portable(axis, source, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has what a context's instruction set needs.
        Tier::Avx2 => unsafe { x86::horizontal_avx2(axis, source, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 => unsafe { x86::horizontal_avx512(axis, source, out) },
    }
}

fn vertical_row(tier: Tier, axis: &Axis, middle: RgbView<'_>, y: usize, out: &mut [u8]) {
    match tier {
        Tier::Portable => vertical(axis, middle, y, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has what a context's instruction set needs.
        Tier::Avx2 => unsafe { x86::vertical_avx2(axis, middle, y, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 => unsafe { x86::vertical_avx512(axis, middle, y, out) },
    }
}

fn horizontal_portable(axis: &Axis, source: &[u8], out: &mut [u8]) {
    for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
        let (first, count, weights) = axis.taps(index);
        let mut sum = [HALF; 3];
        for (input, &weight) in source[3 * first..3 * (first + count)].chunks_exact(3).zip(weights) {
            for c in 0..3 {
                sum[c] += i32::from(input[c]) * weight;
            }
        }
        for c in 0..3 {
            pixel[c] = to_byte(sum[c]);
        }
    }
}

/// One output row: the same weights for every byte of a row, so it vectorises as it stands.
#[inline(always)]
fn vertical(axis: &Axis, middle: RgbView<'_>, y: usize, out: &mut [u8]) {
    const LANES: usize = 64;
    let (first, count, weights) = axis.taps(y);
    let mut chunks = out.chunks_exact_mut(LANES);
    let mut at = 0;
    for chunk in &mut chunks {
        let mut sum = [HALF; LANES];
        for (row, &weight) in (first..first + count).zip(weights) {
            let input: &[u8; LANES] = middle.row(row)[at..].first_chunk().expect("a row is as long as the output's");
            for lane in 0..LANES {
                sum[lane] += i32::from(input[lane]) * weight;
            }
        }
        for lane in 0..LANES {
            chunk[lane] = to_byte(sum[lane]);
        }
        at += LANES;
    }
    for (offset, byte) in chunks.into_remainder().iter_mut().enumerate() {
        let sum = (first..first + count)
            .zip(weights)
            .fold(HALF, |sum, (row, &weight)| sum + i32::from(middle.row(row)[at + offset]) * weight);
        *byte = to_byte(sum);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Axis, FRACTION_BITS, HALF, RgbView, TAP_GROUP};
    use std::arch::x86_64::*;

    /// Sixteen bytes from the start of `source`; zeros where it is shorter. A whole load reads one pixel and a third more
    /// than the four pixels wanted; what it reads there is multiplied by nothing.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn load16(source: &[u8]) -> __m128i {
        match source.first_chunk::<16>() {
            // SAFETY: sixteen bytes are there.
            Some(bytes) => unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) },
            None => {
                let mut bytes = [0; 16];
                bytes[..source.len()].copy_from_slice(source);
                // SAFETY: as above.
                unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
            }
        }
    }

    /// Weights of four taps.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn load_weights(weights: &[i32]) -> __m128i {
        assert!(weights.len() >= TAP_GROUP);
        // SAFETY: four values are there.
        unsafe { _mm_loadu_si128(weights.as_ptr().cast()) }
    }

    /// Clamps the sums of R, G, B in the low lanes to bytes and stores three of them.
    #[inline]
    #[target_feature(enable = "sse4.1")]
    fn store_pixel(sum: __m128i, out: &mut [u8]) {
        let words = _mm_srai_epi32::<{ FRACTION_BITS as i32 }>(sum);
        let words = _mm_packs_epi32(words, words);
        let bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
        out.copy_from_slice(&bytes[..3]);
    }

    /// Spreads four RGB pixels to four groups of R, G, B, 0.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn spread() -> __m128i {
        _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1)
    }

    /// Four taps a step: sixteen lanes of (tap, channel).
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn horizontal_avx512(axis: &Axis, source: &[u8], out: &mut [u8]) {
        let spread = spread();
        let repeat = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (first, _, weights) = axis.taps(index);
            let mut sum = _mm512_setzero_si512();
            for (group, weights) in weights.chunks_exact(TAP_GROUP).enumerate() {
                // Past the span the weights are zero, and past the image `load16` gives zeros.
                let bytes = load16(source.get(3 * (first + group * TAP_GROUP)..).unwrap_or(&[]));
                let pixels = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(bytes, spread));
                let weights = _mm512_permutexvar_epi32(repeat, _mm512_castsi128_si512(load_weights(weights)));
                sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(pixels, weights));
            }
            let half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum));
            let quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            store_pixel(_mm_add_epi32(quarter, _mm_set1_epi32(HALF)), pixel);
        }
    }

    /// Four taps a step in two halves.
    #[target_feature(enable = "avx2")]
    pub(super) fn horizontal_avx2(axis: &Axis, source: &[u8], out: &mut [u8]) {
        let spread = spread();
        let low = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        let high = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
        for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (first, _, weights) = axis.taps(index);
            let (mut sum0, mut sum1) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (group, weights) in weights.chunks_exact(TAP_GROUP).enumerate() {
                let bytes = load16(source.get(3 * (first + group * TAP_GROUP)..).unwrap_or(&[]));
                let pixels = _mm_shuffle_epi8(bytes, spread);
                let weights = _mm256_castsi128_si256(load_weights(weights));
                let weights0 = _mm256_permutevar8x32_epi32(weights, low);
                let weights1 = _mm256_permutevar8x32_epi32(weights, high);
                let pixels0 = _mm256_cvtepu8_epi32(pixels);
                let pixels1 = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(pixels));
                sum0 = _mm256_add_epi32(sum0, _mm256_mullo_epi32(pixels0, weights0));
                sum1 = _mm256_add_epi32(sum1, _mm256_mullo_epi32(pixels1, weights1));
            }
            let half = _mm256_add_epi32(sum0, sum1);
            let quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            store_pixel(_mm_add_epi32(quarter, _mm_set1_epi32(HALF)), pixel);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn vertical_avx512(axis: &Axis, middle: RgbView<'_>, y: usize, out: &mut [u8]) {
        super::vertical(axis, middle, y, out);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn vertical_avx2(axis: &Axis, middle: RgbView<'_>, y: usize, out: &mut [u8]) {
        super::vertical(axis, middle, y, out);
    }
}

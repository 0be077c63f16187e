//! Class colours and boundaries over the photo.

use super::{Tier, regions::run_length};
use crate::Context;
use crate::context::{Disjoint, scratch_bytes};
use crate::image::BlendStyle;

/// Rows that one task of the parallel loop handles.
const ROWS_PER_TASK: usize = 16;

/// Paints `labels` `[height, width]` over `pixels` (RGB8, `[height, width, 3]`, changed in place).
///
/// Inside a region the class colour is blended with weight `style.fill`, class 0 excepted; where the label differs from the
/// one `style.line_width` further right or down, a light tone of the colour is blended with weight `style.line`, so that
/// neighbouring parts stay apart even in similar colours.
///
/// # Panics
/// If a length does not fit or a label has no colour in `palette`.
pub fn blend_labels(
    ctx: &mut Context,
    pixels: &mut [u8],
    labels: &[u8],
    width: usize,
    height: usize,
    palette: &[[u8; 3]],
    style: BlendStyle,
) {
    assert_eq!(labels.len(), width * height, "label map of {width}×{height}");
    assert_eq!(pixels.len(), 3 * width * height, "RGB8 of {width}×{height}");
    let (fill, line) = style.weights();
    let paint = Paint { palette, fill, line, line_width: style.line_width };
    let tier = Tier::of(ctx);
    let shared = Disjoint::new(pixels);
    ctx.parallel(height.div_ceil(ROWS_PER_TASK), scratch_bytes::<u8>(width), |task, mut scratch| {
        let edges = scratch.take::<u8>(width);
        for y in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(height) {
            let row = &labels[y * width..(y + 1) * width];
            let below = &labels[(y + style.line_width).min(height - 1) * width..][..width];
            // SAFETY: each `y` belongs to one task.
            let pixels = unsafe { shared.slice(3 * y * width, 3 * width) };
            match tier {
                Tier::Portable => paint.row(row, below, edges, pixels),
                // AVX-512 narrows words to bytes more slowly than AVX2 packs them, twice as slowly on the machine it was measured on.
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the CPU has what a context's instruction set needs, and with AVX-512 it has AVX2.
                Tier::Avx2 | Tier::Avx512 => unsafe { paint.row_avx2(row, below, edges, pixels) },
            }
        }
    });
}

/// Colours and weights (of 256).
struct Paint<'a> {
    palette: &'a [[u8; 3]],
    fill: u16,
    line: u16,
    line_width: usize,
}

impl Paint<'_> {
    /// One row of pixels; `below` is the row of labels one line width further down. `edges` holds 1 where a boundary is, so that
    /// the rest goes in runs of one colour.
    #[inline(always)]
    fn row(&self, row: &[u8], below: &[u8], edges: &mut [u8], pixels: &mut [u8]) {
        let width = row.len();
        let near = width - self.line_width.min(width);
        let (edges, below) = (&mut edges[..width], &below[..width]);
        for x in 0..near {
            let (label, right) = (row[x], x + self.line_width);
            edges[x] = u8::from((row[right] != label) | (below[x] != label) | (below[right] != label));
        }
        let last = width - 1;
        for x in near..width {
            edges[x] = u8::from((row[last] != row[x]) | (below[x] != row[x]) | (below[last] != row[x]));
        }
        let mut start = 0;
        while start < width {
            let label = row[start];
            if edges[start] != 0 {
                // A boundary takes its tone from the part, not from the background beside it.
                let right = (start + self.line_width).min(last);
                let others = [row[right], below[start], below[right]];
                let other = others.into_iter().find(|&other| other != label).unwrap_or(label);
                let color = self.palette[usize::from(label.max(other))].map(lighten);
                mix(&mut pixels[3 * start..3 * start + 3], color, self.line);
                start += 1;
                continue;
            }
            let run = run_length(&row[start..], label).min(run_length(&edges[start..], 0));
            if label != 0 {
                mix(&mut pixels[3 * start..3 * (start + run)], self.palette[usize::from(label)], self.fill);
            }
            start += run;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn row_avx2(&self, row: &[u8], below: &[u8], edges: &mut [u8], pixels: &mut [u8]) {
        self.row(row, below, edges, pixels);
    }
}

/// Halfway to white.
fn lighten(channel: u8) -> u8 {
    channel / 2 + 128
}

/// `value += (color − value)·weight/256`, rounded, for every pixel of a run.
#[inline(always)]
fn mix(pixels: &mut [u8], color: [u8; 3], weight: u16) {
    /// Bytes at a time: a whole number of pixels and of vectors.
    const CHUNK: usize = 96;
    let keep = 256 - weight;
    // At most 255·256 + 128: sixteen bits hold it.
    let add: [u16; CHUNK] = std::array::from_fn(|i| u16::from(color[i % 3]) * weight + 128);
    let (chunks, rest) = pixels.as_chunks_mut::<CHUNK>();
    for chunk in chunks {
        for (value, add) in chunk.iter_mut().zip(add) {
            *value = ((u16::from(*value) * keep + add) >> 8) as u8;
        }
    }
    for (value, add) in rest.iter_mut().zip(add) {
        *value = ((u16::from(*value) * keep + add) >> 8) as u8;
    }
}

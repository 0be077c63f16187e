//! Class colours and boundaries over the photo.

use crate::Context;
use crate::context::Disjoint;
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
    let weight = |share: f32| (share.clamp(0.0, 1.0) * 256.0).round() as u32;
    let (fill, line) = (weight(style.fill), weight(style.line));
    let shared = Disjoint::new(pixels);
    ctx.parallel(height.div_ceil(ROWS_PER_TASK), 0, |task, _| {
        for y in task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(height) {
            let row = &labels[y * width..(y + 1) * width];
            let below_y = (y + style.line_width).min(height - 1);
            let below = &labels[below_y * width..(below_y + 1) * width];
            // SAFETY: each `y` belongs to one task.
            let pixels = unsafe { shared.slice(3 * y * width, 3 * width) };
            for (x, pixel) in pixels.chunks_exact_mut(3).enumerate() {
                let label = row[x];
                let right = (x + style.line_width).min(width - 1);
                let neighbours = [row[right], below[x], below[right]];
                match neighbours.into_iter().find(|&other| other != label) {
                    // A boundary takes its tone from the part, not from the background beside it.
                    Some(other) => mix(pixel, palette[usize::from(label.max(other))].map(lighten), line),
                    None if label != 0 => mix(pixel, palette[usize::from(label)], fill),
                    None => {}
                }
            }
        }
    });
}

/// Halfway to white.
fn lighten(channel: u8) -> u8 {
    channel / 2 + 128
}

/// `pixel += (color − pixel)·weight/256`, rounded.
fn mix(pixel: &mut [u8], color: [u8; 3], weight: u32) {
    for (value, color) in pixel.iter_mut().zip(color) {
        *value = ((u32::from(*value) * (256 - weight) + u32::from(color) * weight + 128) / 256) as u8;
    }
}

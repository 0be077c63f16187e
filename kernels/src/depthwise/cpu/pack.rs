//! Copies input rows into zero-padded planes of one vector of channels each.

use crate::Element;
use crate::simd::Vector;
use std::ops::Range;

/// The part of an image that a task reads, padding included.
pub(super) struct Window {
    /// Rows, padding included.
    pub(super) rows: usize,
    /// Columns, padding included.
    pub(super) columns: usize,
    /// Input row of the first row; negative in the padding.
    pub(super) top: isize,
    /// Columns of padding on the left.
    pub(super) left: usize,
}

/// `packed[v, r, c, l] = x[top + r, c − left, channels.start + v·LANES + l]`, zero outside the image and behind the channels.
#[inline(always)]
pub(super) fn pack<V: Vector, T: Element>(
    x: &[T],
    [height, width]: [usize; 2],
    stride: usize,
    channels: Range<usize>,
    window: &Window,
    packed: &mut [f32],
) {
    let row_len = window.columns * V::LANES;
    let plane = window.rows * row_len;
    let vectors = channels.len().div_ceil(V::LANES);
    assert!(vectors * plane <= packed.len() && channels.end <= stride && height * width * stride <= x.len());
    // Columns of the window that lie inside the image.
    let inside = window.left..window.columns.min(window.left + width);
    let whole = channels.len() / V::LANES;
    let rest = channels.len() % V::LANES;
    for r in 0..window.rows {
        let y = window.top + r as isize;
        for v in 0..vectors {
            let row = &mut packed[v * plane + r * row_len..][..row_len];
            if y < 0 || y >= height as isize {
                row.fill(0.0);
            } else {
                row[..inside.start * V::LANES].fill(0.0);
                row[inside.end * V::LANES..].fill(0.0);
            }
        }
        if y < 0 || y >= height as isize {
            continue;
        }
        // SAFETY: row y and the columns `inside` are in the image, the channels in a pixel, `packed` holds all vectors.
        unsafe {
            let mut from = x.as_ptr().add(y as usize * width * stride + channels.start);
            let mut to = packed.as_mut_ptr().add(r * row_len + inside.start * V::LANES);
            for _ in inside.clone() {
                for v in 0..whole {
                    V::load_as(from.add(v * V::LANES)).store(to.add(v * plane));
                }
                if rest > 0 {
                    V::load_partial_as(from.add(whole * V::LANES), rest).store(to.add(whole * plane));
                }
                from = from.add(stride);
                to = to.add(V::LANES);
            }
        }
    }
}

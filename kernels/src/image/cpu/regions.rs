//! Pixel counts and bounding boxes of the classes of a label map.

use crate::image::Window;

/// Where one class lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassRegion {
    /// Number of pixels that carry the label.
    pub pixels: usize,
    /// Smallest rectangle around them; `None` when there are none.
    pub bounds: Option<Window>,
}

/// Count and bounding box of each of `classes` classes in a label map `[height, width]`.
///
/// One sweep over runs of equal labels: a face's label map has a few dozen runs per row.
///
/// # Panics
/// If the length does not fit, or a label is not below `classes`.
pub fn class_regions(labels: &[u8], width: usize, height: usize, classes: usize) -> Vec<ClassRegion> {
    assert_eq!(labels.len(), width * height, "label map of {width}×{height}");
    #[derive(Clone, Copy)]
    struct Extent {
        pixels: usize,
        left: usize,
        right: usize,
        top: usize,
        bottom: usize,
    }
    let mut extents = vec![Extent { pixels: 0, left: usize::MAX, right: 0, top: usize::MAX, bottom: 0 }; classes];
    for (y, row) in labels.chunks_exact(width.max(1)).enumerate() {
        let mut start = 0;
        while start < width {
            let label = row[start];
            let end = start + run_length(&row[start..], label);
            let extent = &mut extents[usize::from(label)];
            extent.pixels += end - start;
            extent.left = extent.left.min(start);
            extent.right = extent.right.max(end);
            extent.top = extent.top.min(y);
            extent.bottom = y + 1;
            start = end;
        }
    }
    extents
        .into_iter()
        .map(|e| ClassRegion {
            pixels: e.pixels,
            bounds: (e.pixels > 0).then(|| Window {
                x: e.left,
                y: e.top,
                width: e.right - e.left,
                height: e.bottom - e.top,
            }),
        })
        .collect()
}

/// How many labels from the start equal `label`.
#[inline(always)]
pub(super) fn run_length(labels: &[u8], label: u8) -> usize {
    const WORD: usize = 8;
    let wanted = [label; WORD];
    let mut length = 0;
    for word in labels.chunks_exact(WORD) {
        if word != wanted {
            break;
        }
        length += WORD;
    }
    length + labels[length..].iter().take_while(|&&l| l == label).count()
}

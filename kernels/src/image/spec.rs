//! What the image kernels mean: constants, shapes, numerics. `cpu/` implements them.
//!
//! # Resize and normalise
//!
//! Source `[H, W, 3]` u8, target `[R_h, R_w, 3]`. Per axis, with scale `s = in/out`, `f = max(s, 1)`, output index `i` is
//! centred at `c = (i + ½)·s` and sums the input from `⌊c − 2f + ½⌋` to `⌊c + 2f + ½⌋` (clipped) with Keys' cubic `a = −½`
//! of `(x − c + ½)/f`, weights normalised to one in f64, then rounded to 22 fractional bits. The horizontal pass comes first;
//! each pass rounds to nearest and clamps to a byte. That is `PIL.Image.resize(…, BICUBIC)` up to Pillow 12.1, whose bits are the
//! standard here because the published networks were trained on them. (From 12.2 on Pillow begins with the vertical pass where that is
//! less work, which moves values by a few units.) Cost: about `3·(H·R_w·4·s_x + R_h·R_w·4·s_y)` integer
//! multiply-adds when shrinking.
//!
//! Normalisation is f32 in this order: `(v / 255 − mean) / std`, as torchvision's `to_tensor` and `normalize` do it.
//!
//! # RoI-tanh warp
//!
//! See [`super::FaceWarp`]. Grids are f32 in the published order of operations, because the warp is ill-conditioned in f32
//! (`tanh` is flat far from the face) and a more exact grid would be a different one.
//!
//! # Labels at another size
//!
//! `labels[y, x] = argmax_t bilinear(logits[·,·,t])(y, x)`, half-pixel centres (`align_corners = False`), first index on ties,
//! a NaN counting as −∞. See [`super::LabelResizer`] for why most pixels need no arithmetic.

/// ImageNet's channel means (R, G, B), in units of full scale.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// ImageNet's channel standard deviations (R, G, B), in units of full scale.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// LaPa's five standard points in [−1, 1]: left eye, right eye, nose tip, left and right corner of the mouth, as (x, y)
/// in 256ths above −1.
pub const STANDARD_FACE_POINTS: [[f32; 2]; 5] =
    [[196.0, 226.0], [316.0, 226.0], [256.0, 286.0], [220.0, 360.4], [292.0, 360.4]];

/// Share of each half axis that the warp bends; the middle `1 − WARP_FACTOR` stays linear.
pub const WARP_FACTOR: f32 = 0.8;

/// Order of the network's input values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[H, W, 3]`: what the engine takes.
    Nhwc,
    /// `[3, H, W]`: what the published code takes, and what `segface logits` reads.
    Nchw,
}

/// A rectangle of pixels: left, top, width, height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Left edge, the first column inside.
    pub x: usize,
    /// Top edge, the first row inside.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Window {
    /// All of an image.
    pub fn whole(width: usize, height: usize) -> Window {
        Window { x: 0, y: 0, width, height }
    }

    /// Whether the rectangle is not empty and lies inside an image of that size.
    pub fn fits(&self, width: usize, height: usize) -> bool {
        let inside = |start: usize, length: usize, limit: usize| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= limit)
        };
        inside(self.x, self.width, width) && inside(self.y, self.height, height)
    }
}

/// RGB8 pixels, rows top to bottom, three interleaved bytes per pixel; possibly a window into a larger image.
#[derive(Debug, Clone, Copy)]
pub struct RgbView<'a> {
    data: &'a [u8],
    width: usize,
    height: usize,
    stride: usize,
}

impl<'a> RgbView<'a> {
    /// A view of a whole image.
    ///
    /// # Panics
    /// If `data` does not hold exactly `3·width·height` bytes or a side is zero.
    pub fn new(data: &'a [u8], width: usize, height: usize) -> Self {
        assert!(width > 0 && height > 0, "an image of {width}×{height} pixels has no pixels");
        assert_eq!(data.len(), 3 * width * height, "RGB8 of {width}×{height}");
        RgbView { data, width, height, stride: 3 * width }
    }

    /// A window of this view; no pixel is copied.
    ///
    /// # Panics
    /// If the window does not fit.
    pub fn window(self, window: Window) -> Self {
        assert!(window.fits(self.width, self.height), "{window:?} in {}×{}", self.width, self.height);
        let start = window.y * self.stride + 3 * window.x;
        RgbView { data: &self.data[start..], width: window.width, height: window.height, stride: self.stride }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes from the start of row `y` to the end of the underlying image: the row's own `3·width` come first.
    /// Kernels may read (and must ignore) what follows, so wide loads need no special case but at the very end.
    pub(super) fn tail_from(&self, y: usize) -> &'a [u8] {
        &self.data[y * self.stride..]
    }

    /// Row `y`, `3·width` bytes.
    pub fn row(&self, y: usize) -> &'a [u8] {
        &self.tail_from(y)[..3 * self.width]
    }
}

/// How [`super::blend_labels`] paints.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlendStyle {
    /// Weight of the class colour inside a region, 0 to 1. Class 0 (background) is left as it is.
    pub fill: f32,
    /// Weight of the boundary colour on the line between two regions, 0 to 1.
    pub line: f32,
    /// Width of that line in pixels; 0 draws none.
    pub line_width: usize,
}

impl BlendStyle {
    /// A fill that leaves the photo readable, and a line of about a thousandth of the longer side.
    pub fn for_size(width: usize, height: usize) -> BlendStyle {
        BlendStyle {
            fill: 0.5,
            line: 0.85,
            line_width: (width.max(height) + 500) / 1000 + usize::from(width.max(height) < 500),
        }
    }

    /// `fill` and `line` in 256ths.
    pub(super) fn weights(&self) -> (u16, u16) {
        let weight = |share: f32| (share.clamp(0.0, 1.0) * 256.0).round() as u16;
        (weight(self.fill), weight(self.line))
    }
}

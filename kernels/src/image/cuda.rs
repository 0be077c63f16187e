//! The image kernels on CUDA: their source, and the launches that a frame takes, as text and numbers. Who runs them brings a
//! driver.
//!
//! | CPU | launches here | what goes up |
//! |---|---|---|
//! | `Resampler::resize`, `resize_normalise` | [`Resize`]: 2 | the photo's bytes, weights of its size |
//! | `FaceWarp::warp`, `unwarp` | [`warp`], [`unwarp`]: 1 each | six numbers a face; [`FaceWarp::bent_axes`] once |
//! | `argmax_labels`, `LabelResizer::run` | [`argmax_labels`], [`resize_labels`]: 1 each | nothing |
//! | `blend_labels`, `class_regions` | [`blend_labels`], [`class_regions`]: 1 each | the palette once |
//!
//! [`Frame`] puts them together: a photo is 4 launches from bytes to labels, 3 where the network gives labels beside its logits; with
//! a warp (resize to RGB8, warp, …, unwarp with labels, resize of the labels) it is 5. All results are bit for bit those of
//! the CPU's kernels.
//!
//! [`source`] is the text of any set of kernels, compiled with [`crate::cuda::HEADERS`] and [`crate::cuda::COMPILE_OPTIONS`].
//! Every kernel has blocks of [`THREADS`] and no dynamic shared memory. Images have fewer than 2³² pixels and sides
//! below 2³⁰.

mod frame;
mod kernel;
mod resize;

use super::{BlendStyle, ClassRegion, FaceWarp, Window};

pub use frame::Frame;
pub use kernel::{Kernel, source};
pub use resize::{Resize, ResizeOutput};

/// Threads of a block, of every kernel.
pub const THREADS: u32 = 256;

/// What a launch gives its kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// An address on the device.
    Address(u64),
    /// A 32-bit integer.
    I32(i32),
    /// A 32-bit integer without sign.
    U32(u32),
    /// A 64-bit integer without sign.
    U64(u64),
    /// A 32-bit float.
    F32(f32),
}

impl Argument {
    /// Its bits from the low end on; a driver reads as many as the kernel declares.
    pub fn bits(self) -> u64 {
        match self {
            Argument::Address(bits) | Argument::U64(bits) => bits,
            Argument::I32(value) => u64::from(value as u32),
            Argument::U32(value) => value.into(),
            Argument::F32(value) => value.to_bits().into(),
        }
    }
}

/// One launch, of blocks of [`THREADS`].
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// What is run.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Arguments in the kernel's order.
    pub arguments: Vec<Argument>,
}

/// A side or a weight as the kernels take it.
fn int(value: usize) -> Argument {
    Argument::I32(i32::try_from(value).expect("sides fit 31 bits"))
}

/// Blocks along an axis.
fn blocks(length: usize, of: usize) -> u32 {
    u32::try_from(length.div_ceil(of)).expect("a grid's axis fits 32 bits")
}

/// Pixels of an image.
fn pixels((width, height): (usize, usize)) -> usize {
    let pixels = width * height;
    assert!(u32::try_from(pixels).is_ok(), "{width}×{height} pixels do not fit 32 bits");
    pixels
}

/// Where the faces of a batch come from and go to.
#[derive(Debug, Clone, Copy)]
pub struct WarpAddresses {
    /// f32 [batch, 6]: [`FaceWarp::into_network`] or [`FaceWarp::out_of_network`].
    pub matrices: u64,
    /// f32: [`FaceWarp::bent_axes`], columns, then rows.
    pub bent_axes: u64,
}

/// What a warp reads.
#[derive(Debug, Clone, Copy)]
pub enum WarpSource {
    /// RGB8 `[batch, height, width, 3]`, as [`ResizeOutput::Rgb`] leaves it.
    Rgb(u64),
    /// f32, normalised.
    Float(u64),
}

/// Images of size `image` = (width, height) into warped frames of size `warped` at `out`, `[batch, h, w, 3]` elements of the network's
/// input: [`FaceWarp::warp`].
pub fn warp(
    batch: usize,
    source: WarpSource,
    image: (usize, usize),
    faces: WarpAddresses,
    out: u64,
    warped: (usize, usize),
) -> Launch {
    let (kernel, address) = match source {
        WarpSource::Rgb(address) => (Kernel::WarpRgb, address),
        WarpSource::Float(address) => (Kernel::WarpFloat, address),
    };
    Launch {
        kernel,
        grid: [blocks(warped.0, 32), blocks(warped.1, 8), blocks(batch, 1)],
        arguments: vec![
            Argument::Address(address),
            int(image.0),
            int(image.1),
            Argument::Address(faces.matrices),
            Argument::Address(faces.bent_axes),
            Argument::Address(faces.bent_axes + 4 * warped.0 as u64),
            Argument::Address(out),
            int(warped.0),
            int(warped.1),
        ],
    }
}

/// Logits f32 `[batch, h, w, classes]` of `size` = (w, h), which cover warped frames of size `warped`, back to images of size `image`:
/// f32 logits at `out` and their labels at `labels`. `matrices`: [`FaceWarp::out_of_network`] of each.
#[expect(clippy::too_many_arguments, reason = "three sizes and four addresses are what there is to say")]
pub fn unwarp(
    batch: usize,
    logits: u64,
    size: (usize, usize),
    classes: usize,
    warped: (usize, usize),
    matrices: u64,
    (out, labels): (u64, u64),
    image: (usize, usize),
) -> Launch {
    Launch {
        kernel: Kernel::Unwarp,
        grid: [blocks(pixels(image), tile_pixels(classes)), 1, blocks(batch, 1)],
        arguments: vec![
            Argument::Address(logits),
            int(size.0),
            int(size.1),
            Argument::F32(warped.0 as f32),
            Argument::F32(warped.1 as f32),
            Argument::Address(matrices),
            Argument::Address(out),
            Argument::Address(labels),
            int(image.0),
            int(image.1),
        ],
    }
}

/// `LabelTile::PIXELS`.
fn tile_pixels(classes: usize) -> usize {
    if classes <= 32 { 256 } else { 32 }
}

/// Labels of `count` pixels: [`super::argmax_labels`].
pub fn argmax_labels(logits: u64, labels: u64, count: usize, classes: usize) -> Launch {
    Launch {
        kernel: Kernel::ArgmaxLabels,
        grid: [blocks(count, tile_pixels(classes)), 1, 1],
        arguments: vec![
            Argument::Address(logits),
            Argument::Address(labels),
            Argument::U32(u32::try_from(count).expect("pixels fit 32 bits")),
        ],
    }
}

/// Logits of `size` = (w, h) with their own labels `corners` to the rectangle `window` of a label map of `stride` columns at `out`:
/// [`super::LabelResizer::run`]. The rest of the map is left as it is.
///
/// # Panics
/// If a side is zero.
pub fn resize_labels(
    logits: u64,
    corners: u64,
    size: (usize, usize),
    out: u64,
    stride: usize,
    window: Window,
) -> Launch {
    assert!(size.0 > 0 && size.1 > 0 && window.width > 0 && window.height > 0, "{size:?} to {window:?}");
    Launch {
        kernel: Kernel::ResizeLabels,
        grid: [blocks(window.width, 32), blocks(window.height, 64), 1],
        arguments: vec![
            Argument::Address(logits),
            Argument::Address(corners),
            int(size.0),
            int(size.1),
            Argument::Address(out + (window.y * stride + window.x) as u64),
            Argument::U64(stride as u64),
            int(window.width),
            int(window.height),
        ],
    }
}

/// A palette as the kernels take it: a word per class.
pub fn palette_words(palette: &[[u8; 3]]) -> Vec<u32> {
    palette.iter().map(|&[red, green, blue]| u32::from_le_bytes([red, green, blue, 0])).collect()
}

/// Labels of `count` pixels as RGB8 at `rgb`, a multiple of 4.
pub fn color_labels(labels: u64, palette: u64, rgb: u64, count: usize) -> Launch {
    Launch {
        kernel: Kernel::ColorLabels,
        grid: [blocks(count, 4 * THREADS as usize), 1, 1],
        arguments: vec![
            Argument::Address(labels),
            Argument::Address(palette),
            Argument::Address(rgb),
            Argument::U32(u32::try_from(count).expect("pixels fit 32 bits")),
        ],
    }
}

/// Labels over the RGB8 photo at `rgb`, a multiple of 4, changed in place: [`super::blend_labels`].
pub fn blend_labels(rgb: u64, labels: u64, size: (usize, usize), palette: u64, style: BlendStyle) -> Launch {
    let (fill, line) = style.weights();
    Launch {
        kernel: Kernel::BlendLabels,
        grid: [blocks(pixels(size), 4 * THREADS as usize), 1, 1],
        arguments: vec![
            Argument::Address(rgb),
            Argument::Address(labels),
            int(size.0),
            int(size.1),
            Argument::Address(palette),
            Argument::I32(fill.into()),
            Argument::I32(line.into()),
            int(style.line_width),
        ],
    }
}

/// Fields of a class in what [`class_regions`] leaves.
pub const REGION_FIELDS: usize = 5;

/// Most blocks of [`class_regions`]: a few for each processor of a large card, so that few of them add up their counts at the end.
const REGION_BLOCKS: usize = 512;

/// Count and bounds of each class at `regions`, u32 `[classes, REGION_FIELDS]`, zeros before the launch: [`super::class_regions`].
/// [`regions`] reads the result.
pub fn class_regions(labels: u64, size: (usize, usize), regions: u64) -> Launch {
    let segments = size.0.div_ceil(1024) * size.1;
    Launch {
        kernel: Kernel::ClassRegions,
        grid: [blocks(segments, THREADS as usize / 32).clamp(1, REGION_BLOCKS as u32), 1, 1],
        arguments: vec![Argument::Address(labels), int(size.0), int(size.1), Argument::Address(regions)],
    }
}

/// The regions that a launch of [`class_regions`] on a map of that size left.
pub fn regions(fields: &[u32], (width, height): (usize, usize)) -> Vec<ClassRegion> {
    let region = |fields: &[u32; REGION_FIELDS]| {
        let [pixels, right, bottom, from_left, from_top] = fields.map(|field| field as usize);
        let bounds = (pixels > 0).then(|| {
            let (x, y) = (width - from_left, height - from_top);
            Window { x, y, width: right - x, height: bottom - y }
        });
        ClassRegion { pixels, bounds }
    };
    fields.as_chunks::<REGION_FIELDS>().0.iter().map(region).collect()
}

impl FaceWarp {
    /// The six numbers that [`warp`] takes: from the standard face to the image.
    pub fn into_network(&self) -> [f32; 6] {
        self.matrices().0
    }

    /// The six numbers that [`unwarp`] takes: from the image to the standard face.
    pub fn out_of_network(&self) -> [f32; 6] {
        self.matrices().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{BlendStyle, STANDARD_FACE_POINTS};

    #[test]
    fn every_launch_gives_its_kernel_what_it_declares() {
        let faces = WarpAddresses { matrices: 256, bent_axes: 512 };
        let window = Window { x: 3, y: 2, width: 70, height: 80 };
        let style = BlendStyle::for_size(70, 80);
        let mut launches = vec![
            warp(2, WarpSource::Rgb(0), (9, 8), faces, 0, (9, 8)),
            warp(2, WarpSource::Float(0), (9, 8), faces, 0, (9, 8)),
            unwarp(2, 0, (8, 8), 11, (9, 8), 0, (0, 0), (9, 8)),
            argmax_labels(0, 0, 72, 11),
            resize_labels(0, 0, (9, 8), 1000, 90, window),
            color_labels(0, 0, 0, 72),
            blend_labels(0, 0, (70, 80), 0, style),
            class_regions(0, (70, 80), 0),
        ];
        for output in [ResizeOutput::Rgb, ResizeOutput::Nhwc, ResizeOutput::Nchw] {
            launches.extend(Resize::new((70, 80), (9, 8)).launches(0, 300, 0, 0, output, 0));
        }
        for kernel in Kernel::ALL {
            let launch = launches.iter().find(|launch| launch.kernel == kernel).expect("one for each kernel");
            let given: Vec<_> = launch
                .arguments
                .iter()
                .map(|argument| match argument {
                    Argument::Address(_) => "address",
                    Argument::I32(_) => "int",
                    Argument::U32(_) => "u32",
                    Argument::U64(_) => "u64",
                    Argument::F32(_) => "float",
                })
                .collect();
            assert_eq!(given, kernel.parameter_kinds(), "{kernel:?}");
        }
        assert_eq!(launches[4].arguments[4], Argument::Address(1000 + 2 * 90 + 3));
        assert_eq!(launches[4].grid, [3, 2, 1]);
    }

    #[test]
    fn regions_read_what_grows_from_zero() {
        let fields = [7, 5, 9, 10 - 2, 20 - 4, 0, 0, 0, 0, 0];
        let expected = Window { x: 2, y: 4, width: 3, height: 5 };
        let empty = ClassRegion { pixels: 0, bounds: None };
        assert_eq!(regions(&fields, (10, 20)), [ClassRegion { pixels: 7, bounds: Some(expected) }, empty]);
    }

    #[test]
    fn a_warp_hands_out_its_matrices_and_axes() {
        let standard = STANDARD_FACE_POINTS.map(|p| p.map(|v| (v / 256.0) * 255.0 / 2.0));
        let warp = FaceWarp::fit(&standard, (256, 256), (256, 200)).unwrap();
        let (inward, outward) = (warp.into_network(), warp.out_of_network());
        assert!((inward[0] * outward[0] - inward[1] * outward[3].abs() - 1.0).abs() < 0.2, "{inward:?} {outward:?}");
        let axes = warp.bent_axes();
        assert_eq!(axes.len(), 456);
        assert!((axes[128] - 128.0).abs() < 1e-3 && axes[0] < 0.0);
    }
}

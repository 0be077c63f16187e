//! The kernels as text.

use super::THREADS;
use crate::DType;

/// A kernel of [`source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// First pass of a resize.
    ResizeHorizontal,
    /// Second pass, to RGB8.
    ResizeRgb,
    /// Second pass, normalised, `[height, width, 3]`.
    ResizeNormalise,
    /// Second pass, normalised, `[3, height, width]`.
    ResizeNormalisePlanar,
    /// Warp of RGB8, normalised on the way.
    WarpRgb,
    /// Warp of normalised f32.
    WarpFloat,
    /// Logits out of the warped frame, with labels.
    Unwarp,
    /// Labels of logits.
    ArgmaxLabels,
    /// Labels at another size.
    ResizeLabels,
    /// Labels as colours.
    ColorLabels,
    /// Colours over the photo.
    BlendLabels,
    /// Count and bounds per class.
    ClassRegions,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Kernel; 12] = [
        Kernel::ResizeHorizontal,
        Kernel::ResizeRgb,
        Kernel::ResizeNormalise,
        Kernel::ResizeNormalisePlanar,
        Kernel::WarpRgb,
        Kernel::WarpFloat,
        Kernel::Unwarp,
        Kernel::ArgmaxLabels,
        Kernel::ResizeLabels,
        Kernel::ColorLabels,
        Kernel::BlendLabels,
        Kernel::ClassRegions,
    ];

    /// Its `extern "C"` name.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::ResizeHorizontal => "image_resize_horizontal",
            Kernel::ResizeRgb => "image_resize_rgb",
            Kernel::ResizeNormalise => "image_resize_normalise",
            Kernel::ResizeNormalisePlanar => "image_resize_normalise_planar",
            Kernel::WarpRgb => "image_warp_rgb",
            Kernel::WarpFloat => "image_warp_float",
            Kernel::Unwarp => "image_unwarp",
            Kernel::ArgmaxLabels => "image_argmax_labels",
            Kernel::ResizeLabels => "image_resize_labels",
            Kernel::ColorLabels => "image_color_labels",
            Kernel::BlendLabels => "image_blend_labels",
            Kernel::ClassRegions => "image_class_regions",
        }
    }

    /// Parameters and body, in terms of `E` (the network's input), `L` (logits) and `CLASSES`.
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Kernel::ResizeHorizontal => (
                "const u8 *source, int width, int height, u64 stride, const Chunk *weights, int weight_stride, u8 *middle, int out_width",
                "resize_horizontal(source, width, height, stride, Axis{weights, weight_stride}, middle, out_width);",
            ),
            Kernel::ResizeRgb => (
                "const u8 *middle, const Chunk *weights, int weight_stride, u8 *out, int width, int height",
                "resize_vertical(middle, Axis{weights, weight_stride}, Bytes{out}, width, height);",
            ),
            Kernel::ResizeNormalise => (
                "const u8 *middle, const Chunk *weights, int weight_stride, E *out, int width, int height",
                "resize_vertical(middle, Axis{weights, weight_stride}, Interleaved<E>{out}, width, height);",
            ),
            Kernel::ResizeNormalisePlanar => (
                "const u8 *middle, const Chunk *weights, int weight_stride, E *out, int width, int height",
                "resize_vertical(middle, Axis{weights, weight_stride}, Planar<E>{out}, width, height);",
            ),
            Kernel::WarpRgb => (
                "const u8 *image, int width, int height, const float *matrices, const float *columns, const float *rows, E *out, \
                 int warped_width, int warped_height",
                "warp(RgbImage{image}, width, height, matrices, columns, rows, out, warped_width, warped_height);",
            ),
            Kernel::WarpFloat => (
                "const float *image, int width, int height, const float *matrices, const float *columns, const float *rows, E *out, \
                 int warped_width, int warped_height",
                "warp(FloatImage{image}, width, height, matrices, columns, rows, out, warped_width, warped_height);",
            ),
            Kernel::Unwarp => (
                "const L *logits, int width, int height, float frame_width, float frame_height, const float *matrices, float *out, \
                 u8 *labels, int out_width, int out_height",
                "unwarp<L, CLASSES>(logits, width, height, frame_width, frame_height, matrices, out, labels, out_width, out_height);",
            ),
            Kernel::ArgmaxLabels => {
                ("const L *logits, u8 *labels, u32 pixels", "argmax_labels<L, CLASSES>(logits, labels, pixels);")
            }
            Kernel::ResizeLabels => (
                "const L *logits, const u8 *corners, int width, int height, u8 *labels, u64 stride, int out_width, int out_height",
                "resize_labels<L, CLASSES>(logits, corners, width, height, labels, stride, out_width, out_height);",
            ),
            Kernel::ColorLabels => (
                "const u8 *labels, const u32 *palette, u8 *rgb, u32 pixels",
                "color_labels(labels, palette, rgb, pixels);",
            ),
            Kernel::BlendLabels => (
                "u8 *rgb, const u8 *labels, int width, int height, const u32 *palette, int fill, int line, int line_width",
                "blend_labels(rgb, labels, width, height, palette, fill, line, line_width);",
            ),
            Kernel::ClassRegions => (
                "const u8 *labels, int width, int height, u32 *regions",
                "class_regions<CLASSES>(labels, width, height, regions);",
            ),
        }
    }

    /// What kind each parameter is of.
    #[cfg(test)]
    pub(super) fn parameter_kinds(self) -> Vec<&'static str> {
        let kind = |parameter: &str| match parameter.trim() {
            p if p.contains('*') => "address",
            p if p.starts_with("int ") => "int",
            p if p.starts_with("u32 ") => "u32",
            p if p.starts_with("u64 ") => "u64",
            p if p.starts_with("float ") => "float",
            p => panic!("{p}"),
        };
        self.text().0.split(',').map(kind).collect()
    }
}

/// The text of some kernels, for a network whose input has elements of type `input` and which tells `classes` classes. Logits are
/// f32 whatever the network computes in.
///
/// # Panics
/// If there are more than 256 classes or none, or `input` is no number.
pub fn source(kernels: &[Kernel], input: DType, classes: usize) -> String {
    assert!((1..=256).contains(&classes), "{classes} classes do not fit a byte");
    let element = match input {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
        DType::U8 => panic!("class ids are no input"),
    };
    let mut text = format!(
        "#include \"image/labels.cuh\"\n#include \"image/paint.cuh\"\nusing namespace segface;\nusing namespace segface::image;\n\
         using E = {element};\nusing L = float;\nconstexpr int CLASSES = {classes};\n"
    );
    for kernel in kernels {
        let (parameters, body) = kernel.text();
        let name = kernel.name();
        // One block is enough: without a number, ptxas aims at an occupancy of its own and spills a few registers for it.
        text += &format!(
            "extern \"C\" __global__ void __launch_bounds__({THREADS}, 1) {name}({parameters}) {{\n    {body}\n}}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_names_every_kernel_and_its_types() {
        let text = source(&Kernel::ALL, DType::F16, 19);
        for kernel in Kernel::ALL {
            assert_eq!(text.matches(&format!(" {}(", kernel.name())).count(), 1, "{kernel:?}");
        }
        assert!(text.contains("using E = f16;") && text.contains("CLASSES = 19;"));
    }

    #[test]
    fn a_kernel_alone_is_a_text_of_its_own() {
        let text = source(&[Kernel::BlendLabels], DType::F32, 11);
        assert_eq!(text.matches("__global__").count(), 1);
        assert!(text.contains(Kernel::BlendLabels.name()));
    }
}

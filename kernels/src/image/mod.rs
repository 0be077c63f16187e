//! Pixels in, labels out: what surrounds the network.
//!
//! | kernel | does |
//! |---|---|
//! | [`Resampler`] | PIL's antialiased bicubic resize of RGB8, bit for bit, then `(x/255 − mean)/std` into the network's input |
//! | [`FaceWarp`] | LaPa's RoI-tanh warp of the input and un-warp of the logits |
//! | [`LabelResizer`] | bilinear resize of the logits to the photo's size and argmax, in one sweep that never holds H·W·T values |
//! | [`class_regions`] | pixel count and bounding box per class |
//! | [`blend_labels`] | class colours and boundaries laid over the photo |
//!
//! Everything here is cheap beside the network, yet on the path of each photo: at 12 megapixels a plain
//! H·W·T upscale costs more than MobileNet. Threads and instruction set come with the [`Context`](crate::Context).

mod cpu;
pub mod cuda;
mod spec;

pub use cpu::{ClassRegion, FaceWarp, LabelResizer, Resampler, WarpError, argmax_labels, blend_labels, class_regions};
pub use spec::{BlendStyle, Layout, MEAN, RgbView, STANDARD_FACE_POINTS, STD, WARP_FACTOR, Window};

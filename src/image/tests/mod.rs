//! Photos of every kind, whole and broken, against what OpenCV, Pillow and the published loaders make of them.

mod broken;
mod decode;
mod devices;
mod fixtures;
mod frame;
mod pipeline;

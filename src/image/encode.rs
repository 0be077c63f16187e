//! Label maps and overlays as PNG.

use super::{LabelMap, Photo};
use segface_kernels::{
    Context,
    image::{BlendStyle, blend_labels},
};
use std::io::{self, Write};

/// Writes a label map as an indexed PNG of 8 bits: pixel values are class ids, the palette holds the classes' colours, so that
/// viewers show colours and programs read ids.
///
/// # Errors
/// What `out` reports.
pub fn encode_labels(out: impl Write, map: &LabelMap, palette: &[[u8; 3]]) -> io::Result<()> {
    let (width, height) = size_of(map.width, map.height)?;
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette.concat());
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&map.labels)?;
    Ok(writer.finish()?)
}

/// The photo with the labels painted over it, RGB8. The colours are blended half and half, boundaries are drawn as light lines, the
/// background stays as it is.
///
/// # Panics
/// If photo and map differ in size.
pub fn overlay(ctx: &mut Context, photo: &Photo, map: &LabelMap, palette: &[[u8; 3]]) -> Vec<u8> {
    assert_eq!((photo.width, photo.height), (map.width, map.height), "labels of another photo");
    let mut pixels = photo.pixels.clone();
    let style = BlendStyle::for_size(map.width, map.height);
    blend_labels(ctx, &mut pixels, &map.labels, map.width, map.height, palette, style);
    pixels
}

/// Writes RGB8 pixels of `size` = (width, height) as a PNG.
///
/// # Errors
/// What `out` reports.
///
/// # Panics
/// If the pixels are not of that size.
pub fn encode_overlay(out: impl Write, size: (usize, usize), pixels: &[u8]) -> io::Result<()> {
    assert_eq!(pixels.len(), 3 * size.0 * size.1, "an overlay of another photo");
    let (width, height) = size_of(size.0, size.1)?;
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fastest);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

fn size_of(width: usize, height: usize) -> io::Result<(u32, u32)> {
    let side = |value: usize| {
        u32::try_from(value).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too large for a PNG"))
    };
    Ok((side(width)?, side(height)?))
}

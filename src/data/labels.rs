//! Label maps and masks from PNG, and Pillow's nearest-neighbour resize.

use super::DataError;
use crate::image::{DEFAULT_MAX_PIXELS, LabelMap};
use segface_kernels::image::Window;
use std::{fs, io::Cursor, path::Path};

/// A pixel value that is no class: the metrics leave such pixels out.
pub const IGNORE: u8 = 255;

/// What the decoder gives: samples as `color` says, rows without gaps.
struct Samples {
    width: usize,
    height: usize,
    color: png::ColorType,
    depth: png::BitDepth,
    data: Vec<u8>,
}

fn decode(path: &Path, bytes: &[u8], transformations: png::Transformations) -> Result<Samples, DataError> {
    let bad = |reason: String| DataError::File { path: path.into(), reason };
    if bytes.is_empty() {
        return Err(bad("the file is empty (0 bytes): copy or download it again".into()));
    }
    if !bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Err(bad("not a PNG file, whatever its name says; labels must be PNG, which loses nothing".into()));
    }
    let failed = |error: png::DecodingError| match error {
        png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            bad("this PNG file is cut off: copy or download it again".into())
        }
        other => bad(format!("this PNG file is damaged: {other}")),
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: 256 << 20 });
    decoder.set_transformations(transformations);
    let header = decoder.read_header_info().map_err(failed)?;
    let (width, height) = (header.width as usize, header.height as usize);
    if u64::from(header.width) * u64::from(header.height) > DEFAULT_MAX_PIXELS {
        return Err(bad(format!("{width}x{height} pixels are more than the {DEFAULT_MAX_PIXELS} allowed")));
    }
    let mut reader = decoder.read_info().map_err(failed)?;
    let size = reader.output_buffer_size().ok_or_else(|| bad("its size overflows".into()))?;
    let mut data = vec![0; size];
    reader.next_frame(&mut data).map_err(failed)?;
    reader.finish().map_err(failed)?;
    let (color, depth) = reader.output_color_type();
    Ok(Samples { width, height, color, depth, data })
}

fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|reason| DataError::Read { path: path.into(), reason })
}

/// Reads a map of class ids: 8-bit grey, or indexed, where the index is the id; colour only if it is grey in every pixel.
pub(super) fn read_labels(path: &Path) -> Result<LabelMap, DataError> {
    let samples = decode(path, &read(path)?, png::Transformations::IDENTITY)?;
    let Samples { width, height, color, depth, data } = samples;
    let bad = |reason: String| DataError::File { path: path.into(), reason };
    use png::{BitDepth::Eight, ColorType};
    let labels = match (color, depth) {
        (ColorType::Grayscale | ColorType::Indexed, Eight) => data,
        (ColorType::Indexed, bits) => unpack(&data, width, bits as usize),
        (ColorType::GrayscaleAlpha, Eight) => data.chunks_exact(2).map(|pixel| pixel[0]).collect(),
        (ColorType::Rgb | ColorType::Rgba, Eight) => {
            let pixels = data.chunks_exact(color.samples());
            if let Some(at) = pixels.clone().position(|p| p[0] != p[1] || p[0] != p[2]) {
                let [x, y] = [at % width, at / width];
                return Err(bad(format!(
                    "a picture in colours (pixel {x}, {y}), not class ids; expected 8-bit grey, each pixel the number of its class"
                )));
            }
            pixels.map(|pixel| pixel[0]).collect()
        }
        (_, bits) => {
            let bits = bits as usize;
            return Err(bad(format!(
                "{bits} bits per sample; expected 8-bit grey, each pixel the number of its class"
            )));
        }
    };
    Ok(LabelMap { width, height, labels })
}

/// Indices of `bits` bits to bytes; rows begin at whole bytes.
fn unpack(data: &[u8], width: usize, bits: usize) -> Vec<u8> {
    let row_bytes = (width * bits).div_ceil(8);
    let mask = ((1u16 << bits) - 1) as u8;
    let rows = data.chunks_exact(row_bytes);
    rows.flat_map(|row| {
        (0..width).map(move |x| {
            let bit = x * bits;
            (row[bit / 8] >> (8 - bits - bit % 8)) & mask
        })
    })
    .collect()
}

/// Reads a mask: 1 where the picture, as grey, is not black, else 0. `None` where there is no such file.
pub(super) fn read_mask(path: &Path) -> Result<Option<LabelMap>, DataError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(DataError::Read { path: path.into(), reason }),
    };
    let samples = decode(path, &bytes, png::Transformations::normalize_to_color8())?;
    let Samples { width, height, color, data, .. } = samples;
    let mut labels = data;
    match color.samples() {
        1 => labels.iter_mut().for_each(|value| *value = u8::from(*value > 0)),
        2 => labels = labels.chunks_exact(2).map(|pixel| u8::from(pixel[0] > 0)).collect(),
        // OpenCV, with which the published loader reads, has libpng make it grey with these weights.
        channels => {
            labels = labels
                .chunks_exact(channels)
                .map(|p| {
                    let grey = 9798 * u32::from(p[0]) + 19_235 * u32::from(p[1]) + 3735 * u32::from(p[2]);
                    u8::from(grey >> 15 > 0)
                })
                .collect();
        }
    }
    Ok(Some(LabelMap { width, height, labels }))
}

/// What is wrong with the values of a label map, if anything is: those that are neither a class nor [`IGNORE`].
pub(super) fn out_of_range(map: &LabelMap, classes: usize) -> Option<String> {
    let mut counts = [0usize; 256];
    for &label in &map.labels {
        counts[usize::from(label)] += 1;
    }
    let wrong: Vec<usize> = (classes..usize::from(IGNORE)).filter(|&label| counts[label] > 0).collect();
    let first = map.labels.iter().position(|&label| wrong.contains(&usize::from(label)))?;
    let listed: Vec<String> =
        wrong.iter().take(5).map(|&label| format!("{label} ({} pixels)", counts[label])).collect();
    let more = if wrong.len() > listed.len() { ", ..." } else { "" };
    Some(format!(
        "labels out of range: {}{more}, the first at pixel ({}, {}); expected 0 to {}, or {IGNORE} for pixels to ignore",
        listed.join(", "),
        first % map.width,
        first / map.width,
        classes - 1
    ))
}

/// Resizes the `window` of a label map to `target` = (width, height), as `PIL.Image.resize(…, NEAREST)` does. Pillow adds up
/// positions, so they are added up here, roundings and all.
pub(super) fn resize_nearest(map: &LabelMap, window: Window, target: (usize, usize)) -> Vec<u8> {
    let positions = |source: usize, target: usize| -> Vec<usize> {
        let step = source as f64 / target as f64;
        let mut at = 0.5 * step;
        let position = |_| {
            let here = (at as usize).min(source - 1);
            at += step;
            here
        };
        (0..target).map(position).collect()
    };
    let columns = positions(window.width, target.0);
    let mut out = Vec::with_capacity(target.0 * target.1);
    for y in positions(window.height, target.1) {
        let row = &map.labels[(window.y + y) * map.width + window.x..][..window.width];
        out.extend(columns.iter().map(|&x| row[x]));
    }
    out
}

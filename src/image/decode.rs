//! JPEG, PNG and WebP to upright RGB8, told by content and not by name.
//!
//! The pixels are what `cv2.imread` (with which the published networks were trained) makes of the same file: EXIF orientation
//! applied, alpha dropped, 16 bits cut to their upper 8, CMYK by its plain formula, no colour management. JPEG and lossy WebP are
//! decoded by other code than OpenCV's, whose inverse transforms round differently: a channel may differ by a few units.

use super::{ImageError, orient::Orientation};
use segface_kernels::image::RgbView;
use std::{
    fmt,
    fs::File,
    io::{Cursor, Read},
    path::Path,
};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// Most pixels that are decoded unless the caller allows more: 2^27, 134 megapixels, 400 MB of RGB.
///
/// A file of a few kilobytes can announce a picture of gigabytes; no camera makes one.
pub const DEFAULT_MAX_PIXELS: u64 = 1 << 27;

/// A format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive, grey, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// Every colour type and depth, also interlaced; the first frame of an APNG.
    Png,
    /// Lossy and lossless, with and without alpha; the first frame of an animation.
    WebP,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::WebP => "WebP",
        })
    }
}

/// A decoded photo, upright.
#[derive(Clone, PartialEq, Eq)]
pub struct Photo {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// RGB8, `[height, width, 3]`.
    pub pixels: Vec<u8>,
    /// What it was stored as.
    pub format: Format,
}

impl fmt::Debug for Photo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Photo({}, {}x{})", self.format, self.width, self.height)
    }
}

impl Photo {
    /// The pixels as the kernels take them.
    pub fn view(&self) -> RgbView<'_> {
        RgbView::new(&self.pixels, self.width, self.height)
    }
}

/// Reads and decodes a photo of at most `max_pixels`.
///
/// Memory: the file, the pixels (3 bytes each), and for progressive JPEG their coefficients (up to 6 bytes per pixel).
///
/// # Errors
/// [`ImageError`]: unreadable, empty, of no known format, cut off, damaged, or too large.
pub fn decode_file(path: &Path, max_pixels: u64) -> Result<Photo, ImageError> {
    // Eight bytes per pixel is the most that any of the formats needs (PNG, RGBA of 16 bits); the rest is for metadata.
    let limit = max_pixels.saturating_mul(8).saturating_add(64 << 20);
    let file = File::open(path).map_err(ImageError::Read)?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(ImageError::Read(std::io::ErrorKind::IsADirectory.into()));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(ImageError::Read)?;
    if bytes.len() as u64 > limit {
        return Err(ImageError::TooManyBytes { limit });
    }
    decode(&bytes, max_pixels)
}

/// Decodes a photo of at most `max_pixels` from memory.
///
/// # Errors
/// As [`decode_file`].
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Photo, ImageError> {
    let format = format_of(bytes)?;
    // The decoders are made for hostile input, but a panic in one of them must not end a run over many photos.
    let decoded = std::panic::catch_unwind(|| match format {
        Format::Jpeg => decode_jpeg(bytes, max_pixels),
        Format::Png => decode_png(bytes, max_pixels),
        Format::WebP => decode_webp(bytes, max_pixels),
    });
    let stored = decoded.unwrap_or(Err(ImageError::DecoderPanic))?;
    let (pixels, width, height) = stored.orientation.apply(stored.pixels, stored.width, stored.height);
    Ok(Photo { width, height, pixels, format })
}

/// What a decoder gives: RGB8 as stored.
struct Stored {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    orientation: Orientation,
}

fn format_of(bytes: &[u8]) -> Result<Format, ImageError> {
    match bytes {
        [] => Err(ImageError::Empty),
        [0xff, 0xd8, 0xff, ..] => Ok(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Format::WebP),
        _ => Err(ImageError::UnknownFormat { found: describe(bytes) }),
    }
}

/// What a file that is no photo of ours looks like, for the message.
fn describe(bytes: &[u8]) -> String {
    let known: [(&[u8], &str); 7] = [
        (b"GIF8", "it is a GIF"),
        (b"BM", "it looks like a BMP"),
        (b"II*\0", "it is a TIFF or a camera's raw file"),
        (b"MM\0*", "it is a TIFF or a camera's raw file"),
        (b"%PDF", "it is a PDF"),
        (b"\0\0\0\x0cJXL ", "it is a JPEG XL"),
        (b"\0\0\0\x0cjP  ", "it is a JPEG 2000"),
    ];
    if let Some((_, name)) = known.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (*name).into();
    }
    match bytes.get(4..12) {
        Some(b"ftypheic" | b"ftypheix" | b"ftypmif1" | b"ftyphevc") => {
            return "it is a HEIC photo: export it as JPEG".into();
        }
        Some(b"ftypavif" | b"ftypavis") => return "it is an AVIF: export it as JPEG or PNG".into(),
        _ => {}
    }
    let start = &bytes[..bytes.len().min(16)];
    match std::str::from_utf8(start) {
        Ok(text) if !text.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
            format!("it begins with the text {text:?}")
        }
        _ => format!("it begins with the bytes {start:02x?}"),
    }
}

fn check_pixels(width: u64, height: u64, limit: u64) -> Result<(), ImageError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(ImageError::TooManyPixels { width, height, limit }),
    }
}

fn damaged(format: Format, reason: impl ToString) -> ImageError {
    ImageError::Damaged { format, reason: reason.to_string() }
}

fn decode_jpeg(bytes: &[u8], max_pixels: u64) -> Result<Stored, ImageError> {
    let scan = jpeg_scan(bytes).ok_or(ImageError::Truncated { format: Format::Jpeg })?;
    // Strict: otherwise broken data is painted grey and called a success.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| damaged(Format::Jpeg, e))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged(Format::Jpeg, "no size"))?;
    check_pixels(width as u64, height as u64, max_pixels)?;
    // The decoder notices missing data only in the next row of blocks, so the end must be looked for.
    if !bytes[scan..].windows(2).any(|pair| pair == [0xff, 0xd9]) {
        return Err(ImageError::Truncated { format: Format::Jpeg });
    }
    let orientation = Orientation::from_exif(decoder.exif().cloned());
    let pixels = decoder.decode().map_err(|e| damaged(Format::Jpeg, e))?;
    if pixels.len() != 3 * width * height {
        return Err(damaged(Format::Jpeg, format!("{} bytes decoded for {width}x{height}", pixels.len())));
    }
    Ok(Stored { width, height, pixels, orientation })
}

/// Where the first scan's data begins; `None` when the file ends before.
fn jpeg_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        while *bytes.get(at)? != 0xff {
            at += 1;
        }
        while *bytes.get(at)? == 0xff {
            at += 1;
        }
        let marker = *bytes.get(at)?;
        at += 1;
        if matches!(marker, 0x00 | 0x01 | 0xd0..=0xd9) {
            continue;
        }
        let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        at += length;
        if at > bytes.len() {
            return None;
        }
        if marker == 0xda {
            return Some(at);
        }
    }
}

fn decode_png(bytes: &[u8], max_pixels: u64) -> Result<Stored, ImageError> {
    let failed = |error: png::DecodingError| match error {
        png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { format: Format::Png }
        }
        other => damaged(Format::Png, other),
    };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: 256 << 20 });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let header = decoder.read_header_info().map_err(failed)?;
    let (width, height) = (header.width as usize, header.height as usize);
    check_pixels(width as u64, height as u64, max_pixels)?;
    let mut reader = decoder.read_info().map_err(failed)?;
    let (color, _) = reader.output_color_type();
    let mut pixels = vec![0; 3 * width * height];
    if reader.info().interlaced {
        let size = reader.output_buffer_size().ok_or_else(|| damaged(Format::Png, "its size overflows"))?;
        let mut stored = vec![0; size];
        reader.next_frame(&mut stored).map_err(failed)?;
        to_rgb(color, &stored, &mut pixels);
    } else {
        // Row by row: the whole picture exists only once.
        for out in pixels.chunks_exact_mut(3 * width) {
            let row = reader.next_row().map_err(failed)?.ok_or(ImageError::Truncated { format: Format::Png })?;
            to_rgb(color, row.data(), out);
        }
    }
    // To the end: the EXIF chunk may come last, and a missing end means a missing part.
    reader.finish().map_err(failed)?;
    let orientation = Orientation::from_exif(reader.info().exif_metadata.as_ref().map(|data| data.to_vec()));
    Ok(Stored { width, height, pixels, orientation })
}

/// Eight-bit samples of a PNG colour type to RGB; alpha is dropped.
fn to_rgb(color: png::ColorType, samples: &[u8], out: &mut [u8]) {
    let out = out.chunks_exact_mut(3);
    match color {
        png::ColorType::Grayscale => out.zip(samples).for_each(|(pixel, &grey)| pixel.fill(grey)),
        png::ColorType::GrayscaleAlpha => {
            out.zip(samples.chunks_exact(2)).for_each(|(pixel, sample)| pixel.fill(sample[0]));
        }
        // A palette is expanded by the decoder.
        png::ColorType::Rgb | png::ColorType::Indexed => {
            out.zip(samples.chunks_exact(3)).for_each(|(pixel, sample)| pixel.copy_from_slice(sample));
        }
        png::ColorType::Rgba => {
            out.zip(samples.chunks_exact(4)).for_each(|(pixel, sample)| pixel.copy_from_slice(&sample[..3]));
        }
    }
}

fn decode_webp(bytes: &[u8], max_pixels: u64) -> Result<Stored, ImageError> {
    let truncated = || ImageError::Truncated { format: Format::WebP };
    let failed = |error: image_webp::DecodingError| match error {
        image_webp::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => truncated(),
        other => damaged(Format::WebP, other),
    };
    // A lossy decoder reads zeros past the end; the length in front says what should be there.
    let announced = bytes[4..8].iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    if (bytes.len() as u64) < announced + 8 {
        return Err(truncated());
    }
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(bytes)).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check_pixels(u64::from(width), u64::from(height), max_pixels)?;
    let (width, height) = (width as usize, height as usize);
    decoder.set_memory_limit(usize::try_from(max_pixels.saturating_mul(8)).unwrap_or(usize::MAX));
    // A broken EXIF chunk is no reason to refuse the photo.
    let orientation = Orientation::from_exif(decoder.exif_metadata().ok().flatten());
    let size = decoder.output_buffer_size().ok_or_else(|| damaged(Format::WebP, "its size overflows"))?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(failed)?;
    if decoder.has_alpha() {
        drop_alpha(&mut pixels);
    }
    Ok(Stored { width, height, pixels, orientation })
}

/// RGBA to RGB in place.
fn drop_alpha(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for index in 0..count {
        pixels.copy_within(4 * index..4 * index + 3, 3 * index);
    }
    pixels.truncate(3 * count);
}

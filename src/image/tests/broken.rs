//! Files that are not what they should be: each gives an error that says so, none a panic or a half-grey photo.

use super::fixtures::{self, Tensors};
use crate::image::{DEFAULT_MAX_PIXELS, Format, ImageError, decode, decode_file};
use std::fs;

fn all() -> Vec<(String, Vec<u8>)> {
    let names = Tensors::open("images/decoded.safetensors").names();
    names
        .into_iter()
        .map(|name| {
            let bytes = fs::read(fixtures::path(&format!("images/{name}"))).unwrap();
            (name, bytes)
        })
        .collect()
}

#[test]
fn a_photo_cut_off_anywhere_is_an_error() {
    for (name, bytes) in all() {
        for length in 0..bytes.len() {
            match decode(&bytes[..length], DEFAULT_MAX_PIXELS) {
                Ok(_) => panic!("{name} cut to {length} of {} bytes decodes", bytes.len()),
                Err(ImageError::Empty) => assert_eq!(length, 0),
                Err(ImageError::UnknownFormat { .. }) => assert!(length < 12),
                Err(ImageError::Truncated { .. } | ImageError::Damaged { .. }) => {}
                Err(error) => panic!("{name} cut to {length}: {error}"),
            }
        }
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let mut state = 1u64;
    let mut random = |limit: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % limit
    };
    for (name, bytes) in all() {
        for round in 0..150 {
            let mut bytes = bytes.clone();
            for _ in 0..=random(4) {
                let at = 12 + random(bytes.len() - 12);
                bytes[at] = random(256) as u8;
            }
            // What comes out may be a photo (a changed sample) or an error, as long as it comes out.
            if let Err(ImageError::DecoderPanic) = decode(&bytes, 1 << 20) {
                panic!("{name}, round {round}");
            }
        }
    }
}

#[test]
fn an_empty_file_and_a_text_called_jpg_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    fs::write(&path, "").unwrap();
    assert!(matches!(decode_file(&path, DEFAULT_MAX_PIXELS), Err(ImageError::Empty)));
    for (content, said) in [
        (&b"dear diary, today"[..], "dear diary"),
        (b"GIF89a...", "GIF"),
        (b"\x00\x00\x00\x18ftypheic....", "HEIC"),
        (b"\x7fELF\x02\x01", "7f, 45"),
    ] {
        fs::write(&path, content).unwrap();
        let message = decode_file(&path, DEFAULT_MAX_PIXELS).unwrap_err().to_string();
        assert!(message.contains(said) && message.contains("not a JPEG, PNG or WebP"), "{message}");
    }
}

#[test]
fn missing_files_and_folders_are_errors_of_reading() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("none.jpg"), folder.path().to_owned()] {
        assert!(matches!(decode_file(&path, DEFAULT_MAX_PIXELS), Err(ImageError::Read(_))), "{path:?}");
    }
}

#[test]
fn the_name_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.jpg");
    fs::copy(fixtures::path("images/rgb.png"), &path).unwrap();
    assert_eq!(decode_file(&path, DEFAULT_MAX_PIXELS).unwrap().format, Format::Png);
}

/// A PNG of one grey level: a few kilobytes that announce (and, if `complete`, hold) many pixels.
fn grey_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![90; width as usize * height as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn forty_megapixels_are_fine() {
    let photo = decode(&grey_png(8000, 5000), DEFAULT_MAX_PIXELS).unwrap();
    assert_eq!((photo.width, photo.height), (8000, 5000));
    assert!(photo.pixels.iter().all(|&v| v == 90));
}

#[test]
fn more_pixels_than_allowed_are_refused_before_they_are_allocated() {
    // Announced sizes of up to 65535² pixels, with almost nothing behind them.
    let png = {
        let mut bytes = grey_png(1, 1);
        bytes[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let jpeg = {
        let mut bytes = fs::read(fixtures::path("images/baseline_444.jpg")).unwrap();
        let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        bytes[frame + 5..frame + 9].fill(0xff);
        bytes
    };
    let webp = {
        let mut bytes = fs::read(fixtures::path("images/lossless.webp")).unwrap();
        let header = bytes.windows(4).position(|w| w == b"VP8L").unwrap() + 9;
        // Width and height minus one, 14 bits each.
        bytes[header..header + 3].copy_from_slice(&[0xfe, 0xbf, 0xff]);
        bytes[header + 3] |= 0x0f;
        bytes
    };
    for (bytes, side) in [(png, 65535), (jpeg, 65535), (webp, 16383)] {
        match decode(&bytes, DEFAULT_MAX_PIXELS) {
            Err(ImageError::TooManyPixels { width, height, .. }) => assert_eq!((width, height), (side, side)),
            other => panic!("{side}: {other:?}"),
        }
    }
    assert!(matches!(decode(&grey_png(10, 10), 99), Err(ImageError::TooManyPixels { limit: 99, .. })));
    assert!(decode(&grey_png(10, 10), 100).is_ok());
}

#[test]
fn a_file_larger_than_any_photo_is_not_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.jpg");
    let file = fs::File::create(&path).unwrap();
    // Sparse: takes no space.
    file.set_len((64 << 20) + 8 * 100 + 1).unwrap();
    assert!(matches!(decode_file(&path, 100), Err(ImageError::TooManyBytes { .. })));
}

/// CRC of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

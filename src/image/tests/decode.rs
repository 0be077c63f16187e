//! Every format against `cv2.imread`.

use super::fixtures::{self, Tensors};
use crate::image::{DEFAULT_MAX_PIXELS, decode_file};

/// How far a channel may be from OpenCV's: lossless formats not at all; JPEG and lossy WebP by what different inverse transforms,
/// chroma interpolation and colour conversion round differently. For CMYK, OpenCV divides by 256 where 255 is meant, which makes its
/// values up to one larger.
fn tolerance(name: &str) -> (u8, f64) {
    match name {
        "lossy.webp" | "alpha_lossy.webp" => (2, 0.5),
        "cmyk_adobe.jpg" | "ycck_adobe.jpg" => (4, 1.2),
        _ if name.ends_with(".jpg") => (4, 0.5),
        _ => (0, 0.0),
    }
}

#[test]
fn every_kind_of_photo_decodes_as_opencv_decodes_it() {
    let expected = Tensors::open("images/decoded.safetensors");
    let names = expected.names();
    assert_eq!(names.len(), 36);
    for name in names {
        let tensor = expected.u8(&name);
        let photo = decode_file(&fixtures::path(&format!("images/{name}")), DEFAULT_MAX_PIXELS)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!([photo.height, photo.width, 3], tensor.shape[..], "{name}");
        let differences: Vec<u8> = photo.pixels.iter().zip(&tensor.data).map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = differences.iter().copied().max().unwrap();
        let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
        println!("{name}: worst {worst}, mean {mean:.3}");
        let (most, most_mean) = tolerance(&name);
        assert!(worst <= most && mean <= most_mean, "{name}: worst difference {worst}, mean {mean}");
    }
}

#[test]
fn all_orientations_of_one_photo_are_the_same_photo() {
    let upright = decode_file(&fixtures::path("images/orientation_1.jpg"), DEFAULT_MAX_PIXELS).unwrap();
    for orientation in 2..=8 {
        let path = fixtures::path(&format!("images/orientation_{orientation}.jpg"));
        let photo = decode_file(&path, DEFAULT_MAX_PIXELS).unwrap();
        assert_eq!((photo.width, photo.height), (37, 29), "{orientation}");
        // Stored in another direction, the blocks of JPEG fall elsewhere, so the loss differs.
        let total: u64 = photo.pixels.iter().zip(&upright.pixels).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!((total as f64) < 3.0 * photo.pixels.len() as f64, "{orientation}: {total}");
    }
}

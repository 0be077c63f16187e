//! Resize, crop, landmarks and labels against Pillow and the published loaders.

use super::fixtures::{Tensor, Tensors};
use crate::image::{
    Crop, FacePoints, Format, Frame, ImageError, LabelMap, Photo, encode_labels, encode_overlay, overlay, palette,
};
use segface_codegen::Variant;
use segface_kernels::{
    Context, Isa, bf16,
    image::{Resampler, Window},
};
use std::io::Cursor;

fn contexts() -> impl Iterator<Item = Context> {
    Isa::available().flat_map(|isa| [1, 2].map(|threads| Context::new(threads, isa)))
}

fn photo(tensor: Tensor<u8>) -> Photo {
    Photo { width: tensor.shape[1], height: tensor.shape[0], pixels: tensor.data, format: Format::Png }
}

/// `[3, h, w]` to `[h, w, 3]`.
fn channels_last(tensor: &Tensor<f32>) -> Vec<f32> {
    let pixels = tensor.shape[1] * tensor.shape[2];
    (0..3 * pixels).map(|i| tensor.data[i % 3 * pixels + i / 3]).collect()
}

#[test]
fn resize_has_the_bits_of_pillow() {
    let cases = Tensors::open("images/resized.safetensors");
    let names: Vec<String> =
        cases.names().into_iter().filter_map(|n| n.strip_suffix(".source").map(String::from)).collect();
    assert_eq!(names.len(), 12);
    for name in names {
        let source = photo(cases.u8(&format!("{name}.source")));
        let expected = cases.u8(&format!("{name}.resized"));
        for mut ctx in contexts() {
            let resampler = Resampler::new((source.width, source.height), (expected.shape[1], expected.shape[0]));
            assert!(resampler.resize(&mut ctx, source.view()) == expected.data, "{name} on {:?}", ctx.isa());
        }
    }
}

#[test]
fn lapa_preprocessing_is_the_published_one() {
    let case = Tensors::open("pipeline/preproc_lapa_eval.safetensors");
    let raw = photo(case.u8("raw"));
    let network = (192, 192);
    for mut ctx in contexts() {
        let resized = Resampler::new((raw.width, raw.height), network).resize(&mut ctx, raw.view());
        assert!(resized == case.u8("resized_u8").data, "{:?}", ctx.isa());
        let mut input = vec![0f32; 3 * 192 * 192];
        Frame::new((raw.width, raw.height), None, network, None).unwrap().input(&mut ctx, &raw, &mut input);
        assert!(input == channels_last(&case.f32("image")), "{:?}", ctx.isa());
    }

    // The five points out of 106, then as the loader scales them.
    let points = case.f32("raw_landmarks").data;
    let at = |i: usize| [points[2 * i], points[2 * i + 1]];
    let middle = |a: usize, b: usize| [0, 1].map(|axis| (at(a)[axis] + at(b)[axis]) / 2.0);
    let five = FacePoints([middle(74, 104), middle(83, 105), at(54), at(84), at(90)]);
    let scaled = Frame::scale(&five, Window::whole(raw.width, raw.height), network);
    for (ours, published) in scaled.iter().flatten().zip(case.f32("lnm_seg").data) {
        assert!((ours - published).abs() < 1e-3, "{ours} instead of {published}");
    }
}

#[test]
fn helen_crops_are_the_published_ones() {
    let case = Tensors::open("pipeline/preproc_helen.safetensors");
    for sample in 0..3 {
        let raw = photo(case.u8(&format!("raw{sample}")));
        // The file's landmarks are at twice the photo's scale; the box is their bounds, made square and 1.2 times as large.
        let points: Vec<f32> = case.f32(&format!("raw_landmarks68_{sample}")).data.iter().map(|v| v / 2.0).collect();
        let bounds = |axis: usize| {
            let values = points.iter().skip(axis).step_by(2);
            let (low, high) = values.fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
            (low, high - low + 1.0)
        };
        let ((x, w), (y, h)) = (bounds(0), bounds(1));
        let side = (w.max(h) * 1.2) as i64;
        let span = |start: f32, length: f32, limit: usize| {
            let first = (start + length / 2.0) as i64 - side / 2;
            let (first, end) = (first.max(0) as usize, ((first + side) as usize).min(limit));
            (first, end - first)
        };
        let ((x, width), (y, height)) = (span(x, w, raw.width), span(y, h, raw.height));
        let crop = Crop(Window { x, y, width, height });
        let mut ctx = Context::new(1, Isa::best());
        let mut input = vec![0f32; 3 * 192 * 192];
        Frame::new((raw.width, raw.height), Some(crop), (192, 192), None).unwrap().input(&mut ctx, &raw, &mut input);
        assert!(input == channels_last(&case.f32(&format!("image{sample}"))), "sample {sample}");
    }
}

/// Logits `[h, w, classes]` that prefer class 1 in the left half and 2 in the right.
fn halves(width: usize, height: usize, classes: usize) -> Vec<f32> {
    let mut logits = vec![0f32; width * height * classes];
    for (index, values) in logits.chunks_exact_mut(classes).enumerate() {
        values[if index % width < width / 2 { 1 } else { 2 }] = 5.0;
    }
    logits
}

fn flat_photo(width: usize, height: usize) -> Photo {
    Photo { width, height, pixels: vec![120; 3 * width * height], format: Format::Png }
}

#[test]
fn labels_have_the_photos_size_and_a_crop_its_place() {
    for mut ctx in contexts() {
        let whole =
            Frame::new((100, 60), None, (16, 16), None).unwrap().labels(&mut ctx, &halves(16, 16, 11), (16, 16), 11);
        assert_eq!((whole.width, whole.height), (100, 60));
        assert!(
            whole.labels.chunks(100).all(|row| row[..50].iter().all(|&l| l == 1) && row[50..].iter().all(|&l| l == 2))
        );

        let crop = Crop(Window { x: 20, y: 10, width: 40, height: 30 });
        let part = Frame::new((100, 60), Some(crop), (16, 16), None).unwrap().labels(
            &mut ctx,
            &halves(16, 16, 11),
            (16, 16),
            11,
        );
        for (index, &label) in part.labels.iter().enumerate() {
            let (x, y) = (index % 100, index / 100);
            let expected = if (10..40).contains(&y) && (20..60).contains(&x) { 1 + u8::from(x >= 40) } else { 0 };
            assert_eq!(label, expected, "({x}, {y}) on {:?}", ctx.isa());
        }
    }
}

#[test]
fn the_warped_frame_finds_its_way_back() {
    // A face off the middle, turned; the photo's left half is class 1. Whatever the warp does, labels must come out straight.
    let points = FacePoints([[118.0, 80.0], [160.0, 88.0], [135.0, 105.0], [115.0, 122.0], [148.0, 128.0]]);
    let size = 128;
    let frame = Frame::new((256, 192), None, (size, size), Some(&points)).unwrap();
    for mut ctx in contexts() {
        // What a perfect network would say: the class of each warped pixel, found by warping a picture of the classes.
        let mut pixels = vec![0; 3 * 256 * 192];
        pixels.chunks_exact_mut(3).enumerate().for_each(|(i, p)| p.fill(if i % 256 < 128 { 255 } else { 0 }));
        let mut input = vec![0f32; 3 * size * size];
        frame.input(&mut ctx, &Photo { width: 256, height: 192, pixels, format: Format::Png }, &mut input);
        let logits: Vec<f32> = input.chunks(3).flat_map(|p| [-9.0, p[0], -p[0], -9.0]).collect();
        let map = frame.labels(&mut ctx, &logits, (size, size), 4);
        for (x, y) in [(118, 95), (80, 60), (100, 150), (60, 20)] {
            assert_eq!(map.labels[y * 256 + x], 1, "({x}, {y})");
            assert_eq!(map.labels[y * 256 + 255 - x], 2, "({}, {y})", 255 - x);
        }
    }
}

#[test]
fn crops_and_points_that_do_not_fit_are_refused() {
    let outside = Crop(Window { x: 90, y: 0, width: 20, height: 20 });
    assert!(matches!(Frame::new((100, 60), Some(outside), (16, 16), None), Err(ImageError::CropOutside { .. })));
    let together = FacePoints([[30.0, 30.0]; 5]);
    assert!(matches!(Frame::new((100, 60), None, (16, 16), Some(&together)), Err(ImageError::Warp(_))));
    let far = FacePoints([[300.0, 30.0], [40.0, 30.0], [35.0, 40.0], [31.0, 50.0], [39.0, 50.0]]);
    assert!(matches!(Frame::new((100, 60), None, (16, 16), Some(&far)), Err(ImageError::LandmarkOutside { .. })));
}

#[test]
fn bf16_input_is_the_rounded_f32_input_with_and_without_warp() {
    let case = Tensors::open("pipeline/preproc_lapa_eval.safetensors");
    let raw = photo(case.u8("raw"));
    let points = FacePoints([[100.0, 120.0], [180.0, 125.0], [140.0, 180.0], [110.0, 230.0], [170.0, 235.0]]);
    let mut ctx = Context::new(2, Isa::best());
    for points in [None, Some(&points)] {
        let frame = Frame::new((raw.width, raw.height), None, (64, 96), points).unwrap();
        let (mut long, mut short) = (vec![0f32; 3 * 64 * 96], vec![bf16::ZERO; 3 * 64 * 96]);
        frame.input(&mut ctx, &raw, &mut long);
        frame.input(&mut ctx, &raw, &mut short);
        assert!(long.iter().zip(&short).all(|(a, b)| bf16::from_f32(*a) == *b));
    }
}

#[test]
fn a_label_png_holds_ids_and_shows_colours() {
    for variant in Variant::ALL {
        let colors = palette(variant);
        let labels: Vec<u8> = (0..70 * 30).map(|i| (i / 7 % colors.len()) as u8).collect();
        let map = LabelMap { width: 70, height: 30, labels };
        let mut bytes = Vec::new();
        encode_labels(&mut bytes, &map, &colors).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(&bytes)).read_info().unwrap();
        assert_eq!(reader.info().color_type, png::ColorType::Indexed);
        assert_eq!(reader.info().palette.as_deref(), Some(&colors.concat()[..]));
        let mut ids = vec![0; 70 * 30];
        reader.next_frame(&mut ids).unwrap();
        assert_eq!(ids, map.labels);
    }
}

#[test]
fn an_overlay_changes_parts_and_keeps_the_background() {
    let mut labels = vec![0; 80 * 60];
    for y in 20..40 {
        labels[y * 80 + 30..y * 80 + 50].fill(14);
    }
    let map = LabelMap { width: 80, height: 60, labels };
    let (mut ctx, mut bytes) = (Context::new(1, Isa::best()), Vec::new());
    let painted = overlay(&mut ctx, &flat_photo(80, 60), &map, &palette(Variant::Celeb));
    encode_overlay(&mut bytes, (80, 60), &painted).unwrap();
    let overlay = crate::image::decode(&bytes, 1 << 20).unwrap();
    let at = |x: usize, y: usize| &overlay.pixels[3 * (y * 80 + x)..][..3];
    assert_eq!((overlay.width, overlay.height), (80, 60));
    assert_eq!(at(5, 5), [120, 120, 120]);
    assert_eq!(at(40, 30), [122, 101, 140], "half photo, half the colour of hair");
    assert_ne!(at(49, 30), at(40, 30), "the border is drawn");
}

//! Which images a split has, in which order, and that what is read is what was drawn.

use crate::synthetic::{self, Face, celeb_face, lapa_face, write_grey, write_png};
use segface::Variant;
use segface::data::{Dataset, Preparation, Split, dataset_named, folder_in, recognise_folder};
use segface_kernels::image::{MEAN, STD};
use segface_kernels::{Context, Isa};
use std::fs;
use std::path::Path;

fn names(dataset: &Dataset) -> Vec<String> {
    (0..dataset.len()).map(|index| dataset.name(index)).collect()
}

fn open(variant: Variant, root: &Path, split: Split) -> Dataset {
    Dataset::open(variant, root, split).unwrap()
}

#[test]
fn splits_are_those_of_the_published_layouts() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(&folder.path().join("c"));
    // In the order of the partition list, through the mapping.
    assert_eq!(names(&open(Variant::Celeb, &root, Split::Train)), ["4", "3", "2", "1", "0"]);
    assert_eq!(names(&open(Variant::Celeb, &root, Split::Val)), ["6", "5"]);
    assert_eq!(names(&open(Variant::Celeb, &root, Split::Test)), ["9", "8", "7"]);
    let root = synthetic::lapa(&folder.path().join("l"));
    assert_eq!(names(&open(Variant::Lapa, &root, Split::Train)), ["000_0", "001_0", "002_0", "003_0", "004_0"]);
    assert_eq!(names(&open(Variant::Lapa, &root, Split::Val)), ["005_0", "006_0"]);
    assert_eq!(names(&open(Variant::Lapa, &root, Split::Test)), ["007_0", "008_0", "009_0"]);
    let root = synthetic::helen(&folder.path().join("h"));
    fs::write(root.join("test/.DS_Store"), "").unwrap();
    fs::write(root.join("test/7_viz.jpg"), "").unwrap();
    assert_eq!(names(&open(Variant::Helen, &root, Split::Train)), ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(names(&open(Variant::Helen, &root, Split::Val)), ["7", "8", "9"]);
    assert_eq!(names(&open(Variant::Helen, &root, Split::Test)), ["7", "8", "9"]);
}

#[test]
fn layouts_are_recognised_and_named_as_published() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    for (variant, make) in [
        (Variant::Celeb, synthetic::celeb as fn(&Path) -> std::path::PathBuf),
        (Variant::Lapa, synthetic::lapa),
        (Variant::Helen, synthetic::helen),
    ] {
        let root = make(&folder_in(data, variant));
        assert_eq!(recognise_folder(&root).unwrap(), variant);
    }
    let error = recognise_folder(data).unwrap_err().to_string();
    assert!(error.contains("landmarks.txt") && error.contains(&data.display().to_string()), "{error}");
    assert_eq!(dataset_named("celebamask_hq"), Ok(Variant::Celeb));
    assert_eq!(dataset_named("celeb"), Ok(Variant::Celeb));
    assert!(dataset_named("coco").unwrap_err().contains("celebamask_hq"));
}

/// The normalised image of an RGB8 photo that is not resized.
fn normalised(photo: &[u8]) -> Vec<f32> {
    photo.iter().enumerate().map(|(i, &v)| (f32::from(v) / 255.0 - MEAN[i % 3]) / STD[i % 3]).collect()
}

#[test]
fn celeb_masks_are_merged_in_the_published_order_at_any_size() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(folder.path());
    let dataset = open(Variant::Celeb, &root, Split::Train);
    let mut ctx = Context::new(1, Isa::best());
    for index in 0..dataset.len() {
        let id: u32 = dataset.name(index).parse().unwrap();
        let raw = dataset.read(index).unwrap();
        assert_eq!((raw.labels.width, raw.labels.height), (48, 48));
        assert!(raw.labels.labels == celeb_face(id).nineteen(), "image {id}");
        // At the photos' own size nothing is resized but the masks, which double.
        let sample = Preparation::plain(Variant::Celeb, (96, 96)).sample(&mut ctx, &dataset, 0, index).unwrap();
        assert!(sample.image == normalised(&Face::new(id, 96, 96).photo()));
        let small = &raw.labels.labels;
        assert!((0..96 * 96).all(|at| sample.labels[at] == small[at / 96 / 2 * 48 + at % 96 / 2]));
        assert_eq!(sample.points, [[0.0; 2]; 5]);
    }
}

#[test]
fn celeb_masks_may_be_of_any_kind_of_png() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(folder.path());
    let face = celeb_face(4);
    let mask = |part: &str| root.join(format!("CelebAMask-HQ-mask-anno/0/00004_{part}.png"));
    // Any grey but black counts, also as colours.
    let skin: Vec<u8> = face.mask(2).iter().map(|&v| v / 200).collect();
    write_grey(&mask("skin"), 48, 48, &skin);
    let nose: Vec<u8> = face.mask(10).iter().flat_map(|&v| [v; 3]).collect();
    write_png(&mask("nose"), png::ColorType::Rgb, 48, 48, &nose);
    let hair: Vec<u8> = face.mask(14).iter().flat_map(|&v| [v, v, v, 9]).collect();
    write_png(&mask("hair"), png::ColorType::Rgba, 48, 48, &hair);
    assert!(open(Variant::Celeb, &root, Split::Train).read(0).unwrap().labels.labels == face.nineteen());
}

#[test]
fn lapa_and_helen_are_read_as_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(&folder.path().join("l"));
    let dataset = open(Variant::Lapa, &root, Split::Val);
    let mut ctx = Context::new(1, Isa::best());
    for index in 0..2 {
        let face = lapa_face(5 + index as u32);
        let raw = dataset.read(index).unwrap();
        let mut labels = face.eleven();
        labels[0] = 255;
        assert!(raw.photo.pixels == face.photo() && raw.labels.labels == labels);
        for (read, drawn) in raw.landmarks.iter().zip(face.landmarks106()) {
            assert!((0..2).all(|axis| (f64::from(read[axis]) - drawn[axis]).abs() < 1e-3));
        }
        // The plain sample at the photo's own size, and LaPa's warp of it.
        let size = (face.width, face.height);
        let plain = Preparation { warp: false, ..Preparation::plain(Variant::Lapa, size) };
        let plain = plain.sample(&mut ctx, &dataset, 0, index).unwrap();
        assert!(plain.image == normalised(&face.photo()) && plain.labels == labels);
        let warped = Preparation::plain(Variant::Lapa, size).sample(&mut ctx, &dataset, 0, index).unwrap();
        let mut expected = vec![0f32; plain.image.len()];
        warped.warp.as_ref().unwrap().warp(&mut ctx, &plain.image, 3, &mut expected);
        assert!(warped.image == expected && warped.image != plain.image && warped.labels == labels);
    }
    let root = synthetic::helen(&folder.path().join("h"));
    let raw = open(Variant::Helen, &root, Split::Test).read(0).unwrap();
    assert!(raw.labels.labels == Face::new(7, 90, 98).eleven());
    assert!(raw.window.width < 90 && raw.window.fits(90, 98));
}

#[test]
fn label_maps_may_be_indexed_or_grey_in_colours() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(folder.path());
    let face = lapa_face(5);
    let path = root.join("val/labels/005_0.png");
    let labels = face.eleven();
    let read = || open(Variant::Lapa, &root, Split::Val).read(0).unwrap().labels.labels;
    write_png(
        &path,
        png::ColorType::Rgb,
        face.width,
        face.height,
        &labels.iter().flat_map(|&v| [v; 3]).collect::<Vec<_>>(),
    );
    assert!(read() == labels);
    // Four bits per pixel, the palette of no meaning.
    let mut encoder = png::Encoder::new(fs::File::create(&path).unwrap(), face.width as u32, face.height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette(vec![77; 3 * 16]);
    let packed: Vec<u8> = labels
        .chunks(face.width)
        .flat_map(|row| row.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)))
        .collect();
    encoder.write_header().unwrap().write_image_data(&packed).unwrap();
    assert!(read() == labels);
}

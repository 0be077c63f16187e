//! Everything that can be wrong with a folder, one by one: the error names the file, and what was expected.

use crate::synthetic::{self, write_grey, write_png, write_rgb};
use segface::Variant;
use segface::data::{DataError, Dataset, Preparation, Split};
use segface_kernels::{Context, Isa};
use std::fs;
use std::path::{Path, PathBuf};

/// The first error of opening the split or reading any of its images.
fn error(variant: Variant, root: &Path, split: Split) -> DataError {
    let dataset = match Dataset::open(variant, root, split) {
        Ok(dataset) => dataset,
        Err(error) => return error,
    };
    let mut ctx = Context::new(1, Isa::best());
    let preparation = Preparation::plain(variant, (16, 16));
    (0..dataset.len()).find_map(|index| preparation.sample(&mut ctx, &dataset, 0, index).err()).expect("an error")
}

type Make = fn(&Path) -> PathBuf;
type Break = Box<dyn Fn(&Path)>;

/// Breaks a fresh folder in each of the ways and looks for the words in the message of its train split.
fn each(variant: Variant, make: Make, ways: Vec<(&str, Break, &[&str])>) {
    for (way, damage, words) in ways {
        let folder = tempfile::tempdir().unwrap();
        let root = make(folder.path());
        damage(&root);
        let message = error(variant, &root, Split::Train).to_string();
        let begins = message.starts_with(&root.display().to_string());
        assert!(begins, "{way}: the message begins with the file: {message}");
        for word in words {
            assert!(message.contains(word), "{way}: `{word}` is not in: {message}");
        }
    }
}

fn write(name: &'static str, content: &'static str) -> Break {
    Box::new(move |root| fs::write(root.join(name), content).unwrap())
}

fn remove(name: &'static str) -> Break {
    Box::new(move |root| {
        let path = root.join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    })
}

/// Replaces a part of a text file once.
fn edit(name: &'static str, from: &'static str, to: &'static str) -> Break {
    Box::new(move |root| {
        let path = root.join(name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    })
}

fn cut(name: &'static str) -> Break {
    Box::new(move |root| {
        let path = root.join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - bytes.len() / 3]).unwrap();
    })
}

#[test]
fn celebamask_hq() {
    let mask = "CelebAMask-HQ-mask-anno/0/00003_skin.png";
    each(
        Variant::Celeb,
        synthetic::celeb,
        vec![
            (
                "no mapping",
                remove("CelebA-HQ-to-CelebA-mapping.txt"),
                &["mapping.txt: not found", "list_eval_partition.txt"],
            ),
            ("no partition", remove("list_eval_partition.txt"), &["list_eval_partition.txt: not found"]),
            ("no images", remove("CelebA-HQ-img"), &["CelebA-HQ-img: not found, or not a folder"]),
            ("no masks", remove("CelebAMask-HQ-mask-anno"), &["mask-anno: not found, or not a folder"]),
            (
                "mapping of two words",
                edit("CelebA-HQ-to-CelebA-mapping.txt", "2        997      000998.jpg", "2 000998.jpg"),
                &["mapping.txt, line 4:", "2 words", "idx, orig_idx, orig_file"],
            ),
            (
                "mapping of no number",
                edit("CelebA-HQ-to-CelebA-mapping.txt", "2        997 ", "two 997 "),
                &["mapping.txt, line 4:", "`two` is no image number"],
            ),
            (
                "mapping twice",
                edit("CelebA-HQ-to-CelebA-mapping.txt", "\n2  ", "\n1  "),
                &["mapping.txt, line 4:", "image 1 is listed a second time"],
            ),
            (
                "file twice",
                edit("CelebA-HQ-to-CelebA-mapping.txt", "000998.jpg", "000999.jpg"),
                &["mapping.txt, line 4:", "000999.jpg is listed a second time"],
            ),
            (
                "partition of a fourth split",
                edit("list_eval_partition.txt", "000998.jpg 0", "000998.jpg 3"),
                &["partition.txt, line 9:", "`3`", "2 (test)"],
            ),
            (
                "partition without a split",
                edit("list_eval_partition.txt", "000998.jpg 0", "000998.jpg"),
                &["partition.txt, line 9:", "1 words"],
            ),
            (
                "partition twice",
                edit("list_eval_partition.txt", "000998.jpg 0", "000997.jpg 0"),
                &["partition.txt, line 9:", "000997.jpg is listed a second time"],
            ),
            (
                "an empty split",
                write("list_eval_partition.txt", "000998.jpg 1\n"),
                &["partition.txt: the train split of celeb has no image"],
            ),
            ("no photo", remove("CelebA-HQ-img/3.jpg"), &["3.jpg: cannot be read"]),
            ("half a photo", cut("CelebA-HQ-img/3.jpg"), &["3.jpg:", "PNG"]),
            ("no photo inside", write("CelebA-HQ-img/3.jpg", "hello"), &["3.jpg:", "hello"]),
            ("an empty photo", write("CelebA-HQ-img/3.jpg", ""), &["3.jpg:", "0 bytes"]),
            ("half a mask", cut(mask), &["00003_skin.png:", "cut off"]),
            ("no mask inside", write(mask, "hello"), &["00003_skin.png: not a PNG file"]),
            ("an empty mask", write(mask, ""), &["00003_skin.png:", "0 bytes"]),
            (
                "masks of two sizes",
                Box::new(move |root| {
                    write_grey(&root.join("CelebAMask-HQ-mask-anno/0/00003_hair.png"), 24, 24, &[255; 576])
                }),
                &["00003_hair.png: 24x24", "48x48", "one size"],
            ),
            (
                "masks of another shape",
                Box::new(move |root| write_rgb(&root.join("CelebA-HQ-img/3.jpg"), 96, 80, &[9; 3 * 96 * 80])),
                &["00003_skin.png: 48x48", "96x80", "same shape"],
            ),
            (
                "no mask of any part",
                Box::new(|root| {
                    for part in synthetic::PARTS {
                        let _ = fs::remove_file(root.join(format!("CelebAMask-HQ-mask-anno/0/00003_{part}.png")));
                    }
                }),
                &["00003_skin.png: image 3 has no mask of any part"],
            ),
        ],
    );
}

#[test]
fn lapa() {
    let labels = "train/labels/002_0.png";
    let landmarks = "train/landmarks/002_0.txt";
    let of = |values: fn(usize) -> u8, width: usize, height: usize| -> Break {
        Box::new(move |root| {
            write_grey(&root.join(labels), width, height, &(0..width * height).map(values).collect::<Vec<_>>())
        })
    };
    each(
        Variant::Lapa,
        synthetic::lapa,
        vec![
            ("no split", remove("train"), &["train/images: not found", "landmarks/"]),
            (
                "an empty split",
                Box::new(|root| {
                    fs::remove_dir_all(root.join("train/images")).unwrap();
                    fs::create_dir(root.join("train/images")).unwrap();
                }),
                &["train/images: the train split of lapa has no image: no .jpg file"],
            ),
            ("no label map", remove(labels), &["002_0.png: cannot be read"]),
            ("half a label map", cut(labels), &["002_0.png:", "cut off"]),
            ("labels of another size", of(|_| 1, 40, 30), &["002_0.png: 40x30", "80x80", "same size"]),
            (
                "labels out of range",
                of(|i| [3, 11, 254, 255][i % 4], 80, 80),
                &[
                    "002_0.png: labels out of range: 11 (1600 pixels), 254 (1600 pixels), the first at pixel (1, 0)",
                    "0 to 10",
                    "255",
                ],
            ),
            (
                "a picture as labels",
                Box::new(move |root| write_rgb(&root.join(labels), 80, 80, &[1, 2, 3].repeat(6400))),
                &["002_0.png: a picture in colours", "8-bit grey"],
            ),
            (
                "labels of 16 bits",
                Box::new(move |root| {
                    let mut encoder = png::Encoder::new(fs::File::create(root.join(labels)).unwrap(), 80, 80);
                    encoder.set_color(png::ColorType::Grayscale);
                    encoder.set_depth(png::BitDepth::Sixteen);
                    encoder.write_header().unwrap().write_image_data(&[0; 2 * 6400]).unwrap();
                }),
                &["002_0.png: 16 bits per sample; expected 8-bit grey"],
            ),
            ("no landmarks", remove(landmarks), &["002_0.txt: cannot be read"]),
            ("an empty landmarks file", write(landmarks, " \n"), &["002_0.txt: no landmarks; expected 106"]),
            (
                "landmarks of another number",
                edit(landmarks, "106\n", "98\n"),
                &["002_0.txt: it begins with `98`", "106"],
            ),
            ("too few landmarks", write(landmarks, "106\n1 2\n3 4\n"), &["002_0.txt: 4 coordinates", "212"]),
            (
                "landmarks of words",
                Box::new(move |root| {
                    let text = format!("106\n{}", "5 5\n".repeat(106));
                    fs::write(root.join(landmarks), text.replacen("5 5", "5 five", 3).replacen("five", "5", 2))
                        .unwrap();
                }),
                &["002_0.txt, line 4: `five` is no coordinate"],
            ),
            (
                "landmarks without a number",
                Box::new(move |root| {
                    fs::write(root.join(landmarks), format!("106\n{}NaN 5\n", "5 5\n".repeat(105))).unwrap()
                }),
                &["002_0.txt, line 107: `NaN`"],
            ),
            (
                "landmarks far outside",
                Box::new(move |root| {
                    fs::write(root.join(landmarks), format!("106\n{}5 900\n", "5 5\n".repeat(105))).unwrap()
                }),
                &["002_0.txt: landmark 105 of `002_0` is (5, 900)", "80x80"],
            ),
            (
                "landmarks in one place",
                Box::new(move |root| fs::write(root.join(landmarks), format!("106\n{}", "5 5\n".repeat(106))).unwrap()),
                &["002_0.txt: `002_0`: the five landmarks lie in one place"],
            ),
        ],
    );
}

#[test]
fn helen() {
    let outside = format!("{}2\n", "-50 -50 ".repeat(68));
    let outside: &'static str = Box::leak(outside.into_boxed_str());
    let line_of_2 = |replacement: &'static str| -> Break {
        Box::new(move |root| {
            let path = root.join("landmarks.txt");
            let text = fs::read_to_string(&path).unwrap();
            let lines = text.lines().enumerate().map(|(i, line)| if i == 2 { replacement.trim_end() } else { line });
            fs::write(&path, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        })
    };
    each(
        Variant::Helen,
        synthetic::helen,
        vec![
            ("no landmarks", remove("landmarks.txt"), &["landmarks.txt: not found, or not a file", "test/"]),
            ("no split", remove("train"), &["train: not found, or not a folder"]),
            (
                "an empty split",
                Box::new(|root| {
                    fs::remove_dir_all(root.join("train")).unwrap();
                    fs::create_dir(root.join("train")).unwrap();
                }),
                &["train: the train split of helen has no image: no file NAME_image.jpg"],
            ),
            ("a short line", line_of_2("1 2 3 2"), &["landmarks.txt, line 3: 4 words", "136 numbers and a name"]),
            ("a line with words", edit("landmarks.txt", ".", ".x"), &["landmarks.txt, line 1: `", "is no coordinate"]),
            ("no line for an image", line_of_2(""), &["landmarks.txt: no line for `2`"]),
            ("a face outside", line_of_2(outside), &["landmarks.txt: the landmarks of `2` lie outside", "90x88"]),
            (
                "a name twice",
                Box::new(|root| {
                    let path = root.join("landmarks.txt");
                    let text = fs::read_to_string(&path).unwrap();
                    let first = text.lines().next().unwrap();
                    fs::write(&path, format!("{text}\n{first}\n")).unwrap();
                }),
                &["landmarks.txt, line 12: `0` is listed a second time"],
            ),
            ("no label map", remove("train/2_label.png"), &["2_label.png: cannot be read"]),
            (
                "labels of another size",
                Box::new(|root| write_grey(&root.join("train/2_label.png"), 9, 8, &[0; 72])),
                &["2_label.png: 9x8", "90x88", "same size"],
            ),
            (
                "labels out of range",
                Box::new(|root| {
                    write_png(&root.join("train/2_label.png"), png::ColorType::Grayscale, 90, 88, &[77; 7920])
                }),
                &["2_label.png: labels out of range: 77 (7920 pixels)"],
            ),
        ],
    );
}

#[test]
fn a_folder_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    for variant in Variant::ALL {
        let message = Dataset::open(variant, &folder.path().join("nowhere"), Split::Val).unwrap_err().to_string();
        assert!(message.contains("nowhere: not found"), "{message}");
        let message = Dataset::open(variant, folder.path(), Split::Val).unwrap_err().to_string();
        assert!(message.contains("not found") && message.contains("must hold"), "{message}");
    }
}

#[test]
fn a_network_of_lapas_needs_landmarks() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(folder.path());
    let dataset = Dataset::open(Variant::Celeb, &root, Split::Train).unwrap();
    let preparation = Preparation { warp: true, ..Preparation::plain(Variant::Celeb, (16, 16)) };
    let message = preparation.sample(&mut Context::new(1, Isa::best()), &dataset, 0, 0).unwrap_err().to_string();
    assert!(message.contains("4.jpg") && message.contains("celeb has no landmarks"), "{message}");
}

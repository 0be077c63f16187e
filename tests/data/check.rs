//! `segface data check`: everything wrong is listed at once, and counted.

use crate::synthetic::{self, celeb_face, write_grey};
use segface::Variant;
use segface::data::{FolderReport, Split, check_folder};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

fn segface(arguments: &[&dyn AsRef<Path>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    command.arg("data").args(arguments.iter().map(|argument| argument.as_ref())).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn problems(report: &FolderReport, root: &Path) -> Vec<String> {
    let prefix = format!("{}/", root.display());
    report.problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
}

fn check(variant: Variant, root: &Path, threads: usize) -> FolderReport {
    check_folder(variant, root, threads, &|_, _| ())
}

#[test]
fn a_sound_folder_has_no_problem_and_its_pixels_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(&folder.path().join("c"));
    let heard = Mutex::new(Vec::new());
    let report = check_folder(Variant::Celeb, &root, 2, &|done, total| heard.lock().unwrap().push((done, total)));
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let mut heard = heard.into_inner().unwrap();
    heard.sort_unstable();
    assert_eq!(heard, (1..=10).map(|done| (done, 10)).collect::<Vec<_>>());
    assert_eq!(report.splits.len(), 3);
    for (split, (name, ids)) in report.splits.iter().zip(synthetic::SPLITS) {
        assert_eq!((split.split.name(), split.images, split.ignored), (name, ids.len(), 0));
        let maps: Vec<Vec<u8>> = ids.map(|id| celeb_face(id).nineteen()).collect();
        for class in 0..19 {
            let count = |map: &Vec<u8>| map.iter().filter(|&&label| usize::from(label) == class).count();
            assert_eq!(split.pixels[class], maps.iter().map(|map| count(map) as u64).sum::<u64>());
            assert_eq!(split.images_with[class], maps.iter().filter(|map| count(map) > 0).count());
        }
    }
    let root = synthetic::lapa(&folder.path().join("l"));
    let report = check(Variant::Lapa, &root, 2);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(report.splits[0].ignored, 5);
    let root = synthetic::helen(&folder.path().join("h"));
    let report = check(Variant::Helen, &root, 2);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(
        report.splits.iter().map(|s| (s.split, s.images)).collect::<Vec<_>>(),
        [(Split::Train, 7), (Split::Test, 3)]
    );
}

#[test]
fn everything_wrong_with_a_celeb_folder_is_listed_in_a_fixed_order() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(folder.path());
    let mapping = root.join("CelebA-HQ-to-CelebA-mapping.txt");
    let text = fs::read_to_string(&mapping).unwrap();
    fs::write(&mapping, text.replace("5        994      000995.jpg", "5 000995.jpg")).unwrap();
    fs::write(
        root.join("list_eval_partition.txt"),
        format!("{}x.jpg 9\n", fs::read_to_string(root.join("list_eval_partition.txt")).unwrap()),
    )
    .unwrap();
    fs::write(root.join("CelebA-HQ-img/2.jpg"), "").unwrap();
    fs::remove_file(root.join("CelebA-HQ-img/8.jpg")).unwrap();
    let masks = root.join("CelebAMask-HQ-mask-anno");
    fs::write(masks.join("0/00002_nose.png"), "?").unwrap();
    write_grey(&masks.join("0/00009_l_lip.png"), 5, 5, &[0; 25]);
    fs::write(masks.join("0/00001_beard.png"), "").unwrap();
    fs::write(masks.join("0/nose.png"), "").unwrap();
    fs::create_dir(masks.join("1")).unwrap();
    fs::copy(masks.join("0/00003_skin.png"), masks.join("1/00003_skin.png")).unwrap();
    fs::copy(masks.join("0/00003_skin.png"), masks.join("1/02222_skin.png")).unwrap();
    let expected = [
        ("CelebA-HQ-to-CelebA-mapping.txt, line 7: 2 words", ""),
        ("list_eval_partition.txt, line 12: split `9`", ""),
        ("CelebA-HQ-img/2.jpg", "0 bytes"),
        ("CelebAMask-HQ-mask-anno/0/00002_nose.png", "not a PNG"),
        ("CelebAMask-HQ-mask-anno/0/00009_l_lip.png", "5x5"),
        ("CelebA-HQ-img/8.jpg", "cannot be read"),
        ("CelebA-HQ-img/5.jpg", "in no split"),
        ("CelebAMask-HQ-mask-anno/0/00001_beard.png", "`beard`"),
        ("CelebAMask-HQ-mask-anno/0/00008_", "image 8, which is not there"),
    ];
    let report = check(Variant::Celeb, &root, 1);
    let found = problems(&report, &root);
    for (file, word) in expected {
        assert!(found.iter().any(|problem| problem.starts_with(file) && problem.contains(word)), "{file}: {found:#?}");
    }
    let order: Vec<usize> =
        expected[..7].iter().map(|(file, _)| found.iter().position(|p| p.starts_with(file)).unwrap()).collect();
    assert!(order.is_sorted(), "{found:#?}");
    for word in [
        "nose.png: the name is not",
        "1/00003_skin.png: masks of image 3 belong in folder 0",
        "02222_skin.png: a mask of image 2222",
    ] {
        assert!(found.iter().any(|problem| problem.contains(word)), "{word}: {found:#?}");
    }
    let masks_of_8 = found.iter().filter(|problem| problem.contains("/00008_")).count();
    assert_eq!(found.len(), 8 + masks_of_8 + 3, "{found:#?}");
    for threads in [2, 5] {
        assert_eq!(problems(&check(Variant::Celeb, &root, threads), &root), found);
    }
}

#[test]
fn everything_wrong_with_lapa_and_helen_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(&folder.path().join("l"));
    fs::remove_file(root.join("val/images/005_0.jpg")).unwrap();
    fs::remove_file(root.join("train/landmarks/001_0.txt")).unwrap();
    write_grey(&root.join("train/labels/001_0.png"), 4, 4, &[99; 16]);
    fs::remove_dir_all(root.join("test")).unwrap();
    let report = check(Variant::Lapa, &root, 2);
    let found = problems(&report, &root);
    for (problem, start) in found.iter().zip([
        "test/images: not found",
        "train/labels/001_0.png: labels out of range: 99 (16 pixels)",
        "train/landmarks/001_0.txt: cannot be read",
        "train/labels/001_0.png: 4x4 pixels",
        "val/labels/005_0.png: a label map without an image",
        "val/landmarks/005_0.txt: a landmarks file without an image",
    ]) {
        assert!(problem.starts_with(start), "{start}: {found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");

    let root = synthetic::helen(&folder.path().join("h"));
    fs::remove_file(root.join("test/8_image.jpg")).unwrap();
    fs::write(
        root.join("landmarks.txt"),
        fs::read_to_string(root.join("landmarks.txt")).unwrap().replacen(" 9\n", " nine\n", 1),
    )
    .unwrap();
    let found = problems(&check(Variant::Helen, &root, 2), &root);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("landmarks.txt: no line for `9`"));
    assert!(found[1].starts_with("test/8_label.png: a label map without an image"));
}

#[test]
fn the_command_prints_a_table_and_its_exit_code_says_whether_all_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(folder.path());
    let run = segface(&[&"check", &root]);
    assert_eq!(run.status.code(), Some(0), "{}", stdout(&run));
    let said = stdout(&run);
    assert!(said.contains("train: 5 images") && said.contains("nothing is wrong"), "{said}");
    let skin: u64 = (0..5).map(|id| celeb_face(id).nineteen().iter().filter(|&&l| l == 2).count() as u64).sum();
    let line = said.lines().find(|line| line.trim_start().starts_with("2 face")).unwrap();
    assert!(line.ends_with(&format!(" {skin}")), "{line}");
    fs::write(root.join("CelebA-HQ-img/6.jpg"), "").unwrap();
    let run = segface(&[&"check", &root, &"--dataset", &"celebamask_hq", &"--threads", &"2"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stdout(&run).contains("6.jpg: the file is empty"), "{}", stdout(&run));
    assert!(String::from_utf8_lossy(&run.stderr).contains("1 problem is listed above"), "{run:?}");
    let run = segface(&[&"check", &folder.path().join("CelebA-HQ-img")]);
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("--dataset"), "{run:?}");
    let run = segface(&[&"speed", &root, &"--size", &"32", &"--threads", &"2"]);
    assert!(run.status.success() && stdout(&run).contains("2 threads: 5 images at 32x32"), "{run:?}");
}

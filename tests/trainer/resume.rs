//! A run that dies and is resumed ends with the bits of one that did not.

use crate::finished::stderr;
use crate::process::Asked;
use crate::synthetic;
use segface::train::{LOG, Line, PREVIOUS, STATE};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

/// The log without what depends on the clock, and without beginnings and ends.
fn lines(folder: &Path) -> Vec<Line> {
    let text = fs::read_to_string(folder.join(LOG)).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let kept = lines.filter(|line| !matches!(line, Line::Start { .. } | Line::End { .. }));
    kept.map(|mut line| {
        if let Line::Steps { images_per_second, waiting, .. } = &mut line {
            (*images_per_second, *waiting) = (0.0, 0.0);
        }
        line
    })
    .collect()
}

fn same_end(whole: &Asked, resumed: &Asked, what: &str) {
    assert!(whole.state() == resumed.state(), "{what}: another state");
    let weights = |asked: &Asked| fs::read(asked.folder.join("model_2.safetensors")).unwrap();
    assert!(weights(whole) == weights(resumed), "{what}: other weights");
    assert_eq!(lines(&whole.folder), lines(&resumed.folder), "{what}");
    let left = crate::finished::names(&resumed.folder);
    assert!(left.iter().all(|name| !name.contains("next")), "{what}: {left:?}");
}

#[test]
fn killed_at_any_step_a_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let whole = Asked::new(&data, &folder.path().join("whole"));
    let run = whole.finish();
    assert!(run.status.success(), "{}", stderr(&run));
    assert_eq!(lines(&whole.folder).last().unwrap().step(), 15);
    // Before the first state, in the middle of an epoch, right behind a state, in the last step; each kill after a resume, too.
    for dies_at in [&[0][..], &[1, 3, 4], &[5, 14]] {
        let mut asked = Asked { folder: folder.path().join(format!("dies{dies_at:?}")), ..whole.clone() };
        for &step in dies_at {
            let killed = Asked { dies_at: Some(step), ..asked.clone() }.finish();
            assert_eq!(killed.status.signal(), Some(libc::SIGKILL), "{}", stderr(&killed));
            asked.resume = asked.folder.join(STATE).exists();
            assert_eq!(asked.resume, step >= 2, "states are written every two steps");
        }
        let run = asked.finish();
        assert!(run.status.success(), "{}", stderr(&run));
        same_end(&whole, &asked, &format!("killed at {dies_at:?}"));
    }
}

#[test]
fn killed_while_a_state_is_written_a_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let whole = Asked { save_steps: 1, ..Asked::new(&data, &folder.path().join("whole")) };
    let run = whole.finish();
    assert!(run.status.success(), "{}", stderr(&run));
    let mut asked = Asked { folder: folder.path().join("killed"), ..whole.clone() };
    let writing = |name: &str| name.starts_with(".segface-") || name.contains("next");
    let mut caught = 0;
    for _ in 0..4 {
        let mut child = asked.start(0, 1, 0);
        // Only once a state is there can a run be resumed.
        let ended = loop {
            let names = if asked.folder.exists() { crate::finished::names(&asked.folder) } else { vec![] };
            if names.iter().any(|name| name == STATE) && names.iter().any(|name| writing(name)) {
                child.kill().unwrap();
                child.wait().unwrap();
                caught += 1;
                break false;
            }
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            std::thread::yield_now();
        };
        asked.resume = true;
        if ended {
            break;
        }
    }
    assert!(caught > 0, "a state is written in less time than it takes to look");
    let run = asked.finish();
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(whole.state() == asked.state(), "another state after {caught} kills");
    let left = crate::finished::names(&asked.folder);
    assert!(left.iter().all(|name| !writing(name)), "{left:?}");
}

#[test]
fn a_damaged_state_gives_way_to_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let whole = Asked::new(&data, &folder.path().join("whole"));
    assert!(whole.finish().status.success());
    for (name, damage) in [("cut", 1_000_000), ("flipped", 0)] {
        let mut asked = Asked { folder: folder.path().join(name), stop_after: Some(7), ..whole.clone() };
        assert!(asked.finish().status.success());
        let path = asked.folder.join(STATE);
        let mut bytes = fs::read(&path).unwrap();
        assert!(asked.folder.join(PREVIOUS).exists());
        if damage > 0 {
            bytes.truncate(damage);
        } else {
            let last = bytes.len() - 5;
            bytes[last] ^= 1;
        }
        fs::write(&path, bytes).unwrap();
        (asked.resume, asked.stop_after) = (true, None);
        let run = asked.finish();
        assert!(run.status.success(), "{}", stderr(&run));
        same_end(&whole, &asked, name);
    }
}

#[test]
fn a_full_disk_leaves_the_last_state_and_the_run_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let whole = Asked::new(&data, &folder.path().join("whole"));
    assert!(whole.finish().status.success());
    let mut asked = Asked { folder: folder.path().join("full"), stop_after: Some(4), ..whole.clone() };
    assert!(asked.finish().status.success());
    let before = asked.state();
    (asked.resume, asked.stop_after) = (true, None);
    let full = Asked { longest_file: Some(1_000_000), ..asked.clone() }.finish();
    assert_eq!(full.status.code(), Some(3));
    let said = stderr(&full);
    assert!(said.contains("cannot write") && said.contains("safetensors"), "{said}");
    assert!(before == asked.state(), "the last good state is gone");
    let left = crate::finished::names(&asked.folder);
    assert!(left.iter().all(|name| !name.contains("tmp") && !name.contains("next")), "{left:?}");
    let run = asked.finish();
    assert!(run.status.success(), "{}", stderr(&run));
    same_end(&whole, &asked, "after a full disk");
}

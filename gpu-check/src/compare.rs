//! What two devices gave out, held against each other and against the CPU.
//!
//! Sums of tensor cores have no order that a data sheet tells, so two devices may differ in bits and still both be right. As
//! everywhere in this project the error decides: a result passes when its relative L2 distance to the CPU's f32 logits is at most
//! twice that of the device beside it, plus a floor.

use crate::outputs::{Record, labels};
use crate::{Failure, emit};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// Times the other device's error that is accepted.
const FACTOR: f64 = 2.0;
/// Error that is accepted in any case, relative L2: a tenth of what whole networks in f32 may be off by.
const FLOOR: f64 = 1e-5;

/// The comparison of one network.
#[derive(Debug, Serialize)]
pub struct Comparison {
    record: &'static str,
    network: String,
    precision: String,
    size: usize,
    batch: usize,
    /// Whether the logits are the same, bit by bit.
    same_bits: bool,
    /// Relative L2 distance of the device's logits to the other's.
    distance: f64,
    /// Relative L2 distance of the device's logits to the CPU's in f32.
    device_error: f64,
    /// The same of the other device.
    other_error: f64,
    /// Pixels whose label differs between both devices.
    label_flips: usize,
    /// Pixels in all.
    pixels: usize,
    device_logits: String,
    other_logits: String,
    device_labels: String,
    other_labels: String,
    /// Whether the device's result is accepted.
    pub passed: bool,
}

/// Compares everything that both `device` and `other` hold and prints a record for each; says whether all passed.
///
/// # Errors
/// If a folder cannot be read, or there is nothing to compare.
pub fn run(device: &Path, other: &Path, cpu: &Path) -> Result<bool, Failure> {
    let mut names: Vec<_> = fs::read_dir(device)?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "json") && other.join(name).exists())
        .collect();
    names.sort();
    if names.is_empty() {
        return Err("no network has results of both devices".into());
    }
    let mut all = true;
    for name in names {
        let (ours, ours_logits) = read(device, Path::new(&name))?;
        let (theirs, theirs_logits) = read(other, Path::new(&name))?;
        let truth_name = format!("{}_f32_{}x{}.json", ours.network, ours.size, ours.batch);
        let (_, truth) = read(cpu, Path::new(&truth_name))?;
        let comparison = compare((ours, &ours_logits), (theirs, &theirs_logits), &truth)?;
        all &= comparison.passed;
        emit(&comparison)?;
    }
    Ok(all)
}

fn compare(
    (ours, ours_logits): (Record, &[f32]),
    (theirs, theirs_logits): (Record, &[f32]),
    truth: &[f32],
) -> Result<Comparison, Failure> {
    if ours.shape != theirs.shape || ours_logits.len() != truth.len() || theirs_logits.len() != truth.len() {
        return Err(format!("{}: shapes {:?} and {:?}", ours.network, ours.shape, theirs.shape).into());
    }
    let classes = ours.shape.last().copied().unwrap_or(1).max(1);
    let (a, b) = (labels(ours_logits, classes), labels(theirs_logits, classes));
    let (device_error, other_error) = (distance(ours_logits, truth), distance(theirs_logits, truth));
    Ok(Comparison {
        record: "comparison",
        same_bits: ours_logits.iter().zip(theirs_logits).all(|(a, b)| a.to_bits() == b.to_bits()),
        distance: distance(ours_logits, theirs_logits),
        device_error,
        other_error,
        label_flips: a.iter().zip(&b).filter(|(a, b)| a != b).count(),
        pixels: a.len(),
        // A distance that is no number passes nothing.
        passed: device_error <= FACTOR * other_error + FLOOR,
        network: ours.network,
        precision: ours.precision,
        size: ours.size,
        batch: ours.batch,
        device_logits: ours.logits,
        other_logits: theirs.logits,
        device_labels: ours.labels,
        other_labels: theirs.labels,
    })
}

/// ‖a − b‖₂ / ‖b‖₂
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (difference / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

fn read(folder: &Path, name: &Path) -> Result<(Record, Vec<f32>), Failure> {
    let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let path = folder.join(name);
    let record: Record = serde_json::from_slice(&fs::read(&path).map_err(|error| at(&path, error))?)?;
    let path = folder.join(&record.file);
    let bytes = fs::read(&path).map_err(|error| at(&path, error))?;
    Ok((record, bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            record: "output".into(),
            network: "mobilenet".into(),
            precision: "bf16".into(),
            size: 1,
            batch: 1,
            shape: vec![1, 1, 2, 2],
            logits: String::new(),
            labels: String::new(),
            file: String::new(),
        }
    }

    fn verdict(ours: [f32; 4], theirs: [f32; 4]) -> Comparison {
        compare((record(), &ours), (record(), &theirs), &[1.0, 0.0, 0.0, 1.0]).expect("of one shape")
    }

    #[test]
    fn a_device_passes_with_twice_the_error_of_the_other_and_no_more() {
        let other = [1.01, 0.0, 0.0, 1.0];
        assert!(verdict([1.0, 0.02, 0.0, 1.0], other).passed);
        assert!(!verdict([1.0, 0.021, 0.0, 1.0], other).passed);
        assert!(!verdict([1.0, f32::NAN, 0.0, 1.0], other).passed);
        assert!(verdict(other, other).same_bits && !verdict([1.0, 0.0, 0.0, 1.0], other).same_bits);
    }

    #[test]
    fn flipped_labels_are_counted() {
        let found = verdict([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]);
        assert_eq!((found.label_flips, found.pixels), (1, 2));
    }

    #[test]
    fn what_only_one_device_has_is_not_compared() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = ["device", "other", "cpu"].map(|name| folder.path().join(name));
        folders.iter().for_each(|folder| fs::create_dir(folder).expect("a folder"));
        fs::write(folders[0].join("mobilenet_bf16_1x1.json"), "{}").expect("a file");
        let error = run(&folders[0], &folders[1], &folders[2]).expect_err("nothing to compare");
        assert!(error.to_string().contains("no network"), "{error}");
    }
}

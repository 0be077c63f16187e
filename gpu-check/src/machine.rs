//! What the driver says about itself and its devices.

use crate::{Failure, emit};
use segface::engine::cuda::{Compiler, Device, devices, driver_version};
use segface_codegen::cuda::card::{Card, cards};
use serde::Serialize;

#[derive(Serialize)]
struct Record {
    record: &'static str,
    devices: usize,
    device: String,
    capability: String,
    multiprocessors: usize,
    memory_bytes: usize,
    driver: String,
    nvrtc: Option<String>,
    nvrtc_missing: Option<String>,
    /// The card whose data the bounds are computed from.
    card: Option<&'static str>,
}

/// Prints what there is.
///
/// # Errors
/// Without a driver or a device.
pub fn run(device: &Device) -> Result<(), Failure> {
    let (major, minor) = device.capability();
    let (nvrtc, nvrtc_missing) = match Compiler::find() {
        Ok(compiler) => (Some(format!("{}.{}", compiler.version().0, compiler.version().1)), None),
        Err(error) => (None, Some(error.to_string())),
    };
    emit(&Record {
        record: "machine",
        devices: devices()?,
        device: device.name().to_owned(),
        capability: format!("{major}.{minor}"),
        multiprocessors: device.multiprocessors()?,
        memory_bytes: device.memory()?.1,
        driver: format!("{}.{}", driver_version().0, driver_version().1),
        nvrtc,
        nvrtc_missing,
        card: card(device.name()).map(|card| card.name.as_str()),
    })
}

/// The card of that name, if its data are known: every word of ours must be one of the driver's, so that an L40S is no L4.
pub fn card(device: &str) -> Option<&'static Card> {
    let words: Vec<&str> = device.split(|c: char| !c.is_alphanumeric()).collect();
    cards().iter().find(|card| card.name.split(' ').all(|word| words.contains(&word)))
}

#[cfg(test)]
mod tests {
    use super::card;

    #[test]
    fn a_card_is_known_by_whole_words_of_its_name() {
        let name = |device| card(device).map(|card| card.name.as_str());
        assert_eq!(name("NVIDIA H100 80GB HBM3"), Some("H100"));
        assert_eq!(name("NVIDIA A100-SXM4-80GB"), Some("A100"));
        assert_eq!(name("NVIDIA GeForce RTX 4090"), Some("RTX 4090"));
        assert_eq!(name("NVIDIA RTX A6000"), Some("A6000"));
        assert_eq!(name("NVIDIA L4"), Some("L4"));
        for unknown in ["NVIDIA L40S", "NVIDIA RTX 6000 Ada Generation", "NVIDIA H200", "NVIDIA GeForce RTX 4090D"] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
    }
}

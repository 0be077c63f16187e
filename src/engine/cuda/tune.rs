//! The autotuner: which tile of each product is fastest on the card at hand, kept for the next time.
//!
//! Every product of a network is built with each of its candidate tiles. They take turns, so that what else happens on the card hurts
//! all alike, and the least median wins. Results lie beside the compiled kernels, by everything that may change them: device,
//! compute capability, driver, kernel sources, candidates; in the file, by problem.

use super::compiler::{cache_folder, driver_version, keep};
use super::timed::median;
use super::{CudaEngine, CudaError, Device};
use crate::engine::EngineError;
use crate::weights::seeded_values;
use segface_codegen::cuda::card::Card;
use segface_codegen::cuda::tile::{TILES, candidates};
use segface_codegen::cuda::{Problem, Program, Tile, Tuning};
use segface_codegen::ir::Output;
use segface_codegen::plan::Precision;
use segface_kernels::cuda::{COMPILE_OPTIONS, HEADERS};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was measured of a product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The product.
    pub problem: Problem,
    /// The fastest tile.
    pub best: Tile,
    /// Each candidate's median time, in microseconds.
    pub candidates: Vec<(Tile, f64)>,
}

/// How often to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Launches of a kernel in a graph.
    pub repeats: usize,
    /// Times that every candidate is measured.
    pub rounds: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { repeats: 20, rounds: 9 }
    }
}

/// The file of a cache.
#[derive(Serialize, Deserialize)]
struct Kept {
    device: String,
    products: Vec<Measured>,
}

/// Where results for a device lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The file.
    pub path: PathBuf,
    device: String,
}

impl Cache {
    /// Beside the compiled kernels; `None` where those are not kept either.
    ///
    /// # Errors
    /// If the driver does not say what the device is.
    pub fn of(device: &Device) -> Result<Option<Self>, CudaError> {
        cache_folder().map(|folder| Self::within(&folder, device)).transpose()
    }

    /// In a folder of the caller's.
    ///
    /// # Errors
    /// As [`Cache::of`].
    pub fn within(folder: &Path, device: &Device) -> Result<Self, CudaError> {
        let mut hash = Sha256::new();
        // Times of a virtual device are none of the card's whose name it bears.
        let what = (device.name(), device.capability(), device.is_virtual()?, driver_version());
        hash.update(format!("{what:?} {} {COMPILE_OPTIONS:?} {TILES:?}\n", env!("CARGO_PKG_VERSION")));
        for (name, text) in HEADERS {
            hash.update(format!("{name}\n{text}\n"));
        }
        let digest = hash.finalize();
        let name = digest.iter().take(16).fold("tiles-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
        Ok(Self { path: folder.join(name + ".json"), device: device.name().into() })
    }

    /// What was measured before. A file that cannot be read is as good as none.
    pub fn load(&self) -> Vec<Measured> {
        let Ok(text) = std::fs::read(&self.path) else { return Vec::new() };
        match serde_json::from_slice::<Kept>(&text) {
            // A tile that is no candidate is no tile that was ever tested.
            Ok(kept) => kept.products.into_iter().filter(|m| candidates(&m.problem).contains(&m.best)).collect(),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!("{path} is not what the tuner writes ({error}); tiles are chosen without it");
                Vec::new()
            }
        }
    }

    /// Keeps results beside those of other problems. A cache that cannot be written is no reason to fail.
    pub fn store(&self, measured: &[Measured]) {
        let mut products = self.load();
        products.retain(|old| measured.iter().all(|new| new.problem != old.problem));
        products.extend_from_slice(measured);
        products.sort_by_key(|measured| measured.problem.to_string());
        let kept = Kept { device: self.device.clone(), products };
        if let Ok(text) = serde_json::to_vec_pretty(&kept) {
            keep(&self.path, &text);
        }
    }
}

/// How tiles are chosen for `device`: by what was measured on it before, else by its data.
///
/// # Errors
/// If the driver does not say what the device is.
pub fn tuning(device: &Device) -> Result<Tuning, CudaError> {
    tuning_with(device, Cache::of(device)?.as_ref())
}

/// [`tuning`] with a cache of the caller's.
///
/// # Errors
/// As [`tuning`].
pub fn tuning_with(device: &Device, cache: Option<&Cache>) -> Result<Tuning, CudaError> {
    let products = cache.map(Cache::load).unwrap_or_default();
    let measured_on = (!products.is_empty()).then(|| device.name().to_owned());
    let tiles = products.into_iter().map(|measured| (measured.problem, measured.best)).collect();
    Ok(Tuning { card: card(device)?, tiles, measured_on })
}

/// The data that stand for a device.
fn card(device: &Device) -> Result<Card, CudaError> {
    let (major, minor) = device.capability();
    Ok(Card::like(device.name(), (major * 10 + minor) as u32, device.multiprocessors()?))
}

/// Whether times of `device` mean something: not those of a virtual one, unless the caller wants the tuner to run all the same. What
/// to warn of, then.
///
/// # Errors
/// Why it is not tuned on; if the driver does not say what the device is.
pub fn permit(device: &Device, force: bool) -> Result<Option<String>, EngineError> {
    let name = device.name();
    match (device.is_virtual()?, force) {
        (false, _) => Ok(None),
        (true, true) => Ok(Some(format!("{name} is a virtual device: these times say nothing of a card"))),
        (true, false) => Err(EngineError::Profile {
            reason: format!(
                "{name} is a virtual device: its times say nothing of a card; tune on a real one, or use `--force` to try the tuner"
            ),
        }),
    }
}

/// Measures every candidate of every product of the network that `compile` makes, on what a run with random input leaves. `observe`
/// is told each product that is done, and how many there are.
///
/// # Errors
/// If a kernel cannot be compiled or fails, there is no room for the network with each of the candidates, or one of them
/// computes something else than the others.
pub fn tune(
    device: &Device,
    effort: Effort,
    compile: &mut dyn FnMut(&Tuning) -> Program,
    observe: &mut dyn FnMut(&Measured, usize),
) -> Result<Vec<Measured>, EngineError> {
    let card = card(device)?;
    let model = compile(&Tuning::of(card.clone()));
    let mut products: Vec<(Problem, usize, Vec<Tile>)> = Vec::new();
    for choice in &model.choices {
        if products.iter().all(|(problem, ..)| *problem != choice.problem) {
            products.push((choice.problem.clone(), choice.launch, candidates(&choice.problem)));
        }
    }
    drop(model);
    let variants = products.iter().map(|(.., tiles)| tiles.len()).max().unwrap_or(0);
    let mut engines = Vec::with_capacity(variants);
    let mut first = None;
    for variant in 0..variants {
        let tiles =
            products.iter().map(|(problem, _, tiles)| (problem.clone(), tiles[variant % tiles.len()])).collect();
        let program = compile(&Tuning { card: card.clone(), tiles, measured_on: None });
        let mut engine = CudaEngine::new(Arc::new(program), device)?;
        check(&mut engine, &mut first, variant)?;
        engines.push(engine);
    }
    let mut results = Vec::with_capacity(products.len());
    for (problem, launch, tiles) in &products {
        let engines = engines.iter_mut().take(tiles.len());
        let timed =
            engines.map(|engine| engine.timed_launch(*launch, effort.repeats)).collect::<Result<Vec<_>, _>>()?;
        let mut times = vec![Vec::with_capacity(effort.rounds); tiles.len()];
        for round in 0..=effort.rounds {
            for (times, timed) in times.iter_mut().zip(&timed) {
                let time = timed.measure()?;
                // The first round brings operands into the caches.
                if round > 0 {
                    times.push(time);
                }
            }
        }
        let candidates: Vec<(Tile, f64)> = tiles.iter().copied().zip(times.into_iter().map(median)).collect();
        let best = candidates.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map(|(tile, _)| *tile);
        let Some(best) = best else { continue };
        let measured = Measured { problem: problem.clone(), best, candidates };
        observe(&measured, products.len());
        results.push(measured);
    }
    Ok(results)
}

/// Runs a variant and holds its outputs against those of the first one: tiles differ in where sums are cut at most.
fn check(engine: &mut CudaEngine, first: &mut Option<Vec<Vec<f32>>>, variant: usize) -> Result<(), EngineError> {
    let len = engine.program().input().map_or(0, |id| engine.program().graph.values[id.0].len());
    engine.run(&seeded_values("input", len))?;
    let outputs: Vec<Output> = engine.program().graph.outputs.iter().map(|(output, _)| *output).collect();
    let results =
        outputs.iter().map(|output| Ok(engine.output(*output)?.1)).collect::<Result<Vec<_>, EngineError>>()?;
    let Some(expected) = first else {
        *first = Some(results);
        return Ok(());
    };
    let allowed = match engine.program().precision {
        Precision::F32 => 1e-4,
        Precision::Tf32 | Precision::F16 => 2e-2,
        Precision::Bf16 => 1e-1,
    };
    for (output, (result, expected)) in outputs.iter().zip(results.iter().zip(expected.iter())) {
        let difference = distance(result, expected);
        // Not a number is too far, too.
        if difference.is_nan() || difference > allowed {
            return Err(EngineError::Profile {
                reason: format!(
                    "with the {variant}th tiles {output:?} is off by {difference:.1e} of what the first ones give, allowed {allowed:.0e}"
                ),
            });
        }
    }
    Ok(())
}

/// Relative L2 distance.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = b.iter().map(|b| square(*b)).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

//! A run in a process of its own: this test program starts itself.

use crate::pixels::{MODEL, Pixels};
use crate::synthetic;
use segface::train::{Decay, Place, Recipe, RunOptions, Schedule, Start, Summary, connect, connect_mpi, train};
use segface::{Error, ModelSpec};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;

pub(crate) const SIDE: usize = 24;

/// What a run is asked for.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) data: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) model: ModelSpec,
    pub(crate) replicas: usize,
    pub(crate) batch: usize,
    pub(crate) epochs: u64,
    pub(crate) learning_rate: f64,
    pub(crate) resume: bool,
    pub(crate) save_steps: u64,
    pub(crate) stop_after: Option<u64>,
    /// Step at whose last micro-batch the process kills itself as `kill -9` would.
    pub(crate) dies_at: Option<u64>,
    /// Step whose first gradient is no number.
    pub(crate) poisoned_at: Option<u64>,
    /// Whether gradients travel during the backward pass.
    pub(crate) overlap: bool,
    /// Whether processes find each other by MPI.
    pub(crate) mpi: bool,
    /// Bytes beyond which the system refuses to make a file longer.
    pub(crate) longest_file: Option<u64>,
}

impl Asked {
    /// A short run on the five images of the synthetic train split.
    pub(crate) fn new(data: &Path, folder: &Path) -> Asked {
        Asked {
            data: data.into(),
            folder: folder.into(),
            model: MODEL,
            replicas: 1,
            batch: 1,
            epochs: 3,
            learning_rate: 0.05,
            resume: false,
            save_steps: 2,
            stop_after: None,
            dies_at: None,
            poisoned_at: None,
            overlap: true,
            mpi: false,
            longest_file: None,
        }
    }

    pub(crate) fn recipe(&self) -> Recipe {
        Recipe {
            batch: self.batch,
            replicas: self.replicas,
            epochs: self.epochs,
            schedule: Schedule { learning_rate: self.learning_rate, decay: Decay::MultiStep(vec![2]), warmup: 3 },
            clip: Some(0.5),
            ema: Some(0.9),
            ..Recipe::published(self.model, SIDE, synthetic::SPLITS[0].1.len())
        }
    }

    /// Runs here, as process `place`.
    pub(crate) fn run(&self, place: &Place) -> Result<Summary, Error> {
        self.run_with(&self.recipe(), place)
    }

    /// The same with another recipe.
    pub(crate) fn run_with(&self, recipe: &Recipe, place: &Place) -> Result<Summary, Error> {
        let options = RunOptions {
            data: self.data.clone(),
            folder: self.folder.clone(),
            start: Start::Random,
            resume: self.resume,
            stop_after: self.stop_after,
            log_steps: 2,
            save_steps: self.save_steps,
            save_epochs: 1,
            validate_epochs: 0,
            validate_batch: 1,
            overlap: self.overlap,
            threads: 1,
            workers: 2,
            progress: false,
            most_images_per_second: None,
        };
        let mut engine = Pixels::new(self.model, SIDE);
        let (dies_at, poisoned_at, last) = (self.dies_at, self.poisoned_at, self.replicas as u32 - 1);
        engine.hook = Box::new(move |draws| {
            if dies_at == Some(draws.step) && draws.micro_batch == last {
                // SAFETY: a process may kill itself.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            if poisoned_at == Some(draws.step) { f32::NAN } else { 0.0 }
        });
        let mut group = if self.mpi { connect_mpi(place, 7)? } else { connect(place, 7)? };
        train(recipe, &options, &mut engine, &mut group, &AtomicBool::new(false))
    }

    /// What a process is given that is to run it.
    pub(crate) fn arguments() -> [&'static str; 5] {
        ["--ignored", "--exact", "process::a_run_of_other_tests", "--nocapture", "--test-threads=1"]
    }

    /// Starts a process that runs it, as rank `rank` of `size`.
    pub(crate) fn start(&self, rank: usize, size: usize, port: u16) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(Self::arguments());
        command.env("SEGFACE_TEST_RUN", serde_json::to_string(self).unwrap());
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The same alone, waited for.
    pub(crate) fn finish(&self) -> Output {
        self.start(0, 1, 0).wait_with_output().unwrap()
    }

    pub(crate) fn state(&self) -> Vec<u8> {
        std::fs::read(self.folder.join(segface::train::STATE)).unwrap()
    }
}

/// A port that nobody listens at, as far as one can know.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
#[ignore = "the process that other tests start, kill and resume"]
fn a_run_of_other_tests() {
    let asked = std::env::var("SEGFACE_TEST_RUN").expect("started by another test");
    let asked: Asked = serde_json::from_str(&asked).unwrap();
    if let Some(longest) = asked.longest_file {
        let limit = libc::rlimit { rlim_cur: longest, rlim_max: longest };
        // SAFETY: plain calls; without the signal's default, which ends the process, writing fails as on a full disk.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    }
    let place = Place::from_environment(|name| std::env::var(name).ok()).unwrap();
    if let Err(error) = asked.run(&place) {
        segface::print_error(&error);
        std::process::exit(3);
    }
}

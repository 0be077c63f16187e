//! A launch run again, and again, with fewer blocks, until as little of it is left as shows a finding.
//!
//! What the launch has changed is kept from before it was changed, byte by byte, so that every run starts from the same
//! memory and the same shadow, and the program goes on with what the launch itself has left.

mod record;
#[cfg(test)]
mod tests;

pub(crate) use record::Record;

use super::{
    launch::{CheckedLaunch, LaunchChecker},
    site::{self, Kernel, Source},
};
use crate::{
    machine::{Launch, run_watched},
    report::{Finding, Findings, Shrunk},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Findings of a launch that are shrunk.
pub(crate) const MOST_FINDINGS: usize = 4;
/// Runs for one of them.
const MOST_RUNS: u32 = 200;
/// Time for one of them.
const TIME: Duration = Duration::from_secs(10);
/// Time for one run.
const TIME_OF_RUN: Duration = Duration::from_secs(2);
/// Seeds to try besides the launch's own.
const SEEDS: u64 = 4;

/// Launches under way that can be run again.
static UNDER_WAY: Mutex<usize> = Mutex::new(0);

/// A launch begins; it waits while another one is being run again.
pub(super) fn enter() {
    *UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner) += 1;
}

/// The launch has ended: its findings are shrunk.
pub(super) fn leave(launch: &Launch, checker: &LaunchChecker) {
    let mut under_way = UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner);
    *under_way -= 1;
    let findings = checker.noted();
    let Some(record) = checker.record.as_ref().filter(|_| !findings.is_empty()) else { return };
    let allocates = launch.module.program.texts.iter().any(|text| text.contains("malloc"));
    let alone = launch.options.alone.is_some_and(|alone| alone(1));
    let obstacle = if *under_way > 0 {
        Some("other launches are under way")
    } else if allocates {
        Some("the kernel's module allocates memory")
    } else if !alone && record.bytes().are_seen_by_host() {
        Some("the host might be looking at the memory that it writes")
    } else {
        None
    };
    if let Some(obstacle) = obstacle {
        eprintln!("ptxvm: the findings of {} are not shrunk: {obstacle}", launch.label);
        return;
    }
    let after = record.bytes().now();
    for finding in &findings {
        let mut search = Search { launch, record, finding, runs: 0, until: Instant::now() + TIME };
        match search.shrink() {
            Some(shrunk) => checker.findings().amend(finding, shrunk),
            None => eprintln!("ptxvm: {} was not seen again in {} runs", finding.kind, search.runs),
        }
    }
    record.bytes().put_back();
    after.put_back();
}

/// What is run.
#[derive(Clone)]
struct Trial {
    grid: [u32; 3],
    /// `None`: all.
    blocks: Option<Vec<u64>>,
    seed: Option<u64>,
}

struct Search<'a> {
    launch: &'a Launch,
    record: &'a Arc<Record>,
    finding: &'a Finding,
    runs: u32,
    until: Instant,
}

impl Search<'_> {
    fn number(&self, index: [u32; 3]) -> u64 {
        let [x, y, _] = self.launch.grid.map(u64::from);
        let [i, j, k] = index.map(u64::from);
        (k * y + j) * x + i
    }

    fn index(&self, number: u64) -> [u32; 3] {
        let [x, y, _] = self.launch.grid.map(u64::from);
        [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32]
    }

    /// Whether a run shows the finding.
    fn shows(&mut self, trial: &Trial) -> bool {
        if self.runs >= MOST_RUNS || Instant::now() > self.until {
            return false;
        }
        self.runs += 1;
        self.record.bytes().put_back();
        let mut launch = self.launch.clone();
        launch.grid = trial.grid;
        let options = &mut launch.options;
        (options.threads, options.seed, options.quiet, options.shrink) = (1, trial.seed, true, false);
        options.only = trial.blocks.clone().map(Arc::from);
        options.limit = Some(TIME_OF_RUN);
        options.patience = TIME_OF_RUN;
        options.alone = Some(|_| true);
        let findings = Arc::new(Findings::default());
        findings.print(false);
        let info = launch.module.info(launch.kernel);
        let kernel = Kernel::new(launch.module.program.clone(), info.name.clone(), launch.grid, launch.block);
        let source = site::register(|id| Source {
            id,
            kernel: Some(kernel),
            host: false,
            label: launch.label.clone(),
            order: Some(launch.order.clone()),
            seed: trial.seed,
        });
        let mut checker = LaunchChecker::new(source, Arc::new(self.record.shadow()));
        checker.apart(findings.clone(), Arc::new(self.record.again()));
        // A fault is a finding too.
        let _ = run_watched(&launch, Some(Arc::new(CheckedLaunch::of(checker, &launch))));
        findings.list().iter().any(|found| found.is_like(self.finding))
    }

    fn shrink(&mut self) -> Option<Shrunk> {
        let grid = self.launch.grid;
        let seed = self.launch.options.seed;
        let other = self.finding.other.as_ref().filter(|other| other.at.label == self.finding.at.label);
        let mut pair = vec![self.number(self.finding.at.block)];
        pair.extend(other.map(|other| self.number(other.at.block)).filter(|number| *number != pair[0]));
        let seeds = std::iter::once(seed).chain([None]).chain((0..SEEDS).map(Some));
        let mut found = None;
        // Blocks that wait for ones that are left out would make deadlocks of their own.
        let parts = self.finding.kind != "deadlock";
        for seed in seeds {
            let both = Trial { grid, blocks: Some(pair.clone()), seed };
            if parts && self.shows(&both) {
                found = Some(both);
                break;
            }
            let all = Trial { grid, blocks: None, seed };
            if self.shows(&all) {
                found = Some(all);
                break;
            }
        }
        let mut trial = found?;
        if parts {
            let blocks = trial.blocks.clone().unwrap_or_else(|| (0..self.launch.blocks()).collect());
            trial.blocks = Some(self.fewer(&trial, blocks));
        }
        self.simpler_seed(&mut trial);
        let smaller = self.smaller_grid(&trial);
        let blocks = trial.blocks.unwrap_or_else(|| (0..self.launch.blocks()).collect());
        Some(Shrunk {
            numbers: blocks.clone(),
            blocks: blocks.iter().map(|block| self.index(*block)).collect(),
            of: self.launch.blocks(),
            grid: smaller,
            seed: trial.seed,
            runs: self.runs,
        })
    }

    /// Leaves out as many blocks as can be: halves, quarters, … down to single ones.
    fn fewer(&mut self, trial: &Trial, mut blocks: Vec<u64>) -> Vec<u64> {
        let mut size = blocks.len() / 2;
        while size > 0 {
            let mut at = 0;
            while at < blocks.len() {
                let end = (at + size).min(blocks.len());
                let rest: Vec<u64> = blocks[..at].iter().chain(&blocks[end..]).copied().collect();
                if !rest.is_empty() && self.shows(&Trial { blocks: Some(rest.clone()), ..trial.clone() }) {
                    blocks = rest;
                } else {
                    at = end;
                }
            }
            size /= 2;
        }
        blocks
    }

    /// The natural order, or a small seed, where that shows it too.
    fn simpler_seed(&mut self, trial: &mut Trial) {
        let Some(seed) = trial.seed else { return };
        for simpler in std::iter::once(None).chain((0..SEEDS.min(seed)).map(Some)) {
            let other = Trial { seed: simpler, ..trial.clone() };
            if self.shows(&other) {
                *trial = other;
                return;
            }
        }
    }

    /// A smaller grid all of whose blocks together show it.
    fn smaller_grid(&mut self, trial: &Trial) -> Option<[u32; 3]> {
        let grid = self.launch.grid;
        let mut sizes = vec![[1, 1, 1], [2, 1, 1], [1, 2, 1], [2, 2, 1]];
        if let Some(blocks) = &trial.blocks {
            let around = blocks
                .iter()
                .map(|block| self.index(*block))
                .fold([1; 3], |around: [u32; 3], index| std::array::from_fn(|axis| around[axis].max(index[axis] + 1)));
            sizes.push(around);
        }
        let all = self.launch.blocks();
        let fits = |size: &[u32; 3]| {
            (0..3).all(|axis| size[axis] <= grid[axis]) && size.iter().map(|n| u64::from(*n)).product::<u64>() < all
        };
        sizes.into_iter().filter(fits).find(|size| self.shows(&Trial { grid: *size, blocks: None, seed: trial.seed }))
    }
}

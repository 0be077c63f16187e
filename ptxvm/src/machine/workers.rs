//! Threads that run the blocks of a grid.
//!
//! In fast mode a worker keeps a block until it is done, unless the block only waits for others (a spin loop on global
//! memory): then it starts another, up to as many as the card would hold at once, and goes round them. With a seed, and in
//! checked mode, several blocks take turns in short slices from the start, as the seed draws them.

use super::{
    block::{Block, Round},
    fault::{Fault, FaultKind},
    launch::{Launch, Running, mix},
    standstill::Standstill,
    warp::SLICE,
};
use crate::{
    memory::{AllocationKind, Memory},
    monitor::{self, LaunchWatch},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

struct Grid<'a> {
    running: Running<'a>,
    next: AtomicU64,
    stop: AtomicBool,
    fault: Mutex<Option<Fault>>,
    /// Rounds in which some block did more than wait.
    progress: AtomicU64,
    /// Blocks that may be under way at once, over all workers.
    resident: u64,
    /// Times that anything has changed which a waiting block could see.
    changes: AtomicU64,
    /// For each worker: after how many changes all its blocks were found to wait for more. `u64::MAX`: it has none left.
    still: Vec<AtomicU64>,
    /// Workers that have blocks left.
    working: AtomicUsize,
    started: Instant,
}

/// Bytes that grid-wide barriers work on: the layout is the CUDA headers' business, zero is its start.
const WORKSPACE: u64 = 4096;

/// Blocks of a worker that take turns.
const TOGETHER: u64 = 4;

/// Rounds between looks at the clock.
const LOOK: u32 = 64;

pub(super) fn run(launch: &Launch) -> Result<(), Fault> {
    run_watched(launch, monitor::begin(launch))
}

/// Runs a launch for whoever watches it.
pub(crate) fn run_watched(launch: &Launch, watch: Option<Arc<dyn LaunchWatch>>) -> Result<(), Fault> {
    let workspace = if launch.cooperative { workspace(launch)? } else { 0 };
    let running = Running::new(launch, workspace, watch);
    let blocks = running.count();
    let card = u64::from(launch.resident.max(1)) * u64::from(launch.multiprocessors.max(1));
    let threads = (launch.options.threads.max(1) as u64).min(blocks).max(1);
    let grid = Grid {
        running,
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
        progress: AtomicU64::new(0),
        resident: if launch.cooperative { blocks } else { card },
        changes: AtomicU64::new(0),
        still: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        working: AtomicUsize::new(threads as usize),
        started: Instant::now(),
    };
    if threads == 1 {
        grid.work(0);
    } else {
        thread::scope(|scope| {
            let grid = &grid;
            for worker in 1..threads {
                scope.spawn(move || grid.work(worker));
            }
            grid.work(0);
        });
    }
    if workspace != 0 {
        // It was allocated above, and nobody else knows it.
        let _ = Memory::global().free(workspace);
    }
    let fault = grid.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
    grid.running.end(fault.as_ref());
    fault.map_or(Ok(()), Err)
}

fn workspace(launch: &Launch) -> Result<u64, Fault> {
    let memory = Memory::global();
    let failed = |error: crate::memory::MemoryError| {
        Fault::new(FaultKind::IllegalAddress, "out-of-memory", format!("no memory for the grid's barrier: {error}"))
    };
    let label = "grid barrier".to_owned();
    let address = memory.allocate(WORKSPACE, 256, AllocationKind::Internal, launch.device, label).map_err(failed)?;
    // SAFETY: just allocated.
    unsafe { memory.fill(address, &[0], WORKSPACE).map_err(failed)? };
    Ok(address)
}

/// A block that a worker has under way.
struct Resident {
    block: Box<Block>,
    standstill: Standstill,
}

/// What a worker does next, after a round of a block.
enum After {
    Goes(Resident),
    Waits(Resident),
    Done,
    Stop,
}

impl Grid<'_> {
    fn work(&self, worker: u64) {
        self.rounds(worker);
        self.still[worker as usize].store(u64::MAX, Ordering::Relaxed);
        self.working.fetch_sub(1, Ordering::Relaxed);
    }

    fn rounds(&self, worker: u64) {
        let options = &self.running.launch.options;
        // Rounded up: the blocks of a cooperative grid are under way all at once.
        let most = self.resident.div_ceil(self.still.len() as u64).max(1);
        let turns = options.seed.is_some() || options.checked;
        let together = if turns { TOGETHER.min(most) } else { 1 };
        let mut random = options.seed.unwrap_or(0) ^ worker.wrapping_mul(0xd134_2543_de82_ef95);
        let mut resident: VecDeque<Resident> = VecDeque::new();
        let mut exhausted = false;
        let mut waiting_since: Option<(Instant, u64)> = None;
        let mut rounds = 0u32;
        while !self.stop.load(Ordering::Relaxed) {
            while !exhausted && (resident.len() as u64) < together {
                match self.start() {
                    Some(block) => resident.push_back(block),
                    None => exhausted = true,
                }
            }
            if !exhausted && waiting_since.is_some() && (resident.len() as u64) < most {
                match self.start() {
                    Some(block) => resident.push_front(block),
                    None => exhausted = true,
                }
            }
            let turn = if turns && waiting_since.is_none() && resident.len() > 1 {
                (mix(&mut random) % resident.len() as u64) as usize
            } else {
                0
            };
            let Some(mut chosen) = resident.remove(turn) else { return };
            chosen.block.slice = if turns && waiting_since.is_none() { slice(&mut random) } else { SLICE };
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(LOOK) && options.limit.is_some_and(|limit| self.started.elapsed() > limit) {
                self.fail(Some(Fault::new(FaultKind::Deadlock, "time", "the launch took longer than it was given")));
                return;
            }
            match self.round(chosen) {
                After::Done => waiting_since = None,
                After::Goes(block) => {
                    waiting_since = None;
                    resident.push_front(block);
                }
                After::Waits(block) => {
                    resident.push_back(block);
                    let progress = self.progress.load(Ordering::Relaxed);
                    match waiting_since {
                        Some((since, seen)) if seen == progress => {
                            if exhausted || resident.len() as u64 >= most {
                                thread::yield_now();
                                if self.all_still(worker, &resident) {
                                    self.starved(&mut resident, None);
                                    return;
                                }
                                if since.elapsed() > options.patience {
                                    self.starved(&mut resident, Some(options.patience.as_secs_f64()));
                                    return;
                                }
                            }
                        }
                        _ => waiting_since = Some((Instant::now(), progress)),
                    }
                }
                After::Stop => return,
            }
        }
    }

    fn round(&self, mut resident: Resident) -> After {
        // SAFETY: the block is this worker's, and in its box.
        let round = unsafe { Block::round(&raw mut *resident.block) };
        match round {
            Round::Finished => {
                self.progress.fetch_add(1, Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Relaxed);
                After::Done
            }
            Round::Busy => {
                self.progress.fetch_add(1, Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Relaxed);
                resident.standstill = Standstill::default();
                After::Goes(resident)
            }
            Round::Spinning => {
                if resident.block.took_effect() == Some(false) {
                    resident.standstill.look(&resident.block, self.changes.load(Ordering::Relaxed));
                } else {
                    resident.standstill = Standstill::default();
                    self.changes.fetch_add(1, Ordering::Relaxed);
                }
                After::Waits(resident)
            }
            Round::Fault => {
                self.fail(resident.block.take_fault());
                After::Stop
            }
        }
    }

    /// Whether no block can ever go on: all of them, of all workers, have been in the same states again and again since
    /// anything last changed, and nothing outside can change anything.
    fn all_still(&self, worker: u64, resident: &VecDeque<Resident>) -> bool {
        let Some(alone) = self.running.launch.options.alone else { return false };
        let changes = self.changes.load(Ordering::Relaxed);
        if !resident.iter().all(|block| block.standstill.is_proven(changes)) {
            return false;
        }
        // One more, since zero says that nothing has been found yet.
        self.still[worker as usize].store(changes + 1, Ordering::SeqCst);
        let same = |still: &AtomicU64| [u64::MAX, changes + 1].contains(&still.load(Ordering::SeqCst));
        self.still.iter().all(same)
            && self.changes.load(Ordering::SeqCst) == changes
            && alone(self.working.load(Ordering::Relaxed))
    }

    fn start(&self) -> Option<Resident> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        (turn < self.running.count()).then(|| Resident {
            block: Block::new(&self.running, self.running.block_at(turn)),
            standstill: Standstill::default(),
        })
    }

    fn fail(&self, fault: Option<Fault>) {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = fault.or_else(|| {
                Some(Fault::new(FaultKind::IllegalInstruction, "internal", "a warp stopped without saying why"))
            });
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Every block under way only waits: it has for so many seconds, or for what can be proven never to come.
    fn starved(&self, resident: &mut VecDeque<Resident>, seconds: Option<f64>) {
        let count = self.running.count();
        let started = self.next.load(Ordering::Relaxed).min(count);
        let what = match seconds {
            Some(seconds) => {
                format!("for {seconds:.0} s every block under way has done nothing but wait for memory to change")
            }
            None => {
                "every block under way waits for memory to change, and nothing is left that could change it".to_owned()
            }
        };
        let message = format!("{what} ({started} of {count} blocks have been started)");
        let mut fault = Fault::new(FaultKind::Deadlock, "deadlock", message);
        fault.place = resident.front_mut().map(|resident| Box::new(resident.block.some_place()));
        self.fail(Some(fault));
    }
}

/// Operations of a turn: mostly few, so that blocks come between one another's steps, now and then many, so that a warp
/// that only waits is seen to.
fn slice(random: &mut u64) -> u32 {
    const SHORTEST: u64 = 100;
    const SHORT: u64 = 1 << 11;
    match mix(random) {
        draw if draw.is_multiple_of(8) => SLICE,
        draw => (SHORTEST + (draw >> 8) % SHORT) as u32,
    }
}

//! Threads that run the blocks of a grid.
//!
//! A worker keeps a block until it is done, unless the block only waits for others (a spin loop on global memory): then
//! it starts another, up to as many as the card would hold at once, and goes round them.

use super::{
    block::{Block, Round},
    fault::{Fault, FaultKind},
    launch::{Launch, Running},
};
use crate::memory::{AllocationKind, Memory};
use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
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
}

/// Bytes that grid-wide barriers work on: the layout is the CUDA headers' business, zero is its start.
const WORKSPACE: u64 = 4096;

pub(super) fn run(launch: &Launch) -> Result<(), Fault> {
    let workspace = if launch.cooperative { workspace(launch)? } else { 0 };
    let blocks = launch.blocks();
    let card = u64::from(launch.resident.max(1)) * u64::from(launch.multiprocessors.max(1));
    let grid = Grid {
        running: Running::new(launch, workspace),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        fault: Mutex::new(None),
        progress: AtomicU64::new(0),
        resident: if launch.cooperative { blocks } else { card },
    };
    let threads = (launch.options.threads.max(1) as u64).min(blocks);
    if threads <= 1 {
        grid.work(1);
    } else {
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| grid.work(threads));
            }
            grid.work(threads);
        });
    }
    if workspace != 0 {
        // It was allocated above, and nobody else knows it.
        let _ = Memory::global().free(workspace);
    }
    let fault = grid.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
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

impl Grid<'_> {
    fn work(&self, workers: u64) {
        // Rounded up: the blocks of a cooperative grid are under way all at once.
        let most = self.resident.div_ceil(workers).max(1);
        let mut resident: VecDeque<Box<Block>> = VecDeque::new();
        let mut exhausted = false;
        let mut waiting_since: Option<(Instant, u64)> = None;
        while !self.stop.load(Ordering::Relaxed) {
            if resident.is_empty() || !exhausted && waiting_since.is_some() && (resident.len() as u64) < most {
                match self.start() {
                    Some(block) => resident.push_front(block),
                    None => exhausted = true,
                }
            }
            let Some(mut block) = resident.pop_front() else { return };
            // SAFETY: the block is this worker's, and in its box.
            match unsafe { Block::round(&raw mut *block) } {
                Round::Finished => {
                    self.progress.fetch_add(1, Ordering::Relaxed);
                    waiting_since = None;
                }
                Round::Busy => {
                    self.progress.fetch_add(1, Ordering::Relaxed);
                    waiting_since = None;
                    resident.push_front(block);
                }
                Round::Spinning => {
                    block.idle += 1;
                    resident.push_back(block);
                    let progress = self.progress.load(Ordering::Relaxed);
                    match waiting_since {
                        Some((since, seen)) if seen == progress => {
                            if exhausted || resident.len() as u64 >= most {
                                thread::yield_now();
                                if since.elapsed() > self.running.launch.options.patience {
                                    self.starved(&mut resident);
                                    return;
                                }
                            }
                        }
                        _ => waiting_since = Some((Instant::now(), progress)),
                    }
                }
                Round::Fault => {
                    self.fail(block.take_fault());
                    return;
                }
            }
        }
    }

    fn start(&self) -> Option<Box<Block>> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        (turn < self.running.launch.blocks()).then(|| Block::new(&self.running, self.running.block_at(turn)))
    }

    fn fail(&self, fault: Option<Fault>) {
        let mut slot = self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if slot.is_none() {
            *slot = fault.or_else(|| {
                Some(Fault::new(FaultKind::IllegalInstruction, "internal", "a warp stopped without saying why"))
            });
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Every block under way has only waited for too long.
    fn starved(&self, resident: &mut VecDeque<Box<Block>>) {
        let seconds = self.running.launch.options.patience.as_secs_f64();
        let message = format!(
            "for {seconds:.0} s every block under way has done nothing but wait for memory to change ({} of {} blocks have \
             been started)",
            self.next.load(Ordering::Relaxed).min(self.running.launch.blocks()),
            self.running.launch.blocks()
        );
        let mut fault = Fault::new(FaultKind::Deadlock, "deadlock", message);
        fault.place = resident.front_mut().map(|block| Box::new(block.some_place()));
        self.fail(Some(fault));
    }
}

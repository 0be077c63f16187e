//! Profiles: what each launch of a network costs, what bounds it on named cards, and where there is a card, how long it took.
//!
//! A bound is a prediction (`segface_codegen::cuda::bound`) and is called one wherever it is shown, until a card has measured.

pub mod counters;
pub mod cpu;
mod page;
mod roofline;
mod table;
mod trace;

pub use counters::Counters;
pub use page::{cpu_page, page};
pub use roofline::{Dot, Roof, plot};
pub use table::{cards_table, launches_table, rooms_table};
pub use trace::trace;

use crate::engine::cuda::{CudaEngine, CudaError, Launching, Resources, median};
use segface_codegen::cuda::bound::{Bound, memory_bytes, needs};
use segface_codegen::cuda::card::{Card, achievable, latency};
use segface_codegen::cuda::{Launch, Program};
use serde::Serialize;
use std::collections::HashMap;

/// A network on CUDA cards, in one or several batch sizes.
#[derive(Debug, Clone, Serialize)]
pub struct Profile {
    /// Backbone and label set.
    pub network: String,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// How products are computed.
    pub precision: &'static str,
    /// What tiles were chosen by.
    pub tiles_by: String,
    /// What the numbers are, and what they lack.
    pub notes: Vec<String>,
    /// The cards' data that bounds were made of.
    pub cards: Vec<Card>,
    /// One for each batch size.
    pub batches: Vec<Batch>,
}

/// A network with a number of images at a time.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// Images.
    pub batch: usize,
    /// What is run, in order.
    pub launches: Vec<Row>,
    /// On each card.
    pub predicted: Vec<Total>,
    /// On the card at hand, in microseconds of one run as a graph: the median.
    pub measured: Option<f64>,
}

/// A run on a card.
#[derive(Debug, Clone, Serialize)]
pub struct Total {
    /// The card.
    pub card: String,
    /// Its predicted bound in microseconds.
    pub bound_microseconds: f64,
    /// Images a second at that bound.
    pub fps: f64,
}

/// A launch.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its kernel.
    pub kernel: String,
    /// The kernel's folder.
    pub room: String,
    /// The node it belongs to.
    pub node: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must be read and written.
    pub bytes: u64,
    /// Bytes that its blocks read and write together, through L2.
    pub traffic: u64,
    /// On each card.
    pub cards: Vec<OnCard>,
    /// What ptxvm counted, if it was asked to.
    pub counters: Option<Counters>,
    /// Microseconds on the card at hand, launched again and again: the median.
    pub measured: Option<f64>,
}

/// A launch on a card.
#[derive(Debug, Clone, Serialize)]
pub struct OnCard {
    /// The card.
    pub card: String,
    /// Registers of a thread, if a compiler was there to tell.
    pub registers: Option<usize>,
    /// Blocks that a multiprocessor holds at once; at most, without registers.
    pub resident: usize,
    /// Bytes of [`Row::bytes`] that L2 does not hold.
    pub memory_bytes: u64,
    /// The least time, and what decides it.
    #[serde(flatten)]
    pub bound: Bound,
}

/// A kernel's folder: its name without the hash.
pub fn room(kernel: &str) -> &str {
    kernel.rsplit_once('_').map_or(kernel, |(room, _)| room)
}

/// What is known of kernels beside the program.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// By architecture, for the kernels in order.
    pub resources: HashMap<u32, Vec<Resources>>,
    /// By kernel.
    pub counters: HashMap<String, Counters>,
}

impl Batch {
    /// Predicts a program's launches on cards.
    pub fn predict(program: &Program, batch: usize, cards: &[Card], known: &Known) -> Self {
        let memory: Vec<Vec<u64>> = cards.iter().map(|card| memory_bytes(program, card)).collect();
        let launches: Vec<Row> = (0..program.launches.len())
            .map(|index| {
                let row = row(program, &program.launches[index], known);
                let cards = cards.iter().zip(&memory);
                let on_card =
                    |(card, memory): (&Card, &Vec<u64>)| on_card(program, index, card, memory[index], known, &row);
                Row { cards: cards.map(on_card).collect(), ..row.clone() }
            })
            .collect();
        let predicted = cards.iter().enumerate().map(|(index, card)| {
            let bound = launches.iter().map(|row| row.cards[index].bound.microseconds).sum();
            Total { card: card.name.clone(), bound_microseconds: bound, fps: batch as f64 * 1e6 / bound }
        });
        Self { batch, predicted: predicted.collect(), launches, measured: None }
    }

    /// Times every launch and the whole run on the engine's card, `rounds` times each.
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn measure(&mut self, engine: &mut CudaEngine, rounds: usize) -> Result<(), CudaError> {
        /// Enough for a microsecond's resolution not to matter.
        const REPEATS: usize = 20;
        // The first one warms up.
        let runs = engine.time_runs(Launching::Graph, rounds + 1)?.split_off(1);
        self.measured = Some(median(runs) * 1e3);
        for (index, row) in self.launches.iter_mut().enumerate() {
            let timed = engine.timed_launch(index, REPEATS)?;
            timed.measure()?;
            let times = (0..rounds).map(|_| timed.measure()).collect::<Result<Vec<_>, _>>()?;
            row.measured = Some(median(times));
        }
        Ok(())
    }
}

fn row(program: &Program, launch: &Launch, known: &Known) -> Row {
    let kernel = &program.kernels[launch.kernel];
    let blocks: u64 = launch.grid.iter().map(|side| u64::from(*side)).product();
    Row {
        kernel: kernel.name.clone(),
        room: room(&kernel.name).into(),
        node: program.graph.nodes[launch.node].name.clone(),
        grid: launch.grid,
        threads: kernel.threads,
        shared_bytes: kernel.shared_bytes,
        flops: launch.flops,
        bytes: launch.bytes,
        traffic: launch.detail.traffic.max(launch.bytes),
        cards: Vec::new(),
        counters: known.counters.get(&kernel.name).map(|counters| counters.of_blocks(blocks as f64)),
        measured: None,
    }
}

fn on_card(program: &Program, index: usize, card: &Card, memory_bytes: u64, known: &Known, row: &Row) -> OnCard {
    let kernel = program.launches[index].kernel;
    let resources = known.resources.get(&card.arch).and_then(|all| all.get(kernel));
    let shared = row.shared_bytes as usize + resources.map_or(0, |r| r.static_shared);
    let resident = card.resident_blocks(row.threads as usize, resources.map_or(0, |r| r.registers), shared);
    let counted = row.counters.as_ref().map(Counters::counted);
    OnCard {
        card: card.name.clone(),
        registers: resources.map(|r| r.registers),
        resident,
        memory_bytes,
        bound: card.bound(&needs(program, index, resident, memory_bytes, counted)),
    }
}

/// What every profile says of its bounds.
pub fn notes(known: &Known) -> Vec<String> {
    let (share, wait) = (achievable(), latency());
    let mut notes = vec![
        format!(
            "Predicted bounds, not measurements: data sheets' rates times what good kernels reach of them (tensor cores {:.0} %, f32 \
             {:.0} %, memory {:.0} %, L2 {:.0} %), and latencies (a turn of a main loop {} µs, a barrier of the grid {} µs, first \
             loads {} to {} µs). Launches of a graph follow one another without overlap. Copies of photos and labels are not in \
             them.",
            100.0 * share.tensor,
            100.0 * share.scalar,
            100.0 * share.memory,
            100.0 * share.l2,
            wait.step,
            wait.barrier,
            wait.first_load_l2,
            wait.first_load_memory
        ),
        "What was touched recently is read from L2: a run is one of many of the same network.".to_owned(),
    ];
    if known.resources.is_empty() {
        notes.push("Registers are unknown, for want of a compiler: occupancy is an upper bound.".to_owned());
    }
    if known.counters.is_empty() {
        notes.push(
            "Without counters: instructions outside of products (softmax, GELU, norms, addresses) and bank conflicts are not in the \
             bounds."
                .to_owned(),
        );
    } else {
        notes.push(
            "With counters of a virtual machine: instructions (of PTX, at the full rate of issue), sectors and bank conflicts are in the \
             bounds."
                .to_owned(),
        );
    }
    notes
}

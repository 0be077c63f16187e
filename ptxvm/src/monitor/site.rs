//! Launches, copies and the host as those who access memory, and what the places they name look like in a report.

use super::line::SEVERAL_BLOCKS;
use crate::{machine::Order, program::Program, report::Spot};
use std::sync::{Arc, PoisonError, RwLock};

/// Anything that accesses memory: a launch, a copy, the host.
#[derive(Debug)]
pub(crate) struct Source {
    /// Its number: shadows name it by this.
    pub(crate) id: u32,
    /// The kernel, for launches.
    pub(crate) kernel: Option<Kernel>,
    /// At once by the host, not when a stream comes to it.
    pub(crate) host: bool,
    /// Stream and serial number, or the function that the host has called.
    pub(crate) label: String,
    /// When it happens; `None`: after all that has been seen before it.
    pub(crate) order: Option<Order>,
    /// The seed it runs with.
    pub(crate) seed: Option<u64>,
}

/// A kernel as launched, its instructions numbered through all functions of the program.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) program: Arc<Program>,
    pub(crate) name: String,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Number of the first instruction of each function.
    starts: Vec<u32>,
}

/// The thread and instruction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct At {
    pub(crate) block: u32,
    pub(crate) warp: u32,
    /// Above 31: not known which.
    pub(crate) lane: u32,
    pub(crate) site: u32,
}

impl Kernel {
    pub(crate) fn new(program: Arc<Program>, name: String, grid: [u32; 3], block: [u32; 3]) -> Self {
        let mut next = 0;
        let starts = program
            .functions
            .iter()
            .map(|function| {
                let start = next;
                next += function.instructions.len() as u32;
                start
            })
            .collect();
        Self { program, name, grid, block, starts }
    }

    /// The number of an instruction.
    #[inline]
    pub(crate) fn site(&self, function: u32, instruction: u32) -> u32 {
        self.starts.get(function as usize).map_or(0, |start| start + instruction)
    }

    /// Instructions of the program.
    pub(crate) fn sites(&self) -> usize {
        self.program.functions.iter().map(|function| function.instructions.len()).sum()
    }

    /// Function and instruction of a number.
    pub(crate) fn instruction(&self, site: u32) -> Option<(&str, &crate::program::InstructionInfo)> {
        let function = self.starts.partition_point(|start| *start <= site).checked_sub(1)?;
        let code = self.program.functions.get(function)?;
        Some((&code.name, code.instructions.get((site - self.starts[function]) as usize)?))
    }

    /// What a report says of a place.
    pub(crate) fn spot(&self, at: At, label: &str) -> Spot {
        let mut spot = Spot { kernel: self.name.clone(), label: label.to_owned(), ..Spot::default() };
        let [x, y, _] = self.grid.map(|n| n.max(1));
        spot.several_blocks = at.block == SEVERAL_BLOCKS;
        let at = At { block: if spot.several_blocks { 0 } else { at.block }, ..at };
        spot.block = [at.block % x, at.block / x % y, at.block / x / y];
        let thread = at.warp * 32 + (at.lane & 31);
        let [x, y, _] = self.block.map(|n| n.max(1));
        spot.thread = [thread % x, thread / x % y, thread / x / y];
        if let Some((function, info)) = self.instruction(at.site) {
            spot.function = function.to_owned();
            spot.opcode.clone_from(&info.opcode);
            spot.line = info.line;
            spot.source = info
                .source
                .and_then(|source| self.program.files.get(&source.file).map(|file| (file.clone(), source.line)));
            spot.quote(self.program.quoted(info.text, info.line));
        }
        spot
    }
}

/// Whether `a` happened before `b` by streams, events and synchronisation.
pub(crate) fn before(a: &Order, b: &Order) -> bool {
    a.timeline == b.timeline && a.time <= b.time || b.before.get(&a.timeline).is_some_and(|time| *time >= a.time)
}

impl Source {
    /// What a report says of an access by this source.
    pub(crate) fn spot(&self, at: At) -> Spot {
        match &self.kernel {
            Some(kernel) => kernel.spot(at, &self.label),
            None => Spot { label: self.label.clone(), ..Spot::default() },
        }
    }
}

static SOURCES: RwLock<Vec<Arc<Source>>> = RwLock::new(Vec::new());

/// Gives a source its number and keeps it for reports.
pub(crate) fn register(make: impl FnOnce(u32) -> Source) -> Arc<Source> {
    let mut sources = SOURCES.write().unwrap_or_else(PoisonError::into_inner);
    let source = Arc::new(make(sources.len() as u32 + 1));
    sources.push(source.clone());
    source
}

/// The source of a number.
pub(crate) fn source(id: u32) -> Option<Arc<Source>> {
    let sources = SOURCES.read().unwrap_or_else(PoisonError::into_inner);
    sources.get((id as usize).checked_sub(1)?).cloned()
}

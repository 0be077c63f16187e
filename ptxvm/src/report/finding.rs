//! Findings: what was wrong, where, and with whom.

use crate::{machine::Fault, monitor::Source};
use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Something wrong that a program has done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// `race-shared`, `out-of-bounds`, …: the name of the checker's verdict.
    pub kind: &'static str,
    /// What happened, in a sentence.
    pub message: String,
    /// Where.
    pub at: Spot,
    /// The other access of a race, or whatever else explains it.
    pub other: Option<Other>,
    /// The memory concerned.
    pub allocation: Option<AllocationNote>,
    /// Times it was seen.
    pub count: u64,
    /// The seed to run with to see it again.
    pub seed: Option<u64>,
    /// How little of the launch shows it.
    pub shrunk: Option<Shrunk>,
}

/// What is left of a launch that has been shrunk to what shows a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shrunk {
    /// The numbers of the blocks that are enough, x fastest.
    pub numbers: Vec<u64>,
    /// Their indices.
    pub blocks: Vec<[u32; 3]>,
    /// Blocks of the launch.
    pub of: u64,
    /// A smaller grid that shows it too.
    pub grid: Option<[u32; 3]>,
    /// The seed that they have to be run with; `None`: none.
    pub seed: Option<u64>,
    /// Runs that it took to find out.
    pub runs: u32,
}

/// The other side of a finding.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Other {
    /// What it did: `write`, `read`, …
    pub what: String,
    /// Where.
    pub at: Spot,
}

/// A place in a program, and the thread that was there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spot {
    /// The kernel launched; empty for the host.
    pub kernel: String,
    /// The function the instruction is in.
    pub function: String,
    /// The instruction's name.
    pub opcode: String,
    /// Line in the PTX text, 0 if unknown.
    pub line: u32,
    /// That line.
    pub text: String,
    /// File and line of the CUDA source, with `-lineinfo`.
    pub source: Option<(String, u32)>,
    /// That line, if the file can be read.
    pub source_text: Option<String>,
    /// Several blocks have done this, and it is not known which of them: no block or thread is named then.
    pub several_blocks: bool,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index.
    pub thread: [u32; 3],
    /// Stream and serial number of the launch or copy, or the host's call.
    pub label: String,
}

/// An allocation, and the address concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocationNote {
    /// The address that was touched; an offset for shared and local memory.
    pub address: u64,
    /// Where the allocation starts.
    pub base: u64,
    /// Its size.
    pub bytes: u64,
    /// `global`, `shared`, `local`.
    pub space: String,
    /// Where it was made.
    pub label: String,
}

impl Finding {
    /// Whether another finding is of the same kind and place.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.kind == other.kind && self.at.key() == other.at.key()
    }

    /// The fault that ended a launch, as a finding.
    pub(crate) fn of_fault(fault: &Fault, source: &Source) -> Self {
        let mut at = Spot { label: source.label.clone(), ..Spot::default() };
        if let Some(place) = &fault.place {
            at.kernel.clone_from(&place.kernel);
            at.function.clone_from(&place.function);
            at.opcode.clone_from(&place.opcode);
            at.line = place.line;
            at.source.clone_from(&place.source);
            at.block = place.block;
            at.thread = place.thread;
            if let Some(kernel) = &source.kernel {
                at.quote(kernel.program.quoted(place.text, place.line));
            }
        }
        let kind = match fault.finding {
            "misaligned-address" => "misaligned",
            "null-pointer" => "out-of-bounds",
            other => other,
        };
        Self { kind, message: fault.message.clone(), at, count: 1, seed: source.seed, ..Self::default() }
    }
}

impl Spot {
    /// Quotes the line of the PTX text, and that of the source file.
    pub(crate) fn quote(&mut self, line: Option<&str>) {
        if let Some(line) = line {
            self.text = line.trim().to_owned();
        }
        self.source_text = self.source.as_ref().and_then(|(file, line)| source_line(file, *line));
    }

    fn key(&self) -> (String, String, u32) {
        (
            self.kernel.clone(),
            if self.kernel.is_empty() { self.label.clone() } else { self.function.clone() },
            self.line,
        )
    }
}

/// A line of a source file, if there is such a file (it may be long gone, or have been a string in memory).
fn source_line(file: &str, line: u32) -> Option<String> {
    static FILES: OnceLock<Mutex<HashMap<String, Option<String>>>> = OnceLock::new();
    const LARGEST: u64 = 4 << 20;
    let mut files = FILES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let text = files.entry(file.to_owned()).or_insert_with(|| {
        let small = std::fs::metadata(file).is_ok_and(|data| data.is_file() && data.len() <= LARGEST);
        if small { std::fs::read_to_string(file).ok() } else { None }
    });
    let line = text.as_ref()?.lines().nth((line as usize).checked_sub(1)?)?;
    Some(line.trim_end().to_owned())
}

type Key = (&'static str, (String, String, u32), Option<(String, String, u32)>);

#[derive(Debug, Default)]
struct Inner {
    index: HashMap<Key, usize>,
    list: Vec<Finding>,
    quiet: bool,
}

/// All findings of the process, each once per kind and pair of instructions.
#[derive(Debug, Default)]
pub struct Findings(Mutex<Inner>);

impl Findings {
    /// The process's.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Findings> = OnceLock::new();
        GLOBAL.get_or_init(Self::default)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a finding, or the count of one that is known, and prints a new one to standard error.
    pub fn record(&self, mut finding: Finding) {
        finding.count = finding.count.max(1);
        let key = (finding.kind, finding.at.key(), finding.other.as_ref().map(|other| other.at.key()));
        let mut inner = self.lock();
        if let Some(&known) = inner.index.get(&key) {
            inner.list[known].count += finding.count;
            return;
        }
        if !inner.quiet {
            eprint!("{}", super::render(&finding, std::io::stderr().is_terminal()));
        }
        let place = inner.list.len();
        inner.index.insert(key, place);
        inner.list.push(finding);
        drop(inner);
        super::exit::arm();
    }

    /// A finding that has been recorded has been shrunk.
    pub(crate) fn amend(&self, finding: &Finding, shrunk: Shrunk) {
        let mut inner = self.lock();
        let quiet = inner.quiet;
        let Some(known) = inner.list.iter_mut().find(|known| known.is_like(finding)) else { return };
        if !quiet {
            let place = super::text::describe(&known.at);
            eprintln!("ptxvm: {} at {place}\n    = {}", known.kind, super::text::describe_shrunk(&shrunk));
        }
        known.shrunk = Some(shrunk);
    }

    /// Whether findings are printed as they are found (they are, unless told otherwise).
    pub fn print(&self, print: bool) {
        self.lock().quiet = !print;
    }

    /// What has been found so far.
    pub fn list(&self) -> Vec<Finding> {
        self.lock().list.clone()
    }

    /// What has been seen since this was last called, also if it was known before; counts start anew.
    pub fn counts_anew(&self) -> Vec<Finding> {
        let mut inner = self.lock();
        let seen = inner.list.iter().filter(|finding| finding.count > 0).cloned().collect();
        inner.list.iter_mut().for_each(|finding| finding.count = 0);
        seen
    }

    /// What has been found so far; the list starts anew.
    pub fn take(&self) -> Vec<Finding> {
        let mut inner = self.lock();
        inner.index.clear();
        std::mem::take(&mut inner.list)
    }

    /// Findings so far.
    pub fn len(&self) -> usize {
        self.lock().list.len()
    }

    /// Whether nothing has been found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

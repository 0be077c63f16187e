//! What stops a launch.

use std::fmt;

/// The kinds of fault, as a driver tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An address outside every allocation, or outside the window of its space.
    IllegalAddress,
    /// An address that is no multiple of the access's size.
    MisalignedAddress,
    /// An indirect call to something that is no function.
    InvalidPc,
    /// `trap` (and `brkpt`).
    Trap,
    /// `assert` in CUDA C++.
    Assert,
    /// An instruction used in a way that the hardware refuses.
    IllegalInstruction,
    /// Local memory or calls nested deeper than the limit.
    StackOverflow,
    /// Nothing in the launch can go on.
    Deadlock,
    /// An instruction on an address of a space it cannot work on.
    InvalidAddressSpace,
}

/// A fault, with everything known of where it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind.
    pub kind: FaultKind,
    /// The kind of finding in reports where it is finer than the fault's: `out-of-bounds`, `use-after-free`, …
    pub finding: &'static str,
    /// What happened, in a sentence.
    pub message: String,
    /// The lane concerned; `None`: the lowest of the operation's.
    pub lane: Option<u32>,
    /// Kernel, PTX line, source line, block, thread; filled by the run loop.
    pub place: Option<Box<Place>>,
}

/// Where something happened.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// The kernel launched.
    pub kernel: String,
    /// The function the instruction is in.
    pub function: String,
    /// The instruction.
    pub opcode: String,
    /// Which of the PTX texts linked.
    pub text: u32,
    /// Line in that text.
    pub line: u32,
    /// File and line of the CUDA source, with `-lineinfo`.
    pub source: Option<(String, u32)>,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index of the lane concerned.
    pub thread: [u32; 3],
}

impl Fault {
    /// A fault not yet placed.
    pub fn new(kind: FaultKind, finding: &'static str, message: impl Into<String>) -> Self {
        Self { kind, finding, message: message.into(), lane: None, place: None }
    }

    /// The same fault, in a lane that is known.
    pub fn in_lane(mut self, lane: usize) -> Self {
        self.lane = Some(lane as u32);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.finding, self.message)?;
        if let Some(place) = &self.place {
            write!(f, "\n  at {place}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bx, by, bz] = self.block;
        let [tx, ty, tz] = self.thread;
        write!(f, "`{}` (PTX line {}", self.opcode, self.line)?;
        if let Some((file, line)) = &self.source {
            write!(f, ", {file}:{line}")?;
        }
        write!(f, ") of kernel {}", self.kernel)?;
        if self.function != self.kernel {
            write!(f, " in function {}", self.function)?;
        }
        write!(f, ", block ({bx},{by},{bz}), thread ({tx},{ty},{tz})")
    }
}

impl std::error::Error for Fault {}

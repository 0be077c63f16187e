//! What the checked and profile modes see of a running kernel.
//!
//! In fast mode there is no monitor, and operations pay one test of a null pointer for it.

mod actor;
mod barriers;
mod check;
mod clock;
mod copies;
#[cfg(test)]
mod exchange_tests;
mod gather;
mod global;
pub(crate) mod host;
mod launch;
mod line;
mod local;
mod modes;
pub(crate) mod pages;
pub(crate) mod profile;
mod replay;
mod shared;
mod site;
mod tell;
#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
pub(crate) use modes::watch_checked;
pub use modes::{Modes, prepare, set_modes};
pub(crate) use modes::{begin, is_checked};
pub(crate) use site::{At, Source};

use crate::machine::{Fault, warp::Warp};

/// The space of an access, after generic addresses have been resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessSpace {
    /// Global memory (and `.const`): addresses are device addresses.
    Global,
    /// Shared memory: addresses are offsets into the block's.
    Shared,
    /// Local memory: addresses are offsets into the lane's.
    Local,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Reads and writes in one step.
    Atomic,
    /// Written by an asynchronous copy: the bytes may not be touched until the copy has been waited for.
    AsyncWrite,
    /// Read by an asynchronous copy.
    AsyncRead,
}

/// Order and scope of an access (`.relaxed`, `.acquire`, …; `.volatile` counts as relaxed at system scope).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ordering {
    /// Not a weak access: it may race with other strong ones.
    pub strong: bool,
    /// What comes after it cannot be seen before it.
    pub acquire: bool,
    /// What came before it is seen by whoever acquires it.
    pub release: bool,
    /// Who takes part.
    pub scope: Scope,
}

/// The threads that an ordering or a fence covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Scope {
    /// `.cta`.
    #[default]
    Block,
    /// `.gpu` (and `.cluster`, which is never larger).
    Device,
    /// `.sys`.
    System,
}

/// One memory instruction of a warp.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The space.
    pub space: AccessSpace,
    /// What it does.
    pub kind: AccessKind,
    /// Bytes per lane.
    pub bytes: u32,
    /// Lanes that take part.
    pub mask: u32,
    /// Address of each lane (undefined outside the mask). Bounds and alignment have been checked.
    pub addresses: &'a [u64; 32],
    /// Its order.
    pub ordering: Ordering,
    /// Instruction index in the warp's current function.
    pub instruction: u32,
}

/// Watches one block. Every method is told which warp acts: `warp.mask` is the lanes, `warp.index` its number in the
/// block. All are called before the effect, but for [`Monitor::performed`] and [`Monitor::changed`].
pub trait Monitor: Send {
    /// A memory access (ld, st, atom, red, cp.async, ldmatrix, …).
    fn access(&mut self, warp: &Warp, access: &Access<'_>);
    /// `cp.async.commit_group`.
    fn commit_copies(&mut self, warp: &Warp);
    /// `cp.async.wait_group n` / `wait_all` (0): all but the newest `pending` groups of the lanes are complete and their bytes
    /// become visible to the lanes that waited.
    fn wait_copies(&mut self, warp: &Warp, pending: u32);
    /// The lanes arrive at barrier `id` of the block (`waits`: they also wait in it; false for `bar.arrive`).
    /// `aligned`: all lanes of the warp must execute it together.
    fn arrive(&mut self, warp: &Warp, id: u32, waits: bool, aligned: bool);
    /// Barrier `id` is complete: everybody who arrived happens before everybody who waited.
    fn release(&mut self, id: u32);
    /// A warp-wide instruction with its members (per lane equal or not: one call per distinct mask). `memory`: it orders
    /// memory among them (`bar.warp.sync`); shuffles and votes do not.
    fn warp_sync(&mut self, warp: &Warp, members: u32, memory: bool);
    /// The lanes of `readers` shuffle (`.idx`) from lanes that do not take part: what they get is undefined.
    fn shuffled_from_absent(&mut self, warp: &Warp, readers: u32);
    /// `fence`/`membar`.
    fn fence(&mut self, warp: &Warp, scope: Scope);
    /// An mbarrier in shared memory at `address`: arrivals release to whoever sees the phase complete.
    fn mbarrier(&mut self, warp: &Warp, address: u64, event: MbarrierEvent);
    /// An operation is about to run. Only called if [`Self::wants_operations`].
    fn operation(&mut self, warp: &Warp);
    /// Whether [`Self::operation`] is to be called.
    fn wants_operations(&self) -> bool;
    /// A branch whose lanes part.
    fn diverged(&mut self, warp: &Warp, taken: u32, not_taken: u32);
    /// A strong read or an atomic that [`Self::access`] was told of last has been performed.
    fn performed(&mut self) {}
    /// An atomic has changed memory (which [`Self::access`] cannot tell).
    fn changed(&mut self) {}
    /// Whether anything has changed since this was last asked that the block's warps or others could wait for; `None`:
    /// that is not known.
    fn took_effect(&mut self) -> Option<bool> {
        None
    }
    /// The block has run to its end.
    fn block_end(&mut self);
}

/// Watches one launch: makes the monitors of its blocks.
pub trait LaunchWatch: Send + Sync {
    /// Block `number` of the grid is about to start.
    fn block(&self, number: u64) -> Box<dyn Monitor>;
    /// The launch has ended, with a fault or without.
    fn end(&self, fault: Option<&Fault>);
}

/// What happens at an mbarrier object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierEvent {
    /// Initialised.
    Init,
    /// Arrived (and what came before is released).
    Arrive,
    /// Seen complete by a test or wait (and what was released is acquired).
    Observe,
    /// Invalidated.
    Invalidate,
    /// Tracks what the lanes have started to copy so far: that is under way until the current phase has been seen complete.
    Track,
    /// Its phase is complete, which nobody has seen yet.
    Complete,
}

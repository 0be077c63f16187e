//! Who acts: what the checkers need of a warp, apart from the machine, so that tests can do without one.

use crate::machine::warp::Warp;

/// A warp at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    /// Number of the warp in its block.
    pub(crate) warp: u32,
    /// Lanes that act.
    pub(crate) mask: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Lanes that exist.
    pub(crate) lanes: u32,
    /// Function of the program.
    pub(crate) function: u32,
    /// Instruction of the function.
    pub(crate) instruction: u32,
}

impl Actor {
    /// The warp as it stands before its current operation.
    #[inline]
    pub(crate) fn of(warp: &Warp) -> Self {
        // SAFETY: `ops` and `pc` are the run loop's own and name the operation that is being run.
        let op = unsafe { &*warp.ops.add(warp.pc as usize) };
        Self {
            warp: warp.index,
            mask: warp.mask,
            live: warp.live,
            lanes: warp.lanes,
            function: warp.frames[warp.frame as usize].function,
            instruction: op.instruction,
        }
    }

    /// The lowest acting lane.
    pub(crate) fn leader(&self) -> u32 {
        self.mask.trailing_zeros() & 31
    }
}

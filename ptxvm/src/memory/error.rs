//! What can be wrong with an address.

use super::Allocation;
use thiserror::Error;

/// Why memory could not be allocated, freed, copied or filled.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MemoryError {
    /// The reservation is used up, or the system gives no more.
    #[error("{bytes} bytes wanted, which is more than this process has left for device memory; free something first")]
    OutOfMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// No allocation was ever seen there.
    #[error("0x{address:x} is in no allocation; expected an address that an allocation function returned")]
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// Freed before.
    #[error("0x{address:x} was freed before: it was {allocation}")]
    AlreadyFreed {
        /// The address.
        address: u64,
        /// What it was.
        allocation: Box<Allocation>,
    },
    /// The middle of an allocation where its start is wanted.
    #[error("0x{address:x} is {} bytes into {allocation}; expected its start", address - allocation.base)]
    NotABase {
        /// The address.
        address: u64,
        /// The allocation that holds it.
        allocation: Box<Allocation>,
    },
    /// A copy or fill that leaves its allocation.
    #[error("{action} of {bytes} bytes at 0x{address:x} is out of bounds: {place}")]
    OutOfBounds {
        /// `read` or `write`.
        action: &'static str,
        /// Where it starts.
        address: u64,
        /// How long it is.
        bytes: u64,
        /// Where that is, in words.
        place: String,
    },
    /// A copy or fill of memory that has been freed.
    #[error("{action} of {bytes} bytes at 0x{address:x}, which was freed: it was {allocation}")]
    UseAfterFree {
        /// `read` or `write`.
        action: &'static str,
        /// Where it starts.
        address: u64,
        /// How long it is.
        bytes: u64,
        /// What it was.
        allocation: Box<Allocation>,
    },
    /// A null pointer with a length.
    #[error("{action} of {bytes} bytes through a null pointer")]
    Null {
        /// `read` or `write`.
        action: &'static str,
        /// How long it is.
        bytes: u64,
    },
    /// Host memory that is (in part) registered or allocated here already.
    #[error("{bytes} bytes at 0x{address:x} overlap {allocation}")]
    AlreadyRegistered {
        /// The address.
        address: u64,
        /// How long it is.
        bytes: u64,
        /// What is there.
        allocation: Box<Allocation>,
    },
    /// A fill whose pattern is not 1, 2, 4, 8 or 16 bytes, or whose target is not aligned to it.
    #[error(
        "a fill with a pattern of {pattern} bytes at 0x{address:x}; expected 1, 2 or 4 bytes and an aligned target"
    )]
    BadFill {
        /// Where.
        address: u64,
        /// Bytes of the pattern.
        pattern: u64,
    },
}

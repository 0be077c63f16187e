//! What the oracle cannot do.

/// Why a program was not executed to its end.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The module has no kernel of that name with a body.
    #[error("no kernel `{0}` with a body in the module")]
    NoKernel(String),
    /// The oracle has no rule for an instruction.
    #[error("line {line}: the oracle knows no instruction `{opcode}` with such operands")]
    Unknown {
        /// The full opcode.
        opcode: String,
        /// Line in the PTX text.
        line: u32,
    },
    /// A name that is no register, variable or special register.
    #[error("line {line}: unknown name `{name}`")]
    UnknownName {
        /// The name as written.
        name: String,
        /// Line in the PTX text.
        line: u32,
    },
    /// An access outside of every buffer.
    #[error("line {line}: {bytes} bytes at {address:#x} in {space} lie outside of its memory")]
    OutOfBounds {
        /// Name of the space.
        space: &'static str,
        /// First byte accessed.
        address: u64,
        /// Size of the access.
        bytes: usize,
        /// Line in the PTX text.
        line: u32,
    },
    /// No thread can go on.
    #[error("line {line}: threads wait for others that never arrive")]
    Deadlock {
        /// Line of an instruction that waits.
        line: u32,
    },
    /// A program that runs for too long.
    #[error("more than {0} instructions executed: an endless loop?")]
    TooLong(u64),
}

//! What NVIDIA's assembler makes of every kernel: registers, shared memory, and instructions.

mod concurrent;
mod sass;
mod table;

//! What NVIDIA's assembler makes of every kernel: registers, shared memory, and instructions.

mod sass;
mod table;

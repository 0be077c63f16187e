//! PTX as text: the syntax tree, the parser that makes it, the printer that writes it back.
//!
//! The parser accepts the whole grammar of PTX (ISA up to 9.x) as NVRTC emits it and as people write it by hand. It
//! checks the grammar and the sizes of things, not what instructions mean: opcodes, modifiers, register types and names
//! are the decoder's matter.

pub mod ast;
mod error;
mod lexer;
mod number;
mod parser;
mod print;

#[cfg(test)]
mod tests;

pub use error::ParseError;
pub use parser::{MAX_REGISTERS, parse};

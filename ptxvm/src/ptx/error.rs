//! What is wrong with a PTX text, and where.

use thiserror::Error;

/// A PTX text that the parser refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("PTX line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What was found and what was expected.
    pub message: String,
}

impl ParseError {
    /// An error at a byte of the text, which is on `line`.
    ///
    /// The column is counted only here, so that the lexer need not carry it.
    pub(super) fn at(text: &str, offset: usize, line: u32, message: String) -> Self {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        // Bytes that continue a UTF-8 character do not move the column.
        let characters = before[start..].iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        Self { line, column: u32::try_from(characters + 1).unwrap_or(u32::MAX), message }
    }
}

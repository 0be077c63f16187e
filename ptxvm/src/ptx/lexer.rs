//! Text to tokens. Comments and white space end here; every token knows its line and its place.

use super::error::ParseError;
use super::number::{self, Number};

/// What a token is. Words borrow from the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TokenKind<'text> {
    /// An identifier or opcode: `mov`, `%r1`, `$L__BB0_2`, `_`.
    Word(&'text str),
    /// `.word`, without its dot; the `::` of `.shared::cta` included.
    Dotted(&'text str),
    /// A literal.
    Number(Number),
    /// `"…"`, without its quotes; a backslash is a character like any other.
    Text(&'text str),
    /// An operator or bracket, of one or two characters.
    Symbol(&'static str),
    /// The end of the text.
    End,
}

/// A token and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'text> {
    pub(super) kind: TokenKind<'text>,
    /// Its first byte.
    pub(super) start: usize,
    /// The byte after it.
    pub(super) end: usize,
    /// Its line, from 1.
    pub(super) line: u32,
}

/// Cuts a text into tokens, one at a time.
pub(super) struct Lexer<'text> {
    text: &'text str,
    at: usize,
    line: u32,
    /// The last token was a word or dotted, so that a point before a digit continues an opcode (`mma.16x8`).
    after_word: bool,
}

impl<'text> Lexer<'text> {
    pub(super) fn new(text: &'text str) -> Self {
        Self { text, at: 0, line: 1, after_word: false }
    }

    /// The next token; [`TokenKind::End`] for ever after the last one.
    pub(super) fn next(&mut self) -> Result<Token<'text>, ParseError> {
        self.skip_blanks()?;
        let start = self.at;
        let line = self.line;
        let kind = self.read()?;
        self.after_word = matches!(kind, TokenKind::Word(_) | TokenKind::Dotted(_));
        Ok(Token { kind, start, end: self.at, line })
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::at(self.text, self.at, self.line, message.into())
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = self.byte(0) {
            match byte {
                b'\n' => {
                    self.line = self.line.saturating_add(1);
                    self.at += 1;
                }
                b' ' | b'\t' | b'\r' | 0x0B | 0x0C => self.at += 1,
                b'/' if self.byte(1) == Some(b'/') => {
                    let rest = &bytes[self.at..];
                    self.at += rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                }
                b'/' if self.byte(1) == Some(b'*') => {
                    let body = &bytes[self.at + 2..];
                    let Some(length) = body.windows(2).position(|pair| pair == b"*/") else {
                        return Err(self.error("this comment is never closed: expected `*/`"));
                    };
                    let newlines = body[..length].iter().filter(|&&byte| byte == b'\n').count();
                    self.line = self.line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
                    self.at += length + 4;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<TokenKind<'text>, ParseError> {
        let Some(byte) = self.byte(0) else { return Ok(TokenKind::End) };
        let next = self.byte(1).unwrap_or(b' ');
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' => Ok(TokenKind::Word(self.take_word(0))),
            b'%' if is_word_byte(next) => Ok(TokenKind::Word(self.take_word(1))),
            b'.' if next.is_ascii_alphabetic() || next == b'_' || (self.after_word && next.is_ascii_digit()) => {
                self.at += 1;
                Ok(TokenKind::Dotted(self.take_modifier()))
            }
            b'0'..=b'9' => self.take_number(),
            b'.' if next.is_ascii_digit() => self.take_number(),
            b'"' => self.take_string(),
            _ => self.take_symbol(),
        }
    }

    /// A word whose first `sure` bytes are known to belong to it.
    fn take_word(&mut self, sure: usize) -> &'text str {
        let start = self.at;
        let rest = &self.text.as_bytes()[start + sure..];
        self.at += sure + rest.iter().take_while(|&&byte| is_word_byte(byte)).count();
        &self.text[start..self.at]
    }

    /// A word, and more of them after `::`.
    fn take_modifier(&mut self) -> &'text str {
        let start = self.at;
        self.take_word(0);
        while self.byte(0) == Some(b':') && self.byte(1) == Some(b':') && self.byte(2).is_some_and(is_word_byte) {
            self.at += 2;
            self.take_word(0);
        }
        &self.text[start..self.at]
    }

    fn take_number(&mut self) -> Result<TokenKind<'text>, ParseError> {
        let (number, length) = number::read(&self.text.as_bytes()[self.at..]).map_err(|message| self.error(message))?;
        self.at += length;
        Ok(TokenKind::Number(number))
    }

    fn take_string(&mut self) -> Result<TokenKind<'text>, ParseError> {
        let start = self.at + 1;
        let rest = &self.text.as_bytes()[start..];
        let end = match rest.iter().position(|&byte| matches!(byte, b'"' | b'\n')) {
            Some(length) if rest[length] == b'"' => start + length,
            _ => return Err(self.error("this string is never closed: expected `\"` on its line")),
        };
        self.at = end + 1;
        Ok(TokenKind::Text(&self.text[start..end]))
    }

    fn take_symbol(&mut self) -> Result<TokenKind<'text>, ParseError> {
        let symbol = match (self.byte(0), self.byte(1)) {
            (Some(b'<'), Some(b'<')) => "<<",
            (Some(b'>'), Some(b'>')) => ">>",
            (Some(b'<'), Some(b'=')) => "<=",
            (Some(b'>'), Some(b'=')) => ">=",
            (Some(b'='), Some(b'=')) => "==",
            (Some(b'!'), Some(b'=')) => "!=",
            (Some(b'&'), Some(b'&')) => "&&",
            (Some(b'|'), Some(b'|')) => "||",
            (Some(b','), _) => ",",
            (Some(b';'), _) => ";",
            (Some(b':'), _) => ":",
            (Some(b'{'), _) => "{",
            (Some(b'}'), _) => "}",
            (Some(b'['), _) => "[",
            (Some(b']'), _) => "]",
            (Some(b'('), _) => "(",
            (Some(b')'), _) => ")",
            (Some(b'@'), _) => "@",
            (Some(b'!'), _) => "!",
            (Some(b'|'), _) => "|",
            (Some(b'&'), _) => "&",
            (Some(b'^'), _) => "^",
            (Some(b'~'), _) => "~",
            (Some(b'+'), _) => "+",
            (Some(b'-'), _) => "-",
            (Some(b'*'), _) => "*",
            (Some(b'/'), _) => "/",
            (Some(b'%'), _) => "%",
            (Some(b'<'), _) => "<",
            (Some(b'>'), _) => ">",
            (Some(b'='), _) => "=",
            (Some(b'?'), _) => "?",
            _ => {
                let character = self.text[self.at..].chars().next().unwrap_or_default();
                return Err(self.error(format!("the character {character:?} has no meaning in PTX")));
            }
        };
        self.at += symbol.len();
        Ok(TokenKind::Symbol(symbol))
    }
}

/// What may follow the first character of an identifier.
fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

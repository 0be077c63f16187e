//! A recursive-descent parser: one token of lookahead, one file per part of the grammar.
//!
//! Sizes and depths are bounded, so that a broken or hostile text costs no more than its length.

mod constant;
mod function;
mod initial;
mod module;
mod operand;
mod statement;
mod variable;

use super::ast::{Module, SourceLine};
use super::error::ParseError;
use super::lexer::{Lexer, Token, TokenKind};
use super::number::Number;

/// Most registers that one function may declare: `.reg .b32 %r<4000000000>;` must not cost anybody an allocation.
pub const MAX_REGISTERS: u32 = 1 << 20;

/// Most names that `name<n>` may stand for where every one of them gets a place in the tree: all but registers.
const MAX_NAMES: u32 = 1 << 16;

/// Most scopes inside each other in a function. This and the next two keep the stack small, in a debug build too.
const MAX_SCOPES: u32 = 128;

/// Most levels of a constant: a parenthesis has two, a unary operator one.
const MAX_CONSTANT_DEPTH: u32 = 64;

/// Most `{` or `[` inside each other in an operand.
const MAX_OPERAND_DEPTH: u32 = 8;

/// Largest variable in bytes: the span of a device's virtual addresses.
const MAX_VARIABLE_BYTES: u64 = 1 << 47;

/// Largest alignment: no device has any use for more, and arithmetic on addresses stays far from overflow.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// Most elements that nested braces of an initialiser may leave out before later ones.
const MAX_PADDING: u64 = 1 << 20;

/// Parses a PTX text.
///
/// # Errors
///
/// Where the text departs from the grammar, names an unknown directive, or exceeds a bound; the first such place.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    Parser::new(text)?.module()
}

/// The state of a parse.
struct Parser<'text> {
    text: &'text str,
    lexer: Lexer<'text>,
    /// The token that is looked at: not yet taken.
    token: Token<'text>,
    /// `.file` directives so far.
    files: Vec<(u32, String)>,
    /// The `.loc` in force.
    source: Option<SourceLine>,
    /// Registers that the current function may still declare.
    registers_left: u32,
    /// Names of all but registers that `name<n>` may still stand for.
    names_left: u32,
    /// How deep in a constant expression we are.
    constant_depth: u32,
}

type Parsed<T> = Result<T, ParseError>;

impl<'text> Parser<'text> {
    fn new(text: &'text str) -> Parsed<Self> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Self {
            text,
            lexer,
            token,
            files: Vec::new(),
            source: None,
            registers_left: MAX_REGISTERS,
            names_left: MAX_NAMES,
            constant_depth: 0,
        })
    }

    /// Takes the token that is looked at.
    #[inline]
    fn advance(&mut self) -> Parsed<Token<'text>> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// An error at the token that is looked at.
    fn error(&self, message: impl Into<String>) -> ParseError {
        self.error_at(&self.token, message)
    }

    fn error_at(&self, token: &Token<'text>, message: impl Into<String>) -> ParseError {
        ParseError::at(self.text, token.start, token.line, message.into())
    }

    /// "expected …, found …".
    fn expected(&self, what: &str) -> ParseError {
        self.error(format!("expected {what}, found {}", self.found()))
    }

    /// The token that is looked at, as a message shows it.
    fn found(&self) -> String {
        const LONGEST: usize = 60;
        if self.token.kind == TokenKind::End {
            return "the end of the text".to_owned();
        }
        let written = &self.text[self.token.start..self.token.end];
        match written.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("`{}…`", &written[..end]),
            None => format!("`{written}`"),
        }
    }

    #[inline]
    fn sees(&self, symbol: &str) -> bool {
        matches!(self.token.kind, TokenKind::Symbol(seen) if seen == symbol)
    }

    /// Takes the symbol if it comes next.
    #[inline]
    fn accept(&mut self, symbol: &str) -> Parsed<bool> {
        let seen = self.sees(symbol);
        if seen {
            self.advance()?;
        }
        Ok(seen)
    }

    #[inline]
    fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.accept(symbol)? { Ok(()) } else { Err(self.expected(&format!("`{symbol}`"))) }
    }

    fn accept_dotted(&mut self, name: &str) -> Parsed<bool> {
        let seen = self.token.kind == TokenKind::Dotted(name);
        if seen {
            self.advance()?;
        }
        Ok(seen)
    }

    fn expect_dotted(&mut self, name: &str) -> Parsed<()> {
        if self.accept_dotted(name)? { Ok(()) } else { Err(self.expected(&format!("`.{name}`"))) }
    }

    /// A word; `what` says of what kind it should be.
    fn expect_word(&mut self, what: &str) -> Parsed<&'text str> {
        let TokenKind::Word(word) = self.token.kind else { return Err(self.expected(what)) };
        self.advance()?;
        Ok(word)
    }

    fn expect_text(&mut self, what: &str) -> Parsed<&'text str> {
        let TokenKind::Text(text) = self.token.kind else { return Err(self.expected(what)) };
        self.advance()?;
        Ok(text)
    }

    /// An integer literal (no expression) of 32 bits.
    fn expect_u32(&mut self, what: &str) -> Parsed<u32> {
        let TokenKind::Number(Number::Integer { value, .. }) = self.token.kind else {
            return Err(self.expected(what));
        };
        let value = u32::try_from(value).map_err(|_| self.expected(&format!("{what} of 32 bits")))?;
        self.advance()?;
        Ok(value)
    }

    /// Words with commas between them, at least one.
    fn words(&mut self, what: &str) -> Parsed<Vec<String>> {
        let mut words = vec![self.expect_word(what)?.to_owned()];
        while self.accept(",")? {
            words.push(self.expect_word(what)?.to_owned());
        }
        Ok(words)
    }

    /// `<n>` after a name, which then stands for `name0` … `name(n−1)`.
    fn name_count(&mut self) -> Parsed<Option<u32>> {
        if !self.accept("<")? {
            return Ok(None);
        }
        let count = self.expect_u32("a number of names")?;
        self.expect(">")?;
        Ok(Some(count))
    }

    /// Counts names that will all be in the tree.
    fn take_names(&mut self, count: u32) -> Parsed<()> {
        let left = self.names_left.checked_sub(count);
        self.names_left = left.ok_or_else(|| {
            self.error(format!("a text may declare up to {MAX_NAMES} labels and variables by way of `name<n>`"))
        })?;
        Ok(())
    }

    /// `.file index "name"{, timestamp, size}`.
    fn file(&mut self) -> Parsed<()> {
        self.expect_dotted("file")?;
        let index = self.expect_u32("the index of a file")?;
        let name = self.expect_text("the name of a file in quotes")?.to_owned();
        if self.accept(",")? {
            self.constant_integer("the file's time stamp")?;
            self.expect(",")?;
            self.constant_integer("the file's size")?;
        }
        self.files.push((index, name));
        Ok(())
    }

    /// `.pragma "a"{, "b"};`: the strings.
    fn pragma(&mut self) -> Parsed<Vec<&'text str>> {
        self.expect_dotted("pragma")?;
        let mut pragmas = vec![self.expect_text("a pragma in quotes")?];
        while self.accept(",")? {
            pragmas.push(self.expect_text("a pragma in quotes")?);
        }
        self.expect(";")?;
        Ok(pragmas)
    }
}

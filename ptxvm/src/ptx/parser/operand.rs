//! Operands of instructions.

use super::super::ast::{Address, AddressBase, Operand};
use super::constant::Value;
use super::{MAX_OPERAND_DEPTH, Parsed, Parser, TokenKind};

/// Special registers that are vectors: their components have names of their own (`%tid.x`).
const SPECIAL_VECTORS: [&str; 8] =
    ["%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"];

impl Parser<'_> {
    /// An operand, or two with `|` between them; `depth` brackets are around it.
    pub(super) fn operand(&mut self, depth: u32) -> Parsed<Operand> {
        let first = self.single_operand(depth)?;
        if self.accept("|")? {
            let second = self.single_operand(depth)?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    /// `(a, b, …)`, the list of a call.
    pub(super) fn operands_in_parentheses(&mut self) -> Parsed<Vec<Operand>> {
        self.expect("(")?;
        self.operands_until(")", 0)
    }

    /// Operands with commas between them, perhaps none, and the bracket that closes them.
    fn operands_until(&mut self, close: &str, depth: u32) -> Parsed<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.accept(close)? {
            if !operands.is_empty() && !self.accept(",")? {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
            operands.push(self.operand(depth)?);
        }
        Ok(operands)
    }

    fn single_operand(&mut self, depth: u32) -> Parsed<Operand> {
        if depth == MAX_OPERAND_DEPTH {
            return Err(self.error(format!("more than {MAX_OPERAND_DEPTH} brackets inside each other in an operand")));
        }
        match self.token.kind {
            TokenKind::Word("WARP_SZ") => self.constant().map(Operand::from),
            TokenKind::Word(name) => {
                self.advance()?;
                self.after_name(name)
            }
            TokenKind::Symbol("[") => {
                self.advance()?;
                self.address(depth)
            }
            TokenKind::Symbol("{") => {
                self.advance()?;
                self.operands_until("}", depth + 1).map(Operand::Vector)
            }
            TokenKind::Symbol("!") => {
                let not = self.advance()?;
                match self.token.kind {
                    TokenKind::Word(name) if name != "WARP_SZ" => {
                        self.advance()?;
                        Ok(Operand::Not(name.to_owned()))
                    }
                    _ => self.constant_after_not(&not).map(Operand::from),
                }
            }
            TokenKind::Number(_) | TokenKind::Symbol("-" | "+" | "~" | "(") => self.constant().map(Operand::from),
            _ => Err(self.expected("an operand")),
        }
    }

    /// What may follow a name: a component or an offset.
    fn after_name(&mut self, name: &str) -> Parsed<Operand> {
        if let TokenKind::Dotted(component) = self.token.kind {
            let operand = match component {
                // The decoder of video instructions, which select bytes and halves, is the one to refuse them.
                "b0" | "b1" | "b2" | "b3" | "h0" | "h1" => Operand::Name(format!("{name}.{component}")),
                "x" | "y" | "z" | "w" if SPECIAL_VECTORS.contains(&name) => {
                    Operand::Name(format!("{name}.{component}"))
                }
                "x" | "r" => Operand::Component { name: name.to_owned(), component: 0 },
                "y" | "g" => Operand::Component { name: name.to_owned(), component: 1 },
                "z" | "b" => Operand::Component { name: name.to_owned(), component: 2 },
                "w" | "a" => Operand::Component { name: name.to_owned(), component: 3 },
                _ => return Err(self.expected("a component (`.x`, `.y`, `.z`, `.w`)")),
            };
            self.advance()?;
            return Ok(operand);
        }
        if self.sees("[") {
            return Err(
                self.error(format!("subscripts are not supported: write `{name}+offset`, with the offset in bytes"))
            );
        }
        let name = name.to_owned();
        if self.sees("+") || self.sees("-") {
            return Ok(Operand::Offset { name, offset: self.offset()? });
        }
        Ok(Operand::Name(name))
    }

    /// The address after `[`.
    fn address(&mut self, depth: u32) -> Parsed<Operand> {
        let (base, offset) = match self.token.kind {
            TokenKind::Word(name) if name != "WARP_SZ" => {
                self.advance()?;
                (AddressBase::Name(name.to_owned()), self.offset()?)
            }
            _ => (AddressBase::Absolute(self.constant_integer("an address")? as u64), 0),
        };
        let mut rest = Vec::new();
        while self.accept(",")? {
            rest.push(self.operand(depth + 1)?);
        }
        if !self.accept("]")? {
            return Err(self.expected("`+`, `,` or `]` in an address"));
        }
        Ok(Operand::Address(Address { base, offset, rest }))
    }

    /// `+constant` after a name; 0 if there is none. Offsets are taken modulo 2⁶⁴, as addresses are.
    pub(super) fn offset(&mut self) -> Parsed<i64> {
        if self.sees("-") {
            return Err(self.error("PTX only adds offsets: write `+-4` in place of `-4`"));
        }
        if !self.accept("+")? {
            return Ok(0);
        }
        Ok(self.constant_integer("an offset")? as i64)
    }
}

impl From<Value> for Operand {
    fn from(value: Value) -> Self {
        match value {
            Value::Signed(value) => Self::Integer { value: i128::from(value), unsigned: false },
            Value::Unsigned(value) => Self::Integer { value: i128::from(value), unsigned: true },
            Value::Float(float) => Self::Float(float),
        }
    }
}

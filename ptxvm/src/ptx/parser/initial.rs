//! Initial values of variables, flattened in row-major order.

use super::super::ast::{Initial, Variable};
use super::{MAX_PADDING, Parsed, Parser, TokenKind};

/// A variable's initial values as they are gathered.
struct Gathered {
    elements: Vec<Initial>,
    /// Elements per entry of each level of braces: `[2][3]` of `.v4` has 12, 4 and 1.
    strides: Vec<u64>,
    /// Zeros put in for elements that nested braces left out.
    padding: u64,
}

impl Parser<'_> {
    /// The value after `=`. An open first dimension is closed by what is there.
    pub(super) fn initial(&mut self, variable: &mut Variable) -> Parsed<()> {
        // Every level of braces: the dimensions, then the elements of a vector.
        let mut shape: Vec<Option<u64>> = variable.dimensions.clone();
        if variable.vector > 1 {
            shape.push(Some(variable.vector.into()));
        }
        let mut strides = vec![1; shape.len()];
        for level in (1..shape.len()).rev() {
            // The variable's size was checked, so the product stays small. A stride of an empty row is 1: nothing fits anyway.
            strides[level - 1] = strides[level] * shape[level].unwrap_or(1).max(1);
        }
        let room = shape.iter().try_fold(1, |product, size| size.map(|size| product * size));
        let mut gathered = Gathered { elements: Vec::new(), strides, padding: 0 };
        if self.sees("{") {
            if shape.is_empty() {
                return Err(self.error(format!("`{}` is no array, so its initial value has no braces", variable.name)));
            }
            self.braces(&mut gathered, 0, room)?;
        } else if shape.is_empty() {
            let element = self.element()?;
            gathered.elements.push(element);
        } else {
            return Err(self.expected("`{`, as the variable is an array or vector"));
        }
        if let (Some(first @ None), Some(&stride)) = (variable.dimensions.first_mut(), gathered.strides.first()) {
            *first = Some((gathered.elements.len() as u64).div_ceil(stride));
        }
        variable.initial = gathered.elements;
        Ok(())
    }

    /// `{ element, { … }, … }` at a level; elements may be laid until `end`.
    fn braces(&mut self, gathered: &mut Gathered, level: usize, end: Option<u64>) -> Parsed<()> {
        let stride = gathered.strides[level];
        let start = gathered.elements.len() as u64;
        self.expect("{")?;
        let mut first = true;
        while !self.sees("}") {
            if !first {
                self.expect(",")?;
                // A comma may stand before the closing brace, as in C.
                if self.sees("}") {
                    break;
                }
            }
            first = false;
            if self.sees("{") {
                if level + 1 == gathered.strides.len() {
                    return Err(self.error("more braces inside each other than the variable has dimensions"));
                }
                // Where the entries before left elements out, zeros stand for them.
                let laid = gathered.elements.len() as u64 - start;
                self.pad(gathered, start + laid.next_multiple_of(stride))?;
                let here = gathered.elements.len() as u64;
                self.check_room(here, end)?;
                self.braces(gathered, level + 1, Some(here + stride))?;
                // An empty or short entry still counts as one, unless it is the last.
                if self.sees(",") {
                    self.pad(gathered, here + stride)?;
                }
            } else {
                self.check_room(gathered.elements.len() as u64, end)?;
                let element = self.element()?;
                gathered.elements.push(element);
            }
        }
        self.advance()?;
        Ok(())
    }

    fn check_room(&self, used: u64, end: Option<u64>) -> Parsed<()> {
        match end {
            Some(end) if used >= end => Err(self.error("more initial values than the variable has elements")),
            _ => Ok(()),
        }
    }

    /// Zeros until there are `count` elements.
    fn pad(&self, gathered: &mut Gathered, count: u64) -> Parsed<()> {
        let missing = count.saturating_sub(gathered.elements.len() as u64);
        gathered.padding += missing;
        if gathered.padding > MAX_PADDING {
            return Err(self.error(format!("nested braces leave out more than {MAX_PADDING} elements")));
        }
        gathered.elements.extend((0..missing).map(|_| Initial::Integer(0)));
        Ok(())
    }

    /// A constant, a symbol's address, or some bits of it (`0xFF00(symbol)`).
    fn element(&mut self) -> Parsed<Initial> {
        if let TokenKind::Word(name) = self.token.kind
            && name != "WARP_SZ"
        {
            return self.symbol_address(None);
        }
        if matches!(self.token.kind, TokenKind::Text(_)) {
            return Err(self.error("PTX has no strings as initial values: write the bytes as numbers"));
        }
        let token = self.token;
        let value = self.constant()?;
        match value.integer() {
            Some(mask) if self.sees("(") => {
                let mask =
                    u64::try_from(mask).map_err(|_| self.error_at(&token, "a mask of an address is not negative"))?;
                self.advance()?;
                let address = self.symbol_address(Some(mask))?;
                self.expect(")")?;
                Ok(address)
            }
            Some(value) => Ok(Initial::Integer(value)),
            None => match value {
                super::constant::Value::Float(float) => Ok(Initial::Float(float)),
                _ => Err(self.error_at(&token, "expected a constant")),
            },
        }
    }

    /// `symbol+4`, `generic(symbol)+4` or `generic(symbol+4)`.
    fn symbol_address(&mut self, mask: Option<u64>) -> Parsed<Initial> {
        let mut symbol = self.expect_word("the name of a variable or function")?;
        let generic = symbol == "generic" && self.accept("(")?;
        let mut offset = 0_i64;
        if generic {
            symbol = self.expect_word("the name of a variable or function")?;
            offset = self.offset()?;
            self.expect(")")?;
        }
        offset = offset.wrapping_add(self.offset()?);
        Ok(Initial::Address { symbol: symbol.to_owned(), offset, generic, mask })
    }
}

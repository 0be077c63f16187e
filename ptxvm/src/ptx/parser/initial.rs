//! Initial values of variables, flattened in row-major order.

use super::super::ast::{Initial, Type, Variable};
use super::constant::Value;
use super::{MAX_PADDING, Parsed, Parser, TokenKind};

/// A variable's initial values as they are gathered.
struct Gathered {
    elements: Vec<Initial>,
    ty: Type,
    /// Entries of each level of braces; `None` where the first dimension is open.
    shape: Vec<Option<u64>>,
    /// Elements per entry of each level: `[2][3]` of `.v4` has 12, 4 and 1.
    strides: Vec<u64>,
    /// The innermost level is that of a vector, which is given whole.
    is_vector: bool,
    /// Zeros put in for elements that nested braces left out.
    padding: u64,
}

impl Parser<'_> {
    /// The value after `=`. An open first dimension is closed by what is there.
    pub(super) fn initial(&mut self, variable: &mut Variable) -> Parsed<()> {
        if matches!(variable.ty, Type::F16 | Type::F16x2 | Type::Pred | Type::Opaque) {
            return Err(self.error(format!("variables of type `.{}` have no initial values", variable.ty)));
        }
        // Every level of braces: the dimensions, then the elements of a vector.
        let is_vector = variable.vector > 1;
        let mut shape = variable.dimensions.clone();
        if is_vector {
            shape.push(Some(variable.vector.into()));
        }
        let mut strides = vec![1; shape.len()];
        for level in (1..shape.len()).rev() {
            // The variable's size was checked, so the product stays small.
            strides[level - 1] = strides[level] * shape[level].unwrap_or(1);
        }
        let mut gathered = Gathered { elements: Vec::new(), ty: variable.ty, shape, strides, is_vector, padding: 0 };
        if gathered.shape.is_empty() {
            if self.sees("{") {
                return Err(self.error(format!("`{}` is no array, so its initial value has no braces", variable.name)));
            }
            let element = self.element(variable.ty)?;
            gathered.elements.push(element);
        } else {
            let entries = self.braces(&mut gathered, 0)?;
            if let Some(first @ None) = variable.dimensions.first_mut() {
                *first = Some(entries);
            }
        }
        variable.initial = gathered.elements;
        Ok(())
    }

    /// `{ entry, entry, … }` at a level: braces again, or elements at the innermost one. Returns how many there are.
    fn braces(&mut self, gathered: &mut Gathered, level: usize) -> Parsed<u64> {
        let start = gathered.elements.len() as u64;
        let is_innermost = level + 1 == gathered.shape.len();
        if !self.accept("{")? {
            return Err(self.expected("`{`: one level of braces for each dimension, and one for a vector"));
        }
        let mut entries = 0;
        while !self.sees("}") {
            if entries > 0 {
                self.expect(",")?;
            }
            if gathered.shape[level].is_some_and(|size| entries == size) {
                return Err(self.error("more initial values than the variable has elements"));
            }
            if is_innermost {
                let element = self.element(gathered.ty)?;
                gathered.elements.push(element);
            } else {
                // Where the entries before left elements out, zeros stand for them.
                self.pad(gathered, start + entries * gathered.strides[level])?;
                self.braces(gathered, level + 1)?;
            }
            entries += 1;
        }
        if is_innermost && gathered.is_vector && gathered.shape[level] != Some(entries) {
            return Err(self.error("a vector's initial value has all its elements"));
        }
        self.advance()?;
        Ok(entries)
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

    /// A constant, a symbol's address, or some bits of either (`0xFF00(symbol)`).
    fn element(&mut self, ty: Type) -> Parsed<Initial> {
        if self.sees_symbol() {
            return self.symbol_address(None);
        }
        if matches!(self.token.kind, TokenKind::Text(_)) {
            return Err(self.error("PTX has no strings as initial values: write the bytes as numbers"));
        }
        let token = self.token;
        let value = self.constant()?;
        if self.sees("(") {
            let mask = value.integer().and_then(|mask| u64::try_from(mask).ok());
            let mask = mask.filter(|mask| (0..8).any(|byte| 0xFF << (8 * byte) == *mask));
            let mask = mask.ok_or_else(|| self.error_at(&token, "a mask is one byte of 64 bits, such as `0xFF00`"))?;
            return self.masked(mask);
        }
        match (value, value.integer(), ty) {
            (_, Some(_), Type::F32 | Type::F64) => {
                Err(self.error_at(&token, format!("the initial value of `.{ty}` is a floating-point constant")))
            }
            (_, Some(value), _) => Ok(Initial::Integer(value)),
            (Value::Float(float), _, Type::F32 | Type::F64 | Type::B32 | Type::B64) => Ok(Initial::Float(float)),
            _ => Err(self.error_at(&token, format!("the initial value of `.{ty}` is an integer"))),
        }
    }

    /// Whether a variable or a function comes next.
    fn sees_symbol(&self) -> bool {
        matches!(self.token.kind, TokenKind::Word(name) if name != "WARP_SZ")
    }

    /// `(address)` or `(integer)` after a mask, which picks one byte.
    fn masked(&mut self, mask: u64) -> Parsed<Initial> {
        self.expect("(")?;
        let value = if self.sees_symbol() {
            self.symbol_address(Some(mask))?
        } else {
            let bits = self.constant_integer("what a mask is applied to")? as u64;
            Initial::Integer(i128::from((bits & mask) >> mask.trailing_zeros()))
        };
        self.expect(")")?;
        Ok(value)
    }

    /// `symbol+4` or `generic(symbol)+4`.
    fn symbol_address(&mut self, mask: Option<u64>) -> Parsed<Initial> {
        let mut symbol = self.expect_word("the name of a variable or function")?;
        let generic = symbol == "generic" && self.accept("(")?;
        if generic {
            symbol = self.expect_word("the name of a variable or function")?;
            self.expect(")")?;
        }
        Ok(Initial::Address { symbol: symbol.to_owned(), offset: self.offset()?, generic, mask })
    }
}

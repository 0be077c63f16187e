//! Constant expressions, evaluated as they are read: C's operators and precedences over `.s64`, `.u64` and `.f64`.

use super::super::ast::Float;
use super::super::lexer::Token;
use super::super::number::Number;
use super::{MAX_CONSTANT_DEPTH, Parsed, Parser, TokenKind};

/// The number that `WARP_SZ` stands for.
const WARP_SIZE: i64 = 32;

/// A constant with its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// `.s64`.
    Signed(i64),
    /// `.u64`.
    Unsigned(u64),
    /// `.f64`, or a single precision literal that no operator has touched but a sign.
    Float(Float),
}

impl Value {
    /// The 64 bits of an integer.
    fn bits(self) -> Option<u64> {
        match self {
            Self::Signed(value) => Some(value as u64),
            Self::Unsigned(value) => Some(value),
            Self::Float(_) => None,
        }
    }

    /// An integer as wide as the syntax tree has them.
    pub(super) fn integer(self) -> Option<i128> {
        match self {
            Self::Signed(value) => Some(value.into()),
            Self::Unsigned(value) => Some(value.into()),
            Self::Float(_) => None,
        }
    }
}

impl Parser<'_> {
    /// A constant expression.
    pub(super) fn constant(&mut self) -> Parsed<Value> {
        self.constant_depth += 1;
        if self.constant_depth > MAX_CONSTANT_DEPTH {
            return Err(self.error(format!("a constant with more than {MAX_CONSTANT_DEPTH} levels")));
        }
        let condition = self.binary(0)?;
        let value = self.after_condition(condition);
        self.constant_depth -= 1;
        value
    }

    /// A constant expression that must be an integer; `what` says of what.
    pub(super) fn constant_integer(&mut self, what: &str) -> Parsed<i128> {
        let token = self.token;
        let value = self.constant()?;
        value
            .integer()
            .ok_or_else(|| self.error_at(&token, format!("{what} is an integer, found a floating-point constant")))
    }

    /// A constant expression whose leading `!` is taken already.
    pub(super) fn constant_after_not(&mut self, not: &Token<'_>) -> Parsed<Value> {
        let value = self.unary()?;
        let negated = self.logical_not(value, not)?;
        let condition = self.binary_after(negated, 0)?;
        self.after_condition(condition)
    }

    /// `condition ? a : b`, or the condition alone.
    fn after_condition(&mut self, condition: Value) -> Parsed<Value> {
        let question = self.token;
        if !self.accept("?")? {
            return Ok(condition);
        }
        let Some(bits) = condition.bits() else {
            return Err(self.error_at(&question, "the condition of `?` is an integer"));
        };
        let yes = self.constant()?;
        self.expect(":")?;
        let no = self.constant()?;
        let chosen = if bits != 0 { yes } else { no };
        match (yes, no) {
            (Value::Float(_), Value::Float(_)) => Ok(chosen),
            // The usual conversions: one unsigned side makes both unsigned.
            _ => match (yes.bits(), no.bits(), chosen) {
                (Some(_), Some(_), Value::Signed(value))
                    if matches!(yes, Value::Unsigned(_)) || matches!(no, Value::Unsigned(_)) =>
                {
                    Ok(Value::Unsigned(value as u64))
                }
                (Some(_), Some(_), _) => Ok(chosen),
                _ => Err(self.error_at(&question, "`?` chooses between two integers or two floating-point constants")),
            },
        }
    }

    /// Operators with two sides, from a precedence upwards.
    fn binary(&mut self, lowest: u32) -> Parsed<Value> {
        let left = self.unary()?;
        self.binary_after(left, lowest)
    }

    fn binary_after(&mut self, mut left: Value, lowest: u32) -> Parsed<Value> {
        while let TokenKind::Symbol(operator) = self.token.kind {
            let Some(precedence) = precedence(operator).filter(|&precedence| precedence >= lowest) else { break };
            let token = self.advance()?;
            let right = self.binary(precedence + 1)?;
            left = apply(operator, left, right).map_err(|message| self.error_at(&token, message))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Value> {
        self.constant_depth += 1;
        if self.constant_depth > MAX_CONSTANT_DEPTH {
            return Err(self.error(format!("a constant with more than {MAX_CONSTANT_DEPTH} levels")));
        }
        let token = self.token;
        let value = match token.kind {
            TokenKind::Number(Number::Integer { value, unsigned }) => {
                self.advance()?;
                if unsigned { Value::Unsigned(value) } else { Value::Signed(value as i64) }
            }
            TokenKind::Number(Number::Float(float)) => {
                self.advance()?;
                Value::Float(float)
            }
            TokenKind::Word("WARP_SZ") => {
                self.advance()?;
                Value::Signed(WARP_SIZE)
            }
            TokenKind::Symbol("+") => {
                self.advance()?;
                self.unary()?
            }
            TokenKind::Symbol("-") => {
                self.advance()?;
                negate(self.unary()?)
            }
            TokenKind::Symbol("~") => {
                self.advance()?;
                let bits = self.unary()?.bits();
                Value::Unsigned(!bits.ok_or_else(|| self.error_at(&token, "`~` is for integers"))?)
            }
            TokenKind::Symbol("!") => {
                self.advance()?;
                let value = self.unary()?;
                self.logical_not(value, &token)?
            }
            TokenKind::Symbol("(") => {
                self.advance()?;
                self.parenthesis()?
            }
            _ => return Err(self.expected("a constant")),
        };
        self.constant_depth -= 1;
        Ok(value)
    }

    /// `(expression)`, or a cast `(.s64)` or `(.u64)` and what it is applied to; after `(`.
    fn parenthesis(&mut self) -> Parsed<Value> {
        let token = self.token;
        let signed = match token.kind {
            TokenKind::Dotted("s64") => true,
            TokenKind::Dotted("u64") => false,
            TokenKind::Dotted(_) => return Err(self.expected("a cast to `.s64` or `.u64`")),
            _ => {
                let value = self.constant()?;
                self.expect(")")?;
                return Ok(value);
            }
        };
        self.advance()?;
        self.expect(")")?;
        let value = self.unary()?;
        let bits = value.bits().ok_or_else(|| self.error_at(&token, "casts are for integers"))?;
        Ok(if signed { Value::Signed(bits as i64) } else { Value::Unsigned(bits) })
    }

    fn logical_not(&self, value: Value, operator: &Token<'_>) -> Parsed<Value> {
        let bits = value.bits().ok_or_else(|| self.error_at(operator, "`!` is for integers"))?;
        Ok(Value::Signed(i64::from(bits == 0)))
    }
}

fn negate(value: Value) -> Value {
    match value {
        Value::Signed(value) => Value::Signed(value.wrapping_neg()),
        // The smallest signed integer has no literal of its own: compilers write it as the negative of this one.
        Value::Unsigned(value) if value == 1 << 63 => Value::Signed(i64::MIN),
        Value::Unsigned(value) => Value::Unsigned(value.wrapping_neg()),
        Value::Float(Float::Single(bits)) => Value::Float(Float::Single(bits ^ 1 << 31)),
        Value::Float(Float::Double(bits)) => Value::Float(Float::Double(bits ^ 1 << 63)),
    }
}

fn precedence(operator: &str) -> Option<u32> {
    Some(match operator {
        "||" => 1,
        "&&" => 2,
        "|" => 3,
        "^" => 4,
        "&" => 5,
        "==" | "!=" => 6,
        "<" | ">" | "<=" | ">=" => 7,
        "<<" | ">>" => 8,
        "+" | "-" => 9,
        "*" | "/" | "%" => 10,
        _ => return None,
    })
}

/// An operator on two constants: both floating-point, or both integers, of which one unsigned makes both unsigned.
fn apply(operator: &str, left: Value, right: Value) -> Result<Value, String> {
    let (Some(a), Some(b)) = (left.bits(), right.bits()) else {
        return match (left, right) {
            (Value::Float(a), Value::Float(b)) => apply_float(operator, a.value(), b.value()),
            _ => Err(format!("`{operator}` between an integer and a floating-point constant")),
        };
    };
    let truth = |condition: bool| Ok(Value::Signed(i64::from(condition)));
    // The right side of a shift has no say in the type; of the count, the assembler takes the lowest six bits.
    if matches!(operator, "<<" | ">>") {
        let count = b as u32;
        return Ok(match (left, operator) {
            (Value::Signed(value), "<<") => Value::Signed(value.wrapping_shl(count)),
            (Value::Signed(value), _) => Value::Signed(value.wrapping_shr(count)),
            (_, "<<") => Value::Unsigned(a.wrapping_shl(count)),
            _ => Value::Unsigned(a.wrapping_shr(count)),
        });
    }
    if matches!(operator, "/" | "%") && b == 0 {
        return Err(format!("`{operator}` by zero in a constant"));
    }
    let signed = matches!((left, right), (Value::Signed(_), Value::Signed(_)));
    let (x, y) = (a as i64, b as i64);
    let bits = match operator {
        "||" => return truth(a != 0 || b != 0),
        "&&" => return truth(a != 0 && b != 0),
        "==" => return truth(a == b),
        "!=" => return truth(a != b),
        "<" => return truth(if signed { x < y } else { a < b }),
        ">" => return truth(if signed { x > y } else { a > b }),
        "<=" => return truth(if signed { x <= y } else { a <= b }),
        ">=" => return truth(if signed { x >= y } else { a >= b }),
        "|" => a | b,
        "^" => a ^ b,
        "&" => a & b,
        "+" => a.wrapping_add(b),
        "-" => a.wrapping_sub(b),
        "*" => a.wrapping_mul(b),
        "/" if signed => x.wrapping_div(y) as u64,
        "/" => a / b,
        // The manual has the remainder of unsigned integers only, and calls it signed.
        _ => return Ok(Value::Signed((a % b) as i64)),
    };
    Ok(if signed { Value::Signed(bits as i64) } else { Value::Unsigned(bits) })
}

fn apply_float(operator: &str, a: f64, b: f64) -> Result<Value, String> {
    let truth = |condition: bool| Ok(Value::Signed(i64::from(condition)));
    let value = match operator {
        "+" => a + b,
        "-" => a - b,
        "*" => a * b,
        "/" => a / b,
        "==" => return truth(a == b),
        "!=" => return truth(a != b),
        "<" => return truth(a < b),
        ">" => return truth(a > b),
        "<=" => return truth(a <= b),
        ">=" => return truth(a >= b),
        _ => return Err(format!("`{operator}` is for integers")),
    };
    Ok(Value::Float(Float::Double(value.to_bits())))
}

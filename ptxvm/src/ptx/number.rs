//! Numeric literals: integers in four bases, and floating-point constants.

use super::ast::Float;

/// A literal as a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// `unsigned`: written with a U, or too large for a signed 64-bit integer.
    Integer { value: u64, unsigned: bool },
    /// `0f…`, `0d…` or decimal.
    Float(Float),
}

/// Reads the literal at the start of `bytes`, whose first byte is a digit, or a point before a digit.
///
/// Returns the literal and its length, or what is wrong with it.
pub(super) fn read(bytes: &[u8]) -> Result<(Number, usize), String> {
    let (number, length) = match bytes {
        [b'0', b'x' | b'X', ..] => integer(bytes, 2, 16)?,
        [b'0', b'b' | b'B', ..] => integer(bytes, 2, 2)?,
        [b'0', b'f' | b'F', ..] => {
            let (bits, length) = exact_hexadecimal(bytes, 8)?;
            (Number::Float(Float::Single(bits as u32)), length)
        }
        [b'0', b'd' | b'D', ..] => {
            let (bits, length) = exact_hexadecimal(bytes, 16)?;
            (Number::Float(Float::Double(bits)), length)
        }
        _ => match decimal_float_length(bytes) {
            Some(length) => (decimal_float(&bytes[..length])?, length),
            None if bytes[0] == b'0' => integer(bytes, 0, 8)?,
            None => integer(bytes, 0, 10)?,
        },
    };
    match bytes.get(length) {
        Some(&next) if next.is_ascii_alphanumeric() || next == b'_' || next == b'$' => {
            Err(format!("`{}` is not a number", shown(bytes)))
        }
        _ => Ok((number, length)),
    }
}

/// The literal with whatever sticks to it, for messages.
fn shown(bytes: &[u8]) -> String {
    const LONGEST: usize = 40;
    let word = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.'));
    word.take(LONGEST).map(|&byte| char::from(byte)).collect()
}

fn integer(bytes: &[u8], prefix: usize, base: u32) -> Result<(Number, usize), String> {
    let mut value = 0_u64;
    let mut length = prefix;
    // The `b` and `f` of other bases are no digits here: they end the loop and the caller refuses them.
    while let Some(digit) = bytes.get(length).and_then(|&byte| char::from(byte).to_digit(base)) {
        value = value
            .checked_mul(u64::from(base))
            .and_then(|shifted| shifted.checked_add(u64::from(digit)))
            .ok_or_else(|| format!("the integer `{}` does not fit in 64 bits", shown(bytes)))?;
        length += 1;
    }
    if length == prefix {
        return Err(format!("`{}` has no digits after its base", shown(bytes)));
    }
    let suffixed = bytes.get(length) == Some(&b'U');
    Ok((Number::Integer { value, unsigned: suffixed || i64::try_from(value).is_err() }, length + usize::from(suffixed)))
}

/// `0f` or `0d` and exactly so many hexadecimal digits.
fn exact_hexadecimal(bytes: &[u8], digits: usize) -> Result<(u64, usize), String> {
    let mut value = 0_u64;
    for index in 0..digits {
        let digit = bytes.get(2 + index).and_then(|&byte| char::from(byte).to_digit(16));
        let digit = digit.ok_or_else(|| {
            format!("the floating-point constant `{}` needs {digits} hexadecimal digits", shown(bytes))
        })?;
        value = value << 4 | u64::from(digit);
    }
    Ok((value, 2 + digits))
}

/// The length of a decimal floating-point literal (`1.5`, `1.`, `.5`, `1e9`, `1.5E-3`), or `None` for an integer.
fn decimal_float_length(bytes: &[u8]) -> Option<usize> {
    let digits_from = |start: usize| bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut length = digits_from(0);
    let mut is_float = false;
    if bytes.get(length) == Some(&b'.') {
        is_float = true;
        length += 1;
        length += digits_from(length);
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        let start = (length + 1 + sign).min(bytes.len());
        let exponent = digits_from(start);
        if exponent > 0 {
            is_float = true;
            length = start + exponent;
        }
    }
    is_float.then_some(length)
}

fn decimal_float(bytes: &[u8]) -> Result<Number, String> {
    let text = str::from_utf8(bytes).unwrap_or_default();
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a floating-point number"))?;
    Ok(Number::Float(Float::Double(value.to_bits())))
}

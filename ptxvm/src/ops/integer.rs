//! Integer arithmetic.

use super::float::stages::{finish, sources, stage};
use crate::{
    machine::op::{Exec, map1, map2, map2_constant, map3, map3_constant},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// An operation made for one of the integer types: `T` is the Rust type in the expression.
macro_rules! by_type {
    ($ty:expr, $t:ident => $exec:expr) => {
        match $ty {
            Type::U16 => {
                type $t = u16;
                Some($exec)
            }
            Type::S16 => {
                type $t = i16;
                Some($exec)
            }
            Type::U32 => {
                type $t = u32;
                Some($exec)
            }
            Type::S32 => {
                type $t = i32;
                Some($exec)
            }
            Type::U64 => {
                type $t = u64;
                Some($exec)
            }
            Type::S64 => {
                type $t = i64;
                Some($exec)
            }
            _ => None,
        }
    };
}

/// As [`by_type`] where the sign does not matter.
macro_rules! by_width {
    ($ty:expr, $t:ident => $exec:expr) => {
        match $ty {
            Type::U16 | Type::S16 => {
                type $t = u16;
                Some($exec)
            }
            Type::U32 | Type::S32 => {
                type $t = u32;
                Some($exec)
            }
            Type::U64 | Type::S64 => {
                type $t = u64;
                Some($exec)
            }
            _ => None,
        }
    };
}

/// Applies a function of two 16-bit integers to both halves.
macro_rules! halves {
    ($t:ident, $function:expr) => {
        map2(|a: u32, b: u32| {
            let f = $function;
            let low: $t = f(a as $t, b as $t);
            let high: $t = f((a >> 16) as $t, (b >> 16) as $t);
            u32::from(low as u16) | u32::from(high as u16) << 16
        })
    };
}

/// The wide product, and the type of it.
fn wide(ty: Type) -> Option<(Exec, Type)> {
    Some(match ty {
        Type::U16 => (map2(|a: u16, b: u16| u32::from(a) * u32::from(b)), Type::U32),
        Type::S16 => (map2(|a: i16, b: i16| i32::from(a) * i32::from(b)), Type::S32),
        Type::U32 => (map2_constant(|a: u32, b: u32| u64::from(a) * u64::from(b)), Type::U64),
        Type::S32 => (map2_constant(|a: i32, b: i32| i64::from(a) * i64::from(b)), Type::S64),
        _ => return None,
    })
}

/// The wide product and a sum.
fn wide_sum(ty: Type) -> Option<(Exec, Type)> {
    Some(match ty {
        Type::U16 => (map3(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)), Type::U32),
        Type::S16 => (map3(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)), Type::S32),
        Type::U32 => (map3_constant(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)), Type::U64),
        Type::S32 => (map3_constant(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)), Type::S64),
        _ => return None,
    })
}

/// The upper half of the product.
pub(super) fn high(ty: Type) -> Option<Exec> {
    Some(match ty {
        Type::U16 => map2(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        Type::S16 => map2(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        Type::U32 => map2(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Type::S32 => map2(|a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        Type::U64 => map2(|a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Type::S64 => map2(|a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        _ => return None,
    })
}

/// The lower half of the product.
pub(super) fn low(ty: Type) -> Option<Exec> {
    by_width!(ty, T => map2_constant(T::wrapping_mul))
}

/// `a / b`: all ones where `b` is zero, as the hardware's sequence gives.
#[inline(always)]
fn div_u32(a: u32, b: u32) -> u32 {
    // Doubles hold 32-bit integers, and their quotient is off by less than the distance to the next integer.
    let divisor = if b == 0 { 1 } else { b };
    // SAFETY: the quotient lies between 0 and 2^32 − 1.
    let quotient = unsafe { (f64::from(a) / f64::from(divisor)).to_int_unchecked::<u32>() };
    if b == 0 { u32::MAX } else { quotient }
}

#[inline(always)]
fn div_s32(a: i32, b: i32) -> i32 {
    let plain = (b != 0) & (b != -1);
    let divisor = if plain { b } else { 1 };
    // SAFETY: by other divisors than −1 the quotient is an i32.
    let quotient = unsafe { (f64::from(a) / f64::from(divisor)).to_int_unchecked::<i32>() };
    let quotient = if b == -1 { a.wrapping_neg() } else { quotient };
    if b == 0 { -1 } else { quotient }
}

#[inline(always)]
fn rem_u32(a: u32, b: u32) -> u32 {
    let rest = a.wrapping_sub(div_u32(a, b).wrapping_mul(b));
    if b == 0 { u32::MAX } else { rest }
}

#[inline(always)]
fn rem_s32(a: i32, b: i32) -> i32 {
    let rest = a.wrapping_sub(div_s32(a, b).wrapping_mul(b));
    if b == 0 { -1 } else { rest }
}

fn divide(ty: Type) -> Option<Exec> {
    Some(match ty {
        Type::U16 => map2(|a: u16, b: u16| if b == 0 { u16::MAX } else { div_u32(a.into(), b.into()) as u16 }),
        Type::S16 => map2(|a: i16, b: i16| if b == 0 { -1 } else { div_s32(a.into(), b.into()) as i16 }),
        Type::U32 => map2(div_u32),
        Type::S32 => map2(div_s32),
        Type::U64 => map2(|a: u64, b: u64| a.checked_div(b).unwrap_or(u64::MAX)),
        Type::S64 => map2(|a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_div(b) }),
        _ => return None,
    })
}

fn remainder(ty: Type) -> Option<Exec> {
    Some(match ty {
        Type::U16 => map2(|a: u16, b: u16| if b == 0 { u16::MAX } else { rem_u32(a.into(), b.into()) as u16 }),
        Type::S16 => map2(|a: i16, b: i16| if b == 0 { -1 } else { rem_s32(a.into(), b.into()) as i16 }),
        Type::U32 => map2(rem_u32),
        Type::S32 => map2(rem_s32),
        Type::U64 => map2(|a: u64, b: u64| a.checked_rem(b).unwrap_or(u64::MAX)),
        Type::S64 => map2(|a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_rem(b) }),
        _ => return None,
    })
}

/// `add sub mul mad mul24 mad24 sad div rem abs neg min max` over integers.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    match i.opcode.as_str() {
        "add" | "sub" => add(i, b, modifiers, ty),
        "mul" | "mad" => multiply(i, b, modifiers, ty),
        "mul24" | "mad24" => multiply24(i, b, modifiers, ty),
        "min" | "max" => minimum(i, b, modifiers, ty),
        "sad" => {
            modifiers.finish(b)?;
            let exec = match ty {
                Type::U16 => Some(map3(|a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b)))),
                Type::S16 => Some(map3(|a: i16, b: i16, c: u16| c.wrapping_add(a.abs_diff(b)))),
                Type::U32 => Some(map3(|a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b)))),
                Type::S32 => Some(map3(|a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b)))),
                Type::U64 => Some(map3(|a: u64, b: u64, c: u64| c.wrapping_add(a.abs_diff(b)))),
                Type::S64 => Some(map3(|a: i64, b: i64, c: u64| c.wrapping_add(a.abs_diff(b)))),
                _ => None,
            };
            uniform(i, b, exec, ty, 3)
        }
        "div" => {
            modifiers.finish(b)?;
            uniform(i, b, divide(ty), ty, 2)
        }
        "rem" => {
            modifiers.finish(b)?;
            uniform(i, b, remainder(ty), ty, 2)
        }
        "abs" | "neg" => {
            modifiers.finish(b)?;
            if !ty.is_signed() {
                return Err(b.unknown(i));
            }
            let exec = if i.opcode == "abs" {
                match ty {
                    Type::S16 => Some(map1(i16::wrapping_abs)),
                    Type::S32 => Some(map1(i32::wrapping_abs)),
                    Type::S64 => Some(map1(i64::wrapping_abs)),
                    _ => None,
                }
            } else {
                by_width!(ty, T => map1(|a: T| (0 as T).wrapping_sub(a)))
            };
            uniform(i, b, exec, ty, 1)
        }
        _ => Err(b.unknown(i)),
    }
}

/// The instruction whose sources and destination have one type.
fn uniform(
    i: &Instruction,
    b: &mut Builder<'_>,
    exec: Option<Exec>,
    ty: Type,
    count: usize,
) -> Result<(), CompileError> {
    let exec = exec.ok_or_else(|| b.unknown(i))?;
    b.map_instruction(i, exec, ty, &[ty, ty, ty][..count])
}

fn add(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>, ty: Type) -> Result<(), CompileError> {
    let sat = ty == Type::S32 && modifiers.take("sat");
    modifiers.finish(b)?;
    let exec = match (i.opcode.as_str(), ty, sat) {
        ("add", Type::S32, true) => Some(map2(i32::saturating_add)),
        ("sub", Type::S32, true) => Some(map2(i32::saturating_sub)),
        (_, _, true) => None,
        ("add", Type::U16x2 | Type::S16x2, _) => Some(halves!(u16, u16::wrapping_add)),
        ("add", ..) => by_width!(ty, T => map2_constant(T::wrapping_add)),
        _ => by_width!(ty, T => map2_constant(T::wrapping_sub)),
    };
    uniform(i, b, exec, ty, 2)
}

fn multiply(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>, ty: Type) -> Result<(), CompileError> {
    let part = modifiers.take_any(&["lo", "hi", "wide"]);
    let mad = i.opcode == "mad";
    let sat = mad && part == Some("hi") && ty == Type::S32 && modifiers.take("sat");
    modifiers.finish(b)?;
    match (part, mad) {
        (Some("wide"), false) => {
            let (exec, product) = wide(ty).ok_or_else(|| b.unknown(i))?;
            b.map_instruction(i, exec, product, &[ty, ty])
        }
        (Some("wide"), true) => {
            let (exec, product) = wide_sum(ty).ok_or_else(|| b.unknown(i))?;
            b.map_instruction(i, exec, product, &[ty, ty, product])
        }
        (Some("lo"), false) => uniform(i, b, low(ty), ty, 2),
        (Some("hi"), false) => uniform(i, b, high(ty), ty, 2),
        (Some("lo"), true) => {
            let exec = by_width!(ty, T => map3_constant(|a: T, b: T, c: T| a.wrapping_mul(b).wrapping_add(c)));
            uniform(i, b, exec, ty, 3)
        }
        (Some("hi"), true) => {
            let product = high(ty).ok_or_else(|| b.unknown(i))?;
            let sum = if sat { Some(map2(i32::saturating_add)) } else { by_width!(ty, T => map2(T::wrapping_add)) };
            let sum = sum.ok_or_else(|| b.unknown(i))?;
            let slots = sources(b, i, ty, 3)?;
            let upper = stage(b, product, ty, &slots[..2]);
            finish(b, i, sum, &i.operands[0], ty, &[upper, slots[2]])
        }
        _ => Err(b.error(i, ".lo, .hi or .wide is required")),
    }
}

/// The low 24 bits with their sign.
#[inline(always)]
fn signed24(a: i32) -> i64 {
    i64::from(a << 8 >> 8)
}

#[inline(always)]
fn unsigned24(a: u32) -> u64 {
    u64::from(a & 0xff_ffff)
}

fn multiply24(
    i: &Instruction,
    b: &mut Builder<'_>,
    mut modifiers: Modifiers<'_>,
    ty: Type,
) -> Result<(), CompileError> {
    let part = modifiers.take_any(&["lo", "hi"]);
    let mad = i.opcode == "mad24";
    let sat = mad && part == Some("hi") && ty == Type::S32 && modifiers.take("sat");
    modifiers.finish(b)?;
    // The product of 48 bits: its low 32, or what lies above its low 16.
    let product = match (part, ty) {
        (Some("lo"), Type::U32) => map2(|a: u32, b: u32| (unsigned24(a) * unsigned24(b)) as u32),
        (Some("hi"), Type::U32) => map2(|a: u32, b: u32| ((unsigned24(a) * unsigned24(b)) >> 16) as u32),
        (Some("lo"), Type::S32) => map2(|a: i32, b: i32| (signed24(a) * signed24(b)) as i32),
        (Some("hi"), Type::S32) => map2(|a: i32, b: i32| ((signed24(a) * signed24(b)) >> 16) as i32),
        _ => return Err(b.unknown(i)),
    };
    if !mad {
        return uniform(i, b, Some(product), ty, 2);
    }
    let sum = if sat { map2(i32::saturating_add) } else { map2(u32::wrapping_add) };
    let slots = sources(b, i, ty, 3)?;
    let part = stage(b, product, ty, &slots[..2]);
    finish(b, i, sum, &i.operands[0], ty, &[part, slots[2]])
}

fn minimum(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>, ty: Type) -> Result<(), CompileError> {
    let relu = matches!(ty, Type::S32 | Type::S16x2) && modifiers.take("relu");
    modifiers.finish(b)?;
    let exec = match (i.opcode.as_str(), ty, relu) {
        ("min", Type::S32, true) => Some(map2(|a: i32, b: i32| a.min(b).max(0))),
        ("max", Type::S32, true) => Some(map2(|a: i32, b: i32| a.max(b).max(0))),
        ("min", Type::S16x2, true) => Some(halves!(i16, |a: i16, b: i16| a.min(b).max(0))),
        ("max", Type::S16x2, true) => Some(halves!(i16, |a: i16, b: i16| a.max(b).max(0))),
        ("min", Type::S16x2, _) => Some(halves!(i16, |a: i16, b: i16| a.min(b))),
        ("max", Type::S16x2, _) => Some(halves!(i16, |a: i16, b: i16| a.max(b))),
        ("min", Type::U16x2, _) => Some(halves!(u16, |a: u16, b: u16| a.min(b))),
        ("max", Type::U16x2, _) => Some(halves!(u16, |a: u16, b: u16| a.max(b))),
        (_, _, true) => None,
        ("min", ..) => by_type!(ty, T => map2(|a: T, b: T| a.min(b))),
        _ => by_type!(ty, T => map2(|a: T, b: T| a.max(b))),
    };
    uniform(i, b, exec, ty, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_through_doubles_is_exact() {
        let numbers = [0, 1, 2, 3, 5, 7, 10, 127, 65_535, 65_536, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX];
        for a in numbers {
            for b in numbers {
                assert_eq!(div_u32(a, b), a.checked_div(b).unwrap_or(u32::MAX), "{a} / {b}");
                assert_eq!(rem_u32(a, b), a.checked_rem(b).unwrap_or(u32::MAX), "{a} % {b}");
                let (a, b) = (a as i32, b as i32);
                assert_eq!(div_s32(a, b), if b == 0 { -1 } else { a.wrapping_div(b) }, "{a} / {b}");
                assert_eq!(rem_s32(a, b), if b == 0 { -1 } else { a.wrapping_rem(b) }, "{a} % {b}");
            }
        }
    }
}

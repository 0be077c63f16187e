//! Arithmetic in single and double precision.

pub(crate) mod approximate;
pub(crate) mod elementary;
pub(crate) mod rounding;
pub(crate) mod soft;
pub(crate) mod stages;

use crate::{
    machine::op::{Exec, map1, map2, map2_constant, map3, map3_constant},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};
use rounding::*;
use stages::{finish, sources, stage_if};

/// `.rn`, `.rz`, `.rm` or `.rp`, if there.
pub(crate) fn take_rounding(modifiers: &mut Modifiers<'_>) -> Option<u8> {
    modifiers.take_any(&["rn", "rz", "rm", "rp"]).map(|name| match name {
        "rz" => RZ,
        "rm" => RM,
        "rp" => RP,
        _ => RN,
    })
}

/// A function over single precision made for a direction and with or without `.ftz`; `$near` makes the common direction.
macro_rules! directed {
    ($map:ident, $function:ident, $mode:expr, $ftz:expr) => {
        directed!($map, $map, $function, $mode, $ftz)
    };
    ($map:ident, $near:ident, $function:ident, $mode:expr, $ftz:expr) => {
        match ($mode, $ftz) {
            (RZ, false) => $map($function::<RZ, false>),
            (RZ, true) => $map($function::<RZ, true>),
            (RM, false) => $map($function::<RM, false>),
            (RM, true) => $map($function::<RM, true>),
            (RP, false) => $map($function::<RP, false>),
            (RP, true) => $map($function::<RP, true>),
            (_, false) => $near($function::<RN, false>),
            (_, true) => $near($function::<RN, true>),
        }
    };
}

#[inline(always)]
fn add<const MODE: u8, const FTZ: bool>(a: f32, b: f32) -> f32 {
    canonical(flush_if::<FTZ>(add32::<MODE>(flush_if::<FTZ>(a), flush_if::<FTZ>(b))))
}

#[inline(always)]
fn sub<const MODE: u8, const FTZ: bool>(a: f32, b: f32) -> f32 {
    add::<MODE, FTZ>(a, -b)
}

#[inline(always)]
fn mul<const MODE: u8, const FTZ: bool>(a: f32, b: f32) -> f32 {
    canonical(flush_if::<FTZ>(mul32::<MODE>(flush_if::<FTZ>(a), flush_if::<FTZ>(b))))
}

#[inline(always)]
fn fma<const MODE: u8, const FTZ: bool>(a: f32, b: f32, c: f32) -> f32 {
    let (a, b, c) = (flush_if::<FTZ>(a), flush_if::<FTZ>(b), flush_if::<FTZ>(c));
    canonical(flush_if::<FTZ>(fma32::<MODE>(a, b, c)))
}

#[inline(always)]
fn div<const MODE: u8, const FTZ: bool>(a: f32, b: f32) -> f32 {
    canonical(flush_if::<FTZ>(div32::<MODE>(flush_if::<FTZ>(a), flush_if::<FTZ>(b))))
}

#[inline(always)]
fn rcp<const MODE: u8, const FTZ: bool>(a: f32) -> f32 {
    div::<MODE, FTZ>(1.0, a)
}

#[inline(always)]
fn sqrt<const MODE: u8, const FTZ: bool>(a: f32) -> f32 {
    canonical_root(sqrt32::<MODE>(flush_if::<FTZ>(a)))
}

/// Applies to both halves of `.f32x2`.
macro_rules! pairs {
    ($name:ident, $function:ident, $($source:ident),*) => {
        #[inline(always)]
        fn $name<const MODE: u8, const FTZ: bool>($($source: u64),*) -> u64 {
            let low = $function::<MODE, FTZ>($(f32::from_bits($source as u32)),*);
            let high = $function::<MODE, FTZ>($(f32::from_bits(($source >> 32) as u32)),*);
            u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
        }
    };
}

pairs!(add_pairs, add, a, b);
pairs!(sub_pairs, sub, a, b);
pairs!(mul_pairs, mul, a, b);
pairs!(fma_pairs, fma, a, b, c);

/// The NaN of a double-precision result is the first NaN among the sources, made quiet.
#[inline(always)]
fn quiet(result: f64, sources: [f64; 3]) -> f64 {
    let mut nan = 0xfff8 << 48;
    for source in sources.into_iter().rev() {
        nan = if source.is_nan() { source.to_bits() } else { nan };
    }
    // As integers: see `canonical_root`.
    let bits = result.to_bits();
    f64::from_bits(if bits & i64::MAX as u64 > 0x7ff0 << 48 { nan | 1 << 51 } else { bits })
}

macro_rules! doubles {
    ($map:ident, $mode:expr, ($($source:ident),*), $near:expr, $soft:ident) => {
        match $mode {
            RZ => $map(|$($source: f64),*| soft::$soft($($source,)* RZ)),
            RM => $map(|$($source: f64),*| soft::$soft($($source,)* RM)),
            RP => $map(|$($source: f64),*| soft::$soft($($source,)* RP)),
            _ => $map($near),
        }
    };
}

/// The operation of `opcode` over doubles, rounded in a direction.
fn double(opcode: &str, mode: u8) -> Option<(Exec, usize)> {
    Some(match opcode {
        "add" => (doubles!(map2, mode, (a, b), |a: f64, b: f64| quiet(a + b, [a, b, 0.0]), add), 2),
        "sub" => match mode {
            RZ => (map2(|a: f64, b: f64| soft::add(a, -b, RZ)), 2),
            RM => (map2(|a: f64, b: f64| soft::add(a, -b, RM)), 2),
            RP => (map2(|a: f64, b: f64| soft::add(a, -b, RP)), 2),
            _ => (map2(|a: f64, b: f64| quiet(a - b, [a, b, 0.0])), 2),
        },
        "mul" => (doubles!(map2, mode, (a, b), |a: f64, b: f64| quiet(a * b, [a, b, 0.0]), mul), 2),
        "fma" | "mad" => {
            (doubles!(map3, mode, (a, b, c), |a: f64, b: f64, c: f64| quiet(a.mul_add(b, c), [a, b, c]), fma), 3)
        }
        "div" => (doubles!(map2, mode, (a, b), |a: f64, b: f64| quiet(a / b, [a, b, 0.0]), div), 2),
        "rcp" => match mode {
            RZ => (map1(|a: f64| soft::div(1.0, a, RZ)), 1),
            RM => (map1(|a: f64| soft::div(1.0, a, RM)), 1),
            RP => (map1(|a: f64| soft::div(1.0, a, RP)), 1),
            _ => (map1(|a: f64| quiet(1.0 / a, [a, 0.0, 0.0])), 1),
        },
        "sqrt" => (doubles!(map1, mode, (a), |a: f64| quiet(a.sqrt(), [a, 0.0, 0.0]), sqrt), 1),
        _ => return None,
    })
}

/// The operation of `opcode` over singles, rounded in a direction.
pub(crate) fn single(opcode: &str, mode: u8, ftz: bool) -> Option<(Exec, usize)> {
    Some(match opcode {
        "add" => (directed!(map2, map2_constant, add, mode, ftz), 2),
        "sub" => (directed!(map2, map2_constant, sub, mode, ftz), 2),
        "mul" => (directed!(map2, map2_constant, mul, mode, ftz), 2),
        "fma" | "mad" => (directed!(map3, map3_constant, fma, mode, ftz), 3),
        "div" => (directed!(map2, div, mode, ftz), 2),
        "rcp" => (directed!(map1, rcp, mode, ftz), 1),
        "sqrt" => (directed!(map1, sqrt, mode, ftz), 1),
        _ => return None,
    })
}

/// The operation of `opcode` over `.f32x2`.
fn pair(opcode: &str, mode: u8, ftz: bool) -> Option<(Exec, usize)> {
    Some(match opcode {
        "add" => (directed!(map2, add_pairs, mode, ftz), 2),
        "sub" => (directed!(map2, sub_pairs, mode, ftz), 2),
        "mul" => (directed!(map2, mul_pairs, mode, ftz), 2),
        "fma" => (directed!(map3, fma_pairs, mode, ftz), 3),
        _ => return None,
    })
}

/// The operation of `opcode.approx`, or of `div.full`.
fn approximate(opcode: &str, ty: Type, full: bool, ftz: bool) -> Option<(Exec, usize)> {
    use approximate as f;
    if ty == Type::F64 {
        return match (opcode, ftz) {
            ("rcp", true) => Some((map1(f::rcp64), 1)),
            ("rsqrt", true) => Some((map1(f::rsqrt64), 1)),
            ("rsqrt", false) => Some((map1(|a: f64| quiet(1.0 / a.sqrt(), [a, 0.0, 0.0])), 1)),
            _ => None,
        };
    }
    Some(match (opcode, full, ftz) {
        ("div", false, false) => (map2(f::div::<false>), 2),
        ("div", false, true) => (map2(f::div::<true>), 2),
        ("div", true, false) => (map2(f::div_full::<false>), 2),
        ("div", true, true) => (map2(f::div_full::<true>), 2),
        (_, true, _) => return None,
        ("rcp", _, false) => (map1(f::rcp::<false>), 1),
        ("rcp", _, true) => (map1(f::rcp::<true>), 1),
        ("sqrt", _, false) => (map1(f::sqrt::<false>), 1),
        ("sqrt", _, true) => (map1(f::sqrt::<true>), 1),
        ("rsqrt", _, false) => (map1(f::rsqrt::<false>), 1),
        ("rsqrt", _, true) => (map1(f::rsqrt::<true>), 1),
        ("sin", _, false) => (map1(f::sin::<false>), 1),
        ("sin", _, true) => (map1(f::sin::<true>), 1),
        ("cos", _, false) => (map1(f::cos::<false>), 1),
        ("cos", _, true) => (map1(f::cos::<true>), 1),
        ("lg2", _, false) => (map1(f::lg2::<false>), 1),
        ("lg2", _, true) => (map1(f::lg2::<true>), 1),
        ("ex2", _, false) => (map1(f::ex2::<false>), 1),
        ("ex2", _, true) => (map1(f::ex2::<true>), 1),
        ("tanh", _, false) => (map1(f::tanh), 1),
        _ => return None,
    })
}

/// Whole numbers are no floating-point constants in PTX.
pub(crate) fn refuse_integers(i: &Instruction, b: &Builder<'_>) -> Result<(), CompileError> {
    match i.operands.iter().skip(1).find(|operand| matches!(operand, Operand::Integer { .. })) {
        Some(operand) => {
            Err(b.error(i, format!("`{operand:?}` is an integer, expected a floating-point constant or a register")))
        }
        None => Ok(()),
    }
}

/// `add sub mul fma mad div rcp sqrt rsqrt sin cos lg2 ex2 tanh` over `.f32`, `.f64` and `.f32x2`, and what [`elementary`]
/// has.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    refuse_integers(i, b)?;
    if matches!(i.opcode.as_str(), "neg" | "abs" | "min" | "max" | "copysign" | "testp") {
        return elementary::decode(i, b);
    }
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let mode = take_rounding(&mut modifiers);
    let single_like = ty == Type::F32 || ty == Type::F32x2;
    let approx = mode.is_none() && modifiers.take("approx");
    let full = mode.is_none() && !approx && ty == Type::F32 && modifiers.take("full");
    let ftz = (single_like || approx) && modifiers.take("ftz");
    let sums = matches!(i.opcode.as_str(), "add" | "sub" | "mul" | "fma" | "mad");
    let sat = sums && ty == Type::F32 && modifiers.take("sat");
    modifiers.finish(b)?;
    let optional = matches!(i.opcode.as_str(), "add" | "sub" | "mul");
    let (exec, count) = match (ty, mode) {
        (Type::F32 | Type::F64, None) if approx || full => approximate(&i.opcode, ty, full, ftz),
        (_, None) if !optional => {
            return Err(b.error(i, "a rounding modifier (or .approx) is required"));
        }
        (Type::F32, mode) => single(&i.opcode, mode.unwrap_or(RN), ftz),
        (Type::F64, mode) => double(&i.opcode, mode.unwrap_or(RN)),
        (Type::F32x2, mode) => pair(&i.opcode, mode.unwrap_or(RN), ftz),
        _ => None,
    }
    .ok_or_else(|| b.unknown(i))?;
    let slots = sources(b, i, ty, count)?;
    if sat {
        let result = stages::stage(b, exec, ty, &slots);
        return finish(b, i, map1(saturate), &i.operands[0], ty, &[result]);
    }
    finish(b, i, exec, &i.operands[0], ty, &slots)
}

/// `add sub fma` of a 16-bit format and single precision: `fma.rn.f32.bf16`.
pub(crate) fn decode_mixed(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    refuse_integers(i, b)?;
    let mut modifiers = Modifiers::of(i);
    let narrow = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    if modifiers.take_type() != Some(Type::F32) || !matches!(narrow, Type::F16 | Type::Bf16) {
        return Err(b.unknown(i));
    }
    let optional = matches!(i.opcode.as_str(), "add" | "sub");
    let mode = match take_rounding(&mut modifiers) {
        Some(mode) => mode,
        None if optional => RN,
        None => return Err(b.error(i, "a rounding modifier is required")),
    };
    let sat = modifiers.take("sat");
    modifiers.finish(b)?;
    if !optional && i.opcode != "fma" {
        return Err(b.unknown(i));
    }
    let (exec, count) = single(&i.opcode, mode, false).ok_or_else(|| b.unknown(i))?;
    if i.operands.len() != count + 1 {
        return Err(b.error(i, format!("found {} operands, expected {}", i.operands.len(), count + 1)));
    }
    let widen = || match narrow {
        Type::F16 => super::half::lanes::to_singles::<F16>(false),
        _ => map1(|a: u16| from_bf16(u32::from(a))),
    };
    let mut slots = Vec::with_capacity(3);
    for (position, operand) in i.operands[1..].iter().enumerate() {
        let last = position + 1 == count;
        let slot = b.read(i, operand, if last { Type::F32 } else { narrow })?;
        slots.push(stage_if(b, !last, widen, Type::F32, slot));
    }
    if sat {
        let result = stages::stage(b, exec, Type::F32, &slots);
        return finish(b, i, map1(saturate), &i.operands[0], Type::F32, &[result]);
    }
    finish(b, i, exec, &i.operands[0], Type::F32, &slots)
}

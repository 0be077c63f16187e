//! `cvt` from floating point to integers, and between scalar floating-point types.

use super::{
    super::{
        float::{rounding::*, take_rounding},
        half::lanes::{from_singles, to_singles},
    },
    Chain, integers,
};
use crate::{
    machine::op::{Exec, map1},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// To a whole number, as `mode` says.
macro_rules! whole {
    ($mode:expr, $x:expr) => {
        match $mode {
            RZ => $x.trunc(),
            RM => $x.floor(),
            RP => $x.ceil(),
            _ => $x.round_ties_even(),
        }
    };
}

/// A number that is made whole, then what Rust's conversion with saturation makes of it.
macro_rules! rounded {
    ($mode:expr, $a:ty, $x:ident => $value:expr) => {
        with_rounding!($mode, M => map1(|a: $a| {
            // The conversion itself rounds towards zero.
            let $x = if M == RZ { a } else { whole!(M, a) };
            $value
        }))
    };
}

/// The nearest integer in range, NaN to zero: what `as` does, without a branch.
macro_rules! saturating {
    ($name:ident, $t:ty) => {
        #[inline(always)]
        fn $name(x: f32) -> $t {
            // Beyond the last of the range stands a power of two, which is a single.
            let inside = (x > <$t>::MIN as f32 - 1.0) & (x < <$t>::MAX as f32);
            // SAFETY: zero, or a number whose whole part is in range.
            let value = unsafe { (if inside { x } else { 0.0 }).to_int_unchecked::<$t>() };
            let bound = if x > 0.0 { <$t>::MAX } else { <$t>::MIN };
            let bound = if x.is_nan() { 0 } else { bound };
            if inside { value } else { bound }
        }
    };
}

saturating!(to_i32, i32);
saturating!(to_u32, u32);

/// NaN is zero, except to 64 bits, where only the top bit is set.
fn single_to_integer(to: Type, mode: u8) -> Exec {
    match to {
        Type::U32 => rounded!(mode, f32, x => to_u32(x)),
        Type::S64 => rounded!(mode, f32, x => if x.is_nan() { i64::MIN } else { x as i64 }),
        Type::U64 => rounded!(mode, f32, x => if x.is_nan() { 1 << 63 } else { x as u64 }),
        _ => rounded!(mode, f32, x => to_i32(x)),
    }
}

/// NaN is the number of which only the top bit is set.
fn double_to_integer(to: Type, mode: u8) -> Exec {
    match to {
        Type::U8 => rounded!(mode, f64, x => if x.is_nan() { 1 << 7 } else { x as u8 }),
        Type::S8 => rounded!(mode, f64, x => if x.is_nan() { i8::MIN } else { x as i8 }),
        Type::U16 => rounded!(mode, f64, x => if x.is_nan() { 1 << 15 } else { x as u16 }),
        Type::S16 => rounded!(mode, f64, x => if x.is_nan() { i16::MIN } else { x as i16 }),
        Type::U32 => rounded!(mode, f64, x => if x.is_nan() { 1 << 31 } else { x as u32 }),
        Type::S32 => rounded!(mode, f64, x => if x.is_nan() { i32::MIN } else { x as i32 }),
        Type::U64 => rounded!(mode, f64, x => if x.is_nan() { 1 << 63 } else { x as u64 }),
        _ => rounded!(mode, f64, x => if x.is_nan() { i64::MIN } else { x as i64 }),
    }
}

/// A 16-bit number as a single.
pub(super) fn widen(from: Type) -> Exec {
    match from {
        Type::F16 => to_singles::<F16>(false),
        _ => map1(|a: u16| from_bf16(u32::from(a))),
    }
}

/// `.rni`, `.rzi`, `.rmi` or `.rpi`, if there.
fn take_integral(modifiers: &mut Modifiers<'_>) -> Option<u8> {
    modifiers.take_any(&["rni", "rzi", "rmi", "rpi"]).map(|name| match name {
        "rzi" => RZ,
        "rmi" => RM,
        "rpi" => RP,
        _ => RN,
    })
}

pub(super) fn to_integer(
    i: &Instruction,
    b: &Builder<'_>,
    mut modifiers: Modifiers<'_>,
    chain: &mut Chain,
    from: Type,
    to: Type,
) -> Result<(), CompileError> {
    let mode = take_integral(&mut modifiers).ok_or_else(|| b.error(i, "an integer rounding modifier is required"))?;
    let ftz = from == Type::F32 && modifiers.take("ftz");
    // Out of range is the nearest in range, with .sat and without.
    modifiers.take("sat");
    modifiers.finish(b)?;
    if from == Type::F64 {
        chain.then(double_to_integer(to, mode), to);
        return Ok(());
    }
    chain.then_if(from != Type::F32, || widen(from), Type::F32);
    chain.then_if(ftz, || map1(flush), Type::F32);
    let wide = match (to.bits(), to.is_signed()) {
        (64 | 32, _) => to,
        (_, true) => Type::S32,
        (_, false) => Type::U32,
    };
    chain.then(single_to_integer(wide, mode), wide);
    if wide != to {
        let extended = if to.is_signed() { map1(|a: i32| i64::from(a)) } else { map1(|a: u32| i64::from(a)) };
        chain.then(extended, Type::S64);
        chain.then(integers::saturate_signed(to), to);
    }
    Ok(())
}

/// Into [0, 1].
pub(super) fn saturate_exec(ty: Type) -> Exec {
    match ty {
        Type::F64 => map1(saturate64),
        Type::F16 => map1(|a: u16| if a > 0x7c00 { 0 } else { a.min(0x3c00) }),
        _ => map1(saturate),
    }
}

fn double_to_single(mode: u8) -> Exec {
    with_rounding!(mode, M => map1(|a: f64| canonical(to_single::<M>(a))))
}

fn single_to_half(to: Type, mode: u8) -> Exec {
    if to == Type::F16 && mode == RN {
        from_singles::<F16>(false)
    } else if to == Type::F16 {
        with_rounding!(mode, M => map1(|a: f32| to_f16::<M>(a) as u16))
    } else {
        with_rounding!(mode, M => map1(|a: f32| to_bf16::<M>(a) as u16))
    }
}

/// Infinities of a 16-bit format to its largest number; NaN stays.
#[inline(always)]
pub(super) fn finite<const INFINITY: u16>(a: u16) -> u16 {
    if a & 0x7fff == INFINITY { a - 1 } else { a }
}

/// Negative numbers of a 16-bit format to +0; NaN stays the canonical one.
#[inline(always)]
pub(super) fn relu<const INFINITY: u16>(a: u16) -> u16 {
    if a & 0x7fff > INFINITY {
        0x7fff
    } else if a & 0x8000 != 0 {
        0
    } else {
        a
    }
}

/// To a whole number in the same type.
fn integral(ty: Type, mode: u8) -> Exec {
    match ty {
        Type::F64 => with_rounding!(mode, M => map1(|a: f64| whole!(M, a))),
        _ => with_rounding!(mode, M => map1(|a: f32| whole!(M, a))),
    }
}

pub(super) fn to_real(
    i: &Instruction,
    b: &Builder<'_>,
    mut modifiers: Modifiers<'_>,
    chain: &mut Chain,
    from: Type,
    to: Type,
) -> Result<(), CompileError> {
    let (from_half, to_half) = (matches!(from, Type::F16 | Type::Bf16), matches!(to, Type::F16 | Type::Bf16));
    let same = from == to;
    // A wider type holds every value; both 16-bit formats hold what the other does not.
    let narrows = !same && (to.bits() < from.bits() || from_half && to_half);
    let whole = if same { take_integral(&mut modifiers) } else { None };
    let mode = if narrows { take_rounding(&mut modifiers) } else { None };
    if narrows && mode.is_none() && !(from_half && to_half) {
        return Err(b.error(i, "a rounding modifier is required"));
    }
    let mode = mode.unwrap_or(RN);
    let has_single = from == Type::F32 || to == Type::F32;
    let ftz = has_single && modifiers.take("ftz");
    let clamps = to_half && from == Type::F32 && matches!(mode, RN | RZ);
    let relu_wanted = clamps && modifiers.take("relu");
    let finite_wanted = clamps && modifiers.take("satfinite");
    let sat = to != Type::Bf16 && !relu_wanted && !finite_wanted && modifiers.take("sat");
    modifiers.finish(b)?;

    chain.then_if(ftz && from == Type::F32, || map1(flush), Type::F32);
    if from_half && (!same || whole.is_some()) {
        chain.then(widen(from), Type::F32);
    }
    if let Some(whole) = whole {
        chain.then(integral(to, whole), if to == Type::F64 { to } else { Type::F32 });
        chain.then_if(to == Type::F32, || map1(canonical), Type::F32);
        chain.then_if(to_half, || single_to_half(to, RN), to);
    }
    match (from, to) {
        _ if same => {}
        (Type::F64, Type::F32) => chain.then(double_to_single(mode), to),
        (Type::F64, _) => {
            chain.then(map1(to_single_odd), Type::F32);
            chain.then(single_to_half(to, mode), to);
        }
        (_, Type::F64) => chain.then(map1(|a: f32| f64::from(a)), to),
        (_, Type::F32) => {}
        _ => chain.then(single_to_half(to, mode), to),
    }
    chain.then_if(sat, || saturate_exec(to), to);
    let is_f16 = to == Type::F16;
    chain.then_if(finite_wanted, || if is_f16 { map1(finite::<0x7c00>) } else { map1(finite::<0x7f80>) }, to);
    chain.then_if(relu_wanted, || if is_f16 { map1(relu::<0x7c00>) } else { map1(relu::<0x7f80>) }, to);
    chain.then_if(ftz && to == Type::F32, || map1(flush), to);
    Ok(())
}

//! `cvt` to and from `.ue8m0x2`: powers of two from 2^−127 to 2^127, the scales of block formats.

use super::{
    super::float::{rounding::*, take_rounding},
    direct,
};
use crate::{
    machine::op::{Exec, map1, map2},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// What is not a number; there is no sign and no infinity.
const NAN: u32 = 0xff;

/// The power of two at or below the magnitude, or with `UP` at or above it. What is beyond the largest one becomes NaN,
/// or with `FINITE` the largest.
#[inline(always)]
fn encode<const UP: bool, const FINITE: bool>(x: f32) -> u32 {
    let magnitude = x.to_bits() & 0x7fff_ffff;
    let field = magnitude >> 23;
    // 2^−127 is itself subnormal in single precision; below it nothing is left to round up.
    let between = magnitude & 0x007f_ffff != 0 && magnitude > 0x0040_0000 && magnitude < 0x7f80_0000;
    let code = field + u32::from(UP && between);
    let code = if FINITE { code.min(NAN - 1) } else { code };
    if magnitude > 0x7f80_0000 { NAN } else { code }
}

/// The number's bits in `.bf16`.
#[inline(always)]
fn decode_one(code: u32) -> u32 {
    match code & 0xff {
        0 => 0x0040,
        NAN => NAN16,
        code => code << 7,
    }
}

fn singles<const UP: bool, const FINITE: bool>() -> Exec {
    map2(|a: f32, b: f32| encode::<UP, FINITE>(b) | encode::<UP, FINITE>(a) << 8)
}

fn brains<const UP: bool, const FINITE: bool>() -> Exec {
    map1(|a: u32| {
        encode::<UP, FINITE>(f32::from_bits(a << 16)) | encode::<UP, FINITE>(f32::from_bits(a & 0xffff_0000)) << 8
    })
}

/// `cvt.{rz,rp}{.satfinite}.ue8m0x2.{f32,bf16x2}` and `cvt.rn.bf16x2.ue8m0x2`; the types are off already.
pub(super) fn decode(
    i: &Instruction,
    b: &mut Builder<'_>,
    mut modifiers: Modifiers<'_>,
    to: &str,
    from: &str,
) -> Result<(), CompileError> {
    let mode = take_rounding(&mut modifiers);
    if (to, from) == ("bf16x2", "ue8m0x2") {
        modifiers.finish(b)?;
        if mode != Some(RN) {
            return Err(b.error(i, "`.rn` is required"));
        }
        let exec = map1(|a: u32| decode_one(a) | decode_one(a >> 8) << 16);
        return direct(i, b, exec, Type::Bf16x2, Type::B16, 1);
    }
    let finite = modifiers.take("satfinite");
    modifiers.finish(b)?;
    let up = match mode {
        Some(RZ) => false,
        Some(RP) => true,
        _ => return Err(b.error(i, "`.rz` or `.rp` is required")),
    };
    macro_rules! chosen {
        ($function:ident) => {
            match (up, finite) {
                (false, false) => $function::<false, false>(),
                (false, true) => $function::<false, true>(),
                (true, false) => $function::<true, false>(),
                (true, true) => $function::<true, true>(),
            }
        };
    }
    match from {
        "f32" => direct(i, b, chosen!(singles), Type::B16, Type::F32, 2),
        "bf16x2" => direct(i, b, chosen!(brains), Type::B16, Type::B32, 1),
        _ => Err(b.unknown(i)),
    }
}

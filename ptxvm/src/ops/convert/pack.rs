//! `cvt.pack`: two saturated integers into the low bits of a word, the rest from a third one.

use super::super::float::stages::{finish, sources};
use crate::{
    machine::op::{Exec, map2, map3},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// `a` and `b` in `BITS` each, `c` above them.
#[inline(always)]
fn pack<const BITS: u32, const SIGNED: bool>(a: i32, b: i32, c: u32) -> u32 {
    let (low, high) = if SIGNED { (-(1 << (BITS - 1)), (1 << (BITS - 1)) - 1) } else { (0, (1 << BITS) - 1) };
    let mask = (1u32 << BITS) - 1;
    let part = |x: i32| x.clamp(low, high) as u32 & mask;
    let above = if 2 * BITS < 32 { c << ((2 * BITS) & 31) } else { 0 };
    above | part(a) << BITS | part(b)
}

pub(super) fn decode(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>) -> Result<(), CompileError> {
    if !modifiers.take("sat") {
        return Err(b.error(i, ".sat is required"));
    }
    let three = modifiers.left().len() == 3 && modifiers.take("b32");
    let from = modifiers.take_type();
    let to = modifiers.take_any(&["u16", "s16", "u8", "s8", "u4", "s4", "u2", "s2"]);
    modifiers.finish(b)?;
    if from != Some(Type::S32) {
        return Err(b.unknown(i));
    }
    if !three {
        let exec = match to {
            Some("u16") => map2(|a: i32, b: i32| pack::<16, false>(a, b, 0)),
            Some("s16") => map2(|a: i32, b: i32| pack::<16, true>(a, b, 0)),
            _ => return Err(b.unknown(i)),
        };
        let slots = sources(b, i, Type::S32, 2)?;
        return finish(b, i, exec, &i.operands[0], Type::U32, &slots);
    }
    let exec: Exec = match to {
        Some("u8") => map3(pack::<8, false>),
        Some("s8") => map3(pack::<8, true>),
        Some("u4") => map3(pack::<4, false>),
        Some("s4") => map3(pack::<4, true>),
        Some("u2") => map3(pack::<2, false>),
        Some("s2") => map3(pack::<2, true>),
        _ => return Err(b.unknown(i)),
    };
    let slots = sources(b, i, Type::B32, 3)?;
    finish(b, i, exec, &i.operands[0], Type::U32, &slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_saturated_and_stand_below_the_third() {
        assert_eq!(pack::<16, true>(-40_000, 40_000, 7), 0x8000_7fff);
        assert_eq!(pack::<8, false>(300, -5, 0x1234_5678), 0x5678_ff00);
        assert_eq!(pack::<4, true>(-9, 3, 0xabcd_ef12), 0xcdef_1283);
    }
}

//! `cvt` to and from packed and narrow formats: `.f16x2` and `.bf16x2` of two singles, `.tf32`, and the formats of 8, 6
//! and 4 bits.

use super::{
    super::{
        float::{rounding::*, take_rounding},
        half::lanes::from_singles,
    },
    Chain, direct, reals,
};
use crate::{
    machine::op::{Exec, map1, map2},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// A format of 8 bits or fewer: bits of exponent and mantissa, and how it ends.
trait Small: Copy + 'static {
    const EXPONENT: u32;
    const MANTISSA: u32;
    /// The largest finite magnitude.
    const LARGEST: u32;
    /// What NaN becomes.
    const NAN: u32;
    /// The first magnitude that is NaN; beyond all magnitudes for formats without.
    const FIRST_NAN: u32;
    /// Where the sign stands.
    const SIGN: u32 = Self::EXPONENT + Self::MANTISSA;
    const BIAS: u32 = (1 << (Self::EXPONENT - 1)) - 1;
}

macro_rules! small {
    ($($name:ident $exponent:literal $mantissa:literal $largest:literal $nan:literal $first:literal $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Clone, Copy)]
        struct $name;

        impl Small for $name {
            const EXPONENT: u32 = $exponent;
            const MANTISSA: u32 = $mantissa;
            const LARGEST: u32 = $largest;
            const NAN: u32 = $nan;
            const FIRST_NAN: u32 = $first;
        }
    )*};
}

small! {
    E4m3 4 3 0x7e 0x7f 0x7f "Up to 448, no infinity.";
    E5m2 5 2 0x7b 0x7f 0x7d "Up to 57344, infinity at 0x7c.";
    E2m3 2 3 0x1f 0x1f 0x20 "Up to 7.5; NaN becomes that.";
    E3m2 3 2 0x1f 0x1f 0x20 "Up to 28; NaN becomes that.";
    E2m1 2 1 0x07 0x07 0x08 "Up to 6; NaN becomes that.";
}

/// The nearest number of the format, the largest one for what is beyond; with `RELU` zero for negative ones.
#[inline(always)]
fn encode<S: Small, const RELU: bool>(x: f32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let drop = 23 - S::MANTISSA;
    let least = 128 - S::BIAS;
    // Below the least normal number: a sum whose last bit is the format's smallest step.
    let anchor = (least + drop) << 23;
    let small = (f32::from_bits(magnitude) + f32::from_bits(anchor)).to_bits().wrapping_sub(anchor);
    let odd = magnitude >> drop & 1;
    let normal = ((magnitude + (1 << (drop - 1)) - 1 + odd) >> drop).wrapping_sub((127 - S::BIAS) << S::MANTISSA);
    let value = if magnitude < least << 23 { small } else { normal };
    let value = value.min(S::LARGEST);
    let sign = bits >> 31;
    let signed = if RELU && sign != 0 { 0 } else { value | sign << S::SIGN };
    if magnitude > 0x7f80_0000 { S::NAN } else { signed }
}

/// The number's bits in `.f16`; with `RELU` zero for negative ones.
#[inline(always)]
fn decode_small<S: Small, const RELU: bool>(code: u32) -> u32 {
    let magnitude = code & ((1 << S::SIGN) - 1);
    let negative = code >> S::SIGN & 1;
    if magnitude >= S::FIRST_NAN {
        return NAN16;
    }
    if RELU && negative != 0 {
        return 0;
    }
    let step = f32::from_bits((128 - S::BIAS - S::MANTISSA) << 23);
    let normal = (magnitude << (23 - S::MANTISSA)) + ((127 - S::BIAS) << 23);
    let value = if magnitude >> S::MANTISSA == 0 { magnitude as f32 * step } else { f32::from_bits(normal) };
    let value = if S::FIRST_NAN != 0x7d || magnitude != 0x7c { value } else { f32::INFINITY };
    to_f16::<RN>(value) | negative << 15
}

/// Two singles to a pair: the first becomes the upper part.
fn encode_singles<S: Small>(relu: bool) -> Exec {
    fn pair<S: Small, const RELU: bool>() -> Exec {
        map2(|a: f32, b: f32| encode::<S, RELU>(b) | encode::<S, RELU>(a) << part_bits::<S>())
    }
    if relu { pair::<S, true>() } else { pair::<S, false>() }
}

/// 4 bits lie in 4, 6 and 8 bits in 8.
const fn part_bits<S: Small>() -> u32 {
    if S::SIGN == 3 { 4 } else { 8 }
}

fn encode_halves<S: Small>(relu: bool) -> Exec {
    fn pair<S: Small, const RELU: bool>() -> Exec {
        map1(|a: u32| {
            encode::<S, RELU>(from_f16(a & 0xffff)) | encode::<S, RELU>(from_f16(a >> 16)) << part_bits::<S>()
        })
    }
    if relu { pair::<S, true>() } else { pair::<S, false>() }
}

fn decode_pair<S: Small>(relu: bool) -> Exec {
    fn pair<S: Small, const RELU: bool>() -> Exec {
        map1(|a: u32| decode_small::<S, RELU>(a) | decode_small::<S, RELU>(a >> part_bits::<S>()) << 16)
    }
    if relu { pair::<S, true>() } else { pair::<S, false>() }
}

/// A function of a small format by its name.
macro_rules! of_small {
    ($name:expr, $function:ident, $relu:expr) => {
        match $name {
            "e4m3x2" => Some($function::<E4m3>($relu)),
            "e5m2x2" => Some($function::<E5m2>($relu)),
            "e2m3x2" => Some($function::<E2m3>($relu)),
            "e3m2x2" => Some($function::<E3m2>($relu)),
            "e2m1x2" => Some($function::<E2m1>($relu)),
            _ => None,
        }
    };
}

/// The register a pair of a small format lies in.
fn register_of(name: &str) -> Type {
    if name == "e2m1x2" { Type::B8 } else { Type::B16 }
}

/// Formats that only targets such as `sm_100a` know.
const OF_FAMILY: [&str; 4] = ["e2m3x2", "e3m2x2", "e2m1x2", "ue8m0x2"];

const SMALL: [&str; 5] = ["e4m3x2", "e5m2x2", "e2m3x2", "e3m2x2", "e2m1x2"];

/// `names` are all modifiers in order; the last two are the types.
pub(super) fn decode(
    i: &Instruction,
    b: &mut Builder<'_>,
    mut modifiers: Modifiers<'_>,
    names: &[&str],
) -> Result<(), CompileError> {
    let [.., to, from] = names else { return Err(b.unknown(i)) };
    modifiers.take_any(&[from]);
    modifiers.take_any(&[to]);
    if [to, from].iter().any(|name| OF_FAMILY.contains(name)) && !b.module.has_family_features(100) {
        return Err(b.error(i, "it needs a target with features of its own, such as sm_100a or sm_120f"));
    }
    if modifiers.take("rs") {
        return Err(b.error(i, "stochastic rounding, of targets such as sm_100a alone, is not modelled"));
    }
    match (*to, *from) {
        ("ue8m0x2", from) | ("bf16x2", from @ "ue8m0x2") => super::scale::decode(i, b, modifiers, to, from),
        ("f16x2" | "bf16x2", "f32") => packed(i, b, modifiers, *to == "f16x2"),
        ("tf32", "f32") => tf32(i, b, modifiers),
        (small, "f32" | "f16x2") if SMALL.contains(&small) => {
            let mode = take_rounding(&mut modifiers);
            let finite = modifiers.take("satfinite");
            let relu = modifiers.take("relu");
            modifiers.finish(b)?;
            if mode != Some(RN) || !finite {
                return Err(b.error(i, "`.rn.satfinite` is required"));
            }
            if *from == "f32" {
                let exec = of_small!(small, encode_singles, relu).ok_or_else(|| b.unknown(i))?;
                return direct(i, b, exec, register_of(small), Type::F32, 2);
            }
            if !matches!(small, "e4m3x2" | "e5m2x2") {
                return Err(b.unknown(i));
            }
            let exec = of_small!(small, encode_halves, relu).ok_or_else(|| b.unknown(i))?;
            direct(i, b, exec, register_of(small), Type::B32, 1)
        }
        ("f16x2", small) if SMALL.contains(&small) => {
            let mode = take_rounding(&mut modifiers);
            let relu = modifiers.take("relu");
            modifiers.finish(b)?;
            if mode != Some(RN) {
                return Err(b.error(i, "`.rn` is required"));
            }
            let exec = of_small!(small, decode_pair, relu).ok_or_else(|| b.unknown(i))?;
            direct(i, b, exec, Type::F16x2, register_of(small), 1)
        }
        _ => Err(b.unknown(i)),
    }
}

/// `cvt.{rn,rz}{.relu}{.satfinite}.{f16x2,bf16x2}.f32 d, a, b`: `a` becomes the upper half.
fn packed(
    i: &Instruction,
    b: &mut Builder<'_>,
    mut modifiers: Modifiers<'_>,
    is_f16: bool,
) -> Result<(), CompileError> {
    let mode = take_rounding(&mut modifiers).ok_or_else(|| b.error(i, "a rounding modifier is required"))?;
    let relu = modifiers.take("relu");
    let finite = modifiers.take("satfinite");
    modifiers.finish(b)?;
    let exec = match (is_f16, mode) {
        (true, RN) => from_singles::<F16>(true),
        (true, RZ) => map2(|a: f32, b: f32| to_f16::<RZ>(b) | to_f16::<RZ>(a) << 16),
        (false, RN | RZ) => with_rounding!(mode, M => map2(|a: f32, b: f32| to_bf16::<M>(b) | to_bf16::<M>(a) << 16)),
        _ => return Err(b.error(i, "pairs are rounded by .rn or .rz")),
    };
    if i.operands.len() != 3 {
        return Err(b.error(i, format!("found {} operands, expected 3", i.operands.len())));
    }
    let first = b.read(i, &i.operands[1], Type::F32)?;
    let second = b.read(i, &i.operands[2], Type::F32)?;
    if !relu && !finite {
        return super::finish(b, i, exec, &i.operands[0], Type::B32, &[first, second]);
    }
    let mut chain = Chain::default();
    let pair = super::stage(b, exec, Type::B32, &[first, second]);
    chain.then_if(
        finite,
        || if is_f16 { both(reals::finite::<0x7c00>) } else { both(reals::finite::<0x7f80>) },
        Type::B32,
    );
    chain.then_if(relu, || if is_f16 { both(reals::relu::<0x7c00>) } else { both(reals::relu::<0x7f80>) }, Type::B32);
    chain.emit(i, b, pair, &i.operands[0], Type::B32)
}

/// Applies a function to both halves of a word.
fn both<F: Fn(u16) -> u16 + Copy + 'static>(_: F) -> Exec {
    map1(|a: u32| {
        let f = crate::machine::op::conjure::<F>();
        u32::from(f(a as u16)) | u32::from(f((a >> 16) as u16)) << 16
    })
}

/// Keeps 10 bits of the mantissa; away from zero in halves (`.rna`), to even ones, or cut off.
#[inline(always)]
fn round_tf32<const MODE: u8>(x: f32) -> f32 {
    let bits = x.to_bits();
    let added = match MODE {
        RNA => bits.wrapping_add(0x1000),
        RN => bits.wrapping_add(0xfff + (bits >> 13 & 1)),
        _ => bits,
    };
    canonical(if x.is_nan() { x } else { f32::from_bits(added & !0x1fff) })
}

fn tf32(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>) -> Result<(), CompileError> {
    let away = modifiers.take("rna");
    let mode = if away { Some(RNA) } else { take_rounding(&mut modifiers) };
    let finite = modifiers.take("satfinite");
    let relu = !away && modifiers.take("relu");
    modifiers.finish(b)?;
    let mut chain = Chain::default();
    let exec = match mode {
        Some(RNA) => map1(round_tf32::<RNA>),
        Some(RN) => map1(round_tf32::<RN>),
        Some(RZ) => map1(round_tf32::<RZ>),
        _ => return Err(b.error(i, ".rna, .rn or .rz is required")),
    };
    chain.then(exec, Type::F32);
    chain.then_if(
        finite,
        || {
            map1(|a: f32| {
                let infinite = a.to_bits() & 0x7fff_ffff == 0x7f80_0000;
                f32::from_bits(if infinite { a.to_bits() & 0x8000_0000 | 0x7f7f_e000 } else { a.to_bits() })
            })
        },
        Type::F32,
    );
    chain.then_if(relu, || map1(|a: f32| if a.to_bits() >> 31 != 0 { 0.0 } else { a }), Type::F32);
    let [d, a] = b.operands::<2>(i)?;
    let slot = b.read(i, a, Type::F32)?;
    chain.emit(i, b, slot, d, Type::Tf32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_number_survives_the_way_there_and_back() {
        fn check<S: Small>(name: &str) {
            for code in 0..1u32 << (S::SIGN + 1) {
                let half = decode_small::<S, false>(code);
                let value = from_f16(half);
                if value.is_nan() || value.is_infinite() {
                    continue;
                }
                assert_eq!(encode::<S, false>(value), code, "{name} {code:#x} = {value}");
            }
        }
        check::<E4m3>("e4m3");
        check::<E5m2>("e5m2");
        check::<E2m3>("e2m3");
        check::<E3m2>("e3m2");
        check::<E2m1>("e2m1");
    }

    #[test]
    fn small_numbers_are_the_nearest_ones() {
        assert_eq!(encode::<E4m3, false>(1.0), 0x38);
        assert_eq!(encode::<E4m3, false>(448.0), 0x7e);
        assert_eq!(encode::<E4m3, false>(1e9), 0x7e);
        assert_eq!(encode::<E4m3, false>(-1e9), 0xfe);
        assert_eq!(encode::<E4m3, false>(f32::NAN), 0x7f);
        assert_eq!(encode::<E4m3, true>(-3.0), 0);
        // Halfway between 1 and 1.125: to the even one.
        assert_eq!(encode::<E4m3, false>(1.0625), 0x38);
        assert_eq!(encode::<E4m3, false>(1.1875), 0x3a);
        // Halfway to the smallest number: zero; a little more: that number.
        assert_eq!(encode::<E4m3, false>(0.000_976_562_5), 0);
        assert_eq!(encode::<E4m3, false>(0.000_98), 1);
        assert_eq!(encode::<E5m2, false>(f32::INFINITY), 0x7b);
        assert_eq!(encode::<E2m1, false>(2.5), 0x4);
        assert_eq!(encode::<E2m1, false>(f32::NAN), 0x7);
        assert_eq!(decode_small::<E4m3, false>(0xff), 0x7fff);
        assert_eq!(decode_small::<E5m2, false>(0xfc), 0xfc00);
    }

    #[test]
    fn tf32_keeps_ten_bits() {
        let x = f32::from_bits(0x3f80_1000);
        assert_eq!(round_tf32::<RNA>(x).to_bits(), 0x3f80_2000);
        assert_eq!(round_tf32::<RN>(x).to_bits(), 0x3f80_0000);
        assert_eq!(round_tf32::<RZ>(-x).to_bits(), 0xbf80_0000);
        assert_eq!(round_tf32::<RNA>(f32::NAN).to_bits(), 0x7fff_ffff);
    }
}

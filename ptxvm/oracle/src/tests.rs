//! The exact arithmetic against the processor's own, where both do the same.

use crate::{
    exact::{Rounding, Value},
    format::{BRAIN, DOUBLE, E4M3, E5M2, Format, HALF, SINGLE, TENSOR},
};

/// Patterns that are often special.
fn patterns(bits: u32, count: usize) -> Vec<u64> {
    let mut state = 0x1234_5678_9abc_def0u64;
    (0..count)
        .map(|index| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let random = state ^ state >> 31;
            let random = if bits == 32 { random & 0xffff_ffff } else { random };
            match index % 4 {
                0 => random,
                // Exponents near one, so that sums cancel.
                1 if bits == 32 => random & 0x81ff_ffff | 0x3e00_0000,
                1 => random & 0x803f_ffff_ffff_ffff | 0x3fc0_0000_0000_0000,
                2 => random & (0x807f_ffff_ffff_ffff >> (64 - bits)),
                _ => random & !0xffff,
            }
        })
        .collect()
}

fn same(format: Format, ours: u128, theirs: u64, theirs_is_nan: bool) -> bool {
    if theirs_is_nan { ours == format.canonical_nan() } else { ours == u128::from(theirs) }
}

#[test]
fn f32_rounds_to_nearest_as_the_processor_does() {
    let numbers = patterns(32, 400);
    for (index, &a) in numbers.iter().enumerate() {
        let b = numbers[(index * 7 + 1) % numbers.len()];
        let c = numbers[(index * 13 + 5) % numbers.len()];
        let [x, y, z] = [a, b, c].map(|pattern| SINGLE.decode(u128::from(pattern)));
        let [p, q, r] = [a, b, c].map(|pattern| f32::from_bits(pattern as u32));
        let nearest = Rounding::NearestEven;
        let cases = [
            ("add", x.plus(&y, nearest), p + q),
            ("mul", x.times(&y), p * q),
            ("fma", x.times(&y).plus(&z, nearest), p.mul_add(q, r)),
            ("div", x.over(&y), p / q),
            ("sqrt", x.square_root(), p.sqrt()),
        ];
        for (name, exact, native) in cases {
            let ours = SINGLE.encode(&exact, nearest);
            let native_bits = u64::from(native.to_bits());
            assert!(
                same(SINGLE, ours, native_bits, native.is_nan()),
                "{name} {a:#x} {b:#x} {c:#x}: {ours:#x}, {native_bits:#x}"
            );
        }
    }
}

#[test]
fn f64_rounds_to_nearest_as_the_processor_does() {
    let numbers = patterns(64, 400);
    for (index, &a) in numbers.iter().enumerate() {
        let b = numbers[(index * 7 + 1) % numbers.len()];
        let c = numbers[(index * 13 + 5) % numbers.len()];
        let [x, y, z] = [a, b, c].map(|pattern| DOUBLE.decode(u128::from(pattern)));
        let [p, q, r] = [a, b, c].map(f64::from_bits);
        let nearest = Rounding::NearestEven;
        let cases = [
            ("add", x.plus(&y, nearest), p + q),
            ("mul", x.times(&y), p * q),
            ("fma", x.times(&y).plus(&z, nearest), p.mul_add(q, r)),
            ("div", x.over(&y), p / q),
            ("sqrt", x.square_root(), p.sqrt()),
        ];
        for (name, exact, native) in cases {
            let ours = DOUBLE.encode(&exact, nearest);
            let native_bits = native.to_bits();
            assert!(
                same(DOUBLE, ours, native_bits, native.is_nan()),
                "{name} {a:#x} {b:#x} {c:#x}: {ours:#x}, {native_bits:#x}"
            );
        }
    }
}

#[test]
fn directed_roundings_enclose_the_value_by_neighbours() {
    for &a in &patterns(32, 300) {
        let third = SINGLE.decode(u128::from(a)).over(&Value::integer(3));
        if !matches!(third, Value::Number(_)) {
            continue;
        }
        let down = SINGLE.encode(&third, Rounding::Down);
        let up = SINGLE.encode(&third, Rounding::Up);
        assert!(SINGLE.decode(down).compare(&third).is_some_and(|order| order <= 0), "{a:#x}: {down:#x} is above");
        assert!(SINGLE.decode(up).compare(&third).is_some_and(|order| order >= 0), "{a:#x}: {up:#x} is below");
        let magnitudes = [down & 0x7fff_ffff, up & 0x7fff_ffff];
        assert!(magnitudes[0].abs_diff(magnitudes[1]) <= 1, "{a:#x}: {down:#x} and {up:#x} are no neighbours");
        let inward = SINGLE.encode(&third, Rounding::TowardZero);
        assert!(inward & 0x7fff_ffff == magnitudes[0].min(magnitudes[1]), "{a:#x}: {inward:#x} is not the smaller");
    }
}

#[test]
fn every_pattern_of_the_small_formats_comes_back() {
    for format in [HALF, BRAIN, E4M3, E5M2] {
        for pattern in 0..1u128 << format.bits() {
            let value = format.decode(pattern);
            if !value.is_nan() {
                assert_eq!(format.encode(&value, Rounding::NearestEven), pattern, "{format:?}");
            }
        }
    }
    assert_eq!(TENSOR.encode(&TENSOR.decode(0x3f80_2000), Rounding::TowardZero), 0x3f80_2000);
}

#[test]
fn a_tie_goes_to_even_or_away() {
    let tie = Value::double(1.0 + 2f64.powi(-11));
    assert_eq!(HALF.encode(&tie, Rounding::NearestEven), 0x3c00);
    assert_eq!(HALF.encode(&tie, Rounding::NearestAway), 0x3c01);
    assert_eq!(E4M3.encode_finite(&Value::integer(1000), Rounding::NearestEven), 0x7e);
    assert_eq!(E5M2.encode_finite(&Value::Infinity { negative: true }, Rounding::NearestEven), 0xfb);
}

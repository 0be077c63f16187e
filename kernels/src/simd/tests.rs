use super::*;

/// Writes the results of every vector operation over some lanes, so that tiers can be compared with plain f32 arithmetic.
struct Probe<'a> {
    a: &'a [f32; 16],
    b: &'a [f32; 16],
}

type Columns = Vec<(&'static str, Vec<f32>)>;

impl Kernel for Probe<'_> {
    type Output = Columns;

    #[inline(always)]
    fn run<V: Vector>(self) -> Columns {
        let mut columns = Columns::new();
        for part in 0..16 / V::LANES {
            // SAFETY: both arrays hold 16 values.
            let (a, b) = unsafe {
                (V::load(self.a.as_ptr().add(part * V::LANES)), V::load(self.b.as_ptr().add(part * V::LANES)))
            };
            let results = [
                ("add", a.add(b)),
                ("sub", a.sub(b)),
                ("mul", a.mul(b)),
                ("div", a.div(b)),
                ("max", a.max(b)),
                ("min", a.min(b)),
                ("abs", a.abs()),
                ("copysign", a.copysign(b)),
                ("sqrt", a.abs().sqrt()),
                ("select", a.select_below(b, V::splat(1.0), V::splat(2.0))),
                ("mul_add", a.mul_add(b, V::splat(0.25))),
                ("neg_mul_add", a.neg_mul_add(b, V::splat(0.25))),
            ];
            for (index, (name, value)) in results.into_iter().enumerate() {
                let mut lanes = [0.0; 16];
                // SAFETY: a vector has at most 16 lanes.
                unsafe { value.store(lanes.as_mut_ptr()) };
                if part == 0 {
                    columns.push((name, Vec::new()));
                }
                columns[index].1.extend(&lanes[..V::LANES]);
            }
        }
        columns
    }
}

#[test]
fn every_tier_computes_what_plain_f32_arithmetic_does() {
    let a: [f32; 16] = std::array::from_fn(|i| (i as f32 - 7.3) * 1.7);
    let b: [f32; 16] = std::array::from_fn(|i| ((i * 5 % 16) as f32 - 8.5) * 0.9);
    let plain: [fn(f32, f32) -> f32; 12] = [
        |a, b| a + b,
        |a, b| a - b,
        |a, b| a * b,
        |a, b| a / b,
        f32::max,
        f32::min,
        |a, _| a.abs(),
        f32::copysign,
        |a, _| a.abs().sqrt(),
        |a, b| if a < b { 1.0 } else { 2.0 },
        |a, b| a.mul_add(b, 0.25),
        |a, b| (-a).mul_add(b, 0.25),
    ];
    for isa in Isa::available() {
        for ((name, got), plain) in dispatch(isa, Probe { a: &a, b: &b }).into_iter().zip(plain) {
            for i in 0..16 {
                let expected = plain(a[i], b[i]);
                let exact = !name.ends_with("mul_add");
                let tolerance = if exact { 0.0 } else { 1e-6 * (a[i] * b[i]).abs() };
                assert!((got[i] - expected).abs() <= tolerance, "{} {name} lane {i}", isa.name());
            }
        }
    }
}

/// bf16 → f32 → bf16 by vectors, with a tail.
struct RoundTrip<'a> {
    from: &'a [f32],
    narrow: &'a mut [bf16],
    wide: &'a mut [f32],
}

impl Kernel for RoundTrip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let mut i = 0;
        while i < self.from.len() {
            let count = V::LANES.min(self.from.len() - i);
            // SAFETY: `count` elements from i are inside all three slices.
            unsafe {
                let value = V::load_partial(self.from.as_ptr().add(i), count);
                if count == V::LANES {
                    value.store_bf16(self.narrow.as_mut_ptr().add(i));
                    V::load_bf16(self.narrow.as_ptr().add(i)).store(self.wide.as_mut_ptr().add(i));
                } else {
                    value.store_bf16_partial(self.narrow.as_mut_ptr().add(i), count);
                    let back = V::load_bf16_partial(self.narrow.as_ptr().add(i), count);
                    back.store_partial(self.wide.as_mut_ptr().add(i), count);
                }
            }
            i += count;
        }
    }
}

#[test]
fn bf16_conversion_rounds_to_nearest_even_in_every_tier_and_touches_nothing_beyond() {
    let mut values: Vec<f32> = (0..40_000u32).map(|i| f32::from_bits(0x3f00_0000 + i * 97)).collect();
    values.extend([0.0, -0.0, 1.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 3.0e38, -1.5, 1.003_906_2, 1.011_718_8]);
    values.push(f32::NAN);
    for isa in Isa::available() {
        let mut narrow = vec![bf16::from_f32(7.0); values.len() + 1];
        let mut wide = vec![7.0; values.len() + 1];
        let len = values.len();
        dispatch(isa, RoundTrip { from: &values, narrow: &mut narrow[..len], wide: &mut wide[..len] });
        for (i, value) in values.iter().enumerate() {
            let expected = bf16::from_f32(*value);
            assert!(
                narrow[i] == expected || (value.is_nan() && narrow[i].is_nan()),
                "{} {value}: {} instead of {expected}",
                isa.name(),
                narrow[i]
            );
            assert!(wide[i] == expected.to_f32() || wide[i].is_nan());
        }
        assert_eq!((narrow[len], wide[len]), (bf16::from_f32(7.0), 7.0), "{}", isa.name());
    }
}

//! Every tier against plain Rust.

use super::{Kernel, Simd, dispatch};
use crate::{Element, Isa};
use half::bf16;

const SPECIAL: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    1.003_906_3,
    1.011_718_8,
    -1.003_906_3,
    3.389_531_4e38,
    -3.4e38,
    f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1e-30,
    -7.5,
    0.1,
    65535.0,
];

/// Copies `from` to `to` through vectors, the end through a part.
struct Copy<'a, A, B> {
    from: &'a [A],
    to: &'a mut [B],
}

impl<A: Element, B: Element> Kernel for Copy<'_, A, B> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let len = self.from.len();
        assert_eq!(len, self.to.len());
        let mut i = 0;
        // SAFETY: `i + LANES ≤ len`, and the part ends at `len`.
        unsafe {
            while i + S::LANES <= len {
                S::store(self.to.as_mut_ptr().add(i), S::load(self.from.as_ptr().add(i)));
                i += S::LANES;
            }
            S::store_part(self.to.as_mut_ptr().add(i), S::load_part(self.from.as_ptr().add(i), len - i), len - i);
        }
    }
}

#[test]
fn loads_widen_and_stores_round_as_scalars_do_and_touch_nothing_else() {
    for isa in Isa::available() {
        for len in 0..=48 {
            let wide: Vec<f32> = (0..len).map(|i| SPECIAL[i % 16] * (1.0 + (i / 16) as f32)).collect();
            let mut narrow = vec![bf16::from_f32(77.0); len + 1];
            dispatch(isa, Copy { from: &wide, to: &mut narrow[..len] });
            assert_eq!(narrow[len].to_f32(), 77.0, "{isa:?} wrote behind the end");
            for (w, n) in wide.iter().zip(&narrow) {
                let expected = bf16::from_f32(*w);
                assert!(n.to_bits() == expected.to_bits() || (w.is_nan() && n.is_nan()), "{isa:?}: {w} became {n}");
            }
            let mut back = vec![77.0f32; len + 1];
            dispatch(isa, Copy { from: &narrow[..len], to: &mut back[..len] });
            assert_eq!(back[len], 77.0, "{isa:?} wrote behind the end");
            for (n, b) in narrow.iter().zip(&back[..len]) {
                assert!(n.to_f32().to_bits() == b.to_bits() || n.is_nan() && b.is_nan(), "{isa:?}: {n} became {b}");
            }
        }
    }
}

/// Each operation once, on values where every result is exact.
struct Arithmetic;

impl Kernel for Arithmetic {
    type Output = Vec<(f32, f32)>;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Vec<(f32, f32)> {
        let (a, b): (Vec<f32>, Vec<f32>) = (0..S::LANES).map(|i| (i as f32 - 3.0, 2.5 * i as f32 - 8.0)).unzip();
        let mut out = vec![0.0; S::LANES];
        let mut pairs = Vec::new();
        // SAFETY: all three vectors have LANES values.
        unsafe {
            let (va, vb) = (S::load_f32(a.as_ptr()), S::load_f32(b.as_ptr()));
            let mut check = |v: S::V, f: &dyn Fn(f32, f32) -> f32| {
                S::store_f32(out.as_mut_ptr(), v);
                pairs.extend(out.iter().zip(a.iter().zip(&b)).map(|(&o, (&a, &b))| (o, f(a, b))));
            };
            check(S::splat(4.25), &|_, _| 4.25);
            check(S::add(va, vb), &|a, b| a + b);
            check(S::sub(va, vb), &|a, b| a - b);
            check(S::mul(va, vb), &|a, b| a * b);
            check(S::fma(va, vb, S::splat(0.5)), &|a, b| a * b + 0.5);
            check(S::max(va, vb), &f32::max);
            check(S::min(va, vb), &f32::min);
            pairs.push((S::sum(va), a.iter().sum()));
        }
        pairs
    }
}

#[test]
fn every_tier_adds_multiplies_and_compares_lane_by_lane() {
    for isa in Isa::available() {
        for (i, (found, expected)) in dispatch(isa, Arithmetic).into_iter().enumerate() {
            assert_eq!(found, expected, "{isa:?}, result {i}");
        }
    }
}

//! The arithmetic peak of one core: what a loop reaches that never leaves the registers. Kernels are judged by their share
//! of it, measured in the same run.

use crate::simd::{Kernel, Vector, dispatch};
use crate::{DType, Isa};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// GFLOP/s of one core, multiplications and additions counted apart: the best of some milliseconds of independent
/// operations on registers, of the kind that products of `dtype` use in this tier (FMA, `vdpbf16ps` or AMX tiles).
///
/// # Panics
/// If this CPU lacks `isa`, or for a type that nothing is computed in here.
pub fn gflops(isa: Isa, dtype: DType) -> f64 {
    assert!(isa.is_available(), "{} is not available on this CPU", isa.name());
    match (isa, dtype) {
        (_, DType::F16 | DType::U8) => panic!("the CPU kernels do not compute in {dtype:?}"),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        (Isa::Amx, DType::Bf16) => best_of(|steps| unsafe { crate::gemm::amx_peak(steps) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available.
        (Isa::Avx512Bf16, DType::Bf16) => best_of(|steps| unsafe { crate::gemm::dot_peak(steps) }),
        _ => best_of(|steps| dispatch(isa, Fma { steps })),
    }
}

/// The best rate over several short runs of `run(steps)`, which returns how many operations it did.
fn best_of(run: impl Fn(usize) -> f64) -> f64 {
    const STEPS: usize = 20_000;
    let start = Instant::now();
    let mut best: f64 = 0.0;
    while start.elapsed() < Duration::from_millis(30) {
        let begin = Instant::now();
        let operations = run(black_box(STEPS));
        best = best.max(operations / begin.elapsed().as_secs_f64());
    }
    best / 1e9
}

struct Fma {
    steps: usize,
}

impl Kernel for Fma {
    type Output = f64;

    #[inline(always)]
    fn run<V: Vector>(self) -> f64 {
        const CHAINS: usize = 12;
        let (factor, addend) = (V::splat(black_box(0.999)), V::splat(black_box(0.001)));
        let mut sums = [V::splat(black_box(1.0)); CHAINS];
        for _ in 0..self.steps {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, addend);
            }
        }
        let mut total = V::zero();
        for sum in sums {
            total = total.add(sum);
        }
        black_box(total.reduce_add());
        (self.steps * CHAINS * V::LANES * 2) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_a_positive_peak() {
        for isa in Isa::available() {
            for dtype in [DType::F32, DType::Bf16] {
                assert!(gflops(isa, dtype) > 0.1, "{} {dtype:?}", isa.name());
            }
        }
    }
}

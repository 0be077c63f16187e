//! Plain Rust: four lanes, which compilers turn into the baseline's vectors.

use super::Simd;
use half::bf16;

#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY (all functions): the caller promises what it points to.
impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> [f32; 4] {
        // SAFETY: above.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f32_part(from: *const f32, lanes: usize) -> [f32; 4] {
        // SAFETY: above.
        std::array::from_fn(|i| if i < lanes { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: [f32; 4]) {
        // SAFETY: above.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_f32_part(to: *mut f32, v: [f32; 4], lanes: usize) {
        // SAFETY: above.
        (0..lanes).for_each(|i| unsafe { *to.add(i) = v[i] });
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> [f32; 4] {
        // SAFETY: above.
        std::array::from_fn(|i| unsafe { f32::from_bits(u32::from((*from.add(i)).to_bits()) << 16) })
    }
    #[inline(always)]
    unsafe fn load_bf16_part(from: *const bf16, lanes: usize) -> [f32; 4] {
        // SAFETY: above.
        std::array::from_fn(|i| if i < lanes { unsafe { (*from.add(i)).to_f32() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: [f32; 4]) {
        // SAFETY: above.
        unsafe { Self::store_bf16_part(to, v, 4) }
    }
    #[inline(always)]
    unsafe fn store_bf16_part(to: *mut bf16, v: [f32; 4], lanes: usize) {
        // SAFETY: above.
        (0..lanes).for_each(|i| unsafe { *to.add(i) = bf16::from_f32(v[i]) });
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 4]) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
}

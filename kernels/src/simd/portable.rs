//! Plain Rust; the compiler turns the loops into whatever baseline vectors the target has.

use super::Vector;
use crate::{Element, bf16};

const LANES: usize = 8;

/// Eight lanes in an array.
#[derive(Clone, Copy)]
pub(super) struct Lanes([f32; LANES]);

impl Lanes {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

/// 2^exponent for whole numbers in −126..=127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

// SAFETY of the memory functions below: each touches the lanes its contract in `Vector` names.
impl Vector for Lanes {
    const LANES: usize = LANES;
    const FUSED: bool = false;
    /// Of 16 registers with four lanes each, as on x86-64.
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises LANES reads.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller promises `count` reads.
        lanes[..count].copy_from_slice(unsafe { std::slice::from_raw_parts(from, count) });
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises LANES writes.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        for (i, lane) in self.0.into_iter().take(count).enumerate() {
            // SAFETY: the caller promises `count` writes.
            unsafe { to.add(i).write(lane) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller promises LANES reads.
        let lanes = unsafe { from.cast::<[bf16; LANES]>().read_unaligned() };
        Self(lanes.map(Element::to_f32))
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const bf16, count: usize) -> Self {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().take(count).enumerate() {
            // SAFETY: the caller promises `count` reads.
            *lane = unsafe { from.add(i).read() }.to_f32();
        }
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: the caller promises LANES writes.
        unsafe { to.cast::<[bf16; LANES]>().write_unaligned(self.0.map(<bf16 as Element>::from_f32)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(self, to: *mut bf16, count: usize) {
        for (i, lane) in self.0.into_iter().take(count).enumerate() {
            // SAFETY: the caller promises `count` writes.
            unsafe { to.add(i).write(<bf16 as Element>::from_f32(lane)) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self) {
        // SAFETY: the caller promises 2·LANES reads.
        let pairs = unsafe { from.cast::<[[bf16; 2]; LANES]>().read_unaligned() };
        (Self(pairs.map(|pair| pair[0].to_f32())), Self(pairs.map(|pair| pair[1].to_f32())))
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(first: Self, second: Self, to: *mut bf16) {
        let pairs: [[bf16; 2]; LANES] =
            std::array::from_fn(|i| [first.0[i], second.0[i]].map(<bf16 as Element>::from_f32));
        // SAFETY: the caller promises 2·LANES writes.
        unsafe { to.cast::<[[bf16; 2]; LANES]>().write_unaligned(pairs) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Not `f32::mul_add`: without FMA instructions that is a library call per lane.
        self.mul(factor).add(addend)
    }
    #[inline(always)]
    fn neg_mul_add(self, factor: Self, addend: Self) -> Self {
        addend.sub(self.mul(factor))
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(f32::sqrt)
    }
    #[inline(always)]
    fn ldexp(self, exponent: Self) -> Self {
        // In two steps, so that results down to the denormals and up to infinity come out.
        self.zip(exponent, |a, e| {
            let e = e as i32;
            a * power_of_two(e >> 1) * power_of_two(e - (e >> 1))
        })
    }
    #[inline(always)]
    fn lookup(table: &[f32; 32], index: Self) -> Self {
        index.map(|i| table[i.to_bits() as usize % 32])
    }
    #[inline(always)]
    fn select_below(self, bound: Self, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < bound.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

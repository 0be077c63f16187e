//! Products element by element, through the layouts of fragments as the manual gives them. Obviously right, and slow.

use crate::ptx::ast::Type;
use half::{bf16, f16};
use std::collections::HashMap;

/// A product: types of d, a, b, c; rows and depth (columns are 8).
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) types: [Type; 4],
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) and: Option<bool>,
    pub(super) saturate: bool,
}

/// Bits of an element in a register.
fn bits(ty: Type) -> usize {
    if ty == Type::Tf32 { 32 } else { ty.bits() as usize }
}

/// Element `index` of a lane's fragment, counted over its registers from the lowest bits up.
fn element(registers: &[[u32; 32]], ty: Type, lane: usize, index: usize) -> u32 {
    let side = 32 / bits(ty);
    let word = registers[index / side][lane] >> (index % side * bits(ty));
    if bits(ty) == 32 { word } else { word & ((1 << bits(ty)) - 1) }
}

/// The value of a float of 8 bits.
fn quarter(byte: u32, exponent_bits: i32) -> f32 {
    let mantissa_bits = 7 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = (byte >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
    let mantissa = (byte & ((1 << mantissa_bits) - 1)) as f32 / (1 << mantissa_bits) as f32;
    let sign = if byte & 0x80 != 0 { -1.0 } else { 1.0 };
    let largest = (1 << exponent_bits) - 1;
    let magnitude = match exponent_bits {
        4 if byte & 0x7f == 0x7f => f32::NAN,
        5 if exponent == largest && mantissa == 0.0 => f32::INFINITY,
        5 if exponent == largest => f32::NAN,
        _ if exponent == 0 => mantissa * 2f32.powi(1 - bias),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - bias),
    };
    sign * magnitude
}

fn float(word: u32, ty: Type) -> f32 {
    match ty {
        Type::F16 => f16::from_bits(word as u16).to_f32(),
        Type::Bf16 => bf16::from_bits(word as u16).to_f32(),
        Type::Tf32 => f32::from_bits(word & !0x1fff),
        Type::E4m3 => quarter(word, 4),
        Type::E5m2 => quarter(word, 5),
        _ => f32::from_bits(word),
    }
}

fn integer(word: u32, ty: Type) -> i64 {
    let bits = ty.bits();
    if ty.is_signed() && word >> (bits - 1) & 1 != 0 { i64::from(word) - (1 << bits) } else { i64::from(word) }
}

/// Row and k of an element of `a`.
pub(super) fn place_in_a(p: &Product, lane: usize, index: usize) -> (usize, usize) {
    let side = 32 / bits(p.types[1]);
    let (register, within) = (index / side, index % side);
    let (group, thread) = (lane / 4, lane % 4);
    if p.m == 8 {
        (group, register * 4 * side + thread * side + within)
    } else {
        (group + register % 2 * 8, register / 2 * 4 * side + thread * side + within)
    }
}

/// k and column of an element of `b`.
pub(super) fn place_in_b(p: &Product, lane: usize, index: usize) -> (usize, usize) {
    let side = 32 / bits(p.types[2]);
    let (register, within) = (index / side, index % side);
    (register * 4 * side + lane % 4 * side + within, lane / 4)
}

/// Row and column of an accumulator.
pub(super) fn place_in_c(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + index / 2 * 8, lane % 4 * 2 + index % 2)
}

/// Registers of a fragment of so many elements in all.
pub(super) fn registers(elements: usize, ty: Type) -> usize {
    elements * bits(ty) / 32 / 32
}

/// `d = a · b + c`.
pub(super) fn multiply(p: &Product, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Vec<[u32; 32]> {
    let [d_type, a_type, b_type, c_type] = p.types;
    let collect = |registers: &[[u32; 32]], ty: Type, place: &dyn Fn(usize, usize) -> (usize, usize)| {
        let count = registers.len() * 32 / bits(ty);
        let all = (0..32).flat_map(|lane| (0..count).map(move |index| (lane, index)));
        all.map(|(lane, index)| (place(lane, index), element(registers, ty, lane, index))).collect::<HashMap<_, _>>()
    };
    let a = collect(a, a_type, &|lane, index| place_in_a(p, lane, index));
    let b = collect(b, b_type, &|lane, index| place_in_b(p, lane, index));
    let c = collect(c, c_type, &place_in_c);
    let mut d = vec![[0u32; 32]; registers(p.m * 8, d_type)];
    for lane in 0..32 {
        for index in 0..p.m * 8 / 32 {
            let (row, column) = place_in_c(lane, index);
            let pairs = (0..p.k).map(|k| (a[&(row, k)], b[&(k, column)]));
            let start = c[&(row, column)];
            let word = if d_type == Type::S32 {
                let products = pairs.map(|(x, y)| match p.and {
                    Some(true) => i64::from(x & y),
                    Some(false) => i64::from(x ^ y),
                    None => integer(x, a_type) * integer(y, b_type),
                });
                let sum = i64::from(start as i32) + products.sum::<i64>();
                let sum = if p.saturate { sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { sum };
                sum as u32
            } else {
                let sum =
                    pairs.fold(float(start, c_type), |sum, (x, y)| float(x, a_type).mul_add(float(y, b_type), sum));
                if d_type == Type::F16 {
                    let half = f16::from_f32(sum);
                    u32::from(if half.is_nan() { 0x7fff } else { half.to_bits() })
                } else if sum.is_nan() {
                    0x7fff_ffff
                } else {
                    sum.to_bits()
                }
            };
            let side = 32 / bits(d_type);
            d[index / side][lane] |= word << (index % side * bits(d_type));
        }
    }
    d
}

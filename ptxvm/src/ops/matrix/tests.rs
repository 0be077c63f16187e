//! Products of every type and instruction set against the reference.

use super::{
    decode::kind_of,
    double::{self, Doubles},
    kernel::{Multiply, Packed, Register, Request, Single, Sums},
    product::{self, Bits, Brain, Bytes, Half, Nibbles, Quarter, Tensor},
    quads,
    reference::{self, Product},
    transpose::{transpose, transpose_plainly},
    vector::Portable,
};
use crate::{machine::op::Slot, ptx::ast::Type};

/// Numbers that repeat from run to run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// A register full of elements: any bits, or numbers of like size so that sums do not drown.
    fn register(&mut self, ty: Type, wild: bool) -> [u32; 32] {
        std::array::from_fn(|_| {
            let word = self.next();
            match ty {
                _ if wild => word,
                Type::F16 => word & 0x83ff_83ff | 0x3800_3800 | word >> 3 & 0x0400_0400,
                Type::Bf16 => word & 0x807f_807f | 0x3f00_3f00 | word >> 3 & 0x0080_0080,
                Type::Tf32 | Type::F32 => word & 0x807f_ffff | 0x3f00_0000,
                _ => word,
            }
        })
    }
}

/// All instruction sets of this machine.
#[derive(Clone, Copy, Debug)]
enum Set {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

fn sets() -> Vec<Set> {
    let mut sets = vec![Set::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            sets.push(Set::Avx2);
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            sets.push(Set::Avx512);
        }
    }
    sets
}

type Compute = fn(Set, &mut [Register], &[Slot], Request, &mut [Register]);

fn compute<P: product::Product, C: Sums, D: Sums, const S: usize, const H: usize>(
    set: Set,
    registers: &mut [Register],
    slots: &[Slot],
    request: Request,
    results: &mut [Register],
) {
    let (registers, results) = (registers.as_ptr().cast::<u8>(), results.as_mut_ptr());
    // SAFETY: there are results enough for every number that is asked for.
    let target = |number, _| unsafe { results.add(number).cast::<u32>() };
    // SAFETY: slots are offsets into the registers, there are results enough, and the sets are this machine's.
    unsafe {
        match set {
            Set::Portable => Multiply::<P, C, D, S, H>::compute::<Portable>(registers, slots, request, target),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Multiply::<P, C, D, S, H>::compute::<super::x86::Words8>(registers, slots, request, target),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => Multiply::<P, C, D, S, H>::compute::<super::x86::Words16>(registers, slots, request, target),
        }
    }
}

fn check<P: product::Product, C: Sums, D: Sums, const S: usize, const H: usize>(p: Product) {
    let [d_type, a_type, b_type, c_type] = p.types;
    let mut random = Random(0x5eed + p.k as u64 + p.m as u64);
    let run: Compute = compute::<P, C, D, S, H>;
    for round in 0..24 {
        let wild = round % 3 == 2;
        let mut of = |elements: usize, ty: Type| -> Vec<[u32; 32]> {
            (0..reference::registers(elements, ty)).map(|_| random.register(ty, wild)).collect()
        };
        let (a, b) = (of(p.m * p.k, a_type), of(p.k * 8, b_type));
        let mut c = of(p.m * 8, c_type);
        if p.types[0] == Type::S32 {
            // Close to both ends, so that sums overflow.
            c[0] = std::array::from_fn(|lane| if lane % 2 == 0 { i32::MAX as u32 } else { i32::MIN as u32 });
        }
        assert_eq!((a.len(), b.len()), (S * H, S), "{p:?}");
        let expected = reference::multiply(&p, &a, &b, &c);
        let d = vec![[0u32; 32]; expected.len()];
        let mut registers: Vec<Register> =
            d.iter().chain(&a).chain(&b).chain(&c).map(|words| Register(*words)).collect();
        let slots: Vec<Slot> = (0..registers.len() as u32).map(|number| number * 128).collect();
        let request =
            Request { a_kind: kind_of(a_type), b_kind: kind_of(b_type), saturate: p.saturate, rows: 1, columns: 1 };
        for set in sets() {
            let mut results = vec![Register([0xdead_beef; 32]); expected.len()];
            run(set, &mut registers, &slots, request, &mut results);
            for (number, (found, expected)) in results.iter().zip(&expected).enumerate() {
                assert_eq!(found.0, *expected, "register {number}, round {round}, {set:?}, {d_type}, {p:?}");
            }
        }
    }
}

const F32: Type = Type::F32;

fn floats(d: Type, factor: Type, m: usize, k: usize) -> Product {
    Product { types: [d, factor, factor, d], m, k, and: None, saturate: false }
}

#[test]
fn products_of_f16_equal_the_reference_bit_for_bit() {
    check::<Half, Single, Single, 1, 2>(floats(F32, Type::F16, 16, 8));
    check::<Half, Single, Single, 2, 2>(floats(F32, Type::F16, 16, 16));
    check::<Half, Single, Single, 2, 1>(floats(F32, Type::F16, 8, 16));
    check::<Half, Packed, Packed, 1, 2>(floats(Type::F16, Type::F16, 16, 8));
    check::<Half, Packed, Packed, 2, 2>(floats(Type::F16, Type::F16, 16, 16));
    let mixed = |d, c| Product { types: [d, Type::F16, Type::F16, c], m: 16, k: 16, and: None, saturate: false };
    check::<Half, Packed, Single, 2, 2>(mixed(F32, Type::F16));
    check::<Half, Single, Packed, 2, 2>(mixed(Type::F16, F32));
}

#[test]
fn products_of_bf16_equal_the_reference_bit_for_bit() {
    check::<Brain, Single, Single, 1, 2>(floats(F32, Type::Bf16, 16, 8));
    check::<Brain, Single, Single, 2, 2>(floats(F32, Type::Bf16, 16, 16));
    check::<Brain, Single, Single, 2, 1>(floats(F32, Type::Bf16, 8, 16));
}

#[test]
fn products_of_tf32_equal_the_reference_bit_for_bit() {
    check::<Tensor, Single, Single, 1, 2>(floats(F32, Type::Tf32, 16, 4));
    check::<Tensor, Single, Single, 2, 2>(floats(F32, Type::Tf32, 16, 8));
}

#[test]
fn products_of_floats_of_8_bits_equal_the_reference_bit_for_bit() {
    for a in [Type::E4m3, Type::E5m2] {
        for b in [Type::E4m3, Type::E5m2] {
            let p = |d, k| Product { types: [d, a, b, d], m: 16, k, and: None, saturate: false };
            check::<Quarter, Single, Single, 1, 2>(p(F32, 16));
            check::<Quarter, Single, Single, 2, 2>(p(F32, 32));
            check::<Quarter, Packed, Packed, 1, 2>(p(Type::F16, 16));
            check::<Quarter, Packed, Packed, 2, 2>(p(Type::F16, 32));
        }
    }
}

#[test]
fn products_of_integers_equal_the_reference_with_and_without_saturation() {
    for (signed, unsigned, k) in [(Type::S8, Type::U8, 16), (Type::S4, Type::U4, 32)] {
        for a in [signed, unsigned] {
            for b in [signed, unsigned] {
                for saturate in [false, true] {
                    let p = |m, k| Product { types: [Type::S32, a, b, Type::S32], m, k, and: None, saturate };
                    if k == 16 {
                        check::<Bytes, Single, Single, 1, 1>(p(8, k));
                        check::<Bytes, Single, Single, 1, 2>(p(16, k));
                        check::<Bytes, Single, Single, 2, 2>(p(16, 2 * k));
                    } else {
                        check::<Nibbles, Single, Single, 1, 1>(p(8, k));
                        check::<Nibbles, Single, Single, 1, 2>(p(16, k));
                        check::<Nibbles, Single, Single, 2, 2>(p(16, 2 * k));
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_bits_count_ones_of_and_or_xor() {
    let p = |m, k, and| Product {
        types: [Type::S32, Type::B1, Type::B1, Type::S32],
        m,
        k,
        and: Some(and),
        saturate: false,
    };
    check::<Bits<true>, Single, Single, 1, 1>(p(8, 128, true));
    check::<Bits<true>, Single, Single, 2, 2>(p(16, 256, true));
    check::<Bits<false>, Single, Single, 1, 1>(p(8, 128, false));
    check::<Bits<false>, Single, Single, 1, 2>(p(16, 128, false));
    check::<Bits<false>, Single, Single, 2, 2>(p(16, 256, false));
}

/// Eight rows of f64, straight from the manual: `a` and `b` hold element t of row or column g in lane 4g + t.
fn check_double<const S: usize>() {
    let mut random = Random(9);
    let mut register = || -> [u64; 32] {
        std::array::from_fn(|_| f64::from(random.next() as i32).to_bits() ^ u64::from(random.next()))
    };
    let (a, b): ([_; S], [_; S]) = (std::array::from_fn(|_| register()), std::array::from_fn(|_| register()));
    let mut start = [Doubles(register()), Doubles(register())];
    start[1].0[7] = f64::NAN.to_bits() | 1 << 63;
    let (a, columns) = (a.map(Doubles), double::columns(b.each_ref()));
    for set in sets() {
        let mut sums = start;
        let a = a.each_ref().map(|register| &register.0);
        // SAFETY: the sets are this machine's.
        unsafe {
            match set {
                Set::Portable => double::sum_up::<Portable, S>(a, &columns, &mut sums),
                #[cfg(target_arch = "x86_64")]
                Set::Avx2 => double::sum_up::<super::x86::Words8, S>(a, &columns, &mut sums),
                #[cfg(target_arch = "x86_64")]
                Set::Avx512 => double::sum_up::<super::x86::Words16, S>(a, &columns, &mut sums),
            }
        }
        check_sums(set, a, b.each_ref(), &start, &sums);
    }
}

fn check_sums<const S: usize>(
    set: Set,
    a: [&[u64; 32]; S],
    b: [&[u64; 32]; S],
    start: &[Doubles; 2],
    sums: &[Doubles; 2],
) {
    for lane in 0..32 {
        for parity in 0..2 {
            let (row, column) = (lane / 4, lane % 4 * 2 + parity);
            let expected = (0..4 * S).fold(f64::from_bits(start[parity].0[lane]), |sum, k| {
                let (x, y) = (a[k / 4][row * 4 + k % 4], b[k / 4][column * 4 + k % 4]);
                f64::from_bits(x).mul_add(f64::from_bits(y), sum)
            });
            let expected = if expected.is_nan() { 0x7fff_ffff_ffff_ffff } else { expected.to_bits() };
            assert_eq!(sums[parity].0[lane], expected, "lane {lane}, column {column}, {set:?}");
        }
    }
}

#[test]
fn products_of_f64_equal_the_reference_bit_for_bit() {
    check_double::<1>();
    check_double::<2>();
    check_double::<4>();
}

#[test]
fn four_products_of_eight_lanes_follow_the_manual_in_all_layouts() {
    use super::decode::Layout;
    use half::f16;
    let mut random = Random(3);
    let small = |random: &mut Random| f16::from_f32((random.next() % 17) as f32 - 8.0);
    for (a_layout, b_layout) in [
        (Layout::Row, Layout::Row),
        (Layout::Row, Layout::Column),
        (Layout::Column, Layout::Row),
        (Layout::Column, Layout::Column),
    ] {
        for (d_type, c_type) in [(F32, F32), (F32, Type::F16), (Type::F16, Type::F16)] {
            let Some(x) = quads::flags([d_type, Type::F16, Type::F16, c_type], a_layout, b_layout) else {
                panic!("no such product")
            };
            let mut pairs = || {
                std::array::from_fn::<_, 2, _>(|_| {
                    Register(std::array::from_fn(|_| {
                        u32::from(small(&mut random).to_bits()) | u32::from(small(&mut random).to_bits()) << 16
                    }))
                })
            };
            let (a, b) = (pairs(), pairs());
            let one = if c_type == Type::F16 { 0x3c00_3c00 } else { 1f32.to_bits() };
            let c = [Register([one; 32]); 8];
            let mut found = Vec::new();
            for set in sets() {
                let mut d = [Register([0; 32]); 8];
                let [a, b] = [&a, &b].map(|pair| pair.each_ref().map(|register| &register.0));
                let c = c.each_ref().map(|register| &register.0);
                // SAFETY: the sets are this machine's.
                unsafe {
                    match set {
                        Set::Portable => quads::compute::<Portable>(x, a, b, &c, &mut d),
                        #[cfg(target_arch = "x86_64")]
                        Set::Avx2 => quads::compute::<super::x86::Words8>(x, a, b, &c, &mut d),
                        #[cfg(target_arch = "x86_64")]
                        Set::Avx512 => quads::compute::<super::x86::Words16>(x, a, b, &c, &mut d),
                    }
                }
                found.push(d.map(|register| register.0));
            }
            let d = found[0];
            assert!(found.iter().all(|other| *other == d), "instruction sets differ");
            let [a, b] = [a, b].map(|pair| pair.map(|register| register.0));
            let half = |registers: &[[u32; 32]], lane: usize, index: usize| {
                f16::from_bits((registers[index / 2][lane] >> (16 * (index % 2))) as u16).to_f32()
            };
            for quad in 0..4 {
                // Where each lane's elements go, by the manual's tables.
                let (mut left, mut right) = ([[0f32; 4]; 8], [[0f32; 8]; 4]);
                for lane in (0..32usize).filter(|lane| lane % 16 / 4 == quad) {
                    let high = if lane < 16 { 0 } else { 4 };
                    for i in 0..4 {
                        let (row, k) =
                            if a_layout == Layout::Row { (lane % 4 + high, i) } else { (i + high, lane % 4) };
                        left[row][k] = half(&a, lane, i);
                        let (k, column) =
                            if b_layout == Layout::Row { (lane % 4, i + high) } else { (i, lane % 4 + high) };
                        right[k][column] = half(&b, lane, i);
                    }
                }
                for lane in (0..32usize).filter(|lane| lane % 16 / 4 == quad) {
                    let high = if lane < 16 { 0 } else { 4 };
                    for i in 0..8 {
                        let (row, column, found) = if d_type == Type::F16 {
                            (lane % 4 + high, i, half(&d, lane, i))
                        } else {
                            let row = (lane & 1) + (i & 2) + high;
                            (row, (i & 4) + (lane & 2) + (i & 1), f32::from_bits(d[i][lane]))
                        };
                        // Small whole numbers: any order of sums is exact.
                        let expected = 1.0 + (0..4).map(|k| left[row][k] * right[k][column]).sum::<f32>();
                        assert_eq!(found, expected, "quad {quad}, lane {lane}, {i}, {a_layout:?} {b_layout:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn transposing_a_tile_swaps_rows_and_columns() {
    let mut random = Random(1);
    let tile = random.register(Type::B32, true);
    assert_eq!(transpose(&tile), transpose_plainly(&tile));
    assert_eq!(transpose(&transpose(&tile)), tile);
    assert_ne!(transpose(&tile), tile);
}

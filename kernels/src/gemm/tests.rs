//! Every tier against sums in f64.

use super::*;
use crate::bf16;
use crate::gemm::{pack_columns, pack_columns_f32, pack_rows, pack_rows_f32};

/// Small reproducible numbers in −1..1.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn values<T: Element>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::from_f32((self.next() % 2001) as f32 / 1000.0 - 1.0)).collect()
    }
}

/// A random call with everything around A's rows and C's rows poisoned.
fn check_tile<T: Element>(isa: Isa, numbers: &mut Numbers, m: usize, n: usize, k: usize) {
    let (gap_a, gap_c) = (numbers.below(3), numbers.below(3));
    let (lda, accumulate) = (k + gap_a, numbers.below(2) == 1);
    let start = numbers.below(n.div_ceil(PANEL)) * PANEL;
    let columns = start..start + 1 + numbers.below(n - start);
    let ldc = columns.len() + gap_c;
    let weight: Vec<T> = numbers.values(n * k);
    let wide: Vec<f32> = weight.iter().map(|w| w.to_f32()).collect();
    let packed = PackedMatrix::pack::<T>(isa, n, k, &wide);
    let mut a = vec![T::from_f32(f32::NAN); m * lda - gap_a];
    for i in 0..m {
        a[i * lda..i * lda + k].copy_from_slice(&numbers.values::<T>(k));
    }
    let mut c = vec![f32::NAN; m * ldc];
    for i in 0..m {
        c[i * ldc..i * ldc + columns.len()].copy_from_slice(&numbers.values::<f32>(columns.len()));
    }
    let before = c.clone();
    tile(isa, m, &a, lda, packed.view(), columns.clone(), &mut c, ldc, accumulate);
    for i in 0..m {
        for j in 0..columns.len() {
            let mut sum = if accumulate { f64::from(before[i * ldc + j]) } else { 0.0 };
            for l in 0..k {
                sum += f64::from(a[i * lda + l].to_f32()) * f64::from(wide[(columns.start + j) * k + l]);
            }
            let got = f64::from(c[i * ldc + j]);
            let bound = 1e-7 * (k as f64 + 8.0);
            assert!(
                (got - sum).abs() <= bound,
                "{} {:?} m {m} n {n} k {k} {columns:?} accumulate {accumulate} at ({i}, {j}): {got} instead of {sum}",
                isa.name(),
                T::DTYPE
            );
        }
        for j in columns.len()..ldc {
            assert!(c[i * ldc + j].is_nan(), "{} wrote beyond its columns", isa.name());
        }
    }
}

#[test]
fn every_tier_multiplies_odd_shapes_and_stays_inside_them() {
    for isa in Isa::available() {
        let mut numbers = Numbers(7);
        for case in 0..120 {
            let (m, n, k) = (1 + numbers.below(70), 1 + numbers.below(150), 1 + numbers.below(100));
            if case % 2 == 0 {
                check_tile::<f32>(isa, &mut numbers, m, n, k);
            } else {
                check_tile::<bf16>(isa, &mut numbers, m, n, k);
            }
        }
        for (m, n, k) in
            [(1, 1, 1), (49, 96, 32), (33, 48, 600), (8, 64, 1031), (16, 16, 1), (5, 130, 512), (64, 64, 1024)]
        {
            check_tile::<f32>(isa, &mut numbers, m, n, k);
            check_tile::<bf16>(isa, &mut numbers, m, n, k);
        }
    }
}

fn check_packing<T: Element>(isa: Isa, numbers: &mut Numbers) {
    let (n, k) = (1 + numbers.below(80), 1 + numbers.below(80));
    let values: Vec<T> = numbers.values(n * k);
    let wide: Vec<f32> = values.iter().map(|v| v.to_f32()).collect();
    let expected = PackedMatrix::pack::<T>(Isa::Portable, n, k, &wide);
    let (row_stride, column_stride) = (k + numbers.below(5), n + numbers.below(5));
    let mut rows = vec![T::from_f32(f32::NAN); (n - 1) * row_stride + k];
    let mut columns = vec![T::from_f32(f32::NAN); (k - 1) * column_stride + n];
    for i in 0..n {
        for j in 0..k {
            rows[i * row_stride + j] = values[i * k + j];
            columns[j * column_stride + i] = values[i * k + j];
        }
    }
    let widen = |values: &[T]| -> Vec<f32> { values.iter().map(|v| v.to_f32()).collect() };
    for way in 0..4 {
        let mut out = vec![T::from_f32(f32::NAN); packed_len::<T>(n, k)];
        match way {
            0 => pack_rows(isa, n, k, &rows, row_stride, &mut out),
            1 => pack_rows_f32(isa, n, k, &widen(&rows), row_stride, &mut out),
            2 => pack_columns(isa, n, k, &columns, column_stride, &mut out),
            _ => pack_columns_f32(isa, n, k, &widen(&columns), column_stride, &mut out),
        };
        assert_eq!(
            bytemuck::cast_slice::<T, u8>(&out),
            expected.as_bytes(),
            "{} {:?} way {way} [{n}, {k}]",
            isa.name(),
            T::DTYPE
        );
    }
}

#[test]
fn all_ways_of_packing_give_the_same_bytes_in_every_tier() {
    for isa in Isa::available() {
        let mut numbers = Numbers(11);
        for _ in 0..60 {
            check_packing::<f32>(isa, &mut numbers);
            check_packing::<bf16>(isa, &mut numbers);
        }
    }
}

#[test]
fn pieces_of_the_depth_add_up_to_the_whole() {
    let mut numbers = Numbers(13);
    let (m, n, k) = (17, 40, 200);
    let a: Vec<f32> = numbers.values(m * k);
    let packed = PackedMatrix::pack::<f32>(Isa::best(), n, k, &numbers.values::<f32>(n * k));
    let (mut whole, mut pieces) = (vec![0.0; m * n], vec![0.0; m * n]);
    tile(Isa::best(), m, &a, k, packed.view(), 0..n, &mut whole, n, false);
    for range in [0..64, 64..96, 96..200] {
        let start = range.start;
        tile(Isa::best(), m, &a[start..], k, packed.view().depth(range), 0..n, &mut pieces, n, true);
    }
    for (a, b) in whole.iter().zip(&pieces) {
        assert!((a - b).abs() < 1e-4);
    }
}

#[test]
fn shared_bytes_are_checked() {
    let packed = PackedMatrix::pack::<bf16>(Isa::Portable, 20, 33, &vec![0.5; 660]);
    let header = packed.header();
    let len = packed.bytes();
    assert_eq!(Some(len), header.byte_len());
    let mut words = vec![0u32; len / 4 + 2];
    bytemuck::cast_slice_mut::<u32, u8>(&mut words)[4..4 + len].copy_from_slice(packed.as_bytes());
    struct Words(Vec<u32>);
    impl AsRef<[u8]> for Words {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    let memory: SharedBytes = Arc::new(Words(words));
    let shared = PackedMatrix::from_shared(header, Arc::clone(&memory), 4..4 + len);
    assert_eq!(shared.as_ref(), Ok(&packed));
    let from = |header, range| PackedMatrix::from_shared(header, Arc::clone(&memory), range).unwrap_err();
    assert!(matches!(from(header, 4..len), PackedError::Length { .. }));
    assert!(matches!(from(header, 12..12 + len), PackedError::Range { .. }));
    assert!(matches!(from(header, 1..1 + len), PackedError::Alignment { .. }));
    let huge = PackedHeader { n: usize::MAX, k: usize::MAX, dtype: DType::F32 };
    assert!(matches!(from(huge, 0..8), PackedError::Length { expected: None, .. }));
}

//! The inner loops of the labels on x86-64: up to 32 classes stay in registers.
//!
//! A pixel's logits are loaded with −∞ in the lanes beyond the classes, the largest is found across lanes, and the first lane that
//! equals it is the label.

use std::arch::x86_64::*;

/// Most classes that the functions here take.
pub(super) const MOST_CLASSES: usize = 32;

/// AVX-512: two vectors of 16.
pub(super) mod avx512 {
    use super::*;

    const LANES: usize = 16;

    /// Lanes of the two vectors that hold classes.
    fn masks(classes: usize) -> (__mmask16, __mmask16) {
        let all = (1u64 << classes) - 1;
        (all as u16, (all >> LANES) as u16)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(values: &[f32], (low, high): (__mmask16, __mmask16)) -> [__m512; 2] {
        let least = _mm512_set1_ps(f32::NEG_INFINITY);
        assert!(values.len() >= (low.count_ones() + high.count_ones()) as usize);
        let start = values.as_ptr();
        // SAFETY: the masks name only lanes that `values` has, by the assertion; masked-out lanes are not accessed.
        unsafe {
            [_mm512_mask_loadu_ps(least, low, start), _mm512_mask_loadu_ps(least, high, start.wrapping_add(LANES))]
        }
    }

    /// First index of the largest value. `max(value, −∞)` turns a NaN to −∞: of two operands, one NaN, it returns the second.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn first_largest(values: [__m512; 2]) -> u8 {
        let least = _mm512_set1_ps(f32::NEG_INFINITY);
        let values = values.map(|v| _mm512_max_ps(v, least));
        let largest = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(values[0], values[1])));
        let low = _mm512_cmpeq_ps_mask(values[0], largest);
        let high = _mm512_cmpeq_ps_mask(values[1], largest);
        (u32::from(low) | u32::from(high) << LANES).trailing_zeros() as u8
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(in super::super) fn argmax_rows(logits: &[f32], classes: usize, labels: &mut [u8]) {
        let masks = masks(classes);
        for (label, values) in labels.iter_mut().zip(logits.chunks_exact(classes)) {
            *label = first_largest(load(values, masks));
        }
    }

    /// See `interpolate` in the portable code.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(in super::super) fn interpolate(corners: [&[f32]; 4], down: f32, across: &[f32], labels: &mut [u8]) {
        let masks = masks(corners[0].len());
        let mix = |a: [__m512; 2], b: [__m512; 2], weight: f32| {
            let (keep, take) = (_mm512_set1_ps(1.0 - weight), _mm512_set1_ps(weight));
            // Not fused, so that every instruction set gives the same label at a tie. Lanes beyond the classes: −∞·0 is NaN,
            // which `first_largest` turns to −∞ again.
            [0, 1].map(|half| _mm512_add_ps(_mm512_mul_ps(a[half], keep), _mm512_mul_ps(b[half], take)))
        };
        let [upper_left, upper_right, lower_left, lower_right] = corners.map(|values| load(values, masks));
        let left = mix(upper_left, lower_left, down);
        let right = mix(upper_right, lower_right, down);
        for (label, &weight) in labels.iter_mut().zip(across) {
            *label = first_largest(mix(left, right, weight));
        }
    }
}

/// AVX2: four vectors of 8.
pub(super) mod avx2 {
    use super::*;

    const LANES: usize = 8;
    const VECTORS: usize = MOST_CLASSES / LANES;

    /// All ones in the lanes that hold classes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn masks(classes: usize) -> [__m256i; VECTORS] {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        std::array::from_fn(|v| {
            _mm256_cmpgt_epi32(
                _mm256_set1_epi32(classes as i32),
                _mm256_add_epi32(lanes, _mm256_set1_epi32((v * LANES) as i32)),
            )
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(values: &[f32], classes: usize, masks: &[__m256i; VECTORS]) -> [__m256; VECTORS] {
        assert!(classes <= MOST_CLASSES && values.len() >= classes);
        let least = _mm256_set1_ps(f32::NEG_INFINITY);
        std::array::from_fn(|v| {
            // SAFETY: the masks name only lanes below `classes`, which `values` has; masked-out lanes are not accessed.
            let loaded = unsafe { _mm256_maskload_ps(values.as_ptr().wrapping_add(v * LANES), masks[v]) };
            _mm256_blendv_ps(least, loaded, _mm256_castsi256_ps(masks[v]))
        })
    }

    /// As with AVX-512.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn first_largest(values: [__m256; VECTORS]) -> u8 {
        let least = _mm256_set1_ps(f32::NEG_INFINITY);
        let values = values.map(|v| _mm256_max_ps(v, least));
        let pairs = [_mm256_max_ps(values[0], values[1]), _mm256_max_ps(values[2], values[3])];
        let all = _mm256_max_ps(pairs[0], pairs[1]);
        let halves = _mm256_max_ps(all, _mm256_permute2f128_ps::<1>(all, all));
        let quarters = _mm256_max_ps(halves, _mm256_permute_ps::<0b01_00_11_10>(halves));
        let largest = _mm256_max_ps(quarters, _mm256_permute_ps::<0b10_11_00_01>(quarters));
        let equal = values.map(|v| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v, largest)) as u32);
        (equal[0] | equal[1] << LANES | equal[2] << (2 * LANES) | equal[3] << (3 * LANES)).trailing_zeros() as u8
    }

    #[target_feature(enable = "avx2")]
    pub(in super::super) fn argmax_rows(logits: &[f32], classes: usize, labels: &mut [u8]) {
        let masks = masks(classes);
        for (label, values) in labels.iter_mut().zip(logits.chunks_exact(classes)) {
            *label = first_largest(load(values, classes, &masks));
        }
    }

    /// See `interpolate` in the portable code.
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn interpolate(corners: [&[f32]; 4], down: f32, across: &[f32], labels: &mut [u8]) {
        let classes = corners[0].len();
        let masks = masks(classes);
        let mix = |a: [__m256; VECTORS], b: [__m256; VECTORS], weight: f32| -> [__m256; VECTORS] {
            let (keep, take) = (_mm256_set1_ps(1.0 - weight), _mm256_set1_ps(weight));
            std::array::from_fn(|v| _mm256_add_ps(_mm256_mul_ps(a[v], keep), _mm256_mul_ps(b[v], take)))
        };
        let [upper_left, upper_right, lower_left, lower_right] = corners.map(|values| load(values, classes, &masks));
        let left = mix(upper_left, lower_left, down);
        let right = mix(upper_right, lower_right, down);
        for (label, &weight) in labels.iter_mut().zip(across) {
            *label = first_largest(mix(left, right, weight));
        }
    }
}

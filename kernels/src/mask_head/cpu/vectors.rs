//! What the mask head does to its tiles between the products, written over vectors of any instruction set.

use crate::simd::{Kernel, Vector};
use crate::{Act, Element};

/// `out = gelu(norm(sums + bias))` for rows of the bias's length, a multiple of 16; without a norm that step is left out.
pub(super) struct BiasNormGelu<'a, T> {
    /// Overwritten.
    pub(super) sums: &'a mut [f32],
    pub(super) bias: &'a [f32],
    /// γ, β and ε.
    pub(super) norm: Option<(&'a [f32], &'a [f32], f32)>,
    pub(super) out: &'a mut [T],
}

impl<T: Element> Kernel for BiasNormGelu<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { sums, bias, norm, out } = self;
        let width = bias.len();
        assert!(width.is_multiple_of(16) && out.len().is_multiple_of(width) && sums.len() >= out.len());
        assert!(norm.is_none_or(|(gamma, beta, _)| gamma.len() == width && beta.len() == width));
        for (sums, out) in sums.chunks_exact_mut(width).zip(out.chunks_exact_mut(width)) {
            let (sums, out) = (sums.as_mut_ptr(), out.as_mut_ptr());
            // SAFETY: rows and parameters have `width` elements, a multiple of any vector's lanes.
            unsafe {
                let Some((gamma, beta, eps)) = norm else {
                    for i in (0..width).step_by(V::LANES) {
                        let value = V::load(sums.add(i)).add(V::load(bias.as_ptr().add(i)));
                        Act::Gelu.apply(value).store_as(out.add(i));
                    }
                    continue;
                };
                let mut total = V::zero();
                for i in (0..width).step_by(V::LANES) {
                    let value = V::load(sums.add(i)).add(V::load(bias.as_ptr().add(i)));
                    value.store(sums.add(i));
                    total = total.add(value);
                }
                let mean = V::splat(total.reduce_add() / width as f32);
                let mut squares = V::zero();
                for i in (0..width).step_by(V::LANES) {
                    let d = V::load(sums.add(i)).sub(mean);
                    squares = d.mul_add(d, squares);
                }
                let scale = V::splat(1.0 / (squares.reduce_add() / width as f32 + eps).sqrt());
                for i in (0..width).step_by(V::LANES) {
                    let normal = V::load(sums.add(i)).sub(mean).mul(scale);
                    let value = normal.mul_add(V::load(gamma.as_ptr().add(i)), V::load(beta.as_ptr().add(i)));
                    Act::Gelu.apply(value).store_as(out.add(i));
                }
            }
        }
    }
}

/// Index of the largest value of each row, the first of equal ones.
pub(super) struct ArgMax<'a> {
    /// Rows `stride` apart.
    pub(super) logits: &'a [f32],
    /// At most 256.
    pub(super) classes: usize,
    pub(super) stride: usize,
    pub(super) out: &'a mut [u8],
}

/// Row of the largest value of each column, the first of equal ones, as [`class_id`] reads it.
pub(super) struct ArgMaxColumns<'a> {
    /// [classes, columns], as many columns as `out` has.
    pub(super) logits: &'a [f32],
    /// At most 256.
    pub(super) classes: usize,
    /// Whole vectors of 16.
    pub(super) out: &'a mut [f32],
}

/// Added to class ids kept as f32: their low byte is the id then.
const ID_BASE: f32 = 8_388_608.0;

/// The class id that [`ArgMaxColumns`] has left.
pub(super) fn class_id(value: f32) -> u8 {
    value.to_bits() as u8
}

impl Kernel for ArgMaxColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { logits, classes, out } = self;
        let columns = out.len();
        assert!(classes > 0 && columns.is_multiple_of(16) && logits.len() >= classes * columns);
        for i in (0..columns).step_by(V::LANES) {
            // SAFETY: rows have `columns` values, a multiple of any vector's lanes.
            unsafe {
                let logits = logits.as_ptr().add(i);
                let mut most = V::load(logits);
                let mut id = V::splat(ID_BASE);
                for class in 1..classes {
                    let value = V::load(logits.add(class * columns));
                    id = most.select_below(value, V::splat(ID_BASE + class as f32), id);
                    most = most.select_below(value, value, most);
                }
                id.store(out.as_mut_ptr().add(i));
            }
        }
    }
}

/// Minus the lane numbers.
const LANES: [f32; 16] =
    [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -10.0, -11.0, -12.0, -13.0, -14.0, -15.0];

impl Kernel for ArgMax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { logits, classes, stride, out } = self;
        assert!(classes > 0 && (out.is_empty() || (out.len() - 1) * stride + classes <= logits.len()));
        let lowest = V::splat(f32::NEG_INFINITY);
        // SAFETY: sixteen lanes, as many as the largest vector has.
        let lane: V = unsafe { V::load(LANES.as_ptr()) };
        for (row, out) in out.iter_mut().enumerate() {
            let logits = logits[row * stride..].as_ptr();
            let mut most = lowest;
            for i in (0..classes).step_by(V::LANES) {
                // SAFETY: a row has `classes` values.
                most = most.max(unsafe { classes_at(logits, i, classes) });
            }
            let most = V::splat(most.reduce_max());
            let mut first = lowest;
            for i in (0..classes).step_by(V::LANES) {
                let index = lane.sub(V::splat(i as f32));
                // SAFETY: as above.
                let values: V = unsafe { classes_at(logits, i, classes) };
                first = first.max(values.select_below(most, lowest, index));
            }
            *out = -first.reduce_max() as u8;
        }
    }
}

/// Logits from class i on; lanes behind the last class are −∞.
///
/// # Safety
/// `logits` is valid for `classes` reads, i is below `classes`.
#[inline(always)]
unsafe fn classes_at<V: Vector>(logits: *const f32, i: usize, classes: usize) -> V {
    // SAFETY: reads only classes that exist; sixteen lane numbers are as many as the largest vector has.
    unsafe {
        if i + V::LANES <= classes {
            return V::load(logits.add(i));
        }
        let count = classes - i;
        let values = V::load_partial(logits.add(i), count);
        V::load(LANES.as_ptr()).select_below(V::splat(0.5 - count as f32), V::splat(f32::NEG_INFINITY), values)
    }
}

//! The sliding window over packed planes.

use crate::context::Disjoint;
use crate::simd::Vector;
use crate::{Act, Element};

/// One vector of channels of one band.
pub(super) struct Block<'a, const K: usize, const STRIDE: usize> {
    /// [(rows − 1)·STRIDE + K, columns, LANES]
    pub(super) packed: &'a [f32],
    /// Columns of `packed`, (width − 1)·STRIDE + K.
    pub(super) columns: usize,
    /// [K·K, LANES]
    pub(super) weight: &'a [f32],
    /// The first LANES count.
    pub(super) bias: [f32; 16],
    pub(super) act: Act,
    /// Output rows.
    pub(super) rows: usize,
    /// Output columns.
    pub(super) width: usize,
    /// Channels that are there, at most LANES.
    pub(super) lanes: usize,
}

impl<const K: usize, const STRIDE: usize> Block<'_, K, STRIDE> {
    /// Computes and stores the block, pixels `stride` elements apart from `start` on; returns its sum over the pixels.
    ///
    /// Columns are the outer loop: the K input rows under a few columns stay in L1 while the window slides down.
    ///
    /// # Safety
    /// `rows · width` pixels from `start` on are inside `out` and nobody else uses these lanes.
    #[inline(always)]
    pub(super) unsafe fn run<V: Vector, T: Element>(&self, out: &Disjoint<T>, start: usize, stride: usize) -> V {
        assert!(self.columns == (self.width - 1) * STRIDE + K && self.weight.len() == K * K * V::LANES);
        assert!(self.packed.len() == ((self.rows - 1) * STRIDE + K) * self.columns * V::LANES);
        // SAFETY: the caller's promises; columns stay below `width`.
        unsafe {
            let mut sum = V::zero();
            let mut x = 0;
            while x + 8 <= self.width {
                sum = sum.add(self.columns::<V, T, 8>(x, out, start, stride));
                x += 8;
            }
            while x + 2 <= self.width {
                sum = sum.add(self.columns::<V, T, 2>(x, out, start, stride));
                x += 2;
            }
            if x < self.width {
                sum = sum.add(self.columns::<V, T, 1>(x, out, start, stride));
            }
            sum
        }
    }

    /// All rows of the output columns `x..x + P`.
    ///
    /// # Safety
    /// As [`Block::run`]; `x + P ≤ width`.
    #[inline(always)]
    unsafe fn columns<V: Vector, T: Element, const P: usize>(
        &self,
        x: usize,
        out: &Disjoint<T>,
        start: usize,
        stride: usize,
    ) -> V {
        // SAFETY: the caller's promises: window rows and columns are inside `packed`.
        unsafe {
            let bias = V::load(self.bias.as_ptr());
            let mut sum = V::zero();
            for y in 0..self.rows {
                let mut acc = [bias; P];
                let mut row = self.packed.as_ptr().add((y * STRIDE * self.columns + x * STRIDE) * V::LANES);
                let mut weight = self.weight.as_ptr();
                for _ in 0..K {
                    for j in 0..K {
                        let w = V::load(weight.add(j * V::LANES));
                        for (p, acc) in acc.iter_mut().enumerate() {
                            *acc = V::load(row.add((p * STRIDE + j) * V::LANES)).mul_add(w, *acc);
                        }
                    }
                    row = row.add(self.columns * V::LANES);
                    weight = weight.add(K * V::LANES);
                }
                let to = start + (y * self.width + x) * stride;
                let to = out.slice(to, (P - 1) * stride + self.lanes).as_mut_ptr();
                let mut pixels = V::zero();
                for (p, acc) in acc.into_iter().enumerate() {
                    let v = self.act.apply(acc);
                    if self.lanes == V::LANES {
                        v.store_as(to.add(p * stride));
                    } else {
                        v.store_partial_as(to.add(p * stride), self.lanes);
                    }
                    pixels = pixels.add(v);
                }
                sum = sum.add(pixels);
            }
            sum
        }
    }
}

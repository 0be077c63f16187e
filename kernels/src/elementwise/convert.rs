//! Change of element type on its own.

use crate::{Context, DType, Element, context::Disjoint};
use serde::{Deserialize, Serialize};

/// `out[i] = x[i]` in another type, rounded to nearest even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertSpec {
    /// Elements.
    pub len: usize,
    /// Type of x.
    pub from: DType,
    /// Type of out.
    pub to: DType,
}

const TILE: usize = 4096;

/// Converts `x` into `out`, both of the same length.
pub fn convert<X: Element, Y: Element>(context: &mut Context, x: &[X], out: &mut [Y]) {
    assert_eq!(x.len(), out.len(), "a conversion keeps the number of elements");
    let len = x.len();
    let out = Disjoint::new(out);
    context.parallel(len.div_ceil(TILE), 0, |tile, _| {
        let begin = tile * TILE;
        let count = TILE.min(len - begin);
        // SAFETY: tiles do not overlap.
        let part = unsafe { out.slice(begin, count) };
        part.iter_mut().zip(&x[begin..begin + count]).for_each(|(y, x)| *y = Y::from_f32(x.to_f32()));
    });
}

//! The numbers of a problem, for our kernels and for libtorch alike.

use proptest::prelude::*;
use segface::weights::seeded_values;
use segface_kernels::Element;
use tch::{Kind, Tensor};

/// How the values of a problem are spread. What hides in one shows in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Mean 0, variance 1.
    Unit,
    /// Mean 8, variance 1: cancellation in variances computed as E`[x²]` − E`[x]`².
    Offset,
    /// Mean 0, variance 1e-6: a layer norm's ε of 1e-5 or 1e-6 decides the result.
    Tiny,
    /// One value in 61 is 30 times the others: a softmax saturates, a row is dominated by one element.
    Outliers,
}

/// Values drawn for one problem: a pure function of seed, spread and operand name.
#[derive(Debug, Clone)]
pub struct Values {
    seed: u32,
    spread: Spread,
}

/// Any values. Shrinks to [`Spread::Unit`].
pub fn values() -> impl Strategy<Value = Values> {
    let spread = prop_oneof![
        3 => Just(Spread::Unit),
        1 => Just(Spread::Offset),
        1 => Just(Spread::Tiny),
        1 => Just(Spread::Outliers),
    ];
    (any::<u32>().no_shrink(), spread).prop_map(|(seed, spread)| Values { seed, spread })
}

/// Values of mean 0 and variance 1 only, for operators whose result is meaningless on others.
pub fn unit_values() -> impl Strategy<Value = Values> {
    any::<u32>().no_shrink().prop_map(|seed| Values { seed, spread: Spread::Unit })
}

impl Values {
    /// An activation: values of this problem's spread, rounded to `T` so that all sides compute with the same numbers.
    pub fn input<T: Element>(&self, name: &str, shape: &[usize]) -> Operand {
        self.operand::<T>(name, shape, |i, v| match self.spread {
            Spread::Unit => v,
            Spread::Offset => v + 8.0,
            Spread::Tiny => v * 1e-3,
            Spread::Outliers if i % 61 == 7 => v * 30.0,
            Spread::Outliers => v,
        })
    }

    /// A weight: variance `scale²` whatever the spread, rounded to `T`. For a product over k values, `1/√k` keeps the
    /// result's variance.
    pub fn weight<T: Element>(&self, name: &str, shape: &[usize], scale: f64) -> Operand {
        self.operand::<T>(name, shape, |_, v| v * scale as f32)
    }

    /// A norm's or layer scale's factor: within 1 ± 0.3, rounded to `T`.
    pub fn factor<T: Element>(&self, name: &str, shape: &[usize]) -> Operand {
        self.operand::<T>(name, shape, |_, v| 1.0 + 0.17 * v)
    }

    /// `value` makes each element from its index and a uniform number of mean 0 and variance 1.
    fn operand<T: Element>(&self, name: &str, shape: &[usize], value: impl Fn(usize, f32) -> f32) -> Operand {
        let uniform = seeded_values(&format!("{name}/{}", self.seed), shape.iter().product());
        Operand::from_values::<T>(shape, uniform.iter().enumerate().map(|(i, u)| value(i, u * 3f32.sqrt())))
    }
}

/// An operand of a problem: a shape and f32 values, exact in the precision it was made for.
#[derive(Debug, Clone)]
pub struct Operand {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Operand {
    /// The given values, rounded to `T`. Panics unless they fill `shape`.
    pub fn from_values<T: Element>(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Operand {
        let values: Vec<f32> = values.into_iter().map(|v| T::from_f32(v).to_f32()).collect();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values to fill {shape:?}");
        Operand { shape: shape.to_vec(), values }
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values in row-major order.
    pub fn f32(&self) -> &[f32] {
        &self.values
    }

    /// The values in row-major order as elements of `T`.
    pub fn elements<T: Element>(&self) -> Vec<T> {
        self.values.iter().map(|&v| T::from_f32(v)).collect()
    }

    /// As a tensor of its shape.
    pub fn tensor(&self, kind: Kind) -> Tensor {
        let shape: Vec<i64> = self.shape.iter().map(|&n| n as i64).collect();
        Tensor::from_slice(&self.values).view(shape.as_slice()).to_kind(kind)
    }

    /// An operand [N, H, W, C] as a tensor [N, C, H, W].
    pub fn nchw(&self, kind: Kind) -> Tensor {
        to_nchw(&self.tensor(kind))
    }
}

/// [N, H, W, C] to [N, C, H, W].
pub fn to_nchw(x: &Tensor) -> Tensor {
    x.permute([0, 3, 1, 2]).contiguous()
}

/// [N, C, H, W] to [N, H, W, C].
pub fn to_nhwc(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous()
}

/// Elements of a kernel's result, widened.
pub fn widen<T: Element>(elements: &[T]) -> Vec<f32> {
    elements.iter().map(|e| e.to_f32()).collect()
}

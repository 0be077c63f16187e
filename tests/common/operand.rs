//! The numbers of a problem, for our kernels and for libtorch alike.

use crate::seeded::uniform;
use proptest::prelude::*;
use segface_kernels::Element;
use tch::{Kind, Tensor};

/// How the values of a problem are spread. What hides in one shows in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Mean 0, variance 1.
    Unit,
    /// Mean 8, variance 1: cancellation in variances computed as E[x²] − E[x]².
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
        let values = self.unit(name).enumerate().map(|(i, v)| match self.spread {
            Spread::Unit => v,
            Spread::Offset => v + 8.0,
            Spread::Tiny => v * 1e-3,
            Spread::Outliers if i % 61 == 7 => v * 30.0,
            Spread::Outliers => v,
        });
        Operand::new::<T>(shape, values)
    }

    /// A weight: variance `scale²` whatever the spread, rounded to `T`. For a product over k values, `1/√k` keeps the
    /// result's variance.
    pub fn weight<T: Element>(&self, name: &str, shape: &[usize], scale: f64) -> Operand {
        Operand::new::<T>(shape, self.unit(name).map(|v| v * scale))
    }

    /// A norm's or layer scale's factor: 1 ± 0.3, rounded to `T`.
    pub fn factor<T: Element>(&self, name: &str, shape: &[usize]) -> Operand {
        Operand::new::<T>(shape, self.unit(name).map(|v| 1.0 + 0.3 * v / 3f64.sqrt()))
    }

    /// Uniform, mean 0, variance 1.
    fn unit(&self, name: &str) -> impl Iterator<Item = f64> {
        uniform(&format!("{name}/{}", self.seed)).map(|u| u * 3f64.sqrt())
    }
}

/// An operand of a problem: a shape and f32 values, exact in the precision it was made for.
#[derive(Debug, Clone)]
pub struct Operand {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Operand {
    /// The first values of `values` that fill `shape`, rounded to `T`.
    pub fn new<T: Element>(shape: &[usize], values: impl Iterator<Item = f64>) -> Operand {
        let count = shape.iter().product();
        let values: Vec<f32> = values.take(count).map(|v| T::from_f32(v as f32).to_f32()).collect();
        assert_eq!(values.len(), count, "values to fill {shape:?}");
        Operand { shape: shape.to_vec(), values }
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

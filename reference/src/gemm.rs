//! Matrix product and what may follow it: `norm(residual + scale ⊙ act(x·Wᵀ + b))`.

use tch::Tensor;

/// A function applied to each element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `x·Φ(x)` with the exact normal distribution function (erf), not the tanh approximation.
    Gelu,
    /// `x·sigmoid(x)`
    Silu,
    /// `x·relu6(x + 3)/6`
    HardSwish,
    /// `1/(1 + e^−x)`
    Sigmoid,
    /// `relu6(x + 3)/6`
    HardSigmoid,
}

impl Activation {
    /// Applies the function to each element of `x`, any shape.
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Activation::Identity => x.shallow_clone(),
            Activation::Relu => x.relu(),
            Activation::Gelu => x.gelu("none"),
            Activation::Silu => x.silu(),
            Activation::HardSwish => x.hardswish(),
            Activation::Sigmoid => x.sigmoid(),
            Activation::HardSigmoid => x.hardsigmoid(),
        }
    }
}

/// `x·Wᵀ + b`: `x` [..., in], `weight` [out, in], `bias` [out].
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    x.linear(weight, bias)
}

/// What follows the product, in the order it is applied. Absent parts are skipped.
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// [out], added to the product.
    pub bias: Option<&'a Tensor>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// [out], multiplied in after the activation (ConvNeXt's layer scale).
    pub scale: Option<&'a Tensor>,
    /// Same shape as the result, added after the scale.
    pub residual: Option<&'a Tensor>,
}

/// `residual + scale ⊙ act(x·Wᵀ + b)`: `x` [..., in], `weight` [out, in], result [..., out].
pub fn gemm(x: &Tensor, weight: &Tensor, epilogue: &Epilogue) -> Tensor {
    let mut y = linear(x, weight, epilogue.bias);
    if let Some(activation) = epilogue.activation {
        y = activation.apply(&y);
    }
    if let Some(scale) = epilogue.scale {
        y = y * scale;
    }
    if let Some(residual) = epilogue.residual {
        y = residual + y;
    }
    y
}

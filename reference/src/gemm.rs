//! Matrix product and what may follow it.

use crate::{elementwise::activate, layer_norm::layer_norm};
use segface_kernels::Act;
use tch::Tensor;

/// `x·Wᵀ + b`: `x` [..., in], `weight` [out, in], `bias` `[out]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    x.linear(weight, bias)
}

/// What follows a product, in the order of the fields; absent parts are skipped. Channels are the last axis.
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// `[out]`, added.
    pub bias: Option<&'a Tensor>,
    /// Applied after the bias.
    pub act: Act,
    /// `[out]`, multiplied in (ConvNeXt's layer scale).
    pub scale: Option<&'a Tensor>,
    /// γ and β `[out]` and ε of a layer norm (Swin V2's post-norm).
    pub norm: Option<(&'a Tensor, &'a Tensor, f64)>,
    /// The product's shape, added.
    pub residual: Option<&'a Tensor>,
    /// Applied last (ResNet).
    pub act_after: Act,
}

impl Epilogue<'_> {
    /// `y` [..., out] is the bare product.
    pub fn apply(&self, y: &Tensor) -> Tensor {
        let mut y = y.shallow_clone();
        if let Some(bias) = self.bias {
            y = &y + bias;
        }
        y = activate(self.act, &y);
        if let Some(scale) = self.scale {
            y = &y * scale;
        }
        if let Some((weight, bias, eps)) = self.norm {
            y = layer_norm(&y, weight, bias, eps);
        }
        if let Some(residual) = self.residual {
            y = residual + &y;
        }
        activate(self.act_after, &y)
    }
}

/// `epilogue(x·Wᵀ)`: `x` [..., in], `weight` [out, in], result [..., out].
pub fn gemm(x: &Tensor, weight: &Tensor, epilogue: &Epilogue) -> Tensor {
    epilogue.apply(&linear(x, weight, None))
}

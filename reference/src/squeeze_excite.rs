//! Squeeze-and-excitation: each channel scaled by a gate computed from the means of all channels.

use crate::elementwise::activate;
use segface_kernels::Act;
use tch::Tensor;

/// The two 1×1 convolutions of the gate.
#[derive(Debug)]
pub struct SqueezeExcite {
    /// [S, C, 1, 1]
    pub fc1_weight: Tensor,
    /// `[S]`
    pub fc1_bias: Tensor,
    /// [C, S, 1, 1]
    pub fc2_weight: Tensor,
    /// `[C]`
    pub fc2_bias: Tensor,
}

/// `x ⊙ gate(fc2(inner(fc1(mean over H and W of x))))`, `x` [N, C, H, W].
///
/// MobileNetV3: inner ReLU, gate hard-sigmoid. EfficientNetV2: inner SiLU, gate sigmoid.
pub fn squeeze_excite(x: &Tensor, p: &SqueezeExcite, inner: Act, gate: Act) -> Tensor {
    let mean = x.adaptive_avg_pool2d([1, 1]);
    let squeezed = activate(inner, &crate::conv::conv(&mean, &p.fc1_weight, Some(&p.fc1_bias), 1, 0));
    x * activate(gate, &crate::conv::conv(&squeezed, &p.fc2_weight, Some(&p.fc2_bias), 1, 0))
}

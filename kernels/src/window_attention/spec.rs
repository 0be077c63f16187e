//! What the kernel means.

use crate::gemm::PackedMatrix;
use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// One attention branch of a Swin block, in place: `x += branch(x)`.
///
/// V1 (`WindowKind::V1`): `branch = proj(attend(qkv(LN(x))))`; q scaled by 1/√32.
/// V2 (`WindowKind::V2`): `branch = LN(proj(attend(qkv(x))))`; q and k normalised to length one per head (ε 1e-12), scores times
/// `exp(min(logit_scale, ln 100))` per head.
///
/// The map is zero-padded at the bottom and right to a multiple of `window` *after* LN (so a padded token has q = k = v =
/// the qkv bias) and padded tokens are attended to, unmasked. It is rolled by −`shift` per axis, cut into windows, and the
/// result is rolled back and cropped. With a shift, pairs of tokens of different regions of the rolled map get an additive
/// −100 (not −∞). `bias[head, query, key]` is added before the mask. Softmax in f32.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowAttentionSpec {
    /// Images.
    pub batch: usize,
    /// Height and width of the map (not padded).
    pub input: [usize; 2],
    /// Channels C = 32·heads.
    pub channels: usize,
    /// Heads, 32 wide each.
    pub heads: usize,
    /// Window side: 7 (V1) or 8 (V2).
    pub window: usize,
    /// Roll per axis: 0, or window / 2. Already dropped on an axis that one window covers.
    pub shift: [usize; 2],
    /// V1 or V2.
    pub kind: WindowKind,
    /// ε of the layer norm, 1e-5.
    pub eps: f32,
}

impl WindowAttentionSpec {
    /// Geometry of the windows.
    pub fn plan(&self) -> WindowPlan {
        WindowPlan { input: self.input, window: self.window, shift: self.shift }
    }

    /// Floating-point operations, two per multiply-add, of qkv product, scores, mixing and projection for the tokens there
    /// are: padded tokens have no query and their keys and values are constants.
    pub fn flops(&self) -> usize {
        self.flops_of(self.batch * self.input[0] * self.input[1])
    }

    /// As [`WindowAttentionSpec::flops`], but padded tokens are computed like all others, as published.
    pub fn padded_flops(&self) -> usize {
        self.flops_of(self.batch * self.plan().padded().iter().product::<usize>())
    }

    fn flops_of(&self, tokens: usize) -> usize {
        let keys = self.window * self.window;
        tokens * self.channels * (8 * self.channels + 4 * keys)
    }

    /// Bytes read and written once each: x (twice), weights, and the f32 biases.
    pub fn bytes(&self, dtype: DType) -> usize {
        let x = self.batch * self.input[0] * self.input[1] * self.channels;
        let bias = self.heads * self.window.pow(4) + 6 * self.channels;
        (2 * x + 4 * self.channels * self.channels) * dtype.size() + bias * size_of::<f32>()
    }
}

/// Which Swin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowKind {
    /// Pre-norm, scaled dot product.
    V1,
    /// Post-norm, cosine.
    V2,
}

/// Operands of one call. `qkv_bias` of V2 comes with its k third zeroed by the compiler.
pub struct WindowAttentionOperands<'a, T: Element> {
    /// γ and β of the norm, `[C]` each.
    pub norm: (&'a [f32], &'a [f32]),
    /// [3C, C]; output order: q of all heads, k of all heads, v of all heads.
    pub qkv_weight: &'a PackedMatrix,
    /// `[3C]`
    pub qkv_bias: &'a [f32],
    /// Factor on q·k per head, `[heads]`: 1/√32, or V2's exp(min(logit_scale, ln 100)).
    pub score_scale: &'a [f32],
    /// [heads, window², window²]: query, key.
    pub bias: &'a [f32],
    /// [C, C]
    pub proj_weight: &'a PackedMatrix,
    /// `[C]`
    pub proj_bias: &'a [f32],
    /// [batch, h, w, C], read and overwritten.
    pub x: &'a mut [T],
}

/// Geometry of the windows of one map, shared by the fused kernel, its un-fused parts and the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowPlan {
    /// Height and width of the map.
    pub input: [usize; 2],
    /// Window side.
    pub window: usize,
    /// Effective roll per axis.
    pub shift: [usize; 2],
}

impl WindowPlan {
    /// The published rule: the shift of an axis is dropped when one window covers that axis's padded size.
    pub fn new(input: [usize; 2], window: usize, shift: usize) -> Self {
        let shift = input.map(|side| if window >= side.next_multiple_of(window) { 0 } else { shift });
        Self { input, window, shift }
    }

    /// Height and width after padding.
    pub fn padded(&self) -> [usize; 2] {
        self.input.map(|side| side.next_multiple_of(self.window))
    }

    /// Windows down and across.
    pub fn windows(&self) -> [usize; 2] {
        self.padded().map(|side| side / self.window)
    }

    /// Where position `i` (0..window²) of window (wy, wx) lies in the map: `Some(pixel)` or `None` for padding.
    pub fn source(&self, window_y: usize, window_x: usize, i: usize) -> Option<usize> {
        let [height, width] = self.padded();
        let y = (window_y * self.window + i / self.window + self.shift[0]) % height;
        let x = (window_x * self.window + i % self.window + self.shift[1]) % width;
        (y < self.input[0] && x < self.input[1]).then_some(y * self.input[1] + x)
    }

    /// Region (0..9) of position `i` of a window in the rolled map: pairs of different regions are masked with −100. All zero
    /// without a shift.
    pub fn region(&self, window_y: usize, window_x: usize, i: usize) -> u8 {
        let [height, width] = self.padded();
        let axis = |position: usize, side: usize, shift: usize| -> u8 {
            if shift == 0 || position < side - self.window {
                0
            } else if position < side - shift {
                1
            } else {
                2
            }
        };
        let y = axis(window_y * self.window + i / self.window, height, self.shift[0]);
        let x = axis(window_x * self.window + i % self.window, width, self.shift[1]);
        y * 3 + x
    }
}

/// Un-fused part: x [batch, h, w, C] → windows [batch·windows, window², C], zeros where the padded map has no token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowGatherSpec {
    /// Images.
    pub batch: usize,
    /// Geometry.
    pub plan: WindowPlan,
    /// Channels.
    pub channels: usize,
}

impl WindowGatherSpec {
    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        let pixels = self.plan.input.iter().product::<usize>() + self.plan.padded().iter().product::<usize>();
        self.batch * pixels * self.channels * dtype.size()
    }
}

/// Operands of one call.
pub struct WindowGatherOperands<'a, T: Element> {
    /// [batch, h, w, C]
    pub x: &'a [T],
    /// `[C]`, written where the padded map has no token; zeros if absent.
    pub fill: Option<&'a [f32]>,
    /// [batch·windows, window², C]
    pub out: &'a mut [T],
}

/// Un-fused part, the inverse: windows [batch·windows, window², C] → x [batch, h, w, C], padding dropped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowScatterSpec {
    /// Images.
    pub batch: usize,
    /// Geometry.
    pub plan: WindowPlan,
    /// Channels.
    pub channels: usize,
}

impl WindowScatterSpec {
    /// Bytes read and written once each, padding left out when reading.
    pub fn bytes(&self, dtype: DType) -> usize {
        2 * self.batch * self.plan.input.iter().product::<usize>() * self.channels * dtype.size()
    }
}

/// Operands of one call.
pub struct WindowScatterOperands<'a, T: Element> {
    /// [batch·windows, window², C]
    pub x: &'a [T],
    /// [batch, h, w, C]
    pub out: &'a mut [T],
}

/// Un-fused part: attention inside each window, qkv [batch·windows, window², 3C] → [batch·windows, window², C]; scores, bias and
/// mask as in [`WindowAttentionSpec`]. Constants: score_scale `[heads]`, bias [heads, window², window²].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WindowCoreSpec {
    /// Images.
    pub batch: usize,
    /// Geometry (for the mask).
    pub plan: WindowPlan,
    /// Channels C = 32·heads.
    pub channels: usize,
    /// Heads.
    pub heads: usize,
    /// V1 or V2 (which normalises q and k).
    pub kind: WindowKind,
}

impl WindowCoreSpec {
    fn tokens(&self) -> usize {
        self.batch * self.plan.padded().iter().product::<usize>()
    }

    /// Floating-point operations, two per multiply-add, of scores and mixing; padded tokens are tokens.
    pub fn flops(&self) -> usize {
        4 * self.tokens() * self.plan.window * self.plan.window * self.channels
    }

    /// Bytes read and written once each: qkv, result, and the f32 position bias.
    pub fn bytes(&self, dtype: DType) -> usize {
        4 * self.tokens() * self.channels * dtype.size() + self.heads * self.plan.window.pow(4) * size_of::<f32>()
    }
}

/// Operands of one call.
pub struct WindowCoreOperands<'a, T: Element> {
    /// [batch·windows, window², 3C]: q of all heads, k of all heads, v of all heads, biases added.
    pub qkv: &'a [T],
    /// Factor on q·k per head, `[heads]`.
    pub score_scale: &'a [f32],
    /// [heads, window², window²]: query, key.
    pub bias: &'a [f32],
    /// [batch·windows, window², C]
    pub out: &'a mut [T],
}

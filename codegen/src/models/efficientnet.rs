//! torchvision's `efficientnet_v2_m` (Tan & Le, "EfficientNetV2", 2021).

use super::{ConvNorm, conv_norm};
use crate::builder::Builder;
use crate::ir::ValueId;
use segface_kernels::Act::{Identity, Sigmoid, Silu};

const EPS: f32 = 1e-3;

/// A stage: fused blocks or not, expansion, output width, blocks, stride of the first.
const STAGES: [(bool, usize, usize, usize, usize); 7] = [
    (true, 1, 24, 3, 1),
    (true, 4, 48, 5, 2),
    (true, 4, 80, 5, 2),
    (false, 4, 160, 7, 2),
    (false, 6, 176, 14, 1),
    (false, 6, 304, 18, 2),
    (false, 6, 512, 5, 1),
];

/// Taps: features 2, 3, 5 and 8, the last one the 1×1 convolution to 1280 channels.
pub(super) fn taps(b: &mut Builder, input: ValueId) -> [ValueId; 4] {
    let mut x = conv_norm(b, "backbone.0", input, 24, ConvNorm { side: 3, stride: 2, act: Silu, eps: EPS });
    let mut taps = Vec::new();
    for (i, (fused, expansion, out, depth, first_stride)) in STAGES.into_iter().enumerate() {
        for block in 0..depth {
            let name = format!("backbone.{}.{block}.block", i + 1);
            let stride = if block == 0 { first_stride } else { 1 };
            let residual = x;
            let width = b.channels(x);
            x = match (fused, expansion) {
                (true, 1) => plain(b, &name, x, out, stride),
                (true, _) => fused_block(b, &name, x, width * expansion, out, stride),
                (false, _) => mobile_block(b, &name, x, width * expansion, out, stride),
            };
            if stride == 1 && width == out {
                x = b.add(&format!("{name}.add"), x, residual);
            }
        }
        if [2, 3, 5].contains(&(i + 1)) {
            taps.push(x);
        }
    }
    let last = conv_norm(b, "backbone.8", x, 1280, ConvNorm { side: 1, stride: 1, act: Silu, eps: EPS });
    [taps[0], taps[1], taps[2], last]
}

/// FusedMBConv without expansion: one 3×3 convolution.
fn plain(b: &mut Builder, name: &str, x: ValueId, out: usize, stride: usize) -> ValueId {
    conv_norm(b, &format!("{name}.0"), x, out, ConvNorm { side: 3, stride, act: Silu, eps: EPS })
}

/// FusedMBConv: 3×3 expansion, 1×1 projection.
fn fused_block(b: &mut Builder, name: &str, x: ValueId, expanded: usize, out: usize, stride: usize) -> ValueId {
    let x = conv_norm(b, &format!("{name}.0"), x, expanded, ConvNorm { side: 3, stride, act: Silu, eps: EPS });
    conv_norm(b, &format!("{name}.1"), x, out, ConvNorm { side: 1, stride: 1, act: Identity, eps: EPS })
}

/// MBConv: 1×1 expansion, depthwise 3×3, squeeze-excite (a quarter of the block's input width), 1×1 projection.
fn mobile_block(b: &mut Builder, name: &str, x: ValueId, expanded: usize, out: usize, stride: usize) -> ValueId {
    let squeeze = b.channels(x) / 4;
    let x = conv_norm(b, &format!("{name}.0"), x, expanded, ConvNorm { side: 1, stride: 1, act: Silu, eps: EPS });
    let x = b.depthwise(&format!("{name}.1.0"), x, 3, stride, false);
    let x = b.batch_norm(&format!("{name}.1.1"), x, EPS);
    let x = b.act(&format!("{name}.1.2"), Silu, x);
    let x = b.squeeze_excite(&format!("{name}.2"), x, squeeze, [Silu, Sigmoid]);
    conv_norm(b, &format!("{name}.3"), x, out, ConvNorm { side: 1, stride: 1, act: Identity, eps: EPS })
}

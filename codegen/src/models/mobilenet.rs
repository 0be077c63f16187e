//! torchvision's `mobilenet_v3_large` (Howard et al., "Searching for MobileNetV3", 2019, table 1).

use super::{ConvNorm, conv_norm};
use crate::builder::Builder;
use crate::ir::ValueId;
use segface_kernels::Act::{self, HardSigmoid, HardSwish as HS, Identity, Relu as RE};

const EPS: f32 = 1e-3;

/// One row of the paper's table: kernel, expanded width, output width, squeeze-excite, activation, stride.
const BLOCKS: [(usize, usize, usize, bool, Act, usize); 15] = [
    (3, 16, 16, false, RE, 1),
    (3, 64, 24, false, RE, 2),
    (3, 72, 24, false, RE, 1),
    (5, 72, 40, true, RE, 2),
    (5, 120, 40, true, RE, 1),
    (5, 120, 40, true, RE, 1),
    (3, 240, 80, false, HS, 2),
    (3, 200, 80, false, HS, 1),
    (3, 184, 80, false, HS, 1),
    (3, 184, 80, false, HS, 1),
    (3, 480, 112, true, HS, 1),
    (3, 672, 112, true, HS, 1),
    (5, 672, 160, true, HS, 2),
    (5, 960, 160, true, HS, 1),
    (5, 960, 160, true, HS, 1),
];

/// Taps: features 3, 6, 12 and 16, the last one the 1×1 convolution to 960 channels.
pub(super) fn taps(b: &mut Builder, input: ValueId) -> [ValueId; 4] {
    let mut x = conv_norm(b, "backbone.0", input, 16, ConvNorm { side: 3, stride: 2, act: HS, eps: EPS });
    let mut taps = Vec::new();
    for (i, (kernel, expanded, out, squeeze, act, stride)) in BLOCKS.into_iter().enumerate() {
        let name = format!("backbone.{}.block", i + 1);
        let mut layers = (0..).map(|layer| format!("{name}.{layer}"));
        let mut next = || layers.next().unwrap_or_default();
        let residual = x;
        let width = b.channels(x);
        if expanded != width {
            x = conv_norm(b, &next(), x, expanded, ConvNorm { side: 1, stride: 1, act, eps: EPS });
        }
        let layer = next();
        x = b.depthwise(&format!("{layer}.0"), x, kernel, stride, false);
        x = b.batch_norm(&format!("{layer}.1"), x, EPS);
        x = b.act(&format!("{layer}.2"), act, x);
        if squeeze {
            x = b.squeeze_excite(&next(), x, make_divisible(expanded / 4), [RE, HardSigmoid]);
        }
        x = conv_norm(b, &next(), x, out, ConvNorm { side: 1, stride: 1, act: Identity, eps: EPS });
        if stride == 1 && width == out {
            x = b.add(&format!("{name}.add"), x, residual);
        }
        if [3, 6, 12].contains(&(i + 1)) {
            taps.push(x);
        }
    }
    let last = conv_norm(b, "backbone.16", x, 960, ConvNorm { side: 1, stride: 1, act: HS, eps: EPS });
    [taps[0], taps[1], taps[2], last]
}

/// The nearest multiple of 8 that is not more than a tenth smaller.
fn make_divisible(width: usize) -> usize {
    let rounded = ((width + 4) / 8 * 8).max(8);
    if rounded * 10 < width * 9 { rounded + 8 } else { rounded }
}

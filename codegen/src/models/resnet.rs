//! torchvision's `resnet101` (He et al., 2015; "V1.5": the stride is on the 3×3 convolution).

use crate::builder::{Builder, Kernel};
use crate::ir::ValueId;
use segface_kernels::Act::Relu;

const EPS: f32 = 1e-5;

/// Taps: the outputs of the four layers, after their last ReLU.
pub(super) fn taps(b: &mut Builder, input: ValueId) -> [ValueId; 4] {
    let stem = Kernel { side: 7, stride: 2, padding: 3, bias: false };
    let mut x = b.conv("backbone.0", input, 64, stem);
    x = b.batch_norm("backbone.1", x, EPS);
    x = b.act("backbone.2", Relu, x);
    x = b.max_pool("backbone.3", x);
    let mut layer = 3;
    [(3, 64, 1), (4, 128, 2), (23, 256, 2), (3, 512, 2)].map(|(depth, width, first_stride)| {
        layer += 1;
        for block in 0..depth {
            let stride = if block == 0 { first_stride } else { 1 };
            x = bottleneck(b, &format!("backbone.{layer}.{block}"), x, width, stride, block == 0);
        }
        x
    })
}

/// relu(1×1(relu(3×3(relu(1×1(x))))) + shortcut), each convolution with its batch norm; four times wider at the end.
fn bottleneck(b: &mut Builder, name: &str, x: ValueId, width: usize, stride: usize, project: bool) -> ValueId {
    let kernel = |side: usize, stride: usize| Kernel { side, stride, padding: side / 2, bias: false };
    let mut y = x;
    for (i, (out, k)) in
        [(width, kernel(1, 1)), (width, kernel(3, stride)), (4 * width, kernel(1, 1))].iter().enumerate()
    {
        y = b.conv(&format!("{name}.conv{}", i + 1), y, *out, *k);
        y = b.batch_norm(&format!("{name}.bn{}", i + 1), y, EPS);
        if i < 2 {
            y = b.act(&format!("{name}.relu{}", i + 1), Relu, y);
        }
    }
    let mut shortcut = x;
    if project {
        shortcut = b.conv(&format!("{name}.downsample.0"), x, 4 * width, kernel(1, stride));
        shortcut = b.batch_norm(&format!("{name}.downsample.1"), shortcut, EPS);
    }
    let sum = b.add(&format!("{name}.add"), y, shortcut);
    b.act(&format!("{name}.relu"), Relu, sum)
}

//! torchvision's ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022).

use crate::builder::{Builder, Kernel};
use crate::ir::ValueId;
use segface_kernels::Act::Gelu;

const EPS: f32 = 1e-6;

/// Taps: the outputs of the four stages. `width` is that of the first stage and doubles with each.
pub(super) fn taps(b: &mut Builder, input: ValueId, width: usize, depths: [usize; 4]) -> [ValueId; 4] {
    let patch = |side: usize| Kernel { side, stride: side, padding: 0, bias: true };
    let mut x = b.conv("backbone.0.0.0", input, width, patch(4));
    x = b.layer_norm("backbone.0.0.1", x, EPS);
    [0, 1, 2, 3].map(|stage| {
        if stage > 0 {
            let name = format!("backbone.0.{}", 2 * stage);
            x = b.layer_norm(&format!("{name}.0"), x, EPS);
            x = b.conv(&format!("{name}.1"), x, width << stage, patch(2));
        }
        for block in 0..depths[stage] {
            x = conv_block(b, &format!("backbone.0.{}.{block}", 2 * stage + 1), x);
        }
        x
    })
}

/// x + layer_scale · MLP(LN(depthwise 7×7(x))), the MLP four times wider inside.
fn conv_block(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
    let width = b.channels(x);
    let mut y = b.depthwise(&format!("{name}.block.0"), x, 7, 1, true);
    y = b.layer_norm(&format!("{name}.block.2"), y, EPS);
    y = b.linear(&format!("{name}.block.3"), y, 4 * width);
    y = b.act(&format!("{name}.block.4"), Gelu, y);
    y = b.linear(&format!("{name}.block.5"), y, width);
    y = b.layer_scale(&format!("{name}.layer_scale"), y);
    b.add(&format!("{name}.add"), y, x)
}

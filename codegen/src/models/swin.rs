//! torchvision's Swin V1 (Liu et al., "Swin Transformer", 2021) and V2 (Liu et al., "Swin Transformer V2", 2022).

use crate::builder::{Builder, Kernel};
use crate::ir::ValueId;
use crate::weights::Make;
use segface_kernels::Act::Gelu;
use segface_kernels::window_attention::{WindowCoreSpec, WindowKind, WindowPlan};

const EPS: f32 = 1e-5;
const HEAD_DIM: usize = 32;

/// One Swin.
pub(super) struct Swin {
    pub(super) kind: WindowKind,
    /// Width of the first stage; it doubles with each.
    pub(super) width: usize,
    pub(super) depths: [usize; 4],
}

impl Swin {
    fn window(&self) -> usize {
        match self.kind {
            WindowKind::V1 => 7,
            WindowKind::V2 => 8,
        }
    }

    /// Taps: the outputs of the four stages, before patch merging and without the final norm.
    pub(super) fn taps(&self, b: &mut Builder, input: ValueId) -> [ValueId; 4] {
        let mut x = b.conv("backbone.0.0.0", input, self.width, Kernel { side: 4, stride: 4, padding: 0, bias: true });
        x = b.layer_norm("backbone.0.0.2", x, EPS);
        [0, 1, 2, 3].map(|stage| {
            if stage > 0 {
                x = self.patch_merging(b, &format!("backbone.0.{}", 2 * stage), x);
            }
            for block in 0..self.depths[stage] {
                let name = format!("backbone.0.{}.{block}", 2 * stage + 1);
                let shift = if block % 2 == 0 { 0 } else { self.window() / 2 };
                x = self.block(b, &name, x, shift);
            }
            x
        })
    }

    /// V1: LN over the gathered 4C, then linear. V2: linear, then LN over its 2C.
    fn patch_merging(&self, b: &mut Builder, name: &str, x: ValueId) -> ValueId {
        let width = b.channels(x);
        let (norm, reduction) = (format!("{name}.norm"), format!("{name}.reduction"));
        let mut x = b.patch_gather(name, x);
        if self.kind == WindowKind::V1 {
            x = b.layer_norm(&norm, x, EPS);
        }
        x = b.linear_with(&reduction, x, 2 * width, None);
        if self.kind == WindowKind::V2 {
            x = b.layer_norm(&norm, x, EPS);
        }
        x
    }

    /// V1: x + attn(LN(x)), x + mlp(LN(x)). V2: x + LN(attn(x)), x + LN(mlp(x)).
    fn block(&self, b: &mut Builder, name: &str, x: ValueId, shift: usize) -> ValueId {
        let x = self.residual(b, &format!("{name}.norm1"), x, |b, y| self.attention(b, name, y, shift));
        self.residual(b, &format!("{name}.norm2"), x, |b, y| {
            let width = b.channels(y);
            let y = b.linear(&format!("{name}.mlp.0"), y, 4 * width);
            let y = b.act(&format!("{name}.mlp.1"), Gelu, y);
            b.linear(&format!("{name}.mlp.3"), y, width)
        })
    }

    fn residual(
        &self,
        b: &mut Builder,
        norm: &str,
        x: ValueId,
        branch: impl FnOnce(&mut Builder, ValueId) -> ValueId,
    ) -> ValueId {
        let y = match self.kind {
            WindowKind::V1 => {
                let normed = b.layer_norm(norm, x, EPS);
                branch(b, normed)
            }
            WindowKind::V2 => {
                let y = branch(b, x);
                b.layer_norm(norm, y, EPS)
            }
        };
        b.add(&format!("{norm}.add"), y, x)
    }

    fn attention(&self, b: &mut Builder, block: &str, x: ValueId, shift: usize) -> ValueId {
        let name = format!("{block}.attn");
        let [batch, height, width, channels] = b.map(x);
        let heads = channels / HEAD_DIM;
        let window = self.window();
        let plan = WindowPlan::new([height, width], window, shift);

        let bias_name = (format!("{name}.qkv.bias"), vec![3 * channels]);
        let area = window * window;
        let bias_shape = vec![heads, area, area];
        let (qkv_bias, score_scale, score_bias) = match self.kind {
            WindowKind::V1 => {
                let entries = (2 * window - 1) * (2 * window - 1);
                let table = (format!("{name}.relative_position_bias_table"), vec![entries, heads]);
                (
                    b.made(vec![bias_name], Make::Plain, vec![3 * channels]),
                    b.made(vec![], Make::Fill((HEAD_DIM as f64).powf(-0.5), heads), vec![heads]),
                    b.made(vec![table], Make::PositionBiasTable { window }, bias_shape),
                )
            }
            WindowKind::V2 => {
                let scale = (format!("{name}.logit_scale"), vec![heads, 1, 1]);
                let mlp = vec![
                    (format!("{name}.cpb_mlp.0.weight"), vec![512, 2]),
                    (format!("{name}.cpb_mlp.0.bias"), vec![512]),
                    (format!("{name}.cpb_mlp.2.weight"), vec![heads, 512]),
                ];
                (
                    b.made(vec![bias_name], Make::ZeroKeyThird, vec![3 * channels]),
                    b.made(vec![scale], Make::LogitScale, vec![heads]),
                    b.made(mlp, Make::PositionBiasMlp { window }, bias_shape),
                )
            }
        };
        let windows = b.window_gather(&format!("{name}.windows"), x, plan);
        let qkv = b.linear_with(&format!("{name}.qkv"), windows, 3 * channels, Some(qkv_bias));
        let core = WindowCoreSpec { batch, plan, channels, heads, kind: self.kind };
        let attended = b.window_core(&name, qkv, core, score_scale, score_bias);
        let projected = b.linear(&format!("{name}.proj"), attended, channels);
        b.window_scatter(&format!("{name}.map"), projected, batch, plan)
    }
}

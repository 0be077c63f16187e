//! Swin's shifted-window attention, versions 1 and 2, on [N, H, W, C].

use crate::{gemm::linear, mlp::Linear};
use tch::{Device, Kind, Tensor};

/// How similar a query and a key are, before the position bias is added.
#[derive(Debug)]
pub enum Scores {
    /// Version 1: `q·k/√head`.
    ScaledDot,
    /// Version 2: the cosine of q and k times `exp(min(logit_scale, ln 100))`, one scale per head: [heads, 1, 1].
    /// The k third of the qkv bias is taken as zero whatever it holds.
    Cosine(Tensor),
}

/// Weights of one window attention.
#[derive(Debug)]
pub struct WindowAttention {
    /// [3C, C] and `[3C]`: q, k and v, each split over the heads.
    pub qkv: Linear,
    /// [C, C] and `[C]`
    pub proj: Linear,
    /// [heads, w², w²], added to the scores; see [`table_bias`] and [`mlp_bias`].
    pub position_bias: Tensor,
    /// Scaled dot product or cosine.
    pub scores: Scores,
    /// Side w of a window: 7 in version 1, 8 in version 2.
    pub window: i64,
    /// How far the windows are shifted along both axes: 0, or w/2 rounded down.
    pub shift: i64,
}

impl WindowAttention {
    /// Attention within windows, `x` [N, H, W, C], result of the same shape; neither norm nor residual.
    ///
    /// The map is zero-padded at the bottom and right to whole windows; padded tokens take part as keys, unmasked.
    /// Along an axis that one window covers the shift is dropped. Where shifting brings together tokens that were
    /// apart, −100 is added to their score.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        let (_, height, width, _) = x.size4().expect("window attention takes [N, H, W, C]");
        let side = self.window;
        let (rows, columns) = ((height + side - 1) / side, (width + side - 1) / side);
        let (padded_height, padded_width) = (rows * side, columns * side);
        let shift_y = if rows == 1 { 0 } else { self.shift };
        let shift_x = if columns == 1 { 0 } else { self.shift };

        let padded = x.constant_pad_nd([0, 0, 0, padded_width - width, 0, padded_height - height]);
        let rolled = padded.roll([-shift_y, -shift_x], [1, 2]);
        let windows = to_windows(&rolled, side);

        let qkv = linear(&windows, &self.qkv.weight, Some(&self.qkv_bias()));
        let mask = shift_mask(padded_height, padded_width, side, shift_y, shift_x, x.kind());
        let mixed = attend(&qkv, &self.scores, &self.position_bias, &mask);
        let projected = self.proj.apply(&mixed);

        let rolled = from_windows(&projected, side, rows, columns);
        rolled.roll([shift_y, shift_x], [1, 2]).narrow(1, 0, height).narrow(2, 0, width)
    }

    fn qkv_bias(&self) -> Tensor {
        match self.scores {
            Scores::ScaledDot => self.qkv.bias.shallow_clone(),
            Scores::Cosine(_) => {
                let thirds = self.qkv.bias.chunk(3, 0);
                Tensor::cat(&[&thirds[0], &thirds[1].zeros_like(), &thirds[2]], 0)
            }
        }
    }
}

/// Attention within windows, between the projections: `qkv` [N·windows, w², 3C] (q of all heads, k of all heads, v of
/// all heads), `position_bias` [heads, w², w²], `mask` [windows, w², w²] from [`shift_mask`], result [N·windows, w², C].
pub fn attend(qkv: &Tensor, scores: &Scores, position_bias: &Tensor, mask: &Tensor) -> Tensor {
    let heads = position_bias.size()[0];
    let qkv = qkv.unflatten(-1, [3, heads, -1]).permute([2, 0, 3, 1, 4]);
    let (q, k, v) = (qkv.select(0, 0), qkv.select(0, 1), qkv.select(0, 2));
    let similarity = match scores {
        Scores::ScaledDot => {
            let head = q.size()[3] as f64;
            (q * head.powf(-0.5)).matmul(&k.transpose(-2, -1))
        }
        Scores::Cosine(logit_scale) => {
            let cosine = normalize(&q).matmul(&normalize(&k).transpose(-2, -1));
            cosine * logit_scale.clamp_max(100f64.ln()).exp()
        }
    };
    let placed = (similarity + position_bias).unflatten(0, [-1, mask.size()[0]]);
    let scores = (placed + mask.unsqueeze(1)).flatten(0, 1);
    scores.softmax(-1, None).matmul(&v).transpose(1, 2).flatten(2, 3)
}

/// x / max(‖x‖₂, 1e-12) over the last axis.
fn normalize(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [-1], true).clamp_min(1e-12)
}

/// [N, rows·w, columns·w, C] to [N·rows·columns, w², C].
pub fn to_windows(x: &Tensor, side: i64) -> Tensor {
    let x = x.unflatten(1, [-1, side]).unflatten(3, [-1, side]);
    x.permute([0, 1, 3, 2, 4, 5]).flatten(3, 4).flatten(0, 2)
}

/// The inverse of [`to_windows`].
pub fn from_windows(x: &Tensor, side: i64, rows: i64, columns: i64) -> Tensor {
    let x = x.unflatten(0, [-1, rows, columns]).unflatten(3, [side, side]);
    x.permute([0, 1, 3, 2, 4, 5]).flatten(3, 4).flatten(1, 2)
}

/// [windows, w², w²]: −100 where two tokens of a window of the rolled map come from different regions of the padded
/// map, else 0. A shifted axis has three regions: up to the last window, the last window up to the shift, the rest.
pub fn shift_mask(height: i64, width: i64, side: i64, shift_y: i64, shift_x: i64, kind: Kind) -> Tensor {
    let regions = |length: i64, shift: i64| {
        let region = |i: i64| match shift {
            0 => 0,
            _ => i64::from(i >= length - side) + i64::from(i >= length - shift),
        };
        Tensor::from_slice(&(0..length).map(region).collect::<Vec<_>>())
    };
    let region = regions(height, shift_y).view([-1, 1]) * 3 + regions(width, shift_x).view([1, -1]);
    let windows = to_windows(&region.view([1, height, width, 1]), side).squeeze_dim(-1);
    let apart = windows.unsqueeze(1).not_equal_tensor(&windows.unsqueeze(2));
    apart.to_kind(kind) * -100.0
}

/// `[w⁴]`: for each query and key of a window the row of the bias table, `(Δy + w − 1)(2w − 1) + Δx + w − 1` with
/// Δ = query − key.
pub fn relative_position_index(side: i64) -> Tensor {
    let mut index = Vec::new();
    for (qy, qx) in (0..side * side).map(|i| (i / side, i % side)) {
        for (ky, kx) in (0..side * side).map(|i| (i / side, i % side)) {
            index.push((qy - ky + side - 1) * (2 * side - 1) + qx - kx + side - 1);
        }
    }
    Tensor::from_slice(&index)
}

/// [(2w−1)², heads] to [heads, w², w²].
fn gather_bias(table: &Tensor, side: i64) -> Tensor {
    let rows = table.index_select(0, &relative_position_index(side));
    rows.view([side * side, side * side, -1]).permute([2, 0, 1]).contiguous()
}

/// Version 1: position bias [heads, w², w²] from its table [(2w−1)², heads].
pub fn table_bias(table: &Tensor, side: i64) -> Tensor {
    gather_bias(table, side)
}

/// Version 2: position bias [heads, w², w²] = 16·sigmoid(MLP(log-spaced offsets)). `first` is 2 → 512 with bias,
/// `second` [heads, 512] without.
pub fn mlp_bias(first: &Linear, second: &Tensor, side: i64) -> Tensor {
    let table = relative_coords_table(side).to_kind(second.kind());
    let hidden = first.apply(&table).relu();
    gather_bias(&linear(&hidden, second, None), side).sigmoid() * 16.0
}

/// [(2w−1)², 2]: (Δy, Δx) log-spaced, sign(t)·log₂(|t| + 1)/3 with t = 8·Δ/(w − 1). In f32 arithmetic, because the
/// published checkpoints store the table so.
pub fn relative_coords_table(side: i64) -> Tensor {
    let offsets = Tensor::arange_start(1 - side, side, (Kind::Float, Device::Cpu)) / (side - 1) as f64 * 8.0;
    let axis = offsets.sign() * (offsets.abs() + 1.0).log2() / 3.0;
    let size = 2 * side - 1;
    let (y, x) = (axis.view([-1, 1]).expand([size, size], false), axis.view([1, -1]).expand([size, size], false));
    Tensor::stack(&[y, x], -1).view([-1, 2])
}

//! From the gradient of what a recipe made to those of the tensors it was made from.

use super::{Make, Recipe};
use std::borrow::Cow;

impl Recipe {
    /// Gradients of the recipe's tensors, in its order and their published layout, from the gradient `d` of its result; none for tensors
    /// that are no parameters. `tensors` are what [`Recipe::evaluate`] was given. In f64, rounded once, where more than copying is done.
    pub fn adjoint(&self, tensors: &[Cow<'_, [f32]>], d: &[f32]) -> Vec<Option<Vec<f32>>> {
        let shape = |index: usize| &self.tensors[index].shape[..];
        match &self.make {
            Make::Plain => vec![Some(d.to_vec())],
            Make::ConvRows => {
                let &[out, channels, rows, columns] = shape(0) else { return vec![None] };
                let taps = rows * columns;
                let mut result = vec![0.0; d.len()];
                for (o, row) in d.chunks_exact(taps * channels).enumerate().take(out) {
                    for (tap, values) in row.chunks_exact(channels).enumerate() {
                        for (c, value) in values.iter().enumerate() {
                            result[(o * channels + c) * taps + tap] = *value;
                        }
                    }
                }
                vec![Some(result)]
            }
            Make::DepthwiseTaps => {
                let channels = shape(0)[0];
                let taps = d.len() / channels;
                vec![Some((0..d.len()).map(|i| d[i % taps * channels + i / taps]).collect())]
            }
            Make::UpscaleRows => {
                let (inputs, outputs) = (shape(0)[0], shape(0)[1]);
                let mut result = vec![0.0; d.len()];
                for (row, values) in d.chunks_exact(inputs).enumerate() {
                    let (sub_pixel, o) = (row / outputs, row % outputs);
                    for (i, value) in values.iter().enumerate() {
                        result[(i * outputs + o) * 4 + sub_pixel] = *value;
                    }
                }
                vec![Some(result)]
            }
            Make::Repeat(times) => {
                let len = d.len() / times;
                let sum = |i: usize| (0..*times).map(|t| f64::from(d[t * len + i])).sum::<f64>() as f32;
                vec![Some((0..len).map(sum).collect())]
            }
            Make::Stack => {
                let len = d.len() / self.tensors.len().max(1);
                d.chunks_exact(len.max(1)).map(|part| Some(part.to_vec())).collect()
            }
            Make::PositionBiasTable { window } => {
                let heads = shape(0)[1];
                let sums = scatter_bias(*window, heads, d);
                vec![Some(sums.iter().map(|sum| *sum as f32).collect())]
            }
            Make::PositionBiasMlp { window } => {
                position_bias_mlp(*window, &tensors[0], &tensors[1], &tensors[2], d).map(Some).into()
            }
            Make::LogitScale => {
                let slope = |v: f32| if f64::from(v) <= 100f64.ln() { f64::from(v).exp() } else { 0.0 };
                vec![Some(d.iter().zip(&*tensors[0]).map(|(d, v)| (f64::from(*d) * slope(*v)) as f32).collect())]
            }
            Make::ZeroKeyThird => {
                let third = d.len() / 3;
                let mut result = d.to_vec();
                result[third..2 * third].fill(0.0);
                vec![Some(result)]
            }
            Make::FoldedProjection { column } => {
                folded_projection(&tensors[0], &tensors[1], shape(0), shape(1), *column, d).map(Some).into()
            }
            Make::FoldedBias => folded_bias(&tensors[0], &tensors[1..], shape(0), d),
            Make::Fill(..) => Vec::new(),
            Make::PositionalEncoding { .. } => vec![None],
        }
    }
}

/// Sums over all pairs of the same relative position: [heads, w², w²] → [(2w−1)², heads].
fn scatter_bias(window: usize, heads: usize, d: &[f32]) -> Vec<f64> {
    let (side, area) = (2 * window - 1, window * window);
    let mut sums = vec![0.0f64; side * side * heads];
    for head in 0..heads {
        for query in 0..area {
            for key in 0..area {
                let dy = query / window + window - 1 - key / window;
                let dx = query % window + window - 1 - key % window;
                sums[(dy * side + dx) * heads + head] += f64::from(d[(head * area + query) * area + key]);
            }
        }
    }
    sums
}

fn position_bias_mlp(window: usize, weight0: &[f32], bias0: &[f32], weight2: &[f32], d: &[f32]) -> [Vec<f32>; 3] {
    let (side, hidden) = (2 * window - 1, bias0.len());
    let heads = weight2.len() / hidden;
    let sums = scatter_bias(window, heads, d);
    let coordinate = |i: usize| {
        let t = (i as f64 - (window - 1) as f64) * 8.0 / (window - 1) as f64;
        t.signum() * (t.abs() + 1.0).log2() / 3.0
    };
    let (mut d_weight0, mut d_bias0) = (vec![0.0f64; weight0.len()], vec![0.0f64; hidden]);
    let mut d_weight2 = vec![0.0f64; weight2.len()];
    let (mut active, mut d_active) = (vec![0.0f64; hidden], vec![0.0f64; hidden]);
    for (index, d_row) in sums.chunks_exact(heads).enumerate() {
        let (y, x) = (coordinate(index / side), coordinate(index % side));
        for (j, value) in active.iter_mut().enumerate() {
            let sum = f64::from(weight0[2 * j]) * y + f64::from(weight0[2 * j + 1]) * x + f64::from(bias0[j]);
            *value = sum.max(0.0);
        }
        d_active.fill(0.0);
        for (head, d) in d_row.iter().enumerate() {
            let weights = &weight2[head * hidden..(head + 1) * hidden];
            let sum: f64 = weights.iter().zip(&active).map(|(w, a)| f64::from(*w) * a).sum();
            let gate = 1.0 / (1.0 + (-sum).exp());
            let d_sum = d * 16.0 * gate * (1.0 - gate);
            for j in 0..hidden {
                d_weight2[head * hidden + j] += d_sum * active[j];
                d_active[j] += d_sum * f64::from(weights[j]);
            }
        }
        for j in 0..hidden {
            if active[j] > 0.0 {
                d_weight0[2 * j] += d_active[j] * y;
                d_weight0[2 * j + 1] += d_active[j] * x;
                d_bias0[j] += d_active[j];
            }
        }
    }
    [d_weight0, d_bias0, d_weight2].map(|sums| sums.iter().map(|sum| *sum as f32).collect())
}

/// M = F·W: dF = dM·Wᵀ, dW = Fᵀ·dM, F being the fusion's columns from `column` on; the others' gradient is zero here.
fn folded_projection(
    fusion: &[f32],
    projection: &[f32],
    shape: &[usize],
    projected: &[usize],
    column: usize,
    d: &[f32],
) -> [Vec<f32>; 2] {
    let (row_len, j, k) = (shape[1], projected[0], projected[1]);
    let mut d_fusion = vec![0.0f32; fusion.len()];
    let mut d_projection = vec![0.0f64; projection.len()];
    for ((row, d_fusion), d) in
        fusion.chunks_exact(row_len).zip(d_fusion.chunks_exact_mut(row_len)).zip(d.chunks_exact(k))
    {
        let slices = row[column..column + j].iter().zip(&mut d_fusion[column..column + j]);
        let matrices = projection.chunks_exact(k).zip(d_projection.chunks_exact_mut(k));
        for ((factor, d_factor), (values, sums)) in slices.zip(matrices) {
            let factor = f64::from(*factor);
            // Eight sums, so that the loop becomes vectors.
            let mut products = [0.0f64; 8];
            let whole = k / 8 * 8;
            for ((d, values), sums) in
                d[..whole].chunks_exact(8).zip(values[..whole].chunks_exact(8)).zip(sums[..whole].chunks_exact_mut(8))
            {
                for lane in 0..8 {
                    let d = f64::from(d[lane]);
                    products[lane] += d * f64::from(values[lane]);
                    sums[lane] += factor * d;
                }
            }
            let mut total: f64 = products.iter().sum();
            for at in whole..k {
                total += f64::from(d[at]) * f64::from(values[at]);
                sums[at] += factor * f64::from(d[at]);
            }
            *d_factor = total as f32;
        }
    }
    [d_fusion, d_projection.iter().map(|sum| *sum as f32).collect()]
}

fn folded_bias(fusion: &[f32], biases: &[Cow<'_, [f32]>], shape: &[usize], d: &[f32]) -> Vec<Option<Vec<f32>>> {
    let row_len = shape[1];
    let slices: Vec<f32> = biases.iter().rev().flat_map(|bias| bias.iter().copied()).collect();
    let mut d_fusion = vec![0.0f32; fusion.len()];
    let mut d_slices = vec![0.0f64; slices.len()];
    for ((row, d_row), d) in fusion.chunks_exact(row_len).zip(d_fusion.chunks_exact_mut(row_len)).zip(d) {
        for column in 0..slices.len() {
            d_row[column] = *d * slices[column];
            d_slices[column] += f64::from(*d) * f64::from(row[column]);
        }
    }
    let mut result = vec![Some(d_fusion)];
    let width = slices.len() / biases.len().max(1);
    let d_slices: Vec<f32> = d_slices.iter().map(|sum| *sum as f32).collect();
    result.extend(d_slices.chunks_exact(width.max(1)).rev().map(|part| Some(part.to_vec())));
    result
}

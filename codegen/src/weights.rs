//! How the constants of a graph are made from tensors of the checkpoint.
//!
//! Everything that is computed here is computed in f64 and rounded to f32 once.

use crate::ir::{Graph, Source};
use crate::{CodegenError, TensorDecl, WeightSource};
use std::borrow::Cow;
use std::sync::Arc;

/// A value made from published tensors: which, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Published tensors it is made from.
    pub tensors: Vec<TensorDecl>,
    /// What is done with them.
    pub make: Make,
}

/// What a [`Recipe`] does with its tensors.
#[derive(Debug, Clone, PartialEq)]
pub enum Make {
    /// Takes the one tensor as it is.
    Plain,
    /// Convolution weight [O, I, k, k] → [O, k·k·I], inner order row, column, channel.
    ConvRows,
    /// Depthwise weight [C, 1, k, k] → [k·k, C].
    DepthwiseTaps,
    /// Transposed 2×2 convolution weight [I, O, 2, 2] → [4·O, I], row (i·2 + j)·O + o.
    UpscaleRows,
    /// The one tensor that many times, one after another.
    Repeat(usize),
    /// All tensors one after another (class tokens).
    Stack,
    /// Swin V1: table [(2w−1)², heads] → [heads, w², w²], by (Δy + w−1)·(2w−1) + (Δx + w−1), Δ = query − key.
    PositionBiasTable {
        /// Window side w.
        window: usize,
    },
    /// Swin V2: cpb_mlp (weight [512, 2], bias `[512]`, weight [heads, 512]) on the coordinate table, 16·sigmoid →
    /// [heads, w², w²].
    PositionBiasMlp {
        /// Window side w.
        window: usize,
    },
    /// Swin V2: logit_scale → exp(min(·, ln 100)), `[heads]`.
    LogitScale,
    /// Swin V2: qkv bias `[3C]` with its middle (k) third zero, whatever the checkpoint holds.
    ZeroKeyThird,
    /// Folded MLP fusion (`passes::fold_mlp_fusion`) in training, where the matrices change: fusion weight [n, all], projection [j, k] →
    /// [n, k], the fusion's columns from `column` on times the projection.
    FoldedProjection {
        /// First column of the tap's slice.
        column: usize,
    },
    /// Its bias: fusion weight [n, all], projections' biases, each of a slice of equal width, coarsest last → `[n]`.
    FoldedBias,
    /// That number, that many times; no tensor.
    Fill(f64, usize),
    /// Gaussian matrix [2, 128] → [h·w, 256]: sine and cosine of 2π·(2c − 1)·matrix at cell centres c, x first.
    PositionalEncoding {
        /// Height of the token map.
        height: usize,
        /// Width of the token map.
        width: usize,
    },
}

impl Recipe {
    /// The numbers, row-major. The tensors are given in the recipe's order and have the declared shapes.
    pub fn evaluate(&self, tensors: &[Cow<'_, [f32]>]) -> Arc<[f32]> {
        let shape = |index: usize| &self.tensors[index].shape;
        match &self.make {
            Make::Plain => Arc::from(&tensors[0][..]),
            Make::ConvRows => conv_rows(&tensors[0], shape(0)),
            Make::DepthwiseTaps => transpose(&tensors[0], shape(0)[0], shape(0)[2] * shape(0)[3]),
            Make::UpscaleRows => upscale_rows(&tensors[0], shape(0)[0], shape(0)[1]),
            Make::Repeat(times) => (0..*times).flat_map(|_| tensors[0].iter().copied()).collect(),
            Make::Stack => tensors.iter().flat_map(|t| t.iter().copied()).collect(),
            Make::PositionBiasTable { window } => {
                let heads = shape(0)[1];
                gather_bias(*window, heads, |head, index| f64::from(tensors[0][index * heads + head]))
            }
            Make::PositionBiasMlp { window } => position_bias_mlp(*window, &tensors[0], &tensors[1], &tensors[2]),
            Make::LogitScale => tensors[0].iter().map(|v| f64::from(*v).min(100f64.ln()).exp() as f32).collect(),
            Make::ZeroKeyThird => {
                let third = tensors[0].len() / 3;
                let keep = |i: usize| !(third..2 * third).contains(&i);
                tensors[0].iter().enumerate().map(|(i, v)| if keep(i) { *v } else { 0.0 }).collect()
            }
            Make::FoldedProjection { column } => {
                folded_projection(&tensors[0], &tensors[1], shape(0), shape(1), *column)
            }
            Make::FoldedBias => folded_bias(&tensors[0], &tensors[1..], shape(0)),
            Make::Fill(value, len) => vec![*value as f32; *len].into(),
            Make::PositionalEncoding { height, width } => positional_encoding(&tensors[0], *height, *width),
        }
    }
}

/// The slices of a folded fusion's weight lie in reverse order: the last tap's first.
fn folded_bias(fusion: &[f32], biases: &[Cow<'_, [f32]>], shape: &[usize]) -> Arc<[f32]> {
    let row_len = shape[1];
    let sum = |row: &[f32]| {
        let slices = biases.iter().rev().flat_map(|bias| bias.iter());
        row.iter().zip(slices).map(|(w, b)| f64::from(*w) * f64::from(*b)).sum::<f64>() as f32
    };
    fusion.chunks_exact(row_len).map(sum).collect()
}

fn folded_projection(
    fusion: &[f32],
    projection: &[f32],
    shape: &[usize],
    projected: &[usize],
    column: usize,
) -> Arc<[f32]> {
    let (row_len, j, k) = (shape[1], projected[0], projected[1]);
    let mut result = Vec::with_capacity(shape[0] * k);
    let mut sums = vec![0.0f64; k];
    for row in fusion.chunks_exact(row_len) {
        sums.fill(0.0);
        for (factor, values) in row[column..column + j].iter().zip(projection.chunks_exact(k)) {
            let factor = f64::from(*factor);
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * f64::from(*value));
        }
        result.extend(sums.iter().map(|sum| *sum as f32));
    }
    result.into()
}

fn conv_rows(weight: &[f32], shape: &[usize]) -> Arc<[f32]> {
    let [out, channels, rows, columns] = [shape[0], shape[1], shape[2], shape[3]];
    let taps = rows * columns;
    let mut result = Vec::with_capacity(weight.len());
    for o in 0..out {
        let filter = &weight[o * channels * taps..(o + 1) * channels * taps];
        for tap in 0..taps {
            result.extend((0..channels).map(|c| filter[c * taps + tap]));
        }
    }
    result.into()
}

/// [rows, columns] → [columns, rows].
fn transpose(data: &[f32], rows: usize, columns: usize) -> Arc<[f32]> {
    (0..rows * columns).map(|i| data[(i % rows) * columns + i / rows]).collect()
}

fn upscale_rows(weight: &[f32], inputs: usize, outputs: usize) -> Arc<[f32]> {
    let mut result = Vec::with_capacity(weight.len());
    for sub_pixel in 0..4 {
        for o in 0..outputs {
            result.extend((0..inputs).map(|i| weight[(i * outputs + o) * 4 + sub_pixel]));
        }
    }
    result.into()
}

/// [heads, w², w²] from a function of (head, relative position index).
fn gather_bias(window: usize, heads: usize, value: impl Fn(usize, usize) -> f64) -> Arc<[f32]> {
    let side = 2 * window - 1;
    let area = window * window;
    let mut result = Vec::with_capacity(heads * area * area);
    for head in 0..heads {
        for query in 0..area {
            for key in 0..area {
                let dy = query / window + window - 1 - key / window;
                let dx = query % window + window - 1 - key % window;
                result.push(value(head, dy * side + dx) as f32);
            }
        }
    }
    result.into()
}

fn position_bias_mlp(window: usize, weight0: &[f32], bias0: &[f32], weight2: &[f32]) -> Arc<[f32]> {
    let side = 2 * window - 1;
    let hidden = bias0.len();
    let heads = weight2.len() / hidden;
    let coordinate = |i: usize| {
        let t = (i as f64 - (window - 1) as f64) * 8.0 / (window - 1) as f64;
        t.signum() * (t.abs() + 1.0).log2() / 3.0
    };
    // For each relative position, all heads.
    let mut table = vec![0.0f64; side * side * heads];
    for (index, row) in table.chunks_exact_mut(heads).enumerate() {
        let (y, x) = (coordinate(index / side), coordinate(index % side));
        let activations: Vec<f64> = (0..hidden)
            .map(|j| (f64::from(weight0[2 * j]) * y + f64::from(weight0[2 * j + 1]) * x + f64::from(bias0[j])).max(0.0))
            .collect();
        for (head, value) in row.iter_mut().enumerate() {
            let weights = &weight2[head * hidden..(head + 1) * hidden];
            let sum: f64 = weights.iter().zip(&activations).map(|(w, a)| f64::from(*w) * a).sum();
            *value = 16.0 / (1.0 + (-sum).exp());
        }
    }
    gather_bias(window, heads, |head, index| table[index * heads + head])
}

fn positional_encoding(matrix: &[f32], height: usize, width: usize) -> Arc<[f32]> {
    let half = matrix.len() / 2;
    let centre = |i: usize, side: usize| (i as f64 + 0.5) / side as f64 * 2.0 - 1.0;
    // sin(a + b) and cos(a + b) from the angles of the column and of the row.
    let angles = |side: usize, row: &[f32]| -> Vec<(f64, f64)> {
        (0..side)
            .flat_map(|i| row.iter().map(move |g| (centre(i, side) * f64::from(*g) * std::f64::consts::TAU).sin_cos()))
            .collect()
    };
    let columns = angles(width, &matrix[..half]);
    let rows = angles(height, &matrix[half..]);
    let mut result = Vec::with_capacity(height * width * 2 * half);
    for y in 0..height {
        let row = &rows[y * half..(y + 1) * half];
        for x in 0..width {
            let column = &columns[x * half..(x + 1) * half];
            let pairs = || column.iter().zip(row);
            result.extend(pairs().map(|((sx, cx), (sy, cy))| (sx * cy + cx * sy) as f32));
            result.extend(pairs().map(|((sx, cx), (sy, cy))| (cx * cy - sx * sy) as f32));
        }
    }
    result.into()
}

impl Graph {
    /// Every published tensor the graph is made from, each once.
    pub fn required_tensors(&self) -> Vec<TensorDecl> {
        let mut seen = std::collections::BTreeSet::new();
        let recipes = self.values.iter().filter_map(|value| match &value.source {
            Source::Weight(recipe) => Some(recipe),
            _ => None,
        });
        recipes.flat_map(|r| &r.tensors).filter(|t| seen.insert(t.name.clone())).cloned().collect()
    }

    /// Replaces every recipe by its numbers.
    ///
    /// # Errors
    /// Names all tensors that are missing or have another shape.
    pub fn bind(&mut self, weights: &dyn WeightSource) -> Result<(), CodegenError> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for declared in self.required_tensors() {
            match weights.tensor(&declared.name) {
                None => missing.push(declared.name),
                Some((shape, _)) if shape != declared.shape => {
                    misshapen.push((declared.name, declared.shape, shape.to_vec()));
                }
                Some(_) => {}
            }
        }
        if !missing.is_empty() || !misshapen.is_empty() {
            return Err(CodegenError::Weights { missing, misshapen });
        }
        for value in &mut self.values {
            if let Source::Weight(recipe) = &value.source {
                let tensors: Vec<_> =
                    recipe.tensors.iter().filter_map(|t| weights.tensor(&t.name)).map(|(_, data)| data).collect();
                let made = recipe.evaluate(&tensors);
                recipe.tensors.iter().for_each(|t| weights.release(&t.name));
                value.source = Source::Constant(made);
            }
        }
        Ok(())
    }
}

mod adjoint;
#[cfg(test)]
mod tests;

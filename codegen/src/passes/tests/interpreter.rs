//! Runs small graphs of plain operators in f64, by their specs' formulas and nothing cleverer: what folding passes are held
//! against.

use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::gemm::Prologue;
use segface_kernels::{Act, Epilogue};

/// Every value of the graph after a run on `input`; unknown ones are empty.
pub(super) fn run(graph: &Graph, input: &[f64]) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = graph
        .values
        .iter()
        .map(|value| match &value.source {
            Source::Input => {
                assert_eq!(value.len(), input.len());
                input.to_vec()
            }
            Source::Constant(data) => data.iter().map(|v| f64::from(*v)).collect(),
            Source::Weight(_) => panic!("{} is not bound", value.name),
            Source::Node => vec![],
        })
        .collect();
    for node in &graph.nodes {
        let result = node_result(node, &values);
        assert_eq!(result.len(), graph.values[node.outputs[0].0].len(), "{}", node.name);
        values[node.outputs[0].0] = result;
    }
    values
}

/// The graph's one output after a run on `input`.
pub(super) fn output(graph: &Graph, input: &[f64]) -> Vec<f64> {
    let [(_, ValueId(value))] = graph.outputs[..] else { panic!("{} outputs", graph.outputs.len()) };
    run(graph, input).swap_remove(value)
}

fn act(act: Act, x: f64) -> f64 {
    match act {
        Act::Identity => x,
        Act::Relu => x.max(0.0),
        other => panic!("{other:?} does not occur in these graphs"),
    }
}

fn node_result(node: &Node, values: &[Vec<f64>]) -> Vec<f64> {
    let optional = |slot: Slot| node.input(slot).map(|v| &values[v.0][..]);
    let operand = |slot: Slot| optional(slot).unwrap_or_else(|| panic!("{} lacks {slot:?}", node.name));
    let x = operand(if matches!(node.op, Op::Attention(_)) { Slot::Query } else { Slot::X });
    let with_bias = |bias: bool| Epilogue { bias, ..Epilogue::default() };
    match node.op {
        Op::Gemm(s) => {
            assert_eq!((s.prologue, s.epilogue), (Prologue::None, with_bias(s.epilogue.bias)), "{}", node.name);
            let (weight, bias) = (operand(Slot::Weight), optional(Slot::Bias));
            assert_eq!(bias.is_some(), s.epilogue.bias);
            let dot = |row: &[f64], n: usize| -> f64 { row.iter().zip(&weight[n * s.k..]).map(|(a, b)| a * b).sum() };
            x.chunks_exact(s.k)
                .flat_map(|row| (0..s.n).map(move |n| dot(row, n) + bias.map_or(0.0, |b| b[n])))
                .collect()
        }
        Op::Conv(s) => {
            assert_eq!(s.epilogue, with_bias(s.epilogue.bias), "{}", node.name);
            let weight = operand(Slot::Weight);
            let tap = |out: usize, i: usize, j: usize, c: usize| {
                weight[out * s.depth() + (i * s.kernel + j) * s.channels + c]
            };
            let mut result = Vec::new();
            pixels(s.batch, s.output(), |b, y, xx| {
                result.extend((0..s.out_channels).map(|o| {
                    let mut sum = optional(Slot::Bias).map_or(0.0, |bias| bias[o]);
                    taps(s.kernel, s.stride, s.padding, [y, xx], s.input, |i, j, at| {
                        let from = (b * s.input[0] * s.input[1] + at) * s.channels;
                        sum += (0..s.channels).map(|c| x[from + c] * tap(o, i, j, c)).sum::<f64>();
                    });
                    sum
                }));
            });
            result
        }
        Op::Depthwise(s) => {
            assert!(!s.pool);
            let weight = operand(Slot::Weight);
            let mut result = Vec::new();
            pixels(s.batch, s.output(), |b, y, xx| {
                result.extend((0..s.channels).map(|c| {
                    let mut sum = optional(Slot::Bias).map_or(0.0, |bias| bias[c]);
                    taps(s.kernel, s.stride, (s.kernel - 1) / 2, [y, xx], s.input, |i, j, at| {
                        let from = (b * s.input[0] * s.input[1] + at) * s.channels + c;
                        sum += x[from] * weight[(i * s.kernel + j) * s.channels + c];
                    });
                    act(s.act, sum)
                }));
            });
            result
        }
        Op::Elementwise(s) => match s.op {
            ElementwiseOp::Act(a) => x.iter().map(|v| act(a, *v)).collect(),
            ElementwiseOp::Add { other_rows } => {
                let other = operand(Slot::Other);
                assert_eq!(other.len(), other_rows * s.channels);
                x.iter().enumerate().map(|(i, v)| v + other[i % other.len()]).collect()
            }
            ElementwiseOp::BatchNorm { eps } => {
                let [gamma, beta] = [Slot::NormWeight, Slot::NormBias].map(operand);
                let [mean, variance] = [Slot::Mean, Slot::Variance].map(operand);
                let norm =
                    |c: usize, v: f64| (v - mean[c]) / (variance[c] + f64::from(eps)).sqrt() * gamma[c] + beta[c];
                x.iter().enumerate().map(|(i, v)| norm(i % s.channels, *v)).collect()
            }
            other => panic!("{other:?} does not occur in these graphs"),
        },
        Op::LayerNorm(s) => {
            let [gamma, beta] = [Slot::NormWeight, Slot::NormBias].map(operand);
            x.chunks_exact(s.channels)
                .flat_map(|row| {
                    let mean = row.iter().sum::<f64>() / s.channels as f64;
                    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / s.channels as f64;
                    let scale = 1.0 / (variance + f64::from(s.eps)).sqrt();
                    row.iter().enumerate().map(move |(c, v)| (v - mean) * scale * gamma[c] + beta[c])
                })
                .collect()
        }
        Op::Attention(s) => {
            let (keys, content) = (operand(Slot::Key), operand(Slot::Value));
            let width = s.heads * s.head_dim;
            // Which image's part of an operand image `b` reads.
            let image = |data: &[f64], b: usize, rows: usize| if data.len() == rows * width { 0 } else { b * rows };
            let mut result = vec![0.0; s.batch * s.queries * width];
            for (b, i, h) in (0..s.batch * s.queries * s.heads)
                .map(|n| (n / s.heads / s.queries, n / s.heads % s.queries, n % s.heads))
            {
                let at = |row: usize| row * width + h * s.head_dim;
                let query = &x[at(image(x, b, s.queries) + i)..][..s.head_dim];
                let dot = |j: usize| -> f64 {
                    query.iter().zip(&keys[at(image(keys, b, s.keys) + j)..]).map(|(a, c)| a * c).sum()
                };
                let weights: Vec<f64> = (0..s.keys).map(|j| (dot(j) * f64::from(s.scale)).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..s.head_dim {
                    let mixed =
                        weights.iter().enumerate().map(|(j, w)| w * content[at(image(content, b, s.keys) + j) + d]);
                    result[at(b * s.queries + i) + d] = mixed.sum::<f64>() / total;
                }
            }
            result
        }
        Op::Bilinear(s) => {
            // Half-pixel centres, clamped at the edges.
            let source = |i: usize, axis: usize| {
                let at = ((i as f64 + 0.5) * s.input[axis] as f64 / s.output[axis] as f64 - 0.5).max(0.0);
                let low = (at as usize).min(s.input[axis] - 1);
                (low, (low + 1).min(s.input[axis] - 1), at - low as f64)
            };
            let mut result = Vec::new();
            pixels(s.batch, s.output, |b, y, xx| {
                let ((y0, y1, fy), (x0, x1, fx)) = (source(y, 0), source(xx, 1));
                let at = |y: usize, xx: usize, c: usize| x[((b * s.input[0] + y) * s.input[1] + xx) * s.channels + c];
                result.extend((0..s.channels).map(|c| {
                    let row = |y: usize| at(y, x0, c) * (1.0 - fx) + at(y, x1, c) * fx;
                    row(y0) * (1.0 - fy) + row(y1) * fy
                }));
            });
            result
        }
        Op::Concat(s) => {
            let parts = [Slot::X, Slot::X1, Slot::X2, Slot::X3].map(operand);
            let row = |r: usize| {
                parts.into_iter().zip(s.channels).flat_map(move |(part, n)| part[r * n..(r + 1) * n].iter().copied())
            };
            (0..s.rows).flat_map(row).collect()
        }
        Op::WindowGather(s) => {
            let fill = optional(Slot::Fill);
            windows(s.batch, &s.plan)
                .flat_map(|place| {
                    (0..s.channels).map(move |c| match place {
                        Some(pixel) => x[pixel * s.channels + c],
                        None => fill.map_or(0.0, |f| f[c]),
                    })
                })
                .collect()
        }
        Op::WindowScatter(s) => {
            let mut result = vec![f64::NAN; s.batch * s.plan.input[0] * s.plan.input[1] * s.channels];
            for (row, place) in windows(s.batch, &s.plan).enumerate() {
                if let Some(pixel) = place {
                    result[pixel * s.channels..][..s.channels].copy_from_slice(&x[row * s.channels..][..s.channels]);
                }
            }
            assert!(result.iter().all(|v| !v.is_nan()), "{}: a pixel of the map is in no window", node.name);
            result
        }
        other => panic!("{other:?} does not occur in these graphs"),
    }
}

/// Visits every pixel of a batch of maps.
fn pixels(batch: usize, [height, width]: [usize; 2], mut visit: impl FnMut(usize, usize, usize)) {
    for b in 0..batch {
        for y in 0..height {
            for x in 0..width {
                visit(b, y, x);
            }
        }
    }
}

/// Visits a kernel's taps that lie inside the map, with the pixel they lie on.
fn taps(
    kernel: usize,
    stride: usize,
    padding: usize,
    [y, x]: [usize; 2],
    [height, width]: [usize; 2],
    mut visit: impl FnMut(usize, usize, usize),
) {
    for (i, j) in (0..kernel * kernel).map(|tap| (tap / kernel, tap % kernel)) {
        let place = (y * stride + i).checked_sub(padding).zip((x * stride + j).checked_sub(padding));
        if let Some((row, column)) = place.filter(|(row, column)| *row < height && *column < width) {
            visit(i, j, row * width + column);
        }
    }
}

/// For every row of the windows of a batch: the pixel (of the whole batch) it comes from, or none for padding.
fn windows(batch: usize, plan: &segface_kernels::window_attention::WindowPlan) -> impl Iterator<Item = Option<usize>> {
    let plan = *plan;
    let [down, across] = plan.windows();
    let area = plan.window * plan.window;
    (0..batch * down * across * area).map(move |row| {
        let (window, i) = (row / area, row % area);
        let (image, window) = (window / (down * across), window % (down * across));
        let pixel = plan.source(window / across, window % across, i)?;
        Some(image * plan.input[0] * plan.input[1] + pixel)
    })
}

//! The two-way transformer becomes three passes over the image tokens and three small steps on the class tokens.
//!
//! Absorbed projections: a class token's query in head h, multiplied into W_k once, is a 256-vector that meets the image
//! tokens directly, and Σ attn·(K·W_v) = (Σ attn·K)·W_v. K·W_k and K·W_v are never stored, and each image token is read once
//! per pass for both directions (kernel contracts: `segface_kernels::token_attention`).
//!
//! Needs `fold_constants`: layer 0's query must be known, it becomes the constant of the first pass.

use super::fold_constants::numbers;
use super::rewrite::{Linear, Norm, Uses, as_act, as_linear, as_norm, as_sum};
use crate::ir::{AttentionRole, Graph, Node, Op, Projection, Slot, ValueId};
use segface_kernels::attention::AttentionSpec;
use segface_kernels::token_attention::{ImagePassSpec, TokenStage, TokenStepSpec};
use segface_kernels::{Act, DType};

const HEADS: usize = 8;
const WIDTH: usize = 256;
const HEAD_DIM: usize = 16;

/// Fuses the decoder's transformer if the graph has one in the published form. Returns how many nodes it replaced.
pub(super) fn fuse_token_attention(graph: &mut Graph) -> usize {
    let uses = Uses::of(graph);
    let Some(transformer) = Transformer::find(graph, &uses) else { return 0 };
    let replaced = transformer.members.len();
    match transformer.build(graph) {
        Some(nodes) => {
            graph.replace(&transformer.members, nodes);
            // The mask head reads the image tokens before the last class-token nodes that were replaced.
            graph.restore_order();
            replaced
        }
        None => 0,
    }
}

/// One attention with its four projections, residual and norm.
struct Block {
    spec: AttentionSpec,
    /// `None` where the query is a known value.
    query: Option<Linear>,
    key: Linear,
    value: Linear,
    out: Linear,
    /// What the result is added to.
    residual: ValueId,
    norm: Norm,
}

/// Two linear layers with ReLU, residual and norm.
struct TokenMlp {
    first: Linear,
    second: Linear,
    norm: Norm,
}

/// The published transformer, recognised.
struct Transformer {
    members: Vec<usize>,
    /// [8·T, 256]: layer 0's absorbed query.
    first_scores: Vec<f32>,
    image: ValueId,
    /// Height and width of the map of image tokens.
    input: [usize; 2],
    /// [w + h, 256]: the image tokens' encoding, see [`position_tables`].
    image_pe: Vec<f32>,
    token_pe: ValueId,
    initial: ValueId,
    to_image: [Block; 3],
    to_tokens: [Block; 2],
    mlps: [TokenMlp; 2],
    self_attention: Block,
    hyper: [Linear; 3],
    hyper_out: ValueId,
}

/// Walks the graph, noting every node it passes.
struct Walk<'g> {
    graph: &'g Graph,
    uses: &'g Uses,
    members: Vec<usize>,
}

impl Walk<'_> {
    fn linear(&mut self, value: ValueId) -> Option<Linear> {
        let linear = as_linear(self.graph, self.uses.producer(value)?)?;
        linear.bias?;
        self.members.push(linear.node);
        Some(linear)
    }

    /// Checks that `value` is `x` + a known encoding, and gives the encoding.
    fn encoded(&mut self, value: ValueId, x: ValueId) -> Option<ValueId> {
        let sum = as_sum(self.graph, self.uses.producer(value)?)?;
        self.members.push(sum.node);
        let encoding = sum.partner(x)?;
        self.graph.constant(encoding)?;
        Some(encoding)
    }

    /// The attention `index` up to the norm behind its residual.
    fn block(&mut self, index: usize) -> Option<Block> {
        let Op::Attention(spec) = self.graph.nodes[index].op else { return None };
        self.members.push(index);
        let node = &self.graph.nodes[index];
        let query = node.input(Slot::Query)?;
        let query = if self.graph.constant(query).is_some() { None } else { Some(self.linear(query)?) };
        let key = self.linear(node.input(Slot::Key)?)?;
        let value = self.linear(node.input(Slot::Value)?)?;
        let out = as_linear(self.graph, self.uses.sole_reader(node.outputs[0])?).filter(|l| l.bias.is_some())?;
        let sum = as_sum(self.graph, self.uses.sole_reader(out.out)?)?;
        let norm = as_norm(self.graph, self.uses.sole_reader(sum.out)?)?;
        self.members.extend([out.node, sum.node, norm.node]);
        let residual = sum.partner(out.out)?;
        Some(Block { spec, query, key, value, out, residual, norm })
    }

    /// The token MLP that reads `x`.
    fn mlp(&mut self, x: ValueId) -> Option<TokenMlp> {
        let readers = self.uses.readers(x).to_vec();
        let first = readers.into_iter().find_map(|r| as_linear(self.graph, r))?;
        let act = self.uses.sole_reader(first.out)?;
        let (Act::Relu, _, hidden) = as_act(self.graph, act)? else { return None };
        let second = as_linear(self.graph, self.uses.sole_reader(hidden)?)?;
        let sum = as_sum(self.graph, self.uses.sole_reader(second.out)?)?;
        let norm = as_norm(self.graph, self.uses.sole_reader(sum.out)?)?;
        (sum.partner(second.out)? == x).then_some(())?;
        self.members.extend([first.node, act, second.node, sum.node, norm.node]);
        Some(TokenMlp { first, second, norm })
    }

    /// The hypernetwork that reads `x`: three layers with ReLU between.
    fn hyper(&mut self, x: ValueId) -> Option<([Linear; 3], ValueId)> {
        let readers = self.uses.readers(x).to_vec();
        let first = readers.into_iter().find_map(|r| as_linear(self.graph, r))?;
        let second = self.behind_relu(first.out)?;
        let third = self.behind_relu(second.out)?;
        self.members.extend([first.node, second.node, third.node]);
        let out = third.out;
        Some(([first, second, third], out))
    }

    fn behind_relu(&mut self, value: ValueId) -> Option<Linear> {
        let act = self.uses.sole_reader(value)?;
        let (Act::Relu, _, hidden) = as_act(self.graph, act)? else { return None };
        self.members.push(act);
        as_linear(self.graph, self.uses.sole_reader(hidden)?)
    }
}

impl Transformer {
    fn find(graph: &Graph, uses: &Uses) -> Option<Self> {
        let attentions: Vec<usize> =
            (0..graph.nodes.len()).filter(|&i| matches!(graph.nodes[i].op, Op::Attention(_))).collect();
        let [to_image0, to_tokens0, self1, to_image1, to_tokens1, last] = attentions[..] else { return None };
        let mut walk = Walk { graph, uses, members: Vec::new() };

        let first_query = graph.nodes[to_image0].input(Slot::Query)?;
        let to_image0 = walk.block(to_image0)?;
        let image = to_image0.value.x;
        let image_pe = walk.encoded(to_image0.key.x, image)?;
        let initial = to_image0.residual;
        graph.constant(initial)?;
        let mlp0 = walk.mlp(to_image0.norm.out)?;
        let q1 = mlp0.norm.out;

        let to_tokens0 = walk.block(to_tokens0)?;
        let token_pe = walk.encoded(to_tokens0.key.x, q1)?;
        walk.attends(&to_tokens0, (image, image_pe), (q1, token_pe), image)?;
        let image1 = to_tokens0.norm.out;

        let self_attention = walk.block(self1)?;
        walk.attends(&self_attention, (q1, token_pe), (q1, token_pe), q1)?;
        let q1s = self_attention.norm.out;
        let to_image1 = walk.block(to_image1)?;
        walk.attends(&to_image1, (q1s, token_pe), (image1, image_pe), q1s)?;
        let mlp1 = walk.mlp(to_image1.norm.out)?;
        let q2 = mlp1.norm.out;

        let to_tokens1 = walk.block(to_tokens1)?;
        walk.attends(&to_tokens1, (image1, image_pe), (q2, token_pe), image1)?;
        let image2 = to_tokens1.norm.out;
        let last = walk.block(last)?;
        walk.attends(&last, (q2, token_pe), (image2, image_pe), q2)?;
        let (hyper, hyper_out) = walk.hyper(last.norm.out)?;

        let mut members = walk.members;
        members.sort_unstable();
        members.dedup();
        let tokens = to_image0.spec.queries;
        let first_scores =
            absorb(&numbers(graph, first_query)?, &numbers(graph, to_image0.key.weight)?, tokens, to_image0.spec.scale);
        let &[_, height, width, WIDTH] = &graph.values[image.0].shape[..] else { return None };
        let image_pe = position_tables(&numbers(graph, image_pe)?, [height, width])?;
        let found = Transformer {
            members,
            first_scores,
            image,
            input: [height, width],
            image_pe,
            token_pe,
            initial,
            to_image: [to_image0, to_image1, last],
            to_tokens: [to_tokens0, to_tokens1],
            mlps: [mlp0, mlp1],
            self_attention,
            hyper,
            hyper_out,
        };
        found.is_self_contained(graph, uses).then_some(found)
    }

    /// Whether nothing outside reads what would disappear: only the image tokens and final class tokens survive.
    fn is_self_contained(&self, graph: &Graph, uses: &Uses) -> bool {
        let survives = [self.to_tokens[1].norm.out, self.to_image[2].norm.out, self.hyper_out];
        self.members.iter().flat_map(|&member| &graph.nodes[member].outputs).all(|value| {
            survives.contains(value)
                || (!uses.is_given_out(*value) && uses.readers(*value).iter().all(|r| self.members.contains(r)))
        })
    }

    /// The fused nodes, in order.
    fn build(&self, graph: &mut Graph) -> Option<Vec<Node>> {
        let spec = self.to_image[0].spec;
        let (batch, tokens, input) = (spec.batch, spec.queries, self.input);
        let rows = HEADS * tokens;
        let eps = self.to_image[0].norm.spec.eps;
        let scores = graph.add_constant(
            "layers.0.cross_attn_token_to_image.absorbed".into(),
            vec![1, rows, WIDTH],
            self.first_scores.clone(),
        );
        let image_pe =
            graph.add_constant("pe_layer.tables".into(), vec![input[0] + input[1], WIDTH], self.image_pe.clone());
        let mut nodes = Vec::new();
        let mut image = self.image;
        let mut q = self.initial;
        let mut update: Option<[ValueId; 3]> = None;
        let mut attend = scores;
        for pass in 0..3 {
            let intermediate = |graph: &mut Graph, name: &str, shape: &[usize]| {
                graph.add_intermediate(format!("transformer.{pass}.{name}"), shape.to_vec(), DType::F32)
            };
            let mut inputs = vec![(Slot::X, image), (Slot::Pe, image_pe), (Slot::AttendScores, attend)];
            let pooled = intermediate(graph, "pooled", &[batch, rows, WIDTH]);
            let mut outputs = Vec::new();
            if let Some([update_scores, update_score_bias, update_values]) = update {
                let block = &self.to_tokens[pass - 1];
                inputs.extend([
                    (Slot::UpdateScores, update_scores),
                    (Slot::UpdateScoreBias, update_score_bias),
                    (Slot::UpdateValues, update_values),
                    (Slot::UpdateBias, block.out.bias?),
                    (Slot::NormWeight, block.norm.weight),
                    (Slot::NormBias, block.norm.bias),
                ]);
                outputs.push(block.norm.out);
                image = block.norm.out;
            }
            outputs.push(pooled);
            let image_pass = ImagePassSpec {
                batch,
                input,
                tokens,
                update: update.is_some(),
                attend: true,
                shared_attend: pass == 0,
                eps,
            };
            let name = format!("transformer.image_pass.{pass}");
            nodes.push(Node { name, op: Op::ImagePass(image_pass), inputs, outputs });

            let stage = [TokenStage::Layer0, TokenStage::Layer1, TokenStage::Final][pass];
            let mut inputs = vec![(Slot::X, q), (Slot::Pe, self.token_pe), (Slot::Pooled, pooled)];
            let pending = &self.to_image[pass];
            role(&mut inputs, AttentionRole::Pending, pending, &[Projection::Value, Projection::Out])?;
            role_norm(&mut inputs, AttentionRole::Pending, &pending.norm);
            q = match stage {
                TokenStage::Layer0 => self.self_attention.norm.out,
                TokenStage::Layer1 => self.mlps[1].norm.out,
                TokenStage::Final => pending.norm.out,
            };
            let mut outputs = vec![q];
            if stage == TokenStage::Final {
                for (layer, (weight, bias)) in self.hyper.iter().zip([
                    (Slot::Weight, Slot::Bias),
                    (Slot::Weight1, Slot::Bias1),
                    (Slot::Weight2, Slot::Bias2),
                ]) {
                    inputs.extend([(weight, layer.weight), (bias, layer.bias?)]);
                }
                outputs.push(self.hyper_out);
            } else {
                use Projection::{Key, Out, Query, Value};
                let mlp = &self.mlps[pass];
                inputs.extend([
                    (Slot::Weight, mlp.first.weight),
                    (Slot::Bias, mlp.first.bias?),
                    (Slot::Weight1, mlp.second.weight),
                    (Slot::Bias1, mlp.second.bias?),
                    (Slot::PostNormWeight, mlp.norm.weight),
                    (Slot::PostNormBias, mlp.norm.bias),
                ]);
                role(&mut inputs, AttentionRole::ImageToToken, &self.to_tokens[pass], &[Query, Key, Value, Out])?;
                if stage == TokenStage::Layer0 {
                    role(&mut inputs, AttentionRole::SelfAttention, &self.self_attention, &[Query, Key, Value, Out])?;
                    role_norm(&mut inputs, AttentionRole::SelfAttention, &self.self_attention.norm);
                }
                role(&mut inputs, AttentionRole::Next, &self.to_image[pass + 1], &[Query, Key])?;
                let made = [
                    intermediate(graph, "update_scores", &[batch, rows, WIDTH]),
                    intermediate(graph, "update_score_bias", &[batch, rows]),
                    intermediate(graph, "update_values", &[batch, rows, WIDTH]),
                ];
                attend = intermediate(graph, "attend_scores", &[batch, rows, WIDTH]);
                outputs.extend(made);
                outputs.push(attend);
                update = Some(made);
            }
            let step = TokenStepSpec { batch, tokens, stage, eps };
            let name = format!("transformer.token_step.{pass}");
            nodes.push(Node { name, op: Op::TokenStep(step), inputs, outputs });
        }
        Some(nodes)
    }
}

impl Walk<'_> {
    /// Checks that `block` is attention of (x + encoding) on (y + encoding) with values y, added to `residual`.
    fn attends(
        &mut self,
        block: &Block,
        (x, x_encoding): (ValueId, ValueId),
        (y, y_encoding): (ValueId, ValueId),
        residual: ValueId,
    ) -> Option<()> {
        let query = block.query.as_ref()?.x;
        let matches = self.encoded(query, x)? == x_encoding
            && self.encoded(block.key.x, y)? == y_encoding
            && block.value.x == y
            && block.residual == residual;
        matches.then_some(())
    }
}

fn role(
    inputs: &mut Vec<(Slot, ValueId)>,
    role: AttentionRole,
    block: &Block,
    projections: &[Projection],
) -> Option<()> {
    for &projection in projections {
        let linear = match projection {
            Projection::Query => block.query.as_ref()?,
            Projection::Key => &block.key,
            Projection::Value => &block.value,
            Projection::Out => &block.out,
        };
        inputs.push((Slot::Projection(role, projection), linear.weight));
        inputs.push((Slot::ProjectionBias(role, projection), linear.bias?));
    }
    Some(())
}

fn role_norm(inputs: &mut Vec<(Slot, ValueId)>, role: AttentionRole, norm: &Norm) {
    inputs.push((Slot::RoleNormWeight(role), norm.weight));
    inputs.push((Slot::RoleNormBias(role), norm.bias));
}

/// A[h·T + t] = scale · W_k,hᵀ · q[t, h], q [T, 128], W_k [128, 256].
fn absorb(query: &[f32], key_weight: &[f32], tokens: usize, scale: f32) -> Vec<f32> {
    let inner = HEADS * HEAD_DIM;
    let mut out = Vec::with_capacity(HEADS * tokens * WIDTH);
    for head in 0..HEADS {
        for token in 0..tokens {
            let q = &query[token * inner + head * HEAD_DIM..][..HEAD_DIM];
            for column in 0..WIDTH {
                let sum: f64 = q
                    .iter()
                    .enumerate()
                    .map(|(d, v)| f64::from(*v) * f64::from(key_weight[(head * HEAD_DIM + d) * WIDTH + column]))
                    .sum();
                out.push((sum * f64::from(scale)) as f32);
            }
        }
    }
    out
}

/// What the kernel wants in place of an encoding [h·w, 256]: sines and cosines of an angle per column, then of one per row,
/// whose sum is the angle of a token. Any split of the sum will do: columns get the angles of the first row, rows what they
/// add to it. `None` if the encoding is not of that kind.
fn position_tables(encoding: &[f32], [height, width]: [usize; 2]) -> Option<Vec<f32>> {
    const HALF: usize = WIDTH / 2;
    /// Rounding of the encoding's numbers and of the tables' to f32, with room.
    const TOLERANCE: f64 = 1e-5;
    let at = |y: usize, x: usize, i: usize| {
        let token = &encoding[(y * width + x) * WIDTH..][..WIDTH];
        (f64::from(token[i]), f64::from(token[HALF + i]))
    };
    if encoding.len() != height * width * WIDTH || encoding.is_empty() {
        return None;
    }
    let mut tables = encoding[..width * WIDTH].to_vec();
    for y in 0..height {
        let turn = |i: usize| {
            let ((sin_0, cos_0), (sin_y, cos_y)) = (at(0, 0, i), at(y, 0, i));
            let (sin, cos) = (sin_y * cos_0 - cos_y * sin_0, cos_y * cos_0 + sin_y * sin_0);
            let length = sin.hypot(cos);
            (sin / length, cos / length)
        };
        tables.extend((0..HALF).map(|i| turn(i).0 as f32));
        tables.extend((0..HALF).map(|i| turn(i).1 as f32));
    }
    let table = |row: usize, i: usize| (f64::from(tables[row * WIDTH + i]), f64::from(tables[row * WIDTH + HALF + i]));
    let split = (0..height * width * HALF).all(|index| {
        let (token, i) = (index / HALF, index % HALF);
        let ((sin_a, cos_a), (sin_b, cos_b)) = (table(token % width, i), table(width + token / width, i));
        let (sin, cos) = at(token / width, token % width, i);
        // Written so that a NaN is refused.
        (sin_a * cos_b + cos_a * sin_b - sin).abs() <= TOLERANCE
            && (cos_a * cos_b - sin_a * sin_b - cos).abs() <= TOLERANCE
    });
    split.then_some(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding([height, width]: [usize; 2]) -> Vec<f32> {
        let angles = |y: usize, x: usize| {
            (0..WIDTH / 2).map(move |i| (i as f64 - 60.0) * (0.3 * x as f64 + 0.7 * y as f64 - 1.0))
        };
        let tokens = (0..height * width).map(|token| (token / width, token % width));
        tokens
            .flat_map(|(y, x)| angles(y, x).map(f64::sin).chain(angles(y, x).map(f64::cos)))
            .map(|v| v as f32)
            .collect()
    }

    #[test]
    fn an_encoding_of_summed_angles_becomes_tables_and_others_do_not() {
        for size in [[1, 1], [3, 5], [1, 7], [6, 1]] {
            let mut encoding = encoding(size);
            let tables = position_tables(&encoding, size).expect("sines and cosines of sums");
            assert_eq!(tables.len(), (size[0] + size[1]) * WIDTH);
            *encoding.last_mut().expect("not empty") += 1e-3;
            // A single row is its own table, whatever it holds; below it, a token that breaks the rule is seen.
            assert_eq!(position_tables(&encoding, size).is_some(), size[0] == 1, "{size:?}");
            *encoding.last_mut().expect("not empty") = f32::NAN;
            assert_eq!(position_tables(&encoding, size), None, "{size:?}");
            assert_eq!(position_tables(&encoding[1..], size), None, "{size:?}");
        }
    }
}

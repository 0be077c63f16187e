//! Passes over the image tokens and steps on the class tokens against libtorch: each pass by itself, and the whole two-way
//! transformer as published, without any of the algebra.

use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Act, Context, Element, bf16,
    gemm::PackedMatrix,
    token_attention::{
        self, CrossAttentionWeights, ImagePassOperands, ImagePassSpec, LinearWeights, ProjectionWeights, TokenStage,
        TokenStepOperands, TokenStepSpec,
    },
};
use segface_reference::{
    layer_norm::layer_norm,
    mlp::{Linear, mlp},
    token_attention::{Attention, Norm, image_to_token, token_to_image},
};
use segface_tests::{
    cuda::{floor, judge_rung, rungs},
    in_every_precision,
    judge::{Failure, Floor},
    modes::assert_no_findings,
    operand::{Operand, Values, unit_values, values, widen},
    problems::{judge_kernel, random_problems},
};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const HEADS: usize = 8;
const WIDTH: usize = 256;
const EPS: f32 = 1e-5;

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    spec: ImagePassSpec,
    /// Standard deviation of the scores, about.
    spread: f64,
    values: Values,
}

fn problem(side: usize) -> impl Strategy<Value = Problem> {
    let tokens = prop_oneof![2 => Just(19usize), 2 => Just(11usize), 1 => 1..=40usize];
    let halves = prop::sample::select(vec![[true, true], [true, true], [true, false], [false, true]]);
    let spread = prop::sample::select(vec![1.0, 5.0, 40.0]);
    (1..=3usize, [1..=side, 1..=side], tokens, halves, any::<bool>(), spread, values()).prop_map(
        |(batch, input, tokens, [update, attend], shared_attend, spread, values)| {
            let spec = ImagePassSpec { batch, input, tokens, update, attend, shared_attend, eps: EPS };
            Problem { spec, spread, values }
        },
    )
}

/// The positional encoding [P, 256] that tables [w + h, 256] stand for.
fn encoding(tables: &Operand, [height, width]: [usize; 2], kind: Kind) -> Tensor {
    let tables = tables.tensor(kind);
    let columns = tables.narrow(0, 0, width as i64).unsqueeze(0);
    let rows = tables.narrow(0, width as i64, height as i64).unsqueeze(1);
    let half = WIDTH as i64 / 2;
    let (sin_a, cos_a) = (columns.narrow(2, 0, half), columns.narrow(2, half, half));
    let (sin_b, cos_b) = (rows.narrow(2, 0, half), rows.narrow(2, half, half));
    let (sin, cos) = (&sin_a * &cos_b + &cos_a * &sin_b, &cos_a * &cos_b - &sin_a * &sin_b);
    Tensor::cat(&[sin, cos], 2).flatten(0, 1)
}

struct PassNumbers {
    pe: Operand,
    update_scores: Operand,
    update_score_bias: Operand,
    update_values: Operand,
    update_bias: Operand,
    gamma: Operand,
    beta: Operand,
    attend_scores: Operand,
    x: Operand,
}

impl PassNumbers {
    fn new<T: Element>(Problem { spec, spread, values }: &Problem) -> Self {
        let ImagePassSpec { batch, tokens, shared_attend, .. } = *spec;
        let pixels = spec.pixels();
        let rows = HEADS * tokens;
        let attend_batch = if shared_attend { 1 } else { batch };
        Self {
            pe: values.weight::<T>("pe", &[spec.pe_rows(), WIDTH], 0.7),
            update_scores: values.weight::<T>("update_scores", &[batch, rows, WIDTH], spread / 20.0),
            update_score_bias: values.weight::<T>("update_score_bias", &[batch, rows], *spread),
            update_values: values.input::<T>("update_values", &[batch, rows, WIDTH]),
            update_bias: values.weight::<T>("update_bias", &[WIDTH], 0.3),
            gamma: values.factor::<T>("gamma", &[WIDTH]),
            beta: values.weight::<T>("beta", &[WIDTH], 0.3),
            attend_scores: values.weight::<T>("attend_scores", &[attend_batch, rows, WIDTH], spread / 20.0),
            x: values.input::<T>("x", &[batch, pixels, WIDTH]),
        }
    }

    /// Updated x and pooled rows.
    fn reference(&self, spec: &ImagePassSpec, kind: Kind) -> [Tensor; 2] {
        let (batch, tokens) = (spec.batch as i64, spec.tokens as i64);
        let pe = encoding(&self.pe, spec.input, kind);
        let mut x = self.x.tensor(kind);
        if spec.update {
            let scores = (&x + &pe).matmul(&self.update_scores.tensor(kind).transpose(1, 2))
                + self.update_score_bias.tensor(kind).unsqueeze(1);
            let weights = scores.view([batch, -1, tokens, HEADS as i64]).softmax(2, None).flatten(2, 3);
            let sums = &x + weights.matmul(&self.update_values.tensor(kind)) + self.update_bias.tensor(kind);
            x = layer_norm(&sums, &self.gamma.tensor(kind), &self.beta.tensor(kind), f64::from(EPS));
        }
        let scores = self.attend_scores.tensor(kind).matmul(&(&x + &pe).transpose(1, 2));
        let pooled = scores.softmax(-1, None).matmul(&x);
        [x, pooled]
    }

    fn run<T: Element>(&self, spec: &ImagePassSpec, context: &mut Context) -> [Vec<f32>; 2] {
        let mut x = self.x.elements::<T>();
        let mut pooled = vec![f32::NAN; spec.batch * HEADS * spec.tokens * WIDTH];
        let mut workspace = vec![f32::NAN; spec.workspace_len()];
        let operands = ImagePassOperands {
            pe: self.pe.f32(),
            update_scores: self.update_scores.f32(),
            update_score_bias: self.update_score_bias.f32(),
            update_values: self.update_values.f32(),
            update_bias: self.update_bias.f32(),
            norm: (self.gamma.f32(), self.beta.f32()),
            attend_scores: self.attend_scores.f32(),
            x: &mut x,
            pooled: &mut pooled,
            workspace: &mut workspace,
        };
        token_attention::cpu::image_pass(context, spec, operands);
        [widen(&x), pooled]
    }
}

fn check_pass<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let spec = &problem.spec;
    let numbers = PassNumbers::new::<T>(problem);
    for (result, name, made) in [(0, "updated x", spec.update), (1, "pooled", spec.attend)] {
        if made {
            judge_kernel::<T>(
                name,
                Floor::of(T::DTYPE),
                |kind| numbers.reference(spec, kind)[result].shallow_clone(),
                |context| numbers.run::<T>(spec, context)[result].clone(),
            )?;
        }
    }
    Ok(())
}

fn both_passes(problem: &Problem) -> Result<(), Failure> {
    check_pass::<f32>(problem)?;
    check_pass::<bf16>(problem)
}

#[test]
fn passes_over_few_image_tokens() {
    random_problems("image_pass small", 24, problem(10), both_passes);
}

#[test]
fn passes_over_many_image_tokens_merge_their_partial_sums() {
    random_problems("image_pass large", 5, problem(45), both_passes);
}

/// The class tokens that the device's kernels are made for; scores that f16 can tell apart.
fn device_problem(side: usize) -> impl Strategy<Value = Problem> {
    let tokens = prop::sample::select(vec![19usize, 11]);
    let halves = prop::sample::select(vec![[true, true], [true, false], [false, true]]);
    let spread = prop::sample::select(vec![1.0, 5.0]);
    (1..=2usize, [1..=side, 1..=side], tokens, halves, any::<bool>(), spread, unit_values()).prop_map(
        |(batch, input, tokens, [update, attend], shared_attend, spread, values)| {
            let spec = ImagePassSpec { batch, input, tokens, update, attend, shared_attend, eps: EPS };
            Problem { spec, spread, values }
        },
    )
}

fn check_device_pass<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let spec = &problem.spec;
    let n = PassNumbers::new::<T>(problem);
    let mut operands = vec![(Slot::X, &n.x), (Slot::Pe, &n.pe)];
    if spec.update {
        operands.extend([
            (Slot::UpdateScores, &n.update_scores),
            (Slot::UpdateScoreBias, &n.update_score_bias),
            (Slot::UpdateValues, &n.update_values),
            (Slot::UpdateBias, &n.update_bias),
            (Slot::NormWeight, &n.gamma),
            (Slot::NormBias, &n.beta),
        ]);
    }
    if spec.attend {
        operands.push((Slot::AttendScores, &n.attend_scores));
    }
    let reference = |kind: Kind| {
        let made = [spec.update, spec.attend];
        n.reference(spec, kind).into_iter().zip(made).filter_map(|(result, made)| made.then_some(result)).collect()
    };
    for rung in rungs(precision) {
        judge_rung(rung, precision, floor(precision), Op::ImagePass(*spec), &operands, reference)?;
    }
    Ok(())
}

#[test]
fn passes_on_a_device() {
    random_problems("image_pass cuda", 6, device_problem(30), |problem| {
        in_every_precision!(check_device_pass(problem))
    });
}

#[test]
#[ignore = "run in checked mode by the test below"]
fn small_passes_on_a_device() {
    random_problems("image_pass cuda small", 6, device_problem(12), |problem| {
        in_every_precision!(check_device_pass(problem))
    });
}

#[test]
fn passes_have_no_findings() {
    assert_no_findings("small_passes_on_a_device");
}

/// Image tokens that grow along the map: every later chunk's scores dwarf the earlier ones'.
#[test]
fn partial_sums_of_very_different_maxima_are_merged() {
    random_problems("image_pass maxima", 3, unit_values(), |values| {
        let (pixels, tokens) = (1100, 11);
        // A map of one column, whose table is sine 0 and cosine 1: the encoding is the rows' table.
        let input = [pixels, 1];
        let spec =
            ImagePassSpec { batch: 1, input, tokens, update: false, attend: true, shared_attend: true, eps: EPS };
        let mut numbers = PassNumbers::new::<f32>(&Problem { spec, spread: 3.0, values: values.clone() });
        for sign in [1.0, -1.0] {
            let slope = |i: usize| sign * 60.0 * (i / WIDTH) as f32 / pixels as f32;
            let column = [0.0, 1.0].into_iter().flat_map(|v| [v; WIDTH / 2]);
            let rows = numbers.attend_scores.f32()[..WIDTH].iter().cycle().enumerate().map(|(i, a)| a * slope(i));
            let tables: Vec<f32> = column.chain(rows.take(pixels * WIDTH)).collect();
            numbers.pe = Operand::from_values::<f32>(&[1 + pixels, WIDTH], tables);
            judge_kernel::<f32>(
                "pooled",
                Floor::of(segface_kernels::DType::F32),
                |kind| numbers.reference(&spec, kind)[1].shallow_clone(),
                |context| numbers.run::<f32>(&spec, context)[1].clone(),
            )?;
        }
        Ok(())
    });
}

/// Weight and bias of a linear layer.
struct Layer {
    weight: Operand,
    bias: Operand,
}

impl Layer {
    fn new<T: Element>(values: &Values, name: &str, n: usize, k: usize) -> Self {
        Self {
            weight: values.weight::<T>(&format!("{name}.weight"), &[n, k], 1.5 / (k as f64).sqrt()),
            bias: values.weight::<T>(&format!("{name}.bias"), &[n], 0.3),
        }
    }

    fn reference(&self, kind: Kind) -> Linear {
        Linear { weight: self.weight.tensor(kind), bias: self.bias.tensor(kind) }
    }

    fn plain(&self) -> ProjectionWeights<'_> {
        ProjectionWeights { weight: self.weight.f32(), bias: self.bias.f32() }
    }

    fn linear<'a>(&'a self, weight: &'a PackedMatrix) -> LinearWeights<'a> {
        LinearWeights { weight, bias: self.bias.f32() }
    }

    fn packed(&self, context: &Context) -> PackedMatrix {
        let n = self.bias.f32().len();
        PackedMatrix::pack::<f32>(context.isa(), n, self.weight.f32().len() / n, self.weight.f32())
    }
}

/// γ and β.
struct NormNumbers([Operand; 2]);

impl NormNumbers {
    fn new<T: Element>(values: &Values, name: &str) -> Self {
        Self([
            values.factor::<T>(&format!("{name}.gamma"), &[WIDTH]),
            values.weight::<T>(&format!("{name}.beta"), &[WIDTH], 0.3),
        ])
    }

    fn reference(&self, kind: Kind) -> Norm {
        Norm { weight: self.0[0].tensor(kind), bias: self.0[1].tensor(kind) }
    }

    fn pair(&self) -> (&[f32], &[f32]) {
        (self.0[0].f32(), self.0[1].f32())
    }
}

/// The projections of an attention and the norm behind it.
struct Block {
    q: Layer,
    k: Layer,
    v: Layer,
    out: Layer,
    norm: NormNumbers,
}

impl Block {
    fn new<T: Element>(values: &Values, name: &str, inner: usize) -> Self {
        let layer = |part: &str, n, k| Layer::new::<T>(values, &format!("{name}.{part}"), n, k);
        Self {
            q: layer("q", inner, WIDTH),
            k: layer("k", inner, WIDTH),
            v: layer("v", inner, WIDTH),
            out: layer("out", WIDTH, inner),
            norm: NormNumbers::new::<T>(values, name),
        }
    }

    fn reference(&self, kind: Kind) -> Attention {
        let [q, k, v, out] = [&self.q, &self.k, &self.v, &self.out].map(|layer| layer.reference(kind));
        Attention { q, k, v, out, heads: HEADS as i64 }
    }

    fn weights(&self) -> CrossAttentionWeights<'_> {
        let [q, k, v, out] = [&self.q, &self.k, &self.v, &self.out].map(Layer::plain);
        CrossAttentionWeights { q, k, v, out }
    }
}

/// The two-way transformer and the hypernetwork behind it, from layer 0's first look at the image on.
struct Transformer {
    batch: usize,
    input: [usize; 2],
    tokens: usize,
    x: Operand,
    pe: Operand,
    token_pe: Operand,
    initial: Operand,
    to_image: [Block; 3],
    to_tokens: [Block; 2],
    mlps: [([Layer; 2], NormNumbers); 2],
    self_attention: Block,
    hyper: [Layer; 3],
}

impl Transformer {
    fn new<T: Element>(values: &Values, batch: usize, input: [usize; 2], tokens: usize) -> Self {
        let block = |name: &str, inner| Block::new::<T>(values, name, inner);
        let layer = |name: String, n, k| Layer::new::<T>(values, &name, n, k);
        Self {
            batch,
            input,
            tokens,
            x: values.input::<T>("x", &[batch, input[0] * input[1], WIDTH]),
            pe: values.weight::<T>("pe", &[input[1] + input[0], WIDTH], 0.7),
            token_pe: values.weight::<T>("token_pe", &[tokens, WIDTH], 1.0),
            initial: values.weight::<T>("initial", &[tokens, WIDTH], 1.0),
            to_image: ["to_image0", "to_image1", "final"].map(|name| block(name, 128)),
            to_tokens: ["to_tokens0", "to_tokens1"].map(|name| block(name, 128)),
            mlps: [0, 1].map(|i| {
                let layers = [layer(format!("mlp{i}.0"), 2048, WIDTH), layer(format!("mlp{i}.1"), WIDTH, 2048)];
                (layers, NormNumbers::new::<T>(values, &format!("mlp{i}")))
            }),
            self_attention: block("self", 256),
            hyper: [(0, WIDTH), (1, WIDTH), (2, 32)].map(|(i, n)| layer(format!("hyper{i}"), n, WIDTH)),
        }
    }

    /// Updated image tokens, class tokens after each step, hypernetwork.
    fn reference(&self, kind: Kind) -> [Tensor; 5] {
        let batch = self.batch as i64;
        let pe = encoding(&self.pe, self.input, kind);
        let token_pe = self.token_pe.tensor(kind).unsqueeze(0).expand([batch, -1, -1], false);
        let mut x = self.x.tensor(kind);
        let mut q = self.initial.tensor(kind).unsqueeze(0).expand([batch, -1, -1], false);
        let mut steps = Vec::new();
        for layer in 0..3 {
            let block = &self.to_image[layer];
            q = token_to_image(&q, &token_pe, &x, &pe, &block.reference(kind), &block.norm.reference(kind));
            if layer < 2 {
                let (layers, norm) = &self.mlps[layer];
                let layers = [layers[0].reference(kind), layers[1].reference(kind)];
                q = norm.reference(kind).apply(&(&q + mlp(&q, &layers, Act::Relu)));
                let block = &self.to_tokens[layer];
                x = image_to_token(&q, &token_pe, &x, &pe, &block.reference(kind), &block.norm.reference(kind));
            }
            if layer == 0 {
                let block = &self.self_attention;
                let placed = &q + &token_pe;
                let attended = block.reference(kind).apply(&placed, &placed, &q);
                q = block.norm.reference(kind).apply(&(&q + attended));
            }
            steps.push(q.shallow_clone());
        }
        let hyper = mlp(&q, &[0, 1, 2].map(|i| self.hyper[i].reference(kind)), Act::Relu);
        let [first, second, third]: [Tensor; 3] = steps.try_into().expect("three steps");
        [x, first, second, third, hyper]
    }

    /// A_a of the first pass, in f64.
    fn first_scores(&self) -> Vec<f32> {
        let kind = Kind::Double;
        let block = &self.to_image[0];
        let q = block.q.reference(kind).apply(&(self.initial.tensor(kind) + self.token_pe.tensor(kind)));
        let heads = [HEADS as i64, 16, WIDTH as i64];
        let absorbed =
            q.unflatten(1, [HEADS as i64, 16]).transpose(0, 1).matmul(&block.k.weight.tensor(kind).view(heads));
        Vec::try_from((absorbed * 0.25).to_kind(Kind::Float).flatten(0, -1)).expect("numbers")
    }

    fn run<T: Element>(&self, context: &mut Context) -> [Vec<f32>; 5] {
        let Self { batch, input, tokens, .. } = *self;
        let rows = batch * HEADS * tokens;
        let mut x = self.x.elements::<T>();
        let mut q = self.initial.f32().to_vec();
        let mut steps = Vec::new();
        let [mut update_scores, mut update_values] = [(); 2].map(|()| vec![f32::NAN; rows * WIDTH]);
        let mut update_score_bias = vec![f32::NAN; rows];
        let mut attend_scores = self.first_scores();
        let mut hyper = vec![f32::NAN; batch * tokens * 32];
        let stages = [TokenStage::Layer0, TokenStage::Layer1, TokenStage::Final];
        for (layer, stage) in stages.into_iter().enumerate() {
            let update = layer > 0;
            let shared_attend = layer == 0;
            let spec = ImagePassSpec { batch, input, tokens, update, attend: true, shared_attend, eps: EPS };
            let mut pooled = vec![f32::NAN; rows * WIDTH];
            let mut workspace = vec![f32::NAN; spec.workspace_len()];
            let looked = if update { Some(&self.to_tokens[layer - 1]) } else { None };
            let operands = ImagePassOperands {
                pe: self.pe.f32(),
                update_scores: &update_scores,
                update_score_bias: &update_score_bias,
                update_values: &update_values,
                update_bias: looked.map_or(&[], |block| block.out.bias.f32()),
                norm: looked.map_or((&[], &[]), |block| block.norm.pair()),
                attend_scores: &attend_scores,
                x: &mut x,
                pooled: &mut pooled,
                workspace: &mut workspace,
            };
            token_attention::cpu::image_pass(context, &spec, operands);

            let last = stage == TokenStage::Final;
            let of_layer = layer.min(1);
            let (layers, norm) = &self.mlps[of_layer];
            let packed = layers.each_ref().map(|layer| layer.packed(context));
            let packed_hyper = self.hyper.each_ref().map(|layer| layer.packed(context));
            if !last {
                attend_scores = vec![f32::NAN; rows * WIDTH];
            }
            let mut q_out = vec![f32::NAN; batch * tokens * WIDTH];
            let mut none: [Vec<f32>; 4] = Default::default();
            let [made_scores, made_bias, made_values, made_attend] = match last {
                true => none.each_mut(),
                false => [&mut update_scores, &mut update_score_bias, &mut update_values, &mut attend_scores],
            };
            let operands = TokenStepOperands {
                token_pe: self.token_pe.f32(),
                pooled: &pooled,
                q_in: &q,
                pending: self.to_image[layer].weights(),
                pending_norm: self.to_image[layer].norm.pair(),
                mlp: (!last).then(|| (layers[0].linear(&packed[0]), layers[1].linear(&packed[1]), norm.pair())),
                image_to_token: (!last).then(|| self.to_tokens[of_layer].weights()),
                self_attention: (layer == 0).then(|| (self.self_attention.weights(), self.self_attention.norm.pair())),
                next: (!last).then(|| self.to_image[of_layer + 1].weights()),
                hyper_mlp: last.then(|| [0, 1, 2].map(|i| self.hyper[i].linear(&packed_hyper[i]))),
                q_out: &mut q_out,
                update_scores: made_scores,
                update_score_bias: made_bias,
                update_values: made_values,
                attend_scores: made_attend,
                hyper: if last { &mut hyper } else { &mut [] },
            };
            token_attention::cpu::token_step(context, &TokenStepSpec { batch, tokens, stage, eps: EPS }, operands);
            steps.push(q_out.clone());
            q = q_out;
        }
        let [first, second, third]: [Vec<f32>; 3] = steps.try_into().expect("three steps");
        [widen(&x), first, second, third, hyper]
    }
}

fn check_transformer<T: Element>(
    values: &Values,
    batch: usize,
    input: [usize; 2],
    tokens: usize,
) -> Result<(), Failure> {
    let transformer = Transformer::new::<T>(values, batch, input, tokens);
    let [truth, peer] = [Kind::Double, segface_tests::judge::kind(T::DTYPE)].map(|kind| transformer.reference(kind));
    let names = ["image tokens", "tokens of step 0", "tokens of step 1", "final tokens", "hypernetwork"];
    let mut results = BTreeMap::new();
    for (result, name) in names.into_iter().enumerate() {
        judge_kernel::<T>(
            name,
            Floor::of(T::DTYPE),
            |kind| if kind == Kind::Double { &truth } else { &peer }[result].shallow_clone(),
            |context| {
                let setting = (context.isa(), context.threads());
                results.entry(setting).or_insert_with(|| transformer.run::<T>(context))[result].clone()
            },
        )?;
    }
    Ok(())
}

#[test]
fn the_two_way_transformer_as_published() {
    let tokens = prop_oneof![2 => Just(19usize), 2 => Just(11usize), 1 => 1..=21usize];
    let problems = (1..=2usize, [1..=20usize, 1..=20usize], tokens, unit_values());
    random_problems("transformer", 3, problems, |(batch, input, tokens, values)| {
        check_transformer::<f32>(values, *batch, *input, *tokens)?;
        check_transformer::<bf16>(values, *batch, *input, *tokens)
    });
}

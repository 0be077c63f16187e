//! Building graphs layer by layer, in the words of the paper.

use crate::TensorDecl;
use crate::ir::{Graph, Node, Op, Output, Slot, Source, Value, ValueId};
use crate::weights::{Make, Recipe};
use segface_kernels::attention::AttentionSpec;
use segface_kernels::conv::ConvSpec;
use segface_kernels::depthwise::DepthwiseSpec;
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::layer_norm::LayerNormSpec;
use segface_kernels::mask_head::MaskProductSpec;
use segface_kernels::patch_merge::PatchGatherSpec;
use segface_kernels::resample::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec};
use segface_kernels::squeeze_excite::SqueezeExciteSpec;
use segface_kernels::window_attention::{WindowCoreSpec, WindowGatherSpec, WindowPlan, WindowScatterSpec};
use segface_kernels::{Act, DType, Epilogue};

/// Adds plain (un-fused) nodes to a graph; every method gives the node's result. Values are f32 until a pass lowers them.
pub(crate) struct Builder {
    graph: Graph,
}

/// A dense convolution's geometry.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) side: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) bias: bool,
}

impl Builder {
    pub(crate) fn new(batch: usize, height: usize, width: usize) -> (Self, ValueId) {
        let mut builder = Builder { graph: Graph::default() };
        let input = builder.value("input".into(), vec![batch, height, width, 3], Source::Input);
        (builder, input)
    }

    pub(crate) fn finish(self) -> Graph {
        self.graph
    }

    pub(crate) fn shape(&self, value: ValueId) -> &[usize] {
        &self.graph.values[value.0].shape
    }

    /// Length of the last axis.
    pub(crate) fn channels(&self, value: ValueId) -> usize {
        self.shape(value).last().copied().unwrap_or(0)
    }

    /// Tokens of one image: everything between batch and channels.
    fn tokens(&self, value: ValueId) -> usize {
        let shape = self.shape(value);
        shape[1..shape.len() - 1].iter().product()
    }

    /// Batch, height, width and channels of a map.
    pub(crate) fn map(&self, value: ValueId) -> [usize; 4] {
        let shape = self.shape(value);
        [shape[0], shape[1], shape[2], shape[3]]
    }

    pub(crate) fn give_out(&mut self, output: Output, value: ValueId) {
        self.graph.outputs.push((output, value));
    }

    fn value(&mut self, name: String, shape: Vec<usize>, source: Source) -> ValueId {
        self.graph.values.push(Value { name, shape, dtype: DType::F32, source });
        ValueId(self.graph.values.len() - 1)
    }

    fn node(&mut self, name: &str, op: Op, inputs: Vec<(Slot, ValueId)>, shape: Vec<usize>) -> ValueId {
        let out = self.value(name.into(), shape, Source::Node);
        self.graph.nodes.push(Node { name: name.into(), op, inputs, outputs: vec![out] });
        out
    }

    /// A constant made from published tensors.
    pub(crate) fn made(&mut self, tensors: Vec<(String, Vec<usize>)>, make: Make, shape: Vec<usize>) -> ValueId {
        let name = tensors.first().map_or_else(|| "constant".into(), |(name, _)| name.clone());
        let tensors = tensors.into_iter().map(|(name, shape)| TensorDecl { name, shape, required: true }).collect();
        self.value(name, shape, Source::Weight(Recipe { tensors, make }))
    }

    /// A published tensor, read in another shape of the same length.
    pub(crate) fn tensor(&mut self, name: String, published: Vec<usize>, shape: Vec<usize>) -> ValueId {
        self.made(vec![(name, published)], Make::Plain, shape)
    }

    /// A published vector.
    pub(crate) fn vector(&mut self, name: String, len: usize) -> ValueId {
        self.tensor(name, vec![len], vec![len])
    }

    fn weight_and_bias(&mut self, name: &str, len: usize) -> [(Slot, ValueId); 2] {
        [
            (Slot::NormWeight, self.vector(format!("{name}.weight"), len)),
            (Slot::NormBias, self.vector(format!("{name}.bias"), len)),
        ]
    }

    /// A product without bias whose weight is a value already.
    pub(crate) fn product(&mut self, name: &str, x: ValueId, weight: ValueId) -> ValueId {
        self.gemm(name, x, weight, None)
    }

    /// A product whose weight and bias are values already.
    pub(crate) fn product_with(&mut self, name: &str, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> ValueId {
        self.gemm(name, x, weight, bias)
    }

    fn gemm(&mut self, name: &str, x: ValueId, weight: ValueId, bias: Option<ValueId>) -> ValueId {
        let n = self.shape(weight)[0];
        let k = self.channels(x);
        let mut shape = self.shape(x).to_vec();
        let rows = shape[..shape.len() - 1].iter().product();
        *shape.last_mut().expect("a map has channels") = n;
        let epilogue = Epilogue { bias: bias.is_some(), ..Epilogue::default() };
        let spec = GemmSpec { rows, n, k, prologue: Prologue::None, epilogue };
        let mut inputs = vec![(Slot::X, x), (Slot::Weight, weight)];
        inputs.extend(bias.map(|bias| (Slot::Bias, bias)));
        self.node(name, Op::Gemm(spec), inputs, shape)
    }

    /// `nn.Linear` with bias.
    pub(crate) fn linear(&mut self, name: &str, x: ValueId, n: usize) -> ValueId {
        let bias = self.vector(format!("{name}.bias"), n);
        self.linear_with(name, x, n, Some(bias))
    }

    /// `nn.Linear` whose bias is another value, or none.
    pub(crate) fn linear_with(&mut self, name: &str, x: ValueId, n: usize, bias: Option<ValueId>) -> ValueId {
        let k = self.channels(x);
        let weight = self.tensor(format!("{name}.weight"), vec![n, k], vec![n, k]);
        self.gemm(name, x, weight, bias)
    }

    /// `nn.Conv2d`. A 1×1 convolution of stride 1 is a product per pixel and becomes one.
    pub(crate) fn conv(&mut self, name: &str, x: ValueId, out: usize, kernel: Kernel) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let published = vec![out, channels, kernel.side, kernel.side];
        let bias = kernel.bias.then(|| self.vector(format!("{name}.bias"), out));
        if kernel.side == 1 && kernel.stride == 1 && kernel.padding == 0 {
            let weight = self.tensor(format!("{name}.weight"), published, vec![out, channels]);
            return self.gemm(name, x, weight, bias);
        }
        let inner = kernel.side * kernel.side * channels;
        let weight = self.made(vec![(format!("{name}.weight"), published)], Make::ConvRows, vec![out, inner]);
        let spec = ConvSpec {
            batch,
            input: [height, width],
            channels,
            out_channels: out,
            kernel: kernel.side,
            stride: kernel.stride,
            padding: kernel.padding,
            epilogue: Epilogue { bias: kernel.bias, ..Epilogue::default() },
        };
        let side = |input: usize| (input + 2 * kernel.padding - kernel.side) / kernel.stride + 1;
        let mut inputs = vec![(Slot::X, x), (Slot::Weight, weight)];
        inputs.extend(bias.map(|bias| (Slot::Bias, bias)));
        self.node(name, Op::Conv(spec), inputs, vec![batch, side(height), side(width), out])
    }

    /// `nn.Conv2d` with one filter per channel, padded by (kernel − 1)/2.
    pub(crate) fn depthwise(&mut self, name: &str, x: ValueId, kernel: usize, stride: usize, bias: bool) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let weight = self.made(
            vec![(format!("{name}.weight"), vec![channels, 1, kernel, kernel])],
            Make::DepthwiseTaps,
            vec![kernel * kernel, channels],
        );
        let spec =
            DepthwiseSpec { batch, input: [height, width], channels, kernel, stride, act: Act::Identity, pool: false };
        let mut inputs = vec![(Slot::X, x), (Slot::Weight, weight)];
        if bias {
            inputs.push((Slot::Bias, self.vector(format!("{name}.bias"), channels)));
        }
        let side = |input: usize| (input - 1) / stride + 1;
        self.node(name, Op::Depthwise(spec), inputs, vec![batch, side(height), side(width), channels])
    }

    fn elementwise(&mut self, name: &str, op: ElementwiseOp, inputs: Vec<(Slot, ValueId)>) -> ValueId {
        let shape = self.shape(inputs[0].1).to_vec();
        let channels = self.channels(inputs[0].1);
        let rows = shape[..shape.len() - 1].iter().product();
        self.node(name, Op::Elementwise(ElementwiseSpec { rows, channels, op }), inputs, shape)
    }

    /// `nn.BatchNorm2d` with its stored statistics.
    pub(crate) fn batch_norm(&mut self, name: &str, x: ValueId, eps: f32) -> ValueId {
        let channels = self.channels(x);
        let mut inputs = vec![(Slot::X, x)];
        inputs.extend(self.weight_and_bias(name, channels));
        inputs.push((Slot::Mean, self.vector(format!("{name}.running_mean"), channels)));
        inputs.push((Slot::Variance, self.vector(format!("{name}.running_var"), channels)));
        self.elementwise(name, ElementwiseOp::BatchNorm { eps }, inputs)
    }

    /// An activation.
    pub(crate) fn act(&mut self, name: &str, act: Act, x: ValueId) -> ValueId {
        if act == Act::Identity {
            return x;
        }
        self.elementwise(name, ElementwiseOp::Act(act), vec![(Slot::X, x)])
    }

    /// x + other; `other` may have fewer rows and is then repeated.
    pub(crate) fn add(&mut self, name: &str, x: ValueId, other: ValueId) -> ValueId {
        let shape = self.shape(other);
        let other_rows = shape[..shape.len() - 1].iter().product();
        self.elementwise(name, ElementwiseOp::Add { other_rows }, vec![(Slot::X, x), (Slot::Other, other)])
    }

    /// x · published [C, 1, 1] factor per channel.
    pub(crate) fn layer_scale(&mut self, name: &str, x: ValueId) -> ValueId {
        let channels = self.channels(x);
        let scale = self.tensor(name.into(), vec![channels, 1, 1], vec![channels]);
        self.elementwise(name, ElementwiseOp::Scale, vec![(Slot::X, x), (Slot::Scale, scale)])
    }

    /// `nn.LayerNorm` over channels.
    pub(crate) fn layer_norm(&mut self, name: &str, x: ValueId, eps: f32) -> ValueId {
        let shape = self.shape(x).to_vec();
        let channels = self.channels(x);
        let rows = shape[..shape.len() - 1].iter().product();
        let mut inputs = vec![(Slot::X, x)];
        inputs.extend(self.weight_and_bias(name, channels));
        self.node(name, Op::LayerNorm(LayerNormSpec { rows, channels, eps }), inputs, shape)
    }

    /// torchvision's `SqueezeExcitation`: x · gate(fc2(act(fc1(mean of x)))).
    pub(crate) fn squeeze_excite(
        &mut self,
        name: &str,
        x: ValueId,
        squeeze: usize,
        [act, gate_act]: [Act; 2],
    ) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let pixels = height * width;
        let sums = self.node(
            &format!("{name}.avgpool"),
            Op::SumPool(SumPoolSpec { batch, pixels, channels }),
            vec![(Slot::X, x)],
            vec![batch, channels],
        );
        let matrix = |b: &mut Self, layer: &str, n: usize, k: usize| {
            b.tensor(format!("{name}.{layer}.weight"), vec![n, k, 1, 1], vec![n, k])
        };
        let inputs = vec![
            (Slot::Sums, sums),
            (Slot::Weight, matrix(self, "fc1", squeeze, channels)),
            (Slot::Bias, self.vector(format!("{name}.fc1.bias"), squeeze)),
            (Slot::Weight1, matrix(self, "fc2", channels, squeeze)),
            (Slot::Bias1, self.vector(format!("{name}.fc2.bias"), channels)),
        ];
        let spec = SqueezeExciteSpec { batch, pixels, channels, squeeze, act, gate_act };
        let gate = self.node(&format!("{name}.gate"), Op::SqueezeExcite(spec), inputs, vec![batch, channels]);
        self.elementwise(name, ElementwiseOp::Gate { rows_per_gate: pixels }, vec![(Slot::X, x), (Slot::Gate, gate)])
    }

    /// `nn.MaxPool2d(3, 2, 1)`.
    pub(crate) fn max_pool(&mut self, name: &str, x: ValueId) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let spec = MaxPoolSpec { batch, input: [height, width], channels };
        let shape = vec![batch, (height - 1) / 2 + 1, (width - 1) / 2 + 1, channels];
        self.node(name, Op::MaxPool(spec), vec![(Slot::X, x)], shape)
    }

    /// 2×2 neighbours side by side: [batch, ⌈h/2⌉, ⌈w/2⌉, 4C].
    pub(crate) fn patch_gather(&mut self, name: &str, x: ValueId) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let spec = PatchGatherSpec { batch, input: [height, width], channels };
        let shape = vec![batch, height.div_ceil(2), width.div_ceil(2), 4 * channels];
        self.node(name, Op::PatchGather(spec), vec![(Slot::X, x)], shape)
    }

    /// Pad, roll and cut a map into windows: [batch·windows, window², C].
    pub(crate) fn window_gather(&mut self, name: &str, x: ValueId, plan: WindowPlan) -> ValueId {
        let [batch, _, _, channels] = self.map(x);
        let shape = vec![batch * plan.windows().iter().product::<usize>(), plan.window * plan.window, channels];
        self.node(name, Op::WindowGather(WindowGatherSpec { batch, plan, channels }), vec![(Slot::X, x)], shape)
    }

    /// Attention inside windows; `spec.channels` wide.
    pub(crate) fn window_core(
        &mut self,
        name: &str,
        qkv: ValueId,
        spec: WindowCoreSpec,
        score_scale: ValueId,
        score_bias: ValueId,
    ) -> ValueId {
        let mut shape = self.shape(qkv).to_vec();
        *shape.last_mut().expect("windows have channels") = spec.channels;
        let inputs = vec![(Slot::X, qkv), (Slot::ScoreScale, score_scale), (Slot::ScoreBias, score_bias)];
        self.node(name, Op::WindowCore(spec), inputs, shape)
    }

    /// Windows back to a map: the inverse of [`Builder::window_gather`].
    pub(crate) fn window_scatter(&mut self, name: &str, x: ValueId, batch: usize, plan: WindowPlan) -> ValueId {
        let channels = self.channels(x);
        let shape = vec![batch, plan.input[0], plan.input[1], channels];
        self.node(name, Op::WindowScatter(WindowScatterSpec { batch, plan, channels }), vec![(Slot::X, x)], shape)
    }

    /// Bilinear resize to a map's size.
    pub(crate) fn bilinear(&mut self, name: &str, x: ValueId, output: [usize; 2]) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let spec = BilinearSpec { batch, input: [height, width], output, channels };
        self.node(name, Op::Bilinear(spec), vec![(Slot::X, x)], vec![batch, output[0], output[1], channels])
    }

    /// Channels of four maps side by side.
    pub(crate) fn concat(&mut self, name: &str, parts: [ValueId; 4]) -> ValueId {
        let channels = parts.map(|part| self.channels(part));
        let mut shape = self.shape(parts[0]).to_vec();
        let rows = shape[..shape.len() - 1].iter().product();
        *shape.last_mut().expect("a map has channels") = channels.iter().sum();
        let inputs = [Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().zip(parts).collect();
        self.node(name, Op::Concat(ConcatSpec { rows, channels }), inputs, shape)
    }

    /// `nn.ConvTranspose2d(in, out, 2, 2)`: a product to four sub-pixels, then space from channels.
    pub(crate) fn upscale(&mut self, name: &str, x: ValueId, out: usize) -> ValueId {
        let [batch, height, width, channels] = self.map(x);
        let weight = self.made(
            vec![(format!("{name}.weight"), vec![channels, out, 2, 2])],
            Make::UpscaleRows,
            vec![4 * out, channels],
        );
        let bias = self.made(vec![(format!("{name}.bias"), vec![out])], Make::Repeat(4), vec![4 * out]);
        let wide = self.gemm(name, x, weight, Some(bias));
        let spec = PixelShuffleSpec { batch, input: [height, width], channels: out };
        let shape = vec![batch, 2 * height, 2 * width, out];
        self.node(&format!("{name}.shuffle"), Op::PixelShuffle(spec), vec![(Slot::X, wide)], shape)
    }

    /// Multi-head attention of projected q, k, v; scores divided by √head_dim.
    pub(crate) fn attention(&mut self, name: &str, [q, k, v]: [ValueId; 3], heads: usize) -> ValueId {
        let batch = [q, k, v].map(|value| self.shape(value)[0]).into_iter().max().unwrap_or(1);
        let (queries, keys, width) = (self.tokens(q), self.tokens(k), self.channels(q));
        let head_dim = width / heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let spec = AttentionSpec { batch, queries, keys, heads, head_dim, scale };
        let inputs = vec![(Slot::Query, q), (Slot::Key, k), (Slot::Value, v)];
        let mut shape = self.shape(q).to_vec();
        shape[0] = batch;
        self.node(name, Op::Attention(spec), inputs, shape)
    }

    /// logits[t] = hyper[t]·u per pixel.
    pub(crate) fn mask_product(&mut self, name: &str, u: ValueId, hyper: ValueId) -> ValueId {
        let [batch, height, width, _] = self.map(u);
        let classes = self.shape(hyper)[1];
        let spec = MaskProductSpec { batch, pixels: height * width, classes };
        let inputs = vec![(Slot::X, u), (Slot::Hyper, hyper)];
        self.node(name, Op::MaskProduct(spec), inputs, vec![batch, height, width, classes])
    }
}

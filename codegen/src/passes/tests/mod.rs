//! One test per pass: what it rewrites, how often, on which network, and what that does to the arithmetic. Folds are also run
//! before and after, in f64, on small graphs.

mod folds;
mod fusions;
mod interpreter;
mod memory;

use super::Pass;
use crate::check::check;
use crate::explain::operator;
use crate::ir::{Graph, Op, Output};
use crate::plan::{CompileOptions, Precision, optimise};
use crate::{Backbone, ModelSpec, Variant, WeightSource, manifest, models};
use segface_kernels::DType;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;

const BATCH: usize = 2;
const HEIGHT: usize = 96;
const WIDTH: usize = 72;
const CLASSES: usize = 19;

/// Random weights of the right shapes, the same every run: uniform in [−½, ½), variances in [½, 3⁄2). Each tensor is a piece of
/// one sequence, because drawing ninety million numbers for every test takes longer than compiling.
struct Random(BTreeMap<String, Vec<usize>>);

/// Longer than any tensor by some places to start at.
const SEQUENCE: usize = 6_000_000;

impl Random {
    fn of(model: &ModelSpec) -> Self {
        Random(manifest(model).into_iter().map(|t| (t.name, t.shape)).collect())
    }

    /// Of the tensors that a graph names.
    fn of_graph(graph: &Graph) -> Self {
        Random(graph.required_tensors().into_iter().map(|t| (t.name, t.shape)).collect())
    }
}

impl WeightSource for Random {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        static NUMBERS: OnceLock<Vec<f32>> = OnceLock::new();
        let numbers = NUMBERS.get_or_init(|| uniform(1, SEQUENCE).map(|v| v as f32 - 0.5).collect());
        let shape = self.0.get(name)?;
        let len: usize = shape.iter().product();
        let seed = name.bytes().fold(0usize, |seed, byte| seed.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let start = seed % (SEQUENCE - len);
        let piece = &numbers[start..start + len];
        let values = match name.ends_with("running_var") {
            true => Cow::Owned(piece.iter().map(|v| v + 1.0).collect()),
            false => Cow::Borrowed(piece),
        };
        Some((shape, values))
    }
}

/// `len` numbers in [0, 1) (splitmix64).
fn uniform(seed: u64, len: usize) -> impl Iterator<Item = f64> {
    (1..=len as u64).map(move |i| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    })
}

/// Holds two results to each other: `tolerance` is relative to the largest number.
fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0, "a test on zeros proves nothing");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * largest, "element {i}: {f}, expected {e} (largest {largest})");
    }
}

/// The graph after one stage of a compilation, in numbers.
#[derive(Debug, Clone)]
struct After {
    rewrites: usize,
    flops: u64,
    operators: BTreeMap<&'static str, usize>,
}

impl After {
    fn of(rewrites: usize, graph: &Graph) -> Self {
        let mut operators = BTreeMap::new();
        graph.nodes.iter().for_each(|node| *operators.entry(operator(&node.op)).or_default() += 1);
        After { rewrites, flops: graph.nodes.iter().map(|node| node.flops(graph)).sum(), operators }
    }

    fn count(&self, operator: &str) -> usize {
        self.operators.get(operator).copied().unwrap_or(0)
    }
}

fn celeb(backbone: Backbone) -> ModelSpec {
    ModelSpec { backbone, variant: Variant::Celeb }
}

fn options(outputs: &[Output], disabled: &[Pass]) -> CompileOptions {
    CompileOptions {
        batch: BATCH,
        height: HEIGHT,
        width: WIDTH,
        precision: Precision::F32,
        outputs: outputs.to_vec(),
        disabled: disabled.to_vec(),
    }
}

/// Every stage of compiling a network for labels.
fn compiled(backbone: Backbone, disabled: &[Pass]) -> BTreeMap<String, After> {
    let model = celeb(backbone);
    let mut stages = BTreeMap::new();
    let options = options(&[Output::Labels], disabled);
    optimise(&model, &Random::of(&model), &options, &mut |stage| {
        check(stage.graph).unwrap_or_else(|wrong| panic!("{backbone} after {}: {wrong}", stage.name));
        stages.insert(stage.name.to_owned(), After::of(stage.rewrites, stage.graph));
    })
    .expect("a size every network takes");
    stages
}

/// A network with its weights, before any pass.
fn bound(backbone: Backbone) -> Graph {
    let model = celeb(backbone);
    let mut graph = models::build(&model, BATCH, HEIGHT, WIDTH).expect("a size every network takes");
    graph.bind(&Random::of(&model)).expect("weights of this very model");
    graph
}

/// What passes make of a graph whose other outputs nobody wants; checked after each.
fn passed(graph: &Graph, wanted: &[Output], passes: &[Pass]) -> Graph {
    let mut graph = graph.clone();
    super::select_outputs(&mut graph, wanted);
    for pass in passes {
        pass.run(&mut graph);
        check(&graph).unwrap_or_else(|wrong| panic!("{passes:?} at {pass:?}: {wrong}"));
    }
    graph
}

/// What each pass did to each network with all passes on.
fn all_stages() -> &'static BTreeMap<Backbone, BTreeMap<String, After>> {
    static STAGES: OnceLock<BTreeMap<Backbone, BTreeMap<String, After>>> = OnceLock::new();
    STAGES.get_or_init(|| Backbone::ALL.into_iter().map(|backbone| (backbone, compiled(backbone, &[]))).collect())
}

/// The stages before and after a pass.
fn around(backbone: Backbone, pass: Pass) -> [&'static After; 2] {
    let stages = &all_stages()[&backbone];
    let position = Pass::ALL.iter().position(|p| *p == pass).expect("every pass is listed");
    let before = if position == 0 { "model" } else { Pass::ALL[position - 1].name() };
    [&stages[before], &stages[pass.name()]]
}

/// Geometry of a Swin on the test's images.
struct Swin {
    /// Height and width of the map in each stage.
    maps: [[usize; 2]; 4],
    /// Blocks of each stage.
    depths: [usize; 4],
    window: usize,
    /// Channels of the first stage.
    width: usize,
}

impl Swin {
    fn of(backbone: Backbone) -> Option<Self> {
        let (window, width, third) = match backbone {
            Backbone::SwinBase => (7, 128, 18),
            Backbone::SwinV2Base => (8, 128, 18),
            Backbone::SwinV2Small => (8, 96, 18),
            Backbone::SwinV2Tiny => (8, 96, 6),
            _ => return None,
        };
        let maps = [0, 1, 2, 3].map(|stage| [HEIGHT, WIDTH].map(|side| (side / 4).div_ceil(1 << stage)));
        Some(Swin { maps, depths: [2, 2, third, 2], window, width })
    }

    /// Sum over all blocks of `work(rows that padding to whole windows adds, channels)`.
    fn padding(&self, work: impl Fn(usize, usize) -> usize) -> u64 {
        let rows = |[height, width]: [usize; 2]| {
            height.next_multiple_of(self.window) * width.next_multiple_of(self.window) - height * width
        };
        (0..4).map(|i| (self.depths[i] * work(BATCH * rows(self.maps[i]), self.width << i)) as u64).sum()
    }
}

fn convnext_blocks(backbone: Backbone) -> usize {
    match backbone {
        Backbone::ConvNextBase | Backbone::ConvNextSmall => 36,
        Backbone::ConvNextTiny => 18,
        _ => 0,
    }
}

fn swin_blocks(backbone: Backbone) -> usize {
    Swin::of(backbone).map_or(0, |swin| swin.depths.iter().sum())
}

#[test]
fn passes_are_known_by_their_names() {
    for pass in Pass::ALL {
        assert_eq!(pass.name().parse::<Pass>().as_ref(), Ok(&pass));
    }
    let error = "fold_everything".parse::<Pass>().expect_err("no such pass");
    assert!(error.contains("`fold_everything`") && error.contains("fold_batch_norm"), "{error}");
}

/// What is left of each network when every pass has run: the fused kernels of the design and nothing else.
#[test]
fn compiled_networks_are_a_few_large_kernels() {
    let decoder = [("image_pass", 3), ("mask_head", 1), ("mlp_fusion", 1), ("token_step", 3)];
    for (backbone, own) in [
        (Backbone::SwinBase, &[("conv", 1), ("mlp", 24), ("patch_merge", 3), ("window_attention", 24)][..]),
        (Backbone::SwinV2Base, &[("conv", 1), ("mlp", 24), ("patch_merge", 3), ("window_attention", 24)]),
        (Backbone::SwinV2Small, &[("conv", 1), ("mlp", 24), ("patch_merge", 3), ("window_attention", 24)]),
        (Backbone::SwinV2Tiny, &[("conv", 1), ("mlp", 12), ("patch_merge", 3), ("window_attention", 12)]),
        (Backbone::ConvNextBase, &[("conv", 4), ("depthwise", 36), ("layer_norm", 3), ("mlp", 36)]),
        (Backbone::ConvNextSmall, &[("conv", 4), ("depthwise", 36), ("layer_norm", 3), ("mlp", 36)]),
        (Backbone::ConvNextTiny, &[("conv", 4), ("depthwise", 18), ("layer_norm", 3), ("mlp", 18)]),
        (Backbone::ResNet, &[("conv", 37), ("gemm", 67), ("max_pool", 1)]),
        (Backbone::MobileNet, &[("conv", 1), ("depthwise", 15), ("gemm", 30), ("squeeze_excite", 8)]),
        (Backbone::EfficientNet, &[("conv", 14), ("depthwise", 44), ("gemm", 99), ("squeeze_excite", 44)]),
    ] {
        let expected: BTreeMap<_, _> = own.iter().chain(&decoder).copied().collect();
        assert_eq!(all_stages()[&backbone]["lower_precision"].operators, expected, "{backbone}");
    }
}

/// Any choice of passes leaves a sound graph: each alone, all but each, none, and in either precision.
#[test]
fn every_choice_of_passes_leaves_a_sound_graph() {
    let outputs = [&[Output::Labels][..], &[Output::Logits, Output::Stage(1), Output::Fused, Output::Tokens]];
    for backbone in [Backbone::SwinBase, Backbone::SwinV2Tiny, Backbone::ConvNextTiny, Backbone::MobileNet] {
        let bound = bound(backbone);
        let alone = Pass::ALL.map(|pass| vec![pass]);
        let all_but = Pass::ALL.map(|pass| Pass::ALL.into_iter().filter(|p| *p != pass).collect());
        for (i, passes) in alone.into_iter().chain(all_but).chain([vec![]]).enumerate() {
            let wanted = outputs[i % 2];
            let mut graph = passed(&bound, wanted, &passes);
            super::lower_precision(&mut graph, DType::Bf16);
            check(&graph).unwrap_or_else(|wrong| panic!("{backbone}, {passes:?} in bf16: {wrong}"));
            let given: Vec<Output> = graph.outputs.iter().map(|(output, _)| *output).collect();
            assert_eq!(given, wanted, "{backbone}, {passes:?}");
            memory::check_plan(&graph);
        }
    }
}

/// Nodes of one operator.
fn nodes_of(graph: &Graph, matches: impl Fn(&Op) -> bool) -> usize {
    graph.nodes.iter().filter(|node| matches(&node.op)).count()
}

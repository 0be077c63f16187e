//! The compiler's result: a list of kernel calls over one arena, with every constant in the form its kernel takes.

use crate::ir::{Graph, Node, Op, Output, Slot, Source, ValueId};
use crate::passes::lower_precision::operand_type;
use crate::passes::{MemoryPlan, Pass, lower_precision, plan_memory, select_outputs};
use crate::{CodegenError, ModelSpec, WeightSource};
use segface_kernels::cuda::Fragment;
use segface_kernels::gemm::PackedMatrix;
use segface_kernels::{DType, Isa, bf16};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Element type of activations and weights in a plan. Accumulators are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 32-bit floats whose products round their factors to tf32 (10 bits of fraction). CUDA only.
    Tf32,
    /// IEEE half precision. CUDA only.
    F16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 4] = [Precision::F32, Precision::Bf16, Precision::Tf32, Precision::F16];

    /// `f32`, `bf16`, `tf32` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Tf32 => "tf32",
            Precision::F16 => "f16",
        }
    }

    /// Whether the CPU target computes in it.
    pub fn runs_on_cpu(self) -> bool {
        matches!(self, Precision::F32 | Precision::Bf16)
    }

    /// How a CUDA kernel's products are computed.
    pub fn fragment(self) -> Fragment {
        match self {
            Precision::F32 => Fragment::Single,
            Precision::Bf16 => Fragment::Bfloat,
            Precision::Tf32 => Fragment::Tf32,
            Precision::F16 => Fragment::Half,
        }
    }

    /// The element type of activations.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 | Precision::Tf32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
            Precision::F16 => DType::F16,
        }
    }
}

/// What a network is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileOptions {
    /// Images in one run.
    pub batch: usize,
    /// Height of the input.
    pub height: usize,
    /// Width of the input.
    pub width: usize,
    /// Element type of activations and weights.
    pub precision: Precision,
    /// What a run gives out.
    pub outputs: Vec<Output>,
    /// Passes to leave out.
    pub disabled: Vec<Pass>,
}

/// The form in which a kernel takes a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Format {
    /// Row-major f32.
    F32,
    /// Row-major bf16.
    Bf16,
    /// A product's weight, laid out for f32 activations.
    PackedF32,
    /// A product's weight, laid out for bf16 activations.
    PackedBf16,
}

/// A constant in the form its kernel takes.
#[derive(Debug, Clone)]
pub enum Constant {
    /// Row-major f32.
    F32(Arc<[f32]>),
    /// Row-major bf16.
    Bf16(Arc<[bf16]>),
    /// A product's weight.
    Packed(PackedMatrix),
}

impl Constant {
    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        match self {
            Constant::F32(data) => size_of_val(&data[..]),
            Constant::Bf16(data) => size_of_val(&data[..]),
            Constant::Packed(matrix) => matrix.bytes(),
        }
    }
}

/// A compiled network.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which network.
    pub model: ModelSpec,
    /// Element type of activations and weights.
    pub precision: Precision,
    /// The calls, in order. Its constants hold no numbers: those are in `constants`.
    pub graph: Graph,
    /// Where values live.
    pub memory: MemoryPlan,
    /// Every constant that some call takes, by value and form.
    pub constants: BTreeMap<(ValueId, Format), Constant>,
}

/// The form in which `op` takes the constant in `slot`, in a plan whose activations are of type `activation`.
pub fn constant_format(op: &Op, slot: Slot, activation: DType) -> Format {
    let packed = matches!(
        (op, slot),
        (Op::Gemm(_) | Op::Conv(_) | Op::PatchMerge(_), Slot::Weight)
            | (Op::Mlp(_) | Op::MaskHead(_), Slot::Weight | Slot::Weight1)
            | (Op::WindowAttention(_), Slot::QkvWeight | Slot::ProjWeight)
            | (Op::MlpFusion(_), Slot::Weight | Slot::Weight1 | Slot::Weight2 | Slot::Weight3)
    );
    match (packed, operand_type(op, slot, activation).unwrap_or(DType::F32), op, slot) {
        (true, ..) if activation == DType::Bf16 => Format::PackedBf16,
        (true, ..) | (_, _, Op::TokenStep(_), Slot::Weight | Slot::Weight1 | Slot::Weight2) => Format::PackedF32,
        (false, DType::Bf16, ..) => Format::Bf16,
        _ => Format::F32,
    }
}

/// One stage of a compilation, as `explain` shows it.
pub struct Stage<'a> {
    /// `model`, a pass's name, or `lower_precision`.
    pub name: &'a str,
    /// How many places the pass rewrote.
    pub rewrites: usize,
    /// The graph after it.
    pub graph: &'a Graph,
}

/// Compiles a network; see [`compile_observed`].
pub fn compile(model: &ModelSpec, weights: &dyn WeightSource, options: &CompileOptions) -> Result<Plan, CodegenError> {
    compile_observed(model, weights, options, &mut |_| {})
}

/// Compiles a network and shows every stage to `observe`.
///
/// # Errors
/// Sizes the network cannot take; missing or misshapen weights, all of them; a precision of the CUDA target.
pub fn compile_observed(
    model: &ModelSpec,
    weights: &dyn WeightSource,
    options: &CompileOptions,
    observe: &mut dyn FnMut(Stage<'_>),
) -> Result<Plan, CodegenError> {
    if !options.precision.runs_on_cpu() {
        return Err(CodegenError::CpuPrecision { precision: options.precision });
    }
    let graph = optimise(model, weights, options, observe)?;
    let memory = plan_memory(&graph);
    Ok(pack(*model, options, graph, memory))
}

/// Everything before memory and packing: the graph of fused kernels.
pub fn optimise(
    model: &ModelSpec,
    weights: &dyn WeightSource,
    options: &CompileOptions,
    observe: &mut dyn FnMut(Stage<'_>),
) -> Result<Graph, CodegenError> {
    let mut graph = crate::models::build(model, options.batch, options.height, options.width)?;
    graph.bind(weights)?;
    select_outputs(&mut graph, &options.outputs);
    let mut show = |name: &str, rewrites: usize, graph: &Graph| {
        debug_assert!(crate::check::check(graph).is_ok(), "{name}: {:?}", crate::check::check(graph));
        observe(Stage { name, rewrites, graph });
    };
    show("model", 0, &graph);
    for pass in Pass::ALL {
        if !options.disabled.contains(&pass) {
            let rewrites = pass.run(&mut graph);
            show(pass.name(), rewrites, &graph);
        }
    }
    let conversions = lower_precision(&mut graph, options.precision.dtype());
    show("lower_precision", conversions, &graph);
    Ok(graph)
}

/// Brings every constant into its kernel's form and drops the numbers from the graph, one by one: weights are in memory
/// about once, not twice.
fn pack(model: ModelSpec, options: &CompileOptions, mut graph: Graph, memory: MemoryPlan) -> Plan {
    let mut formats: Vec<BTreeSet<Format>> = vec![BTreeSet::new(); graph.values.len()];
    for node in &graph.nodes {
        for (slot, value) in &node.inputs {
            formats[value.0].insert(constant_format(&node.op, *slot, options.precision.dtype()));
        }
    }
    let mut constants = BTreeMap::new();
    for (index, value) in graph.values.iter_mut().enumerate() {
        let Source::Constant(data) = &mut value.source else { continue };
        let data = std::mem::replace(data, Arc::from([]));
        for format in &formats[index] {
            constants.insert((ValueId(index), *format), pack_constant(&data, &value.shape, *format));
        }
    }
    Plan { model, precision: options.precision, graph, memory, constants }
}

fn pack_constant(data: &Arc<[f32]>, shape: &[usize], format: Format) -> Constant {
    // The layout is the same for every instruction set; this only decides how fast it is made.
    let isa = Isa::best();
    let rows = || (shape[0], shape[1..].iter().product());
    match format {
        Format::F32 => Constant::F32(Arc::clone(data)),
        Format::Bf16 => Constant::Bf16(data.iter().map(|v| bf16::from_f32(*v)).collect()),
        Format::PackedF32 => {
            let (n, k) = rows();
            Constant::Packed(PackedMatrix::pack::<f32>(isa, n, k, data))
        }
        Format::PackedBf16 => {
            let (n, k) = rows();
            Constant::Packed(PackedMatrix::pack::<bf16>(isa, n, k, data))
        }
    }
}

impl Plan {
    /// The operand of `node` in `slot` as a constant, if it is one.
    pub fn constant(&self, node: &Node, slot: Slot) -> Option<&Constant> {
        let value = node.input(slot)?;
        self.constants.get(&(value, constant_format(&node.op, slot, self.precision.dtype())))
    }

    /// Bytes of all constants.
    pub fn constant_bytes(&self) -> usize {
        self.constants.values().map(Constant::bytes).sum()
    }

    /// The input's value.
    pub fn input(&self) -> Option<ValueId> {
        self.graph.values.iter().position(|v| matches!(v.source, Source::Input)).map(ValueId)
    }

    /// The value given out as `output`.
    pub fn output(&self, output: Output) -> Option<ValueId> {
        self.graph.outputs.iter().find(|(o, _)| *o == output).map(|(_, v)| *v)
    }

    /// Floating-point operations of one run.
    pub fn flops(&self) -> u64 {
        self.graph.nodes.iter().map(|node| node.flops(&self.graph)).sum()
    }
}

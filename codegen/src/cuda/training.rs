//! A training step as CUDA kernels.
//!
//! What a program of inference knows as constants are made from parameters here, anew after each change: every pair of value and form has
//! a place on the device. Published tensors that kernels take as they are lie in the flat array of parameters itself; what a recipe makes of
//! others (`Make`) is evaluated by whoever runs the program, in f64; and weights are packed on the device, by launches of their own
//! ([`TrainingProgram::packs`]) before the step's.

use super::kernel::{Argument, Kernel, KernelText, Launch};
use super::lower::Lowering;
use super::program::Form;
use super::tile::Tuning;
use crate::grad::{BackwardOp, Training};
use crate::ir::{Graph, Op, ValueId};
use crate::passes::MemoryPlan;
use crate::passes::plan_memory::plan_memory_with;
use crate::plan::Precision;
use crate::{CodegenError, ModelSpec};
use segface_kernels::loss::LossSpec;

/// A compiled training step.
#[derive(Debug, Clone)]
pub struct TrainingProgram {
    /// Which network.
    pub model: ModelSpec,
    /// How products are computed.
    pub precision: Precision,
    /// The calls it was made from.
    pub graph: Graph,
    /// Where values and workspaces live in the arena.
    pub memory: MemoryPlan,
    /// The loss.
    pub loss: LossSpec,
    /// Every kernel, once.
    pub kernels: Vec<Kernel>,
    /// Launches that pack weights, after each change of the parameters.
    pub packs: Vec<Launch>,
    /// What a step runs, in order.
    pub launches: Vec<Launch>,
    /// What launches take of the parameters: each value and form has a place of [`Form::bytes`].
    pub constants: Vec<(ValueId, Form)>,
    /// How many 32-bit counters the launches need.
    pub counters: usize,
}

/// Compiles a training step for CUDA, with f32 in memory: `precision` is f32 or tf32.
///
/// # Errors
/// If something of the step has no kernel.
pub fn compile_training(
    training: &Training,
    precision: Precision,
    tuning: &Tuning,
) -> Result<TrainingProgram, CodegenError> {
    let refused = |reason: String| CodegenError::Training { model: training.model, reason };
    if !matches!(precision, Precision::F32 | Precision::Tf32) {
        return Err(refused(format!("{} is not a precision that networks are trained in on CUDA", precision.name())));
    }
    let graph = &training.graph;
    if let Some(node) = graph.nodes.iter().find(|node| matches!(node.op, Op::Backward(BackwardOp::Concat(_)))) {
        return Err(refused(format!("{} has no gradient on CUDA", node.name)));
    }
    let mut lowering = Lowering::new(graph, precision, None, tuning);
    lowering.warps = training.model.variant.warps();
    for index in 0..graph.nodes.len() {
        lowering.lower(index);
    }
    let step = lowering.launches();
    let packed = lowering.constants();
    for (index, (value, form)) in packed.into_iter().enumerate() {
        if form.packed().is_some() {
            pack(&mut lowering, value, form, index);
        }
    }
    let mut parts = lowering.finish();
    let packs = parts.launches.split_off(step);
    let memory = plan_memory_with(graph, &|index| parts.workspaces[index]);
    Ok(TrainingProgram {
        model: training.model,
        precision,
        graph: graph.clone(),
        memory,
        loss: training.loss,
        kernels: parts.kernels,
        packs,
        launches: parts.launches,
        constants: parts.constants,
        counters: parts.counters,
    })
}

/// `gemm::PACK_THREADS`.
const PACK_THREADS: usize = 256;

/// The launch that makes constant `index`, the value in a packed form.
fn pack(l: &mut Lowering<'_>, value: ValueId, form: Form, index: usize) {
    let Some([n, k]) = form.packed() else { return };
    let (header, source) = match form {
        Form::Turned { n, .. } => ("gemm/backward.cuh", format!("gemm::Turned{{weight, {n}}}")),
        Form::Phase(phase) => {
            ("conv/backward.cuh", format!("{}{{weight}}", phase.template("conv::PhaseWeight", "")))
        }
        _ => ("gemm/backward.cuh", format!("gemm::AsIs{{weight, {k}}}")),
    };
    let bytes = form.bytes(l.precision, 0);
    let mut text = KernelText::new("pack_weight", header);
    text.block(PACK_THREADS, 0, "gemm::PACK_THREADS - 256");
    text.parameter("const float *weight", l.constant_of(value, Form::F32));
    text.parameter("u8 *out", Argument::Constant(index));
    text.line(format!("gemm::pack_weight<{}>({source}, out, {n}, {k});", l.fragment_name()));
    l.launch(&text, [bytes.div_ceil(16 * PACK_THREADS) as u32, 1, 1], 0, 2 * bytes as u64);
}

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
    let unknown = |op: &BackwardOp| {
        matches!(op, BackwardOp::Concat(_) | BackwardOp::MaskHead(_) | BackwardOp::GemmInput { act: Some(_), .. })
    };
    if let Some(node) = graph.nodes.iter().find(|node| matches!(&node.op, Op::Backward(op) if unknown(op))) {
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
        Form::Phase(phase) => ("conv/backward.cuh", format!("{}{{weight}}", phase.template("conv::PhaseWeight", ""))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backbone;
    use crate::Variant;
    use crate::grad::{Means, TrainingOptions, training_with};

    fn program(backbone: Backbone, variant: Variant, precision: Precision) -> TrainingProgram {
        let options = TrainingOptions { batch: 2, height: 64, width: 64, stochastic_depth: true, outputs: Vec::new() };
        let means = Means { fused: false, ..Means::default() };
        let step = training_with(&ModelSpec { backbone, variant }, &options, &|_| true, means).unwrap();
        compile_training(&step, precision, &Tuning::default()).unwrap()
    }

    #[test]
    fn every_network_has_kernels_for_its_step_and_packs_each_weight_once() {
        for backbone in Backbone::ALL {
            for variant in Variant::ALL {
                let program = program(backbone, variant, Precision::Tf32);
                let made: Vec<usize> = program
                    .packs
                    .iter()
                    .map(|launch| match launch.arguments[1] {
                        Argument::Constant(index) => index,
                        ref other => panic!("{backbone}: {other:?} is packed"),
                    })
                    .collect();
                let packed = |&index: &usize| program.constants[index].1.packed().is_some();
                let all: Vec<usize> = (0..program.constants.len()).filter(packed).collect();
                assert_eq!(made, all, "{backbone}");
                for launch in program.packs.iter().chain(&program.launches) {
                    let kernel = &program.kernels[launch.kernel];
                    assert!(launch.grid.iter().all(|side| *side > 0), "{backbone}: {} of no block", kernel.name);
                    assert!(launch.grid[1].max(launch.grid[2]) < 1 << 16, "{backbone}: {}", kernel.name);
                }
            }
        }
    }

    #[test]
    fn sixteen_bits_are_refused() {
        let options = TrainingOptions { batch: 2, height: 64, width: 64, stochastic_depth: true, outputs: Vec::new() };
        let model = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
        let means = Means { fused: false, ..Means::default() };
        let step = training_with(&model, &options, &|_| true, means).unwrap();
        let refused = compile_training(&step, Precision::Bf16, &Tuning::default()).unwrap_err();
        assert!(refused.to_string().contains("bf16"), "{refused}");
    }

    #[test]
    fn phases_have_every_tap_of_a_convolution_once() {
        for (kernel, stride, padding) in [(1, 1, 0), (1, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (4, 4, 0), (7, 2, 3)] {
            let (channels, out_channels) = (2, 3);
            let phase = |i: usize| super::super::PhaseOf {
                channels,
                out_channels,
                kernel,
                stride,
                padding,
                at: [i / stride, i % stride],
            };
            let taps: usize = (0..stride * stride).map(|i| phase(i).taps()).sum();
            assert_eq!(taps, kernel * kernel, "{kernel}/{stride}");
            // Every number of the weight is in one place of one phase.
            let weight: Vec<f32> = (0..out_channels * kernel * kernel * channels).map(|i| i as f32).collect();
            let mut found: Vec<f32> = (0..stride * stride).flat_map(|i| phase(i).weight(&weight)).collect();
            found.sort_by(f32::total_cmp);
            assert_eq!(found, weight);
        }
    }
}

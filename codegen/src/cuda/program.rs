//! A network as CUDA kernels.

use super::kernel::{Argument, Kernel, Launch};
use super::lower::{Lowering, Rung};
use super::tile::{Choice, Tuning};
use crate::ir::{Graph, Output, Source, ValueId};
use crate::passes::MemoryPlan;
use crate::passes::plan_memory::plan_memory_with;
use crate::plan::{CompileOptions, Precision, Stage, optimise};
use crate::{CodegenError, ModelSpec, WeightSource};
use segface_kernels::DType;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The form in which a kernel takes a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Form {
    /// Row-major f32.
    F32,
    /// Row-major, in the element type of activations.
    Element,
    /// A product's weight [n, k] in fragment order (`segface_kernels::cuda::pack`).
    Packed {
        /// Rows: columns of the product.
        n: usize,
        /// Columns: terms of each sum.
        k: usize,
    },
    /// Window attention's bias [heads, area, area] as fragments of scores (`segface_kernels::cuda::pack_position_bias`).
    PositionBias {
        /// Heads.
        heads: usize,
        /// Positions of a window.
        area: usize,
    },
    /// Training: the transpose of a weight [k, n] in fragment order, for the gradient of a product's data.
    Turned {
        /// Rows: columns of the product.
        n: usize,
        /// Columns: terms of each sum.
        k: usize,
    },
    /// Training: the part of a convolution's weight that reaches pixels of one remainder, in fragment order.
    Phase(PhaseOf),
}

/// Input pixels (y·stride + at, x·stride + at) of a convolution, which see the same of its taps: for the gradient of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PhaseOf {
    /// Channels of its input.
    pub channels: usize,
    /// Channels of its result.
    pub out_channels: usize,
    /// Side of its window.
    pub kernel: usize,
    /// Its stride.
    pub stride: usize,
    /// Its padding.
    pub padding: usize,
    /// The remainder, down and across, each below the stride.
    pub at: [usize; 2],
}

impl PhaseOf {
    /// The first tap of an axis that reaches the pixels.
    fn first(&self, axis: usize) -> usize {
        (self.at[axis] + self.padding) % self.stride
    }

    /// Taps of an axis.
    fn side(&self, axis: usize) -> usize {
        self.kernel.saturating_sub(self.first(axis)).div_ceil(self.stride)
    }

    /// Taps that reach the pixels.
    pub fn taps(&self) -> usize {
        self.side(0) * self.side(1)
    }

    /// A template of `conv/backward.cuh` with its arguments, of which `first` come first.
    pub(crate) fn template(&self, name: &str, first: &str) -> String {
        let PhaseOf { channels, out_channels, kernel, stride, padding, at: [y, x] } = self;
        format!("{name}<{first}{channels}, {out_channels}, {kernel}, {stride}, {padding}, {y}, {x}>")
    }

    /// The weight [channels, taps·out_channels] from the convolution's [out_channels, kernel²·channels].
    pub(crate) fn weight(&self, data: &[f32]) -> Vec<f32> {
        let PhaseOf { channels, out_channels, kernel, stride, .. } = *self;
        let mut result = Vec::with_capacity(channels * self.taps() * out_channels);
        for c in 0..channels {
            for (a, b) in (0..self.side(0)).flat_map(|a| (0..self.side(1)).map(move |b| (a, b))) {
                let tap = (self.first(0) + a * stride) * kernel + self.first(1) + b * stride;
                result.extend((0..out_channels).map(|o| data[(o * kernel * kernel + tap) * channels + c]));
            }
        }
        result
    }
}

impl Form {
    /// Rows and columns of a matrix in fragment order.
    pub fn packed(&self) -> Option<[usize; 2]> {
        match *self {
            Form::Packed { n, k } | Form::Turned { n, k } => Some([n, k]),
            Form::Phase(phase) => Some([phase.channels, phase.taps() * phase.out_channels]),
            Form::F32 | Form::Element | Form::PositionBias { .. } => None,
        }
    }

    /// Bytes of a constant of `len` numbers in this form.
    pub fn bytes(&self, precision: Precision, len: usize) -> usize {
        match *self {
            Form::F32 => 4 * len,
            Form::Element => precision.dtype().size() * len,
            Form::PositionBias { heads, area } => segface_kernels::cuda::position_bias_bytes(heads, area),
            Form::Packed { .. } | Form::Turned { .. } | Form::Phase(_) => {
                let [n, k] = self.packed().unwrap_or_default();
                segface_kernels::cuda::packed_bytes(precision.fragment(), n, k)
            }
        }
    }

    /// The numbers `data` in this form, as bytes for the device.
    pub fn make(&self, precision: Precision, data: &[f32]) -> Vec<u8> {
        let pack = |n: usize, k: usize, data: &[f32]| segface_kernels::cuda::pack(precision.fragment(), n, k, data);
        match *self {
            Form::F32 => segface_kernels::cuda::elements(DType::F32, data),
            Form::Element => segface_kernels::cuda::elements(precision.dtype(), data),
            Form::Packed { n, k } => pack(n, k, data),
            Form::PositionBias { heads, area } => segface_kernels::cuda::pack_position_bias(heads, area, data),
            Form::Turned { n, k } => {
                let turned: Vec<f32> = (0..n * k).map(|i| data[i % k * n + i / k]).collect();
                pack(n, k, &turned)
            }
            Form::Phase(phase) => pack(phase.channels, phase.taps() * phase.out_channels, &phase.weight(data)),
        }
    }
}

/// A compiled network for CUDA.
#[derive(Debug, Clone)]
pub struct Program {
    /// Which network.
    pub model: ModelSpec,
    /// How products are computed and what activations are.
    pub precision: Precision,
    /// The calls it was made from. Its constants hold no numbers.
    pub graph: Graph,
    /// Where values and workspaces live in the arena.
    pub memory: MemoryPlan,
    /// Every kernel, once.
    pub kernels: Vec<Kernel>,
    /// What is run, in order.
    pub launches: Vec<Launch>,
    /// Constants by value and form, as bytes for the device.
    pub constants: Vec<(ValueId, Form, Arc<[u8]>)>,
    /// How many 32-bit counters the launches need.
    pub counters: usize,
    /// Products whose tile was chosen, in order; empty if the program is from a file.
    pub choices: Vec<Choice>,
    /// What tiles were chosen by.
    pub chosen_by: String,
}

/// Compiles a network for CUDA.
///
/// # Errors
/// Sizes the network cannot take; missing or misshapen weights, all of them.
pub fn compile(
    model: &ModelSpec,
    weights: &dyn WeightSource,
    options: &CompileOptions,
    observe: &mut dyn FnMut(Stage<'_>),
) -> Result<Program, CodegenError> {
    Ok(compile_graph(*model, options.precision, optimise(model, weights, options, observe)?))
}

/// [`compile`] with tiles chosen by `tuning`.
///
/// # Errors
/// As [`compile`].
pub fn compile_tuned(
    model: &ModelSpec,
    weights: &dyn WeightSource,
    options: &CompileOptions,
    tuning: &Tuning,
) -> Result<Program, CodegenError> {
    let graph = optimise(model, weights, options, &mut |_| {})?;
    Ok(compile_graph_tuned(*model, options.precision, graph, tuning))
}

/// [`compile_graph`] with tiles chosen by `tuning`.
pub fn compile_graph_tuned(model: ModelSpec, precision: Precision, graph: Graph, tuning: &Tuning) -> Program {
    lower(model, precision, graph, None, tuning)
}

/// Turns the nodes of a graph, in the precision it was lowered to, into launches.
pub fn compile_graph(model: ModelSpec, precision: Precision, graph: Graph) -> Program {
    compile_rung(model, precision, graph, None)
}

/// [`compile_graph`] with the kernels of a ladder's lower rung where there is one.
pub fn compile_rung(model: ModelSpec, precision: Precision, graph: Graph, rung: Option<Rung>) -> Program {
    lower(model, precision, graph, rung, &Tuning::default())
}

fn lower(model: ModelSpec, precision: Precision, mut graph: Graph, rung: Option<Rung>, tuning: &Tuning) -> Program {
    let mut lowering = Lowering::new(&graph, precision, rung, tuning);
    for index in 0..graph.nodes.len() {
        lowering.lower(index);
    }
    let parts = lowering.finish();
    let memory = plan_memory_with(&graph, &|index| parts.workspaces[index]);
    let constants = parts
        .constants
        .iter()
        .map(|(value, form)| (*value, *form, device_constant(&graph, precision, *value, *form)))
        .collect();
    for value in &mut graph.values {
        if let Source::Constant(data) = &mut value.source {
            *data = Arc::from([]);
        }
    }
    Program {
        model,
        precision,
        graph,
        memory,
        kernels: parts.kernels,
        launches: parts.launches,
        constants,
        counters: parts.counters,
        choices: parts.choices,
        chosen_by: tuning.to_string(),
    }
}

/// The kernels of [`compile_rung`], and nothing else: constants are neither looked at nor packed.
pub fn kernels(graph: &Graph, precision: Precision, rung: Option<Rung>) -> Vec<Kernel> {
    let tuning = Tuning::default();
    let mut lowering = Lowering::new(graph, precision, rung, &tuning);
    for index in 0..graph.nodes.len() {
        lowering.lower(index);
    }
    lowering.finish().kernels
}

fn device_constant(graph: &Graph, precision: Precision, value: ValueId, form: Form) -> Arc<[u8]> {
    let Source::Constant(data) = &graph.values[value.0].source else {
        unreachable!("only constants are asked for as constants")
    };
    form.make(precision, data).into()
}

impl Program {
    /// The input's value.
    pub fn input(&self) -> Option<ValueId> {
        self.graph.values.iter().position(|v| matches!(v.source, Source::Input)).map(ValueId)
    }

    /// The value given out as `output`.
    pub fn output(&self, output: Output) -> Option<ValueId> {
        self.graph.outputs.iter().find(|(o, _)| *o == output).map(|(_, v)| *v)
    }

    /// Checks that a program read from a file holds together: every kernel, value, workspace, constant and counter that a launch
    /// names exists and lies where there is memory. What a kernel does with them is its own affair.
    ///
    /// # Errors
    /// What does not fit.
    pub fn validate(&self) -> Result<(), String> {
        crate::check::check(&self.graph).map_err(|violations| violations.to_string())?;
        let (graph, memory) = (&self.graph, &self.memory);
        if memory.offsets.len() != graph.values.len() || memory.workspaces.len() != graph.nodes.len() {
            return Err("its memory plan is for another graph".into());
        }
        let inside =
            |offset: usize, bytes: usize| offset.checked_add(bytes).is_some_and(|end| end <= memory.arena_bytes);
        for (value, offset) in graph.values.iter().zip(&memory.offsets) {
            if offset.is_some_and(|offset| !inside(offset, value.bytes())) {
                return Err(format!("{} does not lie in its arena", value.name));
            }
        }
        for (value, form, bytes) in &self.constants {
            let len = graph.values.get(value.0).ok_or("a constant of no value")?.len();
            let expected = form.bytes(self.precision, len);
            if bytes.len() != expected {
                return Err(format!(
                    "the constant {} has {} bytes, expected {expected}",
                    graph.values[value.0].name,
                    bytes.len()
                ));
            }
        }
        for launch in &self.launches {
            if launch.kernel >= self.kernels.len() || launch.node >= graph.nodes.len() {
                return Err("a launch of no kernel or no node".into());
            }
            let known = |argument: &Argument| match *argument {
                Argument::Value(value) => memory.offsets.get(value.0).is_some_and(Option::is_some),
                Argument::Workspace { node, offset } => {
                    memory.workspaces.get(node).copied().flatten().is_some_and(|base| inside(base, offset))
                }
                Argument::Constant(index) => index < self.constants.len(),
                Argument::Counters { first } => first < self.counters,
                Argument::Null | Argument::I32(_) | Argument::F32(_) => true,
                // Nobody trains from a file of an engine.
                Argument::Gradient(_) | Argument::Labels | Argument::Step | Argument::Loss => false,
                Argument::Warps | Argument::WarpStarts | Argument::WarpPixels => false,
            };
            if !launch.arguments.iter().all(known) {
                return Err(format!("a launch of {} names what is not there", self.kernels[launch.kernel].name));
            }
        }
        Ok(())
    }

    /// Bytes of all constants.
    pub fn constant_bytes(&self) -> usize {
        self.constants.iter().map(|(_, _, bytes)| bytes.len()).sum()
    }
}

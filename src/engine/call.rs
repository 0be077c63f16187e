//! One node at work: from a graph's named slots to a kernel's operands.

use segface_codegen::ir::{AttentionRole, Graph, Node, Op, Projection, Slot, ValueId};
use segface_codegen::passes::plan_memory::{InPlace, MemoryPlan, in_place};
use segface_codegen::plan::{Constant, Plan};
use segface_kernels::attention::AttentionOperands;
use segface_kernels::conv::ConvOperands;
use segface_kernels::depthwise::DepthwiseOperands;
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseOperands};
use segface_kernels::epilogue::{EpilogueOperands, Residual};
use segface_kernels::gemm::{GemmOperands, PackedMatrix, Prologue, PrologueOperands};
use segface_kernels::layer_norm::LayerNormOperands;
use segface_kernels::mask_head::MaskHeadOperands;
use segface_kernels::mlp::MlpOperands;
use segface_kernels::mlp_fusion::MlpFusionOperands;
use segface_kernels::patch_merge::{PatchGatherOperands, PatchMergeOperands};
use segface_kernels::squeeze_excite::SqueezeExciteOperands;
use segface_kernels::token_attention::{
    CrossAttentionWeights, ImagePassOperands, LinearWeights, ProjectionWeights, TokenStepOperands,
};
use segface_kernels::window_attention::{
    WindowAttentionOperands, WindowCoreOperands, WindowGatherOperands, WindowScatterOperands,
};
use segface_kernels::{Context, DType, Element, Epilogue, bf16};

/// A constant operand in the form its kernel takes.
pub(crate) enum Operand<'p> {
    /// Row-major f32.
    F32(&'p [f32]),
    /// Row-major bf16.
    Bf16(&'p [bf16]),
    /// A product's weight.
    Packed(&'p PackedMatrix),
}

/// Where operands come from that lie in no arena: a plan's constants, or what a training step makes of its parameters.
pub(crate) trait Constants {
    /// The operand of `node` in `slot`.
    fn constant(&self, node: &Node, slot: Slot) -> Option<Operand<'_>>;
}

impl Constants for Plan {
    fn constant(&self, node: &Node, slot: Slot) -> Option<Operand<'_>> {
        Some(match Plan::constant(self, node, slot)? {
            Constant::F32(data) => Operand::F32(data),
            Constant::Bf16(data) => Operand::Bf16(data),
            Constant::Packed(matrix) => Operand::Packed(matrix),
        })
    }
}

/// The arena seen through a plan.
///
/// Slices of it are made without the borrow checker. What makes that sound: `validate` has checked that every value and
/// workspace lies inside the arena, is aligned, and that at each node an output overlaps no operand, workspace or other
/// output, except the operand it replaces in place; and a node's slices die before the next node runs.
pub(crate) struct Memory<'p> {
    pub(crate) graph: &'p Graph,
    pub(crate) places: &'p MemoryPlan,
    pub(crate) constants: &'p dyn Constants,
    pub(crate) base: *mut u8,
}

impl<'p> Memory<'p> {
    /// The arena at `base`, seen through `plan`.
    pub(super) fn of(plan: &'p Plan, base: *mut u8) -> Self {
        Memory { graph: &plan.graph, places: &plan.memory, constants: plan, base }
    }

    /// # Safety
    /// No mutable slice of overlapping bytes is alive.
    pub(crate) unsafe fn slice<T>(&self, value: ValueId) -> &'p [T] {
        let (offset, len) = self.place::<T>(value);
        // SAFETY: in bounds and aligned by `validate`; not aliased mutably by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), len) }
    }

    /// # Safety
    /// No other slice of overlapping bytes is alive.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice_mut<T>(&self, value: ValueId) -> &'p mut [T] {
        let (offset, len) = self.place::<T>(value);
        // SAFETY: in bounds and aligned by `validate`; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(offset).cast(), len) }
    }

    fn place<T>(&self, value: ValueId) -> (usize, usize) {
        let declared = &self.graph.values[value.0];
        assert_eq!(declared.dtype.size(), size_of::<T>(), "{} has another element type", declared.name);
        (self.places.offsets[value.0].expect("validated: computed values have a place"), declared.len())
    }
}

/// One node at work.
pub(crate) struct Call<'a, 'p> {
    pub(crate) memory: &'a Memory<'p>,
    pub(crate) node: &'p Node,
    pub(crate) index: usize,
}

impl<'p> Call<'_, 'p> {
    /// The activation or small tensor in `slot`: from the arena or a constant.
    pub(crate) fn operand<T: Element>(&self, slot: Slot) -> &'p [T] {
        self.optional(slot).unwrap_or_else(|| panic!("validated: {} has no operand {slot:?}", self.node.name))
    }

    pub(crate) fn optional<T: Element>(&self, slot: Slot) -> Option<&'p [T]> {
        let value = self.node.input(slot)?;
        if self.memory.places.offsets[value.0].is_some() {
            // SAFETY: outputs of this node do not overlap its operands (`validate`), save in-place operands, which are
            // never asked for through this function.
            return Some(unsafe { self.memory.slice(value) });
        }
        Some(match self.memory.constants.constant(self.node, slot) {
            Some(Operand::F32(data)) => bytemuck::cast_slice(data),
            Some(Operand::Bf16(data)) => bytemuck::cast_slice(data),
            _ => panic!("validated: {} has no plain constant {slot:?}", self.node.name),
        })
    }

    pub(crate) fn packed(&self, slot: Slot) -> &'p PackedMatrix {
        match self.memory.constants.constant(self.node, slot) {
            Some(Operand::Packed(matrix)) => matrix,
            _ => panic!("validated: {} has no packed weight {slot:?}", self.node.name),
        }
    }

    fn pair(&self, first: Slot, second: Slot) -> (&'p [f32], &'p [f32]) {
        (self.operand(first), self.operand(second))
    }

    pub(crate) fn output<T>(&self, index: usize) -> &'p mut [T] {
        // SAFETY: each output is taken once per call and overlaps nothing that is read (`validate`).
        unsafe { self.memory.slice_mut(self.node.outputs[index]) }
    }

    /// Where the operand in `slot` lies, if it lies in the arena.
    fn offset(&self, slot: Slot) -> Option<usize> {
        self.memory.places.offsets[self.node.input(slot)?.0]
    }

    /// Whether output 0 lies where the operand in `slot` lies.
    fn replaces(&self, slot: Slot) -> bool {
        self.offset(slot).is_some() && self.offset(slot) == self.memory.places.offsets[self.node.outputs[0].0]
    }

    /// The operand in `slot`, or `None` if output 0 replaces it.
    pub(crate) fn unless_replaced<T: Element>(&self, slot: Slot) -> Option<&'p [T]> {
        (!self.replaces(slot)).then(|| self.operand(slot))
    }

    fn workspace<T: Element>(&self, elements: usize) -> &'p mut [T] {
        let offset = self.memory.places.workspaces[self.index].expect("validated: this node has a workspace");
        // SAFETY: in bounds, aligned and not overlapping this node's values (`validate`); taken once per call.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base.add(offset).cast(), elements) }
    }

    pub(crate) fn epilogue<T: Element>(&self, epilogue: &Epilogue, bias: Slot) -> EpilogueOperands<'p, T> {
        EpilogueOperands {
            bias: epilogue.bias.then(|| self.operand(bias)),
            scale: epilogue.scale.then(|| self.operand(Slot::Scale)),
            norm: epilogue.norm.map(|_| self.pair(Slot::PostNormWeight, Slot::PostNormBias)),
            residual: match (epilogue.residual, self.replaces(Slot::Residual)) {
                (false, _) => Residual::None,
                (true, true) => Residual::InPlace,
                (true, false) => Residual::From(self.operand(Slot::Residual)),
            },
        }
    }

    fn attention(&self, role: AttentionRole) -> CrossAttentionWeights<'p> {
        let projection = |projection: Projection| ProjectionWeights {
            weight: self.optional(Slot::Projection(role, projection)).unwrap_or_default(),
            bias: self.optional(Slot::ProjectionBias(role, projection)).unwrap_or_default(),
        };
        CrossAttentionWeights {
            q: projection(Projection::Query),
            k: projection(Projection::Key),
            v: projection(Projection::Value),
            out: projection(Projection::Out),
        }
    }

    fn linear(&self, weight: Slot, bias: Slot) -> LinearWeights<'p> {
        LinearWeights { weight: self.packed(weight), bias: self.operand(bias) }
    }

    /// Copies the operand that the kernel will change in place, if the memory plan kept the original alive.
    pub(crate) fn prepare_in_place<T: Element>(&self) {
        if let InPlace::Always(slot) = in_place(self.node)
            && let Some(original) = self.unless_replaced::<T>(slot)
        {
            self.output::<T>(0).copy_from_slice(original);
        }
    }

    /// Calls the node's kernel.
    pub(crate) fn run<T: Element>(&self, context: &mut Context) {
        use segface_kernels as k;
        self.prepare_in_place::<T>();
        match &self.node.op {
            Op::Gemm(spec) => {
                let prologue = match spec.prologue {
                    Prologue::None => PrologueOperands::None,
                    Prologue::LayerNorm { .. } => {
                        let (weight, bias) = self.pair(Slot::NormWeight, Slot::NormBias);
                        PrologueOperands::LayerNorm(weight, bias)
                    }
                    Prologue::Gate { .. } => PrologueOperands::Gate(self.operand(Slot::Gate)),
                };
                let operands = GemmOperands::<T> {
                    x: self.operand(Slot::X),
                    prologue,
                    weight: self.packed(Slot::Weight),
                    epilogue: self.epilogue(&spec.epilogue, Slot::Bias),
                    out: self.output(0),
                };
                k::gemm::cpu::gemm(context, spec, operands);
            }
            Op::Conv(spec) => {
                let operands = ConvOperands::<T> {
                    x: self.operand(Slot::X),
                    weight: self.packed(Slot::Weight),
                    epilogue: self.epilogue(&spec.epilogue, Slot::Bias),
                    out: self.output(0),
                };
                k::conv::cpu::conv(context, spec, operands);
            }
            Op::Depthwise(spec) => {
                let operands = DepthwiseOperands::<T> {
                    x: self.operand(Slot::X),
                    weight: self.operand(Slot::Weight),
                    bias: self.optional(Slot::Bias),
                    out: self.output(0),
                    sums: spec.pool.then(|| self.output(1)),
                };
                k::depthwise::cpu::depthwise(context, spec, operands);
            }
            Op::Elementwise(spec) => {
                let statistics =
                    || [Slot::NormWeight, Slot::NormBias, Slot::Mean, Slot::Variance].map(|slot| self.operand(slot));
                let operands = ElementwiseOperands::<T> {
                    x: self.unless_replaced(Slot::X),
                    other: self.optional(Slot::Other),
                    factors: match spec.op {
                        ElementwiseOp::Scale => self.operand(Slot::Scale),
                        ElementwiseOp::Gate { .. } => self.operand(Slot::Gate),
                        _ => &[],
                    },
                    statistics: matches!(spec.op, ElementwiseOp::BatchNorm { .. }).then(statistics),
                    out: self.output(0),
                };
                k::elementwise::cpu::elementwise(context, spec, operands);
            }
            Op::LayerNorm(spec) => {
                let (weight, bias) = self.pair(Slot::NormWeight, Slot::NormBias);
                let operands =
                    LayerNormOperands::<T> { x: self.unless_replaced(Slot::X), weight, bias, out: self.output(0) };
                k::layer_norm::cpu::layer_norm(context, spec, operands);
            }
            Op::SqueezeExcite(spec) => {
                let (squeeze_weight, squeeze_bias) = self.pair(Slot::Weight, Slot::Bias);
                let (excite_weight, excite_bias) = self.pair(Slot::Weight1, Slot::Bias1);
                let operands = SqueezeExciteOperands {
                    sums: self.operand(Slot::Sums),
                    squeeze_weight,
                    squeeze_bias,
                    excite_weight,
                    excite_bias,
                    gate: self.output(0),
                };
                k::squeeze_excite::cpu::squeeze_excite(context, spec, operands);
            }
            Op::Mlp(spec) => {
                let operands = MlpOperands::<T> {
                    x: self.unless_replaced(Slot::X),
                    norm: spec.norm.map(|_| self.pair(Slot::NormWeight, Slot::NormBias)),
                    weight1: self.packed(Slot::Weight),
                    bias1: self.operand(Slot::Bias),
                    weight2: self.packed(Slot::Weight1),
                    epilogue: self.epilogue(&spec.epilogue, Slot::Bias1),
                    out: self.output(0),
                };
                k::mlp::cpu::mlp(context, spec, operands);
            }
            Op::PatchMerge(spec) => {
                let operands = PatchMergeOperands::<T> {
                    x: self.operand(Slot::X),
                    norm: self.pair(Slot::NormWeight, Slot::NormBias),
                    weight: self.packed(Slot::Weight),
                    out: self.output(0),
                };
                k::patch_merge::cpu::patch_merge(context, spec, operands);
            }
            Op::WindowAttention(spec) => {
                let operands = WindowAttentionOperands::<T> {
                    norm: self.pair(Slot::NormWeight, Slot::NormBias),
                    qkv_weight: self.packed(Slot::QkvWeight),
                    qkv_bias: self.operand(Slot::QkvBias),
                    score_scale: self.operand(Slot::ScoreScale),
                    bias: self.operand(Slot::ScoreBias),
                    proj_weight: self.packed(Slot::ProjWeight),
                    proj_bias: self.operand(Slot::ProjBias),
                    x: self.output(0),
                };
                k::window_attention::cpu::window_attention(context, spec, operands);
            }
            Op::MlpFusion(spec) => {
                let operands = MlpFusionOperands::<T> {
                    taps: [Slot::X, Slot::X1, Slot::X2, Slot::X3].map(|slot| self.operand(slot)),
                    weights: [Slot::Weight, Slot::Weight1, Slot::Weight2, Slot::Weight3].map(|slot| self.packed(slot)),
                    bias: self.operand(Slot::Bias),
                    projected: self.workspace(spec.projected_len()),
                    out: self.output(0),
                };
                k::mlp_fusion::cpu::mlp_fusion(context, spec, operands);
            }
            Op::ImagePass(spec) => {
                let x = match spec.update {
                    true => self.output::<T>(0),
                    // SAFETY: the only slice of this operand; a pass that only attends does not change it.
                    false => unsafe { self.memory.slice_mut(self.node.input(Slot::X).expect("validated operand")) },
                };
                let operands = ImagePassOperands::<T> {
                    pe: self.operand(Slot::Pe),
                    update_scores: self.optional(Slot::UpdateScores).unwrap_or_default(),
                    update_score_bias: self.optional(Slot::UpdateScoreBias).unwrap_or_default(),
                    update_values: self.optional(Slot::UpdateValues).unwrap_or_default(),
                    update_bias: self.optional(Slot::UpdateBias).unwrap_or_default(),
                    norm: (
                        self.optional(Slot::NormWeight).unwrap_or_default(),
                        self.optional(Slot::NormBias).unwrap_or_default(),
                    ),
                    attend_scores: self.optional(Slot::AttendScores).unwrap_or_default(),
                    x,
                    pooled: match spec.attend {
                        true => self.output(usize::from(spec.update)),
                        false => &mut [],
                    },
                    workspace: self.workspace(spec.workspace_len()),
                };
                k::token_attention::cpu::image_pass(context, spec, operands);
            }
            Op::TokenStep(spec) => self.token_step(context, spec),
            Op::MaskHead(spec) => {
                let logits = spec.output == k::mask_head::MaskHeadOutput::Logits;
                let operands = MaskHeadOperands::<T> {
                    x: self.operand(Slot::X),
                    weight1: self.packed(Slot::Weight),
                    bias1: self.operand(Slot::Bias),
                    norm: self.pair(Slot::NormWeight, Slot::NormBias),
                    weight2: self.packed(Slot::Weight1),
                    bias2: self.operand(Slot::Bias1),
                    hyper: self.operand(Slot::Hyper),
                    logits: logits.then(|| self.output(0)),
                    labels: (!logits).then(|| self.output(0)),
                };
                k::mask_head::cpu::mask_head(context, spec, operands);
            }
            _ => self.run_unfused::<T>(context),
        }
    }

    fn token_step(&self, context: &mut Context, spec: &segface_kernels::token_attention::TokenStepSpec) {
        use segface_kernels::token_attention::TokenStage;
        let last = spec.stage == TokenStage::Final;
        let role_norm = |role| self.pair(Slot::RoleNormWeight(role), Slot::RoleNormBias(role));
        let middle = |index: usize| -> &'p mut [f32] { if last { &mut [] } else { self.output(index) } };
        let operands = TokenStepOperands {
            token_pe: self.operand(Slot::Pe),
            pooled: self.operand(Slot::Pooled),
            q_in: self.operand(Slot::X),
            pending: self.attention(AttentionRole::Pending),
            pending_norm: role_norm(AttentionRole::Pending),
            mlp: (!last).then(|| {
                (
                    self.linear(Slot::Weight, Slot::Bias),
                    self.linear(Slot::Weight1, Slot::Bias1),
                    self.pair(Slot::PostNormWeight, Slot::PostNormBias),
                )
            }),
            image_to_token: (!last).then(|| self.attention(AttentionRole::ImageToToken)),
            self_attention: (spec.stage == TokenStage::Layer0)
                .then(|| (self.attention(AttentionRole::SelfAttention), role_norm(AttentionRole::SelfAttention))),
            next: (!last).then(|| self.attention(AttentionRole::Next)),
            hyper_mlp: last.then(|| {
                [(Slot::Weight, Slot::Bias), (Slot::Weight1, Slot::Bias1), (Slot::Weight2, Slot::Bias2)]
                    .map(|(weight, bias)| self.linear(weight, bias))
            }),
            q_out: self.output(0),
            update_scores: middle(1),
            update_score_bias: middle(2),
            update_values: middle(3),
            attend_scores: middle(4),
            hyper: if last { self.output(1) } else { &mut [] },
        };
        segface_kernels::token_attention::cpu::token_step(context, spec, operands);
    }

    /// Operators that only un-fused plans hold.
    fn run_unfused<T: Element>(&self, context: &mut Context) {
        use segface_kernels as k;
        match &self.node.op {
            Op::Attention(spec) => {
                let operands = AttentionOperands::<T> {
                    q: self.operand(Slot::Query),
                    k: self.operand(Slot::Key),
                    v: self.operand(Slot::Value),
                    out: self.output(0),
                };
                k::attention::cpu::attention(context, spec, operands);
            }
            Op::Bilinear(spec) => {
                k::resample::cpu::bilinear::<T>(context, spec, self.operand(Slot::X), self.output(0));
            }
            Op::Concat(spec) => {
                let operands = [Slot::X, Slot::X1, Slot::X2, Slot::X3].map(|slot| self.operand(slot));
                k::resample::cpu::concat::<T>(context, spec, operands, self.output(0));
            }
            Op::PixelShuffle(spec) => {
                k::resample::cpu::pixel_shuffle::<T>(context, spec, self.operand(Slot::X), self.output(0));
            }
            Op::MaxPool(spec) => {
                k::resample::cpu::max_pool::<T>(context, spec, self.operand(Slot::X), self.output(0));
            }
            Op::SumPool(spec) => {
                k::resample::cpu::sum_pool::<T>(context, spec, self.operand(Slot::X), self.output(0));
            }
            Op::WindowGather(spec) => {
                let operands = WindowGatherOperands::<T> {
                    x: self.operand(Slot::X),
                    fill: self.optional(Slot::Fill),
                    out: self.output(0),
                };
                k::window_attention::cpu::window_gather(context, spec, operands);
            }
            Op::WindowScatter(spec) => {
                let operands = WindowScatterOperands::<T> { x: self.operand(Slot::X), out: self.output(0) };
                k::window_attention::cpu::window_scatter(context, spec, operands);
            }
            Op::WindowCore(spec) => {
                let operands = WindowCoreOperands::<T> {
                    qkv: self.operand(Slot::X),
                    score_scale: self.operand(Slot::ScoreScale),
                    bias: self.operand(Slot::ScoreBias),
                    out: self.output(0),
                };
                k::window_attention::cpu::window_core(context, spec, operands);
            }
            Op::PatchGather(spec) => {
                let operands = PatchGatherOperands::<T> { x: self.operand(Slot::X), out: self.output(0) };
                k::patch_merge::cpu::patch_gather(context, spec, operands);
            }
            Op::MaskProduct(spec) => {
                let (x, hyper) = (self.operand::<T>(Slot::X), self.operand(Slot::Hyper));
                k::mask_head::cpu::mask_product(context, spec, x, hyper, self.output(0));
            }
            Op::ArgMax(spec) => {
                k::mask_head::cpu::arg_max(context, spec, self.operand(Slot::X), self.output(0));
            }
            Op::Convert(spec) => match (spec.from, spec.to) {
                (DType::F32, DType::Bf16) => {
                    k::elementwise::convert::<f32, bf16>(context, self.operand(Slot::X), self.output(0));
                }
                _ => k::elementwise::convert::<bf16, f32>(context, self.operand(Slot::X), self.output(0)),
            },
            _ => unreachable!("validated: operators of training are run by the training step"),
        }
    }
}

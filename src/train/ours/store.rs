//! Parameters, buffers and gradients, and what is made of them.

use super::super::{Layout, Role};
use super::fold::Fold;
use crate::engine::call::{Constants, Operand};
use crate::engine::cpu::Arena;
use segface_codegen::grad::Training;
use segface_codegen::ir::{Graph, Node, Op, Slot, Source, ValueId};
use segface_codegen::plan::{Format, constant_format};
use segface_codegen::weights::{Make, Recipe};
use segface_kernels::context::Disjoint;
use segface_kernels::elementwise::convert;
use segface_kernels::gemm::PackedMatrix;
use segface_kernels::{Context, DType, Element, Isa, bf16};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Values of packed weights of convolutions that are kept from one step to the next; larger networks pack each before its use.
const KEPT: usize = 32 << 20;

/// Where a tensor of a recipe lies.
#[derive(Clone)]
struct Place {
    /// In the buffers, else in the parameters.
    buffer: bool,
    range: Range<usize>,
    trained: bool,
}

/// What a value of the graph is made from.
struct Made {
    recipe: Recipe,
    places: Vec<Place>,
}

/// The flat arrays and the arena, and what kernels take of them.
pub(in crate::train) struct Store {
    parameters: Vec<f32>,
    buffers: Vec<f32>,
    /// It begins with the gradients.
    arena: Arena,
    gradients_len: usize,
    /// By value: values that are made from tensors.
    made: Vec<Option<Made>>,
    /// By value: the numbers of those that are not published tensors as they are.
    numbers: Vec<Option<Arc<[f32]>>>,
    /// By value: the numbers of those that stand where activations do, if activations are bf16.
    narrow: Vec<Option<Vec<bf16>>>,
    /// Type of activations.
    activation: DType,
    /// Packed weights of convolutions, by value.
    packed: BTreeMap<ValueId, PackedMatrix>,
    keep: bool,
    scratch: PackedMatrix,
    /// Whether `numbers` and `packed` are older than the parameters, or than the buffers.
    stale: [bool; 2],
}

impl Store {
    pub(super) fn new(layout: &Layout, training: &Training) -> Store {
        let (graph, activation) = (&training.graph, training.precision.dtype());
        let place = |name: &str| {
            let entry = layout.find(name)?;
            Some(Place { buffer: entry.role != Role::Parameter, range: entry.range.clone(), trained: entry.trained })
        };
        let made = graph.values.iter().map(|value| match &value.source {
            Source::Weight(recipe) => {
                let places = recipe.tensors.iter().map(|tensor| place(&tensor.name)).collect::<Option<Vec<_>>>()?;
                Some(Made { recipe: recipe.clone(), places })
            }
            _ => None,
        });
        let made: Vec<Option<Made>> = made.collect();
        let mut narrow: Vec<Option<Vec<bf16>>> = vec![None; made.len()];
        for node in &graph.nodes {
            for (slot, value) in &node.inputs {
                if made[value.0].is_some() && constant_format(&node.op, *slot, activation) == Format::Bf16 {
                    narrow[value.0] = Some(Vec::new());
                }
            }
        }
        Store {
            activation,
            narrow,
            parameters: vec![0.0; layout.parameters_len()],
            buffers: vec![0.0; layout.buffers_len()],
            arena: Arena::new(training.memory.arena_bytes),
            gradients_len: layout.parameters_len(),
            numbers: vec![None; made.len()],
            made,
            packed: BTreeMap::new(),
            keep: layout.parameters_len() <= KEPT,
            scratch: PackedMatrix::empty(),
            stale: [true; 2],
        }
    }

    pub(super) fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    pub(super) fn parameters_mut(&mut self) -> &mut [f32] {
        self.stale[0] = true;
        &mut self.parameters
    }

    pub(super) fn buffers(&self) -> &[f32] {
        &self.buffers
    }

    pub(super) fn buffers_mut(&mut self) -> &mut [f32] {
        self.stale[1] = true;
        &mut self.buffers
    }

    pub(super) fn gradients(&self) -> &[f32] {
        &bytemuck::cast_slice(self.arena.as_bytes())[..self.gradients_len]
    }

    pub(super) fn gradients_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(self.arena.as_bytes_mut())[..self.gradients_len]
    }

    /// Where the arena begins.
    pub(super) fn base(&mut self) -> *mut u8 {
        self.arena.base()
    }

    /// Parameters, buffers and gradients as they lie, for what moves no parameter but runs part of a step.
    #[cfg(feature = "libtorch")]
    pub(in crate::train) fn arrays(&mut self) -> [&mut [f32]; 3] {
        let gradients = &mut bytemuck::cast_slice_mut(self.arena.as_bytes_mut())[..self.gradients_len];
        [&mut self.parameters, &mut self.buffers, gradients]
    }

    pub(super) fn parameters_and_gradients(&mut self) -> (&mut [f32], &[f32]) {
        self.stale[0] = true;
        (&mut self.parameters, &bytemuck::cast_slice(self.arena.as_bytes())[..self.gradients_len])
    }

    pub(super) fn bytes(&self) -> usize {
        let flat = self.parameters.len() + self.buffers.len();
        let numbers: usize = self.numbers.iter().flatten().map(|numbers| numbers.len()).sum();
        let narrow: usize = self.narrow.iter().flatten().map(|numbers| 2 * numbers.len()).sum();
        let packed: usize = self.packed.values().map(PackedMatrix::bytes).sum();
        self.arena.bytes() + 4 * (flat + numbers) + narrow + packed + self.scratch.bytes()
    }

    /// Makes anew what is older than the tensors it is made from.
    pub(super) fn refresh(&mut self, context: &mut Context, graph: &Graph) {
        let flat = Flat { parameters: &self.parameters, buffers: Disjoint::new(&mut self.buffers) };
        for (index, made) in self.made.iter().enumerate() {
            let Some(Made { recipe, places }) = made else { continue };
            let stale = places.iter().any(|place| self.stale[usize::from(place.buffer)]);
            if recipe.make == Make::Plain || (self.numbers[index].is_some() && !stale) {
                continue;
            }
            self.numbers[index] = Some(match flat.fold(recipe, places) {
                Some(fold) => fold.matrix(context).into(),
                None => recipe.evaluate(&flat.tensors(places)),
            });
        }
        for (index, narrow) in self.narrow.iter_mut().enumerate() {
            if let Some(narrow) = narrow {
                let wide = numbers(&self.made, &self.numbers, flat, ValueId(index)).unwrap_or_default();
                narrow.resize(wide.len(), bf16::ZERO);
                convert(context, wide, narrow);
            }
        }
        debug_assert!(
            self.made.iter().zip(&graph.values).all(|(m, v)| m.is_some() == matches!(v.source, Source::Weight(_)))
        );
        if self.stale[0] {
            // Emptied, not dropped: their memory is used again.
            for matrix in self.packed.values_mut() {
                matrix.forget();
            }
        }
        self.stale = [false; 2];
    }

    /// Sees to it that the weight of a convolution is packed; products pack theirs on the way.
    pub(super) fn pack<T: Element>(&mut self, isa: Isa, node: &Node) -> Option<ValueId> {
        let Op::Conv(spec) = &node.op else { return None };
        let (n, k) = (spec.out_channels, spec.depth());
        let value = node.input(Slot::Weight)?;
        let flat = Flat { parameters: &self.parameters, buffers: Disjoint::new(&mut self.buffers) };
        let numbers = numbers(&self.made, &self.numbers, flat, value)?;
        if self.keep {
            let matrix = self.packed.entry(value).or_insert_with(PackedMatrix::empty);
            if matrix.n() == 0 {
                matrix.repack::<T>(isa, n, k, numbers, false);
            }
        } else {
            self.scratch.repack::<T>(isa, n, k, numbers, false);
        }
        Some(value)
    }

    /// What kernels read, what they add to, and the arena's beginning: values there overlap no gradient that is added to meanwhile.
    pub(super) fn split(&mut self, packed: Option<ValueId>) -> (Values<'_>, Sums<'_>, *mut u8) {
        let Store { parameters, buffers, arena, gradients_len, made, numbers, narrow, activation, .. } = self;
        let base = arena.base();
        // SAFETY: the arena begins with that many gradients. They are used by the `Sums` alone; what else lies there while a kernel runs is
        // reached by `base`, and by the plan is no gradient yet.
        let gradients = unsafe { std::slice::from_raw_parts_mut(base.cast::<f32>(), *gradients_len) };
        let packed = packed.and_then(|key| if self.keep { self.packed.get(&key) } else { Some(&self.scratch) });
        let flat = Flat { parameters, buffers: Disjoint::new(buffers) };
        (
            Values { flat, made, numbers, narrow, activation: *activation, packed },
            Sums { gradients: Disjoint::new(gradients), flat, made },
            base,
        )
    }

    /// One more batch for the batch norms that are trained.
    pub(super) fn count_batch(&mut self, layout: &Layout) {
        for entry in layout.buffers().iter().filter(|entry| entry.role == Role::Count && entry.trained) {
            self.buffers[entry.range.clone()].iter_mut().for_each(|count| *count += 1.0);
        }
    }
}

/// The tensors as they lie in the flat arrays. Running statistics are written while others of the buffers are read.
#[derive(Clone, Copy)]
struct Flat<'a> {
    parameters: &'a [f32],
    buffers: Disjoint<'a, f32>,
}

impl<'a> Flat<'a> {
    fn tensor(&self, place: &Place) -> &'a [f32] {
        if !place.buffer {
            return &self.parameters[place.range.clone()];
        }
        // SAFETY: a kernel that writes a statistic (`Sums::statistic`) does not read it otherwise, and one kernel runs at a time.
        unsafe { self.buffers.slice(place.range.start, place.range.len()) }
    }

    fn tensors(&self, places: &[Place]) -> Vec<Cow<'a, [f32]>> {
        places.iter().map(|place| Cow::Borrowed(self.tensor(place))).collect()
    }

    /// The folded matrix that a recipe makes, if it makes one.
    fn fold(&self, recipe: &Recipe, places: &[Place]) -> Option<Fold<'a>> {
        let Make::FoldedProjection { column } = recipe.make else { return None };
        let (shape, projected) = (&recipe.tensors[0].shape, &recipe.tensors[1].shape);
        let (fusion, projection) = (self.tensor(&places[0]), self.tensor(&places[1]));
        Some(Fold { fusion, row_len: shape[1], column, projection, size: [projected[0], projected[1]] })
    }
}

/// The numbers of a value that is made from tensors, row-major.
fn numbers<'a>(
    made: &'a [Option<Made>],
    numbers: &'a [Option<Arc<[f32]>>],
    flat: Flat<'a>,
    value: ValueId,
) -> Option<&'a [f32]> {
    if let Some(numbers) = &numbers[value.0] {
        return Some(numbers);
    }
    made[value.0].as_ref()?.places.first().map(|place| flat.tensor(place))
}

/// What kernels read: see [`Store`].
pub(super) struct Values<'a> {
    flat: Flat<'a>,
    made: &'a [Option<Made>],
    numbers: &'a [Option<Arc<[f32]>>],
    narrow: &'a [Option<Vec<bf16>>],
    activation: DType,
    packed: Option<&'a PackedMatrix>,
}

impl Constants for Values<'_> {
    fn constant(&self, node: &Node, slot: Slot) -> Option<Operand<'_>> {
        if matches!(node.op, Op::Conv(_)) && slot == Slot::Weight {
            return self.packed.map(Operand::Packed);
        }
        let value = node.input(slot)?;
        if constant_format(&node.op, slot, self.activation) == Format::Bf16 {
            return self.narrow[value.0].as_deref().map(Operand::Bf16);
        }
        numbers(self.made, self.numbers, self.flat, value).map(Operand::F32)
    }
}

/// Where kernels add gradients of parameters, and write running statistics.
pub(super) struct Sums<'a> {
    gradients: Disjoint<'a, f32>,
    flat: Flat<'a>,
    made: &'a [Option<Made>],
}

/// Where a kernel adds the gradient of one operand.
pub(super) enum Target<'a> {
    /// It is not trained.
    None,
    /// The flat array.
    Flat(&'a mut [f32]),
    /// Memory of its own, from where the recipe's adjoint takes it.
    Made(ValueId, Vec<f32>),
}

impl Target<'_> {
    /// The memory, if the operand is trained.
    pub(super) fn slice(&mut self) -> Option<&mut [f32]> {
        match self {
            Target::None => None,
            Target::Flat(slice) => Some(slice),
            Target::Made(_, numbers) => Some(numbers),
        }
    }
}

impl<'a> Sums<'a> {
    /// Where the gradient of the operand in `slot` of `node` goes.
    pub(super) fn target(&self, node: &Node, slot: Slot, len: usize) -> Target<'a> {
        let Some(value) = node.input(slot) else { return Target::None };
        let Some(Made { recipe, places }) = &self.made[value.0] else { return Target::None };
        if !places.iter().any(|place| place.trained) {
            return Target::None;
        }
        match (&recipe.make, &places[..]) {
            (Make::Plain, [place]) => {
                // SAFETY: tensors do not overlap, and a node's operands are different tensors.
                Target::Flat(unsafe { self.gradients.slice(place.range.start, place.range.len()) })
            }
            _ => Target::Made(value, vec![0.0; len]),
        }
    }

    /// Several targets of one kernel that takes all or none: if any is trained, the others get memory that is thrown away.
    pub(super) fn targets<const N: usize>(&self, node: &Node, slots: [(Slot, usize); N]) -> [Target<'a>; N] {
        let targets = slots.map(|(slot, len)| self.target(node, slot, len));
        if targets.iter().all(|target| matches!(target, Target::None)) {
            return targets;
        }
        self.all_targets(node, slots)
    }

    /// Several targets of one kernel that takes all of them, trained or not.
    pub(super) fn all_targets<const N: usize>(&self, node: &Node, slots: [(Slot, usize); N]) -> [Target<'a>; N] {
        slots.map(|(slot, len)| match (self.target(node, slot, len), node.input(slot)) {
            (Target::None, Some(value)) => Target::Made(value, vec![0.0; len]),
            (target, _) => target,
        })
    }

    /// Brings what kernels have added to memory of its own to the published tensors.
    pub(super) fn finish<const N: usize>(&self, context: &mut Context, targets: [Target<'a>; N]) {
        for target in targets {
            let Target::Made(value, d) = target else { continue };
            let Some(Made { recipe, places }) = &self.made[value.0] else { continue };
            if !places.iter().any(|place| place.trained) {
                continue;
            }
            if let Some(fold) = self.flat.fold(recipe, places) {
                let [fusion, projection] = [0, 1].map(|index| {
                    let place = &places[index];
                    // SAFETY: no other slice of the gradients is alive, and these are two tensors.
                    place.trained.then(|| unsafe { self.gradients.slice(place.range.start, place.range.len()) })
                });
                fold.adjoint(context, &d, fusion, projection);
                continue;
            }
            let gradients = recipe.adjoint(&self.flat.tensors(places), &d);
            for (gradient, place) in gradients.into_iter().zip(places) {
                if let (Some(gradient), true, false) = (gradient, place.trained, place.buffer) {
                    // SAFETY: no other slice of the gradients is alive: targets of the flat array are used up.
                    let sums = unsafe { self.gradients.slice(place.range.start, place.range.len()) };
                    sums.iter_mut().zip(gradient).for_each(|(sum, d)| *sum += d);
                }
            }
        }
    }

    /// A running statistic.
    pub(super) fn statistic(&self, node: &Node, slot: Slot) -> Option<&'a mut [f32]> {
        let place = self.made[node.input(slot)?.0].as_ref()?.places.first()?;
        // SAFETY: tensors do not overlap, and each statistic is asked for once per call, by a kernel that does not read it otherwise.
        place.buffer.then(|| unsafe { self.flat.buffers.slice(place.range.start, place.range.len()) })
    }
}

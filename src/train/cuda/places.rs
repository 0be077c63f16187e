//! Where on the card each operand of a training step lies, and what is made of the parameters for it.

use super::super::{Layout, Role};
use segface_codegen::cuda::{Form, TrainingProgram};
use segface_codegen::ir::{Source, ValueId};
use segface_codegen::weights::{Make, Recipe};
use std::borrow::Cow;
use std::ops::Range;

/// Alignment of what is made: a whole memory transaction.
const ALIGNMENT: usize = 256;

/// Where a tensor of a recipe lies in the flat arrays.
struct Tensor {
    /// In the buffers, else in the parameters.
    buffer: bool,
    range: Range<usize>,
    trained: bool,
}

/// A value of the graph that is made from tensors.
struct Made {
    recipe: Recipe,
    tensors: Vec<Tensor>,
    len: usize,
}

impl Made {
    fn is_plain(&self) -> bool {
        self.recipe.make == Make::Plain
    }
}

/// Where a constant or a sum of gradients lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Element of the parameters' array, or of their gradients'.
    Parameter(usize),
    /// Element of the buffers' array.
    Buffer(usize),
    /// Byte of the memory of what is made.
    Made(usize),
    /// Nowhere: it is not trained.
    Nowhere,
}

/// All of it.
pub(super) struct Places {
    /// By value.
    made: Vec<Option<Made>>,
    /// By constant of the program.
    pub(super) constants: Vec<Place>,
    /// By value; element of the sums of gradients of what is made, where that is trained.
    gradients: Vec<Option<usize>>,
    /// Bytes of what recipes make; they lie before what is packed.
    pub(super) evaluated_bytes: usize,
    /// Bytes of all that is made.
    pub(super) made_bytes: usize,
    /// Elements of the sums of gradients of what is made.
    pub(super) made_gradients: usize,
}

impl Places {
    pub(super) fn new(layout: &Layout, program: &TrainingProgram) -> Option<Places> {
        let tensor = |name: &str| {
            let entry = layout.find(name)?;
            let buffer = entry.role != Role::Parameter;
            Some(Tensor { buffer, range: entry.range.clone(), trained: entry.trained && !buffer })
        };
        let mut made = Vec::with_capacity(program.graph.values.len());
        for value in &program.graph.values {
            made.push(match &value.source {
                Source::Weight(recipe) => {
                    let tensors = recipe.tensors.iter().map(|decl| tensor(&decl.name)).collect::<Option<Vec<_>>>()?;
                    Some(Made { recipe: recipe.clone(), tensors, len: value.len() })
                }
                _ => None,
            });
        }
        let mut constants = vec![Place::Nowhere; program.constants.len()];
        let mut bytes = 0;
        let mut take = |length: usize| {
            let place = Place::Made(bytes);
            bytes = (bytes + length).next_multiple_of(ALIGNMENT);
            (place, bytes)
        };
        let mut evaluated_bytes = 0;
        for ((value, form), place) in program.constants.iter().zip(&mut constants) {
            let of = made[value.0].as_ref()?;
            if form.packed().is_some() {
                continue;
            }
            *place = match &of.tensors[..] {
                [tensor] if of.is_plain() && tensor.buffer => Place::Buffer(tensor.range.start),
                [tensor] if of.is_plain() => Place::Parameter(tensor.range.start),
                _ => {
                    let (place, end) = take(form.bytes(program.precision, of.len));
                    evaluated_bytes = end;
                    place
                }
            };
        }
        for ((_, form), place) in program.constants.iter().zip(&mut constants) {
            if form.packed().is_some() {
                *place = take(form.bytes(program.precision, 0)).0;
            }
        }
        let made_bytes = take(0).1;
        let mut made_gradients = 0;
        let gradients = made.iter().map(|of| {
            let of = of.as_ref().filter(|of| !of.is_plain() && of.tensors.iter().any(|tensor| tensor.trained))?;
            let first = made_gradients;
            made_gradients = (first + of.len).next_multiple_of(ALIGNMENT / size_of::<f32>());
            Some(first)
        });
        let gradients = gradients.collect();
        Some(Places { made, constants, gradients, evaluated_bytes, made_bytes, made_gradients })
    }

    /// Where gradients of a value are added up: [`Place::Parameter`] in the flat array, [`Place::Made`] in bytes of that of what is made.
    pub(super) fn gradient(&self, value: ValueId) -> Place {
        match (&self.made[value.0], self.gradients[value.0]) {
            (Some(_), Some(first)) => Place::Made(first * size_of::<f32>()),
            (Some(of), None) if of.is_plain() && of.tensors.iter().all(|tensor| tensor.trained) => {
                of.tensors.first().map_or(Place::Nowhere, |tensor| Place::Parameter(tensor.range.start))
            }
            _ => Place::Nowhere,
        }
    }

    /// What recipes make of these parameters and buffers, as it lies on the card.
    pub(super) fn evaluate(&self, program: &TrainingProgram, parameters: &[f32], buffers: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; self.evaluated_bytes];
        for ((value, form), place) in program.constants.iter().zip(&self.constants) {
            let (Place::Made(at), Some(made), None) = (*place, &self.made[value.0], form.packed()) else { continue };
            let numbers = made.recipe.evaluate(&tensors(made, parameters, buffers));
            let numbers = form.make(program.precision, &numbers);
            bytes[at..at + numbers.len()].copy_from_slice(&numbers);
        }
        bytes
    }

    /// Whether something that a recipe makes depends on the parameters, or on the buffers.
    pub(super) fn depends(&self, form_of: &[(ValueId, Form)], buffers: bool) -> bool {
        let mut made = form_of.iter().filter_map(|(value, _)| self.made[value.0].as_ref());
        made.any(|made| !made.is_plain() && made.tensors.iter().any(|tensor| tensor.buffer == buffers))
    }

    /// Brings sums of gradients of what is made to the published tensors: the recipes' adjoints, in f64.
    pub(super) fn adjoint(&self, sums: &[f32], parameters: &[f32], buffers: &[f32], gradients: &mut [f32]) {
        for (made, first) in self.made.iter().zip(&self.gradients) {
            let (Some(made), Some(first)) = (made, *first) else { continue };
            let shares = made.recipe.adjoint(&tensors(made, parameters, buffers), &sums[first..first + made.len]);
            for (share, tensor) in shares.into_iter().zip(&made.tensors) {
                if let (Some(share), true) = (share, tensor.trained) {
                    gradients[tensor.range.clone()].iter_mut().zip(share).for_each(|(sum, d)| *sum += d);
                }
            }
        }
    }
}

/// The tensors of a recipe.
fn tensors<'a>(made: &Made, parameters: &'a [f32], buffers: &'a [f32]) -> Vec<Cow<'a, [f32]>> {
    let of = |tensor: &Tensor| Cow::Borrowed(&(if tensor.buffer { buffers } else { parameters })[tensor.range.clone()]);
    made.tensors.iter().map(of).collect()
}

//! What the trainer asks of whatever computes losses and gradients.

use super::Layout;
use crate::Error;
use crate::data::Batch;
use std::ops::Range;

/// One replica of a network in training. Parameters, gradients and buffers are flat arrays in the order of [`Engine::layout`]; what lies
/// between two tensors of it is zero and stays zero.
pub trait Engine {
    /// Which tensors there are, and where.
    fn layout(&self) -> &Layout;

    /// `[layout().parameters_len()]`: the f32 masters, whatever the precision of the arithmetic.
    fn parameters(&self) -> &[f32];

    /// The same to be changed; what is derived from them (packed weights, folded matrices) is made anew by the next call of
    /// [`Engine::accumulate`].
    fn parameters_mut(&mut self) -> &mut [f32];

    /// `[layout().buffers_len()]`: statistics of batch norms, their counters, fixed tables.
    fn buffers(&self) -> &[f32];

    /// The same to be changed.
    fn buffers_mut(&mut self) -> &mut [f32];

    /// `[layout().parameters_len()]`: sums of gradients since they were last cleared. Those of tensors that are not
    /// [trained](super::Entry::trained) stay as they are.
    fn gradients(&self) -> &[f32];

    /// The same, to be cleared, clipped or replaced by those of all replicas.
    fn gradients_mut(&mut self) -> &mut [f32];

    /// Parameters to be changed by gradients.
    fn parameters_and_gradients(&mut self) -> (&mut [f32], &[f32]);

    /// Forward and backward of one micro-batch in training mode: adds `scale` times the gradients of its loss, and moves the running
    /// statistics of batch norms that are trained. Batch norms and both parts of the loss see this micro-batch only, as a replica's do in
    /// the published training.
    ///
    /// `ready` hears of ranges of the gradients that nothing of this call will change any more, so that they can travel to other replicas
    /// while the rest is computed: each at most once, none overlapping another. What was not announced is final on return.
    ///
    /// The same arguments, parameters and buffers give the same bits.
    ///
    /// # Errors
    /// What the engine cannot run: a batch of another size than it was made for, labels out of range.
    fn accumulate(&mut self, batch: &Batch, draws: Draws, scale: f32, ready: &mut Ready<'_>) -> Result<Loss, Error>;
}

/// Hears of a range of the flat gradients, with its values, once it is final.
pub type Ready<'a> = dyn FnMut(Range<usize>, &[f32]) + 'a;

/// Where the random numbers of one micro-batch (stochastic depth, dropout) come from: they are a function of this and of the place in the
/// network, so that a resumed run and another number of processes draw the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Draws {
    /// The run's seed.
    pub seed: u64,
    /// Step of the optimizer, from 0.
    pub step: u64,
    /// Which micro-batch of that step, over all processes, from 0.
    pub micro_batch: u32,
}

/// Loss of one micro-batch, a mean over its pixels (cross-entropy) and classes (dice).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    /// Mean cross-entropy over all pixels.
    pub cross_entropy: f64,
    /// `1 − (2Σpt + 1e-5)/(Σp² + Σt² + 1e-5)`, sums over the whole micro-batch, mean over all classes.
    pub dice: f64,
}

impl Loss {
    /// What is minimised: half of each.
    pub fn total(&self) -> f64 {
        0.5 * self.cross_entropy + 0.5 * self.dice
    }
}

//! The CPU twin. Sixteen pixels are taken at a time and turned, so that a class is a vector of pixels and softmax needs no
//! sum within a vector. The first sweep adds up the loss and what the dice needs of each class, the second computes softmax
//! again and writes the gradient.

use super::{LabelError, Loss, LossOperands, LossSpec};
use crate::act::exp;
use crate::context::{Disjoint, Scratch, scratch_bytes};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Isa};

/// Pixels taken at a time.
const BLOCK: usize = 16;

/// Pixels of one task.
const TASK: usize = 1024;

/// Added to numerator and denominator of the dice.
const SMOOTH: f64 = 1e-5;

/// Computes the loss, and its gradient if there is a place for it.
///
/// # Errors
/// If a label is no class; nothing is written then.
///
/// # Panics
/// If an operand's length is not what the spec says, or there is no pixel, or T is 0 or more than 256.
pub fn loss(ctx: &mut Context, spec: &LossSpec, operands: LossOperands<'_>) -> Result<Loss, LabelError> {
    let LossSpec { batch, pixels, classes } = *spec;
    let LossOperands { logits, labels, scale, d_logits } = operands;
    let all = batch * pixels;
    assert!((1..=256).contains(&classes), "{classes} classes");
    assert!(all > 0, "the loss of no pixel");
    assert_eq!((logits.len(), labels.len()), (all * classes, all), "logits and labels");
    assert!(d_logits.as_deref().is_none_or(|d| d.len() == logits.len()), "d_logits");
    if let Some(at) = labels.iter().position(|label| usize::from(*label) >= classes) {
        return Err(LabelError { image: at / pixels, pixel: at % pixels, label: labels[at], classes });
    }
    let isa = ctx.isa();
    let tasks = all.div_ceil(TASK);
    let part = |task: usize| task * TASK..all.min((task + 1) * TASK);
    let sums_len = 3 * classes + 1;
    let mut sums = vec![0.0f64; tasks * sums_len];
    {
        let sums = Disjoint::new(&mut sums);
        ctx.parallel(tasks, Buffers::bytes(classes), |task, scratch| {
            let part = part(task);
            // SAFETY: each task has its own sums.
            let sums = unsafe { sums.slice(task * sums_len, sums_len) };
            let mut buffers = Buffers::take(classes, scratch);
            for start in part.clone().step_by(BLOCK) {
                let count = BLOCK.min(part.end - start);
                buffers.softmax(isa, classes, &logits[start * classes..][..count * classes]);
                buffers.add_up(isa, classes, &labels[start..start + count], sums);
            }
            buffers.finish(classes, sums);
        });
    }
    let mut total = vec![0.0f64; sums_len];
    for sums in sums.chunks_exact(sums_len) {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    let cross_entropy = total[3 * classes] / all as f64;
    // Per class: 2Σpt + ε and Σp² + Σt² + ε.
    let parts: Vec<_> =
        (0..classes).map(|c| (2.0 * total[c] + SMOOTH, total[classes + c] + total[2 * classes + c] + SMOOTH)).collect();
    let dice = parts.iter().map(|(over, under)| 1.0 - over / under).sum::<f64>() / classes as f64;
    let loss = Loss { total: 0.5 * cross_entropy + 0.5 * dice, cross_entropy, dice };

    let Some(d_logits) = d_logits else {
        return Ok(loss);
    };
    // d loss / d p[c] = square[c]·p[c], less hit[c] where c is the label.
    let factor = f64::from(scale) * 0.5;
    let square: Vec<f32> =
        parts.iter().map(|(over, under)| (factor * 2.0 * over / (under * under) / classes as f64) as f32).collect();
    let hit: Vec<f32> = parts.iter().map(|(_, under)| (factor * 2.0 / under / classes as f64) as f32).collect();
    let mean = (factor / all as f64) as f32;
    let d_logits = Disjoint::new(d_logits);
    ctx.parallel(tasks, Buffers::bytes(classes), |task, scratch| {
        let part = part(task);
        let mut buffers = Buffers::take(classes, scratch);
        for start in part.clone().step_by(BLOCK) {
            let count = BLOCK.min(part.end - start);
            buffers.softmax(isa, classes, &logits[start * classes..][..count * classes]);
            // SAFETY: each task has its own pixels.
            let to = unsafe { d_logits.slice(start * classes, count * classes) };
            buffers.gradient(isa, &labels[start..start + count], (&square, &hit, mean), to);
        }
    });
    Ok(loss)
}

/// Working memory of a task.
struct Buffers<'a> {
    /// Blocks of sixteen pixels by sixteen classes.
    pixels: &'a mut [f32],
    /// [classes, 16]: p by class, classes rounded up to sixteen.
    turned: &'a mut [f32],
    /// [classes, 16]: Σp² by lane.
    squares: &'a mut [f32],
    /// Largest logit and Σ of exponentials of each pixel.
    largest: &'a mut [f32],
    total: &'a mut [f32],
    /// A value per pixel.
    own: &'a mut [f32],
}

impl<'a> Buffers<'a> {
    fn bytes(classes: usize) -> usize {
        3 * scratch_bytes::<f32>(classes.next_multiple_of(BLOCK) * BLOCK) + 3 * scratch_bytes::<f32>(BLOCK)
    }

    fn take(classes: usize, mut scratch: Scratch<'a>) -> Self {
        let len = classes.next_multiple_of(BLOCK) * BLOCK;
        let buffers = Self {
            pixels: scratch.take(len),
            turned: scratch.take(len),
            squares: scratch.take(len),
            largest: scratch.take(BLOCK),
            total: scratch.take(BLOCK),
            own: scratch.take(BLOCK),
        };
        buffers.squares.fill(0.0);
        buffers
    }

    /// Softmax of at most sixteen pixels, whose logits are given, into `turned`.
    fn softmax(&mut self, isa: Isa, classes: usize, logits: &[f32]) {
        dispatch(isa, Softmax { classes, logits, buffers: self });
    }

    /// Adds what pixels of these labels contribute to the sums: Σpt, Σp² (later), Σt² and the cross-entropy.
    fn add_up(&mut self, isa: Isa, classes: usize, labels: &[u8], sums: &mut [f64]) {
        for (lane, label) in labels.iter().enumerate() {
            let label = usize::from(*label);
            sums[label] += f64::from(self.turned[label * BLOCK + lane]);
            sums[2 * classes + label] += 1.0;
            let block = label / BLOCK * BLOCK * BLOCK;
            let logit = self.pixels[block + lane * BLOCK + label % BLOCK];
            sums[3 * classes] += f64::from((self.largest[lane] - logit) + self.total[lane].ln());
        }
        dispatch(isa, Squares { classes, pixels: labels.len(), buffers: self });
    }

    /// Writes Σp² of all blocks.
    fn finish(&self, classes: usize, sums: &mut [f64]) {
        for (sum, squares) in sums[classes..2 * classes].iter_mut().zip(self.squares.chunks_exact(BLOCK)) {
            *sum = squares.iter().map(|v| f64::from(*v)).sum();
        }
    }

    /// The gradient of pixels of these labels, from softmax.
    fn gradient(&mut self, isa: Isa, labels: &[u8], (square, hit, mean): (&[f32], &[f32], f32), d_logits: &mut [f32]) {
        let classes = square.len();
        self.own.fill(0.0);
        for (lane, label) in labels.iter().enumerate() {
            let label = usize::from(*label);
            self.own[lane] = self.turned[label * BLOCK + lane] * hit[label];
        }
        dispatch(isa, Gradient { square, mean, buffers: self });
        for (lane, label) in labels.iter().enumerate() {
            let label = usize::from(*label);
            self.turned[label * BLOCK + lane] -= self.own[lane] + mean;
        }
        dispatch(isa, TurnBack { classes, buffers: self, d_logits });
    }
}

struct Softmax<'a, 'b> {
    classes: usize,
    logits: &'a [f32],
    buffers: &'a mut Buffers<'b>,
}

impl Kernel for Softmax<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { classes, logits, buffers } = self;
        let pixels = buffers.pixels.as_mut_ptr();
        let turned = buffers.turned.as_mut_ptr();
        let lanes = V::LANES;
        // SAFETY: buffers have whole blocks of sixteen classes; a pixel's logits are `classes` long.
        unsafe {
            for first in (0..classes).step_by(BLOCK) {
                let block = pixels.add(first * BLOCK);
                for pixel in 0..BLOCK {
                    let there = pixel * classes < logits.len();
                    let count = if there { BLOCK.min(classes - first) } else { 0 };
                    let from = logits.as_ptr().wrapping_add(pixel * classes + first);
                    for lane in (0..BLOCK).step_by(lanes) {
                        let value: V = load(from.wrapping_add(lane), count.saturating_sub(lane).min(lanes));
                        value.store(block.add(pixel * BLOCK + lane));
                    }
                }
                V::transpose(block.cast(), turned.add(first * BLOCK).cast());
            }
            for lane in (0..BLOCK).step_by(lanes) {
                let turned = turned.add(lane);
                let mut largest = V::load(turned);
                for class in 1..classes {
                    largest = largest.max(V::load(turned.add(class * BLOCK)));
                }
                let mut total = V::zero();
                for class in 0..classes {
                    let value = exp(V::load(turned.add(class * BLOCK)).sub(largest));
                    total = total.add(value);
                    value.store(turned.add(class * BLOCK));
                }
                let inverse = V::splat(1.0).div(total);
                for class in 0..classes {
                    V::load(turned.add(class * BLOCK)).mul(inverse).store(turned.add(class * BLOCK));
                }
                largest.store(buffers.largest.as_mut_ptr().add(lane));
                total.store(buffers.total.as_mut_ptr().add(lane));
            }
        }
    }
}

struct Squares<'a, 'b> {
    classes: usize,
    /// Pixels of the block that count.
    pixels: usize,
    buffers: &'a mut Buffers<'b>,
}

impl Kernel for Squares<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { classes, pixels, buffers } = self;
        let (turned, squares) = (buffers.turned.as_ptr(), buffers.squares.as_mut_ptr());
        for class in 0..classes {
            for lane in (0..BLOCK).step_by(V::LANES) {
                let count = pixels.saturating_sub(lane).min(V::LANES);
                // SAFETY: both hold sixteen values per class.
                unsafe {
                    let p: V = load(turned.add(class * BLOCK + lane), count);
                    let sum = squares.add(class * BLOCK + lane);
                    p.mul_add(p, V::load(sum)).store(sum);
                }
            }
        }
    }
}

/// `turned[c] = p·(square[c]·p − (Σ_c square[c]·p² − own)) + mean·p`
struct Gradient<'a, 'b> {
    square: &'a [f32],
    mean: f32,
    buffers: &'a mut Buffers<'b>,
}

impl Kernel for Gradient<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { square, mean, buffers } = self;
        let (turned, own) = (buffers.turned.as_mut_ptr(), buffers.own.as_ptr());
        let mean = V::splat(mean);
        for lane in (0..BLOCK).step_by(V::LANES) {
            // SAFETY: sixteen values per class, and sixteen of `own`.
            unsafe {
                let mut along = V::zero().sub(V::load(own.add(lane)));
                for (class, square) in square.iter().enumerate() {
                    let p = V::load(turned.add(class * BLOCK + lane));
                    along = p.mul(V::splat(*square)).mul_add(p, along);
                }
                for (class, square) in square.iter().enumerate() {
                    let at = turned.add(class * BLOCK + lane);
                    let p = V::load(at);
                    p.mul(p.mul_add(V::splat(*square), mean.sub(along))).store(at);
                }
            }
        }
    }
}

struct TurnBack<'a, 'b> {
    classes: usize,
    buffers: &'a mut Buffers<'b>,
    d_logits: &'a mut [f32],
}

impl Kernel for TurnBack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { classes, buffers, d_logits } = self;
        let pixels = d_logits.len() / classes;
        for first in (0..classes).step_by(BLOCK) {
            let count = BLOCK.min(classes - first);
            // SAFETY: buffers have whole blocks of sixteen classes; a pixel has `classes` values.
            unsafe {
                let block = buffers.pixels.as_mut_ptr().add(first * BLOCK);
                V::transpose(buffers.turned.as_ptr().add(first * BLOCK).cast(), block.cast());
                for pixel in 0..pixels {
                    let to = d_logits.as_mut_ptr().add(pixel * classes + first);
                    for lane in (0..count).step_by(V::LANES) {
                        let value = V::load(block.add(pixel * BLOCK + lane));
                        store(value, to.add(lane), V::LANES.min(count - lane));
                    }
                }
            }
        }
    }
}

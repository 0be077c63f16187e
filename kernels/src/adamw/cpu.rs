//! The CPU twin: one pass over all four buffers, bound by memory.

use super::{AdamWOperands, AdamWSpec};
use crate::Context;
use crate::context::Disjoint;
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};

/// Parameters of one task.
const TASK: usize = 1 << 14;

/// Updates parameters and moments.
///
/// # Panics
/// If the buffers differ in length, or the step is 0.
pub fn adamw(ctx: &mut Context, spec: &AdamWSpec, operands: AdamWOperands<'_>) {
    let AdamWOperands { gradients, parameters, first_moments, second_moments } = operands;
    let n = parameters.len();
    assert_eq!(
        (gradients.len(), first_moments.len(), second_moments.len()),
        (n, n, n),
        "the buffers of {n} parameters"
    );
    assert!(spec.step > 0, "steps are counted from 1");
    let AdamWSpec { learning_rate, betas: [beta1, beta2], eps, weight_decay, step, gradient_scale } = *spec;
    let power = |beta: f64| beta.powf(step as f64);
    let factors = Factors {
        gradient: gradient_scale,
        decay: (1.0 - learning_rate * weight_decay) as f32,
        keep: [beta1 as f32, beta2 as f32],
        take: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
        root: (1.0 - power(beta2)).sqrt() as f32,
        eps: eps as f32,
        step: (-learning_rate / (1.0 - power(beta1))) as f32,
    };
    let isa = ctx.isa();
    let parameters = Disjoint::new(parameters);
    let (first, second) = (Disjoint::new(first_moments), Disjoint::new(second_moments));
    ctx.parallel(n.div_ceil(TASK), 0, |task, _| {
        let (start, len) = (task * TASK, TASK.min(n - task * TASK));
        // SAFETY: each task has its own parameters.
        let (p, m, v) = unsafe { (parameters.slice(start, len), first.slice(start, len), second.slice(start, len)) };
        dispatch(isa, Step { factors, g: &gradients[start..start + len], p, m, v });
    });
}

/// What is the same for all parameters.
#[derive(Clone, Copy)]
struct Factors {
    gradient: f32,
    /// 1 − lr·weight decay
    decay: f32,
    /// β
    keep: [f32; 2],
    /// 1 − β
    take: [f32; 2],
    /// √(1 − β2^step)
    root: f32,
    eps: f32,
    /// −lr/(1 − β1^step)
    step: f32,
}

struct Step<'a> {
    factors: Factors,
    g: &'a [f32],
    p: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { factors, g, p, m, v } = self;
        let n = p.len();
        let scale = V::splat(factors.gradient);
        let [keep1, keep2] = factors.keep.map(V::splat);
        let [take1, take2] = factors.take.map(V::splat);
        let (decay, root, eps) = (V::splat(factors.decay), V::splat(factors.root), V::splat(factors.eps));
        let step = V::splat(factors.step);
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            // SAFETY: all four have n elements.
            unsafe {
                let (p, m, v) = (p.as_mut_ptr().add(i), m.as_mut_ptr().add(i), v.as_mut_ptr().add(i));
                let g = load::<V, f32>(g.as_ptr().add(i), count).mul(scale);
                let first = g.mul_add(take1, load::<V, f32>(m, count).mul(keep1));
                let second = take2.mul(g).mul_add(g, load::<V, f32>(v, count).mul(keep2));
                let under = second.sqrt().div(root).add(eps);
                let moved = step.mul(first).div(under);
                store(load::<V, f32>(p, count).mul(decay).add(moved), p, count);
                store(first, m, count);
                store(second, v, count);
            }
            i += count;
        }
    }
}

/// Euclidean norm of all gradients, in the same order for any number of threads; NaN or infinite if one of them is.
pub fn norm(ctx: &mut Context, gradients: &[f32]) -> f64 {
    let isa = ctx.isa();
    let tasks = gradients.len().div_ceil(TASK);
    let mut sums = vec![0.0f64; tasks];
    let all = Disjoint::new(&mut sums);
    ctx.parallel(tasks, 0, |task, _| {
        let x = &gradients[task * TASK..gradients.len().min((task + 1) * TASK)];
        // SAFETY: each task has its own sum.
        let sum = unsafe { all.slice(task, 1) };
        // Short chains: what f32 loses in 64 additions per lane vanishes beside the gradients' own error.
        sum[0] = x.chunks(1 << 10).map(|x| f64::from(dispatch(isa, Squares { x }))).sum();
        if !sum[0].is_finite() {
            // Squares above the largest f32: again in f64.
            sum[0] = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        }
    });
    sums.iter().sum::<f64>().sqrt()
}

struct Squares<'a> {
    x: &'a [f32],
}

impl Kernel for Squares<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let n = self.x.len();
        let mut sum = V::zero();
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            // SAFETY: inside x.
            let x: V = unsafe { load(self.x.as_ptr().add(i), count) };
            sum = x.mul_add(x, sum);
            i += count;
        }
        sum.reduce_add()
    }
}

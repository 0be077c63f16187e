//! Gradients: libtorch's by autograd, finite differences, and ours against both.

use crate::judge::{Failure, Floor, judge, kind};
use crate::operand::Operand;
use crate::problems::same_bits;
use segface_kernels::{Context, Element, Isa};
use std::io::Write;
use tch::{Kind, Tensor};

/// Thread counts each kernel is run with, as in [`crate::problems`].
const THREADS: [usize; 2] = [1, 3];

/// Largest relative L2 error of ours against finite differences in f64, whose own error is far smaller: some hundred
/// roundings of f32.
const DIFFERENCES: f64 = 1e-5;

/// A function whose gradients are judged: inputs, and what its output is multiplied with before it is summed up.
pub struct Differentiable<'a, F> {
    /// Name and value of every operand that has a gradient.
    pub inputs: &'a [(&'a str, &'a Operand)],
    /// The gradient of the output.
    pub cotangent: &'a Operand,
    /// The output from the inputs, in their kind.
    pub forward: F,
}

impl<F: Fn(&[Tensor]) -> Tensor> Differentiable<'_, F> {
    /// libtorch's gradients in `kind`, one per input.
    pub fn autograd(&self, kind: Kind) -> Vec<Tensor> {
        let inputs: Vec<Tensor> = self.inputs.iter().map(|(_, x)| x.tensor(kind).set_requires_grad(true)).collect();
        let out = (self.forward)(&inputs);
        let cotangent = self.cotangent.tensor(kind).view_as(&out);
        Tensor::run_backward(&[(out * cotangent).sum(kind)], &inputs, false, false)
    }

    /// Gradients by central differences in f64, one per input.
    pub fn differences(&self) -> Vec<Tensor> {
        let _guard = tch::no_grad_guard();
        let inputs: Vec<Tensor> = self.inputs.iter().map(|(_, x)| x.tensor(Kind::Double)).collect();
        let cotangent = self.cotangent.tensor(Kind::Double);
        let value = |inputs: &[Tensor]| {
            let out = (self.forward)(inputs);
            let cotangent = cotangent.view_as(&out);
            (out * cotangent).sum(Kind::Double).double_value(&[])
        };
        let gradient = |index: usize| {
            let flat = inputs[index].flatten(0, -1);
            let slopes: Vec<f64> = (0..flat.numel() as i64)
                .map(|element| {
                    let at = flat.double_value(&[element]);
                    let step = 1e-5 * at.abs().max(1.0);
                    let moved = |to: f64| {
                        let changed: Vec<Tensor> = inputs.iter().map(Tensor::copy).collect();
                        let _ = changed[index].flatten(0, -1).narrow(0, element, 1).fill_(to);
                        value(&changed)
                    };
                    (moved(at + step) - moved(at - step)) / (2.0 * step)
                })
                .collect();
            Tensor::from_slice(&slopes).view_as(&inputs[index])
        };
        (0..inputs.len()).map(gradient).collect()
    }

    /// Runs a backward kernel with every instruction set of this machine and judges each gradient against libtorch, by the
    /// rule of [`judge`]. With other thread counts the same instruction set must give the same bits.
    ///
    /// `kernel` returns one gradient per input, widened to f32. `floor` is the floor of each.
    pub fn judge<T: Element>(
        &self,
        name: &str,
        floor: impl Fn(&str) -> Floor,
        mut kernel: impl FnMut(&mut Context) -> Vec<Vec<f32>>,
    ) -> Result<(), Failure> {
        let truth = self.autograd(Kind::Double);
        let peer = self.autograd(kind(T::DTYPE));
        for isa in Isa::available() {
            let mut alone: Option<Vec<Vec<f32>>> = None;
            for threads in THREADS {
                let results = kernel(&mut Context::new(threads, isa));
                assert_eq!(results.len(), self.inputs.len(), "{name}: gradients");
                let place =
                    |input: &str| format!("{name}: d_{input} ({:?}, {}, {threads} threads)", T::DTYPE, isa.name());
                for (index, (result, (input, _))) in results.iter().zip(self.inputs).enumerate() {
                    match &alone {
                        None => {
                            let place = place(input);
                            let (own, peer) = judge(&place, result, &truth[index], &peer[index], floor(input))?;
                            record(&place, own.l2, peer.l2);
                        }
                        Some(alone) => {
                            same_bits(&alone[index], result).map_err(|failure| failure.at(place(input)))?;
                        }
                    }
                }
                alone.get_or_insert(results);
            }
        }
        Ok(())
    }

    /// Compares gradients of ours with finite differences.
    pub fn judge_differences(
        &self,
        name: &str,
        mut kernel: impl FnMut(&mut Context) -> Vec<Vec<f32>>,
    ) -> Result<(), Failure> {
        let truth = self.differences();
        for isa in Isa::available() {
            let results = kernel(&mut Context::new(1, isa));
            for ((result, truth), (input, _)) in results.iter().zip(&truth).zip(self.inputs) {
                let found = Tensor::from_slice(result).to_kind(Kind::Double).view_as(truth);
                let norm = |x: &Tensor| x.square().sum(Kind::Double).sqrt().double_value(&[]);
                let (error, size) = (norm(&(found - truth)), norm(truth));
                // Where the true gradient is zero, what differences leave of it is 1e-9 or so.
                if error > DIFFERENCES * size.max(1e-3) || error.is_nan() {
                    return Err(Failure::new(format!(
                        "{name}: d_{input} ({}) is {error:.3e} from finite differences of norm {size:.3e}",
                        isa.name()
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Adds a line (place, our relative error, libtorch's) to the file that `SEGFACE_ERRORS` names, if it does: the table of
/// gradient errors is made of these.
fn record(place: &str, own: f64, peer: f64) {
    let Some(path) = std::env::var_os("SEGFACE_ERRORS") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{place}\t{own:.3e}\t{peer:.3e}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("SEGFACE_ERRORS names a file that can be written");
}

/// A place for a gradient that must be overwritten.
pub fn unset<T: Element>(len: usize) -> Vec<T> {
    vec![T::from_f32(f32::NAN); len]
}

/// Whether `accumulated`, which began as `before`, is `before` and `fresh` added up: an f32 gradient that was added to.
pub fn added(name: &str, before: &[f32], fresh: &[f32], accumulated: &[f32]) -> Result<(), Failure> {
    assert_eq!((before.len(), fresh.len()), (accumulated.len(), accumulated.len()), "{name}");
    let sums = before.iter().zip(fresh).map(|(a, b)| a + b);
    match sums.zip(accumulated).position(|(sum, found)| sum != *found) {
        None => Ok(()),
        Some(i) => Err(Failure::new(format!(
            "{name}: element {i} is {:e} after adding {:e} to {:e}",
            accumulated[i], fresh[i], before[i]
        ))),
    }
}

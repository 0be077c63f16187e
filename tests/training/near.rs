//! The rule that gradients of whole networks are judged by.

use crate::common::{Problem, ours, reference};
use segface::train::{Engine, Role};
use segface::weights::Weights;
use segface_tests::judge::Errors;
use tch::{Kind, Tensor};

/// How much worse than libtorch in the same precision the gradients may be, as a whole and tensor by tensor.
const FACTOR: f64 = 2.0;

/// Share of all gradients below which a true gradient in f64 is zero but for rounding: a bias that a softmax or a batch norm behind it takes out
/// again. It may be half a unit in the last place of all, or twice libtorch's rounding where that is more (in bf16).
const NOTHING: f64 = 1e-12;

/// Errors of both engines for one network.
struct Table {
    /// Relative L2 of all gradients as one vector: ours, libtorch's in the same precision.
    whole: [f64; 2],
    /// Losses, tensors' gradients and running statistics that are further off than twice libtorch's error plus the floor.
    worse: Vec<String>,
    tensors: usize,
}

fn table(engine: &mut dyn Engine, problem: &Problem, weights: &Weights, kind: Kind, floor: f64) -> Table {
    let spec = problem.spec;
    let (loss, gradients) = ours(engine, problem);
    let (truth_loss, truth) = reference(weights, problem, Kind::Double);
    let (peer_loss, peer) = reference(weights, problem, kind);
    let mut worse = Vec::new();
    for (own, truth, peer) in
        [(loss.cross_entropy, truth_loss[0], peer_loss[0]), (loss.dice, truth_loss[1], peer_loss[1])]
    {
        let allowed = FACTOR * (peer - truth).abs() + floor.max(1e-6) * truth.abs();
        if (own - truth).abs() > allowed {
            worse.push(format!("loss {own}, truth {truth}, libtorch {peer}"));
        }
    }
    let square = |x: &Tensor| x.square().sum(Kind::Double).double_value(&[]);
    let mut squares = [0.0f64; 3];
    let mut errors = Vec::new();
    for (name, own) in &gradients {
        let Some(truth) = truth.get(name) else {
            assert!(own.iter().all(|d| *d == 0.0), "{spec}: {name} feeds nothing, but has a gradient");
            continue;
        };
        let (truth, peer) = (truth.to_kind(Kind::Double), peer[name].to_kind(Kind::Double));
        let own = Tensor::from_slice(own).to_kind(Kind::Double).view_as(&truth);
        squares[0] += square(&(&own - &truth));
        squares[1] += square(&(&peer - &truth));
        squares[2] += square(&truth);
        errors.push((name, square(&truth).sqrt(), Errors::of(&own, &truth).l2, Errors::of(&peer, &truth).l2));
    }
    let whole = [(squares[0] / squares[2]).sqrt(), (squares[1] / squares[2]).sqrt()];
    // A ReLU whose x is within rounding of zero has another slope in f32 and changes all gradients before it. Where that happens is chance:
    // a tensor may be as far off as libtorch's are as a whole.
    let all = squares[2].sqrt();
    for (name, size, own, peer) in &errors {
        let nothing = *size < NOTHING * all;
        let share = f64::from(f32::EPSILON) / 2.0 * all / size;
        let allowed = if nothing { share.max(FACTOR * peer) } else { FACTOR * peer.max(whole[1]) + floor };
        if *own > allowed {
            worse.push(format!("{name}: {own:.2e}, libtorch {peer:.2e}"));
        }
    }
    // Running statistics by the same rule.
    for entry in engine.layout().buffers().iter().filter(|entry| entry.role == Role::Statistic) {
        let own = Tensor::from_slice(&engine.buffers()[entry.range.clone()]);
        let (own, peer) = (Errors::of(&own, &truth[&entry.name]), Errors::of(&peer[&entry.name], &truth[&entry.name]));
        if own.l2 > FACTOR * peer.l2 + floor.max(1e-6) {
            worse.push(format!("{}: {:.2e}, libtorch {:.2e}", entry.name, own.l2, peer.l2));
        }
    }
    Table { whole, worse, tensors: errors.len() }
}

/// Whether an engine's gradients of a problem are as near to libtorch's in f64 as the rule wants, libtorch in `kind` being the yardstick;
/// `floor`: error allowed even where libtorch makes none.
pub(crate) fn gradients_are_near(
    engine: &mut dyn Engine,
    problem: &Problem,
    weights: &Weights,
    kind: Kind,
    floor: f64,
) -> bool {
    let Table { whole: [own, peer], worse, tensors } = table(engine, problem, weights, kind, floor);
    println!(
        "{}, batch {}: relative L2 of all gradients {own:.2e}, libtorch {kind:?} {peer:.2e}; {} of {tensors} tensors worse",
        problem.spec,
        problem.number,
        worse.len()
    );
    for line in worse.iter().take(12) {
        println!("  {line}");
    }
    own <= FACTOR * peer + floor && worse.is_empty()
}

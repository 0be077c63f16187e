//! Gradients and losses of every engine against libtorch in f64.

use crate::common::{DRAWS, Problem, load, ours, reference};
use crate::run::{of_run, own_losses, reference_losses};
use segface::train::torch::{MixedEngine, TorchEngine};
use segface::train::{Engine, Layout, Role};
use segface::weights::{Weights, seeded};
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::Isa;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// How much worse than libtorch in f32 an engine may be, and an error that is allowed in any case.
const FACTOR: f64 = 2.0;
const FLOOR: f64 = 2e-6;

fn problem(backbone: Backbone, variant: Variant) -> Problem {
    Problem { spec: ModelSpec { backbone, variant }, batch: 2, side: 64, stochastic_depth: true, number: 1 }
}

/// Batches that an engine is tried on until its gradients are within the rule. A ReLU whose x is within rounding of zero has another slope in f32
/// and changes all gradients before it; every way of mixing rounds otherwise, and which batch hits one is chance. What is wrong is so on all.
const BATCHES: [usize; 3] = [0, 1, 2];

/// libtorch's gradients and statistics in f64.
type Truth = BTreeMap<String, Tensor>;

fn double(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Double).flatten(0, -1)
}

fn square(x: &Tensor) -> f64 {
    x.square().sum(Kind::Double).double_value(&[])
}

/// Relative L2 error of all gradients as one vector.
fn error<'a>(truth: &Truth, found: impl Iterator<Item = (&'a String, Tensor)>) -> f64 {
    let (mut errors, mut all) = (0.0, 0.0);
    for (name, found) in found {
        let Some(truth) = truth.get(name).filter(|truth| truth.defined()) else { continue };
        errors += square(&(double(&found) - double(truth)));
        all += square(&double(truth));
    }
    (errors / all).sqrt()
}

fn of_engine(truth: &Truth, gradients: &BTreeMap<String, Vec<f32>>) -> f64 {
    error(truth, gradients.iter().map(|(name, values)| (name, Tensor::from_slice(values))))
}

/// Statistics of batch norms after the step are libtorch's own in f32, or as near.
fn check_statistics(engine: &dyn Engine, truth: &Truth) {
    for entry in engine.layout().buffers().iter().filter(|entry| entry.role == Role::Statistic) {
        let found = Tensor::from_slice(&engine.buffers()[entry.range.clone()]);
        let truth = double(&truth[&entry.name]);
        let off = (square(&(double(&found) - &truth)) / square(&truth)).sqrt();
        assert!(off < 1e-4, "{}: {off:.2e}", entry.name);
    }
    for entry in engine.layout().buffers().iter().filter(|entry| entry.role == Role::Count) {
        assert_eq!(engine.buffers()[entry.range.start], 1.0, "{}", entry.name);
    }
}

/// What an engine is held against, by batch.
struct Judge {
    spec: ModelSpec,
    weights: Weights,
    /// libtorch's losses, gradients and statistics in f64, and the error of its gradients in f32.
    known: BTreeMap<usize, ([f64; 2], Truth, f64)>,
}

impl Judge {
    fn problem(&self, number: usize) -> Problem {
        Problem { number, ..problem(self.spec.backbone, self.spec.variant) }
    }

    fn check(&mut self, what: &str, engine: &mut dyn Engine) {
        // What the warp's f32 coordinates may cost a network (docs/ARCHITECTURE.md, Numerics).
        let floor = if self.spec.variant.warps() { 2e-3 } else { FLOOR };
        for number in BATCHES {
            let problem = self.problem(number);
            let weights = &self.weights;
            let (losses, truth, peer) = self.known.entry(number).or_insert_with(|| {
                let (losses, truth) = reference(weights, &problem, Kind::Double);
                let (_, peer) = reference(weights, &problem, Kind::Float);
                let defined = peer.iter().filter(|(name, peer)| Role::of(name) == Role::Parameter && peer.defined());
                let peer = error(&truth, defined.map(|(name, peer)| (name, peer.shallow_clone())));
                (losses, truth, peer)
            });
            load(engine, weights);
            let (loss, gradients) = ours(engine, &problem);
            let own = of_engine(truth, &gradients);
            println!("{}, batch {number}: {what}: {own:.2e}, libtorch's own {peer:.2e}", self.spec);
            for (found, truth) in [(loss.cross_entropy, losses[0]), (loss.dice, losses[1])] {
                assert!((found - truth).abs() < 1e-3 * truth, "{}: {what}: loss {found}, {truth}", self.spec);
            }
            check_statistics(engine, truth);
            if own <= FACTOR * *peer + floor {
                return;
            }
            // A slope of a ReLU, not a part of the network.
            assert!(own < 0.05, "{}, batch {number}: {what}: {own:.2e}", self.spec);
        }
        panic!("{}: {what} is too far from libtorch on all batches", self.spec);
    }
}

#[test]
fn libtorchs_engine_and_each_block_by_it_have_gradients_within_twice_its_f32_error() {
    // All kinds of stages; two heads; a warp.
    for (backbone, variant) in [
        (Backbone::MobileNet, Variant::Celeb),
        (Backbone::MobileNet, Variant::Lapa),
        (Backbone::SwinV2Tiny, Variant::Helen),
        (Backbone::ConvNextTiny, Variant::Celeb),
        (Backbone::EfficientNet, Variant::Helen),
    ] {
        let spec = ModelSpec { backbone, variant };
        let mut judge = Judge { spec, weights: seeded(spec), known: BTreeMap::new() };
        let (layout, options) = (Layout::new(spec), judge.problem(0).options());
        judge.check("tch", &mut TorchEngine::new(layout.clone(), &options, 1).unwrap());
        let mut mixed = MixedEngine::new(layout, &options, 1, Isa::best()).unwrap();
        let names = mixed.blocks();
        assert_eq!(names, ["stage1", "stage2", "stage3", "stage4", "decoder"]);
        let alone = names.iter().map(|name| vec![name.clone()]);
        let others = [vec![], names.clone(), vec![names[0].clone(), names[2].clone(), names[4].clone()]];
        for chosen in alone.chain(others) {
            mixed.choose(&chosen).unwrap();
            judge.check(&format!("mixed, libtorch's {chosen:?}"), &mut mixed);
            assert_eq!(mixed.chosen(), chosen);
        }
        assert!(mixed.choose(&["stage5".into()]).unwrap_err().to_string().contains("stage1, stage2"));
    }
}

#[test]
fn every_network_has_five_blocks_frozen_or_not() {
    for spec in ModelSpec::all() {
        let problem = Problem { spec, batch: 1, side: 64, stochastic_depth: true, number: 0 };
        for frozen in [false, true] {
            let layout = Layout::new(spec).freeze(|name| frozen && name.starts_with("backbone."));
            let mixed = MixedEngine::new(layout, &problem.options(), 1, Isa::best());
            assert_eq!(mixed.map(|mixed| mixed.blocks().len()).unwrap(), 5, "{spec}, frozen {frozen}");
        }
    }
}

#[test]
fn a_frozen_backbone_keeps_statistics_and_has_no_gradients_by_any_engine() {
    let problem = problem(Backbone::MobileNet, Variant::Celeb);
    let weights = seeded(problem.spec);
    let layout = || Layout::new(problem.spec).freeze(|name| name.starts_with("backbone."));
    let mut engines: Vec<(&str, Box<dyn Engine>)> = Vec::new();
    let mixed = |chosen: &[&str]| {
        let mut mixed = MixedEngine::new(layout(), &problem.options(), 1, Isa::best()).unwrap();
        mixed.choose(&chosen.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        Box::new(mixed)
    };
    engines.push(("ours", mixed(&[])));
    engines.push(("mixed", mixed(&["stage1", "stage4"])));
    engines.push(("the decoder", mixed(&["decoder"])));
    engines.push(("tch", Box::new(TorchEngine::new(layout(), &problem.options(), 1).unwrap())));
    let mut first: Option<BTreeMap<String, Vec<f32>>> = None;
    for (name, mut engine) in engines {
        load(&mut *engine, &weights);
        let before = engine.buffers().to_vec();
        let (_, gradients) = ours(&mut *engine, &problem);
        assert!(engine.buffers() == before, "{name} moves statistics");
        let frozen = gradients.iter().filter(|(name, _)| name.starts_with("backbone."));
        assert!(frozen.flat_map(|(_, values)| values).all(|d| *d == 0.0), "{name} has gradients of what is frozen");
        let first = first.get_or_insert_with(|| gradients.clone());
        let truth = first.iter().filter(|(name, _)| !name.starts_with("backbone."));
        let truth: Truth = truth.map(|(name, values)| (name.clone(), Tensor::from_slice(values))).collect();
        let off = of_engine(&truth, &gradients);
        assert!(off < 1e-4, "{name} is {off:.2e} from ours");
    }
}

#[test]
fn losses_of_five_steps_are_within_the_envelope_of_f32_by_every_engine() {
    const STEPS: u64 = 5;
    let weights = seeded(of_run(0).spec);
    let truth = reference_losses(&weights, Kind::Double, STEPS);
    let peer = reference_losses(&weights, Kind::Float, STEPS);
    let worst = |losses: &[f64]| losses.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0f64, f64::max);
    let layout = Layout::new(of_run(0).spec);
    let mut torch = TorchEngine::new(layout.clone(), &of_run(0).options(), 1).unwrap();
    let mut mixed = MixedEngine::new(layout, &of_run(0).options(), 1, Isa::best()).unwrap();
    mixed.choose(&["stage2".into(), "decoder".into()]).unwrap();
    load(&mut torch, &weights);
    load(&mut mixed, &weights);
    let mut own = of_run(0).engine(&weights, 1);
    let engines: [(&str, &mut dyn Engine); 3] = [("ours", &mut own), ("tch", &mut torch), ("mixed", &mut mixed)];
    for (name, engine) in engines {
        let losses = own_losses(engine, STEPS);
        println!("{name}: {losses:.7?}, {:.2e} off, libtorch f32 {:.2e}", worst(&losses), worst(&peer));
        assert!(losses[4] < losses[0], "{name} learns nothing");
        assert!(worst(&losses) <= FACTOR * worst(&peer) + 1e-5, "{name}: {:.2e}, {:.2e}", worst(&losses), worst(&peer));
    }
}

#[test]
fn the_same_step_twice_has_the_same_bits_and_wrong_batches_are_refused() {
    let problem = problem(Backbone::SwinV2Tiny, Variant::Celeb);
    let weights = seeded(problem.spec);
    let layout = Layout::new(problem.spec);
    let mut torch = TorchEngine::new(layout.clone(), &problem.options(), 2).unwrap();
    let mut mixed = MixedEngine::new(layout, &problem.options(), 2, Isa::best()).unwrap();
    mixed.choose(&["stage1".into(), "stage3".into()]).unwrap();
    for engine in [&mut torch as &mut dyn Engine, &mut mixed] {
        load(engine, &weights);
        let once = ours(engine, &problem);
        load(engine, &weights);
        assert!(once == ours(engine, &problem));
        let mut wrong = problem.batch();
        wrong.labels[7] = 19;
        let error = engine.accumulate(&wrong, DRAWS, 1.0, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("label 19"), "{error}");
        wrong = problem.batch();
        wrong.images.pop();
        assert!(engine.accumulate(&wrong, DRAWS, 1.0, &mut |_, _| {}).is_err());
    }
}

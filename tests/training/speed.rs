//! Where the time of a step goes. Prints, asserts nothing; ratios to libtorch are the bench's.

use crate::common::{DRAWS, Problem};
use segface::train::Engine;
use segface::weights::seeded;
use segface_codegen::{Backbone, ModelSpec, Variant};
use std::collections::BTreeMap;
use std::time::Instant;
use tch::Kind;

#[test]
#[ignore = "prints a profile"]
fn profile_of_a_step() {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    let problem = Problem { spec, batch: 4, side: 256, stochastic_depth: true, number: 0 };
    let weights = seeded(spec);
    let mut engine = problem.engine(&weights, 2);
    let batch = problem.batch();
    let factor = problem.factor(DRAWS);
    let model = problem.model(&weights, Kind::Float, &factor);
    tch::set_num_threads(2);
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut totals = [Vec::new(), Vec::new()];
    for round in 0..6 {
        let begin = Instant::now();
        if round < 4 {
            let (loss, _) = problem.reference_loss(&model, Kind::Float);
            loss.backward();
            totals[0].push(begin.elapsed().as_secs_f64());
        }
        let _ = engine.parameters_mut();
        let begin = Instant::now();
        let mut here: BTreeMap<String, f64> = BTreeMap::new();
        engine
            .accumulate_observed(&batch, DRAWS, 1.0, &mut |node, time| {
                let backbone = if node.name.contains("backbone") { "backbone" } else { "decoder" };
                let forward = if node.name.starts_with("d ") { "d" } else { " " };
                let key = format!("{backbone} {forward} {}", segface_codegen::explain::operator(&node.op));
                *here.entry(key).or_default() += time.as_secs_f64();
            })
            .expect("a step");
        totals[1].push(begin.elapsed().as_secs_f64());
        here.into_iter().for_each(|(key, time)| times.entry(key).or_default().push(time));
    }
    let least = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min) * 1e3;
    let mut rows: Vec<(f64, String)> = times.into_iter().map(|(key, times)| (least(&times), key)).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    // On a busy machine only the processor's time means something: one thread each.
    tch::set_num_threads(1);
    let mut engine = problem.engine(&weights, 1);
    let mut processor = [Vec::new(), Vec::new()];
    for _ in 0..4 {
        let begin = processor_time();
        let (loss, _) = problem.reference_loss(&model, Kind::Float);
        loss.backward();
        let middle = processor_time();
        let _ = engine.parameters_mut();
        engine.accumulate(&batch, DRAWS, 1.0, &mut |_, _| {}).expect("a step");
        processor[0].push(middle - begin);
        processor[1].push(processor_time() - middle);
    }
    let [torch, own] = processor.each_ref().map(|times| least(times));
    println!("processor time, one thread: libtorch {torch:.0} ms, ours {own:.0} ms, {:.2} times less", torch / own);
    println!("libtorch {:.0} ms, ours {:.0} ms, {} MB", least(&totals[0]), least(&totals[1]), engine.bytes() >> 20);
    for (time, key) in rows {
        println!("{time:8.2} {key}");
    }
}

/// Seconds that this process has computed.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the system tells");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}

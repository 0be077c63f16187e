//! A training step, ours against libtorch eager on the same threads: forward, loss, backward and AdamW of one micro-batch.
//!
//!     cargo bench -p segface-bench --bench training [-- mobilenet@256x4 --profile] [--bf16] [--arena MB] [--processor]
//!
//! Engines take turns; times are medians. `--profile` shows where our step's time goes, by operator and by node, `--bf16` which one, and
//! `--arena` gives it less memory than it would take. `--processor` is for busy machines: one thread each, and the processor's time. Memory is the peak of a process of its own that takes three steps, above what it had before.

use segface::data::Batch;
use segface::train::ours::OurEngine;
use segface::train::{Draws, Engine, Layout, Role};
use segface::weights::{Weights, seeded, seeded_values};
use segface::{Backbone, ModelSpec, Variant};
use segface_codegen::grad::{Means, TrainingOptions};
use segface_codegen::plan::Precision;
use segface_kernels::adamw::{AdamWOperands, AdamWSpec};
use segface_kernels::{Context, Isa};
use segface_reference::Model;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;
use tch::{Kind, Tensor};

const THREADS: usize = 2;

#[derive(Clone, Copy)]
struct Case {
    backbone: Backbone,
    side: usize,
    batch: usize,
}

const CASES: [Case; 2] = [
    Case { backbone: Backbone::MobileNet, side: 256, batch: 4 },
    Case { backbone: Backbone::SwinBase, side: 224, batch: 2 },
];

impl Case {
    fn name(self) -> String {
        format!("{}@{}x{}", self.backbone, self.side, self.batch)
    }

    fn parse(text: &str) -> Option<Case> {
        let (backbone, rest) = text.split_once('@')?;
        let (side, batch) = rest.split_once('x')?;
        Some(Case { backbone: backbone.parse().ok()?, side: side.parse().ok()?, batch: batch.parse().ok()? })
    }

    fn spec(self) -> ModelSpec {
        ModelSpec { backbone: self.backbone, variant: Variant::Celeb }
    }

    fn batch(self) -> Batch {
        let pixels = self.batch * self.side * self.side;
        Batch {
            images: seeded_values("input", 3 * pixels),
            labels: (0..pixels).map(|pixel| (pixel / 97 % 19) as u8).collect(),
            indices: (0..self.batch).collect(),
            points: vec![[[0.0; 2]; 5]; self.batch],
            warps: Vec::new(),
        }
    }
}

/// Ours with its optimizer.
struct Ours {
    engine: OurEngine,
    context: Context,
    batch: Batch,
    moments: [Vec<f32>; 2],
    step: u64,
}

fn adamw(step: u64) -> AdamWSpec {
    AdamWSpec { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-5, step, gradient_scale: 1.0 }
}

impl Ours {
    fn new(case: Case, weights: &Weights, threads: usize, means: Means) -> Ours {
        let options = TrainingOptions {
            batch: case.batch,
            height: case.side,
            width: case.side,
            stochastic_depth: true,
            outputs: Vec::new(),
        };
        let layout = Layout::new(case.spec());
        let mut engine = OurEngine::with(layout.clone(), &options, threads, Isa::best(), means).expect("an engine");
        for entry in layout.parameters().iter().chain(layout.buffers()) {
            let values = weights.tensors()[&entry.name].values();
            let to = if entry.role == Role::Parameter { engine.parameters_mut() } else { engine.buffers_mut() };
            to[entry.range.clone()].copy_from_slice(&values);
        }
        let len = layout.parameters_len();
        let context = Context::new(threads, Isa::best());
        Ours { engine, context, batch: case.batch(), moments: [vec![0.0; len], vec![0.0; len]], step: 0 }
    }

    fn step(&mut self, profile: Option<&mut Profile>) {
        self.step += 1;
        self.engine.gradients_mut().fill(0.0);
        let draws = Draws { seed: 1, step: self.step, micro_batch: 0 };
        let graph = profile.is_some().then(|| self.engine.training().graph.clone());
        let mut entries = Vec::new();
        let begin = Instant::now();
        self.engine
            .accumulate_observed(&self.batch, draws, 1.0, &mut |node, time| {
                if let Some(graph) = &graph {
                    let operator = segface_codegen::explain::operator(&node.op);
                    let (time, flops) = (time.as_secs_f64(), node.flops(graph) as f64);
                    entries.push(Entry { operator, name: node.name.clone(), time, flops });
                }
            })
            .expect("a step");
        let middle = Instant::now();
        let [first, second] = &mut self.moments;
        let (parameters, gradients) = self.engine.parameters_and_gradients();
        let operands = AdamWOperands { gradients, parameters, first_moments: first, second_moments: second };
        segface_kernels::adamw::cpu::adamw(&mut self.context, &adamw(self.step), operands);
        if let Some(profile) = profile {
            let nodes: f64 = entries.iter().map(|entry| entry.time).sum();
            let rest = (middle - begin).as_secs_f64() - nodes;
            for (operator, time) in [("between nodes", rest), ("adamw", middle.elapsed().as_secs_f64())] {
                entries.push(Entry { operator, name: operator.into(), time, flops: 0.0 });
            }
            profile.entries = entries;
        }
    }
}

/// Where a step's time went.
#[derive(Default)]
struct Profile {
    entries: Vec<Entry>,
}

struct Entry {
    operator: &'static str,
    name: String,
    time: f64,
    flops: f64,
}

impl Profile {
    fn print(&self, case: Case) {
        let total: f64 = self.entries.iter().map(|entry| entry.time).sum();
        println!("{}: {:.0} ms", case.name(), total * 1e3);
        let mut operators: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for entry in &self.entries {
            let sums = operators.entry(entry.operator).or_default();
            *sums = (sums.0 + entry.time, sums.1 + entry.flops);
        }
        let mut operators: Vec<_> = operators.into_iter().collect();
        operators.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        for (name, (time, flops)) in operators {
            println!("  {name:26} {:8.2} ms {:8.1} GFLOP/s", time * 1e3, flops / time * 1e-9);
        }
        let mut nodes: Vec<&Entry> = self.entries.iter().collect();
        nodes.sort_by(|a, b| b.time.total_cmp(&a.time));
        for Entry { operator, name, time, flops } in nodes.into_iter().take(60) {
            println!("    {name:70} {operator:26} {:8.2} ms {:8.1} GFLOP/s", time * 1e3, flops / time * 1e-9);
        }
    }
}

/// libtorch with AdamW by its fused operations.
struct Torch<'a> {
    model: Model<'a>,
    images: Tensor,
    labels: Tensor,
    moments: BTreeMap<String, [Tensor; 2]>,
    step: u64,
}

impl<'a> Torch<'a> {
    fn new(case: Case, weights: &'a Weights, factor: &'a dyn Fn(u32, f32, usize) -> f32) -> Torch<'a> {
        let batch = case.batch();
        let side = case.side as i64;
        let images = Tensor::from_slice(&batch.images).view([-1, side, side, 3]).permute([0, 3, 1, 2]).contiguous();
        let labels = Tensor::from_slice(&batch.labels).view([-1, side, side]);
        let model = Model::training(case.spec(), weights, Kind::Float, 0.1, factor);
        Torch { model, images, labels, moments: BTreeMap::new(), step: 0 }
    }

    fn step(&mut self) {
        self.step += 1;
        let outputs = self.model.forward(&self.images, None).expect("the reference runs");
        let (cross_entropy, dice) = segface_reference::loss::loss(&outputs.logits, &self.labels);
        ((cross_entropy + dice) * 0.5).backward();
        let _guard = tch::no_grad_guard();
        let AdamWSpec { learning_rate, betas: [beta1, beta2], eps, weight_decay, .. } = adamw(self.step);
        let power = |beta: f64| 1.0 - beta.powf(self.step as f64);
        for (name, mut p) in self.model.tensors() {
            let mut g = p.grad();
            if !p.requires_grad() || !g.defined() {
                continue;
            }
            let [m, v] = self.moments.entry(name).or_insert_with(|| [p.zeros_like(), p.zeros_like()]);
            let _ = p.g_mul_scalar_(1.0 - learning_rate * weight_decay);
            let _ = m.lerp_(&g, 1.0 - beta1);
            let _ = v.g_mul_scalar_(beta2).addcmul_(&g, &(&g * (1.0 - beta2)));
            let denominator = v.sqrt() / power(beta2).sqrt() + eps;
            let _ = p.addcdiv_(&(&*m * (-learning_rate / power(beta1))), &denominator);
            let _ = g.zero_();
        }
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds that this process has computed; none where the system does not tell.
fn processor_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    // User and system time in hundredths.
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}

fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Three steps of one engine in this process; by how many bytes it grew.
fn measure_here(case: Case, engine: &str, means: Means) -> Option<u64> {
    let weights = seeded(case.spec());
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = peak_bytes()?;
    if engine == "torch" {
        let factor = |_: u32, _: f32, _: usize| 1.0;
        let mut torch = Torch::new(case, &weights, &factor);
        (0..3).for_each(|_| torch.step());
    } else {
        let mut ours = Ours::new(case, &weights, THREADS, means);
        (0..3).for_each(|_| ours.step(None));
    }
    Some(peak_bytes()?.saturating_sub(before))
}

/// MiB that three steps take, measured in a process of its own; our engine's with `arguments`.
fn peak(case: Case, engine: &str, arguments: &[&str]) -> f64 {
    let measure = || {
        let name = case.name();
        let arguments = [&[name.as_str(), "--memory", engine], arguments].concat();
        let output = Command::new(std::env::current_exe().ok()?).args(arguments).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse::<u64>().ok()
    };
    measure().unwrap_or(0) as f64 / f64::from(1 << 20)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let asked: Vec<Case> = arguments.iter().filter_map(|argument| Case::parse(argument)).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let threads = if has("--processor") { 1 } else { THREADS };
    tch::set_num_threads(threads as i32);
    let behind = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1);
    let arena = behind("--arena").and_then(|text| text.parse::<usize>().ok());
    let memory = arena.map_or(Means::default().memory, |megabytes| megabytes << 20);
    let precision = if has("--bf16") { Precision::Bf16 } else { Precision::F32 };
    if let Some(engine) = behind("--memory") {
        println!(
            "{}",
            asked
                .first()
                .and_then(|case| measure_here(*case, engine, Means { precision, memory, ..Means::default() }))
                .unwrap_or(0)
        );
        return;
    }
    for case in if asked.is_empty() { CASES.to_vec() } else { asked } {
        let weights = seeded(case.spec());
        if has("--profile") {
            let mut ours = Ours::new(case, &weights, threads, Means { precision, memory, ..Means::default() });
            let mut profile = Profile::default();
            ours.step(None);
            ours.step(Some(&mut profile));
            profile.print(case);
            continue;
        }
        let factor = |_: u32, probability: f32, image: usize| {
            if image == 0 { 0.0 } else { 1.0 / (1.0 - probability) }
        };
        let mut torch = Torch::new(case, &weights, &factor);
        let mut ours = [Precision::F32, Precision::Bf16]
            .map(|precision| Ours::new(case, &weights, threads, Means { precision, memory, ..Means::default() }));
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..8 {
            let mut measure = |index: usize, step: &mut dyn FnMut()| {
                let (begin, processor) = (Instant::now(), processor_time());
                step();
                let time = if has("--processor") {
                    processor_time().unwrap_or(f64::NAN) - processor.unwrap_or(f64::NAN)
                } else {
                    begin.elapsed().as_secs_f64()
                };
                // The first warms all up.
                if round > 0 {
                    times[index].push(time);
                }
            };
            measure(0, &mut || torch.step());
            for (index, ours) in ours.iter_mut().enumerate() {
                measure(1 + index, &mut || ours.step(None));
            }
        }
        drop((torch, ours));
        let [torch, single, half] = times.each_mut().map(|times| median(times));
        let arena = arena.map(|megabytes| megabytes.to_string());
        let within = arena.as_deref().map_or(Vec::new(), |arena| vec!["--arena", arena]);
        let theirs = peak(case, "torch", &[]);
        println!("{}: libtorch {:.0} ms, {theirs:.0} MB", case.name(), torch * 1e3);
        for (name, time, argument) in [("f32", single, &[][..]), ("bf16", half, &["--bf16"])] {
            let own = peak(case, "ours", &[argument, &within].concat());
            println!(
                "    ours {name:4} {:.0} ms: {:.2} times as fast; {own:.0} MB: {:.0} %",
                time * 1e3,
                torch / time,
                100.0 * own / theirs
            );
        }
    }
}

//! What each call of a plan takes on this CPU.

use super::{Dot, Roof};
use crate::engine::{CpuEngine, EngineError};
use crate::weights::seeded_values;
use segface_codegen::explain::operator;
use segface_codegen::plan::Plan;
use segface_kernels::{Isa, peak};
use serde::Serialize;
use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// A network measured on this CPU.
#[derive(Debug, Clone, Serialize)]
pub struct CpuProfile {
    /// Backbone and label set.
    pub network: String,
    /// Batch, height and width of the input.
    pub input: Vec<usize>,
    /// Element type.
    pub precision: &'static str,
    /// Instruction set.
    pub isa: &'static str,
    /// Threads.
    pub threads: usize,
    /// GFLOP/s of a loop on registers on that many threads.
    pub peak_gflops: f64,
    /// Runs of which the medians are.
    pub runs: usize,
    /// What is called, in order.
    pub calls: Vec<Call>,
}

/// A call of a kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    /// Its operator.
    pub operator: &'static str,
    /// Its node.
    pub name: String,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes that must be read and written.
    pub bytes: u64,
    /// The median time.
    pub milliseconds: f64,
}

/// Runs a plan `runs` times, and once before that to take memory and warm caches.
///
/// # Errors
/// If the plan cannot be run.
pub fn measure(plan: Plan, threads: usize, isa: Isa, runs: usize) -> Result<CpuProfile, EngineError> {
    let peak_gflops = peak::gflops(isa, plan.precision.dtype()) * threads as f64;
    let mut engine = CpuEngine::new(Arc::new(plan), threads, isa)?;
    let input = engine.plan().input().map(|id| engine.plan().graph.values[id.0].shape.clone()).unwrap_or_default();
    let numbers = seeded_values("input", input.iter().product());
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); engine.plan().graph.nodes.len()];
    for run in 0..=runs {
        let mut index = 0;
        engine.run_observed(&numbers, &mut |_, time| {
            if run > 0 {
                times[index].push(time.as_secs_f64() * 1e3);
            }
            index += 1;
        })?;
    }
    let plan = engine.plan();
    let calls = plan.graph.nodes.iter().zip(times).map(|(node, times)| Call {
        operator: operator(&node.op),
        name: node.name.clone(),
        flops: node.flops(&plan.graph),
        bytes: node.bytes(&plan.graph),
        milliseconds: crate::engine::cuda::median(times),
    });
    Ok(CpuProfile {
        network: plan.model.to_string(),
        input: input[..3.min(input.len())].to_vec(),
        precision: plan.precision.name(),
        isa: isa.name(),
        threads,
        peak_gflops,
        runs,
        calls: calls.collect(),
    })
}

/// GB/s that `threads` threads read from memory at best.
pub fn memory_gbs(threads: usize) -> f64 {
    /// Each thread's: more than its share of any cache.
    const NUMBERS: usize = 32 << 20;
    let data: Vec<Vec<f32>> = (0..threads).map(|_| vec![1.0; NUMBERS]).collect();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for part in &data {
                scope.spawn(move || {
                    // Sums side by side, so that additions are not what is waited for.
                    let mut sums = [0.0f32; 64];
                    for chunk in part.chunks_exact(64) {
                        for (sum, number) in sums.iter_mut().zip(chunk) {
                            *sum += number;
                        }
                    }
                    black_box(sums);
                });
            }
        });
        best = best.min(begin.elapsed().as_secs_f64());
    }
    (threads * NUMBERS * size_of::<f32>()) as f64 / best / 1e9
}

impl CpuProfile {
    /// All calls' time in milliseconds.
    pub fn milliseconds(&self) -> f64 {
        self.calls.iter().map(|call| call.milliseconds).sum()
    }

    /// The roofs of this CPU and a dot for each call.
    pub fn roofline(&self, memory_gbs: f64) -> (Roof, Vec<Dot>) {
        let roof = Roof {
            name: format!("{} threads, {}", self.threads, self.isa),
            flops: self.peak_gflops * 1e9,
            bandwidth: memory_gbs * 1e9,
            cache: None,
            achievable: None,
        };
        let dot = |call: &Call| Dot {
            room: call.operator.into(),
            title: format!("{} {}: {:.3} ms measured", call.operator, call.name, call.milliseconds),
            flops: call.flops as f64,
            bytes: call.bytes as f64,
            seconds: call.milliseconds / 1e3,
        };
        (roof, self.calls.iter().map(dot).collect())
    }

    /// The `top` calls that take longest, and all together.
    pub fn table(&self, top: usize) -> String {
        let mut calls: Vec<&Call> = self.calls.iter().collect();
        calls.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        let mut text = format!("{:<18} {:<48} {:>10} {:>9} {:>8}\n", "kernel", "node", "ms", "GFLOP/s", "of peak");
        let mut line = |name: &str, node: &str, ms: f64, flops: f64| {
            let rate = flops / ms / 1e6;
            let _ = writeln!(
                text,
                "{name:<18} {node:<48} {ms:>10.3} {rate:>9.0} {:>7.0}%",
                100.0 * rate / self.peak_gflops
            );
        };
        for call in calls.iter().take(top) {
            line(call.operator, &call.name, call.milliseconds, call.flops as f64);
        }
        let flops: u64 = self.calls.iter().map(|call| call.flops).sum();
        line("all", &format!("{} calls", self.calls.len()), self.milliseconds(), flops as f64);
        text
    }

    /// A trace of one run made of the medians.
    pub fn trace(&self) -> serde_json::Value {
        let mut begin = 0.0;
        let events = self.calls.iter().map(|call| {
            let event = serde_json::json!({
                "ph": "X", "name": call.name, "cat": call.operator, "pid": 0, "tid": 0, "ts": begin,
                "dur": call.milliseconds * 1e3, "args": { "flops": call.flops, "bytes": call.bytes },
            });
            begin += call.milliseconds * 1e3;
            event
        });
        serde_json::json!({ "displayTimeUnit": "ms", "traceEvents": events.collect::<Vec<_>>() })
    }
}

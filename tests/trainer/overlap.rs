//! Gradients that our engine announces while it goes on.

use segface::train::ours::OurEngine;
use segface::train::{Chain, Draws, Engine, Group, Layout, Link, Role, initial};
use segface::{Backbone, ModelSpec, Variant, data::Batch, train::Start};
use segface_codegen::grad::TrainingOptions;
use segface_kernels::Isa;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

const DRAWS: Draws = Draws { seed: 3, step: 4, micro_batch: 0 };

fn engine(backbone: Backbone, side: usize, frozen: bool) -> OurEngine {
    let layout = Layout::new(ModelSpec { backbone, variant: Variant::Celeb });
    let layout = layout.freeze(|name| frozen && name.starts_with("backbone."));
    let options = TrainingOptions { batch: 1, height: side, width: side, stochastic_depth: true, outputs: Vec::new() };
    let (parameters, buffers) = initial(&layout, &Start::Random, 1).unwrap();
    let mut engine = OurEngine::new(layout, &options, 1, Isa::best()).unwrap();
    engine.parameters_mut().copy_from_slice(&parameters);
    engine.buffers_mut().copy_from_slice(&buffers);
    engine
}

fn batch(side: usize) -> Batch {
    let wave = |i: usize| ((i * 37 % 101) as f32 / 50.0) - 1.0;
    Batch {
        images: (0..side * side * 3).map(wave).collect(),
        labels: (0..side * side).map(|i| (i / 7 % 19) as u8).collect(),
        indices: vec![0],
        points: vec![[[0.0; 2]; 5]],
        warps: vec![],
    }
}

#[test]
fn what_is_announced_is_final_and_nothing_is_announced_twice_or_forgotten() {
    let side = 64;
    for (backbone, frozen) in [(Backbone::MobileNet, false), (Backbone::MobileNet, true), (Backbone::SwinV2Tiny, false)]
    {
        let mut engine = engine(backbone, side, frozen);
        engine.gradients_mut().fill(0.0);
        let mut announced: Vec<(Range<usize>, Vec<f32>)> = Vec::new();
        let mut ready = |range: Range<usize>, values: &[f32]| announced.push((range, values.to_vec()));
        engine.accumulate(&batch(side), DRAWS, 1.0, &mut ready).unwrap();
        for (range, values) in &announced {
            assert_eq!(engine.gradients()[range.clone()], values[..], "{backbone}: {range:?} changed afterwards");
        }
        // The head's gradients come first, the stem's last.
        let first = &announced.first().unwrap().0;
        assert!(first.start > engine.gradients().len() / 2, "{backbone}: {first:?} is announced first");
        let mut times = vec![0; engine.gradients().len()];
        announced.iter().for_each(|(range, _)| times[range.clone()].iter_mut().for_each(|times| *times += 1));
        for entry in engine.layout().parameters() {
            let expected = i32::from(entry.role == Role::Parameter && entry.trained);
            let found = &times[entry.range.clone()];
            assert!(found.iter().all(|&times| times == expected), "{backbone}: {} {expected}", entry.name);
        }
        for range in engine.layout().trained_ranges() {
            assert!(times[range.clone()].iter().all(|&times| times == 1), "{backbone}: a gap of {range:?} is left");
        }
    }
}

/// A connection that takes its time: so many bytes per second.
struct Slow<T> {
    inner: T,
    bytes_per_second: f64,
    free_at: Instant,
}

impl<T: Write> Write for Slow<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(1 << 16)];
        std::thread::sleep(self.free_at.saturating_duration_since(Instant::now()));
        self.free_at = Instant::now() + Duration::from_secs_f64(bytes.len() as f64 / self.bytes_per_second);
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn link(stream: &TcpStream, bytes_per_second: f64) -> Link {
    stream.set_nodelay(true).unwrap();
    let send = Slow { inner: stream.try_clone().unwrap(), bytes_per_second, free_at: Instant::now() };
    Link { receive: Box::new(stream.try_clone().unwrap()) as Box<dyn Read + Send>, send: Box::new(send) }
}

/// Seconds of two replicas' backward passes with the sum of their gradients behind or during it.
fn step(engine: &mut OurEngine, group: &mut Group, batch: &Batch, overlap: bool) -> f64 {
    engine.gradients_mut().fill(0.0);
    let begin = Instant::now();
    let mut push = |range, values: &[f32]| {
        if overlap {
            group.push(range, values)
        }
    };
    engine.accumulate(batch, DRAWS, 0.5, &mut push).unwrap();
    if !overlap {
        for range in engine.layout().trained_ranges() {
            group.push(range.clone(), &engine.gradients()[range]);
        }
    }
    group.finish(engine.gradients_mut()).unwrap();
    begin.elapsed().as_secs_f64()
}

#[test]
#[ignore = "prints times of two replicas over slow connections"]
fn what_overlap_gains() {
    for (backbone, side) in [(Backbone::MobileNet, 128), (Backbone::SwinV2Tiny, 128)] {
        for megabits in [1000.0, 10_000.0] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let speed = megabits * 1e6 / 8.0;
            let replica = move |rank: usize, stream: TcpStream| {
                let own = link(&stream, speed);
                let (before, behind) = if rank == 0 { (None, Some(own)) } else { (Some(own), None) };
                let mut group = Group::Chain(Chain::new(rank, 2, before, behind));
                let (mut engine, batch) = (engine(backbone, side, false), batch(side));
                let mut times = [Vec::new(), Vec::new()];
                for round in 0..8 {
                    for overlap in [false, true] {
                        let _ = engine.parameters_mut();
                        let time = step(&mut engine, &mut group, &batch, overlap);
                        if round > 0 {
                            times[usize::from(overlap)].push(time);
                        }
                    }
                }
                times.map(|mut times| {
                    times.sort_by(f64::total_cmp);
                    times[times.len() / 2]
                })
            };
            let other = std::thread::spawn(move || replica(1, client));
            let [behind, during] = replica(0, server);
            other.join().unwrap();
            println!(
                "{backbone}@{side}, {megabits} Mbit/s: {:.0} ms behind, {:.0} ms during the backward pass, {:.2} times",
                behind * 1e3,
                during * 1e3,
                behind / during
            );
        }
    }
}

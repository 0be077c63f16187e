//! Which blocks of a network are faster by libtorch, on this machine, now.

use super::{Draws, Engine, MixedEngine};
use crate::Error;
use crate::data::Batch;
use crate::train::{Start, initial};
use segface_kernels::image::FaceWarp;
use std::time::Instant;

/// Seconds of one block's passes, the best of some.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredBlock {
    /// Its name.
    pub name: String,
    /// By our kernels.
    pub ours: f64,
    /// By libtorch.
    pub torch: f64,
}

/// What came of a measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Each block.
    pub blocks: Vec<MeasuredBlock>,
    /// Seconds of whole steps, the best of some: all blocks ours, all libtorch's, and each by whichever was faster.
    pub wholes: [f64; 3],
}

/// Steps of each kind that count; one more warms up.
const ROUNDS: usize = 3;

/// A face's points in a frame of unit size.
const POINTS: [[f32; 2]; 5] = [[0.35, 0.4], [0.65, 0.42], [0.5, 0.55], [0.4, 0.7], [0.62, 0.72]];

impl MixedEngine {
    /// Takes steps on made-up images and gives each block to whichever was faster, or all of them to one if that makes the faster step: threads
    /// of two libraries can disturb each other. Parameters, buffers and gradients are zero afterwards.
    ///
    /// # Errors
    /// What a step can fail by.
    pub fn measure(&mut self) -> Result<Measured, Error> {
        let (parameters, buffers) = initial(self.layout(), &Start::Random, 1)?;
        self.parameters_mut().copy_from_slice(&parameters);
        self.buffers_mut().copy_from_slice(&buffers);
        drop((parameters, buffers));
        let batch = self.made_up()?;
        let names = self.blocks();
        let mut blocks: Vec<MeasuredBlock> =
            names.iter().map(|name| MeasuredBlock { name: name.clone(), ours: f64::MAX, torch: f64::MAX }).collect();
        let mut wholes = [f64::MAX; 3];
        for round in 0..=ROUNDS {
            for (torch, chosen) in [(false, &[][..]), (true, &names)] {
                self.choose(chosen)?;
                let (whole, spent) = self.timed(&batch)?;
                if round > 0 {
                    wholes[usize::from(torch)] = wholes[usize::from(torch)].min(whole);
                    for (block, spent) in blocks.iter_mut().zip(spent) {
                        let best = if torch { &mut block.torch } else { &mut block.ours };
                        *best = best.min(spent);
                    }
                }
            }
        }
        let faster: Vec<String> =
            blocks.iter().filter(|block| block.torch < block.ours).map(|block| block.name.clone()).collect();
        let candidates = [Vec::new(), names, faster];
        self.choose(&candidates[2])?;
        for round in 0..=ROUNDS {
            let whole = self.timed(&batch)?.0;
            if round > 0 {
                wholes[2] = wholes[2].min(whole);
            }
        }
        // Where both are as fast, the mixture.
        let best = [2, 0, 1].into_iter().min_by(|a, b| wholes[*a].total_cmp(&wholes[*b])).unwrap_or(2);
        self.choose(&candidates[best])?;
        self.parameters_mut().fill(0.0);
        self.buffers_mut().fill(0.0);
        self.gradients_mut().fill(0.0);
        Ok(Measured { blocks, wholes })
    }

    /// Seconds of a step, and of each block of it.
    fn timed(&mut self, batch: &Batch) -> Result<(f64, Vec<f64>), Error> {
        let mut blocks = vec![0.0; self.blocks().len()];
        // As after a step of the optimizer: weights are packed anew.
        let _ = self.parameters_mut();
        let begin = Instant::now();
        let draws = Draws { seed: 1, step: 0, micro_batch: 0 };
        self.step(batch, draws, 1.0, &mut |_, _| {}, &mut |block, time| {
            if let Some(block) = block {
                blocks[block] += time.as_secs_f64();
            }
        })?;
        Ok((begin.elapsed().as_secs_f64(), blocks))
    }

    /// Stripes, labels of all classes, faces in the middle.
    fn made_up(&self) -> Result<Batch, Error> {
        let options = self.options();
        let variant = self.layout().model().variant;
        let size = (options.width, options.height);
        let pixels = options.batch * options.height * options.width;
        let points = POINTS.map(|[x, y]| [x * options.width as f32, y * options.height as f32]);
        let warp = FaceWarp::fit(&points, size, size);
        let warp = warp.map_err(|error| crate::engine::EngineError::Broken { reason: error.to_string() });
        let classes = variant.classes().len();
        Ok(Batch {
            images: (0..3 * pixels).map(|at| ((at * 37 % 101) as f32 / 50.0) - 1.0).collect(),
            labels: (0..pixels).map(|at| (at / 97 % classes) as u8).collect(),
            indices: (0..options.batch).collect(),
            points: vec![points; options.batch],
            warps: if variant.warps() { vec![warp?; options.batch] } else { Vec::new() },
        })
    }
}

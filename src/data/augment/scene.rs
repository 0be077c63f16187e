//! Made-up backgrounds: clouds of colour, and shapes before them.

use crate::data::random::SampleRandom;

/// Draws a scene of `[height, width]` RGB pixels, 0 to 1.
pub(super) fn scene(random: &mut SampleRandom, width: usize, height: usize) -> Vec<[f32; 3]> {
    let colours: [[f32; 3]; 3] = std::array::from_fn(|_| colour(random));
    let roughness = random.uniform(0.3, 0.8) as f32;
    // Cells of the coarsest clouds, each way: bars and planks where they differ.
    let cells = [random.uniform(1.0, 8.0), random.uniform(1.0, 8.0)];
    let (mut pixels, mut strength) = (vec![[0f32; 2]; width * height], 1.0);
    for octave in 0..4 {
        let cells = cells.map(|cells| cells * f64::from(1 << octave));
        for part in 0..2 {
            Clouds::draw(random, cells).add(&mut pixels, part, strength, width, height);
        }
        strength *= roughness;
    }
    let mut scene: Vec<[f32; 3]> = pixels
        .iter()
        .map(|&[first, second]| {
            let (a, b) = (sharpen(first), sharpen(second));
            std::array::from_fn(|c| {
                let pair = colours[0][c] + (colours[1][c] - colours[0][c]) * a;
                pair + (colours[2][c] - pair) * b * 0.7
            })
        })
        .collect();
    let shapes = (random.uniform(-4.0, 14.0)).max(0.0) as usize;
    for _ in 0..shapes {
        Shape::draw(random).paint(&mut scene, width, height);
    }
    scene
}

fn colour(random: &mut SampleRandom) -> [f32; 3] {
    let grey = random.uniform(0.0, 1.0);
    let strength = random.uniform(0.0, 0.5);
    std::array::from_fn(|_| (grey + random.uniform(-strength, strength)).clamp(0.0, 1.0) as f32)
}

/// A sum of octaves about 0, to a share between 0 and 1.
fn sharpen(sum: f32) -> f32 {
    (0.5 + sum).clamp(0.0, 1.0)
}

/// Random values on a lattice, smooth between.
struct Clouds {
    cells: [f64; 2],
    columns: usize,
    values: Vec<f32>,
}

impl Clouds {
    fn draw(random: &mut SampleRandom, cells: [f64; 2]) -> Clouds {
        let [columns, rows] = cells.map(|cells| cells.ceil() as usize + 1);
        let values = (0..columns * rows).map(|_| random.uniform(-0.5, 0.5) as f32).collect();
        Clouds { cells, columns, values }
    }

    fn add(&self, pixels: &mut [[f32; 2]], part: usize, strength: f32, width: usize, height: usize) {
        let place = |at: usize, length: usize, cells: f64| {
            let at = at as f64 / length as f64 * cells;
            let between = at.fract() as f32;
            (at as usize, between * between * (3.0 - 2.0 * between))
        };
        let columns: Vec<(usize, f32)> = (0..width).map(|x| place(x, width, self.cells[0])).collect();
        for (y, row) in pixels.chunks_exact_mut(width).enumerate() {
            let (line, down) = place(y, height, self.cells[1]);
            let [above, below] = [line, line + 1].map(|line| &self.values[line * self.columns..][..self.columns]);
            for (pixel, &(column, right)) in row.iter_mut().zip(&columns) {
                let [top, bottom] = [above, below].map(|v| v[column] + (v[column + 1] - v[column]) * right);
                pixel[part] += strength * (top + (bottom - top) * down);
            }
        }
    }
}

/// A flat, turned rectangle or ellipse with stripes on it, or none.
struct Shape {
    centre: [f64; 2],
    half: [f64; 2],
    turn: f64,
    round: bool,
    stripes: f64,
    colours: [[f32; 3]; 2],
}

impl Shape {
    /// Lengths are shares of the image's sides.
    fn draw(random: &mut SampleRandom) -> Shape {
        Shape {
            centre: [0, 1].map(|_| random.uniform(-0.1, 1.1)),
            half: [0, 1].map(|_| 0.4 * random.uniform(0.15, 1.0).powi(2)),
            turn: random.uniform(0.0, std::f64::consts::PI),
            round: random.uniform(0.0, 1.0) < 0.4,
            stripes: if random.uniform(0.0, 1.0) < 0.3 { random.uniform(1.0, 12.0) } else { 0.0 },
            colours: [colour(random), colour(random)],
        }
    }

    fn paint(&self, scene: &mut [[f32; 3]], width: usize, height: usize) {
        let (sin, cos) = self.turn.sin_cos();
        for (y, row) in scene.chunks_exact_mut(width).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let dx = (x as f64 + 0.5) / width as f64 - self.centre[0];
                let dy = (y as f64 + 0.5) / height as f64 - self.centre[1];
                let along = (dx * cos + dy * sin) / self.half[0];
                let across = (dy * cos - dx * sin) / self.half[1];
                let inside = if self.round {
                    along * along + across * across < 1.0
                } else {
                    along.abs().max(across.abs()) < 1.0
                };
                if inside {
                    *pixel = self.colours[usize::from((along * self.stripes).rem_euclid(2.0) >= 1.0)];
                }
            }
        }
    }
}

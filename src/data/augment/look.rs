//! What a sample looks like: mirrored, elsewhere, in other light, through another camera. At the size of the network's input, so that it
//! costs the same for photographs of any size.

use super::scene::scene;
use crate::data::random::SampleRandom;
use segface_codegen::Variant;
use segface_kernels::image::{MEAN, STD};

/// One sample's look. Each part is there in some samples only, so that pictures as they are stay in the mix.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::data) struct Look {
    mirror: bool,
    /// The background is made up, in what follows in these numbers.
    background: Option<SampleRandom>,
    /// Light from one side: how much (x, y) brighten from the middle to the border.
    light: [f32; 2],
    /// Factor of the colours' distance from grey.
    saturation: f32,
    /// Per channel, `gain · ((v^gamma − ½) · contrast + ½)`.
    gamma: f32,
    contrast: f32,
    gain: [f32; 3],
    /// Standard deviation of the blur, as a share of the image's longer side; 0 for none.
    blur: f32,
    /// Standard deviation of the noise, and its numbers.
    noise: Option<(f32, SampleRandom)>,
}

impl Look {
    pub(super) fn draw(random: &mut SampleRandom) -> Look {
        let mut chance = |share: f64| random.uniform(0.0, 1.0) < share;
        let [mirror, elsewhere, lit, grey, blurred, noisy] = [0.5, 0.6, 0.4, 0.1, 0.3, 0.5].map(&mut chance);
        let mut within = |low: f64, high: f64| random.uniform(low, high) as f32;
        let light = [within(-0.4, 0.4), within(-0.4, 0.4)];
        let saturation = within(0.4, 1.5);
        let gamma = within(-0.5, 0.5).exp();
        let contrast = within(0.6, 1.3);
        let exposure = within(-0.25, 0.25);
        let gain = std::array::from_fn(|_| (exposure + within(-0.12, 0.12)).exp());
        let (blur, noise) = (within(0.001, 0.008), within(0.0, 0.07));
        Look {
            mirror,
            background: elsewhere.then(|| random.branch(1)),
            light: if lit { light } else { [0.0; 2] },
            saturation: if grey { 0.0 } else { saturation },
            gamma,
            contrast,
            gain,
            blur: if blurred { blur } else { 0.0 },
            noise: noisy.then(|| (noise, random.branch(2))),
        }
    }

    /// Changes a sample in place. `image`: `[height, width, 3]`, normalised; `labels`: `[height, width]` of `variant`'s classes, 0 being
    /// the background; `points`: as in [`crate::data::Sample`].
    pub(in crate::data) fn apply(
        &self,
        image: &mut [f32],
        labels: &mut [u8],
        points: &mut [[f32; 2]; 5],
        (width, height): (usize, usize),
        variant: Variant,
    ) {
        let pixels = image.as_chunks_mut::<3>().0;
        for pixel in pixels.iter_mut() {
            *pixel = std::array::from_fn(|c| pixel[c] * STD[c] + MEAN[c]);
        }
        if let Some(mut random) = self.background {
            replace_background(pixels, labels, &scene(&mut random, width, height), width);
        }
        self.colour(pixels, width, height);
        if self.blur > 0.0 {
            blur(pixels, width, height, self.blur * width.max(height) as f32);
        }
        if let Some((deviation, mut random)) = self.noise {
            add_noise(pixels, deviation, &mut random);
        }
        for pixel in pixels.iter_mut() {
            *pixel = std::array::from_fn(|c| (pixel[c].clamp(0.0, 1.0) - MEAN[c]) / STD[c]);
        }
        if self.mirror {
            let partners = mirrored_classes(variant);
            for row in pixels.chunks_exact_mut(width) {
                row.reverse();
            }
            for row in labels.chunks_exact_mut(width) {
                row.reverse();
                for label in row {
                    *label = partners.get(usize::from(*label)).copied().unwrap_or(*label);
                }
            }
            // Zeros are no points.
            if points.iter().any(|&point| point != [0.0; 2]) {
                *points = [1, 0, 2, 4, 3].map(|from| [width as f32 - points[from][0], points[from][1]]);
            }
        }
    }

    fn colour(&self, pixels: &mut [[f32; 3]], width: usize, height: usize) {
        for (y, row) in pixels.chunks_exact_mut(width).enumerate() {
            let down = 2.0 * y as f32 / height as f32 - 1.0;
            for (x, pixel) in row.iter_mut().enumerate() {
                let right = 2.0 * x as f32 / width as f32 - 1.0;
                let light = (1.0 + self.light[0] * right + self.light[1] * down).max(0.0);
                let grey = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
                for (value, gain) in pixel.iter_mut().zip(self.gain) {
                    let lit = (light * (grey + (*value - grey) * self.saturation)).max(0.0);
                    *value = gain * ((lit.powf(self.gamma) - 0.5) * self.contrast + 0.5);
                }
            }
        }
    }
}

/// The class that each becomes in a mirror.
fn mirrored_classes(variant: Variant) -> Vec<u8> {
    let classes = variant.classes();
    let of = |(class, name): (usize, &&str)| {
        let other = match (name.strip_prefix("left"), name.strip_prefix("right")) {
            (Some(part), _) => format!("right{part}"),
            (_, Some(part)) => format!("left{part}"),
            _ => return class as u8,
        };
        classes.iter().position(|name| **name == other).unwrap_or(class) as u8
    };
    classes.iter().enumerate().map(of).collect()
}

/// What is labelled background becomes `scene`, half of it next to the border.
fn replace_background(pixels: &mut [[f32; 3]], labels: &[u8], scene: &[[f32; 3]], width: usize) {
    let background = |x: usize, y: usize| f32::from(u8::from(labels[y * width + x] == 0));
    let (columns, rows) = (width - 1, labels.len() / width - 1);
    for (at, (pixel, elsewhere)) in pixels.iter_mut().zip(scene).enumerate() {
        let (x, y) = (at % width, at / width);
        let beside = background(x.saturating_sub(1), y) + background((x + 1).min(columns), y);
        let above = background(x, y.saturating_sub(1)) + background(x, (y + 1).min(rows));
        let share = 0.5 * background(x, y) + 0.125 * (beside + above);
        for (value, other) in pixel.iter_mut().zip(elsewhere) {
            *value += share * (other - *value);
        }
    }
}

/// A Gaussian of this deviation in pixels along rows, then along columns; edges are repeated.
fn blur(pixels: &mut [[f32; 3]], width: usize, height: usize, deviation: f32) {
    let reach = (2.5 * deviation).ceil() as usize;
    let weights: Vec<f32> = (0..=reach).map(|d| (-0.5 * (d as f32 / deviation).powi(2)).exp()).collect();
    let total = 2.0 * weights.iter().sum::<f32>() - weights[0];
    let mut line = Vec::new();
    let mut along = |start: usize, step: usize, length: usize| {
        line.clear();
        line.extend((0..length).map(|i| pixels[start + step * i]));
        for i in 0..length {
            let mut sum = line[i].map(|value| value * weights[0]);
            for (d, weight) in weights.iter().enumerate().skip(1) {
                let (before, after) = (line[i.saturating_sub(d)], line[(i + d).min(length - 1)]);
                sum = std::array::from_fn(|c| sum[c] + weight * (before[c] + after[c]));
            }
            pixels[start + step * i] = sum.map(|value| value / total);
        }
    };
    (0..height).for_each(|y| along(y * width, 1, width));
    (0..width).for_each(|x| along(x, width, height));
}

/// Nearly normal: sums of four bytes, whose standard deviation is 147.8.
fn add_noise(pixels: &mut [[f32; 3]], deviation: f32, random: &mut SampleRandom) {
    let scale = deviation / 147.8;
    for pixel in pixels {
        let words = random.words();
        for (value, word) in pixel.iter_mut().zip(words) {
            let sum: u32 = word.to_le_bytes().map(u32::from).iter().sum();
            *value += scale * (sum as f32 - 510.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (48, 40);

    /// A disc of class `class` on background, grey on grey.
    fn picture(class: u8) -> (Vec<f32>, Vec<u8>) {
        let (width, height) = SIZE;
        let inside = |i: usize| (i % width) as f32 - 16.0 + ((i / width) as f32 - 20.0).powi(2) / 16.0 < 0.0;
        let labels: Vec<u8> = (0..width * height).map(|i| if inside(i) { class } else { 0 }).collect();
        let image = labels.iter().flat_map(|&label| [if label > 0 { 0.5 } else { -0.5 }; 3]).collect();
        (image, labels)
    }

    fn looks(count: usize) -> impl Iterator<Item = Look> {
        (0..count).map(|index| Look::draw(&mut SampleRandom::new(7, 0, index)))
    }

    #[test]
    fn labels_change_only_by_the_mirror_which_swaps_left_and_right() {
        let (image, labels) = picture(9);
        let mut seen = [false; 2];
        for look in looks(20) {
            let (mut image, mut now, mut points) = (image.clone(), labels.clone(), [[3.0, 4.0]; 5]);
            look.apply(&mut image, &mut now, &mut points, SIZE, Variant::Celeb);
            seen[usize::from(look.mirror)] = true;
            assert!(image.iter().all(|value| value.is_finite() && value.abs() < 3.0));
            if look.mirror {
                let mut mirrored = labels.clone();
                mirrored.chunks_exact_mut(SIZE.0).for_each(<[u8]>::reverse);
                // Class 9 is `lefteye`, 8 `righteye`.
                assert!(now.iter().zip(&mirrored).all(|(&now, &was)| now == if was == 9 { 8 } else { 0 }));
                assert_eq!(points, [[SIZE.0 as f32 - 3.0, 4.0]; 5]);
            } else {
                assert_eq!((now, points), (labels.clone(), [[3.0, 4.0]; 5]));
            }
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn a_mirror_twice_is_none_and_pairs_are_pairs_in_every_label_set() {
        for variant in Variant::ALL {
            let partners = mirrored_classes(variant);
            assert!((0..partners.len()).all(|class| usize::from(partners[usize::from(partners[class])]) == class));
            let moved = partners.iter().enumerate().filter(|&(class, &to)| class != usize::from(to)).count();
            assert_eq!(moved, if variant == Variant::Celeb { 6 } else { 4 });
        }
    }

    #[test]
    fn another_background_leaves_the_face_alone() {
        let (width, height) = SIZE;
        let (image, labels) = picture(1);
        let mut pixels: Vec<[f32; 3]> = image.as_chunks::<3>().0.to_vec();
        let before = pixels.clone();
        let elsewhere = scene(&mut SampleRandom::new(1, 2, 3), width, height);
        replace_background(&mut pixels, &labels, &elsewhere, width);
        assert!(elsewhere.iter().flatten().all(|value| (0.0..=1.0).contains(value)));
        let near = |at: usize, class: u8| {
            [at.wrapping_sub(1), at + 1, at.wrapping_sub(width), at + width]
                .iter()
                .all(|&at| labels.get(at).is_none_or(|&label| label == class))
        };
        let (mut faces, mut rest) = (0, 0);
        for at in 0..labels.len() {
            if labels[at] == 1 && near(at, 1) {
                assert_eq!(pixels[at], before[at]);
                faces += 1;
            } else if labels[at] == 0 && near(at, 0) && at % width != 0 && (at + 1) % width != 0 {
                assert!(pixels[at].iter().zip(elsewhere[at]).all(|(a, b)| (a - b).abs() < 1e-6));
                rest += 1;
            }
        }
        assert!(faces > 100 && rest > 100);
    }

    #[test]
    fn blur_keeps_the_mean_and_noise_has_the_deviation_asked_for() {
        let (width, height) = (128, 128);
        let mut flat = vec![[0.25f32, 0.5, 0.75]; width * height];
        blur(&mut flat, width, height, 1.7);
        assert!(flat.iter().all(|p| (p[0] - 0.25).abs() < 1e-6 && (p[2] - 0.75).abs() < 1e-6));
        let mut point = vec![[0f32; 3]; width * height];
        point[64 * width + 64] = [1.0; 3];
        blur(&mut point, width, height, 1.7);
        let moment: f32 = (0..width * height).map(|at| point[at][1] * ((at % width) as f32 - 64.0).powi(2)).sum();
        assert!((point.iter().map(|p| p[1]).sum::<f32>() - 1.0).abs() < 1e-5);
        // 1.7² = 2.89, less what lies outside 2.5 deviations.
        assert!((2.4..2.9).contains(&moment), "{moment}");
        let mut noisy = vec![[0.0; 3]; width * height];
        add_noise(&mut noisy, 0.05, &mut SampleRandom::new(1, 2, 3));
        let values = noisy.iter().flatten();
        let square = values.clone().map(|v| v * v).sum::<f32>() / (3 * width * height) as f32;
        assert!((square.sqrt() - 0.05).abs() < 1e-3 && (values.sum::<f32>() / 49152.0).abs() < 1e-3);
    }
}

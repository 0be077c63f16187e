//! `image` against libtorch: LaPa's warp and un-warp, labels at the network's size and at any other.
//!
//! Resizing photos is judged by Pillow's own output, in the engine's tests.

use proptest::prelude::*;
use segface_kernels::{
    Context, Isa,
    image::{FaceWarp, LabelResizer, Window, argmax_labels},
};
use segface_reference::{image, mask_head, resample::bilinear};
use segface_tests::{
    judge::{Failure, Floor},
    operand::{Operand, Values, to_nhwc, unit_values},
    problems::{judge_kernel, random_problems},
};
use tch::{Kind, Tensor};

/// A face somewhere in an image.
#[derive(Debug, Clone)]
struct Face {
    values: Values,
    height: usize,
    width: usize,
    channels: usize,
    landmarks: [[f32; 2]; 5],
}

/// Faces upright or turned, small or large, also reaching over the border.
fn face() -> impl Strategy<Value = Face> {
    let pose = (-0.6..0.6f32, 0.2..1.6f32, -0.2..0.2f32, -0.2..0.2f32, prop::array::uniform10(-0.03..0.03f32));
    (unit_values(), 8..90usize, 8..90usize, 1..20usize, pose).prop_map(|(values, height, width, channels, pose)| {
        let (angle, scale, right, down, jitter) = pose;
        let standard = [[-0.12, -0.06], [0.12, -0.06], [0.0, 0.06], [-0.07, 0.2], [0.07, 0.2]];
        let landmarks = [0, 1, 2, 3, 4].map(|i| {
            let [x, y] = standard[i].map(|v: f32| v * scale);
            let (x, y) = (x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos());
            let (x, y) = (x + 0.5 + right + jitter[2 * i], y + 0.5 + down + jitter[2 * i + 1]);
            [x * width as f32, y * height as f32]
        });
        Face { values, height, width, channels, landmarks }
    })
}

impl Face {
    fn image(&self) -> Operand {
        self.values.input::<f32>("image", &[1, self.height, self.width, self.channels])
    }

    fn points(&self, kind: Kind) -> Tensor {
        Tensor::from_slice(self.landmarks.as_flattened()).view([1, 5, 2]).to_kind(kind)
    }

    /// Few numbers (the similarity's) decide all coordinates, so their roundings do not average out: a coordinate may be
    /// off by sixteen roundings of the image's side, and a pixel by that times twice the largest value.
    fn floor(&self) -> Floor {
        Floor(32.0 * 2f64.powi(-24) * self.height.max(self.width) as f64)
    }

    fn fit(&self) -> FaceWarp {
        let size = (self.width, self.height);
        FaceWarp::fit(&self.landmarks, size, size).expect("five points that lie apart")
    }
}

#[test]
fn warping_samples_the_image_where_the_published_grid_does() {
    random_problems("warp", 48, face(), |face| {
        let image = face.image();
        let reference = |kind| to_nhwc(&image::warp(&image.nchw(kind), &face.points(kind)));
        judge_kernel::<f32>("warp", face.floor(), reference, |context| {
            let mut out = vec![f32::NAN; image.f32().len()];
            face.fit().warp(context, image.f32(), face.channels, &mut out);
            out
        })
    });
}

#[test]
fn unwarping_brings_logits_of_any_size_back() {
    random_problems("unwarp", 48, face(), |face| {
        // Four times the first tap's size, as the decoder gives them.
        let [height, width] = [face.height, face.width].map(|side| side.div_ceil(4) * 4);
        let logits = face.values.input::<f32>("logits", &[1, height, width, face.channels]);
        let reference = |kind| {
            let (points, height, width) = (face.points(kind), face.height as i64, face.width as i64);
            to_nhwc(&image::unwarp(&logits.nchw(kind), &points, height, width))
        };
        judge_kernel::<f32>("unwarp", face.floor(), reference, |context| {
            let mut out = vec![f32::NAN; face.height * face.width * face.channels];
            face.fit().unwarp(context, logits.f32(), (width, height), face.channels, &mut out);
            out
        })
    });
}

/// Logits of one image, and another size.
#[derive(Debug)]
struct Labels {
    values: Values,
    classes: usize,
    source: (usize, usize),
    target: (usize, usize),
}

fn labels() -> impl Strategy<Value = Labels> {
    let side = || 1..40usize;
    (unit_values(), 1..40usize, (side(), side()), (1..120usize, 1..120usize))
        .prop_map(|(values, classes, source, target)| Labels { values, classes, source, target })
}

/// Runs `kernel` with every instruction set of this machine.
fn everywhere(
    kernel: impl Fn(&mut Context) -> Vec<u8>,
    accept: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<(), Failure> {
    for isa in Isa::available() {
        for threads in [1, 3] {
            accept(&kernel(&mut Context::new(threads, isa)))
                .map_err(|reason| Failure::new(format!("{}, {threads} threads: {reason}", isa.name())))?;
        }
    }
    Ok(())
}

#[test]
fn argmax_takes_the_first_of_equal_logits() {
    random_problems("argmax", 48, labels(), |p| {
        let (width, height) = p.source;
        let logits = p.values.input::<f32>("logits", &[1, height, width, p.classes]);
        // Quarters, so that there are ties.
        let quarters: Vec<f32> = logits.f32().iter().map(|v| (v * 4.0).round() / 4.0).collect();
        let tensor = Tensor::from_slice(&quarters).view([1, height as i64, width as i64, p.classes as i64]);
        let truth = mask_head::labels(&tensor.permute([0, 3, 1, 2]).contiguous()).flatten(0, -1);
        let truth: Vec<i64> = Vec::try_from(truth).expect("labels");
        let kernel = |context: &mut Context| {
            let mut out = vec![u8::MAX; width * height];
            argmax_labels(context, &quarters, p.classes, &mut out);
            out
        };
        everywhere(kernel, |ours| match ours.iter().zip(&truth).position(|(a, b)| i64::from(*a) != *b) {
            None => Ok(()),
            Some(i) => Err(format!("pixel {i} is {}, expected {}", ours[i], truth[i])),
        })
    });
}

#[test]
fn labels_at_another_size_are_those_of_the_resized_logits() {
    random_problems("labels resized", 48, labels(), |p| {
        let (width, height) = p.source;
        let logits = p.values.input::<f32>("logits", &[1, height, width, p.classes]);
        let resized = bilinear(&logits.nchw(Kind::Double), p.target.1 as i64, p.target.0 as i64).squeeze_dim(0);
        let best = resized.amax([0], false);
        let kernel = |context: &mut Context| {
            let mut out = vec![u8::MAX; p.target.0 * p.target.1];
            let window = Window::whole(p.target.0, p.target.1);
            LabelResizer::new(p.source, p.target, p.classes).run(context, logits.f32(), &mut out, p.target.0, window);
            out
        };
        everywhere(kernel, |ours| {
            let chosen: Vec<i64> = ours.iter().map(|&label| i64::from(label)).collect();
            if let Some(label) = chosen.iter().find(|&&label| label >= p.classes as i64) {
                return Err(format!("label {label} of {} classes", p.classes));
            }
            let chosen = Tensor::from_slice(&chosen).view([1, p.target.1 as i64, p.target.0 as i64]);
            let short = (&best - resized.gather(0, &chosen, false).squeeze_dim(0)).max().double_value(&[]);
            // Logits of at most 2 in f32: weights and products are off by some 2⁻²⁴ each.
            if short <= 1e-6 { Ok(()) } else { Err(format!("a label's logit is {short:.2e} below the best")) }
        })
    });
}

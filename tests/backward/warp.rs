//! The way out of LaPa's warp: logits of several sizes, faces that reach over the border.

use proptest::prelude::*;
use segface_kernels::image::FaceWarp;
use segface_kernels::{Context, Gradient, Isa};
use segface_reference::image;
use segface_tests::{
    gradients::{Differentiable, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, to_nchw, to_nhwc, unit_values},
    problems::random_problems,
};
use tch::Tensor;

/// A face somewhere in an image.
#[derive(Debug, Clone)]
struct Face {
    values: Values,
    height: usize,
    width: usize,
    classes: usize,
    landmarks: [[f32; 2]; 5],
}

/// Faces upright or turned, small or large, also reaching over the border.
fn face() -> impl Strategy<Value = Face> {
    let pose = (-0.6..0.6f32, 0.2..1.6f32, -0.2..0.2f32, -0.2..0.2f32);
    (unit_values(), 8..90usize, 8..90usize, 1..20usize, pose).prop_map(|(values, height, width, classes, pose)| {
        let (angle, scale, right, down) = pose;
        let standard = [[-0.12, -0.06], [0.12, -0.06], [0.0, 0.06], [-0.07, 0.2], [0.07, 0.2]];
        let landmarks = standard.map(|[x, y]: [f32; 2]| {
            let (x, y) = (x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos());
            [(0.5 + right + x * scale) * width as f32, (0.5 + down + y * scale) * height as f32]
        });
        Face { values, height, width, classes, landmarks }
    })
}

fn check(face: &Face) -> Result<(), Failure> {
    let Face { ref values, height, width, classes, landmarks } = *face;
    // Four times the first tap's size, as the decoder gives them.
    let size = (width.div_ceil(4) * 4, height.div_ceil(4) * 4);
    let logits = values.input::<f32>("logits", &[1, size.1, size.0, classes]);
    let d_out = values.weight::<f32>("d_out", &[1, height, width, classes], 1.0);
    let points = Operand::from_values::<f32>(&[1, 5, 2], landmarks.into_iter().flatten());
    let function = Differentiable {
        inputs: &[("logits", &logits)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| {
            let points = points.tensor(inputs[0].kind());
            to_nhwc(&image::unwarp(&to_nchw(&inputs[0]), &points, height as i64, width as i64))
        },
    };
    let warp = FaceWarp::fit(&landmarks, (width, height), (width, height)).expect("five points that lie apart");
    let run = |context: &mut Context| {
        let mut d_logits = unset::<f32>(logits.f32().len());
        warp.unwarp_backward(context, d_out.f32(), size, classes, Gradient::overwrite(&mut d_logits));
        vec![d_logits]
    };
    // As the forward pass has it: a coordinate may be off by sixteen roundings of the image's side.
    let floor = Floor(32.0 * 2f64.powi(-24) * height.max(width) as f64);
    function.judge::<f32>("unwarp", |_| floor, run)?;
    let context = &mut Context::new(2, Isa::best());
    let mut sums = vec![0.75; logits.f32().len()];
    warp.unwarp_backward(context, d_out.f32(), size, classes, Gradient::add_to(&mut sums));
    // Terms are added one by one to what is there: no bits, but a sum.
    let fresh = &run(context)[0];
    let far = sums.iter().zip(fresh).map(|(sum, fresh)| (sum - fresh - 0.75).abs()).fold(0.0, f32::max);
    let size = fresh.iter().fold(1f32, |most, value| most.max(value.abs()));
    if far > 1e-5 * size {
        return Err(Failure::new(format!("the gradient is not added: {far:e} off")));
    }
    Ok(())
}

#[test]
fn logits_get_back_what_the_image_took() {
    random_problems("unwarp backward", 32, face(), check);
}

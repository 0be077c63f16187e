//! The judge judged where the stored cases do not reach: geometry by hand, batches, errors.

use proptest::prelude::*;
use segface::weights::{Weights, seeded};
use segface_codegen::{Backbone, ModelSpec, Variant, WeightSource};
use segface_kernels::bf16;
use segface_reference::{
    Error, Model, image,
    mask_head::labels,
    mlp::Linear,
    window_attention::{Scores, WindowAttention},
};
use segface_tests::{
    judge::{Errors, Failure},
    operand::{Values, unit_values},
    parity,
    problems::random_problems,
};
use std::borrow::Cow;
use tch::{Kind, Tensor};

const HEADS: usize = 2;
const WIDTH: usize = 6;

/// Window attention on a map whose sides one window may cover or not, each for itself.
#[derive(Debug)]
struct Windows {
    values: Values,
    batch: usize,
    height: usize,
    width: usize,
    side: usize,
    shifted: bool,
    cosine: bool,
}

fn windows() -> impl Strategy<Value = Windows> {
    let sizes = (1..3usize, 1..12usize, 1..12usize, 2..6usize);
    (unit_values(), sizes, any::<bool>(), any::<bool>()).prop_map(|(values, sizes, shifted, cosine)| {
        let (batch, height, width, side) = sizes;
        Windows { values, batch, height, width, side, shifted, cosine }
    })
}

/// `range(start, end)` of a list of `length` elements as Python's slices have it: `None` is the end, negative counts
/// from there.
fn python_slice(start: i64, end: Option<i64>, length: i64) -> std::ops::Range<i64> {
    let wrap = |i: i64| if i < 0 { (i + length).max(0) } else { i.min(length) };
    wrap(start)..end.map_or(length, wrap)
}

/// torchvision's region numbers of one axis: three slices are painted one after the other.
fn regions(length: i64, side: i64, shift: i64) -> Vec<i64> {
    let mut region = vec![0; length as usize];
    for (number, (start, end)) in [(0, Some(-side)), (-side, Some(-shift)), (-shift, None)].into_iter().enumerate() {
        for i in python_slice(start, end, length) {
            region[i as usize] = number as i64;
        }
    }
    region
}

/// Token by token, in plain loops: q, k and v of each padded token, then each token's own softmax over its window.
fn attend_by_hand(x: &Tensor, attention: &WindowAttention) -> Tensor {
    let (batch, height, width, channels) = x.size4().expect("four axes");
    let (side, heads) = (attention.window, attention.position_bias.size()[0]);
    let head = channels / heads;
    let (rows, columns) = ((height + side - 1) / side * side, (width + side - 1) / side * side);
    let shift_y = if side >= rows { 0 } else { attention.shift };
    let shift_x = if side >= columns { 0 } else { attention.shift };
    let (region_y, region_x) = (regions(rows, side, shift_y), regions(columns, side, shift_x));

    let mut qkv_bias: Vec<f64> = Vec::try_from(&attention.qkv.bias).expect("a vector");
    if matches!(attention.scores, Scores::Cosine(_)) {
        qkv_bias[channels as usize..2 * channels as usize].fill(0.0);
    }
    let bias = Tensor::from_slice(&qkv_bias);
    let padded = Tensor::zeros([batch, rows, columns, channels], (Kind::Double, tch::Device::Cpu));
    padded.narrow(1, 0, height).narrow(2, 0, width).copy_(x);
    let qkv: Vec<f64> =
        Vec::try_from((padded.matmul(&attention.qkv.weight.tr()) + bias).flatten(0, -1)).expect("values");
    let position: Vec<f64> = Vec::try_from(attention.position_bias.flatten(0, -1)).expect("values");
    // The rolled position of the map's row or column i is i − shift, modulo the padded length.
    let roll = |i: i64, shift: i64, length: i64| (i - shift + length) % length;
    let part = |b: i64, y: i64, x: i64, third: i64, h: i64| -> &[f64] {
        let token = (b * rows + y) * columns + x;
        let start = (token * 3 * channels + third * channels + h * head) as usize;
        &qkv[start..start + head as usize]
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();

    let mut mixed = Vec::new();
    for (b, y, x, h) in (0..batch)
        .flat_map(|b| (0..height).flat_map(move |y| (0..width).map(move |x| (b, y, x))))
        .flat_map(|(b, y, x)| (0..heads).map(move |h| (b, y, x, h)))
    {
        let (ry, rx) = (roll(y, shift_y, rows), roll(x, shift_x, columns));
        let q = part(b, y, x, 0, h);
        let (mut total, mut sum) = (0.0, vec![0.0; head as usize]);
        for (ky, kx) in (0..rows).flat_map(|ky| (0..columns).map(move |kx| (ky, kx))) {
            let (sy, sx) = (roll(ky, shift_y, rows), roll(kx, shift_x, columns));
            if sy / side != ry / side || sx / side != rx / side {
                continue;
            }
            let k = part(b, ky, kx, 1, h);
            let mut score = match &attention.scores {
                Scores::ScaledDot => dot(q, k) / (head as f64).sqrt(),
                Scores::Cosine(scale) => {
                    // A padded token's key is zero.
                    let length = |x| dot(x, x).sqrt().max(1e-12);
                    let scale = scale.double_value(&[h, 0, 0]).min(100f64.ln()).exp();
                    dot(q, k) / length(q) / length(k) * scale
                }
            };
            let place = |y: i64, x: i64| (y % side) * side + x % side;
            let (area, query, key) = (side * side, place(ry, rx), place(sy, sx));
            score += position[((h * area + query) * area + key) as usize];
            let same = region_y[ry as usize] == region_y[sy as usize] && region_x[rx as usize] == region_x[sx as usize];
            score += if same { 0.0 } else { -100.0 };
            let weight = score.exp();
            total += weight;
            sum.iter_mut().zip(part(b, ky, kx, 2, h)).for_each(|(s, v)| *s += weight * v);
        }
        mixed.extend(sum.iter().map(|s| s / total));
    }
    attention.proj.apply(&Tensor::from_slice(&mixed).view([batch, height, width, channels]))
}

#[test]
fn window_attention_is_each_tokens_softmax_over_its_window() {
    random_problems("window attention by hand", 48, windows(), |p| {
        let channels = HEADS * WIDTH;
        let area = p.side * p.side;
        let weight = |name: &str, shape: &[usize]| p.values.weight::<f32>(name, shape, 0.5).tensor(Kind::Double);
        let linear = |name: &str, out: usize| Linear {
            weight: weight(&format!("{name} weight"), &[out, channels]),
            bias: weight(&format!("{name} bias"), &[out]),
        };
        let scale = p.values.weight::<f32>("logit scale", &[HEADS, 1, 1], 2.0).tensor(Kind::Double);
        let attention = WindowAttention {
            qkv: linear("qkv", 3 * channels),
            proj: linear("proj", channels),
            position_bias: weight("position", &[HEADS, area, area]),
            scores: if p.cosine { Scores::Cosine(scale + 3.0) } else { Scores::ScaledDot },
            window: p.side as i64,
            shift: if p.shifted { p.side as i64 / 2 } else { 0 },
        };
        let x = p.values.input::<f32>("x", &[p.batch, p.height, p.width, channels]).tensor(Kind::Double);
        let error = Errors::of(&attention.apply(&x), &attend_by_hand(&x, &attention));
        if error.max < 1e-12 { Ok(()) } else { Err(Failure::new(format!("differs by hand: {error:?}"))) }
    });
}

#[test]
fn the_warp_of_a_standard_face_bends_only_the_border() {
    // Points that already stand where they should: the similarity is the identity.
    let side = 64;
    let points: Vec<f64> = [196.0, 226.0, 316.0, 226.0, 256.0, 286.0, 220.0, 360.4, 292.0, 360.4]
        .map(|p: f64| p / 256.0 * (side - 1) as f64 / 2.0)
        .to_vec();
    let points = Tensor::from_slice(&points).view([1, 5, 2]);
    let matrix = image::similarity(&points, side, side);
    let identity = Tensor::eye(3, (Kind::Double, tch::Device::Cpu));
    assert!((&matrix - &identity).abs().max().double_value(&[]) < 1e-12);

    let grid = image::warp_grid(&matrix, (side, side), (side, side));
    let at = |y: i64, x: i64| (grid.double_value(&[0, y, x, 0]), grid.double_value(&[0, y, x, 1]));
    // n = −1 is clamped to atanh(0.999), n = 0.125 is straight, n = 0.5 is bent.
    let border = -(0.999f64.atanh() * 0.8 + 0.2);
    let bent = (0.3f64 / 0.8).atanh() * 0.8 + 0.2;
    for ((y, x), (want_x, want_y)) in [((0, 36), (0.125, border)), ((48, 0), (border, bent)), ((36, 48), (bent, 0.125))]
    {
        let (x, y) = at(y, x);
        assert!((x - want_x).abs() < 1e-12 && (y - want_y).abs() < 1e-12, "({x}, {y}), expected ({want_x}, {want_y})");
    }
}

#[test]
fn unwarping_undoes_warping() {
    let (height, width) = (96, 128);
    let points = [40.0, 38.0, 71.0, 41.0, 55.0, 52.0, 45.0, 66.0, 68.0, 68.0];
    let matrix = image::similarity(&Tensor::from_slice(&points).view([1, 5, 2]), height, width);
    // A pixel's place in the warped image, looked up in the grid that warps, is the pixel.
    let warp = image::warp_grid(&matrix, (height, width), (height, width)).permute([0, 3, 1, 2]);
    let unwarp = image::unwarp_grid(&matrix, (height, width), (height, width));
    // grid_sample reads half a pixel beside where these grids mean; align_corners shifts that back.
    let half = Tensor::from_slice(&[1.0 / width as f64, 1.0 / height as f64]);
    let back = image::grid_sample(&warp, &(&unwarp + &half));
    let centre = |x: &Tensor| x.narrow(1, 30, 40).narrow(2, 40, 40);
    let found = centre(&back.permute([0, 2, 3, 1]));
    let extent = Tensor::from_slice(&[width as f64, height as f64]);
    let (x, y) = (
        Tensor::arange(width, (Kind::Double, tch::Device::Cpu)),
        Tensor::arange(height, (Kind::Double, tch::Device::Cpu)),
    );
    let pixels = Tensor::stack(
        &[x.view([1, -1]).expand([height, width], false), y.view([-1, 1]).expand([height, width], false)],
        -1,
    );
    let wanted = centre(&((pixels / extent * 2.0) - 1.0).unsqueeze(0));
    let worst = (found - wanted).abs().max().double_value(&[]);
    assert!(worst < 2e-3, "off by {worst:.1e} of half a side");
}

#[test]
fn the_first_of_equal_logits_wins() {
    let logits = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 2.0, 3.0, 2.0]).view([1, 3, 1, 2]);
    assert_eq!(Vec::<i64>::try_from(labels(&logits).flatten(0, -1)).expect("labels"), [1, 0]);
}

/// A batch is so many images, and no size that the published code takes is refused.
fn check_batch(backbone: Backbone, height: i64, width: i64) {
    tch::set_num_threads(1);
    let spec = ModelSpec { backbone, variant: Variant::Lapa };
    let weights = seeded(spec);
    let model = Model::new(spec, &weights, Kind::Double);
    let input = parity::input(2, height, width);
    let unit = [0.38, 0.45, 0.62, 0.44, 0.5, 0.56, 0.43, 0.7, 0.57, 0.71];
    let points = Tensor::from_slice(&unit).view([1, 5, 2]) * Tensor::from_slice(&[width as f64, height as f64]);
    let points = Tensor::cat(&[&points, &(&points + 1.5)], 0);
    let both = model.forward(&input, Some(&points)).expect("runs");
    assert_eq!(both.logits.size(), [2, 11, height, width]);
    for i in 0..2 {
        let one = model.forward(&input.narrow(0, i, 1), Some(&points.narrow(0, i, 1))).expect("runs");
        let error = Errors::of(&both.logits.narrow(0, i, 1), &one.logits);
        assert!(error.max < 1e-10, "{spec}, image {i}: {error:?}");
    }
}

#[test]
fn a_batch_is_its_images_whatever_the_size() {
    check_batch(Backbone::SwinV2Tiny, 52, 75);
    check_batch(Backbone::ConvNextTiny, 47, 33);
    check_batch(Backbone::MobileNet, 61, 90);
}

#[test]
fn bf16_runs_and_is_as_close_as_8_bits_allow() {
    tch::set_num_threads(1);
    let case = parity::Case::load("celeb_mobilenet_64x64x2");
    let weights = seeded(case.spec);
    let out = Model::new(case.spec, &weights, Kind::BFloat16).forward(&case.input(), None).expect("runs");
    assert_eq!(out.logits.kind(), Kind::BFloat16);
    let error = Errors::of(&out.logits, &case.tensor("logits"));
    // Some hundred roundings of 2⁻⁹ on average, adding up like a random walk.
    assert!(error.l2 > bf16::EPSILON.to_f64() / 8.0 && error.l2 < 0.05, "{error:?}");
}

/// Seeded weights without some tensors.
struct Without(Weights, &'static str);

impl WeightSource for Without {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        if name == self.1 { None } else { self.0.tensor(name) }
    }
}

#[test]
fn what_cannot_be_run_is_named() {
    let spec = |backbone, variant| ModelSpec { backbone, variant };
    let celeb = spec(Backbone::MobileNet, Variant::Celeb);
    let missing = Without(seeded(celeb), "backbone.4.block.2.fc1.bias");
    let small = parity::input(1, 32, 32);
    let error = Model::new(celeb, &missing, Kind::Float).forward(&small, None).expect_err("a tensor is missing");
    assert!(matches!(&error, Error::Missing(name) if name == missing.1), "{error}");

    let convnext = spec(Backbone::ConvNextTiny, Variant::Celeb);
    let weights = seeded(convnext);
    let model = Model::new(convnext, &weights, Kind::Float);
    for input in [parity::input(1, 31, 64), parity::input(1, 32, 32).narrow(1, 0, 2), parity::input(0, 32, 32)] {
        assert!(matches!(model.forward(&input, None), Err(Error::Input { least: 32, .. })), "{:?}", input.size());
    }

    let lapa = spec(Backbone::MobileNet, Variant::Lapa);
    let weights = seeded(lapa);
    let model = Model::new(lapa, &weights, Kind::Float);
    assert!(matches!(model.forward(&small, None), Err(Error::Landmarks { found: None, batch: 1 })));
    let four = Tensor::zeros([1, 4, 2], (Kind::Float, tch::Device::Cpu));
    assert!(matches!(model.forward(&small, Some(&four)), Err(Error::Landmarks { found: Some(_), .. })));
}

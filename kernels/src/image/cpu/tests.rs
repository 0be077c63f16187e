//! Each kernel against its plain definition, on every instruction set of this machine and on threads.

use super::*;
use crate::image::{BlendStyle, Layout, MEAN, RgbView, STD, Window};
use crate::{Context, Isa, bf16};

/// A small generator (splitmix64), so that every run tests the same problems.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// One thread of plain Rust: what the other ways are compared with.
fn plain() -> Context {
    Context::new(1, Isa::Portable)
}

/// Every instruction set of this CPU, on one thread and on three.
fn ways() -> impl Iterator<Item = Context> {
    Isa::available().flat_map(|isa| [1, 3].map(|threads| Context::new(threads, isa)))
}

/// Bicubic resize straight from the definition, in f64 but for the rounding of weights and of each pass.
fn plain_resize(source: &[u8], (w, h): (usize, usize), (out_w, out_h): (usize, usize)) -> Vec<u8> {
    let pass = |input: &dyn Fn(usize) -> [u8; 3], length: usize, out: usize| -> Vec<[u8; 3]> {
        if length == out {
            return (0..length).map(input).collect();
        }
        let scale = length as f64 / out as f64;
        let wide = scale.max(1.0);
        (0..out)
            .map(|i| {
                let center = (i as f64 + 0.5) * scale;
                let first = (center - 2.0 * wide + 0.5).floor().max(0.0) as usize;
                let end = ((center + 2.0 * wide + 0.5).floor() as usize).min(length);
                let kernel = |x: usize| {
                    let t = ((x as f64 + 0.5 - center) / wide).abs();
                    if t < 1.0 {
                        1.5 * t.powi(3) - 2.5 * t.powi(2) + 1.0
                    } else if t < 2.0 {
                        -0.5 * t.powi(3) + 2.5 * t.powi(2) - 4.0 * t + 2.0
                    } else {
                        0.0
                    }
                };
                let sum: f64 = (first..end).map(kernel).sum();
                std::array::from_fn(|c| {
                    let value: f64 = (first..end).map(|x| kernel(x) / sum * f64::from(input(x)[c])).sum();
                    (value + 0.5).floor().clamp(0.0, 255.0) as u8
                })
            })
            .collect()
    };
    let pixel = |data: &[u8], width: usize, x: usize, y: usize| -> [u8; 3] {
        std::array::from_fn(|c| data[3 * (y * width + x) + c])
    };
    let rows: Vec<u8> = (0..h).flat_map(|y| pass(&|x| pixel(source, w, x, y), w, out_w)).flatten().collect();
    let mut out = vec![0; 3 * out_w * out_h];
    for x in 0..out_w {
        for (y, value) in pass(&|y| pixel(&rows, out_w, x, y), h, out_h).into_iter().enumerate() {
            out[3 * (y * out_w + x)..][..3].copy_from_slice(&value);
        }
    }
    out
}

const SIZES: [((usize, usize), (usize, usize)); 9] = [
    ((37, 29), (16, 16)),
    ((16, 16), (37, 29)),
    ((1, 1), (5, 3)),
    ((5, 3), (1, 1)),
    ((200, 3), (22, 40)),
    ((3, 200), (40, 22)),
    ((64, 48), (64, 20)),
    ((64, 48), (20, 48)),
    ((50, 50), (50, 50)),
];

#[test]
fn resize_is_the_definition_but_for_halves() {
    let mut random = Random(1);
    for (from, to) in SIZES {
        let source = random.bytes(3 * from.0 * from.1);
        let expected = plain_resize(&source, from, to);
        let out = Resampler::new(from, to).resize(&mut plain(), RgbView::new(&source, from.0, from.1));
        // Fixed-point weights can turn a value within 1e-6 of a half; no other difference is allowed.
        let differing = out.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert!(out.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= 1), "{from:?} to {to:?}");
        assert!(differing * 200 <= out.len(), "{from:?} to {to:?}: {differing} of {} differ", out.len());
    }
}

#[test]
fn resize_gives_the_same_bits_on_every_instruction_set_and_thread_count() {
    let mut random = Random(2);
    for (from, to) in SIZES {
        let source = random.bytes(3 * from.0 * from.1);
        let view = RgbView::new(&source, from.0, from.1);
        let expected = Resampler::new(from, to).resize(&mut plain(), view);
        for mut ctx in ways() {
            let out = Resampler::new(from, to).resize(&mut ctx, view);
            assert!(out == expected, "{:?}, {from:?} to {to:?}", ctx.isa());
        }
    }
}

#[test]
fn extreme_contrast_saturates_instead_of_wrapping() {
    // Alternating columns of 0 and 255 overshoot both ends of the byte when enlarged.
    let source: Vec<u8> = (0..3 * 24 * 8).map(|i| if (i / 3 / 2) % 2 == 0 { 0 } else { 255 }).collect();
    for mut ctx in ways() {
        let out = Resampler::new((24, 8), (101, 33)).resize(&mut ctx, RgbView::new(&source, 24, 8));
        assert!(out == plain_resize(&source, (24, 8), (101, 33)), "{:?}", ctx.isa());
    }
}

#[test]
fn a_window_is_resized_as_its_copy_would_be() {
    let mut random = Random(3);
    let (width, height) = (40, 30);
    let source = random.bytes(3 * width * height);
    for window in [
        Window { x: 7, y: 5, width: 20, height: 18 },
        Window { x: 30, y: 20, width: 10, height: 10 },
        Window { x: 0, y: 29, width: 40, height: 1 },
    ] {
        let view = RgbView::new(&source, width, height).window(window);
        let copy: Vec<u8> = (0..window.height).flat_map(|y| view.row(y).to_vec()).collect();
        for mut ctx in ways() {
            let resampler = Resampler::new((window.width, window.height), (16, 12));
            let expected = resampler.resize(&mut ctx, RgbView::new(&copy, window.width, window.height));
            assert_eq!(resampler.resize(&mut ctx, view), expected, "{:?} {window:?}", ctx.isa());
        }
    }
}

#[test]
fn normalised_input_has_the_published_values_in_either_layout_and_type() {
    let mut random = Random(4);
    let source = random.bytes(3 * 21 * 17);
    let mut ctx = Context::new(3, Isa::best());
    let resampler = Resampler::new((21, 17), (16, 12));
    let view = RgbView::new(&source, 21, 17);
    let bytes = resampler.resize(&mut ctx, view);
    let (mut nhwc, mut nchw, mut short) =
        (vec![0f32; bytes.len()], vec![0f32; bytes.len()], vec![bf16::ZERO; bytes.len()]);
    resampler.resize_normalise(&mut ctx, view, Layout::Nhwc, &mut nhwc);
    resampler.resize_normalise(&mut ctx, view, Layout::Nchw, &mut nchw);
    resampler.resize_normalise(&mut ctx, view, Layout::Nhwc, &mut short);
    for (index, &byte) in bytes.iter().enumerate() {
        let (pixel, c) = (index / 3, index % 3);
        let expected = (f32::from(byte) / 255.0 - MEAN[c]) / STD[c];
        assert_eq!(nhwc[index], expected);
        assert_eq!(nchw[c * 16 * 12 + pixel], expected);
        assert_eq!(short[index], bf16::from_f32(expected));
    }
}

/// Label by the definition: interpolate everything in f64, take the first largest; also how far ahead it is.
fn plain_label(
    logits: &[f32],
    (w, h): (usize, usize),
    classes: usize,
    to: (usize, usize),
    x: usize,
    y: usize,
) -> (u8, f64) {
    let axis = |index: usize, input: usize, output: usize| {
        let position = (input as f64 / output as f64 * (index as f64 + 0.5) - 0.5).max(0.0);
        let lower = (position as usize).min(input - 1);
        (lower, (lower + 1).min(input - 1), position - lower as f64)
    };
    let ((x0, x1, fx), (y0, y1, fy)) = (axis(x, w, to.0), axis(y, h, to.1));
    let value = |t: usize| {
        let at = |x: usize, y: usize| f64::from(logits[(y * w + x) * classes + t]);
        (at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx) * (1.0 - fy) + (at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx) * fy
    };
    let values: Vec<f64> = (0..classes).map(value).collect();
    let best = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let label = values.iter().position(|&v| v == best).unwrap();
    let second =
        values.iter().enumerate().filter(|(t, _)| *t != label).map(|(_, v)| *v).fold(f64::NEG_INFINITY, f64::max);
    (label as u8, best - second)
}

/// Logits with regions: smooth bumps, so that cells of one label and boundaries both occur.
fn smooth_logits(random: &mut Random, (w, h): (usize, usize), classes: usize) -> Vec<f32> {
    let centers: Vec<(f64, f64)> = (0..classes).map(|_| (random.unit() * w as f64, random.unit() * h as f64)).collect();
    let mut logits = Vec::new();
    for y in 0..h {
        for x in 0..w {
            for (cx, cy) in &centers {
                let distance = (x as f64 - cx).hypot(y as f64 - cy);
                logits.push((-distance + random.unit() * 0.5) as f32);
            }
        }
    }
    logits
}

#[test]
fn labels_at_another_size_are_the_argmax_of_the_interpolated_logits() {
    let mut random = Random(5);
    for (from, to) in SIZES.into_iter().chain([((12, 9), (100, 77)), ((64, 64), (23, 91))]) {
        for classes in [1, 2, 11, 16, 19, 32, 40, 256] {
            if classes > 40 && from.0 * from.1 > 300 {
                continue;
            }
            let logits = smooth_logits(&mut random, from, classes);
            let expected: Vec<(u8, f64)> =
                (0..to.0 * to.1).map(|i| plain_label(&logits, from, classes, to, i % to.0, i / to.0)).collect();
            for mut ctx in ways() {
                let mut labels = vec![255; to.0 * to.1];
                let resizer = LabelResizer::new(from, to, classes);
                resizer.run(&mut ctx, &logits, &mut labels, to.0, Window::whole(to.0, to.1));
                for (index, (&label, &(expected, margin))) in labels.iter().zip(&expected).enumerate() {
                    assert!(
                        label == expected || margin < 1e-4,
                        "{:?} {from:?} to {to:?}, {classes} classes, pixel {index}: {label}, not {expected}",
                        ctx.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn labels_go_into_a_window_and_nowhere_else() {
    let mut random = Random(6);
    let logits = smooth_logits(&mut random, (8, 8), 11);
    let window = Window { x: 5, y: 3, width: 20, height: 13 };
    for mut ctx in ways() {
        let resizer = LabelResizer::new((8, 8), (20, 13), 11);
        let mut alone = vec![0; 20 * 13];
        resizer.run(&mut ctx, &logits, &mut alone, 20, Window::whole(20, 13));
        let mut labels = vec![99; 30 * 18];
        resizer.run(&mut ctx, &logits, &mut labels, 30, window);
        for y in 0..18 {
            for x in 0..30 {
                let inside = (5..25).contains(&x) && (3..16).contains(&y);
                let expected = if inside { alone[(y - 3) * 20 + x - 5] } else { 99 };
                assert_eq!(labels[y * 30 + x], expected, "{:?} ({x}, {y})", ctx.isa());
            }
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals_and_never_a_nan() {
    let mut random = Random(7);
    for classes in [1, 2, 11, 16, 17, 19, 31, 32, 33, 256] {
        let pixels = 5000;
        // Few distinct values, so that ties are the rule.
        let mut logits: Vec<f32> = (0..pixels * classes).map(|_| random.below(4) as f32 - 2.0).collect();
        for _ in 0..pixels {
            let index = random.below(logits.len());
            logits[index] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)];
        }
        logits[..classes].fill(f32::NAN);
        logits[classes..2 * classes].fill(f32::NEG_INFINITY);
        let expected: Vec<u8> = logits
            .chunks(classes)
            .map(|values| {
                let mut label = 0;
                for (t, value) in values.iter().enumerate() {
                    if *value > values[label] || (values[label].is_nan() && *value > f32::NEG_INFINITY) {
                        label = t;
                    }
                }
                if values[label].is_nan() { 0 } else { label as u8 }
            })
            .collect();
        for mut ctx in ways() {
            let mut labels = vec![255; pixels];
            argmax_labels(&mut ctx, &logits, classes, &mut labels);
            assert!(labels == expected, "{:?}, {classes} classes", ctx.isa());
        }
    }
}

/// The warp by its formulas in f64.
fn plain_warp(
    source: &[f32],
    channels: usize,
    landmarks: &[[f32; 2]; 5],
    size: usize,
    out: usize,
    back: bool,
) -> Vec<f64> {
    let f = 0.8f64;
    let target = [[196.0, 226.0], [316.0, 226.0], [256.0, 286.0], [220.0, 360.4], [292.0, 360.4]]
        .map(|p: [f64; 2]| p.map(|v| v / 256.0 * (if back { size } else { out } as f64 - 1.0) / 2.0));
    let from = landmarks.map(|p| p.map(f64::from));
    let mean = |p: &[[f64; 2]; 5]| [0, 1].map(|a| p.iter().map(|q| q[a]).sum::<f64>() / 5.0);
    let (fm, tm) = (mean(&from), mean(&target));
    let (mut s, mut c, mut d) = (0.0, 0.0, 0.0);
    for i in 0..5 {
        let (fx, fy, tx, ty) = (from[i][0] - fm[0], from[i][1] - fm[1], target[i][0] - tm[0], target[i][1] - tm[1]);
        s += fx * fx + fy * fy;
        c += fx * tx + fy * ty;
        d += tx * fy - ty * fx;
    }
    let (a, b) = (c / s, d / s);
    // Complex numbers would do: A(p) = (a − ib)(p − fm) + tm.
    let forward =
        |x: f64, y: f64| (a * (x - fm[0]) + b * (y - fm[1]) + tm[0], -b * (x - fm[0]) + a * (y - fm[1]) + tm[1]);
    let inverse = |x: f64, y: f64| {
        let (x, y, n) = (x - tm[0], y - tm[1], a * a + b * b);
        ((a * x - b * y) / n + fm[0], (b * x + a * y) / n + fm[1])
    };
    let curve = |c: f64, curve: &dyn Fn(f64) -> f64| {
        if c.abs() > 1.0 - f { c.signum() * (curve((c.abs() - 1.0 + f) / f) * f + 1.0 - f) } else { c }
    };
    let mut result = Vec::new();
    for y in 0..out {
        for x in 0..out {
            let (sx, sy) = if back {
                let (qx, qy) = forward(x as f64, y as f64);
                let axis = |q: f64| (curve(2.0 * q / size as f64 - 1.0, &f64::tanh) + 1.0) * size as f64 / 2.0;
                (axis(qx), axis(qy))
            } else {
                let axis = |p: usize| {
                    (curve(2.0 * p as f64 / out as f64 - 1.0, &|v| v.min(0.999).atanh()) + 1.0) * out as f64 / 2.0
                };
                inverse(axis(x), axis(y))
            };
            let (px, py) = (sx - 0.5, sy - 0.5);
            for t in 0..channels {
                let at = |x: f64, y: f64| {
                    let inside = x >= 0.0 && y >= 0.0 && x < size as f64 && y < size as f64;
                    if inside { f64::from(source[(y as usize * size + x as usize) * channels + t]) } else { 0.0 }
                };
                let (x0, y0) = (px.floor(), py.floor());
                let (fx, fy) = (px - x0, py - y0);
                let upper = at(x0, y0) * (1.0 - fx) + at(x0 + 1.0, y0) * fx;
                let lower = at(x0, y0 + 1.0) * (1.0 - fx) + at(x0 + 1.0, y0 + 1.0) * fx;
                result.push(upper * (1.0 - fy) + lower * fy);
            }
        }
    }
    result
}

/// A face of the standard's shape: turned by `angle`, `scale` times as large, about the centre of a picture of that size.
fn face(size: usize, angle: f64, scale: f64, shift: [f64; 2]) -> [[f32; 2]; 5] {
    [[196.0, 226.0], [316.0, 226.0], [256.0, 286.0], [220.0, 360.4], [292.0, 360.4]].map(|p: [f64; 2]| {
        let (x, y) = ((p[0] - 256.0) / 512.0 * scale, (p[1] - 256.0) / 512.0 * scale);
        let turned = [x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()];
        [0, 1].map(|a| ((turned[a] + 0.5 + shift[a]) * size as f64) as f32)
    })
}

#[test]
fn warp_and_unwarp_follow_their_formulas() {
    let mut random = Random(8);
    let size = 48;
    for (angle, scale, shift) in
        [(0.0, 1.0, [0.0, 0.0]), (0.5, 0.6, [0.2, -0.1]), (-2.0, 2.5, [-0.3, 0.3]), (3.1, 0.3, [0.0, 0.45])]
    {
        let landmarks = face(size, angle, scale, shift);
        let warp = FaceWarp::fit(&landmarks, (size, size), (size, size)).unwrap();
        for channels in [3, 11, 19] {
            // Smooth content: with noise, the f32 grid's last bits would show as jumps at pixel borders.
            let source: Vec<f32> = (0..size * size * channels)
                .map(|i| {
                    let (x, y, t) = ((i / channels % size) as f32, (i / channels / size) as f32, (i % channels) as f32);
                    (x * 0.11 + t).sin() + (y * 0.07 - t).cos() + random.unit() as f32 * 0.01
                })
                .collect();
            for mut ctx in ways() {
                let mut out = vec![9.0; source.len()];
                warp.warp(&mut ctx, &source, channels, &mut out);
                check(&out, &plain_warp(&source, channels, &landmarks, size, size, false), "warp");
                out.fill(9.0);
                warp.unwarp(&mut ctx, &source, (size, size), channels, &mut out);
                check(&out, &plain_warp(&source, channels, &landmarks, size, size, true), "unwarp");
            }
        }
    }

    fn check(out: &[f32], expected: &[f64], what: &str) {
        let worst = out.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-3, "{what}: {worst}");
    }
}

#[test]
fn unwarping_undoes_the_warp_where_the_face_is() {
    let size = 96;
    let source: Vec<f32> = (0..size * size).map(|i| (i % size) as f32 * 0.01 + (i / size) as f32 * 0.02).collect();
    let warp = FaceWarp::fit(&face(size, 0.3, 0.8, [0.05, 0.0]), (size, size), (size, size)).unwrap();
    let (mut warped, mut back) = (vec![0.0; size * size], vec![0.0; size * size]);
    warp.warp(&mut plain(), &source, 1, &mut warped);
    warp.unwarp(&mut plain(), &warped, (size, size), 1, &mut back);
    for y in size / 3..2 * size / 3 {
        for x in size / 3..2 * size / 3 {
            // Both directions sample half a pixel low, so the round trip moves by about one pixel: up to 0.03 here.
            let difference = (back[y * size + x] - source[y * size + x]).abs();
            assert!(difference < 0.05, "({x}, {y}): {difference}");
        }
    }
}

#[test]
fn logits_of_another_size_cover_the_same_frame() {
    // A ramp is the same ramp at any resolution but for half-pixel shifts, so un-warping a coarser one gives nearly the same.
    let (size, fine) = (64, 128);
    let warp = FaceWarp::fit(&face(size, 0.2, 0.9, [0.0, 0.05]), (size, size), (size, size)).unwrap();
    let ramp = |side: usize| -> Vec<f32> {
        (0..side * side).map(|i| ((i % side) as f32 + 0.5 + 2.0 * ((i / side) as f32 + 0.5)) / side as f32).collect()
    };
    for mut ctx in ways() {
        let (mut coarse_out, mut fine_out) = (vec![0.0; size * size], vec![0.0; size * size]);
        warp.unwarp(&mut ctx, &ramp(size), (size, size), 1, &mut coarse_out);
        warp.unwarp(&mut ctx, &ramp(fine), (fine, fine), 1, &mut fine_out);
        for y in size / 4..3 * size / 4 {
            for x in size / 4..3 * size / 4 {
                let difference = (coarse_out[y * size + x] - fine_out[y * size + x]).abs();
                assert!(difference < 1e-4, "({x}, {y}): {difference}");
            }
        }
    }
}

#[test]
fn the_vectorised_tanh_is_close_to_the_exact_one() {
    let worst = (0..200_000)
        .map(|i| {
            let x = i as f32 * 1e-4;
            (f64::from(super::warp::tanh(x)) - f64::from(x).tanh()).abs()
        })
        .fold(0.0, f64::max);
    assert!(worst < 1.5e-7, "{worst}");
    assert_eq!(super::warp::tanh(f32::MAX), 1.0);
}

#[test]
fn points_without_a_face_are_refused() {
    let size = (64, 64);
    assert_eq!(FaceWarp::fit(&[[3.0, 3.0]; 5], size, size), Err(WarpError::Degenerate));
    let mut points = face(64, 0.0, 1.0, [0.0, 0.0]);
    points[2][1] = f32::NAN;
    assert!(matches!(FaceWarp::fit(&points, size, size), Err(WarpError::NotFinite { index: 2, .. })));
}

#[test]
fn regions_count_and_bound_each_class() {
    let mut random = Random(9);
    for (width, height) in [(1, 1), (7, 5), (64, 9), (100, 33)] {
        let labels: Vec<u8> = (0..width * height).map(|i| if i % 5 < 3 { 2 } else { random.below(4) as u8 }).collect();
        for (class, region) in class_regions(&labels, width, height, 6).into_iter().enumerate() {
            let at: Vec<(usize, usize)> = (0..labels.len())
                .filter(|&i| usize::from(labels[i]) == class)
                .map(|i| (i % width, i / width))
                .collect();
            assert_eq!(region.pixels, at.len());
            let bounds = at.iter().copied().reduce(|a, b| (a.0.min(b.0), a.1.min(b.1))).map(|(x, y)| {
                let (right, bottom) = at.iter().fold((0, 0), |m, p| (m.0.max(p.0), m.1.max(p.1)));
                Window { x, y, width: right - x + 1, height: bottom - y + 1 }
            });
            assert_eq!(region.bounds, bounds, "class {class} of {width}×{height}");
        }
    }
}

#[test]
fn blending_paints_parts_and_their_borders_and_leaves_the_background() {
    let (width, height) = (40, 40);
    let palette = [[0, 0, 0], [200, 0, 0]];
    let labels: Vec<u8> = (0..width * height)
        .map(|i| u8::from((10..30).contains(&(i % width)) && (10..30).contains(&(i / width))))
        .collect();
    let style = BlendStyle { fill: 0.5, line: 1.0, line_width: 1 };
    for mut ctx in ways() {
        let mut pixels = vec![100; 3 * width * height];
        blend_labels(&mut ctx, &mut pixels, &labels, width, height, &palette, style);
        let at = |x: usize, y: usize| &pixels[3 * (y * width + x)..][..3];
        assert_eq!(at(2, 2), [100, 100, 100], "background");
        assert_eq!(at(20, 20), [150, 50, 50], "inside");
        assert_eq!(at(29, 20), [228, 128, 128], "right border");
        assert_eq!(at(9, 20), [228, 128, 128], "left border");
        assert_eq!(at(39, 39), [100, 100, 100], "corner of the picture");
    }
}

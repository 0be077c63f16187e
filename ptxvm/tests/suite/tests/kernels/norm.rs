use half::bf16;
use ptxvm_suite::{Device, Random, assert_close, launch};

fn softmax(input: &[f32], columns: usize) -> Vec<f64> {
    let row = |x: &[f32]| -> Vec<f64> {
        let largest = x.iter().copied().fold(f32::MIN, f32::max);
        let powers: Vec<f64> = x.iter().map(|&v| (f64::from(v) - f64::from(largest)).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|p| p / sum).collect()
    };
    input.chunks(columns).flat_map(row).collect()
}

fn scores(rows: usize, columns: usize) -> Vec<f32> {
    Random::new(columns as u64).units(rows * columns).into_iter().map(|v| v * 12.0).collect()
}

const SHAPES: [(usize, usize); 4] = [(1, 1), (5, 33), (9, 128), (3, 1_001)];

#[test]
fn softmax_by_a_warp_a_row_sums_to_one() {
    let device = Device::new();
    let kernel = device.kernel("norm", "softmax_warp");
    for (rows, columns) in SHAPES {
        let input = scores(rows, columns);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(rows * columns);
        let grid = (rows.div_ceil(4) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_input, &mut out, &(rows as i32), &(columns as i32));
        assert_close("softmax_warp", &device.download(&out), &softmax(&input, columns), 1e-5);
    }
}

#[test]
fn softmax_by_a_block_a_row_keeps_the_row_in_shared_memory() {
    let device = Device::new();
    let kernel = device.kernel("norm", "softmax_block");
    for (rows, columns) in SHAPES {
        let input = scores(rows, columns);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(rows * columns);
        let grid = (rows as u32, 1, 1);
        launch!(device.stream, kernel, grid, (96, 1, 1), 4 * columns as u32; &on_input, &mut out, &(columns as i32));
        assert_close("softmax_block", &device.download(&out), &softmax(&input, columns), 1e-5);
    }
}

#[test]
fn online_softmax_merges_running_maxima() {
    let device = Device::new();
    let kernel = device.kernel("norm", "softmax_online");
    for (rows, columns) in SHAPES {
        let input = scores(rows, columns);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(rows * columns);
        launch!(device.stream, kernel, (rows as u32, 1, 1), (128, 1, 1), 0; &on_input, &mut out, &(columns as i32));
        assert_close("softmax_online", &device.download(&out), &softmax(&input, columns), 1e-5);
    }
}

fn layer_norm(input: &[f64], gamma: &[f64], beta: &[f64], eps: f64) -> Vec<f64> {
    let columns = gamma.len();
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / columns as f64;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / columns as f64;
        let scale = 1.0 / (variance + eps).sqrt();
        (0..columns).map(|i| (x[i] - mean) * scale * gamma[i] + beta[i]).collect()
    };
    input.chunks(columns).flat_map(row).collect()
}

fn wide<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

#[test]
fn layer_norm_in_f32_normalises_every_row() {
    let device = Device::new();
    let kernel = device.kernel("norm", "layer_norm_f32");
    for (rows, columns) in [(1, 3), (7, 64), (4, 1_023)] {
        let mut random = Random::new(columns as u64);
        let (input, gamma, beta) = (random.units(rows * columns), random.units(columns), random.units(columns));
        let (on_input, on_gamma, on_beta) = (device.upload(&input), device.upload(&gamma), device.upload(&beta));
        let mut out = device.poisoned::<f32>(rows * columns);
        launch!(device.stream, kernel, (rows as u32, 1, 1), (128, 1, 1), 0;
            &on_input, &on_gamma, &on_beta, &mut out, &(columns as i32), &1e-5f32);
        let expected = layer_norm(&wide(&input), &wide(&gamma), &wide(&beta), 1e-5);
        assert_close("layer_norm_f32", &device.download(&out), &expected, 1e-5);
    }
}

#[test]
fn layer_norm_in_bf16_is_within_one_rounding_of_the_output() {
    let device = Device::new();
    let kernel = device.kernel("norm", "layer_norm_bf16_256");
    for rows in [1, 5, 64] {
        let mut random = Random::new(rows as u64);
        let mut numbers = |n: usize| -> Vec<bf16> { random.units(n).into_iter().map(bf16::from_f32).collect() };
        let (input, gamma, beta) = (numbers(rows * 256), numbers(256), numbers(256));
        let (on_input, on_gamma, on_beta) = (device.upload(&input), device.upload(&gamma), device.upload(&beta));
        let mut out = device.poisoned::<bf16>(rows * 256);
        let grid = (rows.div_ceil(4) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0;
            &on_input, &on_gamma, &on_beta, &mut out, &(rows as i32), &1e-5f32);
        let expected = layer_norm(&wide(&input), &wide(&gamma), &wide(&beta), 1e-5);
        assert_close("layer_norm_bf16_256", &device.download(&out), &expected, 4e-3);
    }
}

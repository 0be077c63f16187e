use half::{bf16, f16};
use ptxvm_suite::{Device, Random, assert_close, assert_equal, launch};

use crate::gemm::{product, wide};

#[test]
fn wmma_f16_gemm_accumulates_in_f32() {
    let device = Device::new();
    let kernel = device.kernel("gemm_wmma", "gemm_wmma_f16");
    for (m, n, k) in [(16, 16, 16), (48, 32, 80)] {
        let mut random = Random::new(k as u64);
        let mut numbers = |n: usize| -> Vec<f16> { random.units(n).into_iter().map(f16::from_f32).collect() };
        let (a, b) = (numbers(m * k), numbers(k * n));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b));
        let mut c = device.poisoned::<f32>(m * n);
        let grid = ((m * n / 256).div_ceil(4) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
        assert_close("gemm_wmma_f16", &device.download(&c), &product(&wide(&a), &wide(&b), m, n, k), 1e-5);
    }
}

#[test]
fn wmma_f16_gemm_accumulates_in_f16_with_relu() {
    let device = Device::new();
    let kernel = device.kernel("gemm_wmma", "gemm_wmma_f16_accumulate_f16");
    let (m, n, k) = (32, 48, 64);
    // Small whole numbers: every partial sum is exact in f16 whatever the order.
    let mut random = Random::new(3);
    let mut numbers = |n: usize| -> Vec<f16> { (0..n).map(|_| f16::from_f32(random.between(-3, 4) as f32)).collect() };
    let (a, b_columns) = (numbers(m * k), numbers(k * n));
    let (on_a, on_b) = (device.upload(&a), device.upload(&b_columns));
    let mut c = device.poisoned::<f16>(m * n);
    launch!(device.stream, kernel, (2, 1, 1), (96, 1, 1), 0; &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
    let b: Vec<f16> = (0..k * n).map(|i| b_columns[i % n * k + i / n]).collect();
    let exact = product(&wide(&a), &wide(&b), m, n, k);
    let expected: Vec<f16> = exact.into_iter().map(|v| f16::from_f64(v.max(0.0))).collect();
    assert_equal("gemm_wmma_f16_accumulate_f16", &device.download(&c), &expected);
}

fn run_bf16(name: &str, tile: usize, threads: u32, shared: u32, shapes: &[(usize, usize, usize)]) {
    let device = Device::new();
    let kernel = device.kernel("gemm_mma", name);
    for &(m, n, k) in shapes {
        let mut random = Random::new((m + n + k) as u64);
        let mut numbers = |n: usize| -> Vec<bf16> { random.units(n).into_iter().map(bf16::from_f32).collect() };
        let (a, b) = (numbers(m * k), numbers(k * n));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b));
        let mut c = device.poisoned::<f32>(m * n);
        let grid = (n.div_ceil(tile) as u32, m.div_ceil(tile) as u32, 1);
        launch!(device.stream, kernel, grid, (threads, 1, 1), shared;
            &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
        assert_close(name, &device.download(&c), &product(&wide(&a), &wide(&b), m, n, k), 1e-5);
    }
}

#[test]
fn mma_bf16_gemm_with_ldmatrix_handles_odd_rows() {
    run_bf16("gemm_mma_bf16", 64, 128, 0, &[(1, 8, 8), (64, 64, 32), (77, 72, 136)]);
}

#[test]
fn four_stage_swizzled_mma_gemm_handles_odd_rows_and_any_number_of_steps() {
    let shapes = [(1, 8, 8), (128, 128, 64), (131, 136, 328)];
    run_bf16("gemm_mma_bf16_pipelined", 128, 256, 64 << 10, &shapes);
}

#[test]
fn mma_tf32_gemm_rounds_its_inputs_to_ten_bits() {
    let device = Device::new();
    let kernel = device.kernel("gemm_mma", "gemm_mma_tf32");
    for (m, n, k) in [(16, 8, 8), (48, 24, 72)] {
        let mut random = Random::new(k as u64);
        let (a, b) = (random.units(m * k), random.units(k * n));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b));
        let mut c = device.poisoned::<f32>(m * n);
        let grid = ((m / 16 * n / 8).div_ceil(4) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
        // cvt.rna: to the nearest, halves away from zero.
        let rounded = |values: &[f32]| -> Vec<f64> {
            values.iter().map(|v| f64::from(f32::from_bits(v.to_bits().wrapping_add(0x1000) & !0x1fff))).collect()
        };
        assert_close("gemm_mma_tf32", &device.download(&c), &product(&rounded(&a), &rounded(&b), m, n, k), 1e-5);
    }
}

#[test]
fn mma_s8_gemm_is_exact() {
    let device = Device::new();
    let kernel = device.kernel("gemm_mma", "gemm_mma_s8");
    for (m, n, k) in [(16, 8, 32), (32, 40, 160)] {
        let mut random = Random::new(k as u64);
        let mut numbers = |n: usize| -> Vec<i8> { (0..n).map(|_| random.next_u32() as i8).collect() };
        let (a, b_columns) = (numbers(m * k), numbers(k * n));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b_columns));
        let mut c = device.poisoned::<i32>(m * n);
        let grid = ((m / 16 * n / 8).div_ceil(4) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
        let dot = |row: usize, column: usize| -> i32 {
            (0..k).map(|i| i32::from(a[row * k + i]) * i32::from(b_columns[column * k + i])).sum()
        };
        let expected: Vec<i32> = (0..m * n).map(|i| dot(i / n, i % n)).collect();
        assert_equal("gemm_mma_s8", &device.download(&c), &expected);
    }
}

#[test]
fn mma_f64_gemm_is_double() {
    let device = Device::new();
    let kernel = device.kernel("gemm_mma", "gemm_mma_f64");
    for (m, n, k) in [(8, 8, 4), (24, 16, 36)] {
        let mut random = Random::new(k as u64);
        let (a, b) = (wide(&random.units(m * k)), wide(&random.units(k * n)));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b));
        let mut c = device.poisoned::<f64>(m * n);
        let grid = ((m / 8 * n / 8).div_ceil(2) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (64, 1, 1), 0; &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
        assert_close("gemm_mma_f64", &device.download(&c), &product(&a, &b, m, n, k), 1e-14);
    }
}

use ptxvm_suite::{Device, Random, assert_close, launch};

/// C = A B in f64, all row-major.
pub(crate) fn product(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for i in 0..k {
            let value = a[row * k + i];
            for column in 0..n {
                c[row * n + column] += value * b[i * n + column];
            }
        }
    }
    c
}

pub(crate) fn wide<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}

fn run(name: &str, tile: usize, block: (u32, u32, u32), shapes: &[(usize, usize, usize)]) {
    let device = Device::new();
    let kernel = device.kernel("gemm", name);
    for &(m, n, k) in shapes {
        let mut random = Random::new((m * n + k) as u64);
        let (a, b) = (random.units(m * k), random.units(k * n));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b));
        let mut c = device.poisoned::<f32>(m * n);
        let grid = (n.div_ceil(tile) as u32, m.div_ceil(tile) as u32, 1);
        launch!(device.stream, kernel, grid, block, 0; &on_a, &on_b, &mut c, &(m as i32), &(n as i32), &(k as i32));
        assert_close(name, &device.download(&c), &product(&wide(&a), &wide(&b), m, n, k), 1e-5);
    }
}

const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (17, 33, 5), (64, 64, 64), (65, 70, 129)];

#[test]
fn naive_gemm_handles_odd_shapes() {
    run("gemm_naive", 16, (16, 16, 1), &SHAPES);
}

#[test]
fn tiled_gemm_handles_odd_shapes() {
    run("gemm_tiled", 16, (16, 16, 1), &SHAPES);
}

#[test]
fn register_blocked_gemm_handles_odd_shapes() {
    run("gemm_register_blocked", 64, (256, 1, 1), &SHAPES);
}

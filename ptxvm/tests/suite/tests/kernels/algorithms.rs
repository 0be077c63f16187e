use ptxvm_suite::{Device, Random, assert_close, assert_equal, launch};

#[test]
fn binary_search_finds_the_lower_bound() {
    let device = Device::new();
    let kernel = device.kernel("algorithms", "lower_bound");
    for (length, n) in [(0usize, 5usize), (1, 10), (1_000, 333), (4_097, 1_000)] {
        let mut random = Random::new(length as u64);
        let mut sorted = random.integers(length.max(1), -5_000, 5_000);
        sorted.sort_unstable();
        let keys = random.integers(n, -5_100, 5_100);
        let (on_sorted, on_keys) = (device.upload(&sorted), device.upload(&keys));
        let mut out = device.poisoned::<i32>(n);
        let grid = (n.div_ceil(64) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (64, 1, 1), 0; &on_sorted, &(length as i32), &on_keys, &mut out, &(n as i32));
        let expected: Vec<i32> = keys.iter().map(|key| sorted[..length].partition_point(|v| v < key) as i32).collect();
        assert_equal("lower_bound", &device.download(&out), &expected);
    }
}

#[test]
fn nbody_forces_sum_over_all_pairs() {
    let device = Device::new();
    let kernel = device.kernel("algorithms", "nbody_forces");
    for n in [1usize, 64, 201] {
        let bodies = Random::new(n as u64).units(4 * n);
        let on_bodies = device.upload(&bodies);
        let mut out = device.poisoned::<f32>(4 * n);
        let grid = (n.div_ceil(64) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (64, 1, 1), 64 * 16; &on_bodies, &mut out, &(n as i32), &0.01f32);
        let body = |i: usize, axis: usize| f64::from(bodies[4 * i + axis]);
        let expected: Vec<f64> = (0..4 * n)
            .map(|at| {
                let (i, axis) = (at / 4, at % 4);
                if axis == 3 {
                    return 0.0;
                }
                (0..n)
                    .map(|j| {
                        let d: [f64; 3] = std::array::from_fn(|axis| body(j, axis) - body(i, axis));
                        let square = d.iter().map(|d| d * d).sum::<f64>() + 0.01f32 as f64;
                        d[axis] * body(j, 3) / (square * square.sqrt())
                    })
                    .sum()
            })
            .collect();
        assert_close("nbody_forces", &device.download(&out), &expected, 1e-4);
    }
}

#[test]
fn mandelbrot_counts_are_exact_in_divergent_loops() {
    let device = Device::new();
    let kernel = device.kernel("algorithms", "mandelbrot");
    for (width, height) in [(1usize, 1usize), (64, 48), (37, 29)] {
        let mut out = device.poisoned::<u16>(width * height);
        let grid = (width.div_ceil(16) as u32, height.div_ceil(8) as u32, 1);
        launch!(device.stream, kernel, grid, (16, 8, 1), 0; &mut out, &(width as i32), &(height as i32), &100i32);
        let expected: Vec<u16> = (0..width * height)
            .map(|i| {
                let cr = -2.0 + 3.0 * (i % width) as f64 / width as f64;
                let ci = -1.5 + 3.0 * (i / width) as f64 / height as f64;
                let (mut zr, mut zi, mut count) = (0.0f64, 0.0f64, 0);
                while count < 100 && zr * zr + zi * zi <= 4.0 {
                    let cross = zr * zi;
                    (zr, zi) = (zr * zr - zi * zi + cr, cross + cross + ci);
                    count += 1;
                }
                count
            })
            .collect();
        assert_equal("mandelbrot", &device.download(&out), &expected);
    }
}

#[test]
fn floyd_warshall_finds_all_shortest_paths() {
    let device = Device::new();
    let kernel = device.kernel("algorithms", "floyd_warshall_step");
    for n in [1usize, 20, 45] {
        let mut random = Random::new(n as u64);
        let mut distance: Vec<i32> =
            (0..n * n).map(|_| if random.between(0, 4) == 0 { random.between(1, 100) } else { 1_000_000 }).collect();
        (0..n).for_each(|i| distance[i * n + i] = 0);
        let mut on_distance = device.upload(&distance);
        let grid = (n.div_ceil(32) as u32, n as u32, 1);
        for pivot in 0..n {
            launch!(device.stream, kernel, grid, (32, 1, 1), 0; &mut on_distance, &(n as i32), &(pivot as i32));
            for i in 0..n {
                for j in 0..n {
                    distance[i * n + j] = distance[i * n + j].min(distance[i * n + pivot] + distance[pivot * n + j]);
                }
            }
        }
        assert_equal("floyd_warshall", &device.download(&on_distance), &distance);
    }
}

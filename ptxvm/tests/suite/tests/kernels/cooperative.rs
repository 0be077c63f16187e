use cudarc::driver::{LaunchConfig, PushKernelArg as _};
use ptxvm_suite::{Device, Random, assert_close, assert_equal, launch};

#[test]
fn compaction_keeps_exactly_the_positive_elements() {
    let device = Device::new();
    for name in ["compact_ballot", "compact_aggregated"] {
        let kernel = device.kernel("compaction", name);
        for n in [1usize, 33, 1_000, 7_001] {
            let input = Random::new(n as u64).integers(n, -100, 100);
            let on_input = device.upload(&input);
            let mut out = device.poisoned::<i32>(n);
            let mut count = device.zeros::<i32>(1);
            let grid = (n.div_ceil(128) as u32, 1, 1);
            launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_input, &mut out, &mut count, &(n as i32));
            let kept = device.download(&count)[0] as usize;
            let mut expected: Vec<i32> = input.into_iter().filter(|&v| v > 0).collect();
            assert_eq!(kept, expected.len(), "{name}: count for n = {n}");
            let mut found = device.download(&out)[..kept].to_vec();
            // Warps come in any order.
            found.sort_unstable();
            expected.sort_unstable();
            assert_equal(name, &found, &expected);
        }
    }
}

#[test]
fn persistent_blocks_work_a_queue_that_they_fill_themselves() {
    let device = Device::new();
    let kernel = device.kernel("queue", "persistent_sum");
    for n in [1usize, 64, 1_000, 3_333] {
        let capacity = 4 * n.div_ceil(64).next_power_of_two();
        // head, tail, pending, overflow: one item is queued.
        let mut queue = device.upload(&[0u32, 1, 1, 0]);
        let mut items = device.upload(&{
            let mut items = vec![0i32; 2 * capacity];
            items[1] = n as i32;
            items
        });
        let mut ready = device.upload(&{
            let mut ready = vec![0u32; capacity];
            ready[0] = 1;
            ready
        });
        let mut total = device.zeros::<u64>(1);
        launch!(device.stream, kernel, (4, 1, 1), (64, 1, 1), 0;
            &mut queue, &mut items, &mut ready, &(capacity as u32), &mut total);
        let queue = device.download(&queue);
        assert_eq!(queue[2..], [0, 0], "pending items, overflow for n = {n}");
        assert_equal("persistent_sum", &device.download(&total), &[(0..n as u64).map(|v| v * v).sum::<u64>()]);
    }
}

/// The tridiagonal system by elimination.
fn solve(b: &[f64], shift: f64) -> Vec<f64> {
    let n = b.len();
    let mut upper = vec![0.0; n];
    let mut x = vec![0.0; n];
    for i in 0..n {
        let (before_upper, before) = if i > 0 { (upper[i - 1], x[i - 1]) } else { (0.0, 0.0) };
        let pivot = 2.0 + shift + before_upper;
        upper[i] = -1.0 / pivot;
        x[i] = (b[i] + before) / pivot;
    }
    for i in (0..n - 1).rev() {
        x[i] -= upper[i] * x[i + 1];
    }
    x
}

#[test]
fn cooperative_conjugate_gradient_solves_its_system_in_one_launch() {
    let device = Device::new();
    let kernel = device.kernel("conjugate_gradient", "conjugate_gradient");
    for n in [1usize, 100, 1_001] {
        let b: Vec<f64> = Random::new(n as u64).units(n).into_iter().map(f64::from).collect();
        let iterations = 80;
        let on_b = device.upload(&b);
        let [mut x, mut r, mut p, mut ap] = std::array::from_fn(|_| device.poisoned::<f64>(n));
        let mut dots = device.zeros::<f64>(2 * iterations + 1);
        let (size, steps) = (n as i32, iterations as i32);
        let configuration = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
        let mut builder = device.stream.launch_builder(&kernel);
        builder
            .arg(&on_b)
            .arg(&mut x)
            .arg(&mut r)
            .arg(&mut p)
            .arg(&mut ap)
            .arg(&mut dots)
            .arg(&size)
            .arg(&0.5f64)
            .arg(&steps);
        // SAFETY: the arguments are the kernel's; four blocks are resident on every device at once.
        unsafe { builder.launch_cooperative(configuration) }.expect("cooperative launch");
        assert_close("conjugate_gradient", &device.download(&x), &solve(&b, 0.5), 1e-9);
    }
}

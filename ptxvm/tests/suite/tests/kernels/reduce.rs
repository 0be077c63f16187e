use ptxvm_suite::{Device, Random, assert_close, assert_equal, launch};

const SIZES: [usize; 5] = [1, 33, 1_024, 4_099, 20_011];

#[test]
fn shared_memory_tree_sums_to_one_partial_a_block() {
    let device = Device::new();
    let kernel = device.kernel("reduce", "reduce_shared_tree");
    for n in SIZES {
        let input = Random::new(n as u64).units(n);
        let on_input = device.upload(&input);
        let mut partial = device.poisoned::<f32>(5);
        launch!(device.stream, kernel, (5, 1, 1), (128, 1, 1), 128 * 4; &on_input, &mut partial, &(n as i32));
        let sum: f64 = device.download(&partial).iter().map(|&v| f64::from(v)).sum();
        assert_close("reduce_shared_tree", &[sum], &[input.iter().map(|&v| f64::from(v)).sum()], 1e-4);
    }
}

#[test]
fn shuffles_and_one_atomic_a_block_sum_everything() {
    let device = Device::new();
    let kernel = device.kernel("reduce", "reduce_shuffle_atomic");
    for n in SIZES {
        let input = Random::new(n as u64).units(n);
        let on_input = device.upload(&input);
        let mut total = device.zeros::<f32>(1);
        launch!(device.stream, kernel, (7, 1, 1), (192, 1, 1), 0; &on_input, &mut total, &(n as i32));
        let expected = input.iter().map(|&v| f64::from(v)).sum();
        assert_close("reduce_shuffle_atomic", &device.download(&total), &[expected], 1e-4);
    }
}

#[test]
fn integer_atomics_are_exact() {
    let device = Device::new();
    let kernel = device.kernel("reduce", "reduce_atomic_integers");
    for n in SIZES {
        let input = Random::new(n as u64).integers(n, -1_000, 1_000);
        let on_input = device.upload(&input);
        let mut sum = device.zeros::<i32>(1);
        let mut lowest = device.upload(&[i32::MAX]);
        let mut bits = device.zeros::<u32>(1);
        let grid = (n.div_ceil(100) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (100, 1, 1), 0; &on_input, &mut sum, &mut lowest, &mut bits, &(n as i32));
        assert_equal("sum", &device.download(&sum), &[input.iter().sum::<i32>()]);
        assert_equal("lowest", &device.download(&lowest), &[*input.iter().min().unwrap()]);
        assert_equal("bits", &device.download(&bits), &[input.iter().fold(0u32, |bits, v| bits | 1 << (v & 31))]);
    }
}

#[test]
fn cooperative_groups_reduce_sums_tiles() {
    let device = Device::new();
    let kernel = device.kernel("reduce", "reduce_groups");
    for n in SIZES {
        let input = Random::new(n as u64).integers(n, -1_000, 1_000);
        let on_input = device.upload(&input);
        let mut total = device.zeros::<i32>(1);
        launch!(device.stream, kernel, (3, 1, 1), (160, 1, 1), 0; &on_input, &mut total, &(n as i32));
        assert_equal("reduce_groups", &device.download(&total), &[input.iter().sum::<i32>()]);
    }
}

#[test]
fn block_reduce_class_finds_the_largest() {
    let device = Device::new();
    let kernel = device.kernel("reduce", "reduce_block_class");
    for n in SIZES {
        let input: Vec<f64> = Random::new(n as u64).units(n).into_iter().map(|v| f64::from(v) * 1e3).collect();
        let on_input = device.upload(&input);
        let mut largest = device.poisoned::<f64>(4);
        launch!(device.stream, kernel, (4, 1, 1), (256, 1, 1), 0; &on_input, &mut largest, &(n as i32));
        let found = device.download(&largest).into_iter().fold(f64::MIN, f64::max);
        assert_eq!(found, input.iter().copied().fold(f64::MIN, f64::max), "n = {n}");
    }
}

#[test]
fn last_block_adds_up_what_all_blocks_wrote_launch_after_launch() {
    let device = Device::new();
    let kernel = device.kernel("reduce", "reduce_last_block");
    for n in SIZES {
        let input = Random::new(n as u64).units(n);
        let on_input = device.upload(&input);
        let mut partial = device.poisoned::<f32>(9);
        let mut total = device.poisoned::<f32>(1);
        launch!(device.stream, kernel, (9, 1, 1), (96, 1, 1), 0; &on_input, &mut partial, &mut total, &(n as i32));
        let expected = input.iter().map(|&v| f64::from(v)).sum();
        assert_close("reduce_last_block", &device.download(&total), &[expected], 1e-4);
    }
}

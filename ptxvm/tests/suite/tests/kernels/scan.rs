use ptxvm_suite::{Device, Random, assert_equal, launch};

/// The inclusive sums of every `tile` elements by themselves.
fn inclusive(input: &[i32], tile: usize) -> Vec<i32> {
    let sums = |part: &[i32]| -> Vec<i32> {
        part.iter()
            .scan(0i32, |sum, &v| {
                *sum = sum.wrapping_add(v);
                Some(*sum)
            })
            .collect()
    };
    input.chunks(tile).flat_map(sums).collect()
}

#[test]
fn work_efficient_scan_is_exclusive_in_every_block() {
    let device = Device::new();
    let kernel = device.kernel("scan", "scan_exclusive_block");
    for (n, threads) in [(1, 32), (64, 32), (1_000, 64), (5_003, 256)] {
        let input = Random::new(n as u64).integers(n, -50, 50);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<i32>(n);
        let tile = 2 * threads;
        let grid = (n.div_ceil(tile) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (threads as u32, 1, 1), 4 * tile as u32; &on_input, &mut out, &(n as i32));
        let expected: Vec<i32> = inclusive(&input, tile).iter().zip(&input).map(|(sum, own)| sum - own).collect();
        assert_equal("scan_exclusive_block", &device.download(&out), &expected);
    }
}

#[test]
fn scan_by_shuffles_is_inclusive_in_every_block() {
    let device = Device::new();
    let kernel = device.kernel("scan", "scan_inclusive_block");
    for (n, threads) in [(1, 32), (100, 64), (3_001, 512), (2_048, 1_024)] {
        let input = Random::new(n as u64).integers(n, -50, 50);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<i32>(n);
        let grid = (n.div_ceil(threads) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (threads as u32, 1, 1), 0; &on_input, &mut out, &(n as i32));
        assert_equal("scan_inclusive_block", &device.download(&out), &inclusive(&input, threads));
    }
}

#[test]
fn decoupled_look_back_scans_across_blocks_in_one_pass() {
    let device = Device::new();
    let kernel = device.kernel("scan", "scan_decoupled_look_back");
    for n in [1, 128, 1_001, 20_005] {
        let input = Random::new(n as u64).integers(n, -50, 50);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<i32>(n);
        let tiles = n.div_ceil(128);
        let mut status = device.zeros::<u64>(tiles);
        let mut ticket = device.zeros::<u32>(1);
        let grid = (tiles as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0; &on_input, &mut out, &mut status, &mut ticket, &(n as i32));
        assert_equal("scan_decoupled_look_back", &device.download(&out), &inclusive(&input, n));
    }
}

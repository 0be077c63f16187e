use ptxvm_suite::{Device, Random, assert_close, assert_equal, launch};

#[test]
fn double_buffered_cp_async_smooths_tile_after_tile() {
    let device = Device::new();
    let kernel = device.kernel("async_copy", "smooth_double_buffered");
    for (blocks, tiles) in [(1usize, 1usize), (2, 2), (3, 5)] {
        let input = Random::new(tiles as u64).units(blocks * tiles * 256);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(input.len());
        launch!(device.stream, kernel, (blocks as u32, 1, 1), (256, 1, 1), 0; &on_input, &mut out, &(tiles as i32));
        let smooth = |tile: &[f32]| -> Vec<f64> {
            (0..256usize)
                .map(|i| {
                    let (left, right) = (tile[i.saturating_sub(1)], tile[(i + 1).min(255)]);
                    0.25 * f64::from(left) + 0.5 * f64::from(tile[i]) + 0.25 * f64::from(right)
                })
                .collect()
        };
        let expected: Vec<f64> = input.chunks(256).flat_map(smooth).collect();
        assert_close("smooth_double_buffered", &device.download(&out), &expected, 1e-6);
    }
}

#[test]
fn cp_async_fills_with_zeros_past_its_source_size() {
    let device = Device::new();
    let kernel = device.kernel("async_copy", "reverse_zero_filled");
    for n in [1usize, 1_023, 1_024, 2_050] {
        let input = Random::new(n as u64).units(n);
        let on_input = device.upload(&input);
        let blocks = n.div_ceil(1_024);
        let mut out = device.poisoned::<f32>(blocks * 1_024);
        launch!(device.stream, kernel, (blocks as u32, 1, 1), (256, 1, 1), 0; &on_input, &mut out, &(n as i32));
        let mut padded = input;
        padded.resize(blocks * 1_024, 0.0);
        padded.chunks_mut(1_024).for_each(<[f32]>::reverse);
        assert_equal("reverse_zero_filled", &device.download(&out), &padded);
    }
}

#[test]
fn a_ring_of_mbarriers_feeds_consumers_from_a_producer_warp() {
    let device = Device::new();
    let kernel = device.kernel("mbarrier", "ring_of_mbarriers");
    for (blocks, chunks) in [(1usize, 1usize), (2, 2), (2, 9)] {
        let input = Random::new(chunks as u64).units(blocks * chunks * 96);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<f32>(input.len());
        launch!(device.stream, kernel, (blocks as u32, 1, 1), (128, 1, 1), 0; &on_input, &mut out, &(chunks as i32));
        let expected: Vec<f32> = input.chunks(96).flat_map(|chunk| chunk.iter().rev().map(|v| v * 2.0)).collect();
        assert_equal("ring_of_mbarriers", &device.download(&out), &expected);
    }
}

#[test]
fn cp_async_arrives_on_an_mbarrier() {
    let device = Device::new();
    let kernel = device.kernel("mbarrier", "copies_arrive_on_mbarrier");
    let input = Random::new(1).units(3 * 128);
    let on_input = device.upload(&input);
    let mut out = device.poisoned::<f32>(input.len());
    launch!(device.stream, kernel, (3, 1, 1), (128, 1, 1), 0; &on_input, &mut out);
    let expected: Vec<f32> = input.chunks(128).flat_map(|chunk| chunk.iter().rev().copied()).collect();
    assert_equal("copies_arrive_on_mbarrier", &device.download(&out), &expected);
}

#[test]
fn named_barriers_pass_buffers_between_producers_and_consumers() {
    let device = Device::new();
    let kernel = device.kernel("named_barriers", "named_barrier_pipeline");
    for (blocks, chunks) in [(1usize, 1usize), (2, 3), (1, 8)] {
        let input = Random::new(chunks as u64).integers(blocks * chunks * 64, -100, 100);
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<i32>(input.len());
        launch!(device.stream, kernel, (blocks as u32, 1, 1), (128, 1, 1), 0; &on_input, &mut out, &(chunks as i32));
        let expected: Vec<i32> =
            input.chunks(64).flat_map(|chunk| (0..64).map(|i| chunk[i] + chunk[(i + 1) % 64])).collect();
        assert_equal("named_barrier_pipeline", &device.download(&out), &expected);
    }
}

#[test]
fn barriers_count_and_combine_predicates() {
    let device = Device::new();
    let kernel = device.kernel("named_barriers", "block_votes");
    let (blocks, threads) = (6usize, 96usize);
    let mut input = Random::new(8).integers(blocks * threads, -90, 91);
    input[threads + 5] = -200;
    input[2 * threads + 77] = 95;
    let on_input = device.upload(&input);
    let [mut counts, mut ands, mut ors] = std::array::from_fn(|_| device.poisoned::<i32>(blocks));
    let grid = (blocks as u32, 1, 1);
    launch!(device.stream, kernel, grid, (threads as u32, 1, 1), 0; &on_input, &mut counts, &mut ands, &mut ors);
    let each = |of: &dyn Fn(&[i32]) -> i32| -> Vec<i32> { input.chunks(threads).map(of).collect() };
    assert_equal("counts", &device.download(&counts), &each(&|block| block.iter().filter(|&&v| v > 0).count() as i32));
    assert_equal("and", &device.download(&ands), &each(&|block| i32::from(block.iter().all(|&v| v > -100))));
    assert_equal("or", &device.download(&ors), &each(&|block| i32::from(block.iter().any(|&v| v > 90))));
}

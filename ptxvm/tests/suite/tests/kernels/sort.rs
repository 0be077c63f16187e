use ptxvm_suite::{Device, Random, assert_equal, launch};

#[test]
fn bitonic_sort_sorts_every_tile() {
    let device = Device::new();
    let kernel = device.kernel("sort", "bitonic_sort_tile");
    for (tiles, threads) in [(1, 1), (3, 32), (2, 256), (1, 512)] {
        let mut random = Random::new(threads as u64);
        let length = 2 * threads;
        let mut keys: Vec<u32> = (0..tiles * length).map(|_| random.next_u32() % 1_000).collect();
        let mut on_keys = device.upload(&keys);
        let (grid, block) = ((tiles as u32, 1, 1), (threads as u32, 1, 1));
        launch!(device.stream, kernel, grid, block, 4 * length as u32; &mut on_keys);
        keys.chunks_mut(length).for_each(<[u32]>::sort);
        assert_equal("bitonic_sort_tile", &device.download(&on_keys), &keys);
    }
}

#[test]
fn radix_sort_sorts_all_bits() {
    let device = Device::new();
    let module = device.module("sort");
    let [count, scan, scatter] =
        ["radix_count", "radix_scan", "radix_scatter"].map(|name| ptxvm_suite::function(&module, name));
    for n in [1usize, 257, 5_003] {
        let mut random = Random::new(n as u64);
        let mut keys: Vec<u32> = (0..n).map(|_| random.next_u32()).collect();
        let mut from = device.upload(&keys);
        let mut to = device.poisoned::<u32>(n);
        let blocks = n.div_ceil(256);
        let mut counts = device.poisoned::<u32>(16 * blocks);
        let grid = (blocks as u32, 1, 1);
        for shift in (0..32i32).step_by(4) {
            launch!(device.stream, count, grid, (256, 1, 1), 0; &from, &mut counts, &(n as i32), &shift);
            launch!(device.stream, scan, (1, 1, 1), (1_024, 1, 1), 0; &mut counts, &(16 * blocks as i32));
            launch!(device.stream, scatter, grid, (256, 1, 1), 0; &from, &mut to, &counts, &(n as i32), &shift);
            std::mem::swap(&mut from, &mut to);
        }
        keys.sort_unstable();
        assert_equal("radix sort", &device.download(&from), &keys);
    }
}

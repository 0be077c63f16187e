use std::collections::BTreeMap;

use ptxvm_suite::{Device, Random, assert_close, assert_equal, launch};

#[test]
fn every_lane_takes_a_spin_lock_by_itself() {
    let device = Device::new();
    let kernel = device.kernel("spin_lock", "count_under_lock");
    let (blocks, threads, rounds) = (3usize, 48usize, 3usize);
    let total = blocks * threads * rounds;
    let mut counter = device.zeros::<i32>(1);
    let mut order = device.poisoned::<i32>(total);
    let grid = (blocks as u32, 1, 1);
    launch!(device.stream, kernel, grid, (threads as u32, 1, 1), 0; &mut counter, &mut order, &(rounds as i32));
    assert_equal("counter", &device.download(&counter), &[total as i32]);
    let mut order = device.download(&order);
    order.sort_unstable();
    let expected: Vec<i32> = (0..total).map(|i| (i / rounds) as i32).collect();
    assert_equal("threads in the order of their turns, sorted", &order, &expected);
}

#[test]
fn sorted_lists_behind_locks_lose_no_key() {
    let device = Device::new();
    let kernel = device.kernel("spin_lock", "insert_sorted_list");
    let (buckets, n) = (7usize, 301usize);
    let keys = Random::new(2).integers(n, 0, 10_000);
    let on_keys = device.upload(&keys);
    let mut heads = device.upload(&vec![-1i32; buckets]);
    let mut next = device.poisoned::<i32>(n);
    let mut locks = device.zeros::<i32>(buckets);
    launch!(device.stream, kernel, (5, 1, 1), (64, 1, 1), 0;
        &mut heads, &mut next, &on_keys, &mut locks, &(buckets as i32), &(n as i32));
    let (heads, next) = (device.download(&heads), device.download(&next));
    for bucket in 0..buckets {
        let mut expected: Vec<i32> = keys.iter().copied().filter(|key| *key as usize % buckets == bucket).collect();
        expected.sort_unstable();
        let mut found = Vec::new();
        let mut at = heads[bucket];
        while at >= 0 && found.len() <= n {
            found.push(keys[at as usize]);
            at = next[at as usize];
        }
        assert_equal("list of a bucket", &found, &expected);
    }
}

#[test]
fn atomics_on_64_bits_and_swap_loops_agree_with_a_sequential_run() {
    let device = Device::new();
    let kernel = device.kernel("atomics", "atomics_64");
    for n in [1usize, 77, 2_000] {
        let input: Vec<f64> = Random::new(n as u64).units(n).into_iter().map(f64::from).collect();
        let on_input = device.upload(&input);
        let mut sum = device.zeros::<u64>(1);
        let mut total = device.zeros::<f64>(1);
        let mut largest = device.upload(&[-10.0f64]);
        let mut lowest = device.upload(&[i64::MAX]);
        let grid = (n.div_ceil(128) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0;
            &on_input, &mut sum, &mut total, &mut largest, &mut lowest, &(n as i32));
        let expected = (0..n as u64).map(|i| i * (1 << 32) + 7).sum::<u64>();
        assert_equal("sum", &device.download(&sum), &[expected]);
        assert_close("total", &device.download(&total), &[input.iter().sum::<f64>()], 1e-12);
        assert_equal("largest", &device.download(&largest), &[input.iter().copied().fold(-10.0, f64::max)]);
        let expected = input.iter().map(|v| (v * 1e12) as i64).min().unwrap();
        assert_equal("lowest", &device.download(&lowest), &[expected]);
    }
}

#[test]
fn a_product_by_guesses_that_a_swap_checks_loses_no_factor() {
    let device = Device::new();
    let kernel = device.kernel("atomics", "product");
    // Powers of two, whose product does not depend on the order.
    let factors: Vec<f32> = (0..700)
        .map(|i| {
            if i % 3 == 0 {
                2.0
            } else if i % 3 == 1 {
                0.5
            } else {
                1.0
            }
        })
        .collect();
    let on_factors = device.upload(&factors);
    let mut product = device.upload(&[3.0f32]);
    launch!(device.stream, kernel, (6, 1, 1), (128, 1, 1), 0; &on_factors, &mut product, &(factors.len() as i32));
    assert_equal("product", &device.download(&product), &[3.0 * factors.iter().product::<f32>()]);
}

#[test]
fn a_hash_table_by_compare_and_swap_counts_every_key() {
    let device = Device::new();
    let kernel = device.kernel("atomics", "hash_insert");
    let (n, capacity) = (3_000usize, 1_024usize);
    let mut random = Random::new(4);
    let distinct: Vec<u64> = (0..500).map(|_| random.next_u64() | 1).collect();
    let keys: Vec<u64> = (0..n).map(|_| distinct[random.between(0, 500) as usize]).collect();
    let on_keys = device.upload(&keys);
    let mut table = device.zeros::<u64>(capacity);
    let mut counts = device.zeros::<u32>(capacity);
    launch!(device.stream, kernel, (24, 1, 1), (128, 1, 1), 0;
        &on_keys, &mut table, &mut counts, &(capacity as u32), &(n as i32));
    let found: BTreeMap<u64, u32> =
        device.download(&table).into_iter().zip(device.download(&counts)).filter(|&(key, _)| key != 0).collect();
    let mut expected = BTreeMap::new();
    for key in keys {
        *expected.entry(key).or_insert(0) += 1;
    }
    assert_eq!(found, expected);
}

#[test]
fn exchange_and_bit_atomics_lose_nothing() {
    let device = Device::new();
    let kernel = device.kernel("atomics", "exchange_and_bits");
    let n = 1_000usize;
    let mut initial = vec![u32::MAX; 36];
    initial[32..].copy_from_slice(&[0, 0, 5, 0xffff]);
    let mut words = device.upload(&initial);
    let mut previous = device.poisoned::<u32>(n);
    launch!(device.stream, kernel, (5, 1, 1), (200, 1, 1), 0; &mut words, &mut previous, &(n as i32));
    let words = device.download(&words);
    // Every number went through its word once: as somebody's previous value or as the last one.
    let mut seen: Vec<u32> = device.download(&previous).into_iter().chain(words[..32].iter().copied()).collect();
    seen.sort_unstable();
    let expected: Vec<u32> = (0..n as u32).chain(std::iter::repeat_n(u32::MAX, 32)).collect();
    assert_equal("exchanged values", &seen, &expected);
    let parity = (0..n).fold(0u32, |bits, i| bits ^ 1 << (i & 31));
    let mut decremented = 5u32;
    for _ in 0..n {
        decremented = if decremented == 0 || decremented > 1_000 { 1_000 } else { decremented - 1 };
    }
    assert_equal("xor, max, dec, and", &words[32..], &[parity, n as u32 - 1, decremented, 0]);
}

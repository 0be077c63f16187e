use ptxvm_suite::{Device, Random, assert_equal, launch};

#[test]
fn match_any_adds_up_lanes_of_one_key() {
    let device = Device::new();
    let kernel = device.kernel("warp_tricks", "sum_by_key");
    for n in [1usize, 31, 500] {
        let mut random = Random::new(n as u64);
        let (keys, values) = (random.integers(n, 0, 9), random.integers(n, -100, 100));
        let (on_keys, on_values) = (device.upload(&keys), device.upload(&values));
        let mut sums = device.zeros::<i32>(9);
        let grid = (n.div_ceil(64) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (64, 1, 1), 0; &on_keys, &on_values, &mut sums, &(n as i32));
        let mut expected = vec![0; 9];
        keys.iter().zip(&values).for_each(|(key, value)| expected[*key as usize] += value);
        assert_equal("sum_by_key", &device.download(&sums), &expected);
    }
}

#[test]
fn votes_see_all_lanes() {
    let device = Device::new();
    let kernel = device.kernel("warp_tricks", "warp_votes");
    let warps = 6;
    let mut input = Random::new(7).integers(32 * warps, 0, 20);
    input[32..64].fill(3);
    input[64..96].fill(15);
    let on_input = device.upload(&input);
    let mut out = device.poisoned::<[i32; 4]>(warps);
    launch!(device.stream, kernel, (3, 1, 1), (64, 1, 1), 0; &on_input, &mut out, &10i32);
    let expected: Vec<[i32; 4]> = input
        .chunks(32)
        .map(|warp| {
            let above: Vec<bool> = warp.iter().map(|&v| v > 10).collect();
            let longest = above.split(|above| !above).map(<[bool]>::len).max().unwrap_or(0);
            let same = warp.iter().all(|v| *v == warp[0]);
            [same.into(), above.contains(&true).into(), (!above.contains(&false)).into(), longest as i32]
        })
        .collect();
    assert_equal("warp_votes", &device.download(&out), &expected);
}

#[test]
fn shuffles_transpose_a_matrix_of_bits() {
    let device = Device::new();
    let kernel = device.kernel("warp_tricks", "transpose_bits");
    let mut random = Random::new(11);
    let input: Vec<u32> = (0..96).map(|_| random.next_u32()).collect();
    let on_input = device.upload(&input);
    let mut out = device.poisoned::<u32>(96);
    launch!(device.stream, kernel, (1, 1, 1), (96, 1, 1), 0; &on_input, &mut out);
    let row = |rows: &[u32], row: usize| (0..32).fold(0, |bits, column| bits | (rows[column] >> row & 1) << column);
    let transposed = |rows: &[u32]| -> Vec<u32> { (0..32).map(|at| row(rows, at)).collect() };
    let plain: Vec<u32> = input.chunks(32).flat_map(transposed).collect();
    assert_equal("transpose_bits", &device.download(&out), &plain);
}

#[test]
fn syncwarp_orders_an_exchange_through_shared_memory() {
    let device = Device::new();
    let kernel = device.kernel("warp_tricks", "reverse_in_warp");
    let input = Random::new(12).integers(512, -100, 100);
    let on_input = device.upload(&input);
    let mut out = device.poisoned::<i32>(512);
    launch!(device.stream, kernel, (2, 1, 1), (256, 1, 1), 0; &on_input, &mut out);
    let expected: Vec<i32> = (0..512).map(|i| 2 * input[(i & !31) + 31 - (i & 31 ^ 1)]).collect();
    assert_equal("reverse_in_warp", &device.download(&out), &expected);
}

#[test]
fn redux_equals_the_reduction() {
    let device = Device::new();
    let kernel = device.kernel("warp_tricks", "warp_reduce_integers");
    let mut random = Random::new(13);
    let input: Vec<u32> = (0..128).map(|_| random.next_u32()).collect();
    let on_input = device.upload(&input);
    let [mut sums, mut largest, mut bits] = std::array::from_fn(|_| device.poisoned::<u32>(4));
    launch!(device.stream, kernel, (2, 1, 1), (64, 1, 1), 0; &on_input, &mut sums, &mut largest, &mut bits);
    let each = |of: &dyn Fn(&[u32]) -> u32| -> Vec<u32> { input.chunks(32).map(of).collect() };
    assert_equal("sums", &device.download(&sums), &each(&|warp| warp.iter().fold(0, |sum, v| sum.wrapping_add(*v))));
    assert_equal("largest", &device.download(&largest), &each(&|warp| *warp.iter().max().unwrap()));
    assert_equal("bits", &device.download(&bits), &each(&|warp| warp.iter().fold(0, |bits, v| bits ^ v)));
}

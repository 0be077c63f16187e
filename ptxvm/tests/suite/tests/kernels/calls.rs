use ptxvm_suite::{Device, Random, assert_equal, launch};

fn greatest_divisor(a: i32, b: i32) -> i32 {
    if b == 0 { a.abs() } else { greatest_divisor(b, a % b) }
}

#[test]
fn lanes_call_different_functions_through_pointers() {
    let device = Device::new();
    let kernel = device.kernel("calls", "call_through_table");
    for n in [1usize, 45, 1_000] {
        let mut random = Random::new(n as u64);
        let which = random.integers(n, 0, 4);
        let (a, b) = (random.integers(n, -1_000, 1_000), random.integers(n, -1_000, 1_000));
        let (on_which, on_a, on_b) = (device.upload(&which), device.upload(&a), device.upload(&b));
        let mut out = device.poisoned::<i32>(n);
        let grid = (n.div_ceil(64) as u32, 1, 1);
        launch!(device.stream, kernel, grid, (64, 1, 1), 0; &on_which, &on_a, &on_b, &mut out, &(n as i32));
        let expected: Vec<i32> = (0..n)
            .map(|i| match which[i] {
                0 => a[i] + b[i],
                1 => a[i] - b[i],
                2 => a[i] * b[i],
                _ => greatest_divisor(a[i], b[i]),
            })
            .collect();
        assert_equal("call_through_table", &device.download(&out), &expected);
    }
}

#[test]
fn recursion_goes_to_a_different_depth_in_every_lane() {
    let device = Device::new();
    let kernel = device.kernel("calls", "recursive_fibonacci");
    let input: Vec<u32> = (0..45).map(|i| i % 12).collect();
    let on_input = device.upload(&input);
    let mut out = device.poisoned::<u32>(input.len());
    launch!(device.stream, kernel, (1, 1, 1), (64, 1, 1), 0; &on_input, &mut out, &(input.len() as i32));
    let fibonacci = [0u32, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89];
    let expected: Vec<u32> = input.iter().map(|&n| fibonacci[n as usize]).collect();
    assert_equal("recursive_fibonacci", &device.download(&out), &expected);
}

#[test]
fn quicksort_recurses_over_an_array_in_local_memory() {
    let device = Device::new();
    let kernel = device.kernel("calls", "sort_in_local_memory");
    let rows = 70;
    let mut values = Random::new(5).integers(24 * rows, -500, 500);
    let on_values = device.upload(&values);
    let mut out = device.poisoned::<i32>(values.len());
    launch!(device.stream, kernel, (3, 1, 1), (32, 1, 1), 0; &on_values, &mut out, &(rows as i32));
    values.chunks_mut(24).for_each(<[i32]>::sort);
    assert_equal("sort_in_local_memory", &device.download(&out), &values);
}

use ptxvm_suite::{Device, Random, assert_equal, launch};

#[test]
fn transposes_move_every_element_of_odd_shapes() {
    let device = Device::new();
    for name in ["transpose_naive", "transpose_padded"] {
        let kernel = device.kernel("transpose", name);
        for (width, height) in [(1, 1), (32, 32), (33, 65), (100, 7), (129, 130)] {
            let input = Random::new((width * height) as u64).units(width * height);
            let on_input = device.upload(&input);
            let mut out = device.poisoned::<f32>(width * height);
            let grid = (width.div_ceil(32) as u32, height.div_ceil(32) as u32, 1);
            launch!(device.stream, kernel, grid, (32, 8, 1), 0; &on_input, &mut out, &(width as i32), &(height as i32));
            let expected: Vec<f32> = (0..width * height).map(|i| input[i % height * width + i / height]).collect();
            assert_equal(name, &device.download(&out), &expected);
        }
    }
}

fn histogram(input: &[u8]) -> Vec<u32> {
    let mut bins = vec![0; 256];
    for &byte in input {
        bins[usize::from(byte)] += 1;
    }
    bins
}

/// Bytes with a few favourites, so that atomics collide.
fn bytes(n: usize) -> Vec<u8> {
    let mut random = Random::new(n as u64);
    (0..n).map(|_| if random.between(0, 3) == 0 { 7 } else { random.next_u32() as u8 }).collect()
}

#[test]
fn histogram_by_shared_atomics_counts_every_byte() {
    let device = Device::new();
    let kernel = device.kernel("histogram", "histogram_shared");
    for n in [1, 255, 4_097, 20_001] {
        let input = bytes(n);
        let on_input = device.upload(&input);
        let mut bins = device.zeros::<u32>(256);
        launch!(device.stream, kernel, (4, 1, 1), (192, 1, 1), 0; &on_input, &mut bins, &(n as i32));
        assert_equal("histogram_shared", &device.download(&bins), &histogram(&input));
    }
}

#[test]
fn histogram_with_a_copy_per_warp_counts_every_byte() {
    let device = Device::new();
    let kernel = device.kernel("histogram", "histogram_privatised");
    for words in [1usize, 64, 3_001] {
        let input = bytes(4 * words);
        let on_input = device.upload(&input);
        let mut bins = device.zeros::<u32>(256);
        launch!(device.stream, kernel, (3, 1, 1), (128, 1, 1), 4 * 256 * 4; &on_input, &mut bins, &(words as i32));
        assert_equal("histogram_privatised", &device.download(&bins), &histogram(&input));
    }
}

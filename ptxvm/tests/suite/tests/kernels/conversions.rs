use ptxvm_suite::{Device, Random, assert_equal, launch};

/// An 8-bit float with the given mantissa bits and exponent bias, without its sign.
fn decoded(code: u8, mantissa_bits: u32, bias: i32) -> f64 {
    let mantissa = f64::from(code & ((1 << mantissa_bits) - 1));
    let exponent = i32::from(code >> mantissa_bits);
    let one = f64::from(1 << mantissa_bits);
    if exponent == 0 {
        mantissa / one * 2f64.powi(1 - bias)
    } else {
        (1.0 + mantissa / one) * 2f64.powi(exponent - bias)
    }
}

/// To the nearest of all finite codes, ties to the even code, saturating; NaN has the code 0x7f.
fn encoded(value: f32, mantissa_bits: u32, bias: i32, last: u8) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    let size = f64::from(value.abs());
    let distance = |code: &u8| (decoded(*code, mantissa_bits, bias) - size).abs();
    let nearest = (0..=last).min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
    let nearest = if size.is_infinite() { last } else { nearest.unwrap_or(0) };
    nearest | if value.is_sign_negative() { 0x80 } else { 0 }
}

#[test]
fn fp8_conversions_round_to_the_nearest_even_and_saturate() {
    let device = Device::new();
    let kernel = device.kernel("conversions", "to_fp8_and_back");
    let mut random = Random::new(6);
    let mut input: Vec<f32> = (0..2_000).map(|_| random.unit() * 2f32.powi(random.between(-20, 18))).collect();
    // All values of e4m3, the ties between neighbours, and the special ones.
    for code in 0..=0x7eu8 {
        let value = decoded(code, 3, 7);
        input.extend([value as f32, -value as f32, ((value + decoded(code + 1, 3, 7)) / 2.0) as f32]);
    }
    input.extend([f32::INFINITY, f32::NEG_INFINITY, 448.0, 465.0, 57_344.0, 61_441.0, 0.0, -0.0, f32::MIN_POSITIVE]);
    let n = input.len();
    let on_input = device.upload(&input);
    let (mut e4m3, mut e5m2) = (device.poisoned::<u8>(n), device.poisoned::<u8>(n));
    let (mut back4, mut back5) = (device.poisoned::<f32>(n), device.poisoned::<f32>(n));
    let grid = (n.div_ceil(128) as u32, 1, 1);
    launch!(device.stream, kernel, grid, (128, 1, 1), 0;
        &on_input, &mut e4m3, &mut e5m2, &mut back4, &mut back5, &(n as i32));
    for (name, codes, values, mantissa, bias, last) in [
        ("e4m3", device.download(&e4m3), device.download(&back4), 3, 7, 0x7e),
        ("e5m2", device.download(&e5m2), device.download(&back5), 2, 15, 0x7b),
    ] {
        let expected: Vec<u8> = input.iter().map(|&v| encoded(v, mantissa, bias, last)).collect();
        assert_equal(name, &codes, &expected);
        let expected: Vec<f32> = expected
            .iter()
            .map(|&code| {
                let size = decoded(code & 0x7f, mantissa, bias) as f32;
                if code & 0x80 != 0 { -size } else { size }
            })
            .collect();
        assert_equal("the way back", &values, &expected);
    }
}

#[test]
fn quantised_dot_products_by_dp4a_are_exact() {
    let device = Device::new();
    let module = device.module("conversions");
    let (quantise, dot) =
        (ptxvm_suite::function(&module, "quantise_s8"), ptxvm_suite::function(&module, "dot_rows_dp4a"));
    for (rows, words) in [(1usize, 1usize), (33, 7), (100, 16)] {
        let n = rows * words * 4;
        let mut random = Random::new(n as u64);
        let mut quantised = Vec::new();
        let mut on_device = Vec::new();
        for _ in 0..2 {
            let input: Vec<f32> = random.units(n).into_iter().map(|v| v * 1.1).collect();
            let on_input = device.upload(&input);
            let mut out = device.poisoned::<i8>(n);
            let grid = (n.div_ceil(128) as u32, 1, 1);
            launch!(device.stream, quantise, grid, (128, 1, 1), 0; &on_input, &mut out, &127f32, &(n as i32));
            let expected: Vec<i8> =
                input.iter().map(|v| (v * 127.0).round_ties_even().clamp(-127.0, 127.0) as i8).collect();
            assert_equal("quantise_s8", &device.download(&out), &expected);
            quantised.push(expected);
            on_device.push(out);
        }
        let mut out = device.poisoned::<i32>(rows);
        let grid = (rows.div_ceil(32) as u32, 1, 1);
        launch!(device.stream, dot, grid, (32, 1, 1), 0;
            &on_device[0], &on_device[1], &mut out, &(words as i32), &(rows as i32));
        let products = quantised[0].iter().zip(&quantised[1]).map(|(a, b)| i32::from(*a) * i32::from(*b));
        let expected: Vec<i32> = products.collect::<Vec<_>>().chunks(4 * words).map(|row| row.iter().sum()).collect();
        assert_equal("dot_rows_dp4a", &device.download(&out), &expected);
    }
}

use half::{bf16, f16};
use ptxvm_suite::{Device, Random, assert_close, assert_equal, erf, launch};

const SIZES: [usize; 5] = [1, 31, 256, 1_000, 10_007];

fn blocks(n: usize, threads: usize) -> (u32, u32, u32) {
    (n.div_ceil(threads) as u32, 1, 1)
}

#[test]
fn vector_add_adds_every_element_and_no_more() {
    let device = Device::new();
    let kernel = device.kernel("elementwise", "vector_add");
    for n in SIZES {
        let mut random = Random::new(n as u64);
        let (a, b) = (random.units(n), random.units(n));
        let (on_a, on_b) = (device.upload(&a), device.upload(&b));
        // One more element than the kernel may write.
        let mut out = device.poisoned::<f32>(n + 1);
        launch!(device.stream, kernel, blocks(n, 256), (256, 1, 1), 0; &on_a, &on_b, &mut out, &(n as i32));
        let out = device.download(&out);
        let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        assert_equal("vector_add", &out[..n], &expected);
        assert!(out[n].is_nan(), "the element after the end was written");
    }
}

#[test]
fn saxpy_by_float4_handles_the_tail() {
    let device = Device::new();
    let kernel = device.kernel("elementwise", "saxpy_vectorised");
    for n in [1, 3, 4, 127, 4_096, 10_007] {
        let mut random = Random::new(n as u64);
        let (x, y) = (random.units(n), random.units(n));
        let on_x = device.upload(&x);
        let mut on_y = device.upload(&y);
        launch!(device.stream, kernel, (3, 1, 1), (128, 1, 1), 0; &1.75f32, &on_x, &mut on_y, &(n as i32));
        let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.75f32.mul_add(*x, *y)).collect();
        assert_equal("saxpy", &device.download(&on_y), &expected);
    }
}

#[test]
fn gelu_by_erf_and_by_tanh_are_near_their_formulas() {
    let device = Device::new();
    let n = 4_001;
    let input: Vec<f32> = (0..n).map(|i| (i as f32 - 2_000.0) / 250.0).collect();
    let on_input = device.upload(&input);
    let by_erf = |x: f64| 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
    let by_tanh = |x: f64| 0.5 * x * (1.0 + (0.7978845608028654 * (x + 0.044715 * x * x * x)).tanh());
    let formulas: [(&str, &dyn Fn(f64) -> f64); 2] = [("gelu_erf", &by_erf), ("gelu_tanh", &by_tanh)];
    for (name, formula) in formulas {
        let kernel = device.kernel("elementwise", name);
        let mut out = device.poisoned::<f32>(n);
        launch!(device.stream, kernel, (4, 1, 1), (96, 1, 1), 0; &on_input, &mut out, &(n as i32));
        let expected: Vec<f64> = input.iter().map(|&x| formula(f64::from(x))).collect();
        assert_close(name, &device.download(&out), &expected, 2e-6);
    }
}

/// Eighths between −8 and 8: their products and sums are exact in f32, so one rounding remains.
fn eighths(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.between(-64, 65) as f32 / 8.0).collect()
}

#[test]
fn half2_fma_rounds_once_and_relu_cuts() {
    let device = Device::new();
    let kernel = device.kernel("elementwise", "half2_fma_relu");
    for pairs in [1, 33, 1_000] {
        let mut random = Random::new(pairs as u64);
        let mut numbers = || -> Vec<f16> { eighths(&mut random, 2 * pairs).into_iter().map(f16::from_f32).collect() };
        let (a, b, c) = (numbers(), numbers(), numbers());
        let (on_a, on_b, on_c) = (device.upload(&a), device.upload(&b), device.upload(&c));
        let mut out = device.poisoned::<f16>(2 * pairs);
        launch!(device.stream, kernel, blocks(pairs, 128), (128, 1, 1), 0; &on_a, &on_b, &on_c, &mut out, &(pairs as i32));
        let exact = |i: usize| (a[i].to_f32() * b[i].to_f32() + c[i].to_f32()).max(0.0);
        let expected: Vec<f16> = (0..2 * pairs).map(|i| f16::from_f32(exact(i))).collect();
        assert_equal("half2_fma_relu", &device.download(&out), &expected);
    }
}

#[test]
fn bfloat162_fma_rounds_once() {
    let device = Device::new();
    let kernel = device.kernel("bfloat16", "bfloat162_fma");
    for pairs in [1, 65, 1_000] {
        let mut random = Random::new(pairs as u64);
        let mut numbers = || -> Vec<bf16> { eighths(&mut random, 2 * pairs).into_iter().map(bf16::from_f32).collect() };
        let (a, b, c) = (numbers(), numbers(), numbers());
        let (on_a, on_b, on_c) = (device.upload(&a), device.upload(&b), device.upload(&c));
        let mut out = device.poisoned::<bf16>(2 * pairs);
        launch!(device.stream, kernel, blocks(pairs, 128), (128, 1, 1), 0; &on_a, &on_b, &on_c, &mut out, &(pairs as i32));
        let exact = |i: usize| a[i].to_f32() * b[i].to_f32() + c[i].to_f32();
        let expected: Vec<bf16> = (0..2 * pairs).map(|i| bf16::from_f32(exact(i))).collect();
        assert_equal("bfloat162_fma", &device.download(&out), &expected);
    }
}

#[test]
fn scale_and_bias_in_bf16_equal_f32_arithmetic_rounded_once() {
    let device = Device::new();
    let kernel = device.kernel("bfloat16", "scale_bias_bf16");
    for groups in [1, 100, 777] {
        let mut random = Random::new(groups as u64);
        let input: Vec<bf16> = random.units(8 * groups).into_iter().map(bf16::from_f32).collect();
        let on_input = device.upload(&input);
        let mut out = device.poisoned::<bf16>(8 * groups);
        launch!(device.stream, kernel, blocks(groups, 64), (64, 1, 1), 0;
            &on_input, &mut out, &1.625f32, &-0.3f32, &(groups as i32));
        let expected: Vec<bf16> = input.iter().map(|x| bf16::from_f32(x.to_f32().mul_add(1.625, -0.3))).collect();
        assert_equal("scale_bias_bf16", &device.download(&out), &expected);
    }
}

#[test]
fn double_arithmetic_is_double() {
    let device = Device::new();
    let kernel = device.kernel("elementwise", "hypotenuse_double");
    let n = 1_013;
    let mut random = Random::new(9);
    let wide = |v: Vec<f32>| -> Vec<f64> { v.into_iter().map(|v| f64::from(v) * 20.0).collect() };
    let (x, y) = (wide(random.units(n)), wide(random.units(n)));
    let (on_x, on_y) = (device.upload(&x), device.upload(&y));
    let mut out = device.poisoned::<f64>(n);
    launch!(device.stream, kernel, blocks(n, 256), (256, 1, 1), 0; &on_x, &on_y, &mut out, &(n as i32));
    let expected: Vec<f64> =
        x.iter().zip(&y).map(|(x, y)| x.mul_add(*x, y * y).sqrt() + 1.0 / (1.0 + (-x).exp())).collect();
    assert_close("hypotenuse_double", &device.download(&out), &expected, 1e-14);
}

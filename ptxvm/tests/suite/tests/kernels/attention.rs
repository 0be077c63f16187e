use half::f16;
use ptxvm_suite::{Device, Random, assert_close, launch};

const DIMENSION: usize = 64;

fn attention(q: &[f64], k: &[f64], v: &[f64], length: usize, scale: f64, causal: bool) -> Vec<f64> {
    let mut out = Vec::with_capacity(q.len());
    for query in 0..length {
        let keys = if causal { query + 1 } else { length };
        let dot = |key: usize| -> f64 {
            (0..DIMENSION).map(|d| q[query * DIMENSION + d] * k[key * DIMENSION + d]).sum::<f64>() * scale
        };
        let scores: Vec<f64> = (0..keys).map(dot).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend(
            (0..DIMENSION).map(|d| (0..keys).map(|key| weights[key] * v[key * DIMENSION + d]).sum::<f64>() / sum),
        );
    }
    out
}

#[test]
fn flash_attention_equals_plain_attention_for_odd_lengths_causal_or_not() {
    let device = Device::new();
    let kernel = device.kernel("flash_attention", "flash_attention");
    for (heads, length, causal) in [(1, 1, false), (2, 64, false), (1, 129, false), (2, 77, true), (1, 130, true)] {
        let count = heads * length * DIMENSION;
        let mut random = Random::new((length + heads) as u64);
        let mut numbers = || -> Vec<f16> { random.units(count).into_iter().map(|v| f16::from_f32(v * 2.0)).collect() };
        let (q, k, v) = (numbers(), numbers(), numbers());
        let (on_q, on_k, on_v) = (device.upload(&q), device.upload(&k), device.upload(&v));
        let mut out = device.poisoned::<f16>(count);
        let grid = (length.div_ceil(64) as u32, heads as u32, 1);
        launch!(device.stream, kernel, grid, (128, 1, 1), 0;
            &on_q, &on_k, &on_v, &mut out, &(length as i32), &0.125f32, &i32::from(causal));
        let wide = |values: &[f16]| -> Vec<f64> { values.iter().map(|v| v.to_f64()).collect() };
        let (q, k, v) = (wide(&q), wide(&k), wide(&v));
        let expected: Vec<f64> = (0..heads)
            .flat_map(|head| {
                let rows = head * length * DIMENSION..(head + 1) * length * DIMENSION;
                attention(&q[rows.clone()], &k[rows.clone()], &v[rows], length, 0.125, causal)
            })
            .collect();
        assert_close("flash_attention", &device.download(&out), &expected, 2e-3);
    }
}

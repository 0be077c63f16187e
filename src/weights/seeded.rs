//! Weights that are pure functions of tensor names: what parity cases, tests and benches compute with.
//!
//! ```text
//! splitmix64(x): x += 0x9E3779B97F4A7C15; z = x; z = (z ^ z>>30)·0xBF58476D1CE4E5B9;
//!                z = (z ^ z>>27)·0x94D049BB133111EB; z ^ z>>31          (mod 2^64)
//! fnv1a64(s):    h = 0xCBF29CE484222325; for each byte: h = (h ^ byte)·0x100000001B3
//! u(name, i)   = 2·(splitmix64(fnv1a64(name) + i) >> 40)/2^24 − 1       in [−1, 1), i = flat row-major index
//! ```
//!
//! How `u` becomes a weight is [`rule`]; fixtures/parity/README.md has the same table. Arithmetic is float64, rounded once.

use super::{DType, Tensor, Weights};
use segface_codegen::{ModelSpec, TensorDecl, manifest};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Seeded weights of every tensor a published checkpoint of `spec` has.
pub fn seeded(spec: ModelSpec) -> Weights {
    let mut decls = manifest(&spec);
    // Large tensors first, so that no thread is left with one at the end.
    decls.sort_by_key(|decl| std::cmp::Reverse(decl.shape.iter().product::<usize>()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(decl) = decls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tensor = tensor(decl);
                    done.lock().unwrap_or_else(|e| e.into_inner()).insert(decl.name.clone(), tensor);
                }
            });
        }
    });
    let tensors = done.into_inner().unwrap_or_else(|e| e.into_inner());
    Weights { spec, resolution: None, file: format!("random:{spec}"), tensors }
}

/// `len` values of the seeded input called `name`, before any scaling: `u(name, 0..len)`.
pub fn seeded_values(name: &str, len: usize) -> Vec<f32> {
    let seed = fnv1a64(name);
    (0..len as u64).map(|i| unit(seed, i) as f32).collect()
}

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn unit(seed: u64, index: u64) -> f64 {
    2.0 * (splitmix64(seed.wrapping_add(index)) >> 40) as f64 / (1u64 << 24) as f64 - 1.0
}

/// How `u` becomes a weight: `gain·(offset + scale·u)`.
struct Affine {
    gain: f64,
    offset: f64,
    scale: f64,
}

/// First line that fits.
fn rule(name: &str, shape: &[usize]) -> Affine {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let affine = |offset, scale| Affine { gain: 1.0, offset, scale };
    match leaf {
        "running_mean" => affine(0.0, 0.1),
        "running_var" => affine(1.0, 0.5),
        "relative_position_bias_table" => affine(0.0, 1.0),
        "logit_scale" => affine(10f64.ln(), 0.3),
        "layer_scale" => affine(0.3, 0.1),
        "positional_encoding_gaussian_matrix" => affine(0.0, 1.5),
        "weight" if name.contains("_token") && shape == [1, 256] => affine(0.0, 1.0),
        _ if name.ends_with(".bn3.weight") || name.ends_with(".block.3.1.weight") => {
            Affine { gain: 0.3, ..affine(1.0, 0.2) }
        }
        "weight" if shape.len() == 1 => affine(1.0, 0.2),
        _ if shape.len() == 1 => affine(0.0, 0.1),
        _ if name.starts_with("face_decoder.output_upscaling.") => affine(0.0, (4.5 / shape[0] as f64).sqrt()),
        _ => affine(0.0, (4.5 / shape[1..].iter().product::<usize>() as f64).sqrt()),
    }
}

fn tensor(decl: &TensorDecl) -> Tensor {
    let len: usize = decl.shape.iter().product();
    let leaf = decl.name.rsplit('.').next().unwrap_or(&decl.name);
    if let Some(table) = table(&decl.name, &decl.shape) {
        return table;
    }
    let (dtype, bytes) = match leaf {
        "num_batches_tracked" => (DType::I64, vec![0; len * 8]),
        _ => {
            let Affine { gain, offset, scale } = rule(&decl.name, &decl.shape);
            let seed = fnv1a64(&decl.name);
            let mut bytes = vec![0; len * 4];
            for (i, value) in bytes.chunks_exact_mut(4).enumerate() {
                value.copy_from_slice(&((gain * (offset + scale * unit(seed, i as u64))) as f32).to_le_bytes());
            }
            (DType::F32, bytes)
        }
    };
    Tensor::from_bytes(dtype, decl.shape.clone(), bytes).expect("as many bytes as the shape asks were made")
}

/// A table that is the same in every checkpoint: Swin's indices and coordinates; `None` for other names.
pub(crate) fn table(name: &str, shape: &[usize]) -> Option<Tensor> {
    let (dtype, bytes) = match name.rsplit('.').next()? {
        "relative_position_index" => (DType::I64, relative_position_index(shape.iter().product())),
        "relative_coords_table" => (DType::F32, relative_coords_table(shape)),
        _ => return None,
    };
    Tensor::from_bytes(dtype, shape.to_vec(), bytes)
}

/// For each pair of positions (query, key) of a window of side w: (Δy + w − 1)·(2w − 1) + Δx + w − 1, Δ = query − key.
/// `len` is w⁴.
fn relative_position_index(len: usize) -> Vec<u8> {
    let area = len.isqrt();
    let side = area.isqrt() as i64;
    let area = area as i64;
    let pairs = (0..area).flat_map(|query| (0..area).map(move |key| (query, key)));
    pairs
        .flat_map(|(query, key)| {
            let dy = query / side - key / side + side - 1;
            let dx = query % side - key % side + side - 1;
            (dy * (2 * side - 1) + dx).to_le_bytes()
        })
        .collect()
}

/// Swin V2's table [1, 2w−1, 2w−1, 2]: sign(t)·log2(|t| + 1)/3 with t = 8·Δ/(w − 1), y before x.
fn relative_coords_table(shape: &[usize]) -> Vec<u8> {
    let extent = shape[1];
    let reach = ((extent - 1) / 2) as f32;
    let coordinate = |i: usize| {
        let t = (i as f32 - reach) / reach * 8.0;
        t.signum() * (t.abs() + 1.0).log2() / 3.0
    };
    let cells = (0..extent).flat_map(|y| (0..extent).map(move |x| (y, x)));
    cells.flat_map(|(y, x)| [coordinate(y), coordinate(x)]).flat_map(f32::to_le_bytes).collect()
}

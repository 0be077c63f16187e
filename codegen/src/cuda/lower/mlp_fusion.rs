//! MLP fusion: the coarse taps at their own resolution, then the fine one and what the others give it.

use super::super::kernel::{Argument, KernelText};
use super::super::tile::Problem;
use super::Lowering;
use crate::ir::Slot;
use segface_kernels::mlp_fusion::MlpFusionSpec;

/// `mlp_fusion::SAMPLE_BYTES`
const SAMPLE_BYTES: usize = 24;

/// Two launches.
pub(super) fn mlp_fusion(l: &mut Lowering<'_>, spec: &MlpFusionSpec) {
    let MlpFusionSpec { batch, taps, width } = *spec;
    let pixels = taps.map(|[height, width, _]| batch * height * width);
    let size = l.precision.dtype().size();
    let coarse: Vec<[Argument; 3]> = [(Slot::X1, Slot::Weight1), (Slot::X2, Slot::Weight2), (Slot::X3, Slot::Weight3)]
        .into_iter()
        .enumerate()
        .map(|(i, (x, weight))| {
            let [x, weight] = [l.element(x), l.packed(weight, width, taps[i + 1][2])];
            [x, weight, l.workspace(pixels[i + 1] * width * size)]
        })
        .collect();
    let write_coarse = |text: &mut KernelText| {
        for (i, arguments) in coarse.iter().enumerate() {
            let names = ["const E *x", "const u8 *weight", "E *projected"];
            for (name, argument) in names.iter().zip(arguments) {
                text.parameter(format!("{name}{}", i + 1), *argument);
            }
            for (name, number) in ["height", "width", "channels"].iter().zip(taps[i + 1]) {
                text.parameter(format!("int {name}{}", i + 1), Argument::I32(number as i32));
            }
        }
        let tap = |i| format!("{{x{i}, weight{i}, projected{i}, height{i}, width{i}, channels{i}}}");
        text.line(format!("const mlp_fusion::Coarse taps[3] = {{{}, {}, {}}};", tap(1), tap(2), tap(3)));
    };
    let products: [u64; 4] = std::array::from_fn(|i| 2 * (pixels[i] * taps[i][2] * width) as u64);
    let (flops, bytes) = (spec.flops(), spec.bytes(l.precision.dtype()));
    let projected_flops = products[1] + products[2] + products[3];
    let projected_bytes =
        (1..4).map(|i| ((pixels[i] + width) * taps[i][2] + pixels[i] * width) * size).sum::<usize>() as u64;

    let product = |l: &mut Lowering<'_>, source: &str, rows: usize, k: usize| {
        l.tile(Problem { source: source.into(), norm: false, precision: l.precision, rows, n: width, k })
    };
    let coarse_pixels = pixels[1] + pixels[2] + pixels[3];
    // Sums of different lengths: their mean.
    let coarse_depth = (1..4).map(|i| pixels[i] * taps[i][2]).sum::<usize>() / coarse_pixels.max(1);
    let shape = product(l, "CoarseTaps", coarse_pixels, coarse_depth);
    let mut text = KernelText::new("mlp_fusion_project", "mlp_fusion/forward.cuh");
    text.define(format!("using S = {};\nusing E = S::E;", shape.shape(&l.fragment_name())));
    text.block(shape.threads(), shape.bytes(false), "mlp_fusion::project_bytes<S>()");
    write_coarse(&mut text);
    text.parameter("int batch", Argument::I32(batch as i32));
    text.line(format!("mlp_fusion::project<S, {width}>(taps[0], taps[1], taps[2], batch);"));
    let tiles: usize = pixels[1..].iter().map(|rows| rows.div_ceil(shape.rows)).sum();
    let tiles_n = width.div_ceil(shape.columns);
    l.launch(&text, [tiles as u32, tiles_n as u32, 1], projected_flops, projected_bytes);
    let of_tap = |i: usize| {
        let weights = pixels[i].div_ceil(shape.rows) * width * taps[i][2];
        tiles_n * pixels[i] * taps[i][2] + weights + pixels[i] * width
    };
    let traffic = size * (1..4).map(of_tap).sum::<usize>();
    let longest = (1..4).map(|i| taps[i][2]).max().unwrap_or(0) * size;
    l.detail(|detail| {
        (detail.traffic, detail.steps) = (traffic as u64, longest.div_ceil(shape.row_bytes) as u32);
    });

    let shape = product(l, "FineTap", pixels[0], taps[0][2]);
    let mut text = KernelText::new("mlp_fusion", "mlp_fusion/forward.cuh");
    text.define(format!("using S = {};\nusing E = S::E;", shape.shape(&l.fragment_name())));
    let shared = shape.loop_bytes().max(shape.finish_bytes(false) + shape.rows * 3 * SAMPLE_BYTES);
    text.block(shape.threads(), shared, "mlp_fusion::fuse_bytes<S>()");
    write_coarse(&mut text);
    let channels = taps[0][2];
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const u8 *weight", l.packed(Slot::Weight, width, channels));
    text.parameter("const float *bias", l.f32(Slot::Bias));
    text.parameter("E *out", l.output(0));
    text.parameter("int batch", Argument::I32(batch as i32));
    text.parameter("int height", Argument::I32(taps[0][0] as i32));
    text.parameter("int width", Argument::I32(taps[0][1] as i32));
    text.line(format!("mlp_fusion::fuse<S, {width}, {channels}>(x, weight, bias, out, batch, height, width, taps);"));
    let grid = shape.grid(pixels[0], width);
    l.launch(&text, grid, flops - projected_flops, bytes - projected_bytes);
    let [tiles_m, tiles_n, _] = grid.map(|side| side as usize);
    // Neighbours share the four samples of each coarse map: about one a pixel and map is left.
    let elements = tiles_n * pixels[0] * channels + tiles_m * width * channels + 4 * pixels[0] * width;
    let steps = (channels * size).div_ceil(shape.row_bytes);
    l.detail(|detail| (detail.traffic, detail.steps) = ((elements * size) as u64, steps as u32));
}

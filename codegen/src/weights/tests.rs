use super::{Make, Recipe};
use crate::ir::{Output, Source};
use crate::{Backbone, CodegenError, ModelSpec, TensorDecl, Variant, WeightSource, manifest, models};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A recipe's numbers from tensors given as (shape, values).
fn made(make: Make, tensors: &[(&[usize], &[f32])]) -> Vec<f32> {
    let declared = tensors.iter().map(|(shape, data)| {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "the test's own tensor");
        TensorDecl { name: "t".into(), shape: shape.to_vec(), required: true }
    });
    let recipe = Recipe { tensors: declared.collect(), make };
    recipe.evaluate(&tensors.iter().map(|(_, data)| Cow::Borrowed(*data)).collect::<Vec<_>>()).to_vec()
}

fn counted(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32).collect()
}

fn close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*f) - e).abs() <= 1e-6 * e.abs().max(1.0), "element {i}: {f}, expected {e}");
    }
}

#[test]
fn plain_tensors_are_copied_bit_by_bit() {
    let data = [1.5, -0.0, f32::MIN_POSITIVE, f32::MAX];
    let copied = made(Make::Plain, &[(&[2, 2], &data)]);
    assert_eq!(copied.map_bits(), data.to_vec().map_bits());
}

trait Bits {
    fn map_bits(&self) -> Vec<u32>;
}

impl Bits for Vec<f32> {
    fn map_bits(&self) -> Vec<u32> {
        self.iter().map(|v| v.to_bits()).collect()
    }
}

#[test]
fn convolution_weights_go_from_channel_row_column_to_row_column_channel() {
    // [O = 2, I = 2, 2, 2]: 0..16.
    let rows = made(Make::ConvRows, &[(&[2, 2, 2, 2], &counted(16))]);
    assert_eq!(rows, [0., 4., 1., 5., 2., 6., 3., 7., 8., 12., 9., 13., 10., 14., 11., 15.]);
}

#[test]
fn depthwise_weights_go_from_channels_to_taps() {
    let taps = made(Make::DepthwiseTaps, &[(&[2, 1, 2, 2], &counted(8))]);
    assert_eq!(taps, [0., 4., 1., 5., 2., 6., 3., 7.]);
}

#[test]
fn transposed_convolution_weights_become_rows_by_sub_pixel_then_channel() {
    let (inputs, outputs) = (2, 3);
    // The element of input channel c, output channel o at sub-pixel (i, j) is the number c·1000 + o·100 + i·10 + j.
    let label = |c: usize, o: usize, i: usize, j: usize| (c * 1000 + o * 100 + i * 10 + j) as f32;
    let mut published = Vec::new();
    for c in 0..inputs {
        for o in 0..outputs {
            published.extend([label(c, o, 0, 0), label(c, o, 0, 1), label(c, o, 1, 0), label(c, o, 1, 1)]);
        }
    }
    let rows = made(Make::UpscaleRows, &[(&[inputs, outputs, 2, 2], &published)]);
    for (index, row) in rows.chunks_exact(inputs).enumerate() {
        let (sub_pixel, o) = (index / outputs, index % outputs);
        let expected: Vec<f32> = (0..inputs).map(|c| label(c, o, sub_pixel / 2, sub_pixel % 2)).collect();
        assert_eq!(row, expected, "row {index}");
    }
    assert_eq!(rows.len(), 4 * outputs * inputs);
}

#[test]
fn repeated_and_stacked_tensors_follow_one_another() {
    assert_eq!(made(Make::Repeat(3), &[(&[2], &[1.0, 2.0])]), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    assert_eq!(made(Make::Stack, &[(&[1, 2], &[3.0, 4.0]), (&[1, 2], &[1.0, 2.0])]), [3.0, 4.0, 1.0, 2.0]);
    assert_eq!(made(Make::Fill(0.25, 3), &[]), [0.25; 3]);
}

/// torchvision's `relative_position_index` for a 2×2 window, row: query, column: key.
const INDEX_2X2: [usize; 16] = [4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4];

#[test]
fn position_bias_of_a_small_window_is_the_published_index_table() {
    // Two heads: head 0 holds the index itself, head 1 its negative.
    let table: Vec<f32> = (0..9).flat_map(|i| [i as f32, -(i as f32)]).collect();
    let bias = made(Make::PositionBiasTable { window: 2 }, &[(&[9, 2], &table)]);
    let expected: Vec<f32> =
        INDEX_2X2.iter().map(|i| *i as f32).chain(INDEX_2X2.iter().map(|i| -(*i as f32))).collect();
    assert_eq!(bias, expected);
}

#[test]
fn position_bias_of_a_real_window_agrees_with_coordinates_counted_one_by_one() {
    for window in [7usize, 8] {
        let side = 2 * window - 1;
        let bias = made(Make::PositionBiasTable { window }, &[(&[side * side, 1], &counted(side * side))]);
        let mut found = bias.iter();
        for (qy, qx) in (0..window).flat_map(|y| (0..window).map(move |x| (y, x))) {
            for (ky, kx) in (0..window).flat_map(|y| (0..window).map(move |x| (y, x))) {
                let (dy, dx) = (qy as i64 - ky as i64, qx as i64 - kx as i64);
                let index = (dy + window as i64 - 1) * side as i64 + dx + window as i64 - 1;
                assert_eq!(found.next(), Some(&(index as f32)), "query ({qy},{qx}), key ({ky},{kx})");
            }
        }
        assert!(found.next().is_none());
    }
}

#[test]
fn continuous_position_bias_of_a_small_window_is_what_the_formula_gives_by_hand() {
    // Coordinates of a 2×2 window are −c, 0, c with c = log2(1 + 8)/3. Hidden unit 0 sees relu(y), unit 1 relu(x + ½);
    // the head adds unit 0 once and unit 1 twice.
    let c = 9f64.log2() / 3.0;
    let bias = made(
        Make::PositionBiasMlp { window: 2 },
        &[(&[2, 2], &[1.0, 0.0, 0.0, 1.0]), (&[2], &[0.0, 0.5]), (&[1, 2], &[1.0, 2.0])],
    );
    let expected: Vec<f64> = INDEX_2X2
        .iter()
        .map(|index| {
            let coordinate = [-c, 0.0, c];
            let (y, x) = (coordinate[index / 3], coordinate[index % 3]);
            16.0 / (1.0 + (-(y.max(0.0) + 2.0 * (x + 0.5).max(0.0))).exp())
        })
        .collect();
    close(&bias, &expected);
    // And one of them in plain numbers: one row down, same column.
    close(&bias[8..9], &[16.0 / (1.0 + (-(1.056_641_667_474_35 + 1.0f64)).exp())]);
}

#[test]
fn continuous_position_bias_keeps_heads_apart() {
    let (weight, hidden_bias) = ([0.0; 4], [1.0, 1.0]);
    let bias = made(
        Make::PositionBiasMlp { window: 2 },
        &[(&[2, 2], &weight), (&[2], &hidden_bias), (&[2, 2], &[0.0, 0.0, 3.0, -1.0])],
    );
    let second = 16.0 / (1.0 + (-2f64).exp());
    close(&bias, &[[8.0; 16], [second; 16]].concat());
}

#[test]
fn logit_scale_is_capped_at_a_hundred() {
    let scales = made(Make::LogitScale, &[(&[5, 1, 1], &[0.0, 1.0, -2.0, 4.606, 80.0])]);
    close(&scales, &[1.0, std::f64::consts::E, (-2f64).exp(), 100.0, 100.0]);
    assert!(scales[4] == 100.0, "exactly 100, not e^ln 100: {}", scales[4]);
}

#[test]
fn the_key_third_of_a_qkv_bias_is_zero_whatever_the_checkpoint_holds() {
    let bias = made(Make::ZeroKeyThird, &[(&[9], &counted(9))]);
    assert_eq!(bias, [0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 6.0, 7.0, 8.0]);
}

#[test]
fn positional_encoding_is_sine_then_cosine_of_cell_centres_x_first() {
    // Row 0 of the matrix belongs to x. Two rows and one column: x = 0, y = ∓½; two frequencies.
    let encoding = made(Make::PositionalEncoding { height: 2, width: 1 }, &[(&[2, 2], &[9.0, 5.0, 0.25, 0.5])]);
    let half = std::f64::consts::FRAC_1_SQRT_2;
    close(&encoding, &[-half, -1.0, half, 0.0, half, 1.0, half, 0.0]);
    // Both axes at once, not square: the angle is 2π·(x·g_x + y·g_y).
    let (height, width, g) = (3usize, 4usize, [0.3f32, -1.1, 0.7, 0.2]);
    let encoding = made(Make::PositionalEncoding { height, width }, &[(&[2, 2], &g)]);
    let mut expected = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let cx = 2.0 * (x as f64 + 0.5) / width as f64 - 1.0;
            let cy = 2.0 * (y as f64 + 0.5) / height as f64 - 1.0;
            let angle = |i: usize| std::f64::consts::TAU * (cx * f64::from(g[i]) + cy * f64::from(g[2 + i]));
            expected.extend([angle(0).sin(), angle(1).sin(), angle(0).cos(), angle(1).cos()]);
        }
    }
    close(&encoding, &expected);
}

/// Weights whose every element is the same number.
struct Flat(BTreeMap<String, Vec<usize>>);

impl Flat {
    fn of(model: &ModelSpec) -> Self {
        Flat(manifest(model).into_iter().map(|t| (t.name, t.shape)).collect())
    }
}

impl WeightSource for Flat {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        let shape = self.0.get(name)?;
        Some((shape, Cow::Owned(vec![0.25; shape.iter().product()])))
    }
}

const MODEL: ModelSpec = ModelSpec { backbone: Backbone::SwinV2Tiny, variant: Variant::Lapa };

#[test]
fn binding_replaces_every_recipe_by_as_many_numbers_as_its_value_has() {
    for backbone in [Backbone::SwinBase, Backbone::SwinV2Tiny, Backbone::ConvNextTiny, Backbone::MobileNet] {
        let model = ModelSpec { backbone, variant: Variant::Helen };
        let mut graph = models::build(&model, 2, 72, 100).expect("a size it takes");
        graph.bind(&Flat::of(&model)).expect("weights of this very model");
        for value in &graph.values {
            match &value.source {
                Source::Weight(_) => panic!("{backbone}: {} is not bound", value.name),
                Source::Constant(data) => assert_eq!(data.len(), value.len(), "{backbone}: {}", value.name),
                Source::Input | Source::Node => {}
            }
        }
        assert!(graph.required_tensors().is_empty());
    }
}

#[test]
fn tensors_that_feed_nothing_may_be_missing() {
    let mut weights = Flat::of(&MODEL);
    for tensor in manifest(&MODEL).into_iter().filter(|t| !t.required) {
        weights.0.remove(&tensor.name);
    }
    models::build(&MODEL, 1, 64, 64).expect("64 px fit").bind(&weights).expect("nothing needed is missing");
}

#[test]
fn all_missing_and_misshapen_tensors_are_named_at_once_and_nothing_is_bound() {
    let mut weights = Flat::of(&MODEL);
    let gone = ["backbone.0.1.0.attn.logit_scale", "face_decoder.nose_token.weight"];
    for name in gone {
        assert!(weights.0.remove(name).is_some(), "{name} is the model's");
    }
    let bent = ["linear_fuse.weight", "backbone.0.3.1.attn.cpb_mlp.0.weight"];
    for name in bent {
        weights.0.get_mut(name).expect("the model's").push(1);
    }
    let mut graph = models::build(&MODEL, 1, 64, 64).expect("64 px fit");
    let error = graph.bind(&weights).expect_err("four tensors are wrong");
    let CodegenError::Weights { missing, misshapen } = &error else { panic!("{error}") };
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(missing.clone()), gone);
    let mut found: Vec<&str> = misshapen.iter().map(|(name, ..)| name.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, [bent[1], bent[0]]);
    let text = error.to_string();
    assert!(gone.iter().chain(&bent).all(|name| text.contains(name)), "{text}");
    assert!(text.contains("[256, 1024, 1, 1, 1], expected [256, 1024, 1, 1]"), "{text}");
    assert!(graph.values.iter().all(|value| !matches!(value.source, Source::Constant(_))), "bound in part");
    assert!(graph.outputs.iter().any(|(output, _)| *output == Output::Logits));
}

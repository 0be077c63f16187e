use super::interpreter::{output, run};
use super::{BATCH, CLASSES, HEIGHT, Pass, Random, Swin, WIDTH, around, check, close, nodes_of, swin_blocks, uniform};
use crate::Backbone;
use crate::builder::{Builder, Kernel};
use crate::ir::{Graph, Op, Output, Source, ValueId};
use crate::weights::Make;
use segface_kernels::Act::Relu;
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::window_attention::WindowPlan;

/// What a stored weight costs when it is rounded to f32 once more.
const ROUNDED: f64 = 1e-6;

/// Binds random weights, runs the pass, and holds the result to what the graph gave before. Returns the rewritten graph and
/// the number of rewrites.
fn folded(mut graph: Graph, pass: Pass, tolerance: f64) -> (Graph, usize) {
    graph.bind(&Random::of_graph(&graph)).expect("every tensor it names is there");
    check(&graph).expect("the plain graph is sound");
    let len = graph.values.iter().find(|v| matches!(v.source, Source::Input)).map_or(0, |v| v.len());
    let input: Vec<f64> = uniform(7, len).map(|v| v - 0.5).collect();
    let before = output(&graph, &input);
    let rewrites = pass.run(&mut graph);
    check(&graph).expect("the folded graph is sound");
    close(&output(&graph, &input), &before, tolerance);
    (graph, rewrites)
}

fn batch_norms(graph: &Graph) -> usize {
    nodes_of(graph, |op| matches!(op, Op::Elementwise(e) if matches!(e.op, ElementwiseOp::BatchNorm { .. })))
}

#[test]
fn fold_batch_norm_changes_weights_not_results() {
    let (mut b, input) = Builder::new(2, 7, 6);
    let kernel = |side: usize, stride: usize, bias: bool| Kernel { side, stride, padding: side / 2, bias };
    let mut x = b.conv("dense", input, 5, kernel(3, 2, false));
    x = b.batch_norm("dense.bn", x, 1e-3);
    x = b.act("dense.act", Relu, x);
    x = b.depthwise("depthwise", x, 5, 1, false);
    x = b.batch_norm("depthwise.bn", x, 1e-3);
    x = b.depthwise("depthwise with bias", x, 3, 2, true);
    x = b.batch_norm("depthwise with bias.bn", x, 1e-5);
    x = b.conv("product with bias", x, 4, kernel(1, 1, true));
    x = b.batch_norm("product with bias.bn", x, 1e-5);
    b.give_out(Output::Fused, x);
    let (graph, rewrites) = folded(b.finish(), Pass::FoldBatchNorm, ROUNDED);
    assert_eq!((rewrites, batch_norms(&graph), graph.nodes.len()), (4, 0, 5));
}

#[test]
fn fold_batch_norm_leaves_norms_whose_operand_others_need() {
    let kernel = Kernel { side: 3, stride: 1, padding: 1, bias: false };
    // Read by a second node; and behind a sum, which has no weight to fold into.
    let (mut b, input) = Builder::new(1, 4, 4);
    let x = b.conv("conv", input, 4, kernel);
    let normed = b.batch_norm("bn", x, 1e-3);
    let sum = b.add("sum", normed, x);
    let again = b.batch_norm("bn of a sum", sum, 1e-3);
    b.give_out(Output::Fused, again);
    let (graph, rewrites) = folded(b.finish(), Pass::FoldBatchNorm, 0.0);
    assert_eq!((rewrites, batch_norms(&graph)), (0, 2));
    // Given out.
    let (mut b, input) = Builder::new(1, 4, 4);
    let x = b.conv("conv", input, 4, kernel);
    let normed = b.batch_norm("bn", x, 1e-3);
    b.give_out(Output::Stage(0), x);
    b.give_out(Output::Fused, normed);
    let mut graph = b.finish();
    graph.bind(&Random::of_graph(&graph)).expect("every tensor it names is there");
    assert_eq!(Pass::FoldBatchNorm.run(&mut graph), 0);
}

#[test]
fn fold_batch_norm_leaves_none_in_any_network() {
    for backbone in Backbone::ALL {
        let norms = match backbone {
            Backbone::ResNet => 1 + 33 * 3 + 4,
            Backbone::MobileNet => 1 + 2 + 14 * 3 + 1,
            Backbone::EfficientNet => 1 + 3 + 10 * 2 + 44 * 3 + 1,
            _ => 0,
        };
        let [before, after] = around(backbone, Pass::FoldBatchNorm);
        assert_eq!(after.rewrites, norms, "{backbone}");
        assert_eq!(before.count("elementwise") - after.count("elementwise"), norms, "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
    }
}

#[test]
fn fold_constants_computes_what_the_image_does_not_change() {
    let (mut b, input) = Builder::new(2, 4, 4);
    let embeddings = ["a", "b", "c", "d"].map(|name| (format!("{name}.token"), vec![1, 8])).to_vec();
    let tokens = b.made(embeddings, Make::Stack, vec![1, 4, 8]);
    let projected = ["q", "k", "v"].map(|name| b.linear(name, tokens, 8));
    let attended = b.attention("attention", projected, 2);
    let mixed = b.linear("out", attended, 8);
    let normed = b.layer_norm("norm", mixed, 1e-5);
    let encoded = b.add("pe", normed, tokens);
    let hidden = b.act("relu", Relu, encoded);
    let query = b.linear("query", hidden, 8);
    let x = b.linear("image", input, 8);
    let sum = b.add("sum", x, query);
    b.give_out(Output::Fused, sum);
    let (graph, rewrites) = folded(b.finish(), Pass::FoldConstants, ROUNDED);
    let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!((rewrites, names), (9, vec!["image", "sum"]));
}

#[test]
fn fold_constants_takes_layer_0s_token_attention_and_first_query_out_of_every_network() {
    let (tokens, width, inner) = (CLASSES as u64, 256u64, 128u64);
    // Four projections, scores and sums of the self-attention; the query of the first token-to-image attention. Once, not
    // once per image.
    let work = 2 * tokens * (4 * width * width + 2 * tokens * width + width * inner);
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FoldConstants);
        // q, k, v, attention, out, norm; the encoding added to it, the query.
        assert_eq!(after.rewrites, 8, "{backbone}");
        assert_eq!(before.flops - after.flops, work, "{backbone}");
        assert_eq!((before.count("attention"), after.count("attention")), (7, 6), "{backbone}");
    }
}

/// A small MLP fusion: taps of odd sizes and different widths, 6 wide, not 256.
fn small_fusion(give_out_projection: bool) -> Graph {
    let (mut b, input) = Builder::new(2, 13, 9);
    let mut x = input;
    let mut projected = Vec::new();
    for (i, channels) in [3, 5, 4, 7].into_iter().enumerate() {
        if i > 0 {
            x = b.conv(&format!("stage.{i}"), x, channels, Kernel { side: 3, stride: 2, padding: 1, bias: true });
        }
        let y = b.linear(&format!("linear_c.{i}.proj"), x, 6);
        if i == 2 && give_out_projection {
            b.give_out(Output::Stage(2), y);
        }
        projected.push(if i == 0 { y } else { b.bilinear(&format!("linear_c.{i}.up"), y, [13, 9]) });
    }
    projected.reverse();
    let stacked = b.concat("concat", [projected[0], projected[1], projected[2], projected[3]]);
    let weight = b.tensor("linear_fuse.weight".into(), vec![6, 24, 1, 1], vec![6, 24]);
    let fused = b.product("linear_fuse", stacked, weight);
    b.give_out(Output::Fused, fused);
    b.finish()
}

#[test]
fn fold_mlp_fusion_changes_weights_not_results() {
    let (graph, rewrites) = folded(small_fusion(false), Pass::FoldMlpFusion, ROUNDED);
    assert_eq!(rewrites, 1);
    assert_eq!(nodes_of(&graph, |op| matches!(op, Op::Concat(_))), 0);
    assert_eq!(nodes_of(&graph, |op| matches!(op, Op::Gemm(_))), 4);
    assert_eq!(nodes_of(&graph, |op| matches!(op, Op::Bilinear(_))), 3);
}

#[test]
fn fold_mlp_fusion_leaves_projections_that_are_given_out() {
    let mut graph = small_fusion(true);
    graph.bind(&Random::of_graph(&graph)).expect("every tensor it names is there");
    assert_eq!(Pass::FoldMlpFusion.run(&mut graph), 0);
}

#[test]
fn fold_mlp_fusion_removes_the_1024_channel_product_from_every_network() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FoldMlpFusion);
        let pixels = (BATCH * (HEIGHT / 4) * (WIDTH / 4)) as u64;
        assert_eq!(after.rewrites, 1, "{backbone}");
        assert_eq!(before.flops - after.flops, 2 * pixels * 1024 * 256, "{backbone}");
        assert_eq!((before.count("concat"), after.count("concat")), (1, 0), "{backbone}");
    }
}

#[test]
fn skip_padded_rows_gives_the_same_numbers_as_padding() {
    for (input, shift) in [([9, 10], 3), ([9, 10], 0), ([7, 14], 3), ([3, 15], 3)] {
        let (mut b, image) = Builder::new(2, input[0], input[1]);
        let plan = WindowPlan::new(input, 7, shift);
        let windows = b.window_gather("windows", image, plan);
        let qkv = b.linear("qkv", windows, 6);
        let proj = b.linear("proj", qkv, 3);
        let map = b.window_scatter("map", proj, 2, plan);
        b.give_out(Output::Fused, map);
        // Nothing is rounded again: only the order of sums could differ, and it does not.
        let (graph, rewrites) = folded(b.finish(), Pass::SkipPaddedRows, 1e-15);
        let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!((rewrites, names), (2, vec!["qkv", "windows", "map", "proj"]), "{input:?}");
        for node in &graph.nodes {
            if let Op::Gemm(spec) = node.op {
                assert_eq!(spec.rows, 2 * input[0] * input[1], "{}", node.name);
            }
        }
    }
}

#[test]
fn skip_padded_rows_keeps_the_bias_of_padded_tokens() {
    // What stands in the padded rows of the windows after the product: the bias, as if zeros had been multiplied.
    let (mut b, image) = Builder::new(1, 5, 6);
    let windows = b.window_gather("windows", image, WindowPlan::new([5, 6], 7, 3));
    let qkv = b.linear("qkv", windows, 6);
    b.give_out(Output::Fused, qkv);
    let (graph, rewrites) = folded(b.finish(), Pass::SkipPaddedRows, 1e-15);
    assert_eq!(rewrites, 1);
    let ValueId(out) = graph.outputs[0].1;
    let values = run(&graph, &vec![0.0; 5 * 6 * 3]);
    let bias =
        values[..].iter().zip(&graph.values).find(|(_, v)| v.name == "qkv.bias").map(|(data, _)| data).expect("bias");
    assert!(values[out].chunks_exact(6).all(|row| row == &bias[..]));
}

#[test]
fn skip_padded_rows_saves_both_products_of_every_padded_row_of_swin() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::SkipPaddedRows);
        assert_eq!(after.rewrites, 2 * swin_blocks(backbone), "{backbone}");
        let Some(swin) = Swin::of(backbone) else {
            assert_eq!(before.flops, after.flops, "{backbone}");
            continue;
        };
        let work = swin.padding(|rows, channels| 2 * rows * 4 * channels * channels);
        assert!(work > 0);
        assert_eq!(before.flops - after.flops, work, "{backbone}");
    }
}

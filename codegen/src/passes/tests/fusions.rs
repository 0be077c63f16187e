use super::{
    BATCH, CLASSES, HEIGHT, Pass, Random, Swin, WIDTH, all_stages, around, celeb, compiled, convnext_blocks, options,
    swin_blocks, uniform,
};
use crate::Backbone;
use crate::ir::AttentionRole::{self, ImageToToken, Next, Pending, SelfAttention};
use crate::ir::Projection::{self, Key, Out, Query, Value};
use crate::ir::{Graph, Node, Op, Output, Slot};
use crate::plan::optimise;
use segface_kernels::gemm::Prologue;
use segface_kernels::mask_head::MaskHeadOutput;
use segface_kernels::token_attention::TokenStage;
use segface_kernels::{Act, Epilogue};

/// The compiled graph of a network.
fn graph_of(backbone: Backbone, outputs: &[Output], disabled: &[Pass]) -> Graph {
    let model = celeb(backbone);
    optimise(&model, &Random::of(&model), &options(outputs, disabled), &mut |_| {}).expect("a size it takes")
}

fn name_in(graph: &Graph, node: &Node, slot: Slot) -> String {
    node.input(slot).map_or_else(|| "nothing".into(), |value| graph.values[value.0].name.clone())
}

/// Checks that each slot of a node holds the published tensor of that name.
fn holds(graph: &Graph, node: &Node, expected: &[(Slot, String)]) {
    for (slot, name) in expected {
        assert_eq!(&name_in(graph, node, *slot), name, "{slot:?} of {}", node.name);
    }
}

/// Slots of a layer norm's γ and β, with their names.
fn norm(name: &str) -> [(Slot, String); 2] {
    [(Slot::NormWeight, format!("{name}.weight")), (Slot::NormBias, format!("{name}.bias"))]
}

#[test]
fn fuse_token_attention_makes_three_passes_and_three_steps_of_every_decoder() {
    let (batch, pixels, tokens) = (BATCH as u64, (HEIGHT / 4 * (WIDTH / 4)) as u64, CLASSES as u64);
    let cross = 256 * 128;
    // As published: what each attention takes on the image's side, with its scores and sums; then the class tokens' side.
    let image_side = pixels * (3 * 2 * cross + 2 * 2 * cross + 5 * 2 * tokens * 128);
    let token_side = (2 + 3 + 2 * 2) * cross + 4 * 256 * 256;
    let self_attention = 2 * tokens * tokens * 256;
    // Absorbed: five halves of 8·T rows; every projection once per class token.
    let halves = 5 * pixels * 8 * tokens * 2 * 256;
    let steps = (3 * 2 + 2 * 4 + 2 * 2) * cross + 4 * 256 * 256;
    let before_fusing = 2 * batch * (image_side + tokens * token_side + self_attention);
    let after_fusing = 2 * batch * (halves + tokens * steps);
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseTokenAttention);
        assert_eq!(after.count("image_pass"), 3, "{backbone}");
        assert_eq!(after.count("token_step"), 3, "{backbone}");
        assert_eq!(after.count("attention"), 0, "{backbone}");
        let nodes = |stage: &super::After| stage.operators.values().sum::<usize>();
        assert_eq!(nodes(before) - after.rewrites + 6, nodes(after), "{backbone}");
        assert_eq!(after.flops + before_fusing, before.flops + after_fusing, "{backbone}");
    }
}

#[test]
fn fuse_token_attention_gives_every_step_the_published_layers() {
    let graph = graph_of(Backbone::MobileNet, &[Output::Labels], &[]);
    let transformer = "face_decoder.transformer";
    let layer = |n: usize, name: &str| format!("{transformer}.layers.{n}.{name}");
    let final_attention = format!("{transformer}.final_attn_token_to_image");
    let projections = |role: AttentionRole, attention: &str, which: &[Projection]| -> Vec<(Slot, String)> {
        let leaf = |projection: Projection| match projection {
            Query => "q_proj",
            Key => "k_proj",
            Value => "v_proj",
            Out => "out_proj",
        };
        which
            .iter()
            .flat_map(|&p| {
                let name = format!("{attention}.{}", leaf(p));
                [
                    (Slot::Projection(role, p), format!("{name}.weight")),
                    (Slot::ProjectionBias(role, p), format!("{name}.bias")),
                ]
            })
            .collect()
    };
    let role_norm = |role: AttentionRole, name: &str| {
        vec![(Slot::RoleNormWeight(role), format!("{name}.weight")), (Slot::RoleNormBias(role), format!("{name}.bias"))]
    };
    let linear =
        |weight: Slot, bias: Slot, name: &str| vec![(weight, format!("{name}.weight")), (bias, format!("{name}.bias"))];
    let mlp = |n: usize| {
        [
            linear(Slot::Weight, Slot::Bias, &layer(n, "mlp.lin1")),
            linear(Slot::Weight1, Slot::Bias1, &layer(n, "mlp.lin2")),
            linear(Slot::PostNormWeight, Slot::PostNormBias, &layer(n, "norm3")),
        ]
        .concat()
    };
    let to_image = |n: usize| layer(n, "cross_attn_token_to_image");
    let to_tokens = |n: usize| layer(n, "cross_attn_image_to_token");
    let all = [Query, Key, Value, Out];
    let hyper = |n: usize| format!("face_decoder.output_hypernetwork_mlps.layers.{n}");
    let expected = [
        [
            projections(Pending, &to_image(0), &[Value, Out]),
            role_norm(Pending, &layer(0, "norm2")),
            mlp(0),
            projections(ImageToToken, &to_tokens(0), &all),
            projections(SelfAttention, &layer(1, "self_attn"), &all),
            role_norm(SelfAttention, &layer(1, "norm1")),
            projections(Next, &to_image(1), &[Query, Key]),
        ]
        .concat(),
        [
            projections(Pending, &to_image(1), &[Value, Out]),
            role_norm(Pending, &layer(1, "norm2")),
            mlp(1),
            projections(ImageToToken, &to_tokens(1), &all),
            projections(Next, &final_attention, &[Query, Key]),
        ]
        .concat(),
        [
            projections(Pending, &final_attention, &[Value, Out]),
            role_norm(Pending, &format!("{transformer}.norm_final_attn")),
            linear(Slot::Weight, Slot::Bias, &hyper(0)),
            linear(Slot::Weight1, Slot::Bias1, &hyper(1)),
            linear(Slot::Weight2, Slot::Bias2, &hyper(2)),
        ]
        .concat(),
    ];
    let steps: Vec<&Node> = graph.nodes.iter().filter(|node| matches!(node.op, Op::TokenStep(_))).collect();
    let passes: Vec<&Node> = graph.nodes.iter().filter(|node| matches!(node.op, Op::ImagePass(_))).collect();
    let stages = [TokenStage::Layer0, TokenStage::Layer1, TokenStage::Final];
    for (index, ((step, pass), expected)) in steps.iter().zip(&passes).zip(&expected).enumerate() {
        let (Op::TokenStep(spec), Op::ImagePass(pass_spec)) = (step.op, pass.op) else { continue };
        assert_eq!(spec.stage, stages[index]);
        holds(&graph, step, expected);
        // Beside those: x, encoding and sums, which are no layers.
        assert_eq!(step.inputs.len(), expected.len() + 3, "step {index}");
        holds(&graph, step, &[(Slot::Pe, "face_decoder.background_token.weight".into())]);
        holds(&graph, pass, &[(Slot::Pe, "pe_layer.tables".into())]);
        assert_eq!((pass_spec.update, pass_spec.attend, pass_spec.shared_attend), (index > 0, true, index == 0));
        assert_eq!(step.input(Slot::Pooled), pass.outputs.last().copied(), "step {index} reads the sums of its pass");
        if index > 0 {
            let bias = format!("{}.out_proj.bias", to_tokens(index - 1));
            holds(&graph, pass, &[vec![(Slot::UpdateBias, bias)], norm(&layer(index - 1, "norm4")).to_vec()].concat());
            let before = &steps[index - 1].outputs;
            let slots = [Slot::UpdateScores, Slot::UpdateScoreBias, Slot::UpdateValues, Slot::AttendScores];
            assert_eq!(
                slots.map(|slot| pass.input(slot)).as_slice(),
                before[1..].iter().copied().map(Some).collect::<Vec<_>>()
            );
            assert_eq!(step.input(Slot::X), before.first().copied());
        }
    }
    assert_eq!((steps.len(), passes.len()), (3, 3));
    // The image tokens go from pass to pass and into the mask head.
    let head = graph.nodes.iter().find(|node| matches!(node.op, Op::MaskHead(_))).expect("a mask head");
    let chain = [passes[1].input(Slot::X), passes[2].input(Slot::X), head.input(Slot::X)];
    assert_eq!(
        chain,
        [passes[0].input(Slot::X), passes[1].outputs.first().copied(), passes[2].outputs.first().copied()]
    );
    assert_eq!(head.input(Slot::Hyper), steps[2].outputs.get(1).copied());
}

#[test]
fn fuse_token_attention_absorbs_the_key_projection_into_layer_0s_query() {
    let backbone = Backbone::MobileNet;
    let plain = graph_of(backbone, &[Output::Labels], &[Pass::FuseTokenAttention, Pass::FuseEpilogue]);
    let fused = graph_of(backbone, &[Output::Labels], &[]);
    let attention = plain.nodes.iter().find(|node| matches!(node.op, Op::Attention(_))).expect("the first attention");
    let Op::Attention(spec) = attention.op else { return };
    let of = |graph: &Graph, value| graph.constant(value).expect("a known value").clone();
    let query = of(&plain, attention.input(Slot::Query).expect("a query"));
    let key_layer = plain
        .nodes
        .iter()
        .find(|node| Some(node.outputs[0]) == attention.input(Slot::Key))
        .expect("the key projection");
    let key_weight = of(&plain, key_layer.input(Slot::Weight).expect("its weight"));
    let pass = fused.nodes.iter().find(|node| matches!(node.op, Op::ImagePass(_))).expect("the first pass");
    let absorbed = of(&fused, pass.input(Slot::AttendScores).expect("absorbed queries"));
    assert_eq!((spec.heads, spec.head_dim, spec.scale), (8, 16, 0.25));

    // For any image token x: A[h·T + t]·x = q[t, h]·(W_k x)[h] / 4.
    let x: Vec<f64> = uniform(3, 256).map(|v| v - 0.5).collect();
    let dot = |a: &[f32], b: &[f64]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
    let key: Vec<f64> = (0..128).map(|n| dot(&key_weight[n * 256..(n + 1) * 256], &x)).collect();
    for (h, t) in (0..8).flat_map(|h| (0..CLASSES).map(move |t| (h, t))) {
        let expected = dot(&query[t * 128 + h * 16..][..16], &key[h * 16..][..16]) / 4.0;
        let found = dot(&absorbed[(h * CLASSES + t) * 256..][..256], &x);
        assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0), "head {h}, token {t}: {found}, {expected}");
    }
}

#[test]
fn fuse_mask_head_makes_one_kernel_of_every_decoders_end() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseMaskHead);
        assert_eq!(after.rewrites, 1, "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
        for operator in ["pixel_shuffle", "mask_product", "arg_max"] {
            assert!(before.count(operator) > 0, "{operator}");
            assert_eq!(after.count(operator), 0, "{backbone}: {operator}");
        }
    }
}

#[test]
fn fuse_mask_head_writes_labels_only_where_nobody_wants_the_logits() {
    for (outputs, written, maxima) in [
        (&[Output::Labels][..], MaskHeadOutput::Labels, 0),
        (&[Output::Logits], MaskHeadOutput::Logits, 0),
        (&[Output::Logits, Output::Labels], MaskHeadOutput::Logits, 1),
    ] {
        let graph = graph_of(Backbone::MobileNet, outputs, &[]);
        let head = graph.nodes.iter().find(|node| matches!(node.op, Op::MaskHead(_))).expect("a mask head");
        let Op::MaskHead(spec) = head.op else { return };
        assert_eq!((spec.output, spec.input, spec.classes), (written, [HEIGHT / 4, WIDTH / 4], CLASSES));
        assert_eq!(super::nodes_of(&graph, |op| matches!(op, Op::ArgMax(_))), maxima);
        let name = "face_decoder.output_upscaling";
        let layers = [
            (Slot::Weight, format!("{name}.0.weight")),
            (Slot::Bias, format!("{name}.0.bias")),
            (Slot::Weight1, format!("{name}.3.weight")),
            (Slot::Bias1, format!("{name}.3.bias")),
        ];
        holds(&graph, head, &[&layers[..], &norm(&format!("{name}.1"))].concat());
    }
}

#[test]
fn fuse_window_attention_takes_every_attention_branch_of_swin() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseWindowAttention);
        assert_eq!(after.rewrites, swin_blocks(backbone), "{backbone}");
        assert_eq!(after.count("window_attention"), swin_blocks(backbone), "{backbone}");
        // Queries of padded tokens are no longer attended for.
        let saved = Swin::of(backbone).map_or(0, |swin| {
            let area = swin.window * swin.window;
            swin.padding(|rows, channels| 2 * rows * 2 * area * channels)
        });
        assert_eq!(before.flops - after.flops, saved, "{backbone}");
    }
    for (backbone, block, shift) in [
        (Backbone::SwinBase, "backbone.0.1.1", [3, 3]),
        (Backbone::SwinV2Tiny, "backbone.0.1.0", [0, 0]),
        (Backbone::SwinV2Tiny, "backbone.0.5.5", [0, 0]),
    ] {
        let graph = graph_of(backbone, &[Output::Labels], &[]);
        let node = graph.nodes.iter().find(|node| node.name == format!("{block}.attn")).expect("the block's attention");
        let Op::WindowAttention(spec) = node.op else { panic!("{block} is not fused") };
        assert_eq!(spec.shift, shift, "{block}");
        let slots = [
            (Slot::QkvWeight, "qkv.weight"),
            (Slot::QkvBias, "qkv.bias"),
            (Slot::ProjWeight, "proj.weight"),
            (Slot::ProjBias, "proj.bias"),
        ];
        holds(&graph, node, &slots.map(|(slot, leaf)| (slot, format!("{block}.attn.{leaf}"))));
        holds(&graph, node, &norm(&format!("{block}.norm1")));
    }
}

#[test]
fn fuse_patch_merge_takes_all_three_of_every_swin() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FusePatchMerge);
        let merges = if swin_blocks(backbone) > 0 { 3 } else { 0 };
        assert_eq!(after.rewrites, merges, "{backbone}");
        assert_eq!((after.count("patch_merge"), after.count("patch_gather")), (merges, 0), "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
    }
}

#[test]
fn fuse_mlp_takes_every_block_of_swin_and_convnext() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseMlp);
        let blocks = swin_blocks(backbone) + convnext_blocks(backbone);
        assert_eq!(after.rewrites, blocks, "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
    }
    for (backbone, node, norm_before, epilogue, residual) in [
        (Backbone::SwinBase, "backbone.0.1.0.mlp.0", Some(1e-5), Epilogue::default(), "backbone.0.1.0.norm1.add"),
        (
            Backbone::SwinV2Tiny,
            "backbone.0.1.0.mlp.0",
            None,
            Epilogue { norm: Some(1e-5), ..Epilogue::default() },
            "backbone.0.1.0.norm1.add",
        ),
        (
            Backbone::ConvNextTiny,
            "backbone.0.1.1.block.3",
            Some(1e-6),
            Epilogue { scale: true, ..Epilogue::default() },
            "backbone.0.1.0.add",
        ),
    ] {
        let graph = graph_of(backbone, &[Output::Labels], &[]);
        let node = graph.nodes.iter().find(|n| n.name == node).expect("the block's MLP");
        let Op::Mlp(spec) = node.op else { panic!("{} is not fused", node.name) };
        assert_eq!((spec.norm, spec.act), (norm_before, Act::Gelu), "{backbone}");
        assert_eq!(spec.epilogue, Epilogue { bias: true, residual: true, ..epilogue }, "{backbone}");
        assert_eq!(name_in(&graph, node, Slot::Residual), residual, "{backbone}");
    }
}

#[test]
fn fuse_mlp_fusion_takes_every_folded_fusion() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseMlpFusion);
        assert_eq!(after.rewrites, 1, "{backbone}");
        assert_eq!((after.count("mlp_fusion"), after.count("bilinear")), (1, 0), "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
    }
    for backbone in [Backbone::SwinV2Tiny, Backbone::ConvNextTiny, Backbone::MobileNet] {
        let graph = graph_of(
            backbone,
            &[Output::Stage(0), Output::Stage(1), Output::Stage(2), Output::Stage(3), Output::Fused],
            &[],
        );
        let fusion = graph.nodes.iter().find(|node| matches!(node.op, Op::MlpFusion(_))).expect("the fusion");
        for (stage, slot) in [Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().enumerate() {
            assert_eq!(fusion.input(slot), Some(graph.outputs[stage].1), "{backbone}: tap {stage}");
        }
        let Op::MlpFusion(spec) = fusion.op else { return };
        assert_eq!(spec.taps.map(|[_, _, channels]| channels), backbone.tap_channels());
        assert_eq!(fusion.outputs, [graph.outputs[4].1]);
    }
}

#[test]
fn fuse_epilogue_takes_what_is_left_behind_products() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseEpilogue);
        let joined = match backbone {
            // Activations, then residuals.
            Backbone::MobileNet => (1 + 1 + 14 * 2 + 1) + 10,
            Backbone::EfficientNet => (1 + 3 + 10 + 44 * 2 + 1) + (3 + 4 + 4 + 6 + 13 + 17 + 4),
            Backbone::ResNet => (1 + 33 * 3) + 33,
            // The stem's norm.
            _ => 1,
        };
        assert_eq!(after.rewrites, joined, "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
    }
    // ResNet's bottleneck ends in residual and then ReLU, whichever branch the residual comes from.
    let graph = graph_of(Backbone::ResNet, &[Output::Labels], &[]);
    for (name, residual) in
        [("backbone.4.0.conv3", "backbone.4.0.downsample.1"), ("backbone.4.1.conv3", "backbone.4.0.relu")]
    {
        let node = graph.nodes.iter().find(|node| node.name == name).expect("a bottleneck's last product");
        let Op::Gemm(spec) = node.op else { panic!("{name} is no product") };
        let expected = Epilogue { bias: true, residual: true, act_after: Act::Relu, ..Epilogue::default() };
        assert_eq!(spec.epilogue, expected, "{name}");
        assert_eq!(name_in(&graph, node, Slot::Residual), residual);
    }
}

#[test]
fn fuse_squeeze_excite_joins_sums_and_gates_of_every_block_that_has_them() {
    for backbone in Backbone::ALL {
        let [before, after] = around(backbone, Pass::FuseSqueezeExcite);
        let blocks = match backbone {
            Backbone::MobileNet => 8,
            Backbone::EfficientNet => 44,
            _ => 0,
        };
        assert_eq!(after.rewrites, 2 * blocks, "{backbone}");
        assert_eq!(after.count("sum_pool"), 0, "{backbone}");
        assert_eq!(after.count("squeeze_excite"), blocks, "{backbone}");
        assert_eq!(before.flops, after.flops, "{backbone}");
    }
    let graph = graph_of(Backbone::MobileNet, &[Output::Labels], &[]);
    let gated = |node: &&Node| matches!(node.op, Op::Gemm(g) if matches!(g.prologue, Prologue::Gate { .. }));
    for node in graph.nodes.iter().filter(gated) {
        let gate =
            graph.nodes.iter().find(|n| n.outputs.contains(&node.input(Slot::Gate).expect("a gate"))).expect("made");
        let sums = gate.input(Slot::Sums).expect("sums");
        let map = graph.nodes.iter().find(|n| n.outputs.contains(&sums)).expect("a depthwise convolution");
        assert_eq!(map.outputs, [node.input(Slot::X).expect("the map"), sums], "{}: gate of another map", node.name);
    }
    assert_eq!(graph.nodes.iter().filter(gated).count(), 8);
}

#[test]
fn fuse_layer_norm_joins_the_norms_that_larger_patterns_leave() {
    for (backbone, stages) in all_stages() {
        // The larger patterns leave none, or ConvNeXt's in front of its 2×2 convolutions, which take no prologue.
        assert_eq!(stages["fuse_layer_norm"].rewrites, 0, "{backbone}");
    }
    let larger = [Pass::FuseMlp, Pass::FusePatchMerge, Pass::FuseWindowAttention];
    for (backbone, joined) in [
        // Attention, MLP, patch merging.
        (Backbone::SwinBase, 24 + 24 + 3),
        // V2's norms stand behind products; fuse_epilogue has them.
        (Backbone::SwinV2Tiny, 0),
        (Backbone::ConvNextTiny, 18),
    ] {
        let stages = compiled(backbone, &larger);
        assert_eq!(stages["fuse_layer_norm"].rewrites, joined, "{backbone}");
        assert_eq!(stages["fuse_layer_norm"].flops, stages["fuse_squeeze_excite"].flops, "{backbone}");
    }
}

#[test]
fn passes_that_build_on_others_leave_the_graph_alone_without_them() {
    for (backbone, missing, pass) in [
        (Backbone::SwinV2Tiny, Pass::SkipPaddedRows, Pass::FuseWindowAttention),
        (Backbone::MobileNet, Pass::FoldConstants, Pass::FuseTokenAttention),
        (Backbone::MobileNet, Pass::FoldMlpFusion, Pass::FuseMlpFusion),
    ] {
        let stages = compiled(backbone, &[missing]);
        assert_eq!(stages[pass.name()].rewrites, 0, "{} without {}", pass.name(), missing.name());
    }
}

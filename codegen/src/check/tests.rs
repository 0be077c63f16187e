//! One broken graph per rule. Each is a sound graph with one thing changed.

use super::check;
use crate::builder::{Builder, Kernel};
use crate::ir::{Graph, Node, Op, Output, Slot, Source, Value, ValueId};
use crate::passes::lower_precision;
use segface_kernels::attention::AttentionSpec;
use segface_kernels::conv::ConvSpec;
use segface_kernels::depthwise::DepthwiseSpec;
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::mlp_fusion::MlpFusionSpec;
use segface_kernels::resample::MaxPoolSpec;
use segface_kernels::token_attention::ImagePassSpec;
use segface_kernels::window_attention::{WindowAttentionSpec, WindowGatherSpec, WindowKind, WindowPlan};
use segface_kernels::{Act, DType, Epilogue};

const FIRST: usize = 0;
const NORM: usize = 1;
const SECOND: usize = 2;
const SUM: usize = 3;

/// Two images of 4×4: linear 3 → 8, layer norm, linear 8 → 8, plus the first layer's result.
fn sound() -> Graph {
    let (mut b, input) = Builder::new(2, 4, 4);
    let first = b.linear("first", input, 8);
    let normed = b.layer_norm("norm", first, 1e-5);
    let second = b.linear("second", normed, 8);
    let sum = b.add("sum", second, first);
    b.give_out(Output::Fused, sum);
    b.finish()
}

fn gemm(graph: &mut Graph, node: usize) -> &mut GemmSpec {
    match &mut graph.nodes[node].op {
        Op::Gemm(spec) => spec,
        other => panic!("{other:?} is no product"),
    }
}

/// The value in a slot of a node.
fn operand(graph: &Graph, node: usize, slot: Slot) -> ValueId {
    graph.nodes[node].input(slot).expect("the operand is there")
}

fn add_value(graph: &mut Graph, shape: &[usize], dtype: DType) -> ValueId {
    graph.values.push(Value { name: "new".into(), shape: shape.to_vec(), dtype, source: Source::Node });
    ValueId(graph.values.len() - 1)
}

/// The one thing that is wrong with the graph after `change`.
fn violation(change: impl FnOnce(&mut Graph)) -> String {
    let mut graph = sound();
    check(&graph).expect("the graph is sound before the change");
    change(&mut graph);
    let violations = check(&graph).expect_err("the change breaks a rule").0;
    assert_eq!(violations.len(), 1, "{violations:?}");
    violations.into_iter().next().unwrap_or_default()
}

#[test]
fn values_must_exist() {
    let stray = ValueId(1000);
    let missing = "a value is named that does not exist";
    assert_eq!(violation(|g| g.nodes[SECOND].inputs[0].1 = stray), missing);
    assert_eq!(violation(|g| g.nodes[SECOND].outputs[0] = stray), missing);
    assert_eq!(violation(|g| g.outputs[0].1 = stray), missing);
}

#[test]
fn there_is_one_input_and_it_is_a_map() {
    let text = violation(|g| {
        let extra = add_value(g, &[1, 1, 1, 3], DType::F32);
        g.values[extra.0].source = Source::Input;
    });
    assert_eq!(text, "2 inputs, expected one");
    let text = violation(|g| g.values.iter_mut().for_each(|v| v.source = Source::Node));
    assert_eq!(text, "0 inputs, expected one");
    let text = violation(|g| g.values[0].shape = vec![32, 3]);
    assert_eq!(text, "the input's shape is [32, 3]");
}

#[test]
fn no_value_is_larger_than_memory() {
    for shape in [vec![usize::MAX, 2, 2, 2], vec![1 << 62, 1]] {
        let text = violation(|g| {
            add_value(g, &shape, DType::F32);
        });
        assert!(text.contains("larger than any memory"), "{text}");
    }
}

#[test]
fn values_are_written_before_they_are_read() {
    let text = violation(|g| g.nodes.swap(NORM, SECOND));
    assert_eq!(text, "second reads norm before it is written");
    // A node does not know its own result either.
    let text = violation(|g| g.nodes[SUM].inputs[1].1 = g.nodes[SUM].outputs[0]);
    assert_eq!(text, "sum reads sum before it is written");
}

#[test]
fn values_are_written_once() {
    let text = violation(|g| {
        let again = g.nodes[NORM].clone();
        g.nodes.insert(SECOND, again);
    });
    assert_eq!(text, "norm is written twice");
}

#[test]
fn nodes_write_neither_inputs_nor_constants() {
    let mut graph = sound();
    graph.nodes[FIRST].outputs[0] = operand(&graph, FIRST, Slot::Weight);
    let wrong = check(&graph).expect_err("a constant is overwritten").to_string();
    assert!(wrong.contains("first.weight is written twice"), "{wrong}");
    let mut graph = sound();
    graph.nodes[FIRST].outputs[0] = operand(&graph, FIRST, Slot::X);
    let wrong = check(&graph).expect_err("the input is overwritten").to_string();
    assert!(wrong.contains("input is written twice"), "{wrong}");
}

#[test]
fn every_operand_stands_in_a_slot_of_its_operator_once() {
    let text = violation(|g| g.nodes[FIRST].inputs.extend_from_within(..1));
    assert_eq!(text, "first has X twice");
    let text = violation(|g| {
        let bias = operand(g, FIRST, Slot::Bias);
        g.nodes[NORM].inputs.push((Slot::Bias, bias));
    });
    assert_eq!(text, "norm does not take Bias");
    let text = violation(|g| g.nodes[NORM].inputs.retain(|(slot, _)| *slot != Slot::NormBias));
    assert_eq!(text, "norm lacks NormBias");
    let text = violation(|g| g.nodes[SECOND].inputs.retain(|(slot, _)| *slot != Slot::Bias));
    assert_eq!(text, "second lacks Bias");
    let text = violation(|g| gemm(g, SECOND).epilogue.bias = false);
    assert_eq!(text, "second does not take Bias");
}

#[test]
fn operands_have_the_size_the_spec_says() {
    let text = violation(|g| {
        let weight = operand(g, SECOND, Slot::Weight);
        g.values[weight.0].shape = vec![8, 7];
    });
    assert_eq!(text, "second takes 64 numbers in Weight, second.weight has 56");
    let text = violation(|g| {
        let smaller = operand(g, FIRST, Slot::Bias);
        g.values[smaller.0].shape = vec![1];
    });
    assert_eq!(text, "first takes 8 numbers in Bias, first.bias has 1");
}

#[test]
fn results_have_the_size_and_number_the_spec_says() {
    let text = violation(|g| {
        // Nothing else reads it, so the one complaint is the writer's.
        let result = g.nodes[SUM].outputs[0];
        g.values[result.0].shape = vec![2, 4, 4, 9];
    });
    assert_eq!(text, "sum writes 256 numbers, sum has 288");
    let text = violation(|g| {
        let second = add_value(g, &[2, 4, 4, 8], DType::F32);
        g.nodes[NORM].outputs.push(second);
    });
    assert_eq!(text, "norm gives 1 results, 2 are named");
}

#[test]
fn element_types_match() {
    let text = violation(|g| {
        let result = g.nodes[SUM].outputs[0];
        g.values[result.0].dtype = DType::Bf16;
    });
    assert_eq!(text, "sum writes F32, sum is Bf16");
    let mut graph = sound();
    lower_precision(&mut graph, DType::Bf16);
    check(&graph).expect("a lowered graph is sound");
    let normed = graph.nodes[NORM].outputs[0];
    graph.values[normed.0].dtype = DType::F32;
    let wrong = check(&graph).expect_err("one value stayed f32").0;
    assert_eq!(wrong, ["norm writes Bf16, norm is F32", "second takes Bf16 in X, norm is F32"]);
}

#[test]
fn weights_are_known_before_the_run() {
    let text = violation(|g| {
        // A computed value of the right size where a weight belongs.
        let (_, weight) = g.nodes[SECOND].inputs[1];
        let computed = add_value(g, &[8, 8], DType::F32);
        let op = Op::Elementwise(ElementwiseSpec { rows: 8, channels: 8, op: ElementwiseOp::Act(Act::Relu) });
        let node = Node { name: "act".into(), op, inputs: vec![(Slot::X, weight)], outputs: vec![computed] };
        g.nodes[SECOND].inputs[1].1 = computed;
        g.nodes.insert(SECOND, node);
    });
    assert_eq!(text, "second takes only known values in Weight");
}

#[test]
fn outputs_are_computed() {
    let text = violation(|g| {
        let never = add_value(g, &[1], DType::F32);
        g.outputs.push((Output::Tokens, never));
    });
    assert_eq!(text, "the output Tokens is not computed");
    let text = violation(|g| {
        let weight = operand(g, FIRST, Slot::Weight);
        g.outputs.push((Output::Stage(0), weight));
    });
    assert_eq!(text, "the output Stage(0) is not computed");
}

/// What the checker says of a lone node of `op`.
fn of_lone_node(op: Op) -> String {
    let (b, input) = Builder::new(1, 4, 4);
    let mut graph = b.finish();
    let out = add_value(&mut graph, &[1], DType::F32);
    graph.nodes.push(Node { name: "lone".into(), op, inputs: vec![(Slot::X, input)], outputs: vec![out] });
    check(&graph).expect_err("an impossible operator").to_string()
}

#[test]
fn impossible_operators_are_named_instead_of_computed_with() {
    let elementwise = |op| Op::Elementwise(ElementwiseSpec { rows: 6, channels: 8, op });
    let conv = ConvSpec {
        batch: 1,
        input: [4, 4],
        channels: 3,
        out_channels: 8,
        kernel: 3,
        stride: 1,
        padding: 0,
        epilogue: Epilogue::default(),
    };
    let depthwise =
        DepthwiseSpec { batch: 1, input: [4, 4], channels: 3, kernel: 3, stride: 1, act: Act::Identity, pool: false };
    let gated = |rows_per_gate| {
        let prologue = Prologue::Gate { rows_per_gate };
        Op::Gemm(GemmSpec { rows: 6, n: 8, k: 8, prologue, epilogue: Epilogue::default() })
    };
    let pass = ImagePassSpec {
        batch: 1,
        input: [4, 4],
        tokens: 11,
        update: false,
        attend: false,
        shared_attend: false,
        eps: 1e-5,
    };
    let window = WindowAttentionSpec {
        batch: 1,
        input: [4, 4],
        channels: 64,
        heads: 2,
        window: 7,
        shift: [0, 0],
        kind: WindowKind::V1,
        eps: 1e-5,
    };
    let plan = WindowPlan { input: [4, 4], window: 7, shift: [0, 7] };
    let mut taps = [[1; 3]; 4];
    taps[2][1] = 0;
    for (op, part) in [
        (elementwise(ElementwiseOp::Add { other_rows: 4 }), "cannot be repeated"),
        (elementwise(ElementwiseOp::Add { other_rows: 0 }), "cannot be repeated"),
        (elementwise(ElementwiseOp::Gate { rows_per_gate: 4 }), "cannot be gated"),
        (elementwise(ElementwiseOp::Gate { rows_per_gate: 0 }), "cannot be gated"),
        (gated(4), "cannot be gated"),
        (gated(0), "cannot be gated"),
        (Op::Conv(ConvSpec { kernel: 5, ..conv }), "does not fit"),
        (Op::Conv(ConvSpec { stride: 0, ..conv }), "does not fit"),
        (Op::Conv(ConvSpec { kernel: 0, ..conv }), "does not fit"),
        (Op::Depthwise(DepthwiseSpec { kernel: 4, ..depthwise }), "no depthwise kernel"),
        (Op::Depthwise(DepthwiseSpec { stride: 3, ..depthwise }), "no depthwise kernel"),
        (Op::Depthwise(DepthwiseSpec { input: [0, 4], ..depthwise }), "no depthwise kernel"),
        (Op::ImagePass(pass), "does nothing"),
        (Op::WindowAttention(WindowAttentionSpec { heads: 3, ..window }), "do not fit"),
        (Op::WindowAttention(WindowAttentionSpec { window: 0, ..window }), "do not fit"),
        (Op::WindowAttention(WindowAttentionSpec { shift: [7, 0], ..window }), "do not fit"),
        (Op::WindowGather(WindowGatherSpec { batch: 1, plan, channels: 3 }), "do not fit"),
        (Op::MlpFusion(MlpFusionSpec { batch: 1, taps, width: 256 }), "tap is empty"),
        (Op::MaxPool(MaxPoolSpec { batch: 1, input: [0, 4], channels: 3 }), "cannot be pooled"),
    ] {
        let wrong = of_lone_node(op);
        assert!(wrong.starts_with("lone: ") && wrong.contains(part), "{op:?}: {wrong}");
    }
}

#[test]
fn sizes_that_overflow_fit_nothing() {
    let huge =
        GemmSpec { rows: usize::MAX, n: usize::MAX, k: 3, prologue: Prologue::None, epilogue: Epilogue::default() };
    let wrong = of_lone_node(Op::Gemm(huge));
    assert!(wrong.contains("lone takes") && wrong.contains("lone lacks Weight"), "{wrong}");
}

#[test]
fn attention_shares_operands_of_one_image_with_the_batch_and_no_others() {
    let graph_of = |batches: [usize; 3]| {
        let (mut b, input) = Builder::new(3, 4, 4);
        let kernel = Kernel { side: 1, stride: 1, padding: 0, bias: true };
        let _ = b.conv("stem", input, 8, kernel);
        let mut graph = b.finish();
        let operands = batches.map(|batch| {
            let value = add_value(&mut graph, &[batch, 5, 16], DType::F32);
            graph.values[value.0].source = Source::Constant(vec![0.0; batch * 5 * 16].into());
            value
        });
        let out = add_value(&mut graph, &[3, 5, 16], DType::F32);
        let spec = AttentionSpec { batch: 3, queries: 5, keys: 5, heads: 2, head_dim: 8, scale: 1.0 };
        let slots = [Slot::Query, Slot::Key, Slot::Value];
        let inputs = slots.into_iter().zip(operands).collect();
        graph.nodes.push(Node { name: "attention".into(), op: Op::Attention(spec), inputs, outputs: vec![out] });
        graph
    };
    for batches in [[3, 3, 3], [1, 3, 3], [3, 1, 1], [1, 1, 3]] {
        check(&graph_of(batches)).unwrap_or_else(|wrong| panic!("{batches:?}: {wrong}"));
    }
    let wrong = check(&graph_of([2, 3, 3])).expect_err("two images of queries for three").to_string();
    assert!(wrong.contains("attention takes 240 numbers in Query"), "{wrong}");
}

#[test]
fn all_violations_are_listed() {
    let mut graph = sound();
    graph.nodes[NORM].inputs.retain(|(slot, _)| *slot != Slot::NormBias);
    graph.nodes[SECOND].inputs.retain(|(slot, _)| *slot != Slot::Weight);
    graph.outputs.push((Output::Tokens, operand(&graph, FIRST, Slot::Weight)));
    let wrong = check(&graph).expect_err("three things are wrong");
    assert_eq!(wrong.0.len(), 3, "{wrong}");
    assert_eq!(wrong.to_string(), wrong.0.join("; "));
}

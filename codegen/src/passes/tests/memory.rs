use super::{Pass, Random, bound, celeb, options, passed};
use crate::builder::Builder;
use crate::grad::{FlatGradients, Means, TrainingOptions, training_over};
use crate::ir::{Graph, Node, Op, Output, Slot, Source, ValueId};
use crate::passes::plan_memory::{ALIGNMENT, InPlace, MemoryPlan, in_place, plan_memory, workspace_bytes};
use crate::passes::{drop_dead_nodes, lower_precision, select_outputs};
use crate::plan::{Precision, optimise};
use crate::{Backbone, ModelSpec, Variant, manifest, models};
use segface_kernels::{Act, DType};

/// When a value is written and last needed, in node indices; the input is there from the start, outputs stay.
fn lives(graph: &Graph) -> Vec<Option<(isize, isize)>> {
    let mut lives: Vec<Option<(isize, isize)>> =
        graph.values.iter().map(|v| matches!(v.source, Source::Input).then_some((-1, 0))).collect();
    for (i, node) in graph.nodes.iter().enumerate() {
        for output in &node.outputs {
            lives[output.0] = Some((i as isize, i as isize));
        }
        for (_, value) in &node.inputs {
            if let Some((_, end)) = &mut lives[value.0] {
                *end = i as isize;
            }
        }
    }
    for (_, value) in &graph.outputs {
        if let Some((_, end)) = &mut lives[value.0] {
            *end = graph.nodes.len() as isize;
        }
    }
    lives
}

fn overlap(a: &std::ops::Range<usize>, b: &std::ops::Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Whether `node` may write its first result over `operand`.
fn may_overwrite(node: &Node, operand: ValueId) -> bool {
    let slots: Vec<Slot> = node.inputs.iter().filter(|(_, v)| *v == operand).map(|(slot, _)| *slot).collect();
    let heir = match in_place(node) {
        InPlace::Always(slot) | InPlace::Allowed(slot) => slot,
        InPlace::Never => return false,
    };
    slots == [heir]
        || (matches!(node.op, Op::Mlp(_)) && slots.len() == 2 && slots.contains(&Slot::X) && heir == Slot::Residual)
}

/// Holds a memory plan to its purpose: no node writes over what it or a later one still needs. Returns the arena's size and
/// the most bytes that are needed at once, less than which no arena can be.
pub(super) fn check_plan(graph: &Graph) -> [usize; 2] {
    check_this_plan(graph, &plan_memory(graph))
}

fn check_this_plan(graph: &Graph, plan: &MemoryPlan) -> [usize; 2] {
    let lives = lives(graph);
    let place = |index: usize| -> std::ops::Range<usize> {
        let value = &graph.values[index];
        let offset = plan.offsets[index].unwrap_or_else(|| panic!("{} has no place", value.name));
        assert_eq!(offset % ALIGNMENT, 0, "{}", value.name);
        assert!(offset + value.bytes() <= plan.arena_bytes, "{} ends behind the arena", value.name);
        offset..offset + value.bytes()
    };
    let mut needed_at_once = 0;
    for (i, node) in graph.nodes.iter().enumerate() {
        let now = i as isize;
        let held: Vec<usize> =
            (0..lives.len()).filter(|&v| lives[v].is_some_and(|(begin, end)| begin < now && now <= end)).collect();
        let mut written: Vec<std::ops::Range<usize>> = Vec::new();
        let mut fresh = 0;
        for (index, output) in node.outputs.iter().enumerate() {
            let target = place(output.0);
            let mut reused = false;
            for &v in held.iter().filter(|&&v| overlap(&place(v), &target)) {
                let dies = lives[v].is_some_and(|(_, end)| end == now);
                reused = index == 0 && dies && place(v) == target && may_overwrite(node, ValueId(v));
                let (writer, lost) = (&node.name, &graph.values[v].name);
                assert!(reused, "node {i} {writer} overwrites {lost}");
            }
            assert!(written.iter().all(|other| !overlap(other, &target)), "{}: results overlap", node.name);
            fresh += if reused { 0 } else { target.len() };
            written.push(target);
        }
        let workspace = workspace_bytes(graph, node);
        match plan.workspaces[i] {
            None => assert_eq!(workspace, 0, "{} needs a workspace", node.name),
            Some(offset) => {
                assert_eq!(offset % ALIGNMENT, 0);
                assert!(offset + workspace <= plan.arena_bytes);
                let range = offset..offset + workspace;
                assert!(written.iter().all(|target| !overlap(target, &range)), "{}: workspace and result", node.name);
                assert!(held.iter().all(|&v| !overlap(&place(v), &range)), "{}: workspace over a value", node.name);
            }
        }
        let held_bytes: usize = held.iter().map(|&v| graph.values[v].bytes()).sum();
        needed_at_once = needed_at_once.max(held_bytes + fresh + workspace);
    }
    assert!(plan.arena_bytes >= needed_at_once);
    [plan.arena_bytes, needed_at_once]
}

#[test]
fn plan_memory_overwrites_nothing_that_is_still_needed_and_wastes_little() {
    let taps = [Output::Logits, Output::Stage(0), Output::Stage(2), Output::Fused, Output::Tokens];
    for backbone in Backbone::ALL {
        let bound = bound(backbone);
        for wanted in [&[Output::Labels][..], &taps] {
            for passes in [&Pass::ALL[..], &[]] {
                let mut graph = passed(&bound, wanted, passes);
                let [arena, needed] = check_plan(&graph);
                assert!(
                    passes.is_empty() || arena * 100 <= needed * 102,
                    "{backbone} {wanted:?}: {arena} bytes, {needed} needed at once"
                );
                lower_precision(&mut graph, DType::Bf16);
                check_plan(&graph);
            }
        }
    }
}

#[test]
fn plan_memory_lets_a_chain_of_in_place_nodes_live_in_one_place() {
    let (mut b, input) = Builder::new(1, 8, 8);
    let mut x = b.linear("linear", input, 16);
    let first = x;
    for i in 0..5 {
        x = b.act(&format!("act.{i}"), Act::Relu, x);
    }
    b.give_out(Output::Fused, x);
    let graph = b.finish();
    let plan = plan_memory(&graph);
    assert_eq!(plan.offsets[first.0], plan.offsets[x.0]);
    assert_eq!(plan.arena_bytes, (8 * 8 * 3 + 8 * 8 * 16) * 4);

    // But not where somebody reads the original later.
    let (mut b, input) = Builder::new(1, 8, 8);
    let first = b.linear("linear", input, 16);
    let x = b.act("act", Act::Relu, first);
    let x = b.add("add", x, first);
    b.give_out(Output::Fused, x);
    let graph = b.finish();
    let plan = plan_memory(&graph);
    assert_ne!(plan.offsets[first.0], plan.offsets[graph.nodes[1].outputs[0].0]);
    check_plan(&graph);
}

#[test]
fn lower_precision_converts_between_types_only_where_plain_operators_meet() {
    let model = celeb(Backbone::MobileNet);
    // Fused: none, every kernel takes what its neighbours give. Plain: the class tokens become filters of the mask product, f32.
    for (disabled, conversions) in [(&[][..], 0), (&[Pass::FuseMaskHead, Pass::FuseTokenAttention][..], 1)] {
        let mut options = options(&[Output::Labels], disabled);
        options.precision = crate::plan::Precision::Bf16;
        let mut seen = None;
        let graph = optimise(&model, &Random::of(&model), &options, &mut |stage| {
            if stage.name == "lower_precision" {
                seen = Some(stage.rewrites);
            }
        })
        .expect("a size it takes");
        assert_eq!(seen, Some(conversions));
        let converts = graph.nodes.iter().filter(|node| matches!(node.op, Op::Convert(_))).count();
        assert_eq!(converts, conversions);
        let input = graph.values.iter().find(|v| matches!(v.source, Source::Input)).expect("an input");
        assert_eq!(input.dtype, DType::Bf16);
    }
}

#[test]
fn select_outputs_drops_everything_that_only_served_the_rest() {
    let model = celeb(Backbone::MobileNet);
    let full = models::build(&model, 1, 64, 64).expect("64 px fit");
    // A tap needs nothing behind it.
    let mut graph = full.clone();
    select_outputs(&mut graph, &[Output::Stage(1)]);
    assert!(graph.nodes.iter().all(|node| node.name.starts_with("backbone.")), "a tap needs the decoder");
    let last = graph.nodes.last().expect("the backbone up to the tap");
    assert_eq!(last.outputs, [graph.outputs[0].1]);
    // Labels come from the logits, which then need not be given out.
    let mut graph = full.clone();
    select_outputs(&mut graph, &[Output::Labels]);
    assert_eq!(graph.outputs.iter().map(|(output, _)| *output).collect::<Vec<_>>(), [Output::Labels]);
    assert_eq!(graph.nodes.len(), full.nodes.len() + 1);
    let labels = &graph.values[graph.outputs[0].1.0];
    assert_eq!((labels.shape.as_slice(), labels.dtype), (&[1, 64, 64][..], DType::U8));
    // In the order asked for.
    let mut graph = full.clone();
    let wanted = [Output::Tokens, Output::Labels, Output::Stage(3), Output::Logits];
    select_outputs(&mut graph, &wanted);
    assert_eq!(graph.outputs.iter().map(|(output, _)| *output).collect::<Vec<_>>(), wanted);
    // Nothing asked for: nothing left.
    let mut graph = full;
    graph.outputs.clear();
    drop_dead_nodes(&mut graph);
    assert!(graph.nodes.is_empty());
}

/// Gradients of a network's parameters one behind another, but for the last tensor, which is not trained.
fn flat_gradients(model: &ModelSpec, shared: bool) -> FlatGradients {
    let mut gradients = FlatGradients { shared, ..FlatGradients::default() };
    let tensors = manifest(model);
    for decl in &tensors {
        let start = gradients.bytes;
        gradients.bytes += (4 * decl.shape.iter().product::<usize>()).next_multiple_of(ALIGNMENT);
        gradients.places.insert(decl.name.clone(), start..gradients.bytes);
    }
    gradients.places.remove(&tensors[tensors.len() - 1].name);
    gradients
}

#[test]
fn activations_lie_where_gradients_come_to_lie_only_until_these_begin() {
    let options = TrainingOptions { batch: 2, height: 64, width: 64, stochastic_depth: true, outputs: Vec::new() };
    for backbone in [Backbone::SwinBase, Backbone::MobileNet, Backbone::ConvNextTiny] {
        let model = ModelSpec { backbone, variant: Variant::Celeb };
        for precision in [Precision::F32, Precision::Bf16] {
            let arena = |shared: bool| {
                let gradients = flat_gradients(&model, shared);
                let means = Means { precision, ..Means::default() };
                let step = training_over(&model, &options, &|_| true, means, &gradients).unwrap();
                check_this_plan(&step.graph, &step.memory);
                let lives = lives(&step.graph);
                for (name, place) in &gradients.places {
                    let names = |node: &&Node| {
                        matches!(node.op, Op::Backward(_))
                            && node.inputs.iter().any(|(_, value)| match &step.graph.values[value.0].source {
                                Source::Weight(recipe) => recipe.tensors.iter().any(|tensor| tensor.name == *name),
                                _ => false,
                            })
                    };
                    let first = step.graph.nodes.iter().position(|node| names(&node));
                    let first = first.filter(|_| shared).map_or(-1, |node| node as isize);
                    let cleared = step
                        .begin
                        .iter()
                        .any(|(node, places)| *node as isize == first && places.iter().any(|cleared| cleared == place));
                    assert_eq!(cleared, first >= 0, "{model} {name} is cleared before the first that adds to it");
                    for (index, life) in lives.iter().enumerate() {
                        let (Some((_, end)), Some(offset)) = (life, step.memory.offsets[index]) else { continue };
                        let value = &step.graph.values[index];
                        let there = overlap(place, &(offset..offset + value.bytes()));
                        assert!(!there || *end < first, "{model}: {} lies over the gradient of {name}", value.name);
                    }
                }
                let frozen = &manifest(&model).pop().unwrap().name;
                assert!(!gradients.places.contains_key(frozen));
                step.memory.arena_bytes - step.gradient_bytes
            };
            let (shared, apart) = (arena(true), arena(false));
            assert!(2 * shared < apart, "{model} {precision:?}: {shared} bytes behind gradients, {apart} if apart");
        }
    }
}

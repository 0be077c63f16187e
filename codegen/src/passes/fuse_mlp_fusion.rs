//! The folded fusion, one product and three upsampled ones added to it, becomes one kernel.

use super::rewrite::{Uses, as_linear, as_sum, repeat};
use crate::ir::{Graph, Node, Op, Slot, ValueId};
use segface_kernels::mlp_fusion::MlpFusionSpec;

/// Fuses the sums that `fold_mlp_fusion` leaves.
pub(super) fn fuse_mlp_fusion(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fuse(graph, uses, index).is_some()))
}

fn fuse(graph: &mut Graph, uses: &Uses, last: usize) -> Option<()> {
    // From the last sum backwards: three sums, each adding an upsampled product, the innermost one to the finest product.
    let mut members = Vec::new();
    let mut taps: Vec<(ValueId, ValueId, [usize; 3])> = Vec::new();
    let out = graph.nodes[last].outputs[0];
    let mut index = last;
    let (fine, width) = loop {
        let sum = as_sum(graph, index).filter(|s| s.same_shape)?;
        members.push(index);
        let up_index = uses.producer(sum.other)?;
        uses.sole_reader(sum.other)?;
        let Op::Bilinear(up) = graph.nodes[up_index].op else { return None };
        let projected = graph.nodes[up_index].input(Slot::X)?;
        uses.sole_reader(projected)?;
        let linear = as_linear(graph, uses.producer(projected)?).filter(|l| l.bias.is_none())?;
        members.extend([up_index, linear.node]);
        taps.push((linear.x, linear.weight, [up.input[0], up.input[1], linear.spec.k]));
        uses.sole_reader(sum.x)?;
        let before = uses.producer(sum.x)?;
        if taps.len() == 3 {
            break (as_linear(graph, before)?, linear.spec.n);
        }
        index = before;
    };
    members.push(fine.node);
    taps.reverse();
    let shape = &graph.values[fine.out.0].shape;
    let [batch, height, map_width] = [shape[0], shape[1], shape[2]];
    let spec =
        MlpFusionSpec { batch, taps: [[height, map_width, fine.spec.k], taps[0].2, taps[1].2, taps[2].2], width };
    let inputs = vec![
        (Slot::X, fine.x),
        (Slot::X1, taps[0].0),
        (Slot::X2, taps[1].0),
        (Slot::X3, taps[2].0),
        (Slot::Weight, fine.weight),
        (Slot::Weight1, taps[0].1),
        (Slot::Weight2, taps[1].1),
        (Slot::Weight3, taps[2].1),
        (Slot::Bias, fine.bias?),
    ];
    let fused = Node { name: "mlp_fusion".into(), op: Op::MlpFusion(spec), inputs, outputs: vec![out] };
    graph.replace(&members, vec![fused]);
    Some(())
}

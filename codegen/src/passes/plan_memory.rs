//! One arena for everything a run computes: values whose lives do not overlap share bytes.
//!
//! Greedy by size (Pisarchyk & Lee, "Efficient memory management for deep neural net inference", 2020): the largest value
//! first, each at the lowest offset where it overlaps no value that lives at the same time.

use super::rewrite::Uses;
use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use serde::{Deserialize, Serialize};

/// Where values live in the arena.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Size of the arena in bytes.
    pub arena_bytes: usize,
    /// Byte offset of each value; `None` for constants and values nobody computes. Aligned to [`ALIGNMENT`].
    pub offsets: Vec<Option<usize>>,
    /// Byte offset of each node's workspace; `None` where it needs none.
    pub workspaces: Vec<Option<usize>>,
}

/// Alignment of every value in the arena: a cache line.
pub const ALIGNMENT: usize = 64;

/// The operand that a node's first output may or must overwrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// The kernel has no output of its own: output 0 is this operand, changed. The executor copies first where the operand
    /// is still needed.
    Always(Slot),
    /// Output 0 may take this operand's memory if nobody reads it later.
    Allowed(Slot),
    /// Output 0 shares memory with no operand.
    Never,
}

/// The in-place rule of a node.
pub fn in_place(node: &Node) -> InPlace {
    match &node.op {
        Op::WindowAttention(_) => InPlace::Always(Slot::X),
        Op::ImagePass(spec) if spec.update => InPlace::Always(Slot::X),
        Op::Elementwise(_) | Op::LayerNorm(_) => InPlace::Allowed(Slot::X),
        // Adds to what is there.
        Op::Backward(_) if node.input(Slot::Residual).is_some() => InPlace::Always(Slot::Residual),
        Op::Mlp(spec) if spec.epilogue.residual => InPlace::Allowed(Slot::Residual),
        Op::Gemm(spec) if spec.epilogue.residual => InPlace::Allowed(Slot::Residual),
        Op::Conv(spec) if spec.epilogue.residual => InPlace::Allowed(Slot::Residual),
        _ => InPlace::Never,
    }
}

/// Bytes of working memory a node needs beside its operands.
pub fn workspace_bytes(graph: &Graph, node: &Node) -> usize {
    match &node.op {
        Op::MlpFusion(spec) => spec.projected_len() * graph.values[node.outputs[0].0].dtype.size(),
        Op::ImagePass(spec) => spec.workspace_len() * size_of::<f32>(),
        _ => 0,
    }
}

/// A piece of the arena: several values that follow one another in place, or a workspace.
struct Piece {
    bytes: usize,
    /// First and last node index at which it must hold its content (−1: before the run).
    begin: isize,
    end: isize,
    offset: usize,
}

/// Plans the arena for the CPU's kernels. The input lives from the start, outputs to the end.
pub fn plan_memory(graph: &Graph) -> MemoryPlan {
    plan_memory_with(graph, &|index| workspace_bytes(graph, &graph.nodes[index]))
}

/// Plans the arena where node `index` needs `workspace(index)` bytes of working memory.
pub fn plan_memory_with(graph: &Graph, workspace: &dyn Fn(usize) -> usize) -> MemoryPlan {
    let uses = Uses::of(graph);
    let end_of_run = graph.nodes.len() as isize;
    let last_read = |value: ValueId| -> isize {
        if uses.is_given_out(value) {
            return end_of_run;
        }
        uses.readers(value).iter().map(|&r| r as isize).max().unwrap_or(-1)
    };

    let mut pieces: Vec<Piece> = Vec::new();
    let mut piece_of: Vec<Option<usize>> = vec![None; graph.values.len()];
    for (index, value) in graph.values.iter().enumerate() {
        if matches!(value.source, Source::Input) {
            piece_of[index] = Some(pieces.len());
            pieces.push(Piece { bytes: value.bytes(), begin: -1, end: last_read(ValueId(index)).max(0), offset: 0 });
        }
    }
    let mut workspace_pieces: Vec<Option<usize>> = Vec::new();
    for (position, node) in graph.nodes.iter().enumerate() {
        let now = position as isize;
        let heir = match in_place(node) {
            InPlace::Always(slot) | InPlace::Allowed(slot) => node.input(slot),
            InPlace::Never => None,
        };
        for (index, output) in node.outputs.iter().enumerate() {
            let bytes = graph.values[output.0].bytes();
            let end = last_read(*output).max(now);
            let inherited = heir.filter(|_| index == 0).and_then(|from| {
                let piece = piece_of[from.0]?;
                let dies_here = last_read(from) == now && reads_once(node, from);
                (dies_here && pieces[piece].bytes == bytes).then_some(piece)
            });
            match inherited {
                Some(piece) => {
                    pieces[piece].end = pieces[piece].end.max(end);
                    piece_of[output.0] = Some(piece);
                }
                None => {
                    piece_of[output.0] = Some(pieces.len());
                    pieces.push(Piece { bytes, begin: now, end, offset: 0 });
                }
            }
        }
        let bytes = workspace(position);
        workspace_pieces.push((bytes > 0).then(|| {
            pieces.push(Piece { bytes, begin: now, end: now, offset: 0 });
            pieces.len() - 1
        }));
    }

    let arena_bytes = place(&mut pieces);
    MemoryPlan {
        arena_bytes,
        offsets: piece_of.iter().map(|piece| piece.map(|p| pieces[p].offset)).collect(),
        workspaces: workspace_pieces.iter().map(|piece| piece.map(|p| pieces[p].offset)).collect(),
    }
}

/// Whether `value` stands in one slot only, or in the two that kernels know as the same rows (an MLP's x and residual).
fn reads_once(node: &Node, value: ValueId) -> bool {
    let slots: Vec<Slot> = node.inputs.iter().filter(|(_, v)| *v == value).map(|(s, _)| *s).collect();
    match slots[..] {
        [_] => true,
        [_, _] => matches!(node.op, Op::Mlp(_)) && slots.contains(&Slot::X) && slots.contains(&Slot::Residual),
        _ => false,
    }
}

/// Gives every piece its offset; returns the size of the arena.
fn place(pieces: &mut [Piece]) -> usize {
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(pieces[i].bytes), pieces[i].begin));
    let mut placed: Vec<usize> = Vec::new();
    let mut arena = 0;
    for &index in &order {
        let (begin, end, bytes) = (pieces[index].begin, pieces[index].end, pieces[index].bytes);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .map(|&p| &pieces[p])
            .filter(|p| p.begin <= end && begin <= p.end)
            .map(|p| (p.offset, p.offset + p.bytes))
            .collect();
        taken.sort_unstable();
        let mut offset = 0;
        for (from, to) in taken {
            if offset + bytes <= from {
                break;
            }
            offset = offset.max(to.next_multiple_of(ALIGNMENT));
        }
        pieces[index].offset = offset;
        arena = arena.max(offset + bytes);
        placed.push(index);
    }
    arena.next_multiple_of(ALIGNMENT)
}

//! One arena for everything a run computes: values whose lives do not overlap share bytes.
//!
//! Greedy by size (Pisarchyk & Lee, "Efficient memory management for deep neural net inference", 2020): the largest value
//! first, each at the lowest offset where it overlaps no value that lives at the same time.

use super::rewrite::Uses;
use crate::grad::BackwardOp;
use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::ops::Range;

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
        // Reads an activation's operand where it writes.
        Op::Backward(BackwardOp::GemmInput { act: Some(_), .. }) => InPlace::Allowed(Slot::X),
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

/// The front of an arena, where something else comes to lie in the course of a run: until then values may lie there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Front {
    /// Its size, a multiple of [`ALIGNMENT`].
    pub bytes: usize,
    /// Parts of it, and the node from which on no value may lie there; 0: none ever.
    pub taken: Vec<(Range<usize>, usize)>,
}

/// A piece of the arena: several values that follow one another in place, or a workspace.
#[derive(Clone)]
struct Piece {
    bytes: usize,
    /// First and last node index at which it must hold its content (−1: before the run).
    begin: isize,
    end: isize,
    offset: usize,
}

/// Plans the arena for the CPU's kernels. The input lives from the start, outputs to the end.
pub fn plan_memory(graph: &Graph) -> MemoryPlan {
    plan_memory_over(graph, &Front::default())
}

/// The same where the arena begins with `front`.
pub fn plan_memory_over(graph: &Graph, front: &Front) -> MemoryPlan {
    pieces_of(graph, &|index| workspace_bytes(graph, &graph.nodes[index])).plan(front)
}

/// Plans the arena where node `index` needs `workspace(index)` bytes of working memory.
pub fn plan_memory_with(graph: &Graph, workspace: &dyn Fn(usize) -> usize) -> MemoryPlan {
    pieces_of(graph, workspace).plan(&Front::default())
}

/// Bytes that are in use at each node, for the CPU's kernels: no plan's arena is smaller than the largest.
pub fn live_bytes(graph: &Graph) -> Vec<usize> {
    let mut changes = vec![0isize; graph.nodes.len() + 1];
    for piece in pieces_of(graph, &|index| workspace_bytes(graph, &graph.nodes[index])).pieces {
        let bytes = piece.bytes.next_multiple_of(ALIGNMENT) as isize;
        changes[piece.begin.max(0) as usize] += bytes;
        changes[graph.nodes.len().min(piece.end as usize + 1)] -= bytes;
    }
    let mut live = 0;
    let at_each = changes[..graph.nodes.len()].iter().map(|change| {
        live += change;
        live as usize
    });
    at_each.collect()
}

/// What is to be placed.
struct Pieces {
    pieces: Vec<Piece>,
    /// By value.
    of_values: Vec<Option<usize>>,
    /// By node.
    of_workspaces: Vec<Option<usize>>,
}

impl Pieces {
    fn plan(mut self, front: &Front) -> MemoryPlan {
        let arena_bytes = place(&mut self.pieces, front);
        let offset = |piece: &Option<usize>| piece.map(|p| self.pieces[p].offset);
        MemoryPlan {
            arena_bytes,
            offsets: self.of_values.iter().map(offset).collect(),
            workspaces: self.of_workspaces.iter().map(offset).collect(),
        }
    }
}

fn pieces_of(graph: &Graph, workspace: &dyn Fn(usize) -> usize) -> Pieces {
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

    Pieces { pieces, of_values: piece_of, of_workspaces: workspace_pieces }
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

/// In which order pieces get their places.
#[derive(Clone, Copy)]
enum Order {
    /// The largest first.
    Size,
    /// Those that are needed last first: the longer, the less of the front is theirs to take.
    End,
    /// Those that are needed for longest first.
    Life,
}

/// Gives every piece its offset; returns the size of the arena. With a front no order is best always: the one that takes the least is kept.
fn place(pieces: &mut [Piece], front: &Front) -> usize {
    if front.bytes == 0 {
        return place_in(Order::Size, pieces, front);
    }
    let mut tried = [Order::Size, Order::End, Order::Life].map(|order| {
        let mut pieces = pieces.to_vec();
        (place_in(order, &mut pieces, front), pieces)
    });
    tried.sort_by_key(|(arena, _)| *arena);
    let [(arena, best), ..] = tried;
    pieces.clone_from_slice(&best);
    arena
}

fn place_in(order: Order, pieces: &mut [Piece], front: &Front) -> usize {
    let mut sorted: Vec<usize> = (0..pieces.len()).collect();
    let size = |i: usize| (Reverse(pieces[i].bytes), pieces[i].begin);
    match order {
        Order::Size => sorted.sort_by_key(|&i| size(i)),
        Order::End => sorted.sort_by_key(|&i| (Reverse(pieces[i].end), size(i))),
        Order::Life => sorted.sort_by_key(|&i| (pieces[i].begin - pieces[i].end, size(i))),
    }
    let taken = front.taken.iter().map(|(range, from)| {
        let begin = if *from == 0 { -1 } else { *from as isize };
        Piece { bytes: range.len(), begin, end: isize::MAX, offset: range.start }
    });
    let mut placed: Vec<Piece> = taken.collect();
    let mut arena = front.bytes;
    for &index in &sorted {
        let (begin, end, bytes) = (pieces[index].begin, pieces[index].end, pieces[index].bytes);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|p| p.begin <= end && begin <= p.end)
            .map(|p| (p.offset, p.offset + p.bytes))
            .collect();
        taken.sort_unstable();
        let offset = last_gap(&taken, bytes, front.bytes).unwrap_or_else(|| {
            let mut offset = front.bytes;
            for (from, to) in taken {
                if offset + bytes <= from {
                    break;
                }
                offset = offset.max(to.next_multiple_of(ALIGNMENT));
            }
            offset
        });
        pieces[index].offset = offset;
        arena = arena.max(offset + bytes);
        placed.push(pieces[index].clone());
    }
    arena.next_multiple_of(ALIGNMENT)
}

/// The last place of the front that is free for `bytes`: what is taken first lies last there, so that what must stay for longer finds the
/// places before it.
fn last_gap(taken: &[(usize, usize)], bytes: usize, front: usize) -> Option<usize> {
    let mut last = None;
    let mut start = 0;
    for &(from, to) in taken.iter().chain([&(front, front)]) {
        let end = from.min(front);
        if start + bytes <= end {
            last = Some((end - bytes) / ALIGNMENT * ALIGNMENT);
        }
        start = start.max(to.next_multiple_of(ALIGNMENT));
    }
    last
}

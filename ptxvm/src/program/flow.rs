//! Control flow of a function: basic blocks, where lanes that part meet again, and the final order of operations.

use super::{
    builder::Builder,
    draft::{Control, Draft, Label},
};
use std::collections::HashMap;

/// Straight-line operations `start..end`, and the blocks control may go to from there.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) next: Vec<usize>,
}

/// Blocks of a function, block 0 first; `labels` says in which block each label is.
pub(super) struct Flow {
    pub(super) blocks: Vec<Block>,
    pub(super) labels: HashMap<Label, usize>,
}

impl Flow {
    pub(super) fn of(drafts: &[Draft], tables: &[Vec<Label>]) -> Self {
        let mut blocks = Vec::new();
        let mut labels = HashMap::new();
        let mut start = 0;
        let mut close = |start: &mut usize, end: usize| {
            if *start < end {
                blocks.push(Block { start: *start, end, next: Vec::new() });
                *start = end;
            }
        };
        for (at, draft) in drafts.iter().enumerate() {
            match draft.control {
                Control::None | Control::Call => {}
                Control::Label(_) => close(&mut start, at),
                _ => close(&mut start, at + 1),
            }
        }
        close(&mut start, drafts.len());

        for (number, block) in blocks.iter().enumerate() {
            for draft in &drafts[block.start..block.end] {
                if let Control::Label(label) = draft.control {
                    labels.insert(label, number);
                }
            }
        }
        let last = blocks.len().saturating_sub(1);
        for number in 0..blocks.len() {
            let falls_through = || (number < last).then_some(number + 1);
            let mut next: Vec<usize> = match &drafts[blocks[number].end - 1].control {
                Control::Jump(label) => vec![labels[label]],
                Control::Branch(label) => std::iter::once(labels[label]).chain(falls_through()).collect(),
                Control::Table(table) => tables[*table].iter().map(|label| labels[label]).collect(),
                Control::End => vec![],
                _ => falls_through().into_iter().collect(),
            };
            next.sort_unstable();
            next.dedup();
            blocks[number].next = next;
        }
        Self { blocks, labels }
    }

    /// For each block the nearest block that every way from it to the end goes through; `None`: only the end itself.
    ///
    /// Cooper, Harvey and Kennedy's iteration on the reversed graph.
    pub(super) fn post_dominators(&self) -> Vec<Option<usize>> {
        let exit = self.blocks.len();
        let mut previous = vec![Vec::new(); exit + 1];
        let mut next: Vec<Vec<usize>> = self.blocks.iter().map(|block| block.next.clone()).collect();
        for (number, targets) in next.iter_mut().enumerate() {
            if targets.is_empty() {
                targets.push(exit);
            }
            for target in targets.iter() {
                previous[*target].push(number);
            }
        }
        // Post-order of the reversed graph from the exit. Blocks that never reach the exit (endless loops) stay without.
        let mut order = Vec::with_capacity(exit + 1);
        let mut rank = vec![usize::MAX; exit + 1];
        let mut seen = vec![false; exit + 1];
        let mut stack = vec![(exit, 0)];
        seen[exit] = true;
        while let Some((block, done)) = stack.last_mut() {
            if let Some(&before) = previous[*block].get(*done) {
                *done += 1;
                if !seen[before] {
                    seen[before] = true;
                    stack.push((before, 0));
                }
            } else {
                rank[*block] = order.len();
                order.push(*block);
                stack.pop();
            }
        }
        let mut dominator = vec![usize::MAX; exit + 1];
        dominator[exit] = exit;
        let mut changed = true;
        while changed {
            changed = false;
            for &block in order.iter().rev().filter(|block| **block != exit) {
                let mut candidate = usize::MAX;
                for &target in next[block].iter().filter(|target| dominator[**target] != usize::MAX) {
                    candidate =
                        if candidate == usize::MAX { target } else { meet(candidate, target, &dominator, &rank) };
                }
                if candidate != usize::MAX && dominator[block] != candidate {
                    dominator[block] = candidate;
                    changed = true;
                }
            }
        }
        dominator[..exit].iter().map(|&block| (block < exit).then_some(block)).collect()
    }
}

fn meet(mut a: usize, mut b: usize, dominator: &[usize], rank: &[usize]) -> usize {
    while a != b {
        while rank[a] < rank[b] {
            a = dominator[a];
        }
        while rank[b] < rank[a] {
            b = dominator[b];
        }
    }
    a
}

/// The final list: drafts without labels, join markers where lanes meet, branch targets as positions.
///
/// Branches get `imm` = target and `x` = position of the join or [`crate::machine::warp::NONE`].
pub(super) fn lay_out(builder: &mut Builder<'_>, flow: &Flow) -> (Vec<Draft>, Vec<Vec<u32>>) {
    let dominators = flow.post_dominators();
    let parts = |control: &Control| matches!(control, Control::Branch(_) | Control::Table(_));
    let mut meets = vec![false; flow.blocks.len()];
    for (number, block) in flow.blocks.iter().enumerate() {
        if parts(&builder.drafts[block.end - 1].control)
            && let Some(join) = dominators[number]
        {
            meets[join] = true;
        }
    }
    let mut position = vec![0u32; flow.blocks.len()];
    let mut at = 0u32;
    for (number, block) in flow.blocks.iter().enumerate() {
        position[number] = at;
        let operations =
            builder.drafts[block.start..block.end].iter().filter(|draft| !matches!(draft.control, Control::Label(_)));
        at += u32::from(meets[number]);
        for draft in operations {
            // Lanes of a divergent indirect call meet behind it.
            at += if draft.control == Control::Call { 2 } else { 1 };
        }
    }
    let tables =
        builder.tables.iter().map(|labels| labels.iter().map(|label| position[flow.labels[label]]).collect()).collect();

    let marker = Draft {
        op: crate::machine::op::Op::new(crate::ops::control::join()),
        wide: vec![],
        reads: vec![],
        writes: vec![],
        control: Control::None,
        suspends: true,
        partial: false,
    };
    let mut list: Vec<Draft> = Vec::with_capacity(at as usize);
    for (number, block) in flow.blocks.iter().enumerate() {
        if meets[number] {
            let mut marker = marker.clone();
            marker.op.instruction = builder.drafts[block.start].op.instruction;
            list.push(marker);
        }
        let join = dominators[number].map_or(crate::machine::warp::NONE, |join| position[join]);
        for at in block.start..block.end {
            let mut draft = builder.drafts[at].clone();
            match &draft.control {
                Control::Label(_) => continue,
                Control::Jump(label) | Control::Branch(label) => {
                    draft.op.imm = position[flow.labels[label]].into();
                    draft.op.x = join;
                }
                Control::Table(table) => {
                    draft.op.imm = *table as u64;
                    draft.op.x = join;
                }
                Control::Call => {
                    let mut marker = marker.clone();
                    marker.op.instruction = draft.op.instruction;
                    draft.op.x = list.len() as u32 + 1;
                    list.push(draft);
                    list.push(marker);
                    continue;
                }
                Control::None | Control::End => {}
            }
            list.push(draft);
        }
    }
    (list, tables)
}

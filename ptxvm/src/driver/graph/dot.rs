//! Graphs as a drawing in the DOT language.

use super::super::entry::entries;
use super::super::operation::Operation;
use super::super::state::{State, lock};
use super::super::status::{Outcome, Status};
use super::super::types::{Handle, Text};
use std::fmt::Write;

fn label(operation: &Operation) -> String {
    match operation {
        Operation::Kernel(call) => {
            format!("kernel {}\\ngrid {:?} block {:?}", call.module.info(call.kernel).name, call.grid, call.block)
        }
        Operation::Copy(plan) => format!("copy\\n{} x {} x {}", plan.raw.width, plan.raw.height, plan.raw.depth),
        Operation::Fill(fill) => format!("fill {:#x}\\n{} x {} of {}", fill.to, fill.width, fill.height, fill.element),
        Operation::Host { .. } => "host function".to_owned(),
        Operation::Graph(_) => "child graph".to_owned(),
        Operation::Empty => "empty".to_owned(),
        Operation::WaitEvent(event) => format!("wait for event {event:#x}"),
        Operation::RecordEvent(event) => format!("record event {event:#x}"),
        Operation::Allocate { base, bytes } => format!("allocate {bytes} bytes\\n{base:#x}"),
        Operation::Free(base) => format!("free {base:#x}"),
        Operation::Values(list) => format!("{} memory operation(s)", list.len()),
    }
}

fn draw(state: &mut State, graph: Handle, text: &mut String) -> Outcome {
    let nodes: Vec<_> =
        state.graph(graph)?.nodes.iter().map(|(h, node)| (*h, node.operation.clone(), node.after.clone())).collect();
    // Writing into a String cannot fail.
    let _ = writeln!(text, "subgraph cluster_{:x} {{", graph.0);
    for (handle, operation, after) in nodes {
        let _ = writeln!(text, "  node_{:x} [label=\"{}\"];", handle.0, label(&operation));
        for before in after {
            let _ = writeln!(text, "  node_{:x} -> node_{:x};", before.0, handle.0);
        }
        if let Operation::Graph(child) = operation {
            draw(state, child, text)?;
        }
    }
    text.push_str("}\n");
    Ok(())
}

entries! { list:
    fn cuGraphDebugDotPrint(graph: Handle, path: Text, flags: u32) {
        let _ = flags;
        let path = path.text("path")?;
        let mut text = "digraph dot {\nnode [shape=box];\n".to_owned();
        draw(&mut lock(), graph, &mut text)?;
        text.push_str("}\n");
        std::fs::write(&path, text).map_err(|error| Status::OperatingSystem.because(format!("{path}: {error}")))
    }
}

//! Graphs: nodes and what they come after.

mod dot;
pub(super) mod executable;
mod memory;
mod node_params;
pub(super) mod nodes;
pub(super) mod update;

pub(super) use executable::Executable;
pub(super) use nodes::check_value;

use super::entry::{In, Out, entries};
use super::operation::Operation;
use super::state::{Kind, State, known, lock};
use super::status::{Outcome, Status};
use super::types::{AttributeValue, EdgeData, Handle};
use std::collections::{BTreeMap, HashMap, HashSet};

#[derive(Default)]
pub(super) struct Graph {
    /// In the order in which they were made.
    pub(super) nodes: BTreeMap<Handle, Node>,
    pub(super) user_objects: Vec<(Handle, u64)>,
    /// Belongs to a child graph node.
    owned: bool,
}

#[derive(Clone)]
pub(super) struct Node {
    pub(super) operation: Operation,
    pub(super) after: Vec<Handle>,
    pub(super) context: Handle,
    /// The node that this one was cloned from.
    origin: Handle,
    /// What `cuGraphKernelNodeGetParams` points to.
    param_pointers: Vec<u64>,
    attributes: HashMap<u32, AttributeValue>,
}

/// `CUgraphNodeType`.
pub(super) fn kind_of(operation: &Operation) -> u32 {
    match operation {
        Operation::Kernel(_) => 0,
        Operation::Copy(_) => 1,
        Operation::Fill(_) => 2,
        Operation::Host { .. } => 3,
        Operation::Graph(_) => 4,
        Operation::Empty => 5,
        Operation::WaitEvent(_) => 6,
        Operation::RecordEvent(_) => 7,
        Operation::Allocate { .. } => 10,
        Operation::Free(_) => 11,
        Operation::Values(_) => 12,
    }
}

impl State {
    pub(super) fn graph(&mut self, handle: Handle) -> Outcome<&mut Graph> {
        known(&mut self.graphs, handle, "graph")
    }

    pub(super) fn node(&mut self, handle: Handle) -> Outcome<&mut Node> {
        let graph = *known(&mut self.nodes, handle, "graph node")?;
        let node = self.graph(graph)?.nodes.get_mut(&handle);
        node.ok_or_else(|| super::state::unknown(handle, "graph node"))
    }

    pub(super) fn add_node(
        &mut self,
        graph: Handle,
        operation: Operation,
        after: &[Handle],
        context: Handle,
    ) -> Outcome<Handle> {
        let nodes = &self.graph(graph)?.nodes;
        let mut unique = HashSet::new();
        for dependency in after {
            if !nodes.contains_key(dependency) {
                return Err(Status::InvalidValue.because(format!("dependency {dependency:#x} is not in the graph")));
            }
            if !unique.insert(*dependency) {
                return Err(Status::InvalidValue.because(format!("dependency {dependency:#x} is named twice")));
            }
        }
        let handle = self.new_handle(Kind::Node);
        let node = Node {
            operation,
            after: after.to_vec(),
            context,
            origin: Handle::NULL,
            param_pointers: Vec::new(),
            attributes: HashMap::new(),
        };
        self.graph(graph)?.nodes.insert(handle, node);
        self.nodes.insert(handle, graph);
        Ok(handle)
    }

    /// A copy of a graph and of the graphs in it.
    pub(super) fn clone_graph(&mut self, original: Handle, owned: bool) -> Outcome<Handle> {
        let nodes: Vec<(Handle, Node)> =
            self.graph(original)?.nodes.iter().map(|(handle, node)| (*handle, node.clone())).collect();
        let clone = self.new_handle(Kind::Graph);
        let mut renamed = HashMap::new();
        let mut copied = BTreeMap::new();
        for (handle, _) in &nodes {
            renamed.insert(*handle, self.new_handle(Kind::Node));
        }
        for (handle, mut node) in nodes {
            if let Operation::Graph(child) = node.operation {
                node.operation = Operation::Graph(self.clone_graph(child, true)?);
            }
            node.after = node.after.iter().map(|after| renamed[after]).collect();
            node.origin = handle;
            node.param_pointers = Vec::new();
            self.nodes.insert(renamed[&handle], clone);
            copied.insert(renamed[&handle], node);
        }
        let objects = self.retained_objects(original)?;
        self.graphs.insert(clone, Graph { nodes: copied, user_objects: objects, owned });
        Ok(clone)
    }

    /// The user objects of a graph, with a reference more to each.
    fn retained_objects(&mut self, graph: Handle) -> Outcome<Vec<(Handle, u64)>> {
        let objects: Vec<Handle> = self.graph(graph)?.user_objects.iter().map(|(object, _)| *object).collect();
        Ok(objects
            .into_iter()
            .filter_map(|object| {
                known(&mut self.user_objects, object, "user object").ok()?.retain();
                Some((object, 1))
            })
            .collect())
    }

    /// Removes a graph; returns the user objects that it held.
    pub(super) fn remove_graph(&mut self, handle: Handle) -> Vec<(Handle, u64)> {
        let Some(graph) = self.graphs.remove(&handle) else { return Vec::new() };
        let mut objects = graph.user_objects;
        for (node, held) in graph.nodes {
            self.nodes.remove(&node);
            if let Operation::Graph(child) = held.operation {
                objects.extend(self.remove_graph(child));
            }
        }
        objects
    }
}

/// Gives up user objects, and calls the destructors of those that nobody holds any more.
fn release_objects(objects: Vec<(Handle, u64)>) {
    for (object, count) in objects {
        let destroy = lock().release_object(object, count);
        if let Some(destroy) = destroy {
            destroy();
        }
    }
}

/// The nodes in an order that keeps to what they come after; a cycle is an error.
fn sorted(nodes: &BTreeMap<Handle, Node>) -> Outcome<Vec<Handle>> {
    let mut waiting: BTreeMap<Handle, usize> = nodes.iter().map(|(handle, node)| (*handle, node.after.len())).collect();
    let mut before: HashMap<Handle, Vec<Handle>> = HashMap::new();
    for (handle, node) in nodes {
        for after in &node.after {
            before.entry(*after).or_default().push(*handle);
        }
    }
    let mut ready: Vec<Handle> =
        nodes.iter().rev().filter(|(_, node)| node.after.is_empty()).map(|(h, _)| *h).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(node) = ready.pop() {
        order.push(node);
        for next in before.get(&node).into_iter().flatten() {
            let left = waiting.entry(*next).or_default();
            *left -= 1;
            if *left == 0 {
                ready.push(*next);
            }
        }
    }
    if order.len() < nodes.len() {
        return Err(Status::InvalidValue.because("the graph's dependencies form a cycle"));
    }
    Ok(order)
}

/// Writes a list of handles, where a NULL array only asks for its length.
fn write_list<T: Copy + Default>(list: &[T], out: Out<T>, count: Out<usize>) -> Outcome {
    if out.is_null() {
        return count.set("the count", list.len());
    }
    let room = count.get("the count")?;
    for index in 0..room {
        out.set_at("the array", index, list.get(index).copied().unwrap_or_default())?;
    }
    count.set("the count", room.min(list.len()))
}

fn edges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) -> Outcome {
    let mut state = lock();
    let nodes = &state.graph(graph)?.nodes;
    let edges: Vec<(Handle, Handle)> =
        nodes.iter().flat_map(|(to, node)| node.after.iter().map(|from| (*from, *to))).collect();
    if from.is_null() != to.is_null() {
        return Err(Status::InvalidValue.because("one of the arrays is NULL and the other is not"));
    }
    let sources: Vec<Handle> = edges.iter().map(|(from, _)| *from).collect();
    let targets: Vec<Handle> = edges.iter().map(|(_, to)| *to).collect();
    let room = if to.is_null() { 0 } else { count.get("numEdges")? };
    for index in 0..room {
        to.set_at("to", index, targets.get(index).copied().unwrap_or_default())?;
    }
    write_list(&sources, from, count)
}

fn dependencies(node: Handle, out: Out<Handle>, count: Out<usize>) -> Outcome {
    let after = lock().node(node)?.after.clone();
    write_list(&after, out, count)
}

fn dependents(node: Handle, out: Out<Handle>, count: Out<usize>) -> Outcome {
    let mut state = lock();
    state.node(node)?;
    let graph = state.nodes[&node];
    let nodes = &state.graph(graph)?.nodes;
    let found: Vec<Handle> =
        nodes.iter().filter(|(_, other)| other.after.contains(&node)).map(|(handle, _)| *handle).collect();
    write_list(&found, out, count)
}

fn no_edge_data(data: Out<EdgeData>, count: Out<usize>) -> Outcome {
    if !data.is_null() {
        for index in 0..count.get("the count")? {
            data.set_at("edgeData", index, EdgeData::default())?;
        }
    }
    Ok(())
}

/// Port and type 0 only: programmatic launches are not modelled.
fn check_edge_data(data: In<EdgeData>, count: usize) -> Outcome {
    if !data.is_null() && data.list("edgeData", count)?.iter().any(|edge| edge.kind != 0 || edge.from_port > 1) {
        return Err(Status::NotSupported.because("programmatic dependencies are not modelled"));
    }
    Ok(())
}

fn change_edges(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize, add: bool) -> Outcome {
    let pairs: Vec<(Handle, Handle)> = from.list("from", count)?.into_iter().zip(to.list("to", count)?).collect();
    let mut state = lock();
    let nodes = &mut state.graph(graph)?.nodes;
    for (from, to) in &pairs {
        let exists = nodes.get(to).is_some_and(|node| node.after.contains(from));
        if !nodes.contains_key(from) || !nodes.contains_key(to) || from == to || exists == add {
            let what = if add { "is there already, or is of nodes not in the graph" } else { "is not there" };
            return Err(Status::InvalidValue.because(format!("the dependency from {from:#x} to {to:#x} {what}")));
        }
    }
    for (from, to) in &pairs {
        if let Some(node) = nodes.get_mut(to) {
            if add { node.after.push(*from) } else { node.after.retain(|after| after != from) }
        }
    }
    Ok(())
}

entries! { list_own:
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        graph.check("phGraph")?;
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuGraphCreate takes no flags"));
        }
        let mut state = lock();
        let handle = state.new_handle(Kind::Graph);
        state.graphs.insert(handle, Graph::default());
        graph.set("phGraph", handle)
    }

    fn cuGraphDestroy(graph: Handle) {
        let objects = {
            let mut state = lock();
            if state.graph(graph)?.owned {
                return Err(Status::InvalidValue.because("the graph belongs to a child graph node"));
            }
            let objects = state.remove_graph(graph);
            state.release_graph_memory();
            objects
        };
        release_objects(objects);
        Ok(())
    }

    fn cuGraphDestroyNode(node: Handle) {
        let objects = {
            let mut state = lock();
            let operation = state.node(node)?.operation.clone();
            let graph = state.nodes[&node];
            if matches!(operation, Operation::Allocate { .. } | Operation::Free(_)) {
                return Err(Status::NotSupported.because("nodes that allocate or free memory cannot be destroyed"));
            }
            state.nodes.remove(&node);
            let nodes = &mut state.graph(graph)?.nodes;
            nodes.remove(&node);
            for other in nodes.values_mut() {
                other.after.retain(|after| *after != node);
            }
            if let Operation::Graph(child) = operation { state.remove_graph(child) } else { Vec::new() }
        };
        release_objects(objects);
        Ok(())
    }

    fn cuGraphClone(clone: Out<Handle>, original: Handle) {
        clone.check("phGraphClone")?;
        let handle = lock().clone_graph(original, false)?;
        clone.set("phGraphClone", handle)
    }

    fn cuGraphNodeFindInClone(node: Out<Handle>, original: Handle, clone: Handle) {
        node.check("phNode")?;
        let mut state = lock();
        let found = state.graph(clone)?.nodes.iter().find(|(_, node)| node.origin == original).map(|(handle, _)| *handle);
        match found {
            Some(found) => node.set("phNode", found),
            None => Err(Status::InvalidValue.because("the graph has no clone of that node")),
        }
    }

    fn cuGraphNodeGetType(node: Handle, kind: Out<u32>) {
        let found = kind_of(&lock().node(node)?.operation);
        kind.set("type", found)
    }

    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let found: Vec<Handle> = lock().graph(graph)?.nodes.keys().copied().collect();
        write_list(&found, nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let mut state = lock();
        let all = state.graph(graph)?.nodes.iter();
        let found: Vec<Handle> = all.filter(|(_, node)| node.after.is_empty()).map(|(handle, _)| *handle).collect();
        write_list(&found, nodes, count)
    }

    fn cuGraphGetEdges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) {
        edges(graph, from, to, count)
    }

    fn cuGraphGetEdges_v2(graph: Handle, from: Out<Handle>, to: Out<Handle>, data: Out<EdgeData>, count: Out<usize>) {
        no_edge_data(data, count)?;
        edges(graph, from, to, count)
    }

    fn cuGraphNodeGetDependencies(node: Handle, found: Out<Handle>, count: Out<usize>) { dependencies(node, found, count) }

    fn cuGraphNodeGetDependencies_v2(node: Handle, found: Out<Handle>, data: Out<EdgeData>, count: Out<usize>) {
        no_edge_data(data, count)?;
        dependencies(node, found, count)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle, found: Out<Handle>, count: Out<usize>) { dependents(node, found, count) }

    fn cuGraphNodeGetDependentNodes_v2(node: Handle, found: Out<Handle>, data: Out<EdgeData>, count: Out<usize>) {
        no_edge_data(data, count)?;
        dependents(node, found, count)
    }

    fn cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        change_edges(graph, from, to, count, true)
    }

    fn cuGraphAddDependencies_v2(graph: Handle, from: In<Handle>, to: In<Handle>, data: In<EdgeData>, count: usize) {
        check_edge_data(data, count)?;
        change_edges(graph, from, to, count, true)
    }

    fn cuGraphRemoveDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        change_edges(graph, from, to, count, false)
    }

    fn cuGraphRemoveDependencies_v2(graph: Handle, from: In<Handle>, to: In<Handle>, data: In<EdgeData>, count: usize) {
        check_edge_data(data, count)?;
        change_edges(graph, from, to, count, false)
    }
}

pub(super) fn list(all: &mut Vec<(&'static str, usize)>) {
    list_own(all);
    dot::list(all);
    executable::list(all);
    node_params::list(all);
    nodes::list(all);
    update::list(all);
}

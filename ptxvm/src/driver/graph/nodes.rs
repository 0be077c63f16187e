//! Adding nodes.

use super::super::copy::CopyPlan;
use super::super::entry::{Address, In, Out, entries};
use super::super::fill;
use super::super::launch::{Shape, parameters};
use super::super::memory::BufferKind;
use super::super::operation::{Operation, value};
use super::super::state::{State, lock};
use super::super::status::{Outcome, Status};
use super::super::types::{
    AllocateNode, Copy3D, CopyNode, EdgeData, FillNode, Handle, HostNode, KernelNode, KernelNodeV1, Location,
    NodeParams, ValueNode, ValueOperation,
};
use super::check_edge_data;
use crate::memory::{AllocationKind, Memory};

impl State {
    /// The context that a node's parameters name, or the current one.
    fn node_context(&self, given: Handle) -> Outcome<Handle> {
        let context = self.context_or_current(given)?;
        self.check_fault(context)?;
        Ok(context)
    }

    pub(super) fn kernel_operation(&mut self, params: &KernelNode) -> Outcome<Operation> {
        let KernelNode { v1, kernel, context } = params;
        let function = if v1.function.is_null() { *kernel } else { v1.function };
        let context = match self.functions.get(&function) {
            Some(function) => function.context,
            None => self.node_context(*context)?,
        };
        self.check_fault(context)?;
        let info = self.kernel_of(function, context)?;
        let pointers: In<Address> = In::from(v1.params.cast_const().cast());
        let bytes = parameters(&info, pointers, In::from(v1.extra.cast_const().cast()))?;
        let shape = Shape { grid: v1.grid, block: v1.block, shared: v1.shared, cooperative: false };
        Ok(Operation::Kernel(self.kernel_call(function, context, shape, bytes)?))
    }

    pub(super) fn value_operation(&self, params: &ValueNode) -> Outcome<(Operation, Handle)> {
        if params.flags != 0 {
            return Err(Status::InvalidValue.because("batches of memory operations take no flags"));
        }
        let list: In<ValueOperation> = In::from(params.operations.cast_const());
        let list = list.list("paramArray", params.count as usize)?;
        list.iter().try_for_each(check_value)?;
        Ok((Operation::Values(list), self.node_context(params.context)?))
    }
}

/// Checks a wait for or write of a word of memory.
pub(in super::super) fn check_value(operation: &ValueOperation) -> Outcome {
    let (bytes, flags) = match operation.operation {
        value::WAIT_32 => (4, 3),
        value::WAIT_64 => (8, 3),
        // CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER.
        value::WRITE_32 => (4, 1),
        value::WRITE_64 => (8, 1),
        value::FLUSH | value::BARRIER => return Ok(()),
        other => return Err(Status::InvalidValue.because(format!("there is no CUstreamBatchMemOpType {other}"))),
    };
    // CU_STREAM_WAIT_VALUE_FLUSH changes nothing here.
    if operation.flags & !(flags | 1 << 30) != 0 {
        return Err(Status::InvalidValue.because(format!("flags {:#x}", operation.flags)));
    }
    let allocation = Memory::global().find(operation.address);
    let inside = allocation.is_some_and(|held| held.base + held.bytes - operation.address >= bytes);
    if !inside || !operation.address.is_multiple_of(bytes) {
        return Err(Status::InvalidValue
            .because(format!("{:#x} is no aligned word of {bytes} bytes in an allocation", operation.address)));
    }
    Ok(())
}

pub(super) fn fill_operation(params: FillNode) -> Outcome<Operation> {
    fill::check(&params)?;
    let mut params = params;
    if params.height <= 1 {
        params.pitch = params.width * params.element as usize;
    }
    Ok(Operation::Fill(params))
}

pub(super) fn host_operation(params: &HostNode) -> Outcome<Operation> {
    if params.function.is_none() {
        return Err(Status::InvalidValue.because("the host function is NULL"));
    }
    Ok(Operation::Host { function: params.function, data: params.data as u64 })
}

/// Where nodes are added.
struct Place {
    node: Out<Handle>,
    graph: Handle,
    after: Vec<Handle>,
}

fn place(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) -> Outcome<Place> {
    node.check("phGraphNode")?;
    let after = after.list("dependencies", count)?;
    lock().graph(graph)?;
    Ok(Place { node, graph, after })
}

impl Place {
    fn add(&self, state: &mut State, operation: Operation, context: Handle) -> Outcome {
        let handle = state.add_node(self.graph, operation, &self.after, context)?;
        self.node.set("phGraphNode", handle)
    }

    fn kernel(&self, params: &KernelNode) -> Outcome {
        let mut state = lock();
        let operation = state.kernel_operation(params)?;
        let context = match &operation {
            Operation::Kernel(call) => call.context,
            _ => Handle::NULL,
        };
        self.add(&mut state, operation, context)
    }

    fn copy(&self, copy: Copy3D, context: Handle) -> Outcome {
        let mut state = lock();
        let context = state.node_context(context)?;
        self.add(&mut state, Operation::Copy(CopyPlan::new(copy)?), context)
    }

    fn fill(&self, params: FillNode, context: Handle) -> Outcome {
        let mut state = lock();
        let context = state.node_context(context)?;
        self.add(&mut state, fill_operation(params)?, context)
    }

    fn host(&self, params: &HostNode) -> Outcome {
        let mut state = lock();
        let context = state.current().unwrap_or(Handle::NULL);
        self.add(&mut state, host_operation(params)?, context)
    }

    fn empty(&self) -> Outcome {
        let mut state = lock();
        let context = state.current().unwrap_or(Handle::NULL);
        self.add(&mut state, Operation::Empty, context)
    }

    fn child(&self, graph: Handle) -> Outcome {
        if graph == self.graph {
            return Err(Status::InvalidValue.because("a graph cannot be its own child"));
        }
        let mut state = lock();
        let context = state.current().unwrap_or(Handle::NULL);
        let child = state.clone_graph(graph, true)?;
        self.add(&mut state, Operation::Graph(child), context)
    }

    fn event(&self, event: Handle, make: fn(Handle) -> Operation) -> Outcome {
        let mut state = lock();
        let context = state.event(event)?.context;
        self.add(&mut state, make(event), context)
    }

    /// Returns the address of the memory that the node allocates.
    fn allocate(&self, params: &AllocateNode) -> Outcome<u64> {
        if params.pool.location.kind != Location::DEVICE || params.pool.kind != 1 {
            return Err(Status::NotSupported.because("only pinned memory of a device can be allocated in a graph"));
        }
        let mut state = lock();
        let context = state.usable()?;
        let kind = (AllocationKind::AsyncPool, BufferKind::Graph);
        let base = state.allocate(context, params.bytes as u64, kind, "a graph's allocation node")?;
        self.add(&mut state, Operation::Allocate { base, bytes: params.bytes }, context)?;
        Ok(base)
    }

    fn free(&self, pointer: u64) -> Outcome {
        let mut state = lock();
        let context = state.usable()?;
        if state.buffer_at(pointer)?.kind != BufferKind::Graph {
            return Err(Status::InvalidValue.because(format!("{pointer:#x} was not allocated by a graph's node")));
        }
        self.add(&mut state, Operation::Free(pointer), context)
    }

    fn any(&self, params: Out<NodeParams>) -> Outcome {
        let given = params.get("nodeParams")?;
        let body = given.body.as_ptr();
        match given.kind {
            0 => self.kernel(&In::from(body.cast()).get("kernel")?),
            1 => {
                let node: CopyNode = In::from(body.cast()).get("memcpy")?;
                self.copy(node.copy, node.context)
            }
            // The context follows the 40 bytes of version 1.
            2 => self.fill(In::from(body.cast()).get("memset")?, Handle(given.body[5])),
            3 => self.host(&In::from(body.cast()).get("host")?),
            4 => self.child(Handle(given.body[0])),
            5 => self.empty(),
            6 => self.event(Handle(given.body[0]), Operation::WaitEvent),
            7 => self.event(Handle(given.body[0]), Operation::RecordEvent),
            10 => {
                let base = self.allocate(&In::from(body.cast()).get("alloc")?)?;
                let mut answer = given;
                answer.body[14] = base;
                params.set("nodeParams", answer)
            }
            11 => self.free(given.body[0]),
            12 => {
                let node: ValueNode = In::from(body.cast()).get("memOp")?;
                self.values(&node)
            }
            8 | 9 => Err(Status::NotSupported.because("semaphores of other drivers are not modelled")),
            13 => Err(Status::NotSupported.because("conditional nodes are not modelled")),
            kind => Err(Status::InvalidValue.because(format!("there is no CUgraphNodeType {kind}"))),
        }
    }

    fn values(&self, params: &ValueNode) -> Outcome {
        let mut state = lock();
        let (operation, context) = state.value_operation(params)?;
        self.add(&mut state, operation, context)
    }
}

fn version_1(v1: KernelNodeV1) -> KernelNode {
    KernelNode { v1, kernel: Handle::NULL, context: Handle::NULL }
}

entries! { list:
    fn cuGraphAddKernelNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNodeV1>) {
        place(node, graph, after, count)?.kernel(&version_1(params.get("nodeParams")?))
    }

    fn cuGraphAddKernelNode_v2(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNode>) {
        place(node, graph, after, count)?.kernel(&params.get("nodeParams")?)
    }

    fn cuGraphAddMemcpyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, copy: In<Copy3D>, context: Handle) {
        place(node, graph, after, count)?.copy(copy.get("copyParams")?, context)
    }

    fn cuGraphAddMemsetNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<FillNode>, context: Handle) {
        place(node, graph, after, count)?.fill(params.get("memsetParams")?, context)
    }

    fn cuGraphAddHostNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<HostNode>) {
        place(node, graph, after, count)?.host(&params.get("nodeParams")?)
    }

    fn cuGraphAddChildGraphNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle) {
        place(node, graph, after, count)?.child(child)
    }

    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        place(node, graph, after, count)?.empty()
    }

    fn cuGraphAddEventRecordNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) {
        place(node, graph, after, count)?.event(event, Operation::RecordEvent)
    }

    fn cuGraphAddEventWaitNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) {
        place(node, graph, after, count)?.event(event, Operation::WaitEvent)
    }

    fn cuGraphAddMemAllocNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: Out<AllocateNode>) {
        let mut given = params.get("nodeParams")?;
        given.pointer = place(node, graph, after, count)?.allocate(&given)?;
        params.set("nodeParams", given)
    }

    fn cuGraphAddMemFreeNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, pointer: u64) {
        place(node, graph, after, count)?.free(pointer)
    }

    fn cuGraphAddBatchMemOpNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<ValueNode>) {
        place(node, graph, after, count)?.values(&params.get("nodeParams")?)
    }

    fn cuGraphAddNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: Out<NodeParams>) {
        place(node, graph, after, count)?.any(params)
    }

    fn cuGraphAddNode_v2(node: Out<Handle>, graph: Handle, after: In<Handle>, data: In<EdgeData>, count: usize, params: Out<NodeParams>) {
        check_edge_data(data, count)?;
        place(node, graph, after, count)?.any(params)
    }
}

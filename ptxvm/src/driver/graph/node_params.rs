//! Parameters of nodes: read and set.

use super::super::copy::CopyPlan;
use super::super::entry::{In, Out, entries};
use super::super::operation::Operation;
use super::super::state::{State, lock};
use super::super::status::{Outcome, Status};
use super::super::types::{
    AllocateNode, AttributeValue, Copy3D, CopyNode, FillNode, Handle, HostNode, KernelNode, KernelNodeV1, Location,
    NodeParams, PoolProperties, ValueNode,
};
use super::nodes::{fill_operation, host_operation};
use super::{Node, kind_of};

impl State {
    /// Gives a node another operation of the same kind.
    fn set_operation(&mut self, handle: Handle, operation: Operation) -> Outcome {
        let node = self.node(handle)?;
        same_kind(&node.operation, &operation)?;
        node.operation = operation;
        node.param_pointers = Vec::new();
        Ok(())
    }

    /// The operation that generic parameters describe.
    pub(super) fn operation_of(&mut self, given: &NodeParams) -> Outcome<Operation> {
        let body = given.body.as_ptr();
        Ok(match given.kind {
            0 => self.kernel_operation(&In::from(body.cast()).get("kernel")?)?,
            1 => {
                let node: CopyNode = In::from(body.cast()).get("memcpy")?;
                Operation::Copy(CopyPlan::new(node.copy)?)
            }
            2 => fill_operation(In::from(body.cast()).get("memset")?)?,
            3 => host_operation(&In::from(body.cast()).get("host")?)?,
            6 | 7 => {
                self.event(Handle(given.body[0]))?;
                let make = if given.kind == 6 { Operation::WaitEvent } else { Operation::RecordEvent };
                make(Handle(given.body[0]))
            }
            12 => {
                let node: ValueNode = In::from(body.cast()).get("memOp")?;
                self.value_operation(&node)?.0
            }
            kind => {
                return Err(
                    Status::InvalidValue.because(format!("nodes of CUgraphNodeType {kind} have nothing to set"))
                );
            }
        })
    }
}

pub(super) fn same_kind(held: &Operation, new: &Operation) -> Outcome {
    if kind_of(held) != kind_of(new) {
        let (held, new) = (kind_of(held), kind_of(new));
        return Err(Status::InvalidValue.because(format!("the node is of CUgraphNodeType {held}, not {new}")));
    }
    Ok(())
}

fn wrong_kind(node: &Node, wanted: &str) -> super::super::status::Failure {
    let kind = kind_of(&node.operation);
    Status::InvalidValue.because(format!("the node is of CUgraphNodeType {kind}, and no {wanted} node"))
}

/// The parameters of a kernel node; its pointers lead into the node and hold until it changes.
fn kernel_params(handle: Handle) -> Outcome<KernelNode> {
    let mut state = lock();
    let kernels = state.kernels.contains_key(&handle);
    let node = state.node(handle)?;
    let Operation::Kernel(call) = &node.operation else { return Err(wrong_kind(node, "kernel")) };
    let info = call.module.info(call.kernel);
    let start = call.params.as_ptr() as u64;
    node.param_pointers = info.params.iter().map(|param| start + u64::from(param.offset)).collect();
    let (mut function, mut kernel) = (call.function, Handle::NULL);
    if kernels {
        (function, kernel) = (kernel, function);
    }
    Ok(KernelNode {
        v1: KernelNodeV1 {
            function,
            grid: call.grid,
            block: call.block,
            shared: call.shared,
            params: node.param_pointers.as_mut_ptr().cast(),
            extra: std::ptr::null_mut(),
        },
        kernel,
        context: call.context,
    })
}

fn set_kernel(node: Handle, params: &KernelNode) -> Outcome {
    let mut state = lock();
    let operation = state.kernel_operation(params)?;
    state.set_operation(node, operation)
}

fn event_of(node: Handle, record: bool, out: Out<Handle>) -> Outcome {
    let mut state = lock();
    let node = state.node(node)?;
    match node.operation {
        Operation::RecordEvent(event) if record => out.set("event_out", event),
        Operation::WaitEvent(event) if !record => out.set("event_out", event),
        _ => Err(wrong_kind(node, "event")),
    }
}

fn set_event(node: Handle, event: Handle, make: fn(Handle) -> Operation) -> Outcome {
    let mut state = lock();
    state.event(event)?;
    state.set_operation(node, make(event))
}

entries! { list:
    fn cuGraphKernelNodeGetParams(node: Handle, params: Out<KernelNodeV1>) {
        params.set("nodeParams", kernel_params(node)?.v1)
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle, params: Out<KernelNode>) {
        params.set("nodeParams", kernel_params(node)?)
    }

    fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelNodeV1>) {
        let v1 = params.get("nodeParams")?;
        set_kernel(node, &KernelNode { v1, kernel: Handle::NULL, context: Handle::NULL })
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelNode>) { set_kernel(node, &params.get("nodeParams")?) }

    fn cuGraphMemcpyNodeGetParams(node: Handle, params: Out<Copy3D>) {
        let mut state = lock();
        let node = state.node(node)?;
        match &node.operation {
            Operation::Copy(plan) => params.set("nodeParams", plan.raw),
            _ => Err(wrong_kind(node, "copy")),
        }
    }

    fn cuGraphMemcpyNodeSetParams(node: Handle, params: In<Copy3D>) {
        let plan = CopyPlan::new(params.get("nodeParams")?)?;
        lock().set_operation(node, Operation::Copy(plan))
    }

    fn cuGraphMemsetNodeGetParams(node: Handle, params: Out<FillNode>) {
        let mut state = lock();
        let node = state.node(node)?;
        match &node.operation {
            Operation::Fill(fill) => params.set("nodeParams", *fill),
            _ => Err(wrong_kind(node, "fill")),
        }
    }

    fn cuGraphMemsetNodeSetParams(node: Handle, params: In<FillNode>) {
        let operation = fill_operation(params.get("nodeParams")?)?;
        lock().set_operation(node, operation)
    }

    fn cuGraphHostNodeGetParams(node: Handle, params: Out<HostNode>) {
        let mut state = lock();
        let node = state.node(node)?;
        match node.operation {
            Operation::Host { function, data } => params.set("nodeParams", HostNode { function, data: data as *mut _ }),
            _ => Err(wrong_kind(node, "host")),
        }
    }

    fn cuGraphHostNodeSetParams(node: Handle, params: In<HostNode>) {
        let operation = host_operation(&params.get("nodeParams")?)?;
        lock().set_operation(node, operation)
    }

    fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: Out<Handle>) {
        let mut state = lock();
        let node = state.node(node)?;
        match node.operation {
            Operation::Graph(child) => graph.set("phGraph", child),
            _ => Err(wrong_kind(node, "child graph")),
        }
    }

    fn cuGraphEventRecordNodeGetEvent(node: Handle, event: Out<Handle>) { event_of(node, true, event) }

    fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) { set_event(node, event, Operation::RecordEvent) }

    fn cuGraphEventWaitNodeGetEvent(node: Handle, event: Out<Handle>) { event_of(node, false, event) }

    fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) { set_event(node, event, Operation::WaitEvent) }

    fn cuGraphMemAllocNodeGetParams(node: Handle, params: Out<AllocateNode>) {
        let mut state = lock();
        let context = state.node(node)?.context;
        let device = state.context(context)?.device.cast_signed();
        let node = state.node(node)?;
        let Operation::Allocate { base, bytes } = node.operation else { return Err(wrong_kind(node, "allocation")) };
        params.set("params_out", AllocateNode {
            pool: PoolProperties {
                kind: 1,
                handle_types: 0,
                location: Location { kind: Location::DEVICE, id: device },
                security: std::ptr::null_mut(),
                max_size: 0,
                usage: 0,
                reserved: [0; 54],
            },
            access: std::ptr::null(),
            access_count: 0,
            bytes,
            pointer: base,
        })
    }

    fn cuGraphMemFreeNodeGetParams(node: Handle, pointer: Out<u64>) {
        let mut state = lock();
        let node = state.node(node)?;
        match node.operation {
            Operation::Free(base) => pointer.set("dptr_out", base),
            _ => Err(wrong_kind(node, "free")),
        }
    }

    fn cuGraphBatchMemOpNodeGetParams(node: Handle, params: Out<ValueNode>) {
        let mut state = lock();
        let node = state.node(node)?;
        let context = node.context;
        match &mut node.operation {
            Operation::Values(list) => params.set("nodeParams_out", ValueNode {
                context,
                count: u32::try_from(list.len()).unwrap_or(u32::MAX),
                operations: list.as_mut_ptr(),
                flags: 0,
            }),
            _ => Err(wrong_kind(node, "memory operation")),
        }
    }

    fn cuGraphBatchMemOpNodeSetParams(node: Handle, params: In<ValueNode>) {
        let params = params.get("nodeParams")?;
        let mut state = lock();
        let (operation, _) = state.value_operation(&params)?;
        state.set_operation(node, operation)
    }

    fn cuGraphNodeSetParams(node: Handle, params: In<NodeParams>) {
        let params = params.get("nodeParams")?;
        let mut state = lock();
        let operation = state.operation_of(&params)?;
        state.set_operation(node, operation)
    }

    fn cuGraphKernelNodeGetAttribute(node: Handle, attribute: u32, value: Out<AttributeValue>) {
        let mut state = lock();
        let node = state.node(node)?;
        let Operation::Kernel(call) = &node.operation else { return Err(wrong_kind(node, "kernel")) };
        let mut held = node.attributes.get(&attribute).copied().unwrap_or(AttributeValue([0; 16]));
        if attribute == COOPERATIVE {
            held.0[0] = u32::from(call.cooperative);
        }
        value.set("value_out", held)
    }

    fn cuGraphKernelNodeSetAttribute(node: Handle, attribute: u32, value: In<AttributeValue>) {
        let value = value.get("value")?;
        let mut state = lock();
        let node = state.node(node)?;
        let Operation::Kernel(call) = &mut node.operation else { return Err(wrong_kind(node, "kernel")) };
        match attribute {
            COOPERATIVE => call.cooperative = value.0[0] != 0,
            4 | 11 if value.0[..3].iter().any(|size| *size > 1) => {
                return Err(Status::NotSupported.because("clusters are not modelled"));
            }
            0..=16 => {}
            _ => return Err(Status::InvalidValue.because(format!("there is no CUlaunchAttributeID {attribute}"))),
        }
        node.attributes.insert(attribute, value);
        Ok(())
    }

    fn cuGraphKernelNodeCopyAttributes(to: Handle, from: Handle) {
        let mut state = lock();
        let (cooperative, attributes) = {
            let node = state.node(from)?;
            let Operation::Kernel(call) = &node.operation else { return Err(wrong_kind(node, "kernel")) };
            (call.cooperative, node.attributes.clone())
        };
        let node = state.node(to)?;
        let Operation::Kernel(call) = &mut node.operation else { return Err(wrong_kind(node, "kernel")) };
        call.cooperative = cooperative;
        node.attributes = attributes;
        Ok(())
    }
}

/// `CU_LAUNCH_ATTRIBUTE_COOPERATIVE`.
const COOPERATIVE: u32 = 2;

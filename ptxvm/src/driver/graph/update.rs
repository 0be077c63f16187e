//! Changing graphs that were instantiated.

use super::super::copy::CopyPlan;
use super::super::entry::{In, Out, entries};
use super::super::operation::Operation;
use super::super::state::{State, lock};
use super::super::status::{Outcome, Status};
use super::super::types::{
    Copy3D, FillNode, Handle, HostNode, KernelNode, KernelNodeV1, NodeParams, UpdateResult, ValueNode,
};
use super::executable::Plan;
use super::kind_of;
use super::node_params::same_kind;
use super::nodes::{fill_operation, host_operation};
use std::collections::HashMap;

/// `CUgraphExecUpdateResult`.
const SUCCESS: u32 = 0;
const ERROR: u32 = 1;
const TOPOLOGY_CHANGED: u32 = 2;
const TYPE_CHANGED: u32 = 3;
const UNSUPPORTED_FUNCTION_CHANGE: u32 = 7;

impl State {
    fn set_step(&mut self, executable: Handle, node: Handle, operation: Operation) -> Outcome {
        let step = self.step(executable, node)?;
        same_kind(&step.operation, &operation)?;
        if let (Operation::Kernel(held), Operation::Kernel(new)) = (&step.operation, &operation)
            && held.context != new.context
        {
            return Err(Status::InvalidValue.because("the new function is of another context"));
        }
        step.operation = operation;
        Ok(())
    }

    fn update(&mut self, executable: Handle, graph: Handle) -> Outcome<UpdateResult> {
        let new = self.plan(graph)?;
        let plan = &mut self.executable(executable)?.plan;
        let mut updated = plan.clone();
        let result = replace(&mut updated, &new);
        if result.result == SUCCESS {
            *plan = updated;
        }
        Ok(result)
    }
}

/// Puts the new plan's operations into a plan of the same shape.
fn replace(plan: &mut Plan, new: &Plan) -> UpdateResult {
    let answer = |result, node, from| UpdateResult { result, error_node: node, error_from_node: from };
    if plan.nodes.len() != new.nodes.len() {
        let first = new.nodes.keys().next().copied().unwrap_or_default();
        return answer(TOPOLOGY_CHANGED, first, Handle::NULL);
    }
    // Nodes correspond in the order in which they were made.
    let names: HashMap<Handle, Handle> = new.nodes.keys().copied().zip(plan.nodes.keys().copied()).collect();
    for (step, (handle, new_step)) in plan.nodes.values_mut().zip(&new.nodes) {
        let mut before: Vec<Handle> = step.after.clone();
        let mut new_before: Vec<Handle> = new_step.after.iter().map(|after| names[after]).collect();
        before.sort_unstable();
        new_before.sort_unstable();
        if before != new_before {
            let from = new_step.after.first().copied().unwrap_or_default();
            return answer(TOPOLOGY_CHANGED, *handle, from);
        }
        if kind_of(&step.operation) != kind_of(&new_step.operation) {
            return answer(TYPE_CHANGED, *handle, Handle::NULL);
        }
        if let (Operation::Kernel(held), Operation::Kernel(new)) = (&step.operation, &new_step.operation)
            && held.context != new.context
        {
            return answer(UNSUPPORTED_FUNCTION_CHANGE, *handle, Handle::NULL);
        }
        if let (Some(child), Some(new_child)) = (&mut step.child, &new_step.child) {
            let inner = replace(child, new_child);
            if inner.result != SUCCESS {
                return inner;
            }
        }
        step.operation = new_step.operation.clone();
    }
    answer(SUCCESS, Handle::NULL, Handle::NULL)
}

fn update(executable: Handle, graph: Handle) -> (UpdateResult, Outcome) {
    let answered = lock().update(executable, graph);
    match answered {
        Ok(result) if result.result == SUCCESS => (result, Ok(())),
        Ok(result) => {
            let reason = format!("node {:#x}: CUgraphExecUpdateResult {}", result.error_node, result.result);
            (result, Err(Status::GraphExecUpdateFailure.because(reason)))
        }
        Err(failure) => {
            let result = UpdateResult { result: ERROR, error_node: Handle::NULL, error_from_node: Handle::NULL };
            (result, Err(failure))
        }
    }
}

fn set_kernel(executable: Handle, node: Handle, params: &KernelNode) -> Outcome {
    let mut state = lock();
    let operation = state.kernel_operation(params)?;
    state.set_step(executable, node, operation)
}

fn set_event(executable: Handle, node: Handle, event: Handle, make: fn(Handle) -> Operation) -> Outcome {
    let mut state = lock();
    state.event(event)?;
    state.set_step(executable, node, make(event))
}

entries! { list:
    fn cuGraphExecUpdate(executable: Handle, graph: Handle, error_node: Out<Handle>, result: Out<u32>) {
        let (answer, outcome) = update(executable, graph);
        error_node.set_if_given(answer.error_node);
        result.set_if_given(answer.result);
        outcome
    }

    fn cuGraphExecUpdate_v2(executable: Handle, graph: Handle, result: Out<UpdateResult>) {
        let (answer, outcome) = update(executable, graph);
        result.set_if_given(answer);
        outcome
    }

    fn cuGraphExecKernelNodeSetParams(executable: Handle, node: Handle, params: In<KernelNodeV1>) {
        let v1 = params.get("nodeParams")?;
        set_kernel(executable, node, &KernelNode { v1, kernel: Handle::NULL, context: Handle::NULL })
    }

    fn cuGraphExecKernelNodeSetParams_v2(executable: Handle, node: Handle, params: In<KernelNode>) {
        set_kernel(executable, node, &params.get("nodeParams")?)
    }

    fn cuGraphExecMemcpyNodeSetParams(executable: Handle, node: Handle, params: In<Copy3D>, context: Handle) {
        let plan = CopyPlan::new(params.get("copyParams")?)?;
        let mut state = lock();
        state.context_or_current(context)?;
        state.set_step(executable, node, Operation::Copy(plan))
    }

    fn cuGraphExecMemsetNodeSetParams(executable: Handle, node: Handle, params: In<FillNode>, context: Handle) {
        let operation = fill_operation(params.get("memsetParams")?)?;
        let mut state = lock();
        state.context_or_current(context)?;
        state.set_step(executable, node, operation)
    }

    fn cuGraphExecHostNodeSetParams(executable: Handle, node: Handle, params: In<HostNode>) {
        let operation = host_operation(&params.get("nodeParams")?)?;
        lock().set_step(executable, node, operation)
    }

    fn cuGraphExecChildGraphNodeSetParams(executable: Handle, node: Handle, child: Handle) {
        let mut state = lock();
        let new = state.plan(child)?;
        let step = state.step(executable, node)?;
        let Some(held) = &mut step.child else {
            return Err(Status::InvalidValue.because("the node is no child graph node"));
        };
        let mut updated = held.clone();
        let result = replace(&mut updated, &new);
        if result.result != SUCCESS {
            return Err(Status::InvalidValue.because("the child graph has another shape"));
        }
        *held = updated;
        Ok(())
    }

    fn cuGraphExecEventRecordNodeSetEvent(executable: Handle, node: Handle, event: Handle) {
        set_event(executable, node, event, Operation::RecordEvent)
    }

    fn cuGraphExecEventWaitNodeSetEvent(executable: Handle, node: Handle, event: Handle) {
        set_event(executable, node, event, Operation::WaitEvent)
    }

    fn cuGraphExecBatchMemOpNodeSetParams(executable: Handle, node: Handle, params: In<ValueNode>) {
        let params = params.get("nodeParams")?;
        let mut state = lock();
        let (operation, _) = state.value_operation(&params)?;
        state.set_step(executable, node, operation)
    }

    fn cuGraphExecNodeSetParams(executable: Handle, node: Handle, params: In<NodeParams>) {
        let params = params.get("nodeParams")?;
        let mut state = lock();
        let operation = state.operation_of(&params)?;
        state.set_step(executable, node, operation)
    }
}

//! Graphs that can be launched.

use super::super::clock::new_timeline;
use super::super::engine::Work;
use super::super::entry::{Out, entries, write_text};
use super::super::event::{Record, note_time};
use super::super::operation::{Label, Operation};
use super::super::state::{Kind, State, known, lock};
use super::super::status::{Outcome, Status};
use super::super::stream::{Moment, wait_for};
use super::super::types::{Handle, InstantiateParams};
use super::{Node, release_objects, sorted};
use crate::settings::settings;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::c_char;
use std::sync::{Arc, OnceLock};

pub(in super::super) struct Executable {
    pub(super) plan: Plan,
    flags: u64,
    launches: u64,
    /// The end of the last launch: launches of one executable do not overlap.
    last: Option<Moment>,
    user_objects: Vec<(Handle, u64)>,
}

/// A graph as it was when it was instantiated. Nodes keep their names.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) nodes: BTreeMap<Handle, Step>,
    order: Vec<Handle>,
}

#[derive(Clone)]
pub(super) struct Step {
    pub(super) operation: Operation,
    pub(super) after: Vec<Handle>,
    pub(super) child: Option<Plan>,
    context: Handle,
    enabled: bool,
    /// Timeline and place on it: a chain of nodes shares one.
    line: (u64, u64),
}

impl State {
    pub(in super::super) fn executable(&mut self, handle: Handle) -> Outcome<&mut Executable> {
        known(&mut self.executables, handle, "executable graph")
    }

    pub(super) fn plan(&mut self, graph: Handle) -> Outcome<Plan> {
        let nodes: BTreeMap<Handle, Node> = self.graph(graph)?.nodes.clone();
        let order = sorted(&nodes)?;
        let mut steps: BTreeMap<Handle, Step> = BTreeMap::new();
        let mut continued = HashSet::new();
        for handle in &order {
            let node = &nodes[handle];
            let child = match node.operation {
                Operation::Graph(child) => Some(self.plan(child)?),
                _ => None,
            };
            let chain = node.after.first().filter(|before| continued.insert(**before));
            let line =
                chain.map_or_else(|| (new_timeline(), 0), |before| (steps[before].line.0, steps[before].line.1 + 1));
            let step = Step {
                operation: node.operation.clone(),
                after: node.after.clone(),
                child,
                context: node.context,
                enabled: true,
                line,
            };
            steps.insert(*handle, step);
        }
        Ok(Plan { nodes: steps, order })
    }

    fn instantiate(&mut self, graph: Handle, flags: u64) -> Outcome<Handle> {
        if flags & !15 != 0 {
            return Err(Status::InvalidValue.because(format!("there are no CUgraphInstantiate_flags {flags:#x}")));
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(Status::NotSupported.because("graphs launched by the device are not modelled"));
        }
        let plan = self.plan(graph)?;
        let user_objects = self.retained_objects(graph)?;
        let handle = self.new_handle(Kind::Executable);
        self.executables.insert(handle, Executable { plan, flags, launches: 0, last: None, user_objects });
        Ok(handle)
    }

    fn launch_graph(&mut self, handle: Handle, stream: Handle) -> Outcome<(Handle, super::super::engine::CommandId)> {
        let executable = self.executable(handle)?;
        let (plan, last) = (executable.plan.clone(), executable.last.clone());
        let flags = executable.flags;
        executable.launches += 1;
        let launches = executable.launches;
        let stream = self.resolve_stream(stream)?;
        self.check_implicit(stream)?;
        if self.stream(stream)?.capture.is_some() {
            self.invalidate_of(stream);
            let reason = "launching an executable graph into a capture; add it as a child graph node";
            return Err(Status::StreamCaptureUnsupported.because(reason));
        }
        let nothing = |_| (None, Work::Always(Box::new(|_| ())));
        let left = self.allocate_again(&plan, flags)?;
        let mut begin = self.enqueue(stream, &last.into_iter().collect::<Vec<_>>(), nothing)?;
        for base in left {
            self.issue(stream, Operation::Free(base))?;
            begin = self.enqueue(stream, &[], nothing)?;
        }
        let id = self.stream(stream)?.id;
        let context = self.stream(stream)?.context;
        let priority = self.stream(stream)?.priority;
        let run = Run { context, priority, label: Label { stream: id, serial: launches }, round: launches << 24 };
        let ends = self.launch_plan(&plan, &run, &begin)?;
        let end = self.enqueue(stream, &ends, nothing)?;
        self.executable(handle)?.last = Some(end.clone());
        Ok((stream, end.command))
    }

    /// Submits the plan's nodes, all after `begin`; returns the ends of those that nothing in the plan comes after.
    fn launch_plan(&mut self, plan: &Plan, run: &Run, begin: &Moment) -> Outcome<Vec<Moment>> {
        let mut ends: HashMap<Handle, Moment> = HashMap::new();
        for handle in &plan.order {
            let step = &plan.nodes[handle];
            let mut after: Vec<Moment> = step.after.iter().map(|before| ends[before].clone()).collect();
            if after.is_empty() {
                after.push(begin.clone());
            }
            let context = if self.contexts.contains_key(&step.context) { step.context } else { run.context };
            let point = (step.line.0, run.round + step.line.1);
            let nothing = |_| (None, Work::Always(Box::new(|_| ())));
            let operation = if step.enabled { step.operation.clone() } else { Operation::Empty };
            let end = match (operation, &step.child) {
                (Operation::Graph(_), Some(child)) => {
                    let start = self.submit(context, run.priority, point, &after, nothing)?;
                    let mut inner = self.launch_plan(child, run, &start)?;
                    inner.push(start);
                    self.submit(context, run.priority, point, &inner, nothing)?
                }
                (Operation::RecordEvent(event), _) => {
                    let reached = Arc::new(OnceLock::new());
                    let moment = self.submit(context, run.priority, point, &after, |_| (None, note_time(&reached)))?;
                    let event = self.event(event)?;
                    event.captured = None;
                    event.record = Some(Record { moment: moment.clone(), reached });
                    moment
                }
                (Operation::WaitEvent(event), _) => {
                    after.extend(self.event(event)?.record.as_ref().map(|record| record.moment.clone()));
                    self.submit(context, run.priority, point, &after, nothing)?
                }
                // Memory of a graph keeps its address, so it stays allocated between launches.
                (operation, _) => {
                    let mut moment = None;
                    for part in operation.parts() {
                        let after: Vec<Moment> = moment.map_or_else(|| after.clone(), |before| vec![before]);
                        let work = |order| part.work(order, &run.label);
                        moment = Some(self.submit(context, run.priority, point, &after, work)?);
                    }
                    match moment {
                        Some(moment) => moment,
                        None => self.submit(context, run.priority, point, &after, nothing)?,
                    }
                }
            };
            ends.insert(*handle, end);
        }
        let continued: HashSet<Handle> = plan.nodes.values().flat_map(|step| step.after.iter().copied()).collect();
        let mut last: Vec<Moment> =
            ends.into_iter().filter(|(handle, _)| !continued.contains(handle)).map(|(_, moment)| moment).collect();
        last.push(begin.clone());
        Ok(last)
    }

    pub(super) fn step(&mut self, executable: Handle, node: Handle) -> Outcome<&mut Step> {
        let step = self.executable(executable)?.plan.nodes.get_mut(&node);
        step.ok_or_else(|| Status::InvalidValue.because(format!("node {node:#x} is not in the executable graph")))
    }
}

/// What a launch of a graph has in common for all its nodes.
struct Run {
    context: Handle,
    priority: i32,
    label: Label,
    /// Added to the places on timelines, so that each launch is later than the one before.
    round: u64,
}

/// `CUDA_GRAPH_INSTANTIATE_FLAG_*`.
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;

fn launch(executable: Handle, stream: Handle) -> Outcome {
    let (stream, end) = lock().launch_graph(executable, stream)?;
    if settings().launch_blocking { wait_for(stream, Some(end)) } else { Ok(()) }
}

fn instantiate(out: Out<Handle>, graph: Handle, flags: u64) -> Outcome {
    out.check("phGraphExec")?;
    let handle = lock().instantiate(graph, flags)?;
    out.set("phGraphExec", handle)
}

entries! { list:
    fn cuGraphInstantiate(executable: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<c_char>, log_bytes: usize) {
        with_log(executable, graph, error_node, log, log_bytes)
    }

    fn cuGraphInstantiate_v2(executable: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<c_char>, log_bytes: usize) {
        with_log(executable, graph, error_node, log, log_bytes)
    }

    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        instantiate(executable, graph, flags)
    }

    fn cuGraphInstantiateWithParams | cuGraphInstantiateWithParams_ptsz(executable: Out<Handle>, graph: Handle, params: Out<InstantiateParams>) {
        let mut given = params.get("instantiateParams")?;
        let result = instantiate(executable, graph, given.flags);
        given.error_node = Handle::NULL;
        given.result = match &result {
            Ok(()) => 0,
            Err(failure) if failure.status == Status::NotSupported => 3,
            Err(failure) if failure.status == Status::InvalidValue => 2,
            Err(_) => 1,
        };
        params.set("instantiateParams", given)?;
        if result.is_ok() && given.flags & UPLOAD != 0 {
            lock().resolve_stream(given.upload_stream)?;
        }
        result
    }

    fn cuGraphLaunch | cuGraphLaunch_ptsz(executable: Handle, stream: Handle) { launch(executable, stream) }

    fn cuGraphUpload | cuGraphUpload_ptsz(executable: Handle, stream: Handle) {
        let mut state = lock();
        state.executable(executable)?;
        let stream = state.resolve_stream(stream)?;
        state.issue(stream, Operation::Empty).map(|_| ())
    }

    fn cuGraphExecDestroy(executable: Handle) {
        let objects = {
            let mut state = lock();
            state.executable(executable)?;
            let objects = state.executables.remove(&executable).map(|executable| executable.user_objects);
            state.release_graph_memory();
            objects
        };
        release_objects(objects.unwrap_or_default());
        Ok(())
    }

    fn cuGraphExecGetFlags(executable: Handle, flags: Out<u64>) {
        flags.set("flags", lock().executable(executable)?.flags & !UPLOAD)
    }

    fn cuGraphNodeSetEnabled(executable: Handle, node: Handle, enabled: u32) {
        let mut state = lock();
        let step = state.step(executable, node)?;
        check_switchable(step)?;
        step.enabled = enabled != 0;
        Ok(())
    }

    fn cuGraphNodeGetEnabled(executable: Handle, node: Handle, enabled: Out<u32>) {
        let mut state = lock();
        let step = state.step(executable, node)?;
        check_switchable(step)?;
        enabled.set("isEnabled", u32::from(step.enabled))
    }
}

fn check_switchable(step: &Step) -> Outcome {
    if matches!(step.operation, Operation::Kernel(_) | Operation::Copy(_) | Operation::Fill(_)) {
        return Ok(());
    }
    Err(Status::InvalidValue.because("only kernel, copy and fill nodes can be switched off"))
}

fn with_log(
    executable: Out<Handle>,
    graph: Handle,
    error_node: Out<Handle>,
    log: Out<c_char>,
    log_bytes: usize,
) -> Outcome {
    error_node.set_if_given(Handle::NULL);
    let result = instantiate(executable, graph, 0);
    let text = result.as_ref().err().and_then(|failure| failure.reason.as_deref()).unwrap_or_default();
    write_text(log, log_bytes, text)?;
    result
}

//! Stream capture: work that is put into a graph and not run.

use super::entry::{In, Out, entries};
use super::graph::Graph;
use super::operation::Operation;
use super::state::{Kind, State, lock};
use super::status::{Failure, Outcome, Status};
use super::stream::StreamKind;
use super::types::{EdgeData, Handle};
use std::cell::Cell;
use std::collections::HashSet;
use std::thread::ThreadId;

pub(super) struct Capture {
    graph: Handle,
    /// The stream that the capture began in and must end in.
    origin: Handle,
    mode: u32,
    thread: ThreadId,
    invalid: bool,
    /// The graph was the caller's and stays when the capture fails.
    given: bool,
}

/// A stream's part in a capture.
#[derive(Clone)]
pub(super) struct Membership {
    pub(super) capture: u64,
    /// What the stream's next node comes after.
    frontier: Vec<Handle>,
}

const GLOBAL: u32 = 0;
const RELAXED: u32 = 2;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

impl State {
    /// The stream's capture and frontier. A capture that was invalidated is an error.
    pub(super) fn capturing(&mut self, stream: Handle) -> Outcome<Option<(u64, Vec<Handle>)>> {
        let Some(membership) = self.stream(stream)?.capture.clone() else { return Ok(None) };
        self.check_valid(membership.capture)?;
        Ok(Some((membership.capture, membership.frontier)))
    }

    fn check_valid(&self, capture: u64) -> Outcome {
        match self.captures.get(&capture) {
            Some(capture) if !capture.invalid => Ok(()),
            _ => Err(Status::StreamCaptureInvalidated.because("an earlier error spoiled the capture")),
        }
    }

    pub(super) fn invalidate(&mut self, capture: u64) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
    }

    pub(super) fn invalidate_of(&mut self, stream: Handle) {
        let capture = self.streams.get(&stream).and_then(|stream| stream.capture.as_ref()).map(|own| own.capture);
        if let Some(capture) = capture {
            self.invalidate(capture);
        }
    }

    /// Adds nodes for an operation to the graph that the stream is captured into.
    pub(super) fn capture_operation(&mut self, stream: Handle, operation: Operation) -> Outcome {
        let Some((capture, mut frontier)) = self.capturing(stream)? else { return Ok(()) };
        let graph = self.captures[&capture].graph;
        let context = self.stream(stream)?.context;
        for part in operation.parts() {
            frontier = vec![self.add_node(graph, part, &frontier, context)?];
        }
        self.stream(stream)?.capture = Some(Membership { capture, frontier });
        Ok(())
    }

    /// The stream waits for an event that was recorded in a capture, and so becomes part of it.
    pub(super) fn join_capture(&mut self, stream: Handle, capture: u64, nodes: &[Handle]) -> Outcome {
        if !self.captures.contains_key(&capture) {
            return Err(Status::CapturedEvent.because("the event was recorded in a capture that has ended"));
        }
        if self.stream(stream)?.kind == StreamKind::Legacy {
            self.invalidate(capture);
            return Err(Status::StreamCaptureImplicit.because("the legacy stream cannot be captured"));
        }
        self.check_valid(capture)?;
        match self.capturing(stream)? {
            Some((own, _)) if own != capture => {
                self.invalidate(own);
                self.invalidate(capture);
                Err(Status::StreamCaptureMerge.because("the event belongs to another capture"))
            }
            own => {
                let mut frontier = own.map(|(_, frontier)| frontier).unwrap_or_default();
                frontier.extend(nodes.iter().filter(|node| !frontier.contains(node)).copied().collect::<Vec<_>>());
                self.stream(stream)?.capture = Some(Membership { capture, frontier });
                Ok(())
            }
        }
    }

    /// Work in the legacy stream would depend on blocking streams that are captured.
    pub(super) fn check_implicit(&mut self, stream: Handle) -> Outcome {
        let (legacy, context) = {
            let stream = self.stream(stream)?;
            (stream.kind == StreamKind::Legacy, stream.context)
        };
        if !legacy || self.captures.is_empty() {
            return Ok(());
        }
        let own = self.streams.values().filter(|other| other.context == context && other.flags & 1 == 0);
        let captures: Vec<u64> = own.filter_map(|other| other.capture.as_ref()).map(|own| own.capture).collect();
        if captures.is_empty() {
            return Ok(());
        }
        captures.into_iter().for_each(|capture| self.invalidate(capture));
        Err(Status::StreamCaptureImplicit
            .because("the legacy stream would depend on a blocking stream that is captured"))
    }

    /// Calls that a capture may not see: those that wait, allocate, … They spoil it, unless its mode or the thread's is
    /// relaxed.
    pub(super) fn forbid_in_capture(&mut self, what: &str) -> Outcome {
        if self.captures.is_empty() || MODE.get() == RELAXED {
            return Ok(());
        }
        let (here, mode) = (std::thread::current().id(), MODE.get());
        let concerned = |capture: &Capture| {
            capture.mode != RELAXED && capture.thread == here || mode == GLOBAL && capture.mode == GLOBAL
        };
        let mut spoiled = false;
        for capture in self.captures.values_mut().filter(|capture| concerned(capture)) {
            capture.invalid = true;
            spoiled = true;
        }
        if spoiled {
            return Err(Status::StreamCaptureUnsupported.because(format!("{what} while a stream is captured")));
        }
        Ok(())
    }

    /// As above, and never on a stream that is captured itself.
    pub(super) fn forbid_on_captured(&mut self, stream: Handle, what: &str) -> Outcome {
        self.check_implicit(stream)?;
        if self.stream(stream)?.capture.is_some() {
            self.invalidate_of(stream);
            return Err(Status::StreamCaptureUnsupported.because(format!("{what}, and the stream is captured")));
        }
        self.forbid_in_capture(what)
    }

    fn begin_capture(&mut self, stream: Handle, mode: u32, into: Option<(Handle, Vec<Handle>)>) -> Outcome {
        if mode > RELAXED {
            return Err(Status::InvalidValue.because(format!("there is no CUstreamCaptureMode {mode}")));
        }
        let stream = self.resolve_stream(stream)?;
        if self.stream(stream)?.kind == StreamKind::Legacy {
            return Err(Status::StreamCaptureUnsupported.because("the legacy stream cannot be captured"));
        }
        if self.stream(stream)?.capture.is_some() {
            return Err(Status::IllegalState.because("the stream is captured already"));
        }
        let given = into.is_some();
        let (graph, frontier) = match into {
            Some(into) => into,
            None => {
                let graph = self.new_handle(Kind::Graph);
                self.graphs.insert(graph, Graph::default());
                (graph, Vec::new())
            }
        };
        let id = self.new_serial();
        let thread = std::thread::current().id();
        self.captures.insert(id, Capture { graph, origin: stream, mode, thread, invalid: false, given });
        self.stream(stream)?.capture = Some(Membership { capture: id, frontier });
        Ok(())
    }

    fn end_capture(&mut self, stream: Handle) -> Outcome<Handle> {
        let stream = self.resolve_stream(stream)?;
        let Some(membership) = self.stream(stream)?.capture.clone() else {
            return Err(Status::IllegalState.because("the stream is not captured"));
        };
        let id = membership.capture;
        let Some(capture) = self.captures.get(&id) else {
            self.stream(stream)?.capture = None;
            return Err(Status::StreamCaptureInvalidated.because("an earlier error spoiled the capture"));
        };
        let (graph, given, invalid) = (capture.graph, capture.given, capture.invalid);
        if capture.origin != stream {
            self.invalidate(id);
            return Err(Status::StreamCaptureUnmatched.because("the capture began in another stream"));
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Status::StreamCaptureWrongThread.because("the capture began in another thread"));
        }
        let joined = self.ancestors(graph, &membership.frontier);
        let members: Vec<(Handle, Membership)> = self
            .streams
            .iter()
            .filter_map(|(handle, stream)| Some((*handle, stream.capture.clone().filter(|own| own.capture == id)?)))
            .collect();
        let mut unjoined = 0;
        for (member, own) in members {
            unjoined += usize::from(!own.frontier.iter().all(|node| joined.contains(node)));
            self.stream(member)?.capture = None;
        }
        self.captures.remove(&id);
        let failure: Option<Failure> = if invalid {
            Some(Status::StreamCaptureInvalidated.because("an earlier error spoiled the capture"))
        } else if unjoined > 0 {
            let reason = format!("{unjoined} stream(s) that joined the capture have work that no event leads back");
            Some(Status::StreamCaptureUnjoined.because(reason))
        } else {
            None
        };
        match failure {
            Some(failure) => {
                if !given {
                    self.remove_graph(graph);
                }
                Err(failure)
            }
            None => Ok(graph),
        }
    }

    fn ancestors(&self, graph: Handle, of: &[Handle]) -> HashSet<Handle> {
        let mut found = HashSet::new();
        let mut open = of.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node)
                && let Some(node) = self.graphs.get(&graph).and_then(|graph| graph.nodes.get(&node))
            {
                open.extend(&node.after);
            }
        }
        found
    }

    fn capture_status(&mut self, stream: Handle) -> Outcome<(u32, u64, Handle)> {
        let stream = self.resolve_stream(stream)?;
        let Some(own) = &self.stream(stream)?.capture else {
            let legacy = self.stream(stream)?.kind == StreamKind::Legacy;
            if legacy && self.streams.values().any(|other| other.capture.is_some() && other.flags & 1 == 0) {
                let reason = "a blocking stream is captured, so the legacy stream cannot be asked";
                return Err(Status::StreamCaptureImplicit.because(reason));
            }
            return Ok((0, 0, Handle::NULL));
        };
        let id = own.capture;
        Ok(match self.captures.get(&id) {
            Some(capture) if !capture.invalid => (1, id, capture.graph),
            _ => (2, id, Handle::NULL),
        })
    }
}

/// Where the answers about a capture go.
struct Answer {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<Handle>,
    dependencies: Out<*const Handle>,
    edges: Out<*const EdgeData>,
    count: Out<usize>,
}

fn info(stream: Handle, answer: &Answer) -> Outcome {
    let mut state = lock();
    let (status, id, graph) = state.capture_status(stream)?;
    answer.status.set("captureStatus_out", status)?;
    if status != 1 {
        return Ok(());
    }
    answer.id.set_if_given(id);
    answer.graph.set_if_given(graph);
    answer.edges.set_if_given(std::ptr::null());
    let stream = state.resolve_stream(stream)?;
    if let Some(own) = &state.stream(stream)?.capture {
        // The list stays where it is until the next call on the stream, as documented.
        answer.dependencies.set_if_given(own.frontier.as_ptr());
        answer.count.set_if_given(own.frontier.len());
    }
    Ok(())
}

fn update(stream: Handle, nodes: In<Handle>, count: usize, flags: u32) -> Outcome {
    let nodes = nodes.list("dependencies", count)?;
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    let Some((capture, mut frontier)) = state.capturing(stream)? else {
        return Err(Status::IllegalState.because("the stream is not captured"));
    };
    let graph = state.captures[&capture].graph;
    for node in &nodes {
        if state.nodes.get(node) != Some(&graph) {
            return Err(Status::InvalidValue.because(format!("node {node:#x} is not in the graph of the capture")));
        }
    }
    match flags {
        0 => frontier.extend(nodes),
        1 => frontier = nodes,
        _ => return Err(Status::InvalidValue.because(format!("{flags:#x}; expected to add (0) or to set (1)"))),
    }
    state.stream(stream)?.capture = Some(Membership { capture, frontier });
    Ok(())
}

fn none<T>() -> Out<T> {
    Out::from(std::ptr::null_mut())
}

entries! { list:
    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(stream: Handle, mode: u32) {
        lock().begin_capture(stream, mode, None)
    }

    fn cuStreamBeginCaptureToGraph | cuStreamBeginCaptureToGraph_ptsz(stream: Handle, graph: Handle, dependencies: In<Handle>, edges: In<EdgeData>, count: usize, mode: u32) {
        let _ = edges;
        let frontier = dependencies.list("dependencies", count)?;
        let mut state = lock();
        state.graph(graph)?;
        for node in &frontier {
            if state.nodes.get(node) != Some(&graph) {
                return Err(Status::InvalidValue.because(format!("node {node:#x} is not in the graph")));
            }
        }
        state.begin_capture(stream, mode, Some((graph, frontier)))
    }

    fn cuStreamEndCapture | cuStreamEndCapture_ptsz(stream: Handle, graph: Out<Handle>) {
        graph.check("phGraph")?;
        let ended = lock().end_capture(stream);
        graph.set("phGraph", ended.as_ref().copied().unwrap_or(Handle::NULL))?;
        ended.map(|_| ())
    }

    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(stream: Handle, status: Out<u32>) {
        let (found, ..) = lock().capture_status(stream)?;
        status.set("captureStatus", found)
    }

    fn cuStreamGetCaptureInfo | cuStreamGetCaptureInfo_ptsz(stream: Handle, status: Out<u32>, id: Out<u64>) {
        info(stream, &Answer { status, id, graph: none(), dependencies: none(), edges: none(), count: none() })
    }

    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<*const Handle>, count: Out<usize>) {
        info(stream, &Answer { status, id, graph, dependencies, edges: none(), count })
    }

    fn cuStreamGetCaptureInfo_v3 | cuStreamGetCaptureInfo_v3_ptsz(stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>, dependencies: Out<*const Handle>, edges: Out<*const EdgeData>, count: Out<usize>) {
        info(stream, &Answer { status, id, graph, dependencies, edges, count })
    }

    fn cuStreamUpdateCaptureDependencies | cuStreamUpdateCaptureDependencies_ptsz(stream: Handle, dependencies: In<Handle>, count: usize, flags: u32) {
        update(stream, dependencies, count, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2 | cuStreamUpdateCaptureDependencies_v2_ptsz(stream: Handle, dependencies: In<Handle>, edges: In<EdgeData>, count: usize, flags: u32) {
        let _ = edges;
        update(stream, dependencies, count, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let new = mode.get("mode")?;
        if new > RELAXED {
            return Err(Status::InvalidValue.because(format!("there is no CUstreamCaptureMode {new}")));
        }
        mode.set("mode", MODE.replace(new))
    }
}

//! Streams: what comes after what, and the calls on them.

use super::capture::Membership;
use super::clock::{Clock, new_timeline};
use super::engine::{Command, CommandId, Engine, Work};
use super::entry::{Opaque, Out, entries, null_is_thread_stream};
use super::operation::{Label, Operation};
use super::state::{Kind, State, known, lock, unknown};
use super::status::{Outcome, Status};
use super::types::{AttributeValue, Handle, StreamCallback};
use crate::machine::Order;
use crate::settings::settings;
use std::collections::HashMap;

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;
const NON_BLOCKING: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// The NULL stream: before and after everything in the blocking streams of its context.
    Legacy,
    /// The default stream of one thread.
    Thread,
    Created,
}

pub(super) struct Stream {
    pub(super) context: Handle,
    pub(super) kind: StreamKind,
    pub(super) id: u64,
    pub(super) flags: u32,
    pub(super) priority: i32,
    pub(super) last: Option<CommandId>,
    /// What happened before the end of the last command.
    pub(super) clock: Clock,
    timeline: u64,
    time: u64,
    pub(super) capture: Option<Membership>,
    attributes: HashMap<u32, AttributeValue>,
}

/// The end of a command, for others to come after.
#[derive(Clone)]
pub(super) struct Moment {
    pub(super) command: CommandId,
    pub(super) clock: Clock,
}

type Condition = Option<Box<dyn Fn() -> bool + Send>>;

impl State {
    pub(super) fn new_stream(&mut self, context: Handle, flags: u32, priority: i32, kind: StreamKind) -> Handle {
        let handle = self.new_handle(Kind::Stream);
        let id = self.new_serial();
        let stream = Stream {
            context,
            kind,
            id,
            flags,
            priority: priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY),
            last: None,
            clock: Clock::default(),
            timeline: new_timeline(),
            time: 0,
            capture: None,
            attributes: HashMap::new(),
        };
        self.streams.insert(handle, stream);
        handle
    }

    /// The stream that a call names, where NULL and small numbers are the default streams of the current context. A
    /// fault of its context is returned.
    pub(super) fn resolve_stream(&mut self, handle: Handle) -> Outcome<Handle> {
        let thread = handle == Handle::THREAD_STREAM || handle.is_null() && null_is_thread_stream();
        if thread {
            let context = self.usable()?;
            let id = std::thread::current().id();
            if let Some(stream) = self.context(context)?.thread_streams.get(&id) {
                return Ok(*stream);
            }
            let stream = self.new_stream(context, 0, 0, StreamKind::Thread);
            self.context(context)?.thread_streams.insert(id, stream);
            return Ok(stream);
        }
        if handle.is_null() || handle == Handle::LEGACY_STREAM {
            let context = self.usable()?;
            return Ok(self.context(context)?.legacy_stream);
        }
        let context = self.stream(handle)?.context;
        self.check_fault(context)?;
        Ok(handle)
    }

    pub(super) fn stream(&mut self, handle: Handle) -> Outcome<&mut Stream> {
        known(&mut self.streams, handle, "stream")
    }

    /// What the next command of the stream comes after.
    fn before_next(&mut self, handle: Handle) -> Outcome<Vec<Moment>> {
        let stream = self.streams.get(&handle).ok_or_else(|| unknown(handle, "stream"))?;
        let mut before: Vec<Moment> = stream.moment().into_iter().collect();
        if stream.flags & NON_BLOCKING != 0 {
            return Ok(before);
        }
        if stream.kind == StreamKind::Legacy {
            let others = self.streams.values();
            let blocking = others.filter(|other| other.context == stream.context && other.flags & NON_BLOCKING == 0);
            before.extend(blocking.filter_map(Stream::moment));
        } else {
            let legacy = self.contexts.get(&stream.context).map(|context| context.legacy_stream);
            before.extend(legacy.and_then(|legacy| self.streams.get(&legacy)).and_then(Stream::moment));
        }
        Ok(before)
    }

    /// Hands a command to the engine, to come after `after`.
    pub(super) fn submit(
        &mut self,
        context: Handle,
        priority: i32,
        (timeline, time): (u64, u64),
        after: &[Moment],
        make: impl FnOnce(Order) -> (Condition, Work),
    ) -> Outcome<Moment> {
        let context = self.context(context)?.id;
        let mut clock = if settings().checked { self.host_clock() } else { Clock::default() };
        for moment in after {
            clock.join(&moment.clock);
        }
        clock.set(timeline, time);
        let (condition, work) = make(clock.order(timeline, time));
        let after = after.iter().map(|moment| moment.command).collect();
        let command = Engine::global().submit(Command { context, after, priority, condition, work });
        Ok(Moment { command, clock })
    }

    /// Puts work at the end of a stream that is not capturing, to come after `also` as well.
    pub(super) fn enqueue(
        &mut self,
        handle: Handle,
        also: &[Moment],
        make: impl FnOnce(Order) -> (Condition, Work),
    ) -> Outcome<Moment> {
        let mut after = self.before_next(handle)?;
        after.extend_from_slice(also);
        let stream = self.stream(handle)?;
        stream.time += 1;
        let (context, priority, point) = (stream.context, stream.priority, (stream.timeline, stream.time));
        let moment = self.submit(context, priority, point, &after, make)?;
        self.end_of(handle, moment.clone())?;
        Ok(moment)
    }

    /// Makes `moment` the end of what the stream has to do.
    pub(super) fn end_of(&mut self, handle: Handle, moment: Moment) -> Outcome {
        let stream = self.stream(handle)?;
        stream.last = Some(moment.command);
        stream.clock = moment.clock;
        Ok(())
    }

    /// Puts an operation into the stream, or into the graph that the stream is captured into. Returns the command to
    /// wait for, if there is one.
    pub(super) fn issue(&mut self, handle: Handle, operation: Operation) -> Outcome<Option<CommandId>> {
        self.check_implicit(handle)?;
        if self.stream(handle)?.capture.is_some() {
            self.capture_operation(handle, operation)?;
            return Ok(None);
        }
        let serial = self.stream(handle)?.time + 1;
        let label = Label { stream: self.stream(handle)?.id, serial };
        let mut last = None;
        for part in operation.parts() {
            last = Some(self.enqueue(handle, &[], |order| part.work(order, &label))?.command);
        }
        Ok(last)
    }

    /// As [`Self::issue`], for a copy between two devices that is not captured: in a NULL stream it comes after what was issued
    /// to either device before, and before what is issued to either one later.
    pub(super) fn issue_between(
        &mut self,
        handle: Handle,
        copy: Operation,
        devices: [u32; 2],
    ) -> Outcome<Option<CommandId>> {
        if self.stream(handle)?.kind != StreamKind::Legacy {
            return self.issue(handle, copy);
        }
        let concerned = self.contexts.values().filter(|context| devices.contains(&context.device));
        let others: Vec<Handle> =
            concerned.map(|context| context.legacy_stream).filter(|other| *other != handle).collect();
        let mut also = Vec::new();
        for other in &others {
            also.extend(self.before_next(*other)?);
        }
        self.check_implicit(handle)?;
        let label = Label { stream: self.stream(handle)?.id, serial: self.stream(handle)?.time + 1 };
        let moment = self.enqueue(handle, &also, |order| copy.work(order, &label))?;
        for other in others {
            self.end_of(other, moment.clone())?;
        }
        Ok(Some(moment.command))
    }
}

impl Stream {
    pub(super) fn moment(&self) -> Option<Moment> {
        self.last.map(|command| Moment { command, clock: self.clock.clone() })
    }
}

/// Waits until the command has ended; then the host knows what the stream knew, and gets a fault of the context.
pub(super) fn wait_for(stream: Handle, command: Option<CommandId>) -> Outcome {
    let Some(command) = command else { return Ok(()) };
    Engine::global().wait(command);
    let mut state = lock();
    let Some(stream) = state.streams.get(&stream) else { return Ok(()) };
    let (context, clock) = (stream.context, stream.clock.clone());
    state.clock.join(&clock);
    state.check_fault(context)
}

fn create(out: Out<Handle>, flags: u32, priority: i32) -> Outcome {
    out.check("phStream")?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Status::InvalidValue.because(format!("{flags:#x} are no stream flags")));
    }
    let mut state = lock();
    let context = state.usable()?;
    let stream = state.new_stream(context, flags, priority, StreamKind::Created);
    out.set("phStream", stream)
}

entries! { list:
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) { create(stream, flags, LEAST_PRIORITY) }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) { create(stream, flags, priority) }

    fn cuStreamDestroy(stream: Handle) { destroy(stream) }

    fn cuStreamDestroy_v2(stream: Handle) { destroy(stream) }

    fn cuStreamGetPriority | cuStreamGetPriority_ptsz(stream: Handle, priority: Out<i32>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        priority.set("priority", state.stream(stream)?.priority)
    }

    fn cuStreamGetFlags | cuStreamGetFlags_ptsz(stream: Handle, flags: Out<u32>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        flags.set("flags", state.stream(stream)?.flags)
    }

    fn cuStreamGetId | cuStreamGetId_ptsz(stream: Handle, id: Out<u64>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        id.set("streamId", state.stream(stream)?.id)
    }

    fn cuStreamGetDevice | cuStreamGetDevice_ptsz(stream: Handle, device: Out<i32>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        let context = state.stream(stream)?.context;
        device.set("device", state.context(context)?.device.cast_signed())
    }

    fn cuStreamGetCtx | cuStreamGetCtx_ptsz(stream: Handle, context: Out<Handle>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        context.set("pctx", state.stream(stream)?.context)
    }

    fn cuStreamGetCtx_v2 | cuStreamGetCtx_v2_ptsz(stream: Handle, context: Out<Handle>, green: Out<Handle>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        green.set_if_given(Handle::NULL);
        context.set("pCtx", state.stream(stream)?.context)
    }

    fn cuStreamGetGreenCtx(stream: Handle, context: Out<Handle>) {
        lock().resolve_stream(stream)?;
        context.set("phCtx", Handle::NULL)
    }

    fn cuStreamSynchronize | cuStreamSynchronize_ptsz(stream: Handle) {
        let (stream, last) = {
            let mut state = lock();
            let stream = state.resolve_stream(stream)?;
            state.forbid_on_captured(stream, "synchronising a stream")?;
            // Like any action in it, waiting for the legacy stream waits for all blocking streams.
            let legacy = state.stream(stream)?.kind == StreamKind::Legacy;
            if legacy && state.before_next(stream)?.len() > 1 {
                state.issue(stream, Operation::Empty)?;
            }
            (stream, state.stream(stream)?.last)
        };
        wait_for(stream, last)
    }

    fn cuStreamQuery | cuStreamQuery_ptsz(stream: Handle) {
        let (stream, last) = {
            let mut state = lock();
            let stream = state.resolve_stream(stream)?;
            state.forbid_on_captured(stream, "asking whether a stream is done")?;
            let before = state.before_next(stream)?;
            (stream, before)
        };
        if !last.iter().all(|moment| Engine::global().query(moment.command)) {
            return Err(Status::NotReady.into());
        }
        wait_for(stream, last.first().map(|moment| moment.command))
    }

    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(stream: Handle, event: Handle, flags: u32) {
        if flags & !1 != 0 {
            return Err(Status::InvalidValue.because(format!("{flags:#x} are no CUevent_wait_flags")));
        }
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        state.wait_for_event(stream, event, flags & 1 != 0)
    }

    fn cuStreamAddCallback | cuStreamAddCallback_ptsz(stream: Handle, callback: StreamCallback, data: Opaque, flags: u32) {
        let Some(callback) = callback else {
            return Err(Status::InvalidValue.because("the callback is NULL"));
        };
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuStreamAddCallback takes no flags"));
        }
        let given = stream;
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        state.check_implicit(stream)?;
        if state.stream(stream)?.capture.is_some() {
            return Err(Status::StreamCaptureUnsupported.because("callbacks cannot be captured; use cuLaunchHostFunc"));
        }
        let data = data as u64;
        state.enqueue(stream, &[], move |_| {
            let work = move |fault: Option<Status>| {
                let status = fault.unwrap_or(Status::Success) as u32;
                // SAFETY: the caller promised that the callback can be called with this data until it has been called.
                unsafe { callback(given, status, data as Opaque) };
            };
            (None, Work::Always(Box::new(work)))
        })?;
        Ok(())
    }

    fn cuStreamAttachMemAsync | cuStreamAttachMemAsync_ptsz(stream: Handle, pointer: u64, length: usize, flags: u32) {
        if ![1, 2, 4].contains(&flags) {
            return Err(Status::InvalidValue.because(format!("{flags:#x} are no CUmemAttach_flags")));
        }
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        let buffer = state.buffer_at(pointer)?;
        if !buffer.is_managed() || length != 0 && length as u64 != buffer.bytes {
            return Err(Status::InvalidValue.because(format!(
                "{pointer:#x} is not managed memory, or the length is neither 0 nor that of the allocation"
            )));
        }
        state.issue(stream, Operation::Empty).map(|_| ())
    }

    fn cuStreamCopyAttributes | cuStreamCopyAttributes_ptsz(to: Handle, from: Handle) {
        let mut state = lock();
        let (to, from) = (state.resolve_stream(to)?, state.resolve_stream(from)?);
        let attributes = state.stream(from)?.attributes.clone();
        state.stream(to)?.attributes = attributes;
        Ok(())
    }

    fn cuStreamGetAttribute | cuStreamGetAttribute_ptsz(stream: Handle, attribute: u32, value: Out<AttributeValue>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        check_attribute(attribute)?;
        let stream = state.stream(stream)?;
        let mut held = stream.attributes.get(&attribute).copied().unwrap_or(AttributeValue([0; 16]));
        if attribute == PRIORITY {
            held.0[0] = stream.priority.cast_unsigned();
        }
        value.set("value_out", held)
    }

    fn cuStreamSetAttribute | cuStreamSetAttribute_ptsz(stream: Handle, attribute: u32, value: super::entry::In<AttributeValue>) {
        let mut state = lock();
        let stream = state.resolve_stream(stream)?;
        check_attribute(attribute)?;
        let value = value.get("value")?;
        let stream = state.stream(stream)?;
        if attribute == PRIORITY {
            stream.priority = value.0[0].cast_signed().clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
        }
        stream.attributes.insert(attribute, value);
        Ok(())
    }
}

const PRIORITY: u32 = 8;

/// Streams have an access policy window, a synchronisation policy, a priority and memory domains; none changes results.
fn check_attribute(attribute: u32) -> Outcome {
    match attribute {
        1 | 3 | PRIORITY | 9 | 10 => Ok(()),
        _ => Err(Status::InvalidValue.because(format!("CUlaunchAttributeID {attribute} is not of streams"))),
    }
}

fn destroy(handle: Handle) -> Outcome {
    let mut state = lock();
    if handle.is_null() || handle == Handle::LEGACY_STREAM || handle == Handle::THREAD_STREAM {
        return Err(Status::InvalidHandle.because("default streams cannot be destroyed"));
    }
    let stream = state.stream(handle)?;
    if stream.kind != StreamKind::Created {
        return Err(Status::InvalidHandle.because("default streams cannot be destroyed"));
    }
    if let Some(capture) = stream.capture.as_ref().map(|membership| membership.capture) {
        state.invalidate(capture);
    }
    // Its work goes on, and the legacy stream and synchronisations of the context still come after it.
    let last = state.stream(handle)?.moment();
    let (context, blocking) = {
        let stream = state.stream(handle)?;
        (stream.context, stream.flags & NON_BLOCKING == 0)
    };
    if let Some(stream) = state.streams.remove(&handle) {
        state.context(context)?.ended_streams.join(&stream.clock);
    }
    if let (Some(last), true) = (last, blocking) {
        let legacy = state.context(context)?.legacy_stream;
        state.enqueue(legacy, &[last], |_| (None, Work::Always(Box::new(|_| ()))))?;
    }
    Ok(())
}

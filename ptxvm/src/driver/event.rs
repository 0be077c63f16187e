//! Events.

use super::clock::Clock;
use super::engine::{Engine, Work};
use super::entry::{Out, entries};
use super::operation::Operation;
use super::state::{Kind, State, known, lock};
use super::status::{Failure, Outcome, Status};
use super::stream::Moment;
use super::types::Handle;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
const EXTERNAL: u32 = 1;

pub(super) struct Event {
    pub(super) context: Handle,
    pub(super) flags: u32,
    pub(super) record: Option<Record>,
    /// Last recorded in a capture: which one, and the nodes that it stands for.
    pub(super) captured: Option<(u64, Vec<Handle>)>,
}

/// The last time that an event was recorded.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) moment: Moment,
    /// When it was reached.
    pub(super) reached: Arc<OnceLock<Instant>>,
}

/// Work that notes the time.
pub(super) fn note_time(reached: &Arc<OnceLock<Instant>>) -> Work {
    let reached = Arc::clone(reached);
    Work::Run(Box::new(move || {
        // Set once only: every record has its own.
        let _ = reached.set(Instant::now());
        Ok(())
    }))
}

impl State {
    pub(super) fn event(&mut self, handle: Handle) -> Outcome<&mut Event> {
        known(&mut self.events, handle, "event")
    }

    fn record_event(&mut self, handle: Handle, stream: Handle, flags: u32) -> Outcome {
        if flags & !EXTERNAL != 0 {
            return Err(Status::InvalidValue.because(format!("{flags:#x} are no CUevent_record_flags")));
        }
        let stream = self.resolve_stream(stream)?;
        let stream_context = self.stream(stream)?.context;
        let event_context = self.event(handle)?.context;
        if event_context != stream_context {
            return Err(Status::InvalidHandle.because(format!(
                "event {handle:#x} is of context {event_context:#x}, stream {stream:#x} of {stream_context:#x}"
            )));
        }
        self.check_implicit(stream)?;
        if let Some((capture, frontier)) = self.capturing(stream)? {
            if flags & EXTERNAL != 0 {
                return self.capture_operation(stream, Operation::RecordEvent(handle));
            }
            let event = self.event(handle)?;
            event.captured = Some((capture, frontier));
            event.record = None;
            return Ok(());
        }
        let reached = Arc::new(OnceLock::new());
        let moment = self.enqueue(stream, &[], |_| (None, note_time(&reached)))?;
        let event = self.event(handle)?;
        event.captured = None;
        event.record = Some(Record { moment, reached });
        Ok(())
    }

    /// What comes next in the stream comes after what the event stands for.
    pub(super) fn wait_for_event(&mut self, stream: Handle, event: Handle, external: bool) -> Outcome {
        let (captured, record) = {
            let event = self.event(event)?;
            (event.captured.clone(), event.record.clone())
        };
        if let Some((capture, nodes)) = captured {
            return self.join_capture(stream, capture, &nodes);
        }
        self.check_implicit(stream)?;
        if self.capturing(stream)?.is_some() {
            if external {
                return self.capture_operation(stream, Operation::WaitEvent(event));
            }
            let Some(record) = record else { return Ok(()) };
            let reason = "the event was recorded outside the capture; captured work cannot depend on it";
            let _ = record;
            self.invalidate_of(stream);
            return Err(Status::StreamCaptureIsolation.because(reason));
        }
        let Some(record) = record else { return Ok(()) };
        self.enqueue(stream, &[record.moment], |_| (None, Work::Always(Box::new(|_| ()))))?;
        Ok(())
    }
}

/// The record to look at, after the checks that asking and waiting share.
fn recorded(handle: Handle, what: &str) -> Outcome<Option<(Handle, Record)>> {
    let mut state = lock();
    let event = state.event(handle)?;
    let (context, captured, record) = (event.context, event.captured.is_some(), event.record.clone());
    state.check_fault(context)?;
    if captured {
        return Err(Status::CapturedEvent.because("the event was last recorded in a capture"));
    }
    state.forbid_in_capture(what)?;
    Ok(record.map(|record| (context, record)))
}

fn finish(context: Handle, clock: &Clock) -> Outcome {
    let mut state = lock();
    state.clock.join(clock);
    state.check_fault(context)
}

fn elapsed(out: Out<f32>, start: Handle, end: Handle) -> Outcome {
    out.check("pMilliseconds")?;
    let mut state = lock();
    let mut times = [None; 2];
    for (time, handle) in times.iter_mut().zip([start, end]) {
        let event = state.event(handle)?;
        if event.captured.is_some() {
            return Err(Status::CapturedEvent.because("an event was last recorded in a capture"));
        }
        let Some(record) = &event.record else {
            return Err(Status::InvalidHandle.because(format!("event {handle:#x} was never recorded")));
        };
        if event.flags & DISABLE_TIMING != 0 {
            return Err(
                Status::InvalidHandle.because(format!("event {handle:#x} was created with CU_EVENT_DISABLE_TIMING"))
            );
        }
        let context = event.context;
        *time = record.reached.get().copied();
        state.check_fault(context)?;
    }
    let [Some(start), Some(end)] = times else { return Err(Status::NotReady.into()) };
    let later = end.saturating_duration_since(start).as_secs_f64();
    let earlier = start.saturating_duration_since(end).as_secs_f64();
    out.set("pMilliseconds", ((later - earlier) * 1e3) as f32)
}

entries! { list:
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        event.check("phEvent")?;
        if flags & !(1 | DISABLE_TIMING | INTERPROCESS) != 0 {
            return Err(Status::InvalidValue.because(format!("{flags:#x} are no event flags")));
        }
        if flags & INTERPROCESS != 0 {
            if flags & DISABLE_TIMING == 0 {
                return Err(Status::InvalidValue.because("CU_EVENT_INTERPROCESS needs CU_EVENT_DISABLE_TIMING"));
            }
            return Err(Status::NotSupported.because("events between processes are not modelled"));
        }
        let mut state = lock();
        let context = state.usable()?;
        let handle = state.new_handle(Kind::Event);
        state.events.insert(handle, Event { context, flags, record: None, captured: None });
        event.set("phEvent", handle)
    }

    fn cuEventDestroy(event: Handle) { destroy(event) }

    fn cuEventDestroy_v2(event: Handle) { destroy(event) }

    fn cuEventRecord | cuEventRecord_ptsz(event: Handle, stream: Handle) { lock().record_event(event, stream, 0) }

    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(event: Handle, stream: Handle, flags: u32) {
        lock().record_event(event, stream, flags)
    }

    fn cuEventQuery(event: Handle) {
        let Some((context, record)) = recorded(event, "asking for an event")? else { return Ok(()) };
        if !Engine::global().query(record.moment.command) {
            return Err(Failure::from(Status::NotReady));
        }
        finish(context, &record.moment.clock)
    }

    fn cuEventSynchronize(event: Handle) {
        let Some((context, record)) = recorded(event, "waiting for an event")? else { return Ok(()) };
        Engine::global().wait(record.moment.command);
        finish(context, &record.moment.clock)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) { elapsed(milliseconds, start, end) }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) { elapsed(milliseconds, start, end) }

    fn cuCtxRecordEvent(context: Handle, event: Handle) {
        let mut state = lock();
        state.context(context)?;
        state.check_fault(context)?;
        state.event(event)?;
        let streams: Vec<Handle> =
            state.streams.iter().filter(|(_, stream)| stream.context == context).map(|(handle, _)| *handle).collect();
        let moments: Vec<Moment> = streams.iter().filter_map(|stream| state.streams[stream].moment()).collect();
        if streams.iter().any(|stream| state.streams[stream].capture.is_some()) {
            return Err(Status::StreamCaptureUnsupported.because("a stream of the context is capturing"));
        }
        let reached = Arc::new(OnceLock::new());
        let point = (super::clock::new_timeline(), 1);
        let moment = state.submit(context, 0, point, &moments, |_| (None, note_time(&reached)))?;
        let event = state.event(event)?;
        event.captured = None;
        event.record = Some(Record { moment, reached });
        Ok(())
    }

    fn cuCtxWaitEvent(context: Handle, event: Handle) {
        let mut state = lock();
        state.context(context)?;
        state.check_fault(context)?;
        let streams: Vec<Handle> =
            state.streams.iter().filter(|(_, stream)| stream.context == context).map(|(handle, _)| *handle).collect();
        if streams.iter().any(|stream| state.streams[stream].capture.is_some()) {
            return Err(Status::StreamCaptureUnsupported.because("a stream of the context is capturing"));
        }
        streams.into_iter().try_for_each(|stream| state.wait_for_event(stream, event, false))
    }
}

fn destroy(handle: Handle) -> Outcome {
    let mut state = lock();
    state.event(handle)?;
    state.events.remove(&handle);
    Ok(())
}

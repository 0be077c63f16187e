//! Times on a card, taken by its own events.
//!
//! What runs here works on whatever the arena holds: neither the upload of the input nor the download of results is counted, and
//! launches that add to their output add to it again and again. Counters are left as they were found, so later runs are right.

use super::{CudaEngine, CudaError};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream};
use std::sync::Arc;

/// One launch of an engine, many times in a graph, to be timed again and again. It runs on what the engine's arena holds and leaves
/// it changed.
pub struct TimedLaunch<'e> {
    stream: Arc<CudaStream>,
    graph: CudaGraph,
    repeats: usize,
    /// Before and after.
    events: [CudaEvent; 2],
    /// The launch's arguments point into it.
    _engine: std::marker::PhantomData<&'e CudaEngine>,
}

/// How a run's launches reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launching {
    /// As one CUDA graph, the way [`CudaEngine::run`] does.
    Graph,
    /// One by one.
    Single,
}

impl CudaEngine {
    /// Launch `index`, `repeats` times in a graph.
    ///
    /// # Errors
    /// If the driver refuses.
    ///
    /// # Panics
    /// If the program has no launch `index`.
    pub fn timed_launch(&mut self, index: usize, repeats: usize) -> Result<TimedLaunch<'_>, CudaError> {
        let stream = Arc::clone(self.stream());
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(CudaError::of("beginning a capture"))?;
        let launched = (0..repeats).try_for_each(|_| self.launches[index].run(&stream));
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).map_err(CudaError::of("ending a capture"));
        launched?;
        let invalid = || CudaError::Driver {
            what: "ending a capture".into(),
            source: DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        };
        let graph = graph?.ok_or_else(invalid)?;
        let events = [event(&stream)?, event(&stream)?];
        Ok(TimedLaunch { stream, graph, repeats, events, _engine: std::marker::PhantomData })
    }

    /// Milliseconds of each of `runs` runs that follow one another without the host waiting between them.
    ///
    /// # Errors
    /// If a launch fails, or failed before.
    pub fn time_runs(&mut self, launching: Launching, runs: usize) -> Result<Vec<f64>, CudaError> {
        let mut events = vec![self.mark()?];
        for _ in 0..runs {
            match launching {
                Launching::Graph => self.launch_all()?,
                Launching::Single => self.launch_singly()?,
            }
            events.push(self.mark()?);
        }
        between(&events)
    }

    /// Milliseconds of each launch of one run, in the program's order. The device is given `ahead` whole runs before it, so that
    /// no launch waits for the host: with enough of them, what is measured is the launch and the step from one to the next.
    ///
    /// # Errors
    /// As [`CudaEngine::time_runs`].
    pub fn time_launches(&mut self, ahead: usize) -> Result<Vec<f64>, CudaError> {
        for _ in 0..ahead {
            self.launch_all()?;
        }
        let stream = Arc::clone(self.stream());
        let mut events = vec![self.mark()?];
        for index in 0..self.launches.len() {
            self.launches[index].run(&stream)?;
            events.push(self.mark()?);
        }
        between(&events)
    }

    fn launch_singly(&mut self) -> Result<(), CudaError> {
        let stream = Arc::clone(self.stream());
        self.launches.iter_mut().try_for_each(|launch| launch.run(&stream))
    }

    /// An event that the device reaches when everything before it is done.
    fn mark(&self) -> Result<CudaEvent, CudaError> {
        let event = self.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map_err(CudaError::of("recording an event"))
    }
}

impl TimedLaunch<'_> {
    /// Microseconds of one launch, now: the mean of the graph's.
    ///
    /// # Errors
    /// If the kernel fails.
    pub fn measure(&self) -> Result<f64, CudaError> {
        let [begin, end] = &self.events;
        begin.record(&self.stream).map_err(CudaError::of("recording an event"))?;
        self.graph.launch().map_err(CudaError::of("launching a graph"))?;
        end.record(&self.stream).map_err(CudaError::of("recording an event"))?;
        Ok(between(&self.events)?[0] * 1e3 / self.repeats as f64)
    }
}

fn event(stream: &CudaStream) -> Result<CudaEvent, CudaError> {
    let event = stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    event.map_err(CudaError::of("making an event"))
}

/// Milliseconds from each event to the next; waits for the last.
fn between(events: &[CudaEvent]) -> Result<Vec<f64>, CudaError> {
    if let Some(last) = events.last() {
        last.synchronize().map_err(CudaError::of("running launches that are timed"))?;
    }
    let pairs = events.windows(2).map(|pair| pair[0].elapsed_ms(&pair[1]).map(f64::from));
    pairs.collect::<Result<_, _>>().map_err(CudaError::of("reading the time between events"))
}

/// The median; the upper one of two, not a number of none.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

//! Times on a card, taken by its own events.

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
    begin: CudaEvent,
    end: CudaEvent,
    /// The launch's arguments point into it.
    _engine: std::marker::PhantomData<&'e CudaEngine>,
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
        let [begin, end] = [event(&stream)?, event(&stream)?];
        Ok(TimedLaunch { stream, graph, repeats, begin, end, _engine: std::marker::PhantomData })
    }

    /// Microseconds of the whole network as a graph, without copies, of each of `rounds` runs; one more before them warms up.
    ///
    /// # Errors
    /// If a kernel fails.
    pub fn timed_runs(&mut self, rounds: usize) -> Result<Vec<f64>, CudaError> {
        let stream = Arc::clone(self.stream());
        let [begin, end] = [event(&stream)?, event(&stream)?];
        let mut times = Vec::with_capacity(rounds);
        for round in 0..=rounds {
            begin.record(&stream).map_err(CudaError::of("recording an event"))?;
            self.launch_all()?;
            let time = between(&stream, &begin, &end)?;
            if round > 0 {
                times.push(time);
            }
        }
        Ok(times)
    }
}

impl TimedLaunch<'_> {
    /// Microseconds of one launch, now: the mean of the graph's.
    ///
    /// # Errors
    /// If the kernel fails.
    pub fn measure(&self) -> Result<f64, CudaError> {
        self.begin.record(&self.stream).map_err(CudaError::of("recording an event"))?;
        self.graph.launch().map_err(CudaError::of("launching a graph"))?;
        Ok(between(&self.stream, &self.begin, &self.end)? / self.repeats as f64)
    }
}

fn event(stream: &CudaStream) -> Result<CudaEvent, CudaError> {
    let event = stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    event.map_err(CudaError::of("making an event"))
}

/// Records `end` and waits for it.
fn between(stream: &CudaStream, begin: &CudaEvent, end: &CudaEvent) -> Result<f64, CudaError> {
    end.record(stream).map_err(CudaError::of("recording an event"))?;
    let milliseconds = begin.elapsed_ms(end).map_err(CudaError::of("timing a launch"))?;
    Ok(f64::from(milliseconds) * 1e3)
}

/// The median; the upper one of two, not a number of none.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

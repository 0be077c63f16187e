//! Times by events of the device's own clock.
//!
//! A run here works on whatever the arena holds: neither the upload of the input nor the download of results is counted, and
//! launches that add to their output add to it again and again. Counters are left as they were found, so later runs are right.

use super::CudaEngine;
use crate::engine::cuda::CudaError;
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

/// How a run's launches reach the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launching {
    /// As one CUDA graph, the way [`CudaEngine::run`] does.
    Graph,
    /// One by one.
    Single,
}

impl CudaEngine {
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
        let mut events = vec![self.mark()?];
        for index in 0..self.launches.len() {
            self.launches[index].run(&self.stream)?;
            events.push(self.mark()?);
        }
        between(&events)
    }

    fn launch_singly(&mut self) -> Result<(), CudaError> {
        self.launches.iter_mut().try_for_each(|launch| launch.run(&self.stream))
    }

    /// An event that the device reaches when everything before it is done.
    fn mark(&self) -> Result<CudaEvent, CudaError> {
        let event = self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map_err(CudaError::of("recording an event"))
    }
}

/// Milliseconds from each event to the next; waits for the last.
fn between(events: &[CudaEvent]) -> Result<Vec<f64>, CudaError> {
    if let Some(last) = events.last() {
        last.synchronize().map_err(CudaError::of("running launches that are timed"))?;
    }
    let pairs = events.windows(2).map(|pair| pair[0].elapsed_ms(&pair[1]).map(f64::from));
    pairs.collect::<Result<_, _>>().map_err(CudaError::of("reading the time between events"))
}

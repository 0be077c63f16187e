//! What happens before what, as far as the calls of the program order it.
//!
//! A clock holds, for every timeline, the time up to which everything on it has happened before. A stream is a timeline
//! (and so is a branch of a graph), and one more stands for the host: calls from all its threads are ordered as they
//! reach the driver, since the program's own locks and channels between threads cannot be seen. Clocks are kept only
//! where the checked mode uses them.

use crate::machine::Order;
use crate::settings::settings;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The timeline of the host.
pub(super) const HOST: u64 = 0;

/// For every timeline the time up to which it is known.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Clock(Arc<BTreeMap<u64, u64>>);

impl Clock {
    /// Takes over what `other` knows.
    pub(super) fn join(&mut self, other: &Clock) {
        if Arc::ptr_eq(&self.0, &other.0) || other.0.is_empty() {
            return;
        }
        if self.0.is_empty() {
            self.0 = Arc::clone(&other.0);
            return;
        }
        let own = Arc::make_mut(&mut self.0);
        for (timeline, time) in other.0.iter() {
            let known = own.entry(*timeline).or_insert(0);
            *known = (*known).max(*time);
        }
    }

    /// Moves `timeline` on to `time`.
    pub(super) fn set(&mut self, timeline: u64, time: u64) {
        if settings().checked {
            Arc::make_mut(&mut self.0).insert(timeline, time);
        }
    }

    /// The order of what happens at `time` of `timeline` with this clock.
    pub(super) fn order(&self, timeline: u64, time: u64) -> Order {
        Order { before: Arc::clone(&self.0), timeline, time }
    }
}

/// A new timeline.
pub(super) fn new_timeline() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(HOST + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs `work` as something that happens at `order`, for the checkers; `host`: the host does it itself, now.
pub(super) fn happening_at<T>(order: &Order, label: &str, host: bool, work: impl FnOnce() -> T) -> T {
    let _acting = crate::monitor::host::acting(order, label, host);
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(times: &[(u64, u64)]) -> Clock {
        Clock(Arc::new(times.iter().copied().collect()))
    }

    #[test]
    fn joining_keeps_the_later_time_of_every_timeline() {
        let mut joined = clock(&[(1, 5), (2, 1)]);
        joined.join(&clock(&[(2, 3), (4, 4), (1, 2)]));
        assert_eq!(joined, clock(&[(1, 5), (2, 3), (4, 4)]));
        let mut empty = Clock::default();
        empty.join(&joined);
        assert_eq!(empty, joined);
    }

    #[test]
    fn joining_leaves_copies_alone() {
        let mut first = clock(&[(1, 1)]);
        let copy = first.clone();
        first.join(&clock(&[(2, 2)]));
        assert_eq!(copy, clock(&[(1, 1)]));
    }
}

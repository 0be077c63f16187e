//! A queue between threads that make things and threads that work on them, where a worker may hand back what it could not do.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// A bounded queue. It ends when every maker is done, nothing waits and nothing is in work; until then a worker without work waits,
/// since another may yet hand something back.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    /// Told of every change.
    changed: Condvar,
    capacity: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    makers: usize,
    in_work: usize,
    stopped: bool,
}

impl<T> Queue<T> {
    /// For that many makers, with room for `capacity` things that wait.
    pub(super) fn new(makers: usize, capacity: usize) -> Self {
        let state = State { waiting: VecDeque::new(), makers, in_work: 0, stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), capacity: capacity.max(1) }
    }

    /// Waits for room and puts a thing in; hands it back if the queue was stopped.
    pub(super) fn put(&self, thing: T) -> Result<(), T> {
        let full = |state: &mut State<T>| !state.stopped && state.waiting.len() >= self.capacity;
        let mut state = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Err(thing);
        }
        state.waiting.push_back(thing);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for a thing to work on; none if the queue has ended or was stopped.
    pub(super) fn take(&self) -> Option<Taken<'_, T>> {
        let idle = |state: &mut State<T>| {
            !state.stopped && state.waiting.is_empty() && (state.makers > 0 || state.in_work > 0)
        };
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return None;
        }
        let thing = state.waiting.pop_front()?;
        state.in_work += 1;
        self.changed.notify_all();
        Some(Taken { queue: self, thing: Some(thing) })
    }

    /// One maker's part: the queue hears when it is over, or stops if its thread panics.
    pub(super) fn maker(&self) -> Maker<'_, T> {
        Maker(self)
    }

    /// Nothing more is put in or taken out.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// What was put in and never taken, or handed back.
    pub(super) fn into_rest(self) -> VecDeque<T> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).waiting
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thing in work, until this is dropped.
pub(super) struct Taken<'a, T> {
    queue: &'a Queue<T>,
    thing: Option<T>,
}

impl<T> Taken<'_, T> {
    /// The thing.
    pub(super) fn thing(&mut self) -> &mut T {
        self.thing.as_mut().expect("there until it is handed back or finished")
    }

    /// Puts it in again, before all others.
    pub(super) fn hand_back(mut self) {
        if let Some(thing) = self.thing.take() {
            self.queue.lock().waiting.push_front(thing);
        }
    }

    /// It is done with.
    pub(super) fn finish(mut self) -> T {
        self.thing.take().expect("there until it is handed back or finished")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.in_work -= 1;
        state.stopped |= std::thread::panicking();
        self.queue.changed.notify_all();
    }
}

/// See [`Queue::maker`].
pub(super) struct Maker<'a, T>(&'a Queue<T>);

impl<T> Drop for Maker<'_, T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.makers -= 1;
        state.stopped |= std::thread::panicking();
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn what_is_handed_back_is_done_by_another_worker_that_waited_for_it() {
        let (queue, done) = (&Queue::new(1, 4), &AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let maker = queue.maker();
            queue.put(7).unwrap();
            drop(maker);
            let mut first = queue.take().unwrap();
            assert_eq!(*first.thing(), 7);
            let (begins, begun) = std::sync::mpsc::channel();
            let second = scope.spawn(move || {
                begins.send(()).unwrap();
                while let Some(taken) = queue.take() {
                    done.fetch_add(taken.finish(), Ordering::Relaxed);
                }
            });
            begun.recv().unwrap();
            // Time for it to look: the queue is empty, and not at its end.
            (0..10_000).for_each(|_| std::thread::yield_now());
            first.hand_back();
            second.join().unwrap();
        });
        assert_eq!(done.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn what_was_handed_back_comes_first() {
        let queue = Queue::new(1, 4);
        let maker = queue.maker();
        (1..4).for_each(|thing| queue.put(thing).unwrap());
        drop(maker);
        queue.take().unwrap().hand_back();
        let order: Vec<i32> = std::iter::from_fn(|| queue.take().map(Taken::finish)).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn a_stopped_queue_lets_makers_and_workers_go_and_keeps_the_rest() {
        let queue = Queue::new(2, 1);
        std::thread::scope(|scope| {
            queue.put(1).unwrap();
            let waits = scope.spawn(|| queue.put(2));
            queue.stop();
            assert_eq!(waits.join().unwrap(), Err(2));
            assert!(queue.take().is_none());
        });
        assert_eq!(queue.into_rest(), [1]);
    }

    #[test]
    fn a_maker_that_panics_ends_the_queue() {
        let queue = Queue::<i32>::new(2, 1);
        std::thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _maker = queue.maker();
                panic!("on purpose");
            });
            assert!(queue.take().is_none());
            assert!(panics.join().is_err());
        });
    }
}

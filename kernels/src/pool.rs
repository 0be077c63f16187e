//! One persistent thread pool: tasks of one run are taken from a shared counter, workers spin briefly between runs and
//! then sleep. A network is some hundred runs of tens of microseconds, so waking must cost less than a system call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Task number and worker number.
type Task = dyn Fn(usize, usize) + Sync;

/// Persistent worker threads that share out numbered tasks.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Number of the current run; workers wait for it to change.
    run: AtomicUsize,
    /// The current run's task, whose lifetime `Pool::run` guards, and how many there are. Workers enter under this lock, so
    /// that after it has been emptied no further one does: a run never waits for a worker that sleeps.
    task: Mutex<Option<(*const Task, usize)>>,
    next: AtomicUsize,
    /// Workers inside the current run.
    inside: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    wake: Condvar,
    asleep: Mutex<usize>,
}

// SAFETY: the raw task pointer is only dereferenced during `Pool::run`, which outlives every use of it.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Pauses before a waiting thread begins to yield: some 20 µs.
const SPINS: usize = 500;

/// Yields before a worker sleeps: some 50 µs if nobody else wants the core, longer than the gap between two kernels.
const YIELDS: usize = 100;

/// Waits a little: with a pause at first, then by letting other threads of this core go on. With fewer free cores than
/// threads, spinning alone would keep the core from the very thread that is waited for.
fn pause(turn: usize) {
    if turn < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; at least one.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            run: AtomicUsize::new(0),
            task: Mutex::new(None),
            next: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake: Condvar::new(),
            asleep: Mutex::new(0),
        });
        let workers = (1..threads.max(1))
            .map(|worker| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("segface-{worker}"))
                    .spawn(move || shared.work(worker))
                    .expect("the operating system gives a thread")
            })
            .collect();
        Self { shared, workers }
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(i, worker)` for i in 0..tasks and returns when all are done. `worker` is below [`Pool::threads`] and
    /// belongs to one thread for the time of the run.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run(&mut self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|i| task(i, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function does not return before every worker has let go of it.
        let erased: *const Task = unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static Task>(task) };
        shared.next.store(0, Ordering::Relaxed);
        shared.set_task(Some((erased, tasks)));
        shared.run.fetch_add(1, Ordering::SeqCst);
        if *shared.asleep.lock().expect("no task runs under this lock") > 0 {
            shared.wake.notify_all();
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.take_tasks(task, tasks, 0)));
        shared.set_task(None);
        let mut turn = 0;
        while shared.inside.load(Ordering::Acquire) != 0 {
            pause(turn);
            turn += 1;
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "a kernel task panicked on a worker thread");
    }
}

impl Shared {
    fn set_task(&self, task: Option<(*const Task, usize)>) {
        *self.task.lock().expect("no task runs under this lock") = task;
    }

    /// The current task, if the run is not over; the caller is inside then.
    fn enter(&self) -> Option<(*const Task, usize)> {
        let task = self.task.lock().expect("no task runs under this lock");
        if task.is_some() {
            self.inside.fetch_add(1, Ordering::Relaxed);
        }
        *task
    }

    fn take_tasks(&self, task: &(dyn Fn(usize, usize) + Sync), tasks: usize, worker: usize) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            task(index, worker);
        }
    }

    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_run(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some((task, tasks)) = self.enter() {
                // SAFETY: `Pool::run` keeps the task alive until nobody is inside.
                let task = unsafe { &*task };
                let outcome =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.take_tasks(task, tasks, worker)));
                if outcome.is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                self.inside.fetch_sub(1, Ordering::Release);
            }
        }
    }

    fn wait_for_run(&self, seen: usize) -> usize {
        for turn in 0..SPINS + YIELDS {
            let run = self.run.load(Ordering::Acquire);
            if run != seen {
                return run;
            }
            pause(turn);
        }
        let mut asleep = self.asleep.lock().expect("no task runs under this lock");
        *asleep += 1;
        while self.run.load(Ordering::SeqCst) == seen {
            asleep = self.wake.wait(asleep).expect("no task runs under this lock");
        }
        *asleep -= 1;
        self.run.load(Ordering::Acquire)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.run.fetch_add(1, Ordering::SeqCst);
        drop(self.shared.asleep.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never panics outside a task, and task panics are caught.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_thread_count() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i, worker| {
                    assert!(worker < threads);
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_runs_lose_and_repeat_nothing() {
        let mut pool = Pool::new(3);
        for run in 0..20_000usize {
            let tasks = 2 + run % 5;
            let sum = AtomicUsize::new(0);
            pool.run(tasks, &|i, _| {
                sum.fetch_add(1 << (8 * i), Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), (0..tasks).map(|i| 1 << (8 * i)).sum());
        }
    }

    #[test]
    fn a_panicking_task_reaches_the_caller_and_the_pool_survives() {
        let mut pool = Pool::new(2);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(8, &|i, _| assert!(i != 5, "planted"));
        }));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(8, &|i, _| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 28);
    }
}

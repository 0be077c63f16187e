//! The executor of device work: a set of commands, each with the commands it must come after.
//!
//! Streams, events and graphs only decide which commands a new one comes after; what is ready runs here, as concurrently
//! as the order allows. With a seed, one thread runs one ready command after another in an order that the seed picks,
//! and only when a caller waits for something: work is as late as is legal, so that a missing wait shows up.

use super::status::{Failure, Status};
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub(super) type CommandId = u64;

/// A piece of device work.
pub(super) struct Command {
    /// The context that it belongs to, which a fault of it spoils.
    pub(super) context: u64,
    /// Commands that must have ended before.
    pub(super) after: Vec<CommandId>,
    /// Of several that are ready, the lowest goes first.
    pub(super) priority: i32,
    /// Asked again and again, once `after` holds, until it says yes.
    pub(super) condition: Option<Box<dyn Fn() -> bool + Send>>,
    pub(super) work: Work,
}

/// What a command does when its turn comes.
pub(super) enum Work {
    /// Skipped in a context with a fault; its own failure becomes the fault of the context.
    Run(Box<dyn FnOnce() -> Result<(), Failure> + Send>),
    /// Runs in any case and hears of the fault.
    Always(Box<dyn FnOnce(Option<Status>) + Send>),
    /// A function of the program, which may wait for something that the program does meanwhile. Skipped as `Run` is.
    Host(Box<dyn FnOnce() + Send>),
}

struct Node {
    command: Command,
    waiting_for: usize,
    dependents: Vec<CommandId>,
}

struct Inner {
    next: CommandId,
    /// Commands that have not ended.
    nodes: HashMap<CommandId, Node>,
    ready: BTreeSet<(i32, CommandId)>,
    /// What only waits for its condition.
    conditional: Vec<CommandId>,
    unfinished: HashMap<u64, BTreeSet<CommandId>>,
    faults: HashMap<u64, Failure>,
    threads: usize,
    idle: usize,
    /// Callers that wait.
    waiters: usize,
    /// With a seed: commands that may run though nobody waits.
    steps: usize,
    /// With a seed: what runs, and until when the others leave it alone.
    running: HashMap<CommandId, Instant>,
    random: u64,
}

/// How ready commands are run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// At once, several at a time.
    Concurrent,
    /// One at a time, late, in the order that the seed picks.
    Seeded(u64),
}

pub(super) struct Engine {
    policy: Policy,
    inner: Mutex<Inner>,
    /// Something is ready or allowed to run.
    start: Condvar,
    /// Something has ended.
    ended: Condvar,
}

/// More streams than this with work at the same time wait for one another.
const MOST_THREADS: usize = 64;

/// How often a condition on memory is looked at.
const CONDITION_INTERVAL: Duration = Duration::from_micros(100);

/// With a seed: work that nobody has waited for so long is run all the same, for hosts that watch memory instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// With a seed: how long a function of the program may take before other streams go on beside it. Device work gets
/// [`PATIENCE`]: one kernel may wait for another, although only one runs.
const HOST_PATIENCE: Duration = Duration::from_millis(50);

/// How long a question with a seed waits for the command that it lets run.
const QUESTION: Duration = Duration::from_millis(200);

impl Engine {
    /// The engine of the process.
    pub(super) fn global() -> &'static Arc<Engine> {
        static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
        ENGINE.get_or_init(|| {
            crate::monitor::host::ask_whether_idle(|| Engine::global().lock().nodes.is_empty());
            Engine::new(crate::settings::settings().seed.map_or(Policy::Concurrent, Policy::Seeded))
        })
    }

    pub(super) fn new(policy: Policy) -> Arc<Engine> {
        let random = match policy {
            Policy::Seeded(seed) => seed,
            Policy::Concurrent => 0,
        };
        Arc::new(Engine {
            policy,
            inner: Mutex::new(Inner {
                next: 1,
                nodes: HashMap::new(),
                ready: BTreeSet::new(),
                conditional: Vec::new(),
                unfinished: HashMap::new(),
                faults: HashMap::new(),
                threads: 0,
                idle: 0,
                waiters: 0,
                steps: 0,
                running: HashMap::new(),
                random,
            }),
            start: Condvar::new(),
            ended: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seeded(&self) -> bool {
        self.policy != Policy::Concurrent
    }

    /// Takes a command; it runs when what it comes after has ended.
    pub(super) fn submit(self: &Arc<Self>, command: Command) -> CommandId {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let mut after = command.after.clone();
        after.sort_unstable();
        after.dedup();
        let mut waiting_for = 0;
        for before in after {
            if let Some(node) = inner.nodes.get_mut(&before) {
                node.dependents.push(id);
                waiting_for += 1;
            }
        }
        inner.unfinished.entry(command.context).or_default().insert(id);
        inner.nodes.insert(id, Node { command, waiting_for, dependents: Vec::new() });
        if waiting_for == 0 {
            inner.release(id);
        }
        self.employ(inner);
        id
    }

    /// Wakes or makes threads for what is ready.
    fn employ(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        if inner.ready.is_empty() && inner.conditional.is_empty() {
            return;
        }
        if inner.idle == 0 && inner.threads < MOST_THREADS {
            inner.threads += 1;
            let engine = Arc::clone(self);
            let thread = std::thread::Builder::new().name("ptxvm stream".to_owned());
            if thread.spawn(move || engine.serve()).is_err() {
                inner.threads -= 1;
            }
        } else {
            drop(inner);
            self.start.notify_one();
        }
    }

    fn serve(self: Arc<Self>) {
        let mut inner = self.lock();
        loop {
            inner.look_at_conditions();
            let left_alone = if self.seeded() { inner.left_alone() } else { None };
            let allowed = !self.seeded() || left_alone.is_none() && (inner.waiters > 0 || inner.steps > 0);
            let chosen = if allowed { inner.choose(self.seeded()) } else { None };
            let Some(id) = chosen else {
                inner = self.rest(inner, left_alone);
                continue;
            };
            inner.steps = inner.steps.saturating_sub(1);
            let (context, work) = inner.take(id);
            let fault = inner.faults.get(&context).map(|fault| fault.status);
            if self.seeded() {
                let patience = if matches!(work, Work::Host(_)) { HOST_PATIENCE } else { PATIENCE };
                inner.running.insert(id, Instant::now() + patience);
            }
            // Somebody must look after what else is ready: this command may take long, or wait for the others.
            self.employ(inner);
            let result = perform(work, fault);
            inner = self.lock();
            inner.running.remove(&id);
            if let Err(failure) = result {
                inner.faults.entry(context).or_insert(failure);
            }
            inner.end(id);
            if inner.waiters > 0 || self.seeded() {
                self.ended.notify_all();
            }
        }
    }

    /// Waits until there may be something to do.
    fn rest<'a>(&self, mut inner: MutexGuard<'a, Inner>, left_alone: Option<Duration>) -> MutexGuard<'a, Inner> {
        if inner.ready.is_empty() {
            inner.steps = 0;
            self.ended.notify_all();
        }
        inner.idle += 1;
        let late = self.seeded() && !inner.ready.is_empty() && left_alone.is_none();
        let pause = match (inner.conditional.is_empty(), left_alone) {
            (false, _) => Some(CONDITION_INTERVAL),
            (true, Some(left)) if !inner.ready.is_empty() => Some(left),
            (true, _) => late.then_some(PATIENCE),
        };
        let mut timed_out = false;
        if let Some(pause) = pause {
            let (guard, result) = self.start.wait_timeout(inner, pause).unwrap_or_else(PoisonError::into_inner);
            (inner, timed_out) = (guard, result.timed_out());
        } else {
            inner = self.start.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.idle -= 1;
        if timed_out && late && pause == Some(PATIENCE) {
            inner.steps = inner.ready.len();
        }
        inner
    }

    /// Whether the command has ended. With a seed, asking lets one command run.
    pub(super) fn query(&self, id: CommandId) -> bool {
        self.query_until(|inner| !inner.nodes.contains_key(&id))
    }

    fn query_until(&self, reached: impl Fn(&Inner) -> bool) -> bool {
        let mut inner = self.lock();
        if reached(&inner) || !self.seeded() {
            return reached(&inner);
        }
        if !inner.ready.is_empty() {
            let before = inner.nodes.len();
            let limit = Instant::now() + QUESTION;
            inner.steps = 1;
            self.start.notify_all();
            while inner.nodes.len() >= before
                && (inner.steps > 0 || !inner.running.is_empty())
                && Instant::now() < limit
            {
                let wait = self.ended.wait_timeout(inner, QUESTION);
                inner = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        reached(&inner)
    }

    /// Returns once the command has ended.
    pub(super) fn wait(&self, id: CommandId) {
        self.wait_until(|inner| !inner.nodes.contains_key(&id));
    }

    /// Returns once all that was submitted to the context until now has ended.
    pub(super) fn wait_for_context(&self, context: u64) {
        let limit = self.lock().next;
        self.wait_until(|inner| {
            inner.unfinished.get(&context).and_then(BTreeSet::first).is_none_or(|first| *first >= limit)
        });
    }

    fn wait_until(&self, reached: impl Fn(&Inner) -> bool) {
        let mut inner = self.lock();
        inner.waiters += 1;
        if !reached(&inner) && self.seeded() {
            self.start.notify_all();
        }
        while !reached(&inner) {
            inner = self.ended.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.waiters -= 1;
    }

    /// The fault that spoils the context, if there is one.
    pub(super) fn fault(&self, context: u64) -> Option<Failure> {
        self.lock().faults.get(&context).cloned()
    }

    /// Whether one command is under way and nothing else can happen before it ends: nothing is ready to run beside it, and
    /// every other thread of the process waits. `workers`: threads that the command runs on.
    pub(super) fn is_waited_for(&self, workers: usize) -> bool {
        let inner = self.lock();
        let quiet = inner.ready.is_empty() && inner.conditional.is_empty() && inner.threads == inner.idle + 1;
        // Linux tells. Elsewhere it is not known.
        let threads = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        quiet && inner.waiters > 0 && threads() == inner.threads + inner.waiters + workers.saturating_sub(1)
    }

    /// Forgets the fault of a context that is destroyed.
    pub(super) fn forget(&self, context: u64) {
        let mut inner = self.lock();
        inner.faults.remove(&context);
        if inner.unfinished.get(&context).is_some_and(BTreeSet::is_empty) {
            inner.unfinished.remove(&context);
        }
    }
}

impl Inner {
    /// All that the command comes after has ended.
    fn release(&mut self, id: CommandId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let holds = node.command.condition.as_ref().is_none_or(|condition| condition());
        if holds || self.faults.contains_key(&node.command.context) {
            self.ready.insert((node.command.priority, id));
        } else {
            self.conditional.push(id);
        }
    }

    /// How long what runs is still to be left alone.
    fn left_alone(&self) -> Option<Duration> {
        let now = Instant::now();
        self.running.values().map(|until| until.saturating_duration_since(now)).max().filter(|left| !left.is_zero())
    }

    fn look_at_conditions(&mut self) {
        for id in std::mem::take(&mut self.conditional) {
            self.release(id);
        }
    }

    fn choose(&mut self, seeded: bool) -> Option<CommandId> {
        if !seeded {
            return self.ready.pop_first().map(|(_, id)| id);
        }
        if self.ready.is_empty() {
            return None;
        }
        // SplitMix64: any seed, also 0, gives a good sequence.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let index = usize::try_from(mixed % self.ready.len() as u64).unwrap_or(0);
        let chosen = *self.ready.iter().nth(index)?;
        self.ready.remove(&chosen);
        Some(chosen.1)
    }

    fn take(&mut self, id: CommandId) -> (u64, Work) {
        match self.nodes.get_mut(&id) {
            Some(node) => {
                let nothing = Work::Always(Box::new(|_| ()));
                (node.command.context, std::mem::replace(&mut node.command.work, nothing))
            }
            None => (0, Work::Always(Box::new(|_| ()))),
        }
    }

    fn end(&mut self, id: CommandId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        if let Some(unfinished) = self.unfinished.get_mut(&node.command.context) {
            unfinished.remove(&id);
        }
        for dependent in node.dependents {
            let Some(next) = self.nodes.get_mut(&dependent) else { continue };
            next.waiting_for -= 1;
            if next.waiting_for == 0 {
                self.release(dependent);
            }
        }
    }
}

fn perform(work: Work, fault: Option<Status>) -> Result<(), Failure> {
    let run = match work {
        Work::Run(_) | Work::Host(_) if fault.is_some() => return Ok(()),
        Work::Host(run) => catch_unwind(AssertUnwindSafe(|| {
            run();
            Ok(())
        })),
        Work::Run(run) => catch_unwind(AssertUnwindSafe(run)),
        Work::Always(run) => catch_unwind(AssertUnwindSafe(|| {
            run(fault);
            Ok(())
        })),
    };
    run.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Status::LaunchFailed.because(format!("a defect of ptxvm stopped a command: {what}")))
    })
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;

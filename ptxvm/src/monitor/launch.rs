//! A launch that is being checked or profiled.

use super::{
    Access, LaunchWatch, MbarrierEvent, Monitor, Scope,
    actor::Actor,
    check::{Checker, Extra},
    pages::Pages,
    replay::{self, Record},
    site::{self, Kernel, Source},
};
use crate::{
    machine::{Fault, Launch, warp::Warp},
    ops::memory::Element,
    report::{Finding, Findings},
};
use std::sync::{Arc, Mutex, PoisonError};

/// What is special about an instruction.
#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    /// All lanes of the warp have met when it is done.
    collective: bool,
    /// A plain store, whose operation says what it stores.
    store: bool,
    /// Waits for copies that have not been committed too.
    all: bool,
}

/// What the checkers of a launch's blocks share.
pub(crate) struct LaunchChecker {
    pub(crate) source: Arc<Source>,
    pub(crate) pages: Arc<Pages>,
    /// What is needed to run it again.
    pub(crate) record: Option<Arc<Record>>,
    /// Where findings go; `None`: to the process's.
    findings: Option<Arc<Findings>>,
    /// The first findings, to be shrunk.
    noted: Mutex<Vec<Finding>>,
    /// What is special about each instruction.
    traits: Vec<Traits>,
}

impl LaunchChecker {
    pub(crate) fn new(source: Arc<Source>, pages: Arc<Pages>) -> Self {
        let (findings, noted) = (None, Mutex::default());
        let mut this = Self { source, pages, record: None, findings, noted, traits: Vec::new() };
        this.traits = (0..this.kernel().sites() as u32).map(|site| this.traits(site)).collect();
        this
    }

    /// The launch is run again: what it finds and changes is kept apart.
    pub(super) fn apart(&mut self, findings: Arc<Findings>, record: Arc<Record>) {
        (self.findings, self.record) = (Some(findings), Some(record));
    }

    /// Where findings go.
    pub(super) fn findings(&self) -> &Findings {
        self.findings.as_deref().unwrap_or(Findings::global())
    }

    /// The first findings of the launch.
    pub(super) fn noted(&self) -> Vec<Finding> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a finding.
    pub(super) fn record(&self, finding: Finding) {
        if self.record.is_some() {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut noted, &finding);
        }
        self.findings().record(finding);
    }

    fn traits(&self, site: u32) -> Traits {
        let opcode = self.kernel().instruction(site).map_or("", |(_, info)| &info.opcode);
        Traits {
            collective: ["ldmatrix", "stmatrix", "wmma"].iter().any(|name| opcode.starts_with(name)),
            store: opcode.starts_with("st."),
            all: opcode.ends_with("wait_all"),
        }
    }

    fn traits_of(&self, actor: &Actor) -> Traits {
        let site = self.kernel().site(actor.function, actor.instruction);
        self.traits.get(site as usize).copied().unwrap_or_default()
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> &Kernel {
        match &self.source.kernel {
            Some(kernel) => kernel,
            // A LaunchChecker is only made for launches.
            None => unreachable!("a launch without a kernel"),
        }
    }

    /// Whether what `source` did happened before this launch.
    pub(crate) fn comes_after(&self, source: u32) -> bool {
        let Some(order) = &self.source.order else { return true };
        site::source(source).is_none_or(|other| other.order.as_ref().is_none_or(|other| site::before(other, order)))
    }
}

/// Watches a launch in checked mode.
pub(crate) struct CheckedLaunch {
    checker: Arc<LaunchChecker>,
    warps: usize,
    /// To be run again for its findings.
    again: Option<Box<Launch>>,
}

impl CheckedLaunch {
    pub(crate) fn new(launch: &Launch) -> Self {
        let program = launch.module.program.clone();
        let name = launch.module.info(launch.kernel).name.clone();
        let kernel = Kernel::new(program, name, launch.grid, launch.block);
        let source = site::register(|id| Source {
            id,
            kernel: Some(kernel),
            host: false,
            label: launch.label.clone(),
            order: Some(launch.order.clone()),
            seed: launch.options.seed,
        });
        let mut checker = LaunchChecker::new(source, Pages::global().clone());
        let shrink = launch.options.shrink;
        if shrink {
            checker.record = Some(Arc::default());
            replay::enter();
        }
        Self { again: shrink.then(|| Box::new(launch.clone())), ..Self::of(checker, launch) }
    }

    /// Watches a launch with a checker that is there already.
    pub(super) fn of(checker: LaunchChecker, launch: &Launch) -> Self {
        Self { checker: Arc::new(checker), warps: launch.threads().div_ceil(32) as usize, again: None }
    }
}

impl LaunchWatch for CheckedLaunch {
    fn block(&self, number: u64) -> Box<dyn Monitor> {
        Box::new(Checker::new(self.checker.clone(), number as u32, self.warps))
    }

    fn end(&self, fault: Option<&Fault>) {
        if let Some(fault) = fault {
            if self.checker.findings.is_none() {
                super::host::faulted();
            }
            self.checker.record(Finding::of_fault(fault, &self.checker.source));
        }
        if let Some(launch) = &self.again {
            replay::leave(launch, &self.checker);
        }
    }
}

/// Notes a finding, to be shrunk, where there is room. One of a kind that has none yet takes the place of one of several of
/// another kind: every kind shall be shrunk before any is shrunk twice.
fn note(noted: &mut Vec<Finding>, finding: &Finding) {
    if noted.iter().any(|known| known.is_like(finding)) {
        return;
    }
    if noted.len() < replay::MOST_FINDINGS {
        noted.push(finding.clone());
        return;
    }
    let count = |kind: &str| noted.iter().filter(|known| known.kind == kind).count();
    if count(finding.kind) == 0
        && let Some(spare) = noted.iter().rposition(|known| count(known.kind) > 1)
    {
        noted[spare] = finding.clone();
    }
}

impl Monitor for Checker {
    fn access(&mut self, warp: &Warp, access: &Access<'_>) {
        let actor = Actor::of(warp);
        let traits = self.launch.traits_of(&actor);
        let value = |lane: usize| stored(warp, lane);
        let values: Option<&dyn Fn(usize) -> u128> = if traits.store { Some(&value) } else { None };
        // SAFETY: the block outlives its warps; nobody writes its memory while the operation is being looked at.
        let memory = unsafe { &*(*warp.block).shared() };
        let extra = Extra { values, memory: Some(memory), collective: traits.collective };
        Checker::access(self, &actor, access, &extra);
    }

    fn commit_copies(&mut self, warp: &Warp) {
        self.commit(&Actor::of(warp));
    }

    fn wait_copies(&mut self, warp: &Warp, pending: u32) {
        let actor = Actor::of(warp);
        let all = self.launch.traits_of(&actor).all;
        self.wait(&actor, pending, all);
    }

    fn arrive(&mut self, warp: &Warp, id: u32, waits: bool, aligned: bool) {
        Checker::arrive(self, &Actor::of(warp), id, waits, aligned);
    }

    fn release(&mut self, id: u32) {
        Checker::release(self, id);
    }

    fn warp_sync(&mut self, warp: &Warp, members: u32, memory: bool) {
        Checker::warp_sync(self, &Actor::of(warp), members, memory);
    }

    fn shuffled_from_absent(&mut self, warp: &Warp, readers: u32) {
        Checker::shuffled_from_absent(self, &Actor::of(warp), readers);
    }

    fn fence(&mut self, warp: &Warp, scope: Scope) {
        Checker::fence(self, &Actor::of(warp), scope);
    }

    fn mbarrier(&mut self, warp: &Warp, address: u64, event: MbarrierEvent) {
        Checker::mbarrier(self, &Actor::of(warp), address, event);
    }

    fn operation(&mut self, _warp: &Warp) {}

    fn wants_operations(&self) -> bool {
        false
    }

    fn diverged(&mut self, _warp: &Warp, _taken: u32, _not_taken: u32) {}

    fn performed(&mut self) {
        Checker::performed(self);
    }

    fn changed(&mut self) {
        self.effect = true;
    }

    fn took_effect(&mut self) -> Option<bool> {
        Some(std::mem::take(&mut self.effect))
    }

    fn block_end(&mut self) {
        Checker::block_end(self);
    }
}

/// What a lane of a store stores.
fn stored(warp: &Warp, lane: usize) -> u128 {
    // SAFETY: `ops` and `pc` are the run loop's own and name the store that is being run: its registers are in `b` or in the
    // list, of the class that `stored` says.
    unsafe {
        let op = &*warp.ops.add(warp.pc as usize);
        let element = Element::unpack(op.x);
        (0..element.count).fold(0, |value, k| {
            let slot = if element.count == 1 { op.b } else { warp.wide(op)[k as usize] };
            let bits = match element.stored {
                4 => u128::from(warp.lanes::<u32>(slot)[lane]),
                8 => u128::from(warp.lanes::<u64>(slot)[lane]),
                _ => warp.lanes::<u128>(slot)[lane],
            };
            let bits = if element.bytes >= 16 { bits } else { bits & ((1 << (element.bytes * 8)) - 1) };
            value | bits.checked_shl(8 * element.bytes * k).unwrap_or(0)
        })
    }
}

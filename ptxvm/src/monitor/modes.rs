//! Which modes are on, and who watches a launch.

use super::{Access, LaunchWatch, MbarrierEvent, Monitor, Scope, host, launch::CheckedLaunch, profile::ProfiledLaunch};
use crate::{
    machine::{Fault, Launch, warp::Warp},
    report,
};
use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// The modes of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Wrong programs are found out.
    pub checked: bool,
    /// What programs do is counted.
    pub profile: bool,
}

const KNOWN: u8 = 1;
const CHECKED: u8 = 2;
const PROFILE: u8 = 4;

static MODES: AtomicU8 = AtomicU8::new(0);

fn modes() -> Modes {
    let mut bits = MODES.load(Ordering::Relaxed);
    if bits & KNOWN == 0 {
        let text = std::env::var("PTXVM_MODE").unwrap_or_default();
        let named = |name: &str| text.split(',').any(|mode| mode.trim() == name);
        set_modes(Modes { checked: named("checked"), profile: named("profile") });
        bits = MODES.load(Ordering::Relaxed);
    }
    Modes { checked: bits & CHECKED != 0, profile: bits & PROFILE != 0 }
}

/// Sets the modes of launches that begin from now on; without this they are those of `PTXVM_MODE`.
pub fn set_modes(modes: Modes) {
    let bits = KNOWN | if modes.checked { CHECKED } else { 0 } | if modes.profile { PROFILE } else { 0 };
    MODES.store(bits, Ordering::Relaxed);
    if modes.checked {
        host::install();
        report::arm_checked();
    }
    if modes.profile {
        report::arm();
    }
}

/// To be called before memory is allocated, so that its contents are known from the start.
pub fn prepare() {
    modes();
}

/// Whether the process is in checked mode.
pub(crate) fn is_checked() -> bool {
    modes().checked
}

/// Whoever watches a launch; `None` in fast mode.
pub(crate) fn begin(launch: &Launch) -> Option<Arc<dyn LaunchWatch>> {
    let modes = modes();
    let checked = modes.checked.then(|| Arc::new(CheckedLaunch::new(launch)) as Arc<dyn LaunchWatch>);
    let profile = modes.profile.then(|| Arc::new(ProfiledLaunch::new(launch)) as Arc<dyn LaunchWatch>);
    match (checked, profile) {
        (Some(first), Some(second)) => Some(Arc::new(Both(first, second))),
        (one, other) => one.or(other),
    }
}

/// Whoever watches a launch in checked mode.
#[cfg(test)]
pub(crate) fn watch_checked(launch: &Launch) -> Arc<dyn LaunchWatch> {
    Arc::new(CheckedLaunch::new(launch))
}

/// Two who watch.
struct Both<T>(T, T);

impl LaunchWatch for Both<Arc<dyn LaunchWatch>> {
    fn block(&self, number: u64) -> Box<dyn Monitor> {
        Box::new(Both(self.0.block(number), self.1.block(number)))
    }

    fn end(&self, fault: Option<&Fault>) {
        self.0.end(fault);
        self.1.end(fault);
    }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $ty:ty),*);)*) => {$(
        fn $name(&mut self, $($argument: $ty),*) {
            self.0.$name($($argument),*);
            self.1.$name($($argument),*);
        }
    )*};
}

impl Monitor for Both<Box<dyn Monitor>> {
    forward! {
        access(warp: &Warp, access: &Access<'_>);
        commit_copies(warp: &Warp);
        wait_copies(warp: &Warp, pending: u32);
        arrive(warp: &Warp, id: u32, waits: bool, aligned: bool);
        release(id: u32);
        warp_sync(warp: &Warp, members: u32, memory: bool);
        shuffled_from_absent(warp: &Warp, readers: u32);
        fence(warp: &Warp, scope: Scope);
        mbarrier(warp: &Warp, address: u64, event: MbarrierEvent);
        operation(warp: &Warp);
        diverged(warp: &Warp, taken: u32, not_taken: u32);
        performed();
        changed();
        block_end();
    }

    fn took_effect(&mut self) -> Option<bool> {
        let (first, second) = (self.0.took_effect(), self.1.took_effect());
        first.or(second)
    }

    fn wants_operations(&self) -> bool {
        self.0.wants_operations() || self.1.wants_operations()
    }
}

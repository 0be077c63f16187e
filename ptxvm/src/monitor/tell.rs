//! From what a checker has noticed to findings: sentences, places, counts.

use super::{
    AccessKind,
    launch::LaunchChecker,
    line::Conflict,
    shared::Wrong,
    site::{self, At},
};
use crate::{
    memory::Memory,
    report::{AllocationNote, Finding, Other},
};
use std::{collections::HashMap, sync::Arc};

/// Kind, the instruction, the source and instruction of the other side.
type Key = (&'static str, u32, u32, u32);

/// Tells findings of one block, each once; repeated ones are counted.
pub(crate) struct Teller {
    launch: Arc<LaunchChecker>,
    told: HashMap<Key, (Finding, u64)>,
}

fn verb(kind: AccessKind) -> &'static str {
    match kind {
        AccessKind::Read => "read",
        AccessKind::Write => "write",
        AccessKind::Atomic => "atomic access",
        AccessKind::AsyncWrite => "write by an asynchronous copy",
        AccessKind::AsyncRead => "read by an asynchronous copy",
    }
}

fn other_verb(writes: bool) -> &'static str {
    if writes { "write" } else { "read" }
}

/// `lanes 3, 4 and 7`, or how many where they are many.
fn lanes(mask: u32) -> String {
    let list: Vec<String> = (0..32).filter(|lane| mask >> lane & 1 != 0).map(|lane: u32| lane.to_string()).collect();
    match list.as_slice() {
        [one] => format!("lane {one}"),
        [most @ .., last] if list.len() <= 4 => format!("lanes {} and {last}", most.join(", ")),
        _ => format!("{} lanes", list.len()),
    }
}

impl Teller {
    pub(crate) fn new(launch: Arc<LaunchChecker>, _block: u32) -> Self {
        Self { launch, told: HashMap::new() }
    }

    fn tell(
        &mut self,
        kind: &'static str,
        at: At,
        other: Option<(&str, u32, At)>,
        memory: impl FnOnce() -> Option<AllocationNote>,
        message: impl FnOnce() -> String,
    ) {
        let (source, site) = other.map_or((0, 0), |(_, source, at)| (source, at.site));
        let key = (kind, at.site, source, site);
        if let Some((_, count)) = self.told.get_mut(&key) {
            *count += 1;
            return;
        }
        let other = other.map(|(what, source, at)| Other {
            what: what.to_owned(),
            at: site::source(source).map(|source| source.spot(at)).unwrap_or_default(),
        });
        let finding = Finding {
            kind,
            message: message(),
            at: self.launch.source.spot(at),
            other,
            allocation: memory(),
            count: 1,
            seed: self.launch.source.seed,
            shrunk: None,
        };
        self.launch.record(finding.clone());
        self.told.insert(key, (finding, 0));
    }

    /// Hands on how often findings were seen again.
    pub(crate) fn flush(&mut self) {
        for (finding, count) in self.told.values_mut().filter(|(_, count)| *count > 0) {
            self.launch.findings().record(Finding { count: std::mem::take(count), ..finding.clone() });
        }
    }

    pub(crate) fn shared(
        &mut self,
        what: Wrong,
        at: At,
        other: At,
        other_writes: bool,
        kind: AccessKind,
        address: u32,
    ) {
        let source = self.launch.source.id;
        let memory = || Some(AllocationNote { address: address.into(), space: "shared".into(), ..Default::default() });
        let (verb, before) = (verb(kind), other_verb(other_writes));
        let side = Some((before, source, other));
        match what {
            Wrong::Uninitialised => self.tell("uninitialised-shared", at, None, memory, || {
                format!("{verb} of shared memory that nobody has written")
            }),
            Wrong::Race => self.tell("race-shared", at, side, memory, || {
                format!("{verb} of shared memory races with a {before} by another warp: no barrier orders them")
            }),
            Wrong::LaneRace => self.tell("race-warp", at, side, memory, || {
                format!(
                    "{verb} of shared memory races with a {before} by another lane of the warp: no __syncwarp() is between"
                )
            }),
            Wrong::Copying => self.tell("async-copy", at, Some(("copy", source, other)), memory, || {
                format!("{verb} of shared memory while an asynchronous copy to it has not been waited for")
            }),
        }
    }

    pub(crate) fn lanes_write_apart(&mut self, at: At, other: At, space: &'static str, address: u64) {
        let source = self.launch.source.id;
        let memory = move || match space {
            "global" => allocation(address),
            space => Some(AllocationNote { address, space: space.into(), ..Default::default() }),
        };
        self.tell("race-warp", at, Some(("write", source, other)), memory, || {
            format!("two lanes write different values to the same place of {space} memory in one instruction")
        });
    }

    pub(crate) fn global(&mut self, at: At, conflict: &Conflict, kind: AccessKind, address: u64) {
        let old = &conflict.other;
        let lane = old.lanes.of(conflict.byte);
        let other = At { block: old.block, warp: old.warp.into(), lane, site: old.site };
        let (verb, before) = (verb(kind), other_verb(old.writes));
        let side = Some((before, old.source, other));
        let memory = || allocation(address);
        if old.source != self.launch.source.id {
            let host = site::source(old.source).is_some_and(|source| source.host);
            let kind = if host { "host-race" } else { "race-streams" };
            self.tell(kind, at, side, memory, || {
                let by = if host { "the host" } else { "work of another stream" };
                format!(
                    "{verb} of global memory races with a {before} by {by}: no event or synchronisation orders them"
                )
            });
        } else if conflict.same_warp {
            self.tell("race-warp", at, side, memory, || {
                format!(
                    "{verb} of global memory races with a {before} by another lane of the warp: no __syncwarp() is between"
                )
            });
        } else {
            let by = if old.block == at.block { "another warp of the block" } else { "another block" };
            self.tell("race-global", at, side, memory, || {
                format!("{verb} of global memory races with a {before} by {by}: nothing orders them")
            });
        }
    }

    pub(crate) fn unwritten_global(&mut self, at: At, address: u64) {
        self.tell(
            "uninitialised-global",
            at,
            None,
            || allocation(address),
            || "read of global memory that nobody has written".to_owned(),
        );
    }

    pub(crate) fn unwritten_local(&mut self, at: At, address: u64) {
        let memory = || Some(AllocationNote { address, space: "local".into(), ..Default::default() });
        self.tell("uninitialised-local", at, None, memory, || {
            "read of local memory that the thread has not written".to_owned()
        });
    }

    pub(crate) fn mbarrier_raced(&mut self, at: At, init: At, address: u64) {
        let source = self.launch.source.id;
        let memory = || Some(AllocationNote { address, space: "shared".into(), ..Default::default() });
        self.tell("race-shared", at, Some(("initialised", source, init)), memory, || {
            "use of an mbarrier races with its initialisation by another warp: no barrier orders them".to_owned()
        });
    }

    pub(crate) fn barrier_diverged(&mut self, at: At, missing: u32) {
        self.tell(
            "barrier-divergence",
            at,
            None,
            || None,
            || format!("the warp is at a barrier without {}, which went another way", lanes(missing)),
        );
    }

    pub(crate) fn barriers_differ(&mut self, at: At, first: At) {
        let source = self.launch.source.id;
        let counted = |at: At| self.launch.kernel().spot(at, "").text.trim_start_matches(|c| c != 'b').contains(',');
        if counted(at) || counted(first) {
            return;
        }
        self.tell(
            "barrier-divergence",
            at,
            Some(("waits here", source, first)),
            || None,
            || "warps of one block wait for one another at different barriers".to_owned(),
        );
    }

    pub(crate) fn not_a_member(&mut self, at: At, members: u32) {
        self.tell(
            "warp-mask",
            at,
            None,
            || None,
            || format!("a lane executes a warp-wide instruction whose mask {members:#010x} does not name it"),
        );
    }

    pub(crate) fn shuffled_from_absent(&mut self, at: At, readers: u32) {
        self.tell(
            "warp-mask",
            at,
            None,
            || None,
            || format!("{} read from lanes that do not take part in the shuffle", lanes(readers)),
        );
    }

    pub(crate) fn members_disagree(&mut self, at: At, missing: u32) {
        self.tell(
            "warp-mask",
            at,
            None,
            || None,
            || format!("the mask names {}, with another mask or not at this instruction", lanes(missing)),
        );
    }

    pub(crate) fn members_gone(&mut self, at: At, gone: u32) {
        let reads = self.launch.kernel().instruction(at.site).is_some_and(|(_, info)| info.opcode.starts_with("shfl"));
        if reads {
            self.tell(
                "warp-mask",
                at,
                None,
                || None,
                || format!("the mask of a shuffle names {}, which have exited", lanes(gone)),
            );
        }
    }
}

/// What a report says of the allocation that holds an address.
pub(crate) fn allocation(address: u64) -> Option<AllocationNote> {
    let found = Memory::global().find(address)?;
    Some(AllocationNote {
        address,
        base: found.base,
        bytes: found.bytes,
        space: "global".into(),
        label: found.serial_label,
    })
}

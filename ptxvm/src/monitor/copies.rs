//! Asynchronous copies of a warp: which are under way, and which a wait completes.

/// A `cp.async` of some lanes.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) lanes: u32,
    /// In shared memory.
    pub(crate) addresses: [u32; 32],
    pub(crate) bytes: u32,
    pub(crate) site: u32,
    /// Number of its group among the lanes' groups; `None`: not committed.
    group: Option<u32>,
    tracked: Option<Tracked>,
}

/// The mbarrier that tracks a copy.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    address: u64,
    /// The warp's clock when it was told so.
    clock: u32,
    /// The phase is complete.
    complete: bool,
}

/// Copies of one warp.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies {
    list: Vec<Copy>,
    /// Groups that each lane has committed.
    groups: [u32; 32],
}

impl Copies {
    pub(crate) fn start(&mut self, lanes: u32, addresses: &[u64; 32], bytes: u32, site: u32) {
        let mut copy = Copy { lanes, addresses: [0; 32], bytes, site, group: None, tracked: None };
        for lane in 0..32 {
            copy.addresses[lane] = addresses[lane] as u32;
        }
        self.list.push(copy);
    }

    /// The lanes commit what they have started: a group of its own for each.
    pub(crate) fn commit(&mut self, lanes: u32) {
        for lane in 0..32 {
            self.groups[lane] += lanes >> lane & 1;
        }
        let groups = self.groups;
        let mut apart = Vec::new();
        for copy in self.list.iter_mut().filter(|copy| copy.group.is_none() && copy.lanes & lanes != 0) {
            let mine = copy.lanes & lanes;
            let group = groups[mine.trailing_zeros() as usize];
            let alike = (0..32).filter(|lane| mine >> lane & 1 != 0 && groups[*lane as usize] == group);
            let together = alike.fold(0, |mask, lane| mask | 1 << lane);
            let rest = copy.lanes & !together;
            if rest != 0 {
                apart.push(Copy { lanes: rest, ..copy.clone() });
            }
            copy.lanes = together;
            copy.group = Some(group);
        }
        // Lanes that are left over have committed another number of groups, or not yet.
        for copy in apart {
            let mine = copy.lanes & lanes;
            if mine == 0 {
                self.list.push(copy);
                continue;
            }
            for lane in (0..32).filter(|lane| copy.lanes >> lane & 1 != 0) {
                let group = (mine >> lane & 1 != 0).then(|| groups[lane as usize]);
                self.list.push(Copy { lanes: 1 << lane, group, ..copy.clone() });
            }
        }
    }

    /// The lanes wait until no more than `pending` of their groups are under way; `all`: also for what they have not
    /// committed. Gives what is complete to `landed`.
    pub(crate) fn wait(&mut self, lanes: u32, pending: u32, all: bool, mut landed: impl FnMut(&Copy, u32)) {
        let groups = self.groups;
        self.list.retain_mut(|copy| {
            let mine = copy.lanes & lanes;
            let complete = match copy.group {
                None => {
                    if all {
                        mine
                    } else {
                        0
                    }
                }
                Some(group) => {
                    let mut complete = 0;
                    for lane in 0..32 {
                        complete |= u32::from(groups[lane].wrapping_sub(group) >= pending) << lane;
                    }
                    complete & mine
                }
            };
            if complete != 0 {
                landed(copy, complete);
                copy.lanes &= !complete;
            }
            copy.lanes != 0
        });
    }

    /// An mbarrier tracks what the lanes have started so far.
    pub(crate) fn track(&mut self, lanes: u32, address: u64, clock: u32) {
        let mut apart = Vec::new();
        for copy in self.list.iter_mut().filter(|copy| copy.lanes & lanes != 0 && copy.tracked.is_none()) {
            let rest = copy.lanes & !lanes;
            if rest != 0 {
                apart.push(Copy { lanes: rest, ..copy.clone() });
            }
            copy.lanes &= lanes;
            copy.tracked = Some(Tracked { address, clock, complete: false });
        }
        self.list.extend(apart);
    }

    /// The phase of an mbarrier is complete.
    pub(crate) fn complete(&mut self, address: u64) {
        let tracked = self.list.iter_mut().filter_map(|copy| copy.tracked.as_mut());
        tracked.filter(|tracked| tracked.address == address).for_each(|tracked| tracked.complete = true);
    }

    /// Somebody has seen that. Gives what is there to `landed`, with the clock at which it was tracked.
    pub(crate) fn observe(&mut self, address: u64, mut landed: impl FnMut(u32, &Copy)) {
        self.list.retain(|copy| match copy.tracked {
            Some(tracked) if tracked.complete && tracked.address == address => {
                landed(tracked.clock, copy);
                false
            }
            _ => true,
        });
    }
}

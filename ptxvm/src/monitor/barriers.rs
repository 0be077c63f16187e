//! What happens at barriers: who waits for whom, and whether all come who should.

use super::{
    MbarrierEvent,
    actor::Actor,
    check::Checker,
    clock::{Gathering, Message, WarpClock},
    site::At,
};
use std::collections::HashMap;

#[derive(Debug, Default)]
struct Named {
    gathering: Gathering,
    /// Warps that wait, with which lanes, and which of theirs had not exited.
    waiters: Vec<(u32, u32, u32)>,
    /// The first who came to wait.
    first: Option<At>,
}

#[derive(Debug)]
struct Mbarrier {
    /// Released by arrivals so far.
    message: Message,
    init: At,
    initialised: u32,
}

/// The barriers of a block.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    named: [Named; 16],
    mbarriers: HashMap<u64, Mbarrier>,
}

impl Barriers {
    /// An event at an mbarrier; gives the initialisation if it is not known to have happened before.
    pub(crate) fn mbarrier(&mut self, clock: &mut WarpClock, at: At, address: u64, event: MbarrierEvent) -> Option<At> {
        if event == MbarrierEvent::Init {
            let initialised = clock.now;
            self.mbarriers.insert(address, Mbarrier { message: Message::default(), init: at, initialised });
            return None;
        }
        let barrier = self.mbarriers.get_mut(&address)?;
        let other = barrier.init.warp != at.warp;
        let raced = other && !clock.saw(barrier.init.block, barrier.init.warp, barrier.initialised);
        let init = raced.then_some(barrier.init);
        if raced {
            // Once is enough to say so.
            barrier.initialised = 0;
        }
        match event {
            MbarrierEvent::Arrive => {
                let message = clock.release();
                barrier.message.add(&message);
            }
            MbarrierEvent::Observe => clock.acquire(&barrier.message),
            MbarrierEvent::Init | MbarrierEvent::Track | MbarrierEvent::Complete => {}
            MbarrierEvent::Invalidate => drop(self.mbarriers.remove(&address)),
        }
        init
    }
}

impl Checker {
    /// Lanes arrive at a named barrier.
    pub(crate) fn arrive(&mut self, actor: &Actor, id: u32, waits: bool, aligned: bool) {
        self.effect = true;
        let at = self.at(actor, actor.leader());
        if aligned && actor.mask != actor.live {
            self.teller.barrier_diverged(at, actor.live & !actor.mask);
        }
        let Some(barrier) = self.barriers.named.get_mut(id as usize) else { return };
        self.warps[actor.warp as usize].arrive(&mut barrier.gathering);
        if waits {
            match barrier.waiters.iter_mut().find(|(warp, ..)| *warp == actor.warp) {
                Some((_, lanes, live)) => (*lanes, *live) = (*lanes | actor.mask, actor.live),
                None => barrier.waiters.push((actor.warp, actor.mask, actor.live)),
            }
            match barrier.first {
                Some(first) if aligned && id == 0 && first.site != at.site => self.teller.barriers_differ(at, first),
                Some(_) => {}
                None => barrier.first = Some(at),
            }
        }
    }

    /// A named barrier is complete.
    pub(crate) fn release(&mut self, id: u32) {
        let Some(barrier) = self.barriers.named.get_mut(id as usize) else { return };
        let Named { gathering, waiters, .. } = std::mem::take(barrier);
        let (mut whole, mut newest) = (0u32, 0);
        for (warp, lanes, live) in waiters {
            let clock = &mut self.warps[warp as usize];
            clock.take(&gathering);
            clock.warp_sync(lanes, live, true);
            // Lanes that did not come may have gone on meanwhile, under the clock that follows the arrival.
            if live & !lanes == 0 {
                whole |= 1 << warp;
                newest = clock.now.max(newest);
            }
        }
        for warp in (0..self.warps.len()).filter(|warp| whole >> warp & 1 != 0) {
            self.warps[warp].meet(whole, newest);
        }
    }

    /// A warp-wide instruction.
    pub(crate) fn warp_sync(&mut self, actor: &Actor, members: u32, memory: bool) {
        let outside = actor.mask & !members;
        if outside != 0 {
            let at = self.at(actor, outside.trailing_zeros());
            self.teller.not_a_member(at, members);
        }
        let elsewhere = members & actor.live & !actor.mask;
        if outside == 0 && elsewhere != 0 {
            let at = self.at(actor, actor.leader());
            self.teller.members_disagree(at, elsewhere);
        }
        let gone = members & actor.lanes & !actor.live;
        if !memory && gone != 0 {
            let at = self.at(actor, actor.leader());
            self.teller.members_gone(at, gone);
        }
        self.warps[actor.warp as usize].warp_sync(members & actor.lanes, actor.live, memory);
    }
}

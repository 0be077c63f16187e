//! What is found by looking at many lanes at once is what is found lane by lane.

use super::{Hit, How, SharedAccess, SharedShadow, Wrong};
use crate::{
    machine::launch::mix,
    monitor::clock::{Gathering, WarpClock},
};

const WARPS: usize = 3;

/// Two shadows of one block: `at_once` is accessed by whole warps, `by_lane` lane by lane.
struct Block {
    at_once: SharedShadow,
    by_lane: SharedShadow,
    clocks: Vec<WarpClock>,
}

impl Block {
    fn new() -> Self {
        let mut shadows = [SharedShadow::default(), SharedShadow::default()];
        for shadow in &mut shadows {
            shadow.begin(WARPS);
            shadow.reserve(1024);
        }
        let [at_once, by_lane] = shadows;
        let clocks = (0..WARPS as u32).map(|warp| WarpClock::new(0, warp, WARPS, at_once.start)).collect();
        Self { at_once, by_lane, clocks }
    }

    fn barrier(&mut self) {
        let mut gathering = Gathering::default();
        self.clocks.iter_mut().for_each(|clock| clock.arrive(&mut gathering));
        for clock in &mut self.clocks {
            clock.take(&gathering);
            clock.warp_sync(u32::MAX, u32::MAX, true);
        }
        let newest = self.clocks.iter().map(|clock| clock.now).max().unwrap_or(0);
        self.clocks.iter_mut().for_each(|clock| clock.meet((1 << WARPS) - 1, newest));
    }

    /// What either way finds: kind, place, and whether it is a write that it is in conflict with.
    fn access(
        &mut self,
        one: SharedAccess,
        how: How,
        mask: u32,
        addresses: &[u64; 32],
    ) -> [Vec<(Wrong, u32, bool)>; 2] {
        let clock = &self.clocks[one.warp as usize];
        let mut hits = [Vec::new(), Vec::new()];
        self.at_once.access(clock, one, how, (mask, addresses), &mut hits[0]);
        self.by_lane.grow_row(one.warp);
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let one = SharedAccess { lane, address: addresses[lane as usize] as u32, ..one };
            self.by_lane.one(clock, &one, how, &mut hits[1]);
        }
        hits.map(|list| {
            let mut list: Vec<_> = list.iter().map(|hit: &Hit| (hit.what, hit.address, hit.other_writes)).collect();
            list.sort_unstable_by_key(|(what, address, writes)| (*what as u8, *address, *writes));
            list.dedup();
            list
        })
    }
}

#[test]
fn warps_at_once_and_lane_by_lane_find_the_same() {
    let mut random = 42;
    let mut found = 0;
    for _ in 0..400 {
        let mut block = Block::new();
        for step in 0..60u32 {
            let draw = mix(&mut random);
            let part = |shift: u32, count: u64| (draw >> shift) % count;
            if part(0, 4) == 0 {
                block.barrier();
                continue;
            }
            let how = [How::Read, How::Read, How::Write, How::Atomic, How::Copy][part(28, 5) as usize];
            let bytes = [1u32, 2, 4, 4, 8, 16][part(8, 6) as usize];
            // Asynchronous copies are of whole words.
            let bytes = if how == How::Copy { bytes.max(4) } else { bytes };
            let base = part(12, 8) * 16;
            let stride = [u64::from(bytes), u64::from(bytes), 0, 2 * u64::from(bytes), 16][part(16, 5) as usize];
            let group = [32, 32, 16, 8, 1][part(20, 5) as usize];
            // Also in another order than that of the lanes, and anywhere.
            let (turn, shuffle) = (mix(&mut random), part(44, 4));
            let addresses = std::array::from_fn(|lane| {
                let lane = match shuffle {
                    0 => lane as u64 ^ (turn % 32),
                    1 => mix(&mut (turn + lane as u64)) % 32,
                    _ => lane as u64,
                };
                let at = base.next_multiple_of(u64::from(bytes)) + lane % group * stride;
                at / u64::from(bytes) * u64::from(bytes)
            });
            let mask = [u32::MAX, u32::MAX, 0xffff, 0x00ff_ff00, 0x5555_5555, 1][part(24, 6) as usize];
            let strong = how == How::Atomic || how != How::Copy && part(32, 8) == 0;
            let one = SharedAccess {
                warp: part(36, WARPS as u64) as u32,
                lane: 0,
                site: step,
                address: 0,
                bytes,
                strong,
                collective: part(40, 16) == 0,
            };
            let [at_once, by_lane] = block.access(one, how, mask, &addresses);
            assert_eq!(at_once, by_lane, "step {step}: {how:?} {one:?} of {mask:#x} at {addresses:?}");
            found += by_lane.len();
        }
    }
    assert!(found > 1_000, "only {found} findings were compared");
}

#[test]
fn nobody_is_blamed_for_bytes_that_no_other_lane_has_accessed() {
    let (mut random, mut found) = (7, 0);
    for _ in 0..2_000 {
        let mut block = Block::new();
        // Lanes that have read, and written, each byte: one warp, nothing orders its lanes.
        let mut lanes = [[0u32; 2]; 64];
        for step in 0..12u32 {
            let draw = mix(&mut random);
            let part = |shift: u32, count: u64| (draw >> shift) % count;
            let how = [How::Read, How::Write][part(0, 2) as usize];
            let bytes = [1u32, 2, 2, 4][part(4, 4) as usize];
            // Few words, so that lanes meet; most often a lane keeps to its own.
            let (own, seed) = (part(8, 4) > 0, mix(&mut random));
            let addresses: [u64; 32] = std::array::from_fn(|lane| {
                let draw = mix(&mut (seed + lane as u64));
                let word = if own { lane as u64 % 16 } else { draw % 16 };
                word * 4 + (draw >> 32) % (4 / u64::from(bytes)) * u64::from(bytes)
            });
            let mask = [0x0000_ffff, 0x0000_ffff, 0x0000_5555, 1 << part(16, 16)][part(24, 4) as usize];
            let one =
                SharedAccess { warp: 0, lane: 0, site: step, address: 0, bytes, strong: false, collective: false };
            let mut now = lanes;
            for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
                for byte in 0..u64::from(bytes) {
                    now[(addresses[lane] + byte) as usize][usize::from(how == How::Write)] |= 1 << lane;
                }
            }
            let (clock, mut hits) = (&block.clocks[0], Vec::new());
            block.at_once.access(clock, one, how, (mask, &addresses), &mut hits);
            for hit in hits.iter().filter(|hit| hit.what == Wrong::LaneRace) {
                let others = now[hit.address as usize][usize::from(hit.other_writes)] & !(1 << hit.lane);
                assert!(others != 0, "step {step}: {hit:?}, but byte {} is lane {}'s alone", hit.address, hit.lane);
                found += 1;
            }
            lanes = now;
        }
    }
    assert!(found > 1_000, "only {found} findings were looked at");
}

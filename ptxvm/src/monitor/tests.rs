//! The checkers, driven without a machine: each finds what is wrong and keeps silent about what is right.

use super::{
    Access, AccessKind, AccessSpace, MbarrierEvent, Ordering, Scope,
    actor::Actor,
    check::{Checker, Extra},
    launch::LaunchChecker,
    pages::Pages,
    site::{self, Kernel, Source},
};
use crate::{machine::Order, program::Program, report::Findings};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const TEXT: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n.reg .b32 %r<4>;\n\
    bar.sync 0;\nbar.sync 0;\nbar.sync 1, 64;\nbar.sync 0;\nbar.sync 0;\nbar.sync 0;\nbar.sync 0;\nbar.sync 0;\nret;\n}\n";

static ALONE: Mutex<()> = Mutex::new(());

/// Held by tests of checked launches: they find things, and all findings go to one list.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks of two or four warps under a checker each, and what they found.
struct World {
    launch: Arc<LaunchChecker>,
    blocks: Vec<Checker>,
    _alone: MutexGuard<'static, ()>,
}

const MANY: u32 = u32::MAX;

impl World {
    fn new(blocks: u32) -> Self {
        let alone = alone();
        Findings::global().print(false);
        Findings::global().take();
        let launch = Self::launch(Order::default());
        let blocks = (0..blocks).map(|block| Checker::new(launch.clone(), block, 4)).collect();
        Self { launch, blocks, _alone: alone }
    }

    fn launch(order: Order) -> Arc<LaunchChecker> {
        let program = Arc::new(Program::compile(TEXT).expect("the text is PTX"));
        let kernel = Kernel::new(program, "k".to_owned(), [8, 1, 1], [128, 1, 1]);
        let source = site::register(|id| Source {
            id,
            kernel: Some(kernel),
            host: false,
            label: String::new(),
            order: Some(order),
            seed: Some(7),
        });
        static PAGES: std::sync::OnceLock<Arc<Pages>> = std::sync::OnceLock::new();
        Arc::new(LaunchChecker::new(source, PAGES.get_or_init(|| Arc::new(Pages::new())).clone()))
    }

    /// A range of global memory that no other test uses; `written`: its contents are defined.
    fn range(&self, bytes: u64, written: bool) -> u64 {
        static NEXT: Mutex<u64> = Mutex::new(1 << 40);
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let start = *next;
        *next += bytes.next_multiple_of(4096);
        self.launch.pages.reset(start, bytes, written);
        start
    }

    fn does(&mut self, (block, warp): (usize, u32), instruction: u32, what: Do) {
        self.values((block, warp), instruction, what, None);
    }

    fn values(
        &mut self,
        (block, warp): (usize, u32),
        instruction: u32,
        what: Do,
        values: Option<&dyn Fn(usize) -> u128>,
    ) {
        let actor = |mask| Actor { warp, mask, live: MANY, lanes: MANY, function: 0, instruction };
        let checker = &mut self.blocks[block];
        match what {
            Do::Access(space, kind, mask, bytes, at, ordering) => {
                let mut addresses = [0; 32];
                for (lane, address) in addresses.iter_mut().enumerate() {
                    *address = at(lane as u64);
                }
                let access = Access { space, kind, bytes, mask, addresses: &addresses, ordering, instruction };
                checker.access(&actor(mask), &access, &Extra { values, ..Extra::default() });
                checker.performed();
            }
            Do::Arrive(id, waits) => checker.arrive(&actor(MANY), id, waits, true),
            Do::Release(id) => checker.release(id),
            Do::Sync(members) => checker.warp_sync(&actor(members), members, true),
            Do::Shuffle(mask, members) => checker.warp_sync(&actor(mask), members, false),
            Do::Fence(mask, scope) => checker.fence(&actor(mask), scope),
            Do::Commit => checker.commit(&actor(MANY)),
            Do::Wait(pending) => checker.wait(&actor(MANY), pending, false),
            Do::Mbarrier(event) => checker.mbarrier(&actor(1), 512, event),
        }
    }

    /// All warps of a block meet at barrier 0.
    fn barrier(&mut self, block: usize) {
        for warp in 0..4 {
            self.does((block, warp), 0, Do::Arrive(0, true));
        }
        self.does((block, 0), 0, Do::Release(0));
    }

    fn found(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = Findings::global().list().iter().map(|finding| finding.kind).collect();
        kinds.dedup();
        kinds
    }
}

enum Do {
    Access(AccessSpace, AccessKind, u32, u32, Box<dyn Fn(u64) -> u64>, Ordering),
    Arrive(u32, bool),
    Release(u32),
    Sync(u32),
    Shuffle(u32, u32),
    Fence(u32, Scope),
    Commit,
    Wait(u32),
    Mbarrier(MbarrierEvent),
}

const STRONG: Ordering = Ordering { strong: true, acquire: false, release: false, scope: Scope::Device };

fn access(space: AccessSpace, kind: AccessKind, at: impl Fn(u64) -> u64 + 'static) -> Do {
    Do::Access(space, kind, MANY, 4, Box::new(at), Ordering::default())
}

fn shared(kind: AccessKind, at: impl Fn(u64) -> u64 + 'static) -> Do {
    access(AccessSpace::Shared, kind, at)
}

fn global(kind: AccessKind, at: impl Fn(u64) -> u64 + 'static) -> Do {
    access(AccessSpace::Global, kind, at)
}

fn one(space: AccessSpace, kind: AccessKind, lane: u32, address: u64, ordering: Ordering) -> Do {
    Do::Access(space, kind, 1 << lane, 4, Box::new(move |_| address), ordering)
}

use AccessKind::{AsyncWrite, Atomic, Read, Write};

/// Warp 0 writes shared memory, warp 1 reads it.
fn hand_over(world: &mut World, between: impl Fn(&mut World)) {
    world.does((0, 0), 1, shared(Write, |lane| lane * 4));
    between(world);
    world.does((0, 1), 2, shared(Read, |lane| lane * 4));
}

#[test]
fn a_barrier_orders_warps_and_its_absence_is_a_race() {
    let mut world = World::new(1);
    hand_over(&mut world, |world| world.barrier(0));
    assert!(world.found().is_empty(), "{:?}", Findings::global().list());
    drop(world);
    let mut world = World::new(1);
    hand_over(&mut world, |_| {});
    assert_eq!(world.found(), ["race-shared"]);
    let finding = &Findings::global().list()[0];
    let other = finding.other.as_ref().expect("a race has two sides");
    assert_eq!((finding.at.line, finding.at.thread), (9, [32, 0, 0]));
    assert_eq!((other.at.line, other.at.thread), (8, [0, 0, 0]), "{other:?}");
}

#[test]
fn overwriting_what_another_warp_reads_is_a_race_whoever_read_last() {
    let mut world = World::new(1);
    world.does((0, 0), 1, shared(Write, |lane| lane * 4));
    world.barrier(0);
    for warp in [1, 2, 0] {
        world.does((0, warp), 2, shared(Read, |lane| lane * 4));
    }
    world.does((0, 0), 3, shared(Write, |lane| lane * 4));
    assert_eq!(world.found(), ["race-shared"]);
}

#[test]
fn named_barriers_order_those_who_wait_only() {
    for waiter in [1, 2] {
        let mut world = World::new(1);
        world.does((0, 0), 1, shared(Write, |lane| lane * 4));
        world.does((0, 0), 3, Do::Arrive(3, false));
        world.does((0, 1), 3, Do::Arrive(3, true));
        world.does((0, 1), 3, Do::Release(3));
        // The producer goes on in bytes of its own.
        world.does((0, 0), 4, shared(Write, |lane| 1024 + lane * 4));
        world.does((0, waiter), 2, shared(Read, |lane| lane * 4));
        assert_eq!(world.found().is_empty(), waiter == 1);
        if waiter == 1 {
            world.does((0, 1), 5, shared(Read, |lane| 1024 + lane * 4));
            assert_eq!(world.found(), ["race-shared"], "what comes after the arrival is not ordered");
        }
    }
}

#[test]
fn lanes_of_a_warp_need_a_warp_barrier() {
    for synced in [true, false] {
        let mut world = World::new(1);
        world.does((0, 0), 1, shared(Write, |lane| lane * 4));
        world.does((0, 0), 2, shared(Read, |lane| lane * 4));
        assert!(world.found().is_empty(), "a lane reads what it wrote itself");
        if synced {
            world.does((0, 0), 3, Do::Sync(MANY));
        }
        world.does((0, 0), 4, shared(Read, |lane| (lane ^ 1) * 4));
        assert_eq!(world.found().is_empty(), synced, "{:?}", world.found());
    }
}

#[test]
fn half_words_of_lanes_side_by_side_are_told_apart() {
    let halves =
        |kind, at: fn(u64) -> u64| Do::Access(AccessSpace::Shared, kind, MANY, 2, Box::new(at), Ordering::default());
    let mut world = World::new(1);
    world.does((0, 0), 1, halves(Write, |lane| lane * 2));
    world.does((0, 0), 2, halves(Read, |lane| lane * 2));
    assert!(world.found().is_empty(), "{:?}", Findings::global().list());
    world.does((0, 0), 3, halves(Read, |lane| (lane ^ 1) * 2));
    assert_eq!(world.found(), ["race-warp"]);
}

#[test]
fn a_lane_may_work_on_the_parts_of_its_own_word() {
    for space in [AccessSpace::Shared, AccessSpace::Global] {
        for first in [0, 2] {
            let mut world = World::new(1);
            let base = if space == AccessSpace::Global { world.range(4096, true) } else { 0 };
            let halves = |kind, mask, at: u64| {
                Do::Access(space, kind, mask, 2, Box::new(move |lane| base + lane * 4 + at), Ordering::default())
            };
            world.does((0, 0), 1, access(space, Write, move |lane| base + lane * 4));
            world.does((0, 0), 2, halves(Read, MANY, first));
            world.does((0, 0), 3, halves(Read, 0xff, 2 - first));
            world.does((0, 0), 4, access(space, Read, move |lane| base + lane * 4));
            world.does((0, 0), 5, halves(Write, MANY, 2 - first));
            assert!(world.found().is_empty(), "{space:?}: {:?}", Findings::global().list());
            // Its neighbour may not. (In global memory, lanes of a warp are told from one another within an instruction only.)
            if space == AccessSpace::Global {
                continue;
            }
            world.does((0, 0), 6, halves(Read, MANY, first));
            let next = Do::Access(
                space,
                Write,
                MANY,
                2,
                Box::new(move |lane| base + (lane ^ 1) * 4 + first),
                Ordering::default(),
            );
            world.does((0, 0), 7, next);
            assert_eq!(world.found(), ["race-warp"]);
        }
    }
}

#[test]
fn lanes_that_write_the_same_place_must_write_the_same() {
    for space in [AccessSpace::Shared, AccessSpace::Global] {
        for same in [true, false] {
            let mut world = World::new(1);
            let base = if space == AccessSpace::Global { world.range(4096, true) } else { 0 };
            let value = move |lane: usize| if same { 7 } else { lane as u128 };
            world.values((0, 0), 1, access(space, Write, move |_| base), Some(&value));
            assert_eq!(world.found().is_empty(), same, "{space:?}");
        }
    }
}

#[test]
fn a_partial_warp_barrier_orders_its_members() {
    let mut world = World::new(1);
    world.does((0, 0), 1, one(AccessSpace::Shared, Write, 3, 0, Ordering::default()));
    world.does((0, 0), 2, Do::Sync(0xff));
    world.does((0, 0), 3, one(AccessSpace::Shared, Read, 5, 0, Ordering::default()));
    assert!(world.found().is_empty());
    world.does((0, 0), 3, one(AccessSpace::Shared, Read, 9, 0, Ordering::default()));
    assert_eq!(world.found(), ["race-warp"]);
}

#[test]
fn a_shuffle_keeps_reads_before_writes_but_shows_nothing() {
    let mut world = World::new(1);
    world.does((0, 0), 1, shared(Write, |lane| lane * 4));
    world.does((0, 0), 2, Do::Sync(MANY));
    world.does((0, 0), 3, shared(Read, |lane| (lane ^ 1) * 4));
    world.does((0, 0), 4, Do::Shuffle(MANY, MANY));
    world.does((0, 0), 5, shared(Write, |lane| lane * 4));
    assert!(world.found().is_empty());
    world.does((0, 0), 6, Do::Shuffle(MANY, MANY));
    world.does((0, 0), 7, shared(Read, |lane| (lane ^ 1) * 4));
    assert_eq!(world.found(), ["race-warp"]);
}

#[test]
fn uninitialised_bytes_are_found_in_every_space() {
    let mut world = World::new(1);
    let base = world.range(4096, false);
    world.does((0, 0), 1, global(Write, move |lane| base + lane * 4));
    world.does((0, 0), 2, global(Read, move |lane| base + lane * 4));
    world.does((0, 0), 1, shared(Write, |lane| lane * 4));
    world.does((0, 0), 2, shared(Read, |lane| lane * 4));
    world.does((0, 0), 1, access(AccessSpace::Local, Write, |_| 8));
    world.does((0, 0), 2, access(AccessSpace::Local, Read, |_| 8));
    assert!(world.found().is_empty());
    world.does((0, 0), 3, global(Read, move |lane| base + 128 + lane * 4));
    world.does((0, 0), 4, shared(Read, |lane| 128 + lane * 4));
    world.does((0, 0), 5, access(AccessSpace::Local, Read, |_| 12));
    assert_eq!(world.found(), ["uninitialised-global", "uninitialised-shared", "uninitialised-local"]);
}

/// Block 0 writes data, says so by a flag, and block 1 reads both.
fn publish(world: &mut World, release: Option<Scope>, acquire: Option<Scope>) {
    let data = world.range(4096, true);
    let flag = world.range(4096, true);
    world.does((0, 0), 1, global(Write, move |lane| data + lane * 4));
    if let Some(scope) = release {
        world.does((0, 0), 2, Do::Fence(1, scope));
    }
    world.does((0, 0), 3, one(AccessSpace::Global, Atomic, 0, flag, STRONG));
    world.does((1, 0), 4, one(AccessSpace::Global, Read, 0, flag, STRONG));
    if let Some(scope) = acquire {
        world.does((1, 0), 5, Do::Fence(1, scope));
    }
    world.does((1, 0), 6, global(Read, move |lane| data + lane * 4));
}

#[test]
fn fences_and_a_flag_order_blocks_only_with_both_fences_wide_enough() {
    use Scope::{Block, Device, System};
    for (release, acquire, fine) in [
        (Some(Device), Some(Device), true),
        (Some(System), Some(Device), true),
        (None, Some(Device), false),
        (Some(Device), None, false),
        (Some(Block), Some(Device), false),
        (Some(Device), Some(Block), false),
    ] {
        let mut world = World::new(2);
        publish(&mut world, release, acquire);
        assert_eq!(world.found().is_empty(), fine, "{release:?} {acquire:?}: {:?}", world.found());
        if !fine {
            assert_eq!(world.found(), ["race-global"]);
        }
    }
}

#[test]
fn what_a_block_has_acquired_it_hands_on() {
    let mut world = World::new(3);
    let data = world.range(4096, true);
    let flags = world.range(4096, true);
    let flag = |kind, address| one(AccessSpace::Global, kind, 0, address, STRONG);
    for warp in 0..4 {
        world.does((0, warp), 1, global(Write, move |lane| data + u64::from(warp) * 128 + lane * 4));
    }
    world.barrier(0);
    world.does((0, 0), 2, Do::Fence(1, Scope::Device));
    world.does((0, 0), 3, flag(Write, flags));
    world.does((1, 0), 4, flag(Read, flags));
    world.does((1, 0), 5, Do::Fence(1, Scope::Device));
    world.does((1, 0), 6, flag(Write, flags + 4));
    world.does((2, 0), 7, flag(Read, flags + 4));
    world.does((2, 0), 5, Do::Fence(1, Scope::Device));
    world.barrier(2);
    for warp in 0..4 {
        world.does((2, warp), 6, global(Read, move |lane| data + u64::from(warp) * 128 + lane * 4));
    }
    assert!(world.found().is_empty(), "{:?}", Findings::global().list());
}

#[test]
fn blocks_that_write_the_same_bytes_race_but_atomics_do_not() {
    let mut world = World::new(2);
    let base = world.range(4096, true);
    for block in 0..2 {
        world.does((block, 0), 1, Do::Access(AccessSpace::Global, Atomic, MANY, 4, Box::new(move |_| base), STRONG));
    }
    assert!(world.found().is_empty());
    for block in 0..2 {
        world.does((block, 0), 2, global(Write, move |lane| base + 256 + lane * 4));
    }
    assert_eq!(world.found(), ["race-global"]);
    world.does((1, 1), 3, global(Read, move |_| base));
    assert_eq!(Findings::global().len(), 2, "a plain read races with atomics");
}

#[test]
fn many_readers_and_a_writer_of_another_block_race() {
    let mut world = World::new(3);
    let base = world.range(4096, true);
    for round in 0..40 {
        world.does((round % 2, round as u32 % 4), 1, global(Read, move |lane| base + lane * 4));
    }
    assert!(world.found().is_empty());
    world.does((2, 0), 2, global(Write, move |lane| base + lane * 4));
    assert_eq!(world.found(), ["race-global"]);
}

#[test]
fn a_write_that_has_replaced_another_is_seen_by_what_follows() {
    let mut world = World::new(1);
    let base = world.range(4096, true);
    world.does((0, 0), 1, global(Write, move |lane| base + lane * 4));
    world.barrier(0);
    world.does((0, 1), 2, global(Write, move |lane| base + lane * 4));
    assert!(world.found().is_empty());
    world.does((0, 2), 3, global(Read, move |lane| base + lane * 4));
    assert_eq!(world.found(), ["race-global"]);
}

#[test]
fn launches_race_unless_streams_order_them() {
    for ordered in [true, false] {
        let mut world = World::new(1);
        let base = world.range(4096, true);
        world.does((0, 0), 1, global(Write, move |lane| base + lane * 4));
        let before = if ordered { Arc::new([(0, 0)].into()) } else { Arc::default() };
        let second = World::launch(Order { before, timeline: 2, time: 1 });
        world.blocks.push(Checker::new(second, 0, 4));
        world.does((1, 0), 2, global(Read, move |lane| base + lane * 4));
        assert_eq!(world.found().is_empty(), ordered);
        if !ordered {
            assert_eq!(world.found(), ["race-streams"]);
        }
    }
}

#[test]
fn asynchronous_copies_are_waited_for_by_the_right_count_and_shown_by_a_barrier() {
    for (pending, synced, expected) in [(1, true, None), (2, true, Some("async-copy")), (1, false, Some("race-shared"))]
    {
        let mut world = World::new(1);
        for stage in 0..2u64 {
            world.does((0, 0), 1, shared(AsyncWrite, move |lane| stage * 128 + lane * 4));
            world.does((0, 0), 2, Do::Commit);
        }
        world.does((0, 0), 3, Do::Wait(pending));
        if synced {
            world.barrier(0);
        }
        world.does((0, 1), 4, shared(Read, |lane| lane * 4));
        assert_eq!(world.found().first().copied(), expected);
    }
}

#[test]
fn the_lane_that_waited_may_read_its_own_copy_at_once() {
    let mut world = World::new(1);
    world.does((0, 0), 1, shared(AsyncWrite, |lane| lane * 4));
    world.does((0, 0), 2, Do::Commit);
    world.does((0, 0), 3, Do::Wait(0));
    world.does((0, 0), 4, shared(Read, |lane| lane * 4));
    assert!(world.found().is_empty());
    world.does((0, 0), 5, shared(Read, |lane| (lane ^ 1) * 4));
    assert_eq!(world.found(), ["race-warp"]);
}

#[test]
fn mbarriers_hand_on_what_came_before_the_arrival() {
    for arrives in [true, false] {
        let mut world = World::new(1);
        world.does((0, 0), 0, Do::Mbarrier(MbarrierEvent::Init));
        world.barrier(0);
        world.does((0, 0), 1, shared(Write, |lane| lane * 4));
        if arrives {
            world.does((0, 0), 2, Do::Mbarrier(MbarrierEvent::Arrive));
        }
        world.does((0, 1), 3, Do::Mbarrier(MbarrierEvent::Observe));
        world.does((0, 1), 4, shared(Read, |lane| lane * 4));
        assert_eq!(world.found().is_empty(), arrives);
    }
}

#[test]
fn copies_that_an_mbarrier_tracks_are_touched_once_their_phase_has_been_seen_complete() {
    let late = Some("async-copy");
    for (reader, complete, seen, expected) in [
        (0, true, true, None),
        (1, true, true, None),
        (0, true, false, late),
        (1, true, false, late),
        // What was seen complete is another phase.
        (0, false, true, late),
    ] {
        let mut world = World::new(1);
        world.does((0, 0), 0, Do::Mbarrier(MbarrierEvent::Init));
        world.barrier(0);
        world.does((0, 0), 1, shared(AsyncWrite, |lane| lane * 4));
        let lanes = Actor { warp: 0, mask: MANY, live: MANY, lanes: MANY, function: 0, instruction: 2 };
        world.blocks[0].mbarrier(&lanes, 512, MbarrierEvent::Track);
        world.does((0, 0), 2, Do::Mbarrier(MbarrierEvent::Arrive));
        if complete {
            world.does((0, 0), 2, Do::Mbarrier(MbarrierEvent::Complete));
        }
        if seen {
            world.does((0, reader), 3, Do::Mbarrier(MbarrierEvent::Observe));
        }
        world.does((0, reader), 4, shared(Read, |lane| lane * 4));
        assert_eq!(world.found().first().copied(), expected, "warp {reader}, {complete}, {seen}");
    }
}

#[test]
fn an_mbarrier_is_initialised_before_others_use_it() {
    let mut world = World::new(1);
    world.does((0, 0), 0, Do::Mbarrier(MbarrierEvent::Init));
    world.does((0, 1), 3, Do::Mbarrier(MbarrierEvent::Arrive));
    assert_eq!(world.found(), ["race-shared"]);
}

#[test]
fn barriers_reached_by_part_of_a_warp_or_at_different_places_are_told() {
    let mut world = World::new(1);
    let half = Actor { warp: 0, mask: 0xffff, live: MANY, lanes: MANY, function: 0, instruction: 1 };
    world.blocks[0].arrive(&half, 0, true, true);
    assert_eq!(world.found(), ["barrier-divergence"]);
    drop(world);
    let mut world = World::new(1);
    let early = Actor { live: 0xffff, ..half };
    world.blocks[0].arrive(&early, 0, true, true);
    assert!(world.found().is_empty(), "the other lanes have exited");
    world.does((0, 1), 3, Do::Arrive(0, true));
    assert_eq!(world.found(), ["barrier-divergence"]);
}

#[test]
fn masks_must_name_the_lane_itself_and_only_lanes_that_come() {
    let mut world = World::new(1);
    world.does((0, 0), 1, Do::Shuffle(0xff, 0xff));
    assert!(world.found().is_empty());
    world.does((0, 0), 1, Do::Shuffle(0x1ff, 0xff));
    assert_eq!(world.found(), ["warp-mask"]);
}

#[test]
fn a_finding_is_counted_not_repeated() {
    let mut world = World::new(1);
    for _ in 0..3 {
        hand_over(&mut world, |_| {});
    }
    let kinds: Vec<_> = Findings::global().list().iter().map(|finding| finding.kind).collect();
    world.blocks.clear();
    let list = Findings::global().list();
    assert_eq!(list.len(), kinds.len());
    assert!(list[0].count >= 32, "{}", list[0].count);
}

#[test]
fn lanes_of_a_warp_may_hand_a_lock_to_one_another() {
    for fenced in [true, false] {
        let mut world = World::new(1);
        let data = world.range(4096, true);
        for lane in [3, 4] {
            if fenced {
                world.does((0, 0), 1, Do::Fence(1 << lane, Scope::Device));
            }
            world.does((0, 0), 2, one(AccessSpace::Global, Read, lane, data, Ordering::default()));
            world.does((0, 0), 3, one(AccessSpace::Global, Write, lane, data, Ordering::default()));
            if fenced {
                world.does((0, 0), 4, Do::Fence(1 << lane, Scope::Device));
            }
        }
        assert_eq!(world.found().is_empty(), fenced);
    }
}

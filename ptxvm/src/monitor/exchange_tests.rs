//! Blocks that run at the same time and exchange data across a barrier of the grid that waits by looking again and again.

use super::{pages::Pages, tests::alone, watch_checked};
use crate::{
    machine::{Launch, LoadedModule, run_watched},
    memory::{AllocationKind, Memory},
    program::Program,
    report::Findings,
};
use std::sync::Arc;

/// Every round each thread adds one to a word of its own, and reads the next block's after a barrier of the grid; another
/// barrier follows before the next round. `look`: the load that waits, `seen`: what comes when the wait is over.
fn text(arrive: &str, look: &str, seen: &str) -> String {
    let barrier = |number: u32| {
        format!(
            "bar.sync 0;
            add.u32 %r6, %r6, %r3;
            {arrive}
        WAIT{number}:
            {look}
            setp.lt.u32 %p2, %r7, %r6;
            @%p2 bra WAIT{number};
            {seen}
            bar.sync 0;"
        )
    };
    let (first, second) = (barrier(1), barrier(2));
    format!(
        ".version 8.0
        .target sm_80
        .address_size 64
        .visible .entry exchange(.param .u64 memory, .param .u32 rounds)
        {{
            .reg .pred %p<4>;
            .reg .b32 %r<12>;
            .reg .b64 %rd<6>;
            ld.param.u64 %rd1, [memory];
            ld.param.u32 %r1, [rounds];
            mov.u32 %r2, %ctaid.x;
            mov.u32 %r3, %nctaid.x;
            mov.u32 %r4, %tid.x;
            setp.ne.u32 %p1, %r4, 0;
            shl.b32 %r5, %r4, 2;
            cvt.u64.u32 %rd2, %r5;
            add.u64 %rd2, %rd1, %rd2;
            mul.wide.u32 %rd3, %r2, 128;
            add.u64 %rd3, %rd2, %rd3;
            add.u32 %r8, %r2, 1;
            rem.u32 %r8, %r8, %r3;
            mul.wide.u32 %rd4, %r8, 128;
            add.u64 %rd4, %rd2, %rd4;
            mov.u32 %r6, 0;
        ROUND:
            ld.global.u32 %r9, [%rd3+128];
            add.u32 %r9, %r9, 1;
            st.global.u32 [%rd3+128], %r9;
            {first}
            ld.global.u32 %r10, [%rd4+128];
            {second}
            sub.u32 %r1, %r1, 1;
            setp.ne.u32 %p3, %r1, 0;
            @%p3 bra ROUND;
            ret;
        }}"
    )
}

/// What is found in so many launches.
fn findings(text: &str, launches: usize) -> Vec<&'static str> {
    const BLOCKS: u32 = 4;
    let _alone = alone();
    Findings::global().print(false);
    Findings::global().take();
    let program = Program::compile(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let module = LoadedModule::load(Arc::new(program), 0).expect("it has no variables");
    let bytes = u64::from(BLOCKS + 1) * 128;
    let base = Memory::global().allocate(bytes, 256, AllocationKind::Device, 0, "words".to_owned());
    let base = base.expect("there is memory");
    for _ in 0..launches {
        // SAFETY: just allocated with that size.
        unsafe { Memory::global().fill(base, &[0], bytes).expect("in bounds") };
        Pages::global().reset(base, bytes, true);
        let kernel = module.kernel("exchange").expect("its kernel");
        let params = [base.to_le_bytes().as_slice(), &20u32.to_le_bytes()].concat();
        let mut launch = Launch::new(module.clone(), kernel, [BLOCKS, 1, 1], [32, 1, 1], params);
        launch.options.checked = true;
        launch.options.threads = BLOCKS as usize;
        run_watched(&launch, Some(watch_checked(&launch))).expect("it ends");
    }
    Memory::global().free(base).expect("it is allocated");
    Findings::global().take().iter().map(|finding| finding.kind).collect()
}

const ADD: &str = "@!%p1 red.relaxed.gpu.global.add.u32 [%rd1], 1;";
const RELAXED: &str = "ld.relaxed.gpu.global.u32 %r7, [%rd1];";
const FENCE: &str = "fence.acq_rel.gpu;";

#[test]
fn data_exchanged_across_a_barrier_of_the_grid_never_races_however_the_blocks_run() {
    let release = "@!%p1 red.release.gpu.global.add.u32 [%rd1], 1;";
    let fenced = format!("{FENCE}\n{ADD}");
    for (arrive, look, seen) in [
        (release, "ld.acquire.gpu.global.u32 %r7, [%rd1];", ""),
        (release, RELAXED, FENCE),
        (&fenced, "ld.acquire.gpu.global.u32 %r7, [%rd1];", ""),
        (&fenced, RELAXED, FENCE),
        (&fenced, "ld.volatile.global.u32 %r7, [%rd1];", "membar.gl;"),
        (&fenced, "atom.acquire.gpu.global.or.b32 %r7, [%rd1], 0;", ""),
        (&fenced, "atom.relaxed.gpu.global.cas.b32 %r7, [%rd1], 0, 0;", FENCE),
    ] {
        let found = findings(&text(arrive, look, seen), 40);
        assert!(found.is_empty(), "{arrive} {look} {seen}: {found:?}");
    }
}

#[test]
fn a_barrier_of_the_grid_without_a_fence_on_either_side_is_a_race() {
    let fenced = format!("{FENCE}\n{ADD}");
    for (arrive, look, seen) in [
        (ADD, RELAXED, FENCE),
        (ADD, "ld.acquire.gpu.global.u32 %r7, [%rd1];", ""),
        (&fenced, RELAXED, ""),
        (&fenced, RELAXED, "fence.acq_rel.cta;"),
        (&fenced, "atom.relaxed.gpu.global.cas.b32 %r7, [%rd1], 0, 0;", ""),
    ] {
        let found = findings(&text(arrive, look, seen), 2);
        assert!(found.contains(&"race-global"), "{arrive} {look} {seen}: {found:?}");
    }
}

/// The first lane of each block but one waits for that block, which takes its time; what it finds it leaves in shared memory,
/// at the end of its way, for the lanes that wait at the barrier.
const FIRST_LANE_WAITS: &str = "
    .version 8.0
    .target sm_80
    .address_size 64
    .visible .entry exchange(.param .u64 memory, .param .u32 rounds)
    {
        .reg .pred %p<5>;
        .reg .b32 %r<8>;
        .reg .b64 %rd<2>;
        .shared .align 4 .b32 found;
        ld.param.u64 %rd1, [memory];
        mov.u32 %r1, %tid.x;
        mov.u32 %r2, %ctaid.x;
        mov.u32 %r3, 0;
        setp.ne.u32 %p1, %r1, 0;
        setp.ne.u32 %p2, %r2, 0;
        @%p1 bra MEET;
        @%p2 bra WAIT;
    COUNT:
        ld.volatile.global.u32 %r4, [%rd1+4];
        add.u32 %r3, %r3, 1;
        setp.lt.u32 %p3, %r3, 100000;
        @%p3 bra COUNT;
        st.release.gpu.global.u32 [%rd1], %r3;
    WAIT:
        ld.acquire.gpu.global.u32 %r5, [%rd1];
        setp.eq.u32 %p4, %r5, 0;
        @%p4 bra WAIT;
        st.shared.u32 [found], %r5;
    MEET:
        bar.sync 0;
        ld.shared.u32 %r6, [found];
        ret;
    }";

#[test]
fn lanes_at_a_barrier_are_not_sent_on_while_one_of_them_waits_for_another_block() {
    let found = findings(FIRST_LANE_WAITS, 4);
    assert!(found.is_empty(), "{found:?}");
}

//! Blocks that wait for one another, or for nothing.

use super::{FaultKind, Launch, LoadedModule, run, run_watched};
use crate::{
    memory::{AllocationKind, Memory},
    monitor::{pages::Pages, tests::alone, watch_checked},
    program::Program,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Block 0 waits until a word is 1; the other blocks count for a while and set it to their parameter.
const TEXT: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry waits(.param .u64 memory, .param .u32 value)
{
    .reg .pred %p<4>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [memory];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %ctaid.x;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra SETS;
WAITS:
    ld.relaxed.gpu.global.u32 %r3, [%rd1];
    setp.ne.u32 %p2, %r3, 1;
    @%p2 bra WAITS;
    ret;
SETS:
    mov.u32 %r4, 0;
COUNTS:
    ld.volatile.global.u32 %r5, [%rd1+4];
    add.u32 %r4, %r4, 1;
    setp.lt.u32 %p3, %r4, 20000;
    @%p3 bra COUNTS;
    st.relaxed.gpu.global.u32 [%rd1], %r1;
    ret;
}";

/// A launch of `blocks` blocks whose last ones set the word to `value`.
fn launch(blocks: u32, value: u32) -> Launch {
    let program = Program::compile(TEXT).expect("the text is PTX");
    let module = LoadedModule::load(Arc::new(program), 0).expect("it has no variables");
    let kernel = module.kernel("waits").expect("its kernel");
    let base =
        Memory::global().allocate(64, 256, AllocationKind::Device, 0, "word".to_owned()).expect("there is memory");
    // SAFETY: just allocated with that size.
    unsafe { Memory::global().fill(base, &[0], 64).expect("in bounds") };
    Pages::global().reset(base, 64, true);
    let params = [base.to_le_bytes().as_slice(), &value.to_le_bytes()].concat();
    let mut launch = Launch::new(module, kernel, [blocks, 1, 1], [32, 1, 1], params);
    launch.options.checked = true;
    launch
}

#[test]
fn a_wait_that_nothing_can_end_is_a_deadlock_at_once() {
    let _alone = alone();
    for (threads, blocks) in [(1, 1), (1, 3), (2, 3)] {
        let mut launch = launch(blocks, 2);
        launch.options.threads = threads;
        launch.options.alone = Some(|_| true);
        let start = Instant::now();
        let fault = run_watched(&launch, Some(watch_checked(&launch))).expect_err("it never ends");
        assert_eq!((fault.kind, fault.finding), (FaultKind::Deadlock, "deadlock"));
        assert!(fault.message.contains("nothing is left that could change it"), "{fault}");
        assert!(start.elapsed() < launch.options.patience / 2, "it took {:?}", start.elapsed());
    }
}

#[test]
fn a_wait_that_another_block_ends_is_none() {
    let _alone = alone();
    for seed in [None, Some(1), Some(2), Some(3)] {
        for threads in [1, 2] {
            let mut launch = launch(3, 1);
            launch.options.alone = Some(|_| true);
            (launch.options.seed, launch.options.threads) = (seed, threads);
            run_watched(&launch, Some(watch_checked(&launch))).expect("it ends");
        }
    }
}

#[test]
fn a_wait_for_somebody_outside_is_given_the_patience_it_was_promised() {
    let _alone = alone();
    let mut launch = launch(1, 2);
    launch.options.patience = Duration::from_millis(300);
    let start = Instant::now();
    let fault = run_watched(&launch, Some(watch_checked(&launch))).expect_err("nobody comes");
    assert!(start.elapsed() >= launch.options.patience, "it took {:?}", start.elapsed());
    assert!(fault.message.contains("has done nothing but wait"), "{fault}");
}

#[test]
fn blocks_that_are_left_out_do_nothing() {
    let mut launch = launch(4, 1);
    launch.options.only = Some(Arc::from([2]));
    run(&launch).expect("it ends");
    launch.options.only = Some(Arc::from([0]));
    // The word was set before: block 0 finds it so.
    run(&launch).expect("it ends");
}

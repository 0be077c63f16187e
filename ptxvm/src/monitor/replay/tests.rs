//! Shrinking finds the few blocks that matter, and leaves no trace.

use crate::{
    machine::{Launch, LoadedModule, run_watched},
    memory::{AllocationKind, Memory},
    monitor::{launch::CheckedLaunch, pages::Pages, tests::alone},
    program::Program,
    report::{Findings, Shrunk},
};
use std::sync::Arc;

/// Lane 0 of each block adds its number to a counter, without an atomic, but only blocks 3 and up; all write their number.
const TEXT: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry adds(.param .u64 memory)
{
    .reg .pred %p<3>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [memory];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra END;
    mul.wide.u32 %rd2, %r2, 4;
    add.u64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3+4], %r2;
    setp.lt.u32 %p2, %r2, FIRST;
    @%p2 bra END;
    ld.global.u32 %r3, [%rd1];
    add.u32 %r4, %r3, %r2;
    st.global.u32 [%rd1], %r4;
END:
    ret;
}";

const BLOCKS: u32 = 40;

/// Runs the kernel and gives what memory holds then, and how its race was shrunk.
fn run(first: u32, shrink: bool) -> (Vec<u32>, Option<Shrunk>) {
    let program = Program::compile(&TEXT.replace("FIRST", &first.to_string())).expect("the text is PTX");
    let module = LoadedModule::load(Arc::new(program), 0).expect("it has no variables");
    let kernel = module.kernel("adds").expect("its kernel");
    let bytes = u64::from(BLOCKS + 1) * 4;
    let memory = Memory::global();
    let base = memory.allocate(bytes, 256, AllocationKind::Device, 0, "counter".to_owned()).expect("memory");
    let mut words = vec![100u32; BLOCKS as usize + 1];
    // SAFETY: both sides have that many bytes.
    unsafe { memory.copy(base, words.as_ptr() as u64, bytes).expect("in bounds") };
    Pages::global().reset(base, bytes, true);
    let mut launch = Launch::new(module, kernel, [BLOCKS, 1, 1], [32, 1, 1], base.to_le_bytes().to_vec());
    let options = &mut launch.options;
    (options.threads, options.checked, options.seed, options.shrink) = (1, true, Some(11), shrink);
    Findings::global().take();
    run_watched(&launch, Some(Arc::new(CheckedLaunch::new(&launch)))).expect("it ends well");
    let findings = Findings::global().take();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings.iter().all(|finding| finding.kind == "race-global"));
    // SAFETY: as above.
    unsafe { memory.copy(words.as_mut_ptr() as u64, base, bytes).expect("in bounds") };
    memory.free(base).expect("allocated above");
    (words, findings[0].shrunk.clone())
}

#[test]
fn a_race_of_many_blocks_is_shrunk_to_two_and_memory_is_as_the_launch_left_it() {
    let _alone = alone();
    Findings::global().print(false);
    let (plain, none) = run(3, false);
    assert_eq!(none, None, "nobody asked for it");
    let (words, shrunk) = run(3, true);
    assert_eq!(words, plain);
    assert!((1..=BLOCKS as usize).all(|at| words[at] == at as u32 - 1));
    let shrunk = shrunk.expect("it is seen again");
    assert_eq!((shrunk.numbers.len(), shrunk.of), (2, u64::from(BLOCKS)), "{shrunk:?}");
    assert!(shrunk.numbers.iter().all(|block| *block >= 3), "{shrunk:?}");
    assert_eq!(shrunk.seed, None, "the natural order shows it too");
}

#[test]
fn a_smaller_grid_is_named_where_it_shows_the_finding() {
    let _alone = alone();
    Findings::global().print(false);
    let (_, shrunk) = run(0, true);
    assert_eq!(shrunk.and_then(|shrunk| shrunk.grid), Some([2, 1, 1]));
}

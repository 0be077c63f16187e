use super::{Action, State};
use crate::{
    machine::{FaultKind, Options},
    ops::memory::tests::{Buffer, Run, compile_error},
};

const OUTSIDE: &str = ".shared .align 8 .b8 bar[64];\n.shared .align 16 .b8 buffer[2048];";

const ARRIVE: Action = Action::Arrive { drop: false, complete: true, expect: false };

#[test]
fn an_object_keeps_every_field() {
    for state in [
        State { phase: true, pending: 1, expected: 0xf_ffff, transactions: -0xf_ffff },
        State { phase: false, pending: 0xf_ffff, expected: 1, transactions: 0xf_ffff },
    ] {
        assert_eq!(State::unpack(state.pack()), Some(state));
    }
    assert_eq!(State::unpack(0), None);
    assert_eq!(State::unpack(u64::MAX), None);
}

#[test]
fn a_phase_ends_when_all_have_arrived_and_all_bytes_have_come() {
    let at = |bits| State::unpack(bits).unwrap();
    let bits = Action::Init.apply(0, 2).unwrap();
    let bits = ARRIVE.apply(bits, 1).unwrap();
    assert!(!at(bits).phase);
    let ended = ARRIVE.apply(bits, 1).unwrap();
    assert_eq!(at(ended), State { phase: true, pending: 2, expected: 2, transactions: 0 });
    let waiting = Action::Arrive { drop: false, complete: true, expect: true }.apply(bits, 64).unwrap();
    assert!(!at(waiting).phase);
    let half = Action::Complete.apply(waiting, 32).unwrap();
    assert!(!at(half).phase);
    assert!(at(Action::Complete.apply(half, 32).unwrap()).phase);
    let dropped = Action::Arrive { drop: true, complete: true, expect: false }.apply(bits, 1).unwrap();
    assert_eq!(at(dropped), State { phase: true, pending: 1, expected: 1, transactions: 0 });
    assert!(ARRIVE.apply(bits, 2).is_err());
    assert!(Action::Arrive { drop: false, complete: false, expect: false }.apply(bits, 1).is_err());
    assert!(Action::Init.apply(0, 0).is_err());
    assert!(ARRIVE.apply(12345, 1).is_err());
}

#[test]
fn producers_and_consumers_hand_over_many_times() {
    let to = Buffer::zeros(4);
    // Warp 0 writes a number for each round, warp 1 adds them up; `bar` is full, `bar+8` is empty.
    let body = "mov.u32 %r1, bar;\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%r1], 32;\n\
        @%p1 mbarrier.init.shared.b64 [bar+8], 32;\nbar.sync 0;\nmov.u32 %r5, 0;\nmov.u32 %r6, 0;\n\
        shr.u32 %r3, %r0, 5;\nsetp.eq.u32 %p2, %r3, 1;\n@%p2 bra CONSUMER;\n\
        PRODUCER: and.b32 %r7, %r5, 1;\nxor.b32 %r7, %r7, 1;\n\
        W1: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r1+8], %r7;\n@!%p3 bra W1;\n\
        setp.eq.u32 %p4, %r0, 0;\n@%p4 st.shared.u32 [buffer], %r5;\n\
        mbarrier.arrive.shared.b64 %rd5, [%r1];\nadd.u32 %r5, %r5, 1;\nsetp.lt.u32 %p5, %r5, 100;\n@%p5 bra PRODUCER;\nbra DONE;\n\
        CONSUMER: and.b32 %r7, %r5, 1;\n\
        W2: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p3, [%r1], %r7, 1000;\n@!%p3 bra W2;\n\
        ld.shared.u32 %r8, [buffer];\nadd.u32 %r6, %r6, %r8;\nmbarrier.arrive.release.cta.shared::cta.b64 _, [%r1+8];\n\
        add.u32 %r5, %r5, 1;\nsetp.lt.u32 %p5, %r5, 100;\n@%p5 bra CONSUMER;\n\
        setp.eq.u32 %p4, %r0, 32;\n@%p4 st.global.u32 [%rd1], %r6;\nDONE: mov.u32 %r9, 0;";
    Run { outside: OUTSIDE, block: 64, ..Run::new(body, &[&to]) }.go().unwrap();
    assert_eq!(to.read_words(), [4950]);
}

#[test]
fn tokens_and_counts_are_those_before_the_arrival() {
    let to = Buffer::zeros(64);
    let body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 exit;\nmov.u64 %rd5, bar;\ncvta.shared.u64 %rd6, %rd5;\n\
        mbarrier.init.b64 [%rd6], 5;\nmbarrier.arrive.b64 %rd7, [%rd6];\nmbarrier.arrive.shared.b64 %rd8, [bar], 3;\n\
        mbarrier.pending_count.b64 %r1, %rd7;\nmbarrier.pending_count.b64 %r2, %rd8;\n\
        mbarrier.test_wait.shared.b64 %p2, [bar], %rd7;\nselp.u32 %r3, 1, 0, %p2;\n\
        mbarrier.arrive_drop.shared.b64 %rd9, [bar];\nmbarrier.test_wait.shared.b64 %p2, [bar], %rd7;\nselp.u32 %r4, 1, 0, %p2;\n\
        mbarrier.arrive.noComplete.release.cta.shared.b64 %rd10, [bar], 1;\nmbarrier.pending_count.b64 %r5, %rd10;\n\
        mbarrier.expect_tx.relaxed.cta.shared.b64 [bar], 16;\nmbarrier.arrive.expect_tx.release.cta.shared.b64 _, [bar], 16;\n\
        mbarrier.arrive.shared.b64 _, [bar], 2;\nmbarrier.test_wait.parity.shared.b64 %p2, [bar], 1;\nselp.u32 %r6, 1, 0, %p2;\n\
        mbarrier.complete_tx.shared.b64 [bar], 32;\nmbarrier.test_wait.parity.shared.b64 %p2, [bar], 1;\nselp.u32 %r7, 1, 0, %p2;\n\
        mbarrier.inval.shared.b64 [bar];\nst.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};\nst.global.v2.u32 [%rd1+16], {%r5, %r6};\n\
        st.global.u32 [%rd1+24], %r7;";
    Run { outside: OUTSIDE, ..Run::new(body, &[&to]) }.go().unwrap();
    assert_eq!(to.read_words()[..7], [5, 4, 0, 1, 4, 0, 1]);
}

#[test]
fn copies_arrive_at_an_mbarrier() {
    let source = Buffer::words(&(0..128).collect::<Vec<_>>());
    let to = Buffer::zeros(128);
    let body = "mov.u32 %r1, bar;\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 mbarrier.init.shared.b64 [%r1], 32;\nbar.warp.sync -1;\n\
        shl.b32 %r2, %r0, 4;\nmov.u32 %r3, buffer;\nadd.u32 %r2, %r2, %r3;\nmul.wide.u32 %rd5, %r0, 16;\nadd.s64 %rd6, %rd1, %rd5;\n\
        cp.async.cg.shared.global [%r2], [%rd6], 16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r1];\n\
        W: mbarrier.try_wait.parity.shared.b64 %p3, [%r1], 0;\n@!%p3 bra W;\n\
        cp.async.mbarrier.arrive.shared::cta.b64 [%r1];\n\
        ld.shared.u32 %r4, [%r2+4];\nmul.wide.u32 %rd5, %r0, 4;\nadd.s64 %rd6, %rd2, %rd5;\nst.global.u32 [%rd6], %r4;";
    Run { outside: OUTSIDE, ..Run::new(body, &[&source, &to]) }.go().unwrap();
    assert_eq!(to.read_words(), (0..32).map(|lane| lane * 4 + 1).collect::<Vec<u32>>());
}

/// What precedes the tests of copies: `%r1` is the object, `%r2` the lane's 16 bytes in shared memory (they hold 1, 2, 3, 4),
/// `%rd6` those in the source, `%rd7` where the lane's results go.
const COPY: &str = "mov.u32 %r1, bar;\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 mbarrier.init.shared.b64 [%r1], COUNT;\n\
    and.b32 %r9, %r0, 31;\nshl.b32 %r2, %r9, 4;\nmov.u32 %r3, buffer;\nadd.u32 %r2, %r2, %r3;\n\
    mul.wide.u32 %rd5, %r9, 16;\nadd.s64 %rd6, %rd1, %rd5;\nmul.wide.u32 %rd5, %r0, 8;\nadd.s64 %rd7, %rd2, %rd5;\n\
    st.shared.v4.u32 [%r2], {1, 2, 3, 4};\nst.shared.v4.u32 [%r2+512], {1, 2, 3, 4};\nbar.sync 0;\n";

/// Runs a kernel that leaves two words per thread.
fn copies(count: u32, block: u32, checked: bool, body: &str) -> Vec<u32> {
    let source = Buffer::words(&(0..128).collect::<Vec<_>>());
    let to = Buffer::zeros(8 * block as usize);
    let body = format!("{}{body}\nst.global.v2.u32 [%rd7], {{%r10, %r11}};", COPY.replace("COUNT", &count.to_string()));
    let options = Options { checked, ..Options::default() };
    Run { outside: OUTSIDE, block, options, ..Run::new(&body, &[&source, &to]) }.go().unwrap();
    to.read_words()
}

#[test]
fn copies_are_there_once_their_phase_has_been_seen_complete_and_not_before() {
    let body = "cp.async.cg.shared.global [%r2], [%rd6], 16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r1];\n\
        ld.shared.u32 %r10, [%r2+4];\nW: mbarrier.try_wait.parity.shared.b64 %p3, [%r1], 0;\n@!%p3 bra W;\n\
        ld.shared.u32 %r11, [%r2+4];";
    for (checked, before) in [(false, 2), (true, u32::MAX)] {
        let expected: Vec<u32> = (0..32).flat_map(|lane| [before, lane * 4 + 1]).collect();
        assert_eq!(copies(32, 32, checked, body), expected);
    }
}

#[test]
fn copies_are_there_for_another_warp_that_sees_their_phase_complete() {
    let body = "setp.ge.u32 %p2, %r0, 32;\n@%p2 bra W;\ncp.async.cg.shared.global [%r2], [%rd6], 16;\n\
        cp.async.mbarrier.arrive.noinc.shared.b64 [%r1];\nbra DONE;\n\
        W: mbarrier.try_wait.parity.shared.b64 %p3, [%r1], 0;\n@!%p3 bra W;\n\
        ld.shared.v2.u32 {%r10, %r11}, [%r2+8];\nDONE: mov.u32 %r12, 0;";
    let found = copies(32, 64, true, body);
    assert_eq!(found[64..], (0..32).flat_map(|lane| [lane * 4 + 2, lane * 4 + 3]).collect::<Vec<u32>>());
}

#[test]
fn copies_of_the_phase_under_way_are_not_there_yet() {
    let body = "cp.async.cg.shared.global [%r2], [%rd6], 16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r1];\n\
        @%p1 mbarrier.arrive.shared.b64 %rd9, [%r1];\n\
        cp.async.cg.shared.global [%r2+512], [%rd6], 16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r1];\n\
        W: mbarrier.try_wait.parity.shared.b64 %p3, [%r1], 0;\n@!%p3 bra W;\n\
        ld.shared.u32 %r10, [%r2+4];\nld.shared.u32 %r11, [%r2+516];\n";
    let expected: Vec<u32> = (0..32).flat_map(|lane| [lane * 4 + 1, 2]).collect();
    assert_eq!(copies(33, 32, false, body), expected);
    let whole = format!(
        "{body}@%p1 mbarrier.arrive.shared.b64 %rd9, [%r1];\n\
         V: mbarrier.try_wait.parity.shared.b64 %p3, [%r1], 1;\n@!%p3 bra V;\nld.shared.u32 %r11, [%r2+516];"
    );
    let expected: Vec<u32> = (0..32).flat_map(|lane| [lane * 4 + 1; 2]).collect();
    assert_eq!(copies(33, 32, false, &whole), expected);
}

#[test]
fn misuse_is_a_fault() {
    let to = Buffer::zeros(64);
    let run = |body: &str| Run { outside: OUTSIDE, ..Run::new(body, &[&to]) }.go().expect_err(body);
    let cases = [
        ("mbarrier.arrive.shared.b64 %rd5, [bar];", FaultKind::IllegalInstruction),
        ("mbarrier.test_wait.parity.shared.b64 %p1, [bar], 0;", FaultKind::IllegalInstruction),
        ("mbarrier.init.shared.b64 [bar], 0;", FaultKind::IllegalInstruction),
        ("mbarrier.init.shared.b64 [bar+4], 1;", FaultKind::MisalignedAddress),
        ("mbarrier.init.b64 [%rd1], 1;", FaultKind::InvalidAddressSpace),
        ("mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.shared.b64 _, [bar], 2;", FaultKind::IllegalInstruction),
    ];
    for (body, kind) in cases {
        assert_eq!(run(body).kind, kind, "{body}");
    }
    for body in
        ["mbarrier.init.shared.b32 [bar], 1;", "mbarrier.bogus.b64 [bar];", "mbarrier.init.global.b64 [%rd1], 1;"]
    {
        assert!(compile_error(body).contains("mbarrier"));
    }
}

use crate::{
    machine::Options,
    ops::memory::tests::{Buffer, Run},
};

const OUTSIDE: &str = ".shared .align 16 .b8 buffer[2048];";

/// Runs a kernel whose `%r1` is the lane's 16 bytes in shared memory and `%rd5` its 16 bytes in the source; what it leaves in
/// `%r10` to `%r13` comes back, per lane.
fn run(body: &str, checked: bool) -> Vec<[u32; 4]> {
    let source = Buffer::words(&(0..256).map(|word| word + 1000).collect::<Vec<_>>());
    let to = Buffer::zeros(512);
    let body = format!(
        "mul.wide.u32 %rd6, %r0, 16;\nadd.s64 %rd5, %rd1, %rd6;\nadd.s64 %rd7, %rd2, %rd6;\nshl.b32 %r1, %r0, 4;\n\
         mov.u32 %r2, buffer;\nadd.u32 %r1, %r1, %r2;\nst.shared.v4.u32 [%r1], {{1, 2, 3, 4}};\n\
         st.shared.v4.u32 [%r1+1024], {{1, 2, 3, 4}};\n{body}\nst.global.v4.u32 [%rd7], {{%r10, %r11, %r12, %r13}};"
    );
    let options = Options { checked, ..Options::default() };
    Run { outside: OUTSIDE, options, ..Run::new(&body, &[&source, &to]) }
        .go()
        .unwrap_or_else(|f| panic!("{f}\n{body}"));
    to.read_words().chunks(4).map(|words| words.try_into().unwrap()).collect()
}

const LOAD: &str = "ld.shared.v4.u32 {%r10, %r11, %r12, %r13}, [%r1];";

fn copied(lane: u32) -> [u32; 4] {
    [0, 1, 2, 3].map(|word| 1000 + lane * 4 + word)
}

#[test]
fn a_copy_is_there_after_its_wait_and_not_before() {
    let copy = "cp.async.cg.shared.global.L2::128B [%r1], [%rd5], 16;\ncp.async.commit_group;";
    for (lane, words) in run(&format!("{copy}\n{LOAD}\ncp.async.wait_group 0;"), false).into_iter().enumerate() {
        assert_eq!(words, [1, 2, 3, 4], "{lane}");
    }
    assert_eq!(run(&format!("{copy}\n{LOAD}"), true)[3], [u32::MAX; 4]);
    for wait in ["cp.async.wait_group 0;", "cp.async.wait_all;"] {
        for (lane, words) in run(&format!("{copy}\n{wait}\n{LOAD}"), true).into_iter().enumerate() {
            assert_eq!(words, copied(lane as u32));
        }
    }
    assert_eq!(run(&format!("{copy}\ncp.async.wait_group 1;\n{LOAD}"), true)[0], [u32::MAX; 4]);
}

#[test]
fn wait_group_leaves_the_newest_groups_out() {
    let copies = "cp.async.ca.shared.global [%r1], [%rd5], 8;\ncp.async.commit_group;\n\
                  cp.async.ca.shared.global [%r1+8], [%rd5+8], 4;\ncp.async.ca.shared::cta.global [%r1+12], [%rd5+12], 4;\n\
                  cp.async.commit_group;";
    assert_eq!(run(&format!("{copies}\ncp.async.wait_group 1;\n{LOAD}"), false)[2], [1008, 1009, 3, 4]);
    assert_eq!(run(&format!("{copies}\ncp.async.wait_group 0;\n{LOAD}"), false)[2], copied(2));
    assert_eq!(run(&format!("{copies}\ncp.async.wait_group 2;\n{LOAD}"), false)[2], [1, 2, 3, 4]);
    // An open group is waited for by wait_all alone.
    let open = "cp.async.cg.shared.global [%r1], [%rd5], 16;";
    assert_eq!(run(&format!("{open}\ncp.async.wait_group 0;\n{LOAD}"), false)[0], [1, 2, 3, 4]);
    assert_eq!(run(&format!("{open}\ncp.async.wait_all;\n{LOAD}"), false)[0], copied(0));
}

#[test]
fn what_is_not_copied_becomes_zero() {
    let body = format!(
        "and.b32 %r3, %r0, 15;\nadd.s64 %rd8, %rd5, 1000000;\nsetp.eq.u32 %p1, %r3, 0;\nselp.b64 %rd5, %rd8, %rd5, %p1;\n\
         cp.async.cg.shared.global [%r1], [%rd5], 16, %r3;\ncp.async.wait_all;\n{LOAD}"
    );
    for (lane, words) in run(&body, true).into_iter().enumerate() {
        let lane = lane as u32;
        let mut bytes: Vec<u8> = copied(lane).iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes[lane as usize % 16..].fill(0);
        let got: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(got, bytes, "{lane}");
    }
    let ignored = format!(
        "setp.lt.u32 %p1, %r0, 5;\ncp.async.cg.shared.global [%r1], [%rd5], 16, %p1;\ncp.async.wait_all;\n{LOAD}"
    );
    let words = run(&ignored, false);
    assert_eq!((words[4], words[5]), ([0; 4], copied(5)));
}

#[test]
fn lanes_that_part_have_groups_of_their_own() {
    // Odd lanes commit one more group, so that their copy is older than their newest group.
    let body = format!(
        "and.b32 %r3, %r0, 1;\nsetp.eq.u32 %p1, %r3, 1;\ncp.async.cg.shared.global [%r1], [%rd5], 16;\n\
         cp.async.commit_group;\n@%p1 cp.async.commit_group;\ncp.async.wait_group 1;\n{LOAD}\ncp.async.wait_all;"
    );
    let words = run(&body, false);
    assert_eq!((words[2], words[3]), ([1, 2, 3, 4], copied(3)));
}

#[test]
fn bounds_are_checked_when_a_copy_is_issued() {
    let source = Buffer::zeros(64);
    let run = |body: &str| Run { outside: OUTSIDE, ..Run::new(body, &[&source]) }.go().expect_err(body).finding;
    assert_eq!(run("mov.u32 %r1, buffer;\ncp.async.cg.shared.global [%r1], [%rd1+64], 16;"), "out-of-bounds");
    assert_eq!(run("mov.u32 %r1, buffer;\ncp.async.cg.shared.global [%r1+2048], [%rd1], 16;"), "out-of-bounds");
    assert_eq!(run("mov.u32 %r1, buffer;\ncp.async.cg.shared.global [%r1+8], [%rd1], 16;"), "misaligned-address");
    assert_eq!(run("mov.u32 %r1, buffer;\ncp.async.ca.shared.global [%r1], [%rd1+2], 4;"), "misaligned-address");
}

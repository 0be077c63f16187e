//! What the machine does in more than one way must be the same in each: sources that are constants, lanes that are masked,
//! products that are exact or not, blocks that take over the memory of others.

#[path = "opcodes/random.rs"]
mod random;
#[path = "opcodes/vm.rs"]
mod vm;

use ptxvm::program::Program;
use random::Random;
use vm::run_on_vm;

/// A kernel over two buffers of 16 words a thread: `%r0` to `%r7` and `%x0` to `%x3` are loaded from the first, `%r8` to
/// `%r15` and `%x4` to `%x7` are stored into the second.
fn kernel(body: &str) -> String {
    let mut text = String::from(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out)\n{\n\
         .reg .pred %p<8>;\n.reg .b32 %r<20>;\n.reg .b64 %x<12>;\nld.param.u64 %x10, [in];\nld.param.u64 %x11, [out];\n\
         mov.u32 %r16, %tid.x;\nmad.wide.u32 %x10, %r16, 64, %x10;\nmad.wide.u32 %x11, %r16, 64, %x11;\n",
    );
    for k in 0..8 {
        text += &format!("ld.global.b32 %r{k}, [%x10+{}];\nmov.u32 %r{}, 0;\n", 4 * k, k + 8);
    }
    for k in 0..4 {
        text += &format!("ld.global.b64 %x{k}, [%x10+{}];\nmov.u64 %x{}, 0;\n", 32 + 8 * k, k + 4);
    }
    text += body;
    for k in 0..8 {
        text += &format!("\nst.global.b32 [%x11+{}], %r{};", 4 * k, k + 8);
    }
    for k in 0..4 {
        text += &format!("\nst.global.b64 [%x11+{}], %x{};", 32 + 8 * k, k + 4);
    }
    text + "\nret;\n}\n"
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// What a warp stores for the words it is given, 16 a lane.
fn run(body: &str, input: &[u32]) -> Vec<u32> {
    let mut buffers = [input.iter().flat_map(|word| word.to_le_bytes()).collect(), vec![0; input.len() * 4]];
    run_on_vm(&kernel(body), "k", 1, 32, &mut buffers).unwrap_or_else(|error| panic!("{body}: {error}"));
    words(&buffers[1])
}

const SPECIAL: [u32; 10] = [0, 1, 31, 32, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x7fc0_0000, 0x3f80_0000, 0xff80_0000];

#[test]
fn a_constant_source_gives_what_a_register_that_holds_it_gives() {
    let mut random = Random(7);
    // `$` is the source in question: %r1 or %x1, or the constant that they hold.
    let lines = [
        "add.s32 %r8, %r0, $;",
        "sub.u32 %r8, %r0, $;",
        "mul.lo.s32 %r8, %r0, $;",
        "mad.lo.s32 %r8, %r0, $, %r2;",
        "mad.lo.s32 %r8, %r0, %r2, $;",
        "mad.lo.s32 %r8, %r0, $, $;",
        "shl.b32 %r8, %r0, $;",
        "shr.u32 %r8, %r0, $;",
        "shr.s32 %r8, %r0, $;",
        "and.b32 %r8, %r0, $;",
        "or.b32 %r8, %r0, $;",
        "xor.b32 %r8, %r0, $;",
        "add.f32 %r8, %r0, $;",
        "sub.f32 %r8, %r0, $;",
        "mul.ftz.f32 %r8, %r0, $;",
        "fma.rn.f32 %r8, %r0, $, %r2;",
        "fma.rn.f32 %r8, %r0, %r2, $;",
        "fma.rn.ftz.f32 %r8, %r0, $, $;",
        "mul.wide.u32 %x4, %r0, $;",
        "mul.wide.s32 %x4, %r0, $;",
        "mad.wide.u32 %x4, %r0, $, %x0;",
        "mad.wide.s32 %x4, %r0, $, %x0;",
        "shl.b64 %x4, %x0, $;",
        "shr.s64 %x4, %x0, $;",
        "setp.lt.s32 %p0, %r0, $;\nselp.b32 %r8, 1, 0, %p0;",
        "setp.ls.u32 %p0, %r0, $;\nselp.b32 %r8, 1, 0, %p0;",
        "setp.eq.s32 %p0, %r0, $;\nselp.b32 %r8, 1, 0, %p0;",
        "setp.gt.s32 %p0, %r0, $;\nselp.b32 %r8, 1, 0, %p0;",
    ];
    for line in lines {
        let drawn = [random.next() as u32, random.next() as u32];
        for constant in SPECIAL.into_iter().chain(drawn) {
            let mut input: Vec<u32> = (0..512).map(|_| random.next() as u32).collect();
            for lane in 0..32 {
                input[16 * lane + 1] = constant;
                if lane < SPECIAL.len() {
                    input[16 * lane] = SPECIAL[lane];
                }
            }
            let float = line.contains("f32");
            let named = if float { format!("0f{constant:08X}") } else { format!("{constant:#x}") };
            let (register, immediate) = (line.replace('$', "%r1"), line.replace('$', &named));
            assert_eq!(run(&register, &input), run(&immediate, &input), "{immediate}");
            // The same in some lanes only.
            let some = "setp.gt.s32 %p1, %r3, 0;\n@%p1 bra BEHIND;\n";
            let masked = |line: &str| run(&format!("{some}{line}\nBEHIND:"), &input);
            assert_eq!(masked(&register), masked(&immediate), "{immediate} in some lanes");
        }
    }
}

#[test]
fn masked_lanes_keep_what_they_hold() {
    let mut random = Random(11);
    for _ in 0..40 {
        let input: Vec<u32> = (0..512).map(|_| random.next() as u32).collect();
        let body = "setp.gt.s32 %p1, %r3, 0;\nmov.u32 %r8, %r4;\nmov.u64 %x4, %x3;\nsetp.lt.s32 %p2, %r5, %r6;\n\
                    @%p1 add.s32 %r8, %r0, %r1;\n@%p1 add.s64 %x4, %x0, %x1;\n@!%p1 setp.gt.s32 %p2, %r0, %r1;\n\
                    selp.b32 %r9, %r6, %r7, %p2;";
        let output = run(body, &input);
        for lane in 0..32 {
            let (given, got) = (&input[16 * lane..][..16], &output[16 * lane..][..16]);
            let holds = given[3] as i32 > 0;
            let long = |k: usize| u64::from(given[8 + 2 * k]) | u64::from(given[9 + 2 * k]) << 32;
            let sum = if holds { given[0].wrapping_add(given[1]) } else { given[4] };
            let long_sum = if holds { long(0).wrapping_add(long(1)) } else { long(3) };
            let chosen = if holds { (given[5] as i32) < given[6] as i32 } else { given[0] as i32 > given[1] as i32 };
            assert_eq!(got[0], sum, "lane {lane}");
            assert_eq!(u64::from(got[8]) | u64::from(got[9]) << 32, long_sum, "lane {lane}");
            assert_eq!(got[1], if chosen { given[6] } else { given[7] }, "lane {lane}");
        }
    }
}

#[test]
fn products_of_bf16_are_the_same_whether_other_lanes_are_exact_or_not() {
    let mut random = Random(13);
    let body = "mul.bf16x2 %r8, %r0, %r1;\nfma.rn.bf16x2 %r9, %r0, %r1, %r2;\nfma.rn.relu.bf16x2 %r10, %r0, %r1, %r2;";
    for round in 0..200 {
        // Magnitudes near one another, so that sums cancel, round and tie; now and then a zero or a subnormal.
        let mut number = || {
            let bits = random.next() as u32;
            match random.below(16) {
                0 => bits & 0x8000,
                1 => bits & 0x807f,
                _ => bits & 0x807f | (120 + (bits >> 8 & 15) % (2 + round % 14)) << 7,
            }
        };
        let mut input: Vec<u32> = (0..512).map(|_| number() | number() << 16).collect();
        for lane in 0..32 {
            // A factor that is a subnormal would make the product inexact.
            for factor in 0..2 {
                let word = input[16 * lane + factor];
                let plain = |half: u32| if half & 0x7f80 == 0 { half & 0x8000 } else { half };
                input[16 * lane + factor] = plain(word & 0xffff) | plain(word >> 16) << 16;
            }
        }
        let short = run(body, &input);
        input[16 * 31] = 0x7fff_7fff;
        let long = run(body, &input);
        assert_eq!(short[..16 * 31], long[..16 * 31], "round {round}");
    }
}

#[test]
fn lanes_know_their_thread_in_blocks_of_any_shape() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n.reg .b32 %r<8>;\n\
                .reg .b64 %x<4>;\nld.param.u64 %x0, [out];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, %tid.y;\nmov.u32 %r2, %tid.z;\n\
                mad.lo.u32 %r3, %r2, 5, %r1;\nmad.lo.u32 %r3, %r3, 3, %r0;\nmad.wide.u32 %x1, %r3, 4, %x0;\n\
                mad.lo.u32 %r4, %r2, 10000, %r0;\nmad.lo.u32 %r4, %r1, 100, %r4;\nst.global.u32 [%x1], %r4;\nret;\n}\n";
    let mut buffers = [vec![0xff; 3 * 5 * 7 * 4]];
    vm::run_blocks(text, "k", [1, 1, 1], [3, 5, 7], &mut buffers).expect("it runs");
    for (thread, got) in words(&buffers[0]).into_iter().enumerate() {
        let thread = thread as u32;
        assert_eq!(got, thread % 3 + thread / 3 % 5 * 100 + thread / 15 * 10000, "thread {thread}");
    }
}

#[test]
fn every_block_starts_with_nothing_of_those_before() {
    // Each thread stores the sum of its shared word, its local word, a barrier's predicate count and a register that is
    // only written at the end of the block.
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{\n.reg .b32 %r<9>;\n\
                .reg .b64 %x<4>;\n.reg .pred %p<2>;\n.shared .align 4 .b8 words[512];\n.local .align 4 .b8 own[4];\n\
                ld.param.u64 %x0, [out];\nmov.u32 %r0, %tid.x;\nmov.u32 %r1, %ctaid.x;\nmad.lo.u32 %r2, %r1, 96, %r0;\n\
                mad.wide.u32 %x1, %r2, 4, %x0;\nmov.u32 %r3, words;\nmad.lo.u32 %r3, %r0, 4, %r3;\nld.shared.u32 %r4, [%r3];\n\
                ld.local.u32 %r5, [own];\nadd.u32 %r4, %r4, %r5;\nadd.u32 %r4, %r4, %r8;\nst.global.u32 [%x1], %r4;\n\
                st.shared.u32 [%r3], 77;\nst.local.u32 [own], 78;\nmov.u32 %r8, 79;\nbar.sync 0;\nsetp.gt.u32 %p0, %r0, 40;\n\
                @%p0 exit;\nst.shared.u32 [%r3], %r8;\nret;\n}\n";
    let mut buffers = [vec![0xff; 50 * 96 * 4]];
    vm::run_blocks(text, "k", [50, 1, 1], [96, 1, 1], &mut buffers).expect("it runs");
    assert!(words(&buffers[0]).iter().all(|word| *word == 0), "{:?}", words(&buffers[0]));
}

/// What this machine does not model is refused when it is loaded, with the instruction, its line and its kernel.
#[test]
fn what_is_excluded_is_refused_at_load_with_opcode_line_and_kernel() {
    let text = |line: &str| {
        format!(
            ".version 8.8\n.target sm_100a\n.address_size 64\n.visible .entry well()\n{{\nret;\n}}\n.visible .entry ill()\n{{\n\
             .reg .pred %p<2>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<4>;\nbar.sync 0;\n{line}\n\
             ret;\n}}\n"
        )
    };
    assert!(Program::compile(&text("")).is_ok());
    for line in include_str!("refused.txt").lines() {
        let opcode = line.split([' ', ';']).next().expect("an opcode");
        let error = Program::compile(&text(line)).map(|_| ()).expect_err(line).to_string();
        assert!(error.starts_with(&format!("line 16: `{opcode}` in ill: ")), "{line}: {error}");
    }
}

use crate::{
    machine::Options,
    ops::memory::tests::{Buffer, Random, Run, compile_error},
};

/// What an operation makes of the old value and operand; as bits.
type Reference = fn(u64, u64) -> u64;

fn run_on(space: &str, operation: &str, ty: &str, width: usize, reference: Reference) {
    let mut random = Random(width as u64);
    let special: &[u64] = match ty {
        "f32" => &[0x3f80_0000, 0xbf80_0000, 0, 0x7f80_0000, 0x4b80_0000],
        "f64" => &[0x3ff0_0000_0000_0000, 0xbff8_0000_0000_0000, 0],
        _ => &[0, 1, u64::MAX, 1 << 31, 1 << 63, 5],
    };
    let mask = if width == 8 { u64::MAX } else { u32::MAX.into() };
    let mut values: Vec<u64> = (0..32)
        .map(|lane| if lane % 2 == 0 { special[lane % special.len()] } else { random.next() })
        .map(|value| value & mask)
        .collect();
    if ty.starts_with('f') {
        values = values.iter().map(|value| if value % 3 == 0 { *value } else { special[0] }).collect();
        for value in &mut values {
            let finite =
                if width == 8 { f64::from_bits(*value).is_finite() } else { f32::from_bits(*value as u32).is_finite() };
            if !finite {
                *value = special[1];
            }
        }
    }
    let to_bytes = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect::<Vec<_>>();
    // Four lanes share a word.
    let start: Vec<u64> = values.iter().take(8).map(|value| value.rotate_left(3) & mask).collect();
    let start = if ty.starts_with('f') { values[..8].to_vec() } else { start };
    let (memory, operands) = (Buffer::new(&to_bytes(&start)), Buffer::new(&to_bytes(&values)));
    let results = Buffer::zeros(32 * width);
    let (register, second) = if width == 8 { ("%rd20", "%rd21") } else { ("%r20", "%r21") };
    let bits = width * 8;
    let place = if space == "shared" {
        "cvt.u64.u32 %rd9, %r2;\nmov.u64 %rd10, buffer;\nadd.s64 %rd11, %rd10, %rd9;\nadd.s64 %rd12, %rd1, %rd9;\n\
         ld.global.bBITS VALUE, [%rd12];\nst.shared.bBITS [%rd11], VALUE;\nbar.sync 0;\n"
    } else {
        "cvt.u64.u32 %rd9, %r2;\nadd.s64 %rd11, %rd1, %rd9;\n"
    };
    let after = if space == "shared" {
        "bar.sync 0;\nld.shared.bBITS VALUE, [%rd11];\nst.global.bBITS [%rd12], VALUE;\n"
    } else {
        ""
    };
    let dotted = if space.is_empty() { String::new() } else { format!(".{space}") };
    let body = format!(
        "shr.u32 %r1, %r0, 2;\nmul.lo.u32 %r2, %r1, {width};\n{place}\
         mul.wide.u32 %rd6, %r0, {width};\nadd.s64 %rd7, %rd2, %rd6;\nadd.s64 %rd8, %rd3, %rd6;\n\
         ld.global.b{bits} {register}, [%rd7];\natom{dotted}.{operation}.{ty} {second}, [%rd11], {register};\n\
         st.global.b{bits} [%rd8], {second};\n{after}"
    )
    .replace("BITS", &bits.to_string())
    .replace("VALUE", if width == 8 { "%rd25" } else { "%r25" });
    let outside = ".shared .align 8 .b8 buffer[64];";
    Run { outside, ..Run::new(&body, &[&memory, &operands, &results]) }.go().unwrap_or_else(|f| panic!("{f}\n{body}"));
    let mut expected = start.clone();
    let mut olds = Vec::new();
    for (lane, value) in values.iter().enumerate() {
        olds.push(expected[lane / 4]);
        expected[lane / 4] = reference(expected[lane / 4], *value) & mask;
    }
    assert_eq!(memory.read(), to_bytes(&expected), "atom{dotted}.{operation}.{ty}");
    assert_eq!(results.read(), to_bytes(&olds), "results of atom{dotted}.{operation}.{ty}");
}

#[test]
fn each_operation_is_what_its_formula_says() {
    let cases: &[(&str, &str, usize, Reference)] = &[
        ("and", "b32", 4, |a, b| a & b),
        ("or", "b32", 4, |a, b| a | b),
        ("xor", "b64", 8, |a, b| a ^ b),
        ("exch", "b32", 4, |_, b| b),
        ("exch", "b64", 8, |_, b| b),
        ("add", "u32", 4, |a, b| a.wrapping_add(b)),
        ("add", "s32", 4, |a, b| a.wrapping_add(b)),
        ("add", "u64", 8, |a, b| a.wrapping_add(b)),
        ("inc", "u32", 4, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec", "u32", 4, |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("min", "u32", 4, |a, b| a.min(b)),
        ("max", "s32", 4, |a, b| (a as i32).max(b as i32) as u32 as u64),
        ("min", "s32", 4, |a, b| (a as i32).min(b as i32) as u32 as u64),
        ("max", "u64", 8, |a, b| a.max(b)),
        ("min", "s64", 8, |a, b| (a as i64).min(b as i64) as u64),
        ("add", "f32", 4, |a, b| (f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits().into()),
        ("add", "f64", 8, |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
    ];
    for space in ["global", "", "shared"] {
        for &(operation, ty, width, reference) in cases {
            run_on(space, operation, ty, width, reference);
        }
    }
    run_on("acq_rel.gpu.global", "add", "u32", 4, |a, b| a.wrapping_add(b));
}

#[test]
fn compare_and_swap_of_every_width() {
    let memory = Buffer::new(&[7u8; 64]);
    let results = Buffer::zeros(64);
    let body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 exit;\nmov.u16 %h1, 0x0707;\nmov.u16 %h2, 0x1234;\n\
                atom.global.cas.b16 %h3, [%rd1], %h1, %h2;\natom.global.cas.b16 %h4, [%rd1], %h1, %h1;\n\
                atom.global.cas.b32 %r1, [%rd1+4], 0x07070707, 99;\natom.cas.b32 %r2, [%rd1+4], 98, 97;\n\
                atom.global.cas.b64 %rd5, [%rd1+8], 0x0707070707070707, 55;\n\
                mov.b64 %rd6, 0x0707070707070707;\nmov.b64 %rd7, 3;\nmov.b128 %q0, {%rd6, %rd6};\n\
                mov.b128 %q1, {%rd7, %rd6};\natom.global.cas.b128 %q2, [%rd1+16], %q0, %q1;\n\
                atom.global.exch.b128 %q3, [%rd1+16], %q0;\n\
                st.global.b16 [%rd2], %h3;\nst.global.b16 [%rd2+2], %h4;\nst.global.b32 [%rd2+4], %r2;\n\
                st.global.b64 [%rd2+8], %rd5;\nst.global.b128 [%rd2+16], %q3;";
    Run::new(body, &[&memory, &results]).go().unwrap();
    let words = memory.read_words();
    assert_eq!(words[..4], [0x0707_1234, 99, 55, 0]);
    assert_eq!(words[4..8], [0x0707_0707; 4]);
    let results = results.read_words();
    assert_eq!(results[..4], [0x1234_0707, 99, 0x0707_0707, 0x0707_0707]);
    assert_eq!(results[4..8], [3, 0, 0x0707_0707, 0x0707_0707]);
}

#[test]
fn halves_add_with_one_rounding_and_vectors_element_by_element() {
    let memory = Buffer::zeros(256);
    let body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 exit;\nmov.b32 %r1, 0x3c013c00;\nmov.b32 %r2, 0x10003c00;\n\
                red.global.add.noftz.f16x2 [%rd1], %r1;\natom.global.add.noftz.f16x2 %r3, [%rd1], %r2;\n\
                mov.b32 %r4, 0x3f803f80;\nred.global.add.noftz.bf16x2 [%rd1+4], %r4;\n\
                mov.b16 %h1, 0x3c00;\natom.global.add.noftz.f16 %h2, [%rd1+8], %h1;\n\
                mov.f32 %f1, 0f3F800000;\nmov.f32 %f2, 0f40000000;\n\
                red.global.v2.f32.add [%rd1+16], {%f1, %f2};\natom.global.v4.f32.add {%f3, %f4, %f5, %f6}, [%rd1+32], {%f1, %f2, %f1, %f2};\n\
                red.global.add.noftz.v4.bf16x2 [%rd1+48], {%r4, %r4, %r4, %r4};\n\
                mov.b16 %h3, 0xbc00;\nmov.b16 %h4, 0x7e00;\nred.global.v2.f16.max.noftz [%rd1+64], {%h3, %h4};\n\
                st.global.u32 [%rd1+80], %r3;";
    Run::new(body, &[&memory]).go().unwrap();
    let words = memory.read_words();
    // 1 + 1 = 2; 1.0009766 + 0.00048828 lies half way and goes to the even neighbour.
    assert_eq!(words[0], 0x3c02_4000);
    assert_eq!(words[1], 0x3f80_3f80);
    assert_eq!(words[2], 0x3c00);
    assert_eq!(words[4..6], [0x3f80_0000, 0x4000_0000]);
    assert_eq!(words[8..12], [0x3f80_0000, 0x4000_0000, 0x3f80_0000, 0x4000_0000]);
    assert_eq!(words[12..16], [0x3f80_3f80; 4]);
    // The greater of 0 and −1 is 0; of 0 and a NaN it is 0.
    assert_eq!(words[16], 0);
    assert_eq!(words[20], 0x3c01_3c00);
}

#[test]
fn sums_flush_subnormals_in_global_memory_only() {
    let memory = Buffer::words(&[5, 5]);
    let outside = ".shared .align 4 .b8 buffer[8];";
    let body = "setp.ne.u32 %p1, %r0, 0;\n@%p1 exit;\nmov.b32 %f1, 3;\nred.global.add.f32 [%rd1], %f1;\n\
                st.shared.u32 [buffer], 5;\nred.shared.add.f32 [buffer], %f1;\nld.shared.u32 %r1, [buffer];\n\
                st.global.u32 [%rd1+4], %r1;";
    Run { outside, ..Run::new(body, &[&memory]) }.go().unwrap();
    assert_eq!(memory.read_words(), [0, 8]);
}

#[test]
fn blocks_on_several_threads_lose_no_addition() {
    let memory = Buffer::zeros(16);
    let body = "red.global.add.u32 [%rd1], 1;\natom.global.add.u64 %rd5, [%rd1+8], 3;\natom.global.max.u32 %r1, [%rd1+4], %r0;";
    let options = Options { threads: 4, ..Options::default() };
    Run { grid: 100, block: 96, options, ..Run::new(body, &[&memory]) }.go().unwrap();
    assert_eq!(memory.read_words(), [9600, 95, 28800, 0]);
}

#[test]
fn blocks_on_several_threads_lose_no_exchange_of_128_bits() {
    // Every exchange gives back what another has put there: in the end each token has been seen once, but for the last.
    let memory = Buffer::zeros(16);
    let results = Buffer::zeros(16 * 2048);
    let body = "mov.u32 %r1, %ctaid.x;\nshl.b32 %r1, %r1, 6;\nadd.u32 %r1, %r1, %r0;\nadd.u32 %r2, %r1, 1;\n\
                cvt.u64.u32 %rd5, %r2;\nnot.b64 %rd6, %rd5;\nmov.b128 %q0, {%rd5, %rd6};\n\
                atom.global.exch.b128 %q1, [%rd1], %q0;\nmul.wide.u32 %rd7, %r1, 16;\nadd.s64 %rd7, %rd2, %rd7;\n\
                st.global.b128 [%rd7], %q1;";
    let options = Options { threads: 2, ..Options::default() };
    Run { grid: 32, block: 64, options, ..Run::new(body, &[&memory, &results]) }.go().unwrap();
    let halves = |bytes: Vec<u8>| -> Vec<[u64; 2]> {
        bytes.chunks(16).map(|pair| [0, 8].map(|at| u64::from_le_bytes(pair[at..at + 8].try_into().unwrap()))).collect()
    };
    let mut seen = halves(results.read());
    seen.extend(halves(memory.read()));
    seen.sort_unstable();
    let expected = (0..=2048u64).map(|token| if token == 0 { [0, 0] } else { [token, !token] });
    assert_eq!(seen, expected.collect::<Vec<_>>());
}

#[test]
fn a_lock_taken_by_one_lane_after_another_is_not_a_deadlock() {
    let memory = Buffer::zeros(8);
    let body = "mov.u32 %r5, 0;\nTRY: atom.global.cas.b32 %r1, [%rd1], 0, 1;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra TRY;\n\
                fence.acq_rel.gpu;\nld.global.u32 %r2, [%rd1+4];\nadd.u32 %r2, %r2, 1;\nst.global.u32 [%rd1+4], %r2;\n\
                fence.acq_rel.gpu;\natom.global.exch.b32 %r3, [%rd1], 0;";
    Run { grid: 4, block: 64, ..Run::new(body, &[&memory]) }.go().unwrap();
    assert_eq!(memory.read_words(), [0, 256]);
}

#[test]
fn a_seed_draws_the_order_of_lanes() {
    let run = |seed| {
        let memory = Buffer::zeros(4);
        let results = Buffer::zeros(128);
        let body = "atom.global.add.u32 %r1, [%rd1], 1;\nmul.wide.u32 %rd5, %r0, 4;\nadd.s64 %rd5, %rd2, %rd5;\n\
                    st.global.u32 [%rd5], %r1;";
        let options = Options { seed, ..Options::default() };
        Run { options, ..Run::new(body, &[&memory, &results]) }.go().unwrap();
        results.read_words()
    };
    let ascending: Vec<u32> = (0..32).collect();
    assert_eq!(run(None), ascending);
    let mut drawn = run(Some(1));
    assert_ne!(drawn, ascending);
    assert_eq!(drawn, run(Some(1)));
    drawn.sort_unstable();
    assert_eq!(drawn, ascending);
}

#[test]
fn orders_need_their_operands() {
    for body in
        ["atom.global.cas.b32 %r1, [%rd1], %r2;", "red.global.add.u32 %r1, [%rd1], %r2;", "atom.add.u32 %r1, %rd1, 1;"]
    {
        assert!(compile_error(body).contains("operand") || compile_error(body).contains("address"), "{body}");
    }
}

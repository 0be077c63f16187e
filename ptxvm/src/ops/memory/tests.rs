//! Kernels in PTX, launched as a driver would, compared with what plain Rust makes of the same memory.

use crate::{
    machine::{Fault, FaultKind, Launch, LoadedModule, Options, run},
    memory::{AllocationKind, Memory},
    program::Program,
};
use std::sync::Arc;

/// Device memory with the bytes of a slice; freed when dropped.
pub(crate) struct Buffer {
    pub(crate) base: u64,
    bytes: usize,
}

impl Buffer {
    pub(crate) fn new(data: &[u8]) -> Self {
        let label = "cuMemAlloc, test".to_owned();
        let base = Memory::global().allocate(data.len() as u64, 1, AllocationKind::Device, 0, label).unwrap();
        // SAFETY: `data` is valid, the allocation as large.
        unsafe { Memory::global().copy(base, data.as_ptr() as u64, data.len() as u64).unwrap() };
        Self { base, bytes: data.len() }
    }

    pub(crate) fn words(data: &[u32]) -> Self {
        Self::new(&data.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn zeros(bytes: usize) -> Self {
        Self::new(&vec![0; bytes])
    }

    pub(crate) fn read(&self) -> Vec<u8> {
        let mut data = vec![0u8; self.bytes];
        // SAFETY: `data` is as large as the allocation.
        unsafe { Memory::global().copy(data.as_mut_ptr() as u64, self.base, self.bytes as u64).unwrap() };
        data
    }

    pub(crate) fn read_words(&self) -> Vec<u32> {
        self.read().chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // One test frees its buffer itself.
        let _ = Memory::global().free(self.base);
    }
}

/// A kernel `k` of four pointers, which `%rd1` to `%rd4` hold; `%r0` is the thread.
pub(crate) fn module(outside: &str, body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n{outside}\n\
         .visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{\n\
         .reg .b16 %h<16>;\n.reg .b32 %r<40>;\n.reg .b64 %rd<40>;\n.reg .f32 %f<16>;\n.reg .f64 %fd<8>;\n\
         .reg .pred %p<8>;\n.reg .b128 %q<4>;\n\
         ld.param.u64 %rd1, [a];\nld.param.u64 %rd2, [b];\nld.param.u64 %rd3, [c];\nld.param.u64 %rd4, [d];\n\
         mov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}

pub(crate) struct Run<'a> {
    pub(crate) outside: &'a str,
    pub(crate) body: &'a str,
    pub(crate) pointers: Vec<u64>,
    pub(crate) grid: u32,
    pub(crate) block: u32,
    pub(crate) options: Options,
}

impl<'a> Run<'a> {
    pub(crate) fn new(body: &'a str, buffers: &[&Buffer]) -> Self {
        let pointers = buffers.iter().map(|buffer| buffer.base).collect();
        Self { outside: "", body, pointers, grid: 1, block: 32, options: Options::default() }
    }

    pub(crate) fn go(self) -> Result<(), Fault> {
        let text = module(self.outside, self.body);
        let program = Program::compile(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let module = LoadedModule::load(Arc::new(program), 0).unwrap();
        let kernel = module.kernel("k").unwrap();
        let params = (0..4).flat_map(|at| self.pointers.get(at).copied().unwrap_or(0).to_le_bytes()).collect();
        let mut launch = Launch::new(module, kernel, [self.grid, 1, 1], [self.block, 1, 1], params);
        launch.options = self.options;
        run(&launch)
    }
}

pub(crate) fn compile_error(body: &str) -> String {
    Program::compile(&module("", body)).expect_err(body).to_string()
}

/// A small generator of numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        crate::machine::launch::mix(&mut self.0)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

const SKIPPED: u32 = u32::MAX;

fn at(index: impl FnMut(usize) -> u32) -> [u32; 32] {
    std::array::from_fn(index)
}

/// Which element each lane accesses.
fn patterns() -> Vec<[u32; 32]> {
    let mut random = Random(7);
    let mut patterns = vec![
        at(|lane| lane as u32),
        at(|lane| lane as u32 + 5),
        at(|_| 9),
        at(|lane| 2 * lane as u32),
        at(|lane| 31 - lane as u32),
        at(|lane| lane as u32 / 4),
        at(|lane| if lane < 7 { lane as u32 } else { SKIPPED }),
        at(|lane| if lane >= 20 { lane as u32 - 20 } else { SKIPPED }),
        // In a row up to the very end of the buffer: the lanes that are off would lie behind it.
        at(|lane| if lane < 9 { lane as u32 + 63 - 8 } else { SKIPPED }),
        at(|lane| if lane % 3 == 1 { lane as u32 } else { SKIPPED }),
        at(|lane| if lane % 5 == 1 { 33 } else { SKIPPED }),
        at(|lane| if lane == 13 { 63 } else { SKIPPED }),
    ];
    for _ in 0..4 {
        patterns.push(at(|_| (random.next() % 64) as u32));
        patterns.push(at(|_| if random.next().is_multiple_of(2) { (random.next() % 64) as u32 } else { SKIPPED }));
    }
    patterns
}

/// Forms of `ld`/`st`: vector, type, registers, bytes per access.
const FORMS: &[(&str, &str, &str, u32)] = &[
    ("", "u8", "%h0", 1),
    ("", "b8", "%r10", 1),
    ("", "u16", "%h0", 2),
    ("", "b32", "%r10", 4),
    ("", "f32", "%f0", 4),
    ("", "u32", "%rd10", 4),
    ("", "b64", "%rd10", 8),
    ("", "f64", "%fd0", 8),
    ("", "b128", "%q0", 16),
    (".v2", "u8", "{%h0, %h1}", 2),
    (".v4", "b8", "{%r10, %r11, %r12, %r13}", 4),
    (".v2", "b16", "{%h0, %h1}", 4),
    (".v4", "u16", "{%h0, %h1, %h2, %h3}", 8),
    (".v2", "f32", "{%f0, %f1}", 8),
    (".v4", "b32", "{%r10, %r11, %r12, %r13}", 16),
    (".v2", "b64", "{%rd10, %rd11}", 16),
    (".v8", "b32", "{%r10, %r11, %r12, %r13, %r14, %r15, %r16, %r17}", 32),
    (".v4", "b64", "{%rd10, %rd11, %rd12, %rd13}", 32),
];

fn moves_as_plain_rust_does(outside: &str, prologue: &str, load: &str, store: &str, target: &str) {
    let mut random = Random(3);
    for &(vector, ty, registers, bytes) in FORMS {
        for (number, pattern) in patterns().iter().enumerate() {
            let data = random.bytes(64 * bytes as usize);
            let (source, to) = (Buffer::new(&data), Buffer::zeros(64 * bytes as usize));
            let reads = Buffer::words(pattern);
            let writes = if number % 2 == 0 { pattern.to_vec() } else { patterns()[4].to_vec() };
            let write_buffer = Buffer::words(&writes);
            let body = format!(
                "mul.wide.u32 %rd5, %r0, 4;\nadd.s64 %rd6, %rd3, %rd5;\nadd.s64 %rd7, %rd4, %rd5;\n\
                 ld.global.u32 %r1, [%rd6];\nld.global.u32 %r2, [%rd7];\n\
                 setp.eq.u32 %p1, %r1, -1;\nsetp.eq.u32 %p2, %r2, -1;\nor.pred %p2, %p1, %p2;\n\
                 mul.wide.u32 %rd8, %r1, {bytes};\nmul.wide.u32 %rd9, %r2, {bytes};\n{}\n\
                 @!%p1 ld{load}{vector}.{ty} {registers}, [%rd20+{bytes}];\n\
                 @!%p2 st{store}{vector}.{ty} [{target}+{bytes}], {registers};\n",
                prologue.replace("BYTES", &(64 * bytes).to_string())
            );
            let launch = Run { outside, ..Run::new(&body, &[&source, &to, &reads, &write_buffer]) };
            launch.go().unwrap_or_else(|fault| panic!("{fault}\n{body}"));
            let mut expected = vec![0u8; 64 * bytes as usize];
            let size = bytes as usize;
            for lane in 0..32 {
                if pattern[lane] != SKIPPED && writes[lane] != SKIPPED {
                    let (from, at) = (pattern[lane] as usize * size, writes[lane] as usize * size);
                    expected[at..at + size].copy_from_slice(&data[from..from + size]);
                }
            }
            assert_eq!(to.read(), expected, "pattern {number} of ld{load}{vector}.{ty}");
        }
    }
}

#[test]
fn global_accesses_of_every_width_and_pattern() {
    let prologue = "add.s64 %rd20, %rd1, %rd8;\nsub.s64 %rd20, %rd20, BYTES/64;\nadd.s64 %rd21, %rd2, %rd9;\n\
                    sub.s64 %rd21, %rd21, BYTES/64;";
    let prologue = &prologue.replace("BYTES/64", "%rd30");
    let prologue = &format!("mov.u64 %rd30, BYTES;\nshr.u64 %rd30, %rd30, 6;\n{prologue}");
    moves_as_plain_rust_does("", prologue, ".global", ".global", "%rd21");
    moves_as_plain_rust_does("", prologue, "", "", "%rd21");
    moves_as_plain_rust_does("", prologue, ".relaxed.gpu.global", ".release.sys.global", "%rd21");
    moves_as_plain_rust_does("", prologue, ".volatile.global", ".volatile.global", "%rd21");
    moves_as_plain_rust_does("", prologue, ".global.nc.L1::no_allocate.L2::128B", ".global.cs", "%rd21");
}

/// Copies the source into shared memory byte by byte.
const FILL_SHARED: &str = "mov.u32 %r20, %r0;\n\
    LOOP: cvt.u64.u32 %rd22, %r20;\nadd.s64 %rd23, %rd1, %rd22;\nld.global.u8 %h9, [%rd23];\n\
    mov.u32 %r21, buffer;\nadd.u32 %r21, %r21, %r20;\nst.shared.u8 [%r21], %h9;\n\
    add.u32 %r20, %r20, 32;\nsetp.lt.u32 %p3, %r20, BYTES;\n@%p3 bra LOOP;\nbar.sync 0;\n\
    mov.u64 %rd30, BYTES;\nshr.u64 %rd30, %rd30, 6;\nadd.s64 %rd21, %rd2, %rd9;\nsub.s64 %rd21, %rd21, %rd30;\n";

#[test]
fn shared_accesses_of_every_width_and_pattern() {
    let outside = ".shared .align 32 .b8 before[64];\n.shared .align 32 .b8 buffer[2048];";
    let wide =
        format!("{FILL_SHARED}mov.u64 %rd20, buffer;\nadd.s64 %rd20, %rd20, %rd8;\nsub.s64 %rd20, %rd20, %rd30;");
    moves_as_plain_rust_does(outside, &wide, ".shared", ".global", "%rd21");
    let narrow = format!("{wide}\ncvt.u32.u64 %r30, %rd20;");
    let narrow_load = narrow.clone();
    for_narrow(outside, &narrow_load);
    let generic = format!("{wide}\ncvta.shared.u64 %rd20, %rd20;");
    moves_as_plain_rust_does(outside, &generic, "", ".global", "%rd21");
}

/// Stores to and loads from shared memory by addresses of 32 bits.
fn for_narrow(outside: &str, prologue: &str) {
    let prologue = format!("{prologue}\n@!%p1 ld.shared@TYPE, [%r30+SIZE];\n@!%p1 st.shared [%r30+SIZE], @VALUE;\n");
    for &(vector, ty, registers, bytes) in FORMS {
        let prologue = prologue
            .replace("@TYPE", &format!("{vector}.{ty} {registers}"))
            .replace("st.shared [", &format!("st.shared{vector}.{ty} ["))
            .replace("@VALUE", registers)
            .replace("SIZE", &bytes.to_string())
            .replace("BYTES", &(64 * bytes).to_string());
        for pattern in patterns() {
            let mut random = Random(11);
            let data = random.bytes(64 * bytes as usize);
            let (source, to) = (Buffer::new(&data), Buffer::zeros(32 * bytes as usize));
            let reads = Buffer::words(&pattern);
            let body = format!(
                "mul.wide.u32 %rd5, %r0, 4;\nadd.s64 %rd6, %rd3, %rd5;\nld.global.u32 %r1, [%rd6];\n\
                 setp.eq.u32 %p1, %r1, -1;\nmul.wide.u32 %rd8, %r1, {bytes};\nmul.wide.u32 %rd9, %r0, {bytes};\n\
                 {prologue}@!%p1 st.global{vector}.{ty} [%rd21+{bytes}], {registers};\n"
            );
            Run { outside, ..Run::new(&body, &[&source, &to, &reads]) }.go().unwrap_or_else(|f| panic!("{f}\n{body}"));
            let mut expected = vec![0u8; 32 * bytes as usize];
            let size = bytes as usize;
            for lane in (0..32).filter(|&lane| pattern[lane] != SKIPPED) {
                let from = pattern[lane] as usize * size;
                expected[lane * size..][..size].copy_from_slice(&data[from..from + size]);
            }
            assert_eq!(to.read(), expected, "ld.shared{vector}.{ty} of {pattern:?}");
        }
    }
}

#[test]
fn loads_extend_the_sign_to_the_register() {
    let source = Buffer::new(&[0x80, 0xff, 0x7f, 0x01, 0, 0, 0, 0]);
    let to = Buffer::zeros(64);
    let body = "ld.global.s8 %h0, [%rd1];\nst.global.b16 [%rd2], %h0;\n\
                ld.global.s8 %r1, [%rd1];\nst.global.b32 [%rd2+4], %r1;\n\
                ld.global.s16 %rd5, [%rd1];\nst.global.b64 [%rd2+8], %rd5;\n\
                ld.global.s32 %rd5, [%rd1];\nst.global.b64 [%rd2+16], %rd5;\n\
                ld.global.u8 %rd5, [%rd1];\nst.global.b64 [%rd2+24], %rd5;\n\
                ld.global.v2.s8 {%r1, %r2}, [%rd1+2];\nst.global.v2.b32 [%rd2+32], {%r1, %r2};\n\
                ld.global.b8 %r1, [%rd1+1];\nst.global.b32 [%rd2+40], %r1;\n\
                ld.global.s8 %h0, [%rd1];\ncvt.s32.s16 %r1, %h0;\nst.global.b32 [%rd2+44], %r1;";
    Run::new(body, &[&source, &to]).go().unwrap();
    let words = to.read_words();
    assert_eq!(words[0], 0xff80);
    assert_eq!(words[1], 0xffff_ff80);
    assert_eq!(words[2..4], [0xffff_ff80, 0xffff_ffff]);
    assert_eq!(words[4..6], [0x017f_ff80, 0]);
    assert_eq!(words[6..8], [0x80, 0]);
    assert_eq!(words[8..10], [0x7f, 1]);
    assert_eq!(words[10..12], [0xff, 0xffff_ff80]);
}

#[test]
fn lanes_of_a_warp_may_be_in_different_spaces() {
    let to = Buffer::zeros(128);
    let outside = ".shared .align 8 .b8 buffer[256];";
    // Even lanes write to shared memory, each third to local, the rest to global; all by one generic store.
    let body = ".local .align 8 .b8 mine[16];\nmov.u64 %rd5, buffer;\ncvta.shared.u64 %rd5, %rd5;\n\
                mul.wide.u32 %rd6, %r0, 4;\nadd.s64 %rd5, %rd5, %rd6;\nadd.s64 %rd7, %rd1, %rd6;\n\
                mov.u64 %rd8, mine;\ncvta.local.u64 %rd8, %rd8;\nrem.u32 %r1, %r0, 3;\n\
                setp.eq.u32 %p1, %r1, 0;\nsetp.eq.u32 %p2, %r1, 1;\n\
                selp.b64 %rd9, %rd8, %rd7, %p1;\nselp.b64 %rd9, %rd5, %rd9, %p2;\nadd.u32 %r2, %r0, 100;\n\
                st.u32 [%rd9], %r2;\nld.u32 %r3, [%rd9];\nadd.u32 %r3, %r3, 1;\nst.global.u32 [%rd7], %r3;\n\
                isspacep.shared %p3, %rd9;\nisspacep.local %p4, %rd9;\nisspacep.global %p5, %rd9;\n\
                selp.u32 %r4, 1000, 0, %p3;\n@%p4 mov.u32 %r4, 2000;\n@%p5 mov.u32 %r4, 3000;\n\
                add.u32 %r3, %r3, %r4;\nst.global.u32 [%rd7], %r3;";
    Run { outside, ..Run::new(body, &[&to]) }.go().unwrap();
    let expected: Vec<u32> = (0..32).map(|lane| 101 + lane + [2000, 1000, 3000][lane as usize % 3]).collect();
    assert_eq!(to.read_words(), expected);
}

#[test]
fn local_memory_belongs_to_each_lane() {
    let to = Buffer::zeros(128);
    let body = ".local .align 16 .b8 mine[32];\nmov.u64 %rd5, mine;\ncvta.local.u64 %rd6, %rd5;\n\
                and.b32 %r1, %r0, 7;\nmul.wide.u32 %rd7, %r1, 4;\nadd.s64 %rd8, %rd5, %rd7;\n\
                st.local.v4.u32 [mine], {%r0, %r0, %r0, %r0};\nst.local.v2.u64 [%rd5+16], {%rd7, %rd7};\n\
                st.local.u32 [%rd8], %r0;\nadd.s64 %rd8, %rd6, %rd7;\nld.u32 %r2, [%rd8];\n\
                ld.local.u32 %r3, [mine+4];\nadd.u32 %r2, %r2, %r3;\n\
                mul.wide.u32 %rd7, %r0, 4;\nadd.s64 %rd9, %rd1, %rd7;\nst.global.u32 [%rd9], %r2;";
    Run::new(body, &[&to]).go().unwrap();
    assert_eq!(to.read_words(), (0..32).map(|lane| 2 * lane).collect::<Vec<u32>>());
}

#[test]
fn parameters_are_read_through_registers_and_generically() {
    let to = Buffer::zeros(64);
    let body = "mov.b64 %rd5, b;\nld.param.u64 %rd6, [%rd5];\ncvta.param.u64 %rd7, %rd5;\nld.u64 %rd8, [%rd7+8];\n\
                ld.param.v2.u32 {%r1, %r2}, [c];\nisspacep.param %p1, %rd7;\nselp.u32 %r3, 1, 0, %p1;\n\
                st.global.u64 [%rd1], %rd6;\nst.global.u64 [%rd1+8], %rd8;\nst.global.v2.u32 [%rd1+16], {%r1, %r2};\n\
                st.global.u32 [%rd1+24], %r3;";
    let mut launch = Run::new(body, &[&to]);
    launch.pointers.extend([0x1111_2222_3333, 0x4444_5555_6666]);
    launch.go().unwrap();
    let words = to.read_words();
    assert_eq!(words[..7], [0x2222_3333, 0x1111, 0x5555_6666, 0x4444, 0x5555_6666, 0x4444, 1]);
}

fn fault(body: &str, buffers: &[&Buffer]) -> Fault {
    let outside = ".const .align 4 .b32 table[4] = {1, 2, 3, 4};\n.shared .align 4 .b8 buffer[64];";
    Run { outside, ..Run::new(body, buffers) }.go().expect_err(body)
}

#[test]
fn accesses_out_of_bounds_name_the_allocation_and_the_lane() {
    let buffer = Buffer::zeros(124);
    let address = "mul.wide.u32 %rd5, %r0, 4;\nadd.s64 %rd5, %rd1, %rd5;\n";
    for access in ["st.global.u32 [%rd5], %r0;", "st.u32 [%rd5], %r0;", "red.global.add.u32 [%rd5], 1;"] {
        let fault = fault(&format!("{address}{access}"), &[&buffer]);
        assert_eq!((fault.kind, fault.finding), (FaultKind::IllegalAddress, "out-of-bounds"), "{fault}");
        assert_eq!(fault.place.as_ref().unwrap().thread, [31, 0, 0], "{fault}");
        assert!(fault.message.contains("0 bytes after the end of allocation #"), "{fault}");
        assert!(fault.message.contains("of 124 bytes") && fault.message.contains("cuMemAlloc, test"), "{fault}");
    }
    let fault = fault(&format!("{address}ld.global.v4.u32 {{%r1, %r2, %r3, %r4}}, [%rd5];"), &[&buffer]);
    assert_eq!(fault.finding, "misaligned-address", "{fault}");
    assert_eq!(fault.place.unwrap().thread, [1, 0, 0]);
}

#[test]
fn other_bad_addresses_are_told_apart() {
    let buffer = Buffer::zeros(256);
    let cases = [
        ("ld.global.u32 %r1, [0];", "null-pointer"),
        ("ld.u32 %r1, [8];", "null-pointer"),
        ("ld.global.u32 %r1, [%rd1+1];", "misaligned-address"),
        ("ld.global.u32 %r1, [%rd1+256];", "out-of-bounds"),
        ("ld.global.u32 %r1, [%rd1+-4];", "out-of-bounds"),
        ("mov.u64 %rd5, table;\nst.global.u32 [%rd5], %r0;", "write-to-constant"),
        ("mov.u64 %rd5, table;\nst.u32 [%rd5+4], %r0;", "write-to-constant"),
        ("ld.shared.u32 %r1, [buffer+64];", "out-of-bounds"),
        ("mov.u32 %r2, buffer;\nadd.u32 %r2, %r2, %r0;\nld.shared.u32 %r1, [%r2+-8];", "out-of-bounds"),
        ("mov.u32 %r2, buffer;\nadd.u32 %r2, %r2, %r0;\nld.shared.u32 %r1, [%r2];", "misaligned-address"),
        ("mov.u64 %rd5, 0x4000000;\nld.local.u32 %r1, [%rd5];", "out-of-bounds"),
        ("mov.b64 %rd5, a;\nld.param.u32 %r1, [%rd5+32];", "out-of-bounds"),
        ("mov.b64 %rd5, a;\nst.u32 [%rd5], %r0;", "write-to-constant"),
        ("mov.u64 %rd5, -16;\nld.u32 %r1, [%rd5];", "out-of-bounds"),
    ];
    for (body, finding) in cases {
        let fault = fault(body, &[&buffer]);
        assert_eq!(fault.finding, finding, "{body}: {fault}");
    }
    let freed = Buffer::zeros(64);
    Memory::global().free(freed.base).unwrap();
    let fault = fault("ld.global.u32 %r1, [%rd1+60];", &[&freed]);
    assert_eq!(fault.finding, "use-after-free", "{fault}");
}

#[test]
fn constants_are_read_like_global_memory() {
    let to = Buffer::zeros(128);
    let outside = ".const .align 4 .b32 table[4] = {10, 20, 30, 40};";
    let body = "mov.u64 %rd5, table;\nand.b32 %r1, %r0, 3;\nmul.wide.u32 %rd6, %r1, 4;\nadd.s64 %rd5, %rd5, %rd6;\n\
                ld.const.u32 %r2, [%rd5];\nld.const.u32 %r3, [table+8];\nadd.u32 %r2, %r2, %r3;\n\
                mul.wide.u32 %rd6, %r0, 4;\nadd.s64 %rd6, %rd1, %rd6;\nst.global.u32 [%rd6], %r2;";
    Run { outside, ..Run::new(body, &[&to]) }.go().unwrap();
    assert_eq!(to.read_words()[..5], [40, 50, 60, 70, 40]);
}

#[test]
fn what_is_not_modelled_is_refused_with_its_line() {
    for body in [
        "ld.global.u32.bogus %r1, [%rd1];",
        "ld.shared.nc.u32 %r1, [%r0];",
        "ld.global.acquire.u32 %r1, [%rd1];",
        "ld.global.v3.u32 {%r1, %r2, %r3}, [%rd1];",
        "ld.global.v2.u32 %r1, [%rd1];",
        "ld.global.pred %p1, [%rd1];",
        "ld.global.u64 %r1, [%rd1];",
        "ld.global.u32 %r1, [%r0];",
        "st.const.u32 [%rd1], %r0;",
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r0], %r1, [%r2];",
        "multimem.ld_reduce.global.add.f32 %f0, [%rd1];",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%rd1], 16, [%r1];",
        "prefetch.tensormap [%rd1];",
        "atom.global.add.f16 %h0, [%rd1], %h1;",
        "atom.global.add.noftz.f32 %f0, [%rd1], %f1;",
        "atom.global.inc.s32 %r1, [%rd1], %r2;",
        "atom.local.add.u32 %r1, [%rd1], %r2;",
        "red.global.exch.b32 [%rd1], %r2;",
        "fence.gpu.bogus;",
        "cp.async.cg.shared.global [%r0], [%rd1], 8;",
        "cp.async.ca.shared.global [%r0], [%rd1], 5;",
        "cvta.shared.u32 %r1, %r2;",
    ] {
        let error = compile_error(body);
        let opcode = body.split(['.', ' ']).next().unwrap();
        assert!(error.contains(opcode) && error.contains("line"), "{error}");
    }
}

#[test]
fn hints_change_nothing() {
    let to = Buffer::zeros(128);
    let body = "createpolicy.fractional.L2::evict_last.b64 %rd6, 1.0;\ncreatepolicy.fractional.L2::evict_first.b64 %rd6;\n\
                prefetch.global.L2 [%rd1];\nprefetch.L1 [%rd1+4096];\nprefetchu.L1 [%rd1];\n\
                applypriority.global.L2::evict_normal [%rd1], 128;\ndiscard.global.L2 [%rd1], 128;\n\
                mul.wide.u32 %rd5, %r0, 4;\nadd.s64 %rd5, %rd1, %rd5;\n\
                st.global.L2::cache_hint.u32 [%rd5], %r0, %rd6;\n\
                ld.global.L1::evict_last.L2::cache_hint.L2::256B.u32 %r1, [%rd5], %rd6;\nadd.u32 %r1, %r1, 7;\n\
                atom.global.exch.L2::cache_hint.b32 %r2, [%rd5], %r1, %rd6;\n\
                fence.sc.sys;\nfence.acq_rel.gpu;\nfence.proxy.async;\nfence.mbarrier_init.release.cluster;\n\
                membar.cta;\nmembar.gl;\nmembar.sys;\ngriddepcontrol.wait;\ngriddepcontrol.launch_dependents;";
    Run::new(body, &[&to]).go().unwrap();
    assert_eq!(to.read_words(), (7..39).collect::<Vec<u32>>());
}

#[test]
fn a_cluster_of_one_block_maps_to_itself() {
    let to = Buffer::zeros(4);
    let outside = ".shared .align 4 .b8 buffer[64];";
    let body = "mov.u32 %r1, buffer;\nmapa.shared::cluster.u32 %r2, %r1, 0;\nst.shared::cluster.u32 [%r2+4], 77;\n\
                ld.shared::cta.u32 %r3, [buffer+4];\nst.global.u32 [%rd1], %r3;";
    Run { outside, ..Run::new(body, &[&to]) }.go().unwrap();
    assert_eq!(to.read_words(), [77]);
    let fault = fault("mov.u32 %r1, buffer;\nmapa.shared::cluster.u32 %r2, %r1, 1;", &[&to]);
    assert_eq!(fault.kind, FaultKind::InvalidAddressSpace);
}

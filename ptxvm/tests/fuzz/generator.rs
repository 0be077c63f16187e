//! Programs made at random that are well defined: no race, no endless loop, no undefined result.

use std::fmt::Write;

use crate::random::Random;

const WORDS: u64 = 8;
const WIDES: u64 = 4;
const FLOATS: u64 = 4;
const PREDICATES: u64 = 4;
/// Bytes of a thread's record: all words, wide registers, floats and predicates.
pub(crate) const RECORD: usize = 96;
/// Words of shared and of local memory that a thread owns.
const OWNED: u64 = 4;

/// What a 4-byte slot of the record holds.
pub(crate) fn slot_name(slot: usize) -> String {
    match slot {
        0..8 => format!("%r{slot}"),
        8..16 => format!("%w{} ({} half)", (slot - 8) / 2, if slot.is_multiple_of(2) { "lower" } else { "upper" }),
        16..20 => format!("%f{}", slot - 16),
        _ => format!("%p{}", slot - 20),
    }
}

/// An operand: often special.
pub(crate) fn word(random: &mut Random) -> u32 {
    match random.below(6) {
        0 => {
            [0, 1, u32::MAX, 0x8000_0000, 0x7fff_ffff, 0x3f80_0000, 0xbf80_0000, 0x7f80_0000][random.below(8) as usize]
        }
        1 => random.below(40) as u32,
        2 => (random.below(1000) as f32 / 16.0 - 20.0).to_bits(),
        _ => random.next() as u32,
    }
}

/// The kernel of a seed.
pub(crate) fn kernel(seed: u64) -> String {
    let mut generator = Generator { random: Random(seed), text: String::new(), labels: 0, loops: 0, depth: 0 };
    let statements = 12 + generator.random.below(20);
    for _ in 0..statements {
        generator.statement();
    }
    let body = generator.text;
    let mut text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry program(.param .u64 records)\n{{\n\
         .reg .b64 %base, %record, %w<{WIDES}>;\n.reg .b32 %lane, %block, %index, %at, %truth, %r<{WORDS}>;\n\
         .reg .b32 %trip<{}>;\n.reg .f32 %f<{FLOATS}>;\n.reg .pred %loop, %p<{PREDICATES}>;\n\
         .shared .align 8 .b8 shared_words[{}];\n.local .align 8 .b8 local_words[{}];\n\
         ld.param.u64 %base, [records];\ncvta.to.global.u64 %base, %base;\nmov.u32 %lane, %tid.x;\n\
         mov.u32 %block, %ctaid.x;\nmov.u32 %index, %ntid.x;\nmad.lo.u32 %index, %block, %index, %lane;\n\
         mad.wide.u32 %record, %index, {RECORD}, %base;\n",
        generator.loops.max(1),
        64 * OWNED * 4,
        OWNED * 4
    );
    let mut lines = String::new();
    transfer(&mut lines, true);
    text.push_str(&lines);
    for slot in 0..OWNED {
        writeln!(text, "st.local.b32 [local_words+{}], %r{slot};", slot * 4).expect("writing to a string cannot fail");
    }
    writeln!(text, "mov.u32 %at, shared_words;\nmad.lo.u32 %at, %lane, {}, %at;", OWNED * 4)
        .expect("writing to a string cannot fail");
    text.push_str("st.shared.v4.b32 [%at], {%r0, %r1, %r2, %r3};\nbar.sync 0;\n");
    text.push_str(&body);
    lines.clear();
    transfer(&mut lines, false);
    text.push_str(&lines);
    text.push_str("ret;\n}\n");
    text
}

/// Loads all registers from the record, or stores them there.
fn transfer(text: &mut String, load: bool) {
    let mut offset = 0;
    for (name, count, bytes) in [("r", WORDS, 4), ("w", WIDES, 8), ("f", FLOATS, 4), ("p", PREDICATES, 4)] {
        for index in 0..count {
            let line = match (name, load) {
                ("p", true) => {
                    format!("ld.global.b32 %truth, [%record+{offset}];\nsetp.lt.s32 %p{index}, %truth, 0;")
                }
                ("p", false) => {
                    format!("selp.b32 %truth, 1, 0, %p{index};\nst.global.b32 [%record+{offset}], %truth;")
                }
                (_, true) => format!("ld.global.b{} %{name}{index}, [%record+{offset}];", bytes * 8),
                (_, false) => format!("st.global.b{} [%record+{offset}], %{name}{index};", bytes * 8),
            };
            writeln!(text, "{line}").expect("writing to a string cannot fail");
            offset += bytes;
        }
    }
}

struct Generator {
    random: Random,
    text: String,
    labels: u64,
    loops: u64,
    /// Of branches and loops around the next statement; at 0 all threads are together.
    depth: u32,
}

impl Generator {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.random.below(choices.len() as u64) as usize]
    }

    fn register(&mut self, name: &str, count: u64) -> String {
        format!("%{name}{}", self.random.below(count))
    }

    fn r(&mut self) -> String {
        self.register("r", WORDS)
    }

    fn w(&mut self) -> String {
        self.register("w", WIDES)
    }

    fn f(&mut self) -> String {
        self.register("f", FLOATS)
    }

    fn p(&mut self) -> String {
        self.register("p", PREDICATES)
    }

    /// A word register or an immediate.
    fn source(&mut self) -> String {
        if self.random.below(5) == 0 { format!("{}", word(&mut self.random) as i32) } else { self.r() }
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels)
    }

    fn statement(&mut self) {
        match self.random.below(20) {
            0..3 if self.depth < 3 => self.branch(),
            3..5 if self.depth < 3 => self.repeat(),
            5..7 => self.memory(),
            7 if self.depth == 0 => self.exchange(),
            8 if self.depth == 0 => self.collective(),
            _ => {
                let instruction = self.instruction();
                let guard = match self.random.below(8) {
                    0 => format!("@{} ", self.p()),
                    1 => format!("@!{} ", self.p()),
                    _ => String::new(),
                };
                self.line(&format!("{guard}{instruction}"));
            }
        }
    }

    fn body(&mut self, longest: u64) {
        self.depth += 1;
        for _ in 0..1 + self.random.below(longest) {
            self.statement();
        }
        self.depth -= 1;
    }

    /// `if`, with or without `else`.
    fn branch(&mut self) {
        let (otherwise, done) = (self.label(), self.label());
        let negated = self.pick(&["", "!"]);
        let p = self.p();
        self.line(&format!("@{negated}{p} bra {otherwise};"));
        self.body(5);
        if self.random.below(2) == 0 {
            self.line(&format!("bra {done};"));
            self.line(&format!("{otherwise}:"));
            self.body(5);
        } else {
            self.line(&format!("{otherwise}:"));
        }
        self.line(&format!("{done}:"));
    }

    /// A loop of up to seven rounds by a counter of its own, with or without an early way out.
    fn repeat(&mut self) {
        let (head, done) = (self.label(), self.label());
        let trip = format!("%trip{}", self.loops);
        self.loops += 1;
        let r = self.r();
        self.line(&format!("and.b32 {trip}, {r}, 7;"));
        self.line(&format!("{head}:"));
        self.line(&format!("setp.eq.u32 %loop, {trip}, 0;\n@%loop bra {done};"));
        self.body(4);
        if self.random.below(2) == 0 {
            let p = self.p();
            self.line(&format!("@{p} bra {done};"));
        }
        self.line(&format!("sub.u32 {trip}, {trip}, 1;\nbra {head};\n{done}:"));
    }

    /// The thread's own words of shared or local memory, at a place computed at run time.
    fn memory(&mut self) {
        let space = self.pick(&["shared", "local"]);
        let (index, r) = (self.r(), self.r());
        self.line(&format!("and.b32 %truth, {index}, {};\nshl.b32 %truth, %truth, 2;", OWNED - 1));
        if space == "shared" {
            self.line("add.u32 %truth, %truth, %at;");
        } else {
            self.line("mov.u32 %index, local_words;\nadd.u32 %truth, %truth, %index;");
        }
        if self.random.below(2) == 0 {
            self.line(&format!("st.{space}.b32 [%truth], {r};"));
        } else {
            self.line(&format!("ld.{space}.b32 {r}, [%truth];"));
        }
    }

    /// All threads read the words of another one between two barriers.
    fn exchange(&mut self) {
        let (r, distance, slot) = (self.r(), self.random.below(64), self.random.below(OWNED));
        self.line(&format!(
            "bar.sync 0;\nxor.b32 %truth, %lane, {distance};\nmov.u32 %index, shared_words;\n\
             mad.lo.u32 %truth, %truth, {}, %index;\nld.shared.b32 {r}, [%truth+{}];\nbar.sync 0;",
            OWNED * 4,
            slot * 4
        ));
    }

    fn collective(&mut self) {
        let (d, a, p, q) = (self.r(), self.r(), self.p(), self.p());
        let line = match self.random.below(5) {
            0 => format!("shfl.sync.bfly.b32 {d}|{p}, {a}, {}, 0x1f, -1;", self.random.below(32)),
            1 => format!("shfl.sync.idx.b32 {d}, {a}, {}, 0x1f, -1;", self.r()),
            2 => format!("vote.sync.ballot.b32 {d}, {p}, -1;"),
            3 => format!("vote.sync.{}.pred {p}, {q}, -1;", self.pick(&["all", "any", "uni"])),
            _ => format!("redux.sync.{} {d}, {a}, -1;", self.pick(&["add.u32", "min.s32", "max.u32", "xor.b32"])),
        };
        self.line(&line);
    }

    fn instruction(&mut self) -> String {
        match self.random.below(10) {
            0..4 => self.word_instruction(),
            4..6 => self.wide_instruction(),
            6..8 => self.float_instruction(),
            _ => self.predicate_instruction(),
        }
    }

    fn word_instruction(&mut self) -> String {
        let (d, a, b, c) = (self.r(), self.r(), self.source(), self.source());
        match self.random.below(9) {
            0 => {
                let opcode = self.pick(&[
                    "add.s32",
                    "add.u32",
                    "sub.s32",
                    "mul.lo.s32",
                    "mul.hi.u32",
                    "mul.hi.s32",
                    "and.b32",
                    "or.b32",
                    "xor.b32",
                    "min.s32",
                    "max.u32",
                    "add.sat.s32",
                    "mul24.lo.s32",
                ]);
                format!("{opcode} {d}, {a}, {b};")
            }
            1 => {
                let opcode = self.pick(&["shl.b32", "shr.u32", "shr.s32"]);
                format!("{opcode} {d}, {a}, {};", self.r())
            }
            2 => {
                let opcode = self.pick(&["mad.lo.s32", "mad.hi.u32", "sad.s32", "dp4a.s32.u32", "prmt.b32"]);
                format!("{opcode} {d}, {a}, {b}, {c};")
            }
            3 => {
                let table = self.random.below(256);
                format!("lop3.b32 {d}, {a}, {}, {}, {table};", self.r(), self.r())
            }
            4 => {
                let opcode =
                    self.pick(&["popc.b32", "clz.b32", "brev.b32", "bfind.u32", "not.b32", "neg.s32", "abs.s32"]);
                format!("{opcode} {d}, {a};")
            }
            5 => format!("shf.{} {d}, {a}, {}, {};", self.pick(&["l.wrap.b32", "r.clamp.b32"]), self.r(), self.r()),
            6 => format!("bfe.{} {d}, {a}, {}, {};", self.pick(&["u32", "s32"]), self.r(), self.r()),
            7 => format!("bfi.b32 {d}, {a}, {}, {}, {};", self.r(), self.r(), self.r()),
            _ => {
                let opcode = self.pick(&["cvt.u32.u16", "cvt.s32.s8", "cvt.rzi.s32.f32", "cvt.rni.u32.f32"]);
                match opcode.rsplit('.').next() {
                    Some("f32") => format!("{opcode} {d}, {};", self.f()),
                    // A register wider than the source type is read by its low part.
                    _ => format!("{opcode} {d}, {a};"),
                }
            }
        }
    }

    fn wide_instruction(&mut self) -> String {
        let (d, a, b, r, s) = (self.w(), self.w(), self.w(), self.r(), self.r());
        match self.random.below(7) {
            0 => {
                let opcode = self.pick(&[
                    "add.s64",
                    "sub.s64",
                    "mul.lo.u64",
                    "mul.hi.s64",
                    "and.b64",
                    "xor.b64",
                    "min.u64",
                    "max.s64",
                ]);
                format!("{opcode} {d}, {a}, {b};")
            }
            1 => format!("mul.wide.{} {d}, {r}, {s};", self.pick(&["u32", "s32"])),
            2 => format!("mad.wide.{} {d}, {r}, {s}, {a};", self.pick(&["u32", "s32"])),
            3 => format!("mov.b64 {d}, {{{r}, {s}}};"),
            4 => {
                let upper = if r == s { String::from("_") } else { s };
                format!("mov.b64 {{{r}, {upper}}}, {a};")
            }
            5 => format!("{} {d}, {a}, {r};", self.pick(&["shl.b64", "shr.s64", "shr.u64"])),
            _ => format!("{} {d}, {r};", self.pick(&["cvt.s64.s32", "cvt.u64.u32"])),
        }
    }

    fn float_instruction(&mut self) -> String {
        let (d, a, b, c) = (self.f(), self.f(), self.f(), self.f());
        match self.random.below(6) {
            0 => {
                let opcode = self.pick(&[
                    "add.f32",
                    "sub.f32",
                    "mul.f32",
                    "min.f32",
                    "max.f32",
                    "add.rz.f32",
                    "mul.rp.f32",
                    "add.ftz.f32",
                    "mul.ftz.sat.f32",
                    "div.rn.f32",
                ]);
                format!("{opcode} {d}, {a}, {b};")
            }
            1 => format!("{} {d}, {a}, {b}, {c};", self.pick(&["fma.rn.f32", "fma.rm.f32", "fma.rn.ftz.f32"])),
            2 => format!("{} {d}, {a};", self.pick(&["sqrt.rn.f32", "rcp.rn.f32"])),
            3 => format!("{} {d}, {};", self.pick(&["cvt.rn.f32.s32", "cvt.rz.f32.u32"]), self.r()),
            4 => format!("mov.b32 {d}, {};", self.r()),
            // No NaN: its bits are not the same on every machine once neg or abs has touched it.
            _ => format!("mov.b32 {}, {a};", self.r()),
        }
    }

    fn predicate_instruction(&mut self) -> String {
        let (p, q, a, b) = (self.p(), self.p(), self.r(), self.source());
        match self.random.below(6) {
            0 => format!("setp.{} {p}, {a}, {b};", self.pick(&["lt.s32", "ge.u32", "eq.s32", "ne.b32", "hi.u32"])),
            1 => {
                let opcode = self.pick(&["setp.lt.and.s32", "setp.gt.or.u32", "setp.eq.xor.s32"]);
                let negated = self.pick(&["", "!"]);
                format!("{opcode} {p}, {a}, {b}, {negated}{q};")
            }
            2 => format!(
                "setp.{} {p}, {}, {};",
                self.pick(&["lt.f32", "geu.f32", "neu.ftz.f32", "nan.f32"]),
                self.f(),
                self.f()
            ),
            3 => format!("{} {p}, {p}, {q};", self.pick(&["and.pred", "or.pred", "xor.pred"])),
            4 => format!("selp.b32 {}, {a}, {b}, {p};", self.r()),
            _ => match self.random.below(2) {
                0 => format!("selp.f32 {}, {}, {}, {p};", self.f(), self.f(), self.f()),
                _ => format!("selp.b64 {}, {}, {}, {p};", self.w(), self.w(), self.w()),
            },
        }
    }
}

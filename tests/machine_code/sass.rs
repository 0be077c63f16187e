//! The instructions that the assembler chose: tensor cores where they are meant, 16 bytes a lane to and from memory, copies that pass
//! the registers by, nothing in local memory.

use segface::engine::cuda::{Compiler, Image};
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_tests::assembler::{assemble, disassemble};
use segface_tests::instances::{self, Case};
use std::collections::BTreeSet;

/// Rooms whose kernels are products.
const PRODUCTS: [&str; 9] = [
    "conv",
    "gemm",
    "image_pass",
    "mask_head",
    "mlp",
    "mlp_fusion",
    "mlp_fusion_project",
    "patch_merge",
    "window_attention",
];

/// Rooms whose results are rows of elements, or of logits: stored 16 bytes a lane, without exception.
const ROWS: [&str; 9] = [
    "conv",
    "depthwise",
    "gemm",
    "mask_head",
    "mlp",
    "mlp_fusion",
    "mlp_fusion_project",
    "patch_merge",
    "window_attention",
];

/// Opcodes of a disassembled kernel, with all their suffixes.
fn opcodes(text: &str) -> BTreeSet<String> {
    let instruction = |line: &str| {
        let (_, rest) = line.split_once("*/")?;
        let opcode = rest.split_whitespace().find(|word| !word.starts_with('@'))?;
        Some(opcode.trim_end_matches(';').to_owned())
    };
    text.lines().filter_map(instruction).collect()
}

/// What is wrong with a kernel's instructions.
fn faults(room: &str, precision: Precision, is_stem: bool, opcodes: &BTreeSet<String>) -> Vec<String> {
    let some = |prefix: &str| opcodes.iter().any(|opcode| opcode.starts_with(prefix));
    let all = |prefix: &str, wanted: &str| {
        opcodes.iter().filter(|opcode| opcode.starts_with(prefix)).all(|opcode| opcode.contains(wanted))
    };
    let mut faults = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    must(!some("LDL") && !some("STL"), "nothing in local memory");
    if PRODUCTS.contains(&room) {
        match precision {
            Precision::F32 => {
                must(some("FFMA") && !some("HMMA"), "exact f32: FFMA and no HMMA");
            }
            Precision::Tf32 => must(some("HMMA.1688.F32.TF32"), "HMMA in tf32"),
            Precision::F16 => must(opcodes.contains("HMMA.16816.F32"), "HMMA in f16"),
            Precision::Bf16 => must(opcodes.contains("HMMA.16816.F32.BF16"), "HMMA in bf16"),
        }
        must(precision == Precision::F32 || some("LDSM.16.M"), "LDSM");
        must(some("LDGSTS.E.BYPASS.128") && all("LDGSTS", ".128"), "copies of 16 bytes that pass the registers by");
        // Sums of weights' rows and biases are f32: four bytes are not an element. A stem's pixels of three channels are read one by one.
        must(
            is_stem || !opcodes.iter().any(|op| op.starts_with("LDG") && op.contains("U16")),
            "no loads of single elements",
        );
    }
    if ROWS.contains(&room) {
        must(some("STG.E.128") && all("STG", ".128"), "results stored 16 bytes a lane");
    }
    faults
}

/// The first kernel of every room, in that precision, for that architecture.
fn check(precision: Precision, arch: u32) {
    let compiler = Compiler::find().unwrap_or_else(|e| panic!("{e}; `cargo xtask test` provides one"));
    let (mut rooms, mut all) = (BTreeSet::new(), Vec::new());
    for backbone in [Backbone::SwinBase, Backbone::MobileNet] {
        let case = Case::usual(ModelSpec { backbone, variant: Variant::Celeb }, [1, 512, 512]);
        for kernel in case.kernels(&[precision]) {
            let room = kernel.name.rsplit_once('_').map(|(room, _)| room.to_owned()).unwrap_or_default();
            if !rooms.insert(room.clone()) {
                continue;
            }
            let name = instances::name(&kernel);
            let images =
                compiler.compile(&[kernel], &format!("compute_{arch}")).unwrap_or_else(|e| panic!("{name}: {e}"));
            let Image::Ptx(ptx) = &images[0] else { panic!("PTX was asked for") };
            let opcodes = opcodes(&disassemble(&assemble(ptx, arch).cubin));
            assert!(opcodes.contains("EXIT"), "{name}: no instructions: {opcodes:?}");
            let faults = faults(&room, precision, name.contains("StemWindows"), &opcodes);
            if !faults.is_empty() {
                all.push(format!("{name} for sm_{arch}: not so: {faults:?}\n  {opcodes:?}"));
            }
        }
    }
    let seen = PRODUCTS.iter().filter(|room| rooms.contains(**room)).count();
    assert_eq!(seen, PRODUCTS.len(), "rooms of these networks: {rooms:?}");
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn bf16_on_ampere() {
    check(Precision::Bf16, 80);
}

#[test]
fn f16_on_hopper() {
    check(Precision::F16, 90);
}

#[test]
fn tf32_on_ada() {
    check(Precision::Tf32, 89);
}

#[test]
fn f32_on_blackwell() {
    check(Precision::F32, 120);
}

#[test]
fn wrong_instructions_are_told() {
    let opcodes = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<String>>();
    let healthy = opcodes("HMMA.16816.F32 LDSM.16.M88.4 LDGSTS.E.BYPASS.128 STG.E.128 LDG.E.64");
    assert_eq!(faults("gemm", Precision::F16, false, &healthy), Vec::<String>::new());
    for (edit, room, precision) in [
        ("LDL", "token_step", Precision::F16),
        ("STG.E.64", "gemm", Precision::F16),
        ("LDG.E.U16", "gemm", Precision::F16),
        ("LDGSTS.E.64", "gemm", Precision::F16),
        ("FFMA", "gemm", Precision::F32),
    ] {
        let mut edited = healthy.clone();
        edited.insert(edit.to_owned());
        assert_eq!(faults(room, precision, false, &edited).len(), 1, "{edit}");
    }
    assert_eq!(faults("gemm", Precision::Bf16, false, &healthy).len(), 1, "HMMA of f16 where bf16 is meant");
}

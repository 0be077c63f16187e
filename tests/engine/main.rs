//! Engine files: what is saved is what runs, and nothing else runs.
//!
//! The fuzzer changes headers and mends the checksums behind it, so that damage reaches what lies behind them. It takes
//! `SEGFACE_FUZZ_CASES` (default 300) cases.

use segface::engine::{CpuEngine, EngineError, Kind, file};
use segface::weights::{seeded, seeded_values};
use segface::{Backbone, ModelSpec, Variant};
use segface_codegen::ir::Output;
use segface_codegen::plan::{CompileOptions, Plan, Precision, compile};
use segface_kernels::Isa;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of the preamble.
const PREAMBLE: usize = 64;

fn plan(backbone: Backbone, precision: Precision, size: usize) -> Plan {
    let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
    let options = CompileOptions {
        batch: 1,
        height: size,
        width: size,
        precision,
        outputs: vec![Output::Logits],
        disabled: vec![],
    };
    compile(&weights.spec, &weights, &options).expect("a size every network takes")
}

fn logits(plan: Plan) -> Vec<f32> {
    let mut engine = CpuEngine::new(Arc::new(plan), 2, Isa::best()).expect("a sound plan");
    let len = engine.plan().input().map_or(0, |id| engine.plan().graph.values[id.0].len());
    engine.run(&seeded_values("input", len)).expect("an input of the right size");
    engine.logits().expect("logits were asked for").to_vec()
}

fn saved(folder: &Path, plan: &Plan) -> PathBuf {
    let path = folder.join("network.engine");
    file::save(plan, &path, true).expect("a writable folder");
    path
}

#[test]
fn a_loaded_engine_computes_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (backbone, precision) in [
        (Backbone::MobileNet, Precision::F32),
        (Backbone::MobileNet, Precision::Bf16),
        (Backbone::SwinV2Tiny, Precision::Bf16),
    ] {
        let plan = plan(backbone, precision, 64);
        let path = saved(folder.path(), &plan);
        assert_eq!(file::kind(&path).unwrap(), Some(Kind::Cpu));
        assert_eq!(logits(file::load(&path).expect("a sound file")), logits(plan), "{backbone} {precision:?}");
    }
}

#[test]
fn an_engine_file_is_not_replaced_unless_asked() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(Backbone::MobileNet, Precision::F32, 32);
    let path = saved(folder.path(), &plan);
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(file::save(&plan, &path, false), Err(EngineError::File { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let blocked = path.join("below-a-file.engine");
    assert!(matches!(file::save(&plan, &blocked, true), Err(EngineError::Io { action: "write", .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn cut_and_damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), &plan(Backbone::MobileNet, Precision::Bf16, 32));
    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        let path = folder.path().join("damaged.engine");
        std::fs::write(&path, bytes).unwrap();
        match file::load(&path) {
            Err(EngineError::File { .. } | EngineError::Io { .. }) => {}
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: loaded"),
        }
    };
    for cut in (0..PREAMBLE + 8).chain([whole.len() / 3, whole.len() / 2, whole.len() - 1]) {
        refused(&whole[..cut], &format!("cut at {cut}"));
    }
    refused(&[&whole[..], &[0]].concat(), "one byte more");
    for position in [9, 13, 17, 25, 33, PREAMBLE + 100, whole.len() / 2, whole.len() - 100] {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        refused(&bytes, &format!("bit flipped at {position}"));
    }
    let mut newer = whole.clone();
    newer[8] += 1;
    let path = folder.path().join("newer.engine");
    std::fs::write(&path, newer).unwrap();
    let error = file::load(&path).expect_err("another format").to_string();
    assert!(error.contains("format 2") && error.contains("compile"), "{error}");
}

#[test]
fn an_input_of_another_size_is_refused() {
    let mut engine = CpuEngine::new(Arc::new(plan(Backbone::MobileNet, Precision::F32, 32)), 1, Isa::best()).unwrap();
    assert!(matches!(engine.run(&[0.0; 10]), Err(EngineError::InputLength { found: 10, .. })));
    assert!(matches!(engine.labels(), Err(EngineError::NoSuchOutput { output: Output::Labels })));
}

#[test]
fn changed_headers_are_refused_or_run_without_a_fault() {
    let cases = std::env::var("SEGFACE_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), &plan(Backbone::MobileNet, Precision::F32, 32));
    let whole = std::fs::read(&path).unwrap();
    let header_bytes = u64::from_le_bytes(whole[24..32].try_into().unwrap()) as usize;
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let digits: Vec<usize> = (PREAMBLE..PREAMBLE + header_bytes).filter(|&i| whole[i].is_ascii_digit()).collect();
    let (mut refused, mut ran) = (0, 0);
    for case in 0..cases {
        let mut bytes = whole.clone();
        for _ in 0..1 + next(3) {
            // Mostly numbers: other damage is seldom JSON any more.
            let position = if next(8) == 0 { PREAMBLE + next(header_bytes) } else { digits[next(digits.len())] };
            bytes[position] = if next(8) == 0 { next(256) as u8 } else { b'0' + next(10) as u8 };
        }
        let crc = crc32fast::hash(&bytes[PREAMBLE..PREAMBLE + header_bytes]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let path = folder.path().join("fuzzed.engine");
        std::fs::write(&path, &bytes).unwrap();
        let outcome = std::panic::catch_unwind(|| {
            let engine = file::load(&path).and_then(|plan| CpuEngine::new(Arc::new(plan), 1, Isa::best()));
            engine.map(|mut engine| {
                let len = engine.plan().input().map_or(0, |id| engine.plan().graph.values[id.0].len());
                engine.run(&vec![0.5; len])
            })
        });
        match outcome {
            Err(_) => panic!("case {case} panicked"),
            Ok(Err(_)) => refused += 1,
            Ok(Ok(_)) => ran += 1,
        }
    }
    println!("{refused} refused, {ran} ran");
    assert!(refused > 0, "some damage must be seen");
}

#[test]
fn an_engine_starts_in_a_tenth_of_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), &plan(Backbone::MobileNet, Precision::Bf16, 512));
    let best = (0..5)
        .map(|_| {
            let begin = std::time::Instant::now();
            let engine = CpuEngine::new(Arc::new(file::load(&path).unwrap()), 1, Isa::best()).unwrap();
            let time = begin.elapsed();
            drop(engine);
            time
        })
        .min()
        .unwrap();
    println!("MobileNet@512 loads in {best:?}");
    // The bound is that of an optimised build; an unoptimised one is given ten times as long.
    let bound = if cfg!(debug_assertions) { 1000 } else { 100 };
    assert!(best.as_millis() < bound, "{best:?}");
}

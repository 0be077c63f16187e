//! Random programs on the oracle and on the virtual machine.
//!
//! Each seed gives a kernel: arithmetic on 32 and 64 bits, floats, predicates, guards, divergent branches, loops that
//! each lane leaves when it likes, shared and local memory, barriers, shuffles and votes. All registers of all threads
//! are compared at the end. `PTXVM_FUZZ=<count>` runs more programs, `PTXVM_FUZZ_SEED=<seed>` starts at another one.

#[path = "opcodes/assembler.rs"]
mod assembler;
#[path = "fuzz/generator.rs"]
mod generator;
#[path = "opcodes/random.rs"]
mod random;
#[path = "opcodes/vm.rs"]
mod vm;

use ptxvm::ptx;

use crate::{generator::RECORD, random::Random, vm::run_on_vm};

/// Two warps to a block, so that barriers matter.
const THREADS: u32 = 64;
const BLOCKS: u32 = 2;
const PROGRAMS: u64 = 150;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn random_programs_leave_the_same_registers_on_both() {
    let first = number("PTXVM_FUZZ_SEED", 0);
    let mut failures = Vec::new();
    for seed in first..first + number("PTXVM_FUZZ", PROGRAMS) {
        if let Err(problem) = compare(seed) {
            failures.push(problem);
        }
        if failures.len() == 3 {
            break;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn compare(seed: u64) -> Result<(), String> {
    let text = generator::kernel(seed);
    match difference(&text, seed) {
        Ok(None) => Ok(()),
        Ok(Some(problem)) => {
            let small = shrunk(&text, seed);
            let problem = difference(&small, seed).ok().flatten().unwrap_or(problem);
            Err(format!("seed {seed}: {problem}\n{small}"))
        }
        Err(problem) => Err(format!("seed {seed}: {problem}\n{text}")),
    }
}

/// Where the virtual machine leaves something else than the oracle; an error if the oracle cannot run the text.
fn difference(text: &str, seed: u64) -> Result<Option<String>, String> {
    let module = ptx::parse(text).map_err(|error| format!("does not parse: {error}"))?;
    let mut random = Random(seed ^ 0x5eed);
    let bytes = RECORD * (THREADS * BLOCKS) as usize;
    let records: Vec<u8> = (0..bytes / 4).flat_map(|_| generator::word(&mut random).to_le_bytes()).collect();
    let mut by_oracle = vec![records];
    let mut by_vm = by_oracle.clone();
    ptxvm_oracle::run(&module, "program", BLOCKS, THREADS, &mut by_oracle)
        .map_err(|error| format!("oracle: {error}"))?;
    if let Err(error) = run_on_vm(text, "program", BLOCKS, THREADS, &mut by_vm) {
        return Ok(Some(format!("virtual machine: {error}")));
    }
    for (thread, (vm, oracle)) in by_vm[0].chunks(RECORD).zip(by_oracle[0].chunks(RECORD)).enumerate() {
        if let Some(slot) = (0..RECORD / 4).find(|slot| vm[slot * 4..][..4] != oracle[slot * 4..][..4]) {
            let word = |record: &[u8]| u32::from_le_bytes(record[slot * 4..][..4].try_into().expect("four bytes"));
            let name = generator::slot_name(slot);
            let (vm, oracle) = (word(vm), word(oracle));
            return Ok(Some(format!("thread {thread}: {name}: virtual machine {vm:#x}, oracle {oracle:#x}")));
        }
    }
    Ok(None)
}

/// The program without the lines that are not needed for a difference. Barriers, addresses and the counters of
/// loops stay, so that neither a race nor an endless loop comes in.
fn shrunk(text: &str, seed: u64) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let kept = [
        "bar.sync",
        "%at",
        "%record",
        "%base",
        "%truth",
        "%index",
        "%trip",
        "%loop",
        "local_words",
        ".",
        "{",
        "}",
        "ret;",
    ];
    let mut span = lines.len() / 4;
    while span > 0 {
        let mut start = 0;
        while start < lines.len() {
            let end = (start + span).min(lines.len());
            let needed =
                |line: &&str| kept.iter().any(|word| line.starts_with(word) || (word.len() > 1 && line.contains(word)));
            if lines[start..end].iter().any(needed) {
                start += 1;
                continue;
            }
            let fewer: Vec<&str> = lines[..start].iter().chain(&lines[end..]).copied().collect();
            if matches!(difference(&fewer.join("\n"), seed), Ok(Some(_))) {
                lines = fewer;
            } else {
                start += 1;
            }
        }
        span /= 2;
    }
    lines.join("\n")
}

#[test]
fn random_programs_are_various() {
    let texts: Vec<String> = (0..PROGRAMS).map(generator::kernel).collect();
    for feature in ["bra ", "shfl", "vote", "bar.sync", "st.shared", "ld.local", "fma.rn", "selp", "@!", "mad.wide"] {
        assert!(texts.iter().filter(|text| text.contains(feature)).count() > 10, "hardly any program has `{feature}`");
    }
}

/// NVIDIA's own assembler takes what the generator makes. Skipped where it has not been fetched.
#[test]
fn random_programs_are_accepted_by_ptxas() {
    let Some(ptxas) = assembler::find() else {
        println!("skipped: no ptxas (cargo xtask deps fetches it)");
        return;
    };
    for seed in 0..8 {
        let text = generator::kernel(seed);
        let messages = assembler::refusals(&ptxas, "sm_80", &format!("fuzz-{seed}"), &text);
        assert!(messages.is_empty(), "seed {seed}: ptxas refuses\n{messages}\n{text}");
    }
}

//! A family's file, executed.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use ptxvm::ptx;

use crate::{
    assembler,
    case::{self, Expectation, Variant},
    judge::Rule,
    kernel::{self, SCRATCH, SLOT},
    operands::{draw, masked, written},
    random::Random,
    vm::run_on_vm,
};

/// Threads of a block: one warp.
const THREADS: usize = 32;
/// Blocks of random operands for each variant.
const BLOCKS: usize = 8;
/// The same for products of matrices, where a block is a whole matrix of operands and the oracle takes its time.
const MATRIX_BLOCKS: usize = 2;
/// Failures of one variant that are spelled out.
const SHOWN: usize = 3;

/// Runs every case of a file; fails with a list of what differs.
pub(crate) fn check(name: &str, text: &str) {
    let (_, variants) = case::parse(text);
    assert!(!variants.is_empty(), "{name}: no case");
    let mut failures = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        let found = check_variant(variant, index as u64);
        if !found.is_empty() {
            let more = found.len().saturating_sub(SHOWN);
            let mut report = format!("{name}.ptx:{}: {}\n", variant.line, variant.title);
            for failure in found.iter().take(SHOWN) {
                writeln!(report, "    {failure}").expect("writing to a string cannot fail");
            }
            if more > 0 {
                writeln!(report, "    and {more} more").expect("writing to a string cannot fail");
            }
            failures.push(report);
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} instructions of {name} differ:\n{}",
        failures.len(),
        variants.len(),
        failures.concat()
    );
}

fn check_variant(variant: &Variant, seed: u64) -> Vec<String> {
    let name = "test_case";
    let text =
        format!("{}{}\n{}", kernel::header(&variant.target), variant.module.join("\n"), kernel::text(variant, name));
    let module = match ptx::parse(&text) {
        Ok(module) => module,
        Err(error) => return vec![format!("does not parse: {error}")],
    };
    let rule = Rule::parse(&variant.compare);
    let mut failures = Vec::new();
    let mut execute = |records: &[u8], judge_expectations: bool| {
        let blocks = (records.len() / kernel::record_bytes(variant) / THREADS) as u32;
        let mut by_oracle = vec![records.to_vec()];
        let mut by_vm = by_oracle.clone();
        if let Err(error) = ptxvm_oracle::run(&module, name, blocks, THREADS as u32, &mut by_oracle) {
            failures.push(format!("oracle: {error}"));
            return;
        }
        if judge_expectations {
            failures.extend(compare_expectations(variant, &rule, "oracle", &by_oracle[0]));
        }
        match run_on_vm(&text, name, blocks, THREADS as u32, &mut by_vm) {
            Err(error) => failures.push(format!("virtual machine: {error}")),
            Ok(()) => {
                if judge_expectations {
                    failures.extend(compare_expectations(variant, &rule, "virtual machine", &by_vm[0]));
                }
                failures.extend(compare_records(variant, &rule, &by_vm[0], &by_oracle[0]));
            }
        }
    };
    if !variant.expectations.is_empty() {
        execute(&expected_records(variant), true);
    }
    execute(&random_records(variant, seed), false);
    failures
}

/// The threads that one expectation fills.
fn expectation_threads(variant: &Variant) -> usize {
    if variant.warp { THREADS } else { 1 }
}

fn expected_records(variant: &Variant) -> Vec<u8> {
    let each = expectation_threads(variant);
    let threads = (variant.expectations.len() * each).next_multiple_of(THREADS);
    let record = kernel::record_bytes(variant);
    let mut records = vec![0; threads * record];
    for thread in 0..threads {
        let expectation = &variant.expectations[thread / each % variant.expectations.len()];
        for (index, register) in variant.inputs.iter().enumerate() {
            let lane = thread % THREADS;
            let mut given = expectation.inputs.iter().filter(|given| given.name == register.name);
            let here = given.find(|given| given.lane.is_none_or(|only| only == lane));
            let text = here.map_or("0x0", |given| given.value.as_str());
            let value = written(text, register.ty, lane, expectation.line);
            put(&mut records, thread * record + index * SLOT, value);
        }
    }
    records
}

/// Blocks of random operands for a variant.
fn blocks(variant: &Variant) -> usize {
    if variant.code.iter().any(|line| line.contains("mma.")) { MATRIX_BLOCKS } else { BLOCKS }
}

fn random_records(variant: &Variant, seed: u64) -> Vec<u8> {
    let record = kernel::record_bytes(variant);
    let mut random = Random(seed);
    let mut records = vec![0; blocks(variant) * THREADS * record];
    for thread in records.chunks_mut(record) {
        for (index, register) in variant.inputs.iter().enumerate() {
            put(thread, index * SLOT, draw(&mut random, register.ty, &register.constraint));
        }
        let scratch = record - SCRATCH;
        for word in thread[scratch..].chunks_mut(SLOT) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
    }
    records
}

fn put(records: &mut [u8], at: usize, value: u64) {
    records[at..at + SLOT].copy_from_slice(&value.to_le_bytes());
}

fn get(records: &[u8], at: usize, bits: u32) -> u64 {
    let bytes = records[at..at + SLOT].try_into().expect("a slot of eight bytes");
    masked(u64::from_le_bytes(bytes), bits)
}

/// Bits of a result that are stored.
fn stored_bits(ty: ptx::ast::Type) -> u32 {
    match ty.bits() {
        1 => 32,
        bits => bits.max(16),
    }
}

fn inputs_of(variant: &Variant, record: &[u8]) -> String {
    let values = variant
        .inputs
        .iter()
        .enumerate()
        .map(|(index, register)| format!("{}={:#x}", register.name, get(record, index * SLOT, register.ty.bits())));
    values.collect::<Vec<String>>().join(" ")
}

fn compare_expectations(variant: &Variant, rule: &Rule, who: &str, records: &[u8]) -> Vec<String> {
    let each = expectation_threads(variant);
    let record = kernel::record_bytes(variant);
    let mut failures = Vec::new();
    for (number, expectation) in variant.expectations.iter().enumerate() {
        for lane in 0..each {
            let thread = &records[(number * each + lane) * record..][..record];
            failures.extend(compare_expectation(variant, rule, who, expectation, lane, thread));
        }
    }
    failures
}

fn compare_expectation(
    variant: &Variant,
    rule: &Rule,
    who: &str,
    expectation: &Expectation,
    lane: usize,
    thread: &[u8],
) -> Vec<String> {
    let mut failures = Vec::new();
    for case::Assignment { name, lane: only_lane, value: text } in &expectation.outputs {
        if only_lane.is_some_and(|only| only != lane) {
            continue;
        }
        let Some(index) = variant.outputs.iter().position(|register| register.name == *name) else {
            failures.push(format!("line {}: no result named {name}", expectation.line));
            continue;
        };
        let ty = variant.outputs[index].ty;
        let actual = get(thread, (variant.inputs.len() + index) * SLOT, ty.bits().max(1));
        let wanted = written(text, ty, lane, expectation.line);
        if !rule.equal(ty, actual, wanted) {
            failures.push(format!(
                "line {}: {who}, lane {lane}, {}: {name}={actual:#x}, expected {wanted:#x}",
                expectation.line,
                inputs_of(variant, thread)
            ));
        }
    }
    failures
}

fn compare_records(variant: &Variant, rule: &Rule, by_vm: &[u8], by_oracle: &[u8]) -> Vec<String> {
    let record = kernel::record_bytes(variant);
    let scratch = kernel::scratch_offset(variant);
    let mut failures = Vec::new();
    for (thread, (vm, oracle)) in by_vm.chunks(record).zip(by_oracle.chunks(record)).enumerate() {
        for (index, register) in variant.outputs.iter().enumerate() {
            let at = (variant.inputs.len() + index) * SLOT;
            let bits = stored_bits(register.ty);
            let (actual, expected) = (get(vm, at, bits), get(oracle, at, bits));
            if !rule.equal(register.ty, actual, expected) {
                failures.push(format!(
                    "thread {thread}, {}: virtual machine {}={actual:#x}, oracle {expected:#x}",
                    inputs_of(variant, oracle),
                    register.name
                ));
            }
        }
        if vm[scratch..] != oracle[scratch..] {
            let at = (scratch..record).find(|&at| vm[at] != oracle[at]).unwrap_or(scratch);
            failures.push(format!(
                "thread {thread}, {}: scratch byte {}: virtual machine {:#x}, oracle {:#x}",
                inputs_of(variant, oracle),
                at - scratch,
                vm[at],
                oracle[at]
            ));
        }
    }
    failures
}

/// Cases, instructions, expectations and operand sets of every family.
pub(crate) fn table(families: &[(&str, &str)]) -> String {
    let mut text =
        format!("{:<16}{:>7}{:>14}{:>14}{:>14}\n", "family", "cases", "instructions", "expectations", "operand sets");
    let mut totals = [0; 4];
    for (name, source) in families {
        let (cases, variants) = case::parse(source);
        let expectations = variants.iter().map(|variant| variant.expectations.len()).sum();
        let sets = variants.iter().map(|variant| blocks(variant) * THREADS).sum();
        let row = [cases, variants.len(), expectations, sets];
        for (total, value) in totals.iter_mut().zip(row) {
            *total += value;
        }
        writeln!(text, "{name:<16}{:>7}{:>14}{:>14}{:>14}", row[0], row[1], row[2], row[3])
            .expect("writing to a string cannot fail");
    }
    writeln!(text, "{:<16}{:>7}{:>14}{:>14}{:>14}", "all", totals[0], totals[1], totals[2], totals[3])
        .expect("writing to a string cannot fail");
    text
}

/// Assembles the kernels of a family, all of one target at once.
pub(crate) fn assemble(ptxas: &Path, name: &str, text: &str) {
    let (_, variants) = case::parse(text);
    let mut modules: BTreeMap<&str, (Vec<&str>, String)> = BTreeMap::new();
    for (index, variant) in variants.iter().enumerate() {
        let (declarations, kernels) = modules.entry(&variant.target).or_default();
        for declaration in &variant.module {
            if !declarations.contains(&declaration.as_str()) {
                declarations.push(declaration);
            }
        }
        kernels.push_str(&kernel::text(variant, &format!("case_{index}_of_line_{}", variant.line)));
    }
    let mut refused = String::new();
    for (target, (declarations, kernels)) in modules {
        let module = format!("{}{}\n{kernels}", kernel::header(target), declarations.join("\n"));
        refused.push_str(&assembler::refusals(ptxas, target, name, &module));
    }
    assert!(refused.is_empty(), "{name}: ptxas refuses\n{refused}");
}

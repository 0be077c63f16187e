//! `docs/ptxas.tsv`: what each kernel needs on each architecture. `cargo xtask ptxas` writes it, the tests here hold it to be whole and
//! true: every kernel of every network is in it, measured as its source is today, without a spilled byte; a few of each room are
//! measured again.

use segface::engine::cuda::{Compiler, Image};
use segface_codegen::cuda::Kernel;
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_tests::assembler::{ARCHITECTURES, assemble, version};
use segface_tests::instances::{self, Case, Instances, collect};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// One network of each kind.
const KINDS: [Backbone; 4] = [Backbone::MobileNet, Backbone::SwinBase, Backbone::SwinV2Tiny, Backbone::ConvNextTiny];
/// Set where the table is to be written, which running every ignored test is no wish for.
const WRITE: &str = "SEGFACE_WRITE_PTXAS";
/// Kernels after which the table is saved while it is written.
const SAVE_EVERY: usize = 20;
const COLUMNS: &str = "kernel\tthreads\tdynamic\tstatic\tsm_80\tsm_86\tsm_89\tsm_90\tsm_120\tspilled\tstack\ttext";

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    threads: usize,
    /// Bytes of shared memory of a block that the launch asks for.
    dynamic_shared: usize,
    /// And that the kernel declares.
    static_shared: usize,
    /// Of a thread, on each architecture.
    registers: [usize; 5],
    /// Bytes of a thread's spills, all architectures together.
    spilled: usize,
    /// Bytes of a thread's local memory.
    stack: usize,
    /// Hash of what the kernel is made of.
    text: String,
}

impl Row {
    fn measure(compiler: &Compiler, kernel: &Kernel) -> Row {
        let ptx = |arch| ptx(compiler, kernel, arch);
        // PTX for 8.x and 9.0 is the same but for its target, which `targets_differ_in_name_only` shows.
        let (common, newest) = (ptx(80), ptx(120));
        let assembled = ARCHITECTURES.map(|arch| assemble(if arch == 120 { &newest } else { &common }, arch));
        Row {
            threads: kernel.threads as usize,
            dynamic_shared: kernel.shared_bytes as usize,
            static_shared: assembled.iter().map(|code| code.resources.static_shared).max().unwrap_or(0),
            registers: assembled.each_ref().map(|code| code.resources.registers),
            spilled: assembled.iter().map(|code| code.resources.spilled).sum(),
            stack: assembled.iter().map(|code| code.resources.stack).sum(),
            text: hash(kernel),
        }
    }

    fn parse(line: &str) -> Option<(String, Row)> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, numbers @ .., text] = &fields[..] else { return None };
        let numbers: Vec<usize> = numbers.iter().map(|field| field.parse().ok()).collect::<Option<_>>()?;
        let [threads, dynamic_shared, static_shared, a, b, c, d, e, spilled, stack] = numbers[..] else { return None };
        let registers = [a, b, c, d, e];
        let text = (*text).to_owned();
        let row = Row { threads, dynamic_shared, static_shared, registers, spilled, stack, text };
        Some(((*name).to_owned(), row))
    }

    fn line(&self, name: &str) -> String {
        let Row { threads, dynamic_shared, static_shared, registers, spilled, stack, text } = self;
        let registers = registers.map(|n| n.to_string()).join("\t");
        format!("{name}\t{threads}\t{dynamic_shared}\t{static_shared}\t{registers}\t{spilled}\t{stack}\t{text}\n")
    }
}

/// FNV-1a, 64 bits.
pub(super) fn hash_of(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

fn hash(kernel: &Kernel) -> String {
    hash_of(&instances::text(kernel))
}

pub(super) fn ptx(compiler: &Compiler, kernel: &Kernel, arch: u32) -> String {
    let images = compiler.compile(std::slice::from_ref(kernel), &format!("compute_{arch}"));
    let Image::Ptx(text) = images.unwrap_or_else(|e| panic!("{e}")).remove(0) else { panic!("PTX was asked for") };
    text
}

pub(super) fn compiler() -> Compiler {
    Compiler::find().unwrap_or_else(|e| panic!("{e}; `cargo xtask test` provides one"))
}

fn tools(compiler: &Compiler) -> String {
    let (major, minor) = compiler.version();
    format!("# NVRTC {major}.{minor}, ptxas {}\n", version())
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "docs", "ptxas.tsv"].iter().collect()
}

/// The committed table: which tools it was made with, and its lines.
fn read() -> (String, BTreeMap<String, Row>) {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let tools = text.lines().next().map(|line| line.to_owned() + "\n").unwrap_or_default();
    (tools, text.lines().filter_map(Row::parse).collect())
}

fn save(tools: &str, rows: &BTreeMap<String, Row>) {
    let lines: String = rows.iter().map(|(name, row)| row.line(name)).collect();
    let text = format!("{tools}{COLUMNS}\n{lines}");
    std::fs::write(path(), text).unwrap_or_else(|e| panic!("{}: {e}", path().display()));
}

/// Every network as users run it: in bf16 all of them, the first with all label sets (the others' add nothing, which
/// `other_label_sets_have_the_same_kernels` shows); in the other precisions one of each kind, one image. One straight to labels, too.
fn usual() -> Instances {
    let mut found = Instances::new();
    for case in instances::networks(&Backbone::ALL) {
        let ModelSpec { backbone, variant } = case.spec;
        if variant == Variant::Celeb || backbone == Backbone::ALL[0] {
            collect(&mut found, case.kernels(&[Precision::Bf16]));
        }
        if variant == Variant::Celeb && KINDS.contains(&backbone) && case.size == [1, 512, 512] {
            collect(&mut found, case.kernels(&[Precision::F16, Precision::Tf32, Precision::F32]));
        }
    }
    for variant in Variant::ALL {
        let case = Case::labels(ModelSpec { backbone: Backbone::MobileNet, variant }, [1, 512, 512]);
        collect(&mut found, case.kernels(&[Precision::Bf16, Precision::F16, Precision::Tf32, Precision::F32]));
    }
    found
}

/// Lower rungs, and the kernels around networks.
fn unusual() -> Instances {
    let mut found = Instances::new();
    for case in instances::rungs(Backbone::SwinBase) {
        let mut kernels = case.kernels(&[Precision::Bf16, Precision::F32]);
        kernels.retain(|kernel| kernel.name.contains("_rung_"));
        collect(&mut found, kernels);
    }
    collect(&mut found, instances::images());
    found
}

/// Every kernel of the table.
fn all() -> &'static Instances {
    static ALL: OnceLock<Instances> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = usual();
        collect(&mut all, unusual().into_values());
        all
    })
}

#[test]
fn every_kernel_is_in_the_table_as_it_is_today() {
    let (tools_then, rows) = read();
    assert_eq!(tools_then, tools(&compiler()), "{}: run `cargo xtask ptxas`", path().display());
    let names: BTreeSet<&String> = all().keys().collect();
    let known: BTreeSet<&String> = rows.keys().collect();
    let missing: Vec<_> = names.difference(&known).collect();
    let extra: Vec<_> = known.difference(&names).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:#?}\nno longer made {extra:#?}\n`cargo xtask ptxas`"
    );
    let changed: Vec<_> =
        all().iter().filter(|(name, kernel)| rows[*name].text != hash(kernel)).map(|(n, _)| n).collect();
    assert!(
        changed.is_empty(),
        "measured before they were edited: {changed:#?}\n`cargo xtask ptxas` measures them again"
    );
}

#[test]
fn nothing_is_spilled_and_no_thread_has_local_memory() {
    let (_, rows) = read();
    let bad: Vec<_> = rows.iter().filter(|(_, row)| row.spilled + row.stack > 0).collect();
    assert!(!rows.is_empty() && bad.is_empty(), "{bad:#?}");
}

/// One kernel of each room in each element type, another one after every edit.
#[test]
fn some_of_every_room_are_measured_again() {
    let (_, rows) = read();
    let mut rooms: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for name in rows.keys() {
        rooms.entry(name.split(':').next().unwrap_or_default()).or_default().push(name);
    }
    let turn = rows.values().fold(0usize, |sum, row| sum.wrapping_mul(31) + row.text.len() + row.registers[0]);
    let names: Vec<&String> = rooms.values().map(|names| names[turn % names.len()]).collect();
    let kernels: Vec<(&String, &Kernel)> = names.iter().filter_map(|name| all().get_key_value(*name)).collect();
    assert_eq!(kernels.len(), names.len(), "kernels of the table");
    for (name, row) in measure(&kernels, |_, _| {}) {
        assert_eq!(
            row, rows[&name],
            "{name}: found on the left, the table says what is on the right; `cargo xtask ptxas`"
        );
    }
}

/// Measures kernels on every core; tells of each as it is done.
fn measure(kernels: &[(&String, &Kernel)], told: impl Fn(&str, &Row) + Sync) -> Vec<(String, Row)> {
    let compiler = compiler();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, kernel)) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = Row::measure(&compiler, kernel);
                    told(name, &row);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push(((*name).clone(), row));
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(|e| e.into_inner())
}

/// Half a minute of compiling networks for a sentence in the table's favour, so only when asked for.
#[test]
#[ignore = "takes half a minute"]
fn other_label_sets_have_the_same_kernels() {
    let mut found = usual();
    let before: BTreeSet<String> = found.keys().cloned().collect();
    for case in instances::networks(&Backbone::ALL) {
        collect(&mut found, case.kernels(&[Precision::Bf16]));
    }
    let more: Vec<_> = found.keys().filter(|name| !before.contains(*name)).collect();
    assert!(more.is_empty(), "{more:#?}");
}

#[test]
fn targets_differ_in_name_only() {
    let compiler = compiler();
    let case = Case::usual(ModelSpec { backbone: Backbone::SwinBase, variant: Variant::Celeb }, [1, 512, 512]);
    let mut rooms = BTreeSet::new();
    let mut kernels = case.kernels(&[Precision::F16]);
    kernels.retain(|kernel| rooms.insert(kernel.name.rsplit_once('_').map(|(room, _)| room.to_owned())));
    for kernel in &kernels {
        // Nor in the folder that it was compiled in, which the cache does not look at.
        let names = |line: &&str| !line.starts_with(".target") && !line.trim_start().starts_with(".file");
        let without_names = |arch| ptx(&compiler, kernel, arch).lines().filter(names).collect::<Vec<_>>().join("\n");
        let oldest = without_names(80);
        for arch in [86, 89, 90] {
            assert_eq!(without_names(arch), oldest, "{} for {arch}", kernel.name);
        }
    }
}

/// `cargo xtask ptxas`: measures what is new or was edited, keeps the rest, drops what is no longer made.
#[test]
#[ignore = "writes docs/ptxas.tsv; run by `cargo xtask ptxas`"]
fn write() {
    if std::env::var_os(WRITE).is_none() {
        println!("not asked for: `cargo xtask ptxas` sets {WRITE}");
        return;
    }
    let wanted = all();
    let today = tools(&compiler());
    let (tools_then, mut rows) = read();
    rows.retain(|name, row| tools_then == today && wanted.get(name).is_some_and(|kernel| hash(kernel) == row.text));
    let mut missing: Vec<(&String, &Kernel)> = wanted.iter().filter(|(name, _)| !rows.contains_key(*name)).collect();
    // 16 bits first: should somebody stop this, the most wanted is there.
    let order = ["Bfloat", "bf16", "image", "_rung", "Half", "f16"];
    missing.sort_by_key(|(name, _)| order.iter().position(|part| name.contains(part)).unwrap_or(order.len()));
    println!("{} kernels, {} to measure", wanted.len(), missing.len());
    let (total, rows) = (missing.len(), Mutex::new(rows));
    let count = AtomicUsize::new(0);
    measure(&missing, |name, row| {
        let mut rows = rows.lock().unwrap_or_else(|e| e.into_inner());
        rows.insert(name.to_owned(), row.clone());
        let done = count.fetch_add(1, Ordering::Relaxed) + 1;
        if row.spilled + row.stack > 0 {
            println!("{name}: {} bytes spilled, stacks of {} bytes", row.spilled, row.stack);
        }
        if done.is_multiple_of(SAVE_EVERY) {
            println!("{done} of {total}");
            save(&today, &rows);
        }
    });
    save(&today, &rows.into_inner().unwrap_or_else(|e| e.into_inner()));
}

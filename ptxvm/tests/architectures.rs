//! What both NVRTCs make of one source for each architecture they know, compiled and run: the dialects of PTX that there are.
//!
//! `cargo xtask test` fetches the compilers and says where they are.

#[path = "../src/bin/ptxvm/nvrtc.rs"]
mod nvrtc;

use nvrtc::Nvrtc;
use ptxvm::{
    machine::{Launch, LoadedModule, run},
    memory::{AllocationKind, Memory},
    program::Program,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

type Failure = Box<dyn std::error::Error>;

/// How NVRTC is to compile.
struct Compiler {
    arch: String,
    nvrtc: Option<PathBuf>,
    include: Vec<PathBuf>,
    nvrtc_option: Vec<String>,
}

/// What `cargo xtask deps` fetched.
fn fetched(variable: &str, name: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps").join(name);
    let folder = env::var_os(variable).map_or_else(beside, PathBuf::from);
    assert!(folder.is_dir(), "no NVRTC in {}: run `cargo xtask deps`", folder.display());
    folder
}

/// A kernel's argument.
enum Argument<'a> {
    Buffer(&'a Buffer),
    Word(u32),
}

/// Device memory that is given back.
struct Buffer {
    address: u64,
    words: usize,
}

impl Buffer {
    fn of(words: &[u32]) -> Self {
        let (memory, bytes) = (Memory::global(), size_of_val(words) as u64);
        let address = memory.allocate(bytes, 256, AllocationKind::Device, 0, "a test's buffer".to_owned());
        let address = address.expect("memory");
        // SAFETY: the allocation was just made with that size, and nobody else knows it.
        unsafe { memory.copy(address, words.as_ptr() as u64, bytes) }.expect("a copy into an allocation");
        Self { address, words: words.len() }
    }

    fn read(&self) -> Vec<u32> {
        let mut words = vec![0u32; self.words];
        let bytes = (self.words * 4) as u64;
        // SAFETY: the allocation is as large as these words, and no launch is under way.
        unsafe { Memory::global().copy(words.as_mut_ptr() as u64, self.address, bytes) }.expect("a copy from it");
        words
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        Memory::global().free(self.address).expect("an allocation");
    }
}

fn launch(module: &Arc<LoadedModule>, name: &str, grid: [u32; 3], block: [u32; 3], arguments: &[Argument<'_>]) {
    let kernel = module.kernel(name).unwrap_or_else(|| panic!("no kernel {name}"));
    let info = module.info(kernel);
    let mut params = vec![0; info.param_bytes as usize];
    for (argument, place) in arguments.iter().zip(&info.params) {
        let start = place.offset as usize;
        match argument {
            Argument::Buffer(buffer) => params[start..start + 8].copy_from_slice(&buffer.address.to_le_bytes()),
            Argument::Word(word) => params[start..start + 4].copy_from_slice(&word.to_le_bytes()),
        }
    }
    run(&Launch::new(module.clone(), kernel, grid, block, params)).unwrap_or_else(|fault| panic!("{name}: {fault}"));
}

fn floats(values: impl Iterator<Item = f32>) -> Buffer {
    Buffer::of(&values.map(f32::to_bits).collect::<Vec<_>>())
}

use Argument::{Buffer as B, Word as W};

/// Two dimensions and a padded tile.
fn transpose(module: &Arc<LoadedModule>) {
    let (matrix, out) = (Buffer::of(&(0..40 * 50).collect::<Vec<u32>>()), Buffer::of(&[0; 40 * 50]));
    launch(module, "transpose_padded", [2, 2, 1], [32, 8, 1], &[B(&matrix), B(&out), W(50), W(40)]);
    let expected: Vec<u32> = (0..50 * 40).map(|at| at % 40 * 50 + at / 40).collect();
    assert_eq!(out.read(), expected);
}

fn scan(module: &Arc<LoadedModule>) {
    let (numbers, out) = (Buffer::of(&[3; 200]), Buffer::of(&[0; 200]));
    launch(module, "scan_inclusive_block", [1, 1, 1], [256, 1, 1], &[B(&numbers), B(&out), W(200)]);
    assert_eq!(out.read(), (1..=200).map(|i| 3 * i).collect::<Vec<_>>());
}

/// `redux.sync` where there is one.
fn warps(module: &Arc<LoadedModule>) {
    let (numbers, outs) = (Buffer::of(&(0..64).collect::<Vec<u32>>()), [(); 3].map(|()| Buffer::of(&[0; 2])));
    let [sums, largest, bits] = &outs;
    launch(module, "warp_reduce_integers", [1, 1, 1], [64, 1, 1], &[B(&numbers), B(sums), B(largest), B(bits)]);
    assert_eq!((sums.read(), largest.read(), bits.read()), (vec![496, 1520], vec![31, 63], vec![0, 0]));
}

fn quantise(module: &Arc<LoadedModule>) {
    let (numbers, out) = (floats([1.0, -2.5, 100.0, -0.4].into_iter()), Buffer::of(&[0]));
    launch(module, "quantise_s8", [1, 1, 1], [32, 1, 1], &[B(&numbers), B(&out), W(2f32.to_bits()), W(4)]);
    assert_eq!(out.read()[0].to_le_bytes().map(|byte| byte as i8), [2, -5, 127, -1]);
}

/// Tensor cores: a matrix of ones times one of twos.
fn product(module: &Arc<LoadedModule>) {
    let [ones, twos] = [0x3f80_3f80, 0x4000_4000].map(|pair| Buffer::of(&[pair; 64 * 64 / 2]));
    let out = Buffer::of(&[0; 64 * 64]);
    launch(module, "gemm_mma_bf16", [1, 1, 1], [128, 1, 1], &[B(&ones), B(&twos), B(&out), W(64), W(64), W(64)]);
    assert_eq!(out.read(), [128f32.to_bits(); 64 * 64]);
}

/// A source of the suite, the least architecture it compiles for, and what is run of it.
type Case = (&'static str, u32, fn(&Arc<LoadedModule>));

const CASES: [Case; 5] = [
    ("transpose", 75, transpose),
    ("scan", 75, scan),
    ("warp_tricks", 75, warps),
    ("conversions", 75, quantise),
    ("gemm_mma", 80, product),
];

fn check(folder: &Path, major: i32) {
    let place = folder.join("lib");
    let nvrtc = Nvrtc::find(Some(&place)).expect("NVRTC");
    assert_eq!(nvrtc.version().expect("a version").0, major);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/kernels");
    for (name, least, test) in CASES {
        let file = sources.join(name).with_extension("cu");
        let source = fs::read_to_string(&file).expect("a source of the suite");
        for architecture in [75, 80, 86, 89, 90, 100, 120].into_iter().filter(|number| *number >= least) {
            // Headers of the toolkit are found beside NVRTC.
            let compiler = Compiler {
                arch: format!("compute_{architecture}"),
                nvrtc: Some(place.clone()),
                include: Vec::new(),
                nvrtc_option: vec!["--extra-device-vectorization".to_owned()],
            };
            let ptx = nvrtc.compile(&source, &file, &compiler).unwrap_or_else(|error| panic!("{name}: {error}"));
            let program = Program::compile(&ptx).unwrap_or_else(|error| panic!("{name} {architecture}: {error}"));
            assert_eq!(program.target, architecture);
            test(&LoadedModule::load(Arc::new(program), 0).expect("loads"));
        }
    }
}

#[test]
fn output_of_nvrtc_13_runs_for_every_architecture() {
    check(&fetched("PTXVM_TEST_NVRTC", "nvrtc"), 13);
}

#[test]
fn output_of_nvrtc_12_runs_for_every_architecture() {
    check(&fetched("PTXVM_TEST_NVRTC12", "nvrtc12"), 12);
}

//! `ptxvm run` and `ptxvm inspect`.

use crate::{Compiler, Failure, Mode, arguments::Argument, nvrtc::Nvrtc};
use clap::Args;
use ptxvm::{
    machine::{Fault, Launch, LoadedModule, run as launch_kernel},
    monitor::{Modes, set_modes},
    program::{KernelInfo, Program},
    report::Findings,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

#[derive(Args)]
pub(crate) struct Run {
    /// A .ptx or .cu file.
    file: PathBuf,
    /// The kernel (needed if the file has several).
    #[arg(long)]
    kernel: Option<String>,
    /// Blocks: X, X,Y or X,Y,Z.
    #[arg(long, default_value = "1", value_parser = extents)]
    grid: Extents,
    /// Threads per block: X, X,Y or X,Y,Z.
    #[arg(long, default_value = "32", value_parser = extents)]
    block: Extents,
    /// Bytes of dynamic shared memory.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// The kernel's arguments in order: i32=5, f32[1024]=iota|random|zero|2.5, u8[]=FILE.
    #[arg(long = "arg", value_name = "ARGUMENT", num_args = 1..)]
    arguments: Vec<Argument>,
    /// Elements of each array to print afterwards.
    #[arg(long, default_value_t = 8)]
    print: usize,
    /// What is watched.
    #[arg(long, value_enum, default_value = "checked")]
    mode: Mode,
    /// Order of blocks, warps and lanes to draw.
    #[arg(long)]
    seed: Option<u64>,
    /// Run with so many seeds, from 0 on, and say which of them show what.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["seed", "shrink"])]
    seeds: Option<u64>,
    /// Run only these blocks, by their numbers (x fastest).
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    only: Vec<u64>,
    /// Find out how few blocks show each finding, by running them again.
    #[arg(long)]
    shrink: bool,
    /// Threads that run blocks.
    #[arg(long)]
    threads: Option<usize>,
    #[command(flatten)]
    compiler: Compiler,
}

#[derive(Args)]
pub(crate) struct Inspect {
    /// A .ptx or .cu file.
    file: PathBuf,
    #[command(flatten)]
    compiler: Compiler,
}

#[derive(Clone, Copy, Debug)]
struct Extents([u32; 3]);

fn extents(text: &str) -> Result<Extents, String> {
    let wrong = || format!("`{text}`: expected up to three numbers from 1, as in 16,16");
    let mut list = [1; 3];
    let parts: Vec<_> = text.split([',', 'x']).collect();
    if parts.len() > 3 {
        return Err(wrong());
    }
    for (extent, part) in list.iter_mut().zip(parts) {
        *extent = part.trim().parse().ok().filter(|extent| *extent > 0).ok_or_else(wrong)?;
    }
    Ok(Extents(list))
}

fn ptx_of(file: &Path, compiler: &Compiler) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("ptx") => Ok(text),
        Some("cu" | "cuh") => Nvrtc::find(compiler.nvrtc.as_deref())?.compile(&text, file, compiler),
        _ => Err(format!("{}: expected a .ptx or .cu file", file.display()).into()),
    }
}

fn program_of(file: &Path, compiler: &Compiler) -> Result<Program, Failure> {
    let text = ptx_of(file, compiler)?;
    Program::compile(&text).map_err(|error| format!("{}: {error}", file.display()).into())
}

pub(crate) fn inspect(command: &Inspect) -> Result<ExitCode, Failure> {
    let program = program_of(&command.file, &command.compiler)?;
    println!("PTX {}.{} for sm_{}", program.version / 10, program.version % 10, program.target);
    for kernel in program.kernels() {
        println!("{}", describe(kernel));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(kernel: &KernelInfo) -> String {
    let params: Vec<_> = kernel.params.iter().map(|param| param.bytes.to_string()).collect();
    let params = if params.is_empty() { "none".to_owned() } else { params.join(", ") };
    format!(
        "{}\n  parameters of {params} bytes; {} bytes of static shared memory, {} of local memory per thread; about {} \
         registers; at most {} threads",
        kernel.name, kernel.static_shared, kernel.local_bytes, kernel.registers, kernel.max_threads
    )
}

pub(crate) fn run(command: &Run) -> Result<ExitCode, Failure> {
    set_modes(Modes { checked: command.mode == Mode::Checked, profile: command.mode == Mode::Profile });
    let program = Arc::new(program_of(&command.file, &command.compiler)?);
    match command.seeds {
        Some(count) => sweep(command, &program, count),
        None => {
            let done = once(command, &program, command.seed)?;
            print!("{}", done.text);
            if let Some(fault) = done.fault {
                eprintln!("{fault}");
                return Ok(ExitCode::FAILURE);
            }
            // Findings have been printed as they came up; they make the command fail.
            Ok(if Findings::global().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// A run that has ended.
struct Done {
    /// The time it took, and the first elements of arrays.
    text: String,
    fault: Option<Fault>,
    /// What is in the arrays afterwards.
    contents: Vec<Vec<u8>>,
}

/// Runs with seeds 0, 1, … and says which show findings, faults, or other results than the first.
fn sweep(command: &Run, program: &Arc<Program>, count: u64) -> Result<ExitCode, Failure> {
    let mut first: Option<Vec<Vec<u8>>> = None;
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for seed in 0..count {
        let done = once(command, program, Some(seed))?;
        let mut seen = |what: String| kinds.entry(what).or_default().push(seed);
        // What has been seen before is known, and not printed again.
        let mut found: Vec<&str> = Findings::global().counts_anew().into_iter().map(|finding| finding.kind).collect();
        found.sort_unstable();
        found.dedup();
        found.iter().for_each(|kind| seen((*kind).to_owned()));
        match (&done.fault, &first) {
            (Some(fault), _) if found.is_empty() => seen(fault.finding.to_owned()),
            (Some(_), _) => {}
            (None, None) => first = Some(done.contents),
            (None, Some(first)) => {
                for (number, (before, now)) in first.iter().zip(&done.contents).enumerate() {
                    if before != now {
                        seen(format!("other contents of array {number} than with the first seed"));
                    }
                }
            }
        }
    }
    for (what, seeds) in &kinds {
        let list: Vec<_> = seeds.iter().take(16).map(u64::to_string).collect();
        let more = if seeds.len() > list.len() { ", …" } else { "" };
        println!("{what}: with {} of {count} seeds: {}{more}", seeds.len(), list.join(", "));
    }
    if kinds.is_empty() {
        println!("{count} seeds: no findings, the same results");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn once(command: &Run, program: &Arc<Program>, seed: Option<u64>) -> Result<Done, Failure> {
    let names: Vec<_> = program.kernels().map(|kernel| kernel.name.clone()).collect();
    let name = match (&command.kernel, names.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.clone(),
        (None, _) => return Err(format!("name one of the kernels with --kernel: {}", names.join(", ")).into()),
    };
    let module = LoadedModule::load(program.clone(), 0)?;
    let kernel = module.kernel(&name).ok_or_else(|| format!("no kernel `{name}`; there are: {}", names.join(", ")))?;
    let info = module.info(kernel).clone();
    if command.arguments.len() != info.params.len() {
        let found = command.arguments.len();
        return Err(format!(
            "{found} arguments given, but the kernel takes {}\n{}",
            info.params.len(),
            describe(&info)
        )
        .into());
    }
    let mut params = vec![0u8; info.param_bytes as usize];
    let mut placed = Vec::new();
    for (number, (argument, param)) in command.arguments.iter().zip(&info.params).enumerate() {
        let value = argument.place(number)?;
        if value.bytes.len() != param.bytes as usize {
            let (found, wanted) = (value.bytes.len(), param.bytes);
            return Err(format!("argument {number} has {found} bytes, but the kernel's parameter {wanted}").into());
        }
        params[param.offset as usize..][..value.bytes.len()].copy_from_slice(&value.bytes);
        placed.push(value);
    }
    let mut launch = Launch::new(module, kernel, command.grid.0, command.block.0, params);
    launch.dynamic_shared = command.shared;
    launch.label = "ptxvm run".to_owned();
    launch.options.seed = seed;
    launch.options.checked = command.mode == Mode::Checked;
    launch.options.shrink = command.shrink && launch.options.checked;
    // This thread waits for the launch, and there is no other.
    launch.options.alone = Some(|_| true);
    if let Some(block) = command.only.iter().find(|block| **block >= launch.blocks()) {
        return Err(format!("there is no block {block}: the grid has {}", launch.blocks()).into());
    }
    launch.options.only = (!command.only.is_empty()).then(|| command.only.clone().into());
    launch.options.threads = command.threads.unwrap_or(if seed.is_some() { 1 } else { launch.options.threads });
    if launch.threads() > info.max_threads {
        return Err(format!("{} threads per block, at most {} are possible", launch.threads(), info.max_threads).into());
    }
    let start = Instant::now();
    let result = launch_kernel(&launch);
    let mut text = format!(
        "{name}: {} blocks of {} threads, {:.3} ms\n",
        launch.options.only.as_ref().map_or(launch.blocks(), |only| only.len() as u64),
        launch.threads(),
        start.elapsed().as_secs_f64() * 1e3
    );
    let mut contents = Vec::new();
    for (number, value) in placed.iter().enumerate() {
        if result.is_ok()
            && let Some(shown) = value.show(command.print)?
        {
            text += &format!("argument {number}: {shown}\n");
        }
        contents.extend(value.take()?);
    }
    Ok(Done { text, fault: result.err(), contents })
}

//! `ptxvm doctor`.

use crate::{Failure, nvrtc::Nvrtc, program::library_folder};
use clap::Args;
use ptxvm::{
    machine::{Launch, LoadedModule, run, tier},
    program::Program,
};
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

#[derive(Args)]
pub(crate) struct Doctor {
    /// Folder with libnvrtc.so (else the loader's usual places).
    #[arg(long, env = "PTXVM_NVRTC", value_name = "FOLDER")]
    nvrtc: Option<PathBuf>,
}

/// A chain of arithmetic that nothing can shorten.
const CHAIN: &str = include_str!("chain.ptx");
/// Operations of one warp in [`CHAIN`]'s loop.
const CHAIN_OPERATIONS: f64 = 18.0 * 2000.0;
/// Short runs, of which the best counts: others may use the machine meanwhile.
const RUNS: u32 = 40;

pub(crate) fn doctor(command: &Doctor) -> Result<ExitCode, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("instruction set   {:?}, {threads} threads", tier());
    match library_folder(None) {
        Ok(folder) => println!("driver            {}", folder.join("libcuda.so.1").display()),
        Err(error) => println!("driver            {error}"),
    }
    match Nvrtc::find(command.nvrtc.as_deref()).and_then(|nvrtc| Ok((nvrtc.version()?, nvrtc.place.clone()))) {
        Ok(((major, minor), place)) => println!("NVRTC             {major}.{minor} ({})", place.display()),
        Err(_) => println!("NVRTC             not found: .ptx files run, .cu files do not (--nvrtc names its folder)"),
    }
    let module = LoadedModule::load(Arc::new(Program::compile(CHAIN)?), 0)?;
    let kernel = module.kernel("chain").ok_or("the built-in kernel is gone")?;
    for count in if threads > 1 { vec![1, threads] } else { vec![1] } {
        let mut launch = Launch::new(module.clone(), kernel, [8, 1, 1], [128, 1, 1], vec![]);
        launch.options.threads = count;
        let warps = 8.0 * 4.0;
        let mut rate = 0f64;
        for _ in 0..RUNS {
            let start = Instant::now();
            run(&launch)?;
            rate = rate.max(warps * CHAIN_OPERATIONS / start.elapsed().as_secs_f64() / 1e6);
        }
        println!("arithmetic        {rate:.0} million warp instructions per second on {count} thread(s)");
    }
    Ok(ExitCode::SUCCESS)
}

//! `segface doctor`: what this machine can do.

use segface::Error;
use segface::engine::cuda::{Compiler, CudaError, Device, devices};
use segface::parser::{default_precision, default_threads};
use segface_kernels::Isa;
use std::io::Write;

/// Say what this machine can do and what would be used
#[derive(clap::Args)]
pub(crate) struct DoctorArgs {
    /// Measure the arithmetic peak of one core (a second)
    #[arg(long)]
    measure: bool,
}

pub(crate) fn run(args: DoctorArgs) -> Result<(), Error> {
    let best = Isa::best();
    let have: Vec<_> = Isa::available().map(Isa::name).collect();
    let peaks = args.measure.then(|| {
        [segface_kernels::DType::F32, segface_kernels::DType::Bf16].map(|d| segface_kernels::peak::gflops(best, d))
    });
    super::print(|out| {
        writeln!(out, "segface {} on {}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS)?;
        writeln!(out, "threads              {}", default_threads())?;
        writeln!(out, "instruction sets     {} (best: {})", have.join(", "), best.name())?;
        writeln!(out, "default precision    {}", default_precision(best).name())?;
        if let Some([f32, bf16]) = peaks {
            writeln!(out, "peak of one core     {f32:.0} GFLOP/s f32, {bf16:.0} GFLOP/s bf16 (register-only loop)")?;
        }
        cuda(out)
    })
}

/// The CUDA devices, or why there is none, and the compiler that makes kernels for them.
fn cuda(out: &mut dyn Write) -> std::io::Result<()> {
    match devices() {
        Err(error) => writeln!(out, "CUDA                 {error}")?,
        Ok(0) => writeln!(out, "CUDA                 the driver shows no device")?,
        Ok(count) => {
            for ordinal in 0..count {
                match describe(ordinal) {
                    Ok(text) => writeln!(out, "cuda:{ordinal:<16}{text}")?,
                    Err(error) => writeln!(out, "cuda:{ordinal:<16}{error}")?,
                }
            }
        }
    }
    match Compiler::find() {
        Ok(compiler) => writeln!(out, "NVRTC                {}.{}", compiler.version().0, compiler.version().1),
        Err(error) => writeln!(out, "NVRTC                {error}"),
    }
}

fn describe(ordinal: usize) -> Result<String, CudaError> {
    let device = Device::open(ordinal)?;
    let ((major, minor), (free, total)) = (device.capability(), device.memory()?);
    let gib = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    Ok(format!(
        "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} of {:.1} GiB free",
        device.name(),
        device.multiprocessors()?,
        gib(free),
        gib(total)
    ))
}

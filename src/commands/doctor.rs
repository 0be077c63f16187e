//! `segface doctor`: what this machine can do.

use segface::Error;
use segface::parser::{default_precision, default_threads};
use segface_kernels::Isa;

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
        writeln!(out, "CUDA                 not in this version; everything runs on the CPU")
    })
}

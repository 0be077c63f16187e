//! The image kernels on the CPU. `tests.rs` runs each against plain definitions, on every instruction set there is.

mod blend;
mod labels;
#[cfg(target_arch = "x86_64")]
mod labels_x86;
mod regions;
mod resize;
mod warp;

#[cfg(test)]
mod tests;

use crate::{Context, Isa};

pub use blend::blend_labels;
pub use labels::{LabelResizer, argmax_labels};
pub use regions::{ClassRegion, class_regions};
pub use resize::Resampler;
pub use warp::{FaceWarp, WarpError};

/// The code an instruction set runs here: what comes above AVX-512 has nothing for pixels, and NEON is what the compiler makes
/// of plain Rust on aarch64.
#[derive(Clone, Copy)]
enum Tier {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Tier {
    /// A context only has an instruction set that the CPU has, so neither has a tier that it lacks.
    fn of(ctx: &Context) -> Tier {
        match ctx.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Tier::Avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => Tier::Avx512,
            _ => Tier::Portable,
        }
    }
}

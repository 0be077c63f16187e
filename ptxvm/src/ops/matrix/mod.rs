//! Matrix instructions of a warp: `mma`, `wmma`, `ldmatrix`, `stmatrix`, `movmatrix`.
//!
//! Sums of floats are taken in f32 (f64 for f64), k ascending, with one rounding per product (which itself is exact) and
//! one more where the result is f16. NaNs come out as the canonical one. All instruction sets give the same bits.

mod address;
mod decode;
mod double;
mod kernel;
mod product;
mod quads;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tiles;
mod transpose;
mod vector;
mod wmma;
mod wmma_memory;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::Decode;
use crate::{
    machine::{op::Flow, warp::Warp},
    program::{CompileError, builder::Builder},
    ptx::ast::Instruction,
};

/// The decoder of an opcode of this family.
pub(crate) fn family(opcode: &str) -> Option<Decode> {
    Some(match opcode {
        "mma" => decode::multiply,
        "wmma" => wmma::decode,
        "ldmatrix" => tiles::load,
        "stmatrix" => tiles::store,
        "movmatrix" => tiles::transpose,
        "wgmma" | "tcgen05" => not_modelled,
        _ => return None,
    })
}

fn not_modelled(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    Err(b.error(i, "matrix products of warp groups and of tensor memory are not modelled; use mma.sync"))
}

/// Comes together with the whole warp. `Some(flow)`: return that.
#[inline(always)]
fn together(warp: &mut Warp) -> Option<Flow> {
    if let Some(flow) = warp.converge(u32::MAX) {
        return Some(flow);
    }
    if let Some(monitor) = warp.monitor() {
        monitor.warp_sync(warp, u32::MAX, false);
    }
    None
}

//! C = epilogue(prologue(A) · Bᵀ): every linear layer and 1×1 convolution, and the tile product that all other kernels
//! are built on.

#[cfg(target_arch = "x86_64")]
mod amx;
pub mod backward;
pub mod core;
pub mod cpu;
#[cfg(target_arch = "x86_64")]
mod dot;
mod fma;
mod pack;
pub mod plain;
mod spec;
mod strided;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{is_available as amx_is_available, peak as amx_peak};
pub use core::{PANEL, PackedHeader, PackedMatrix, PackedView, packed_len, tile};
#[cfg(target_arch = "x86_64")]
pub(crate) use dot::peak as dot_peak;
pub use pack::{pack_columns, pack_columns_f32, pack_rows, pack_rows_f32};
pub use spec::{GemmOperands, GemmSpec, Prologue, PrologueOperands};
pub(crate) use strided::{Left, multiply};

//! `libcuda.so.1`: the CUDA driver API of [`ptxvm`], for programs that know nothing of it.
//!
//! All code is in [`ptxvm`]. This crate only is the shared library: a `cdylib` exports the `no_mangle` functions of every
//! crate that it is linked with, and nothing else. `cargo xtask ptxvm` builds it and says how it is used.

// Named, or else it would not be linked.
extern crate ptxvm as _;

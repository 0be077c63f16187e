//! The functions called from Rust.

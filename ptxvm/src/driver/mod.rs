//! The CUDA driver API.
mod engine;
mod entry;
mod log;
mod status;

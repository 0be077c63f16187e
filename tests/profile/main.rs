//! `segface profile` and `segface tune`: predictions that need no GPU, files, errors; on a device, counters and the tuner.

mod device;
#[path = "../finished.rs"]
mod finished;
mod predictions;
mod tiles;

use segface::engine::cuda::{Compiler, Device};
use std::sync::OnceLock;

/// NVRTC. `cargo xtask test` provides it and says where; a plain `cargo test` may be without.
fn compiler() -> Option<Compiler> {
    match Compiler::find() {
        Ok(compiler) => Some(compiler),
        Err(error) if std::env::var_os("SEGFACE_NVRTC").is_some() => panic!("{error}"),
        Err(_) => None,
    }
}

/// The device, likewise.
fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let open = || match Device::open(0) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("PTXVM_TEST_LIBRARY").is_some() => panic!("{error}"),
        Err(_) => None,
    };
    DEVICE.get_or_init(open).as_ref()
}

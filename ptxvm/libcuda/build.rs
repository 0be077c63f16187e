//! Makes the library one that the loader takes for NVIDIA's.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        // Programs linked with -lcuda then ask for libcuda.so.1, as they do with NVIDIA's.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
        // The library calls its own functions, even where the program has some of the same name: one that is itself
        // linked with ptxvm has them all.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    }
}

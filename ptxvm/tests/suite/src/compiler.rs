//! CUDA C++ to PTX by NVRTC, at run time.

use std::{
    collections::HashMap,
    env,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock},
};

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

/// The text of a kernel file of the corpus.
pub fn kernel_source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(name).with_extension("cu");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}

/// The folder with NVRTC's `lib` and `include`: `PTXVM_TEST_NVRTC`, or what `cargo xtask deps` fetched.
fn nvrtc_folder() -> PathBuf {
    match env::var_os("PTXVM_TEST_NVRTC") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../.deps/nvrtc"),
    }
}

/// Loads NVRTC from its folder before cudarc looks for it: the builtins first, since libnvrtc 13.0 has no run path.
fn preload() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let folder = nvrtc_folder().join("lib");
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("no NVRTC in {}: {error}; run `cargo xtask deps`", folder.display()));
        let mut libraries: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("libnvrtc") && name.contains(".so") && !name.contains(".alt.")
            })
            .collect();
        libraries.sort_by_key(|path| !path.to_string_lossy().contains("builtins"));
        for path in libraries {
            // SAFETY: NVRTC's initialisers have no preconditions.
            let library = unsafe { libloading::Library::new(&path) };
            // The library stays for the life of the process, as cudarc's own handle does.
            std::mem::forget(library.unwrap_or_else(|error| panic!("{} cannot be loaded: {error}", path.display())));
        }
    });
}

/// The PTX of a CUDA source for `PTXVM_SUITE_ARCH` (compute_80 unless set), with line information.
/// A source is compiled once a process.
pub fn nvrtc_ptx(name: &str, source: &str) -> String {
    static COMPILED: Mutex<Option<HashMap<String, String>>> = Mutex::new(None);
    preload();
    // A test that fails to compile its kernel must not fail the others by a poisoned lock.
    let mut compiled = COMPILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = compiled.get_or_insert_with(HashMap::new);
    if let Some(ptx) = known.get(source) {
        return ptx.clone();
    }
    let architecture = env::var("PTXVM_SUITE_ARCH").unwrap_or_else(|_| "compute_80".to_owned());
    let options = CompileOptions {
        include_paths: vec![nvrtc_folder().join("include").to_string_lossy().into_owned()],
        options: vec![
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".to_owned(),
            "-default-device".to_owned(),
            "-lineinfo".to_owned(),
        ],
        name: Some(format!("{name}.cu")),
        ..Default::default()
    };
    let ptx = match compile_ptx_with_opts(source, options) {
        Ok(ptx) => ptx.to_src(),
        Err(CompileError::CompileError { log, .. }) => panic!("NVRTC refused {name}.cu:\n{}", log.to_string_lossy()),
        Err(error) => panic!("NVRTC failed on {name}.cu: {error}"),
    };
    known.insert(source.to_owned(), ptx.clone());
    ptx
}

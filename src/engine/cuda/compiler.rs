//! NVRTC: found at run time, its results kept on disk by what went into them.

use super::{CudaError, Device};
use crate::files::write_atomically;
use cudarc::nvrtc::{result, sys};
use rayon::prelude::*;
use segface_codegen::cuda::Kernel;
use segface_kernels::cuda::{COMPILE_OPTIONS, HEADERS};
use sha2::{Digest, Sha256};
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A kernel as the driver takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    /// PTX, which the driver assembles for its card.
    Ptx(String),
    /// Machine code of one architecture.
    Cubin(Vec<u8>),
}

impl Image {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Image::Ptx(text) => text.as_bytes(),
            Image::Cubin(bytes) => bytes,
        }
    }
}

/// What a kernel needs of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: usize,
    /// Bytes that a thread writes to and reads from memory because it has too few registers.
    pub spilled: usize,
    /// Bytes of a thread's stack in memory: spills, and arrays that are indexed by what only the run knows.
    pub stack: usize,
    /// Bytes of static shared memory of a block.
    pub static_shared: usize,
}

impl Resources {
    /// From the assembler's log; `None` if it says nothing of registers.
    pub fn read(log: &str) -> Option<Self> {
        let before = |what: &str| -> Option<usize> {
            let line = log.lines().find(|line| line.contains(what))?;
            line[..line.find(what)?].split_whitespace().next_back()?.parse().ok()
        };
        let spilled = before("bytes spill stores").unwrap_or(0) + before("bytes spill loads").unwrap_or(0);
        let stack = before("bytes stack frame").unwrap_or(0);
        Some(Self { registers: before("registers")?, spilled, stack, static_shared: before("bytes smem").unwrap_or(0) })
    }
}

/// The compiler at hand.
pub struct Compiler {
    version: (i32, i32),
    cache: Option<PathBuf>,
}

impl Compiler {
    /// Looks for NVRTC: in the folder that SEGFACE_NVRTC names, where the dynamic loader looks, in the toolkit's usual places.
    /// Results are kept in `segface/kernels` of the user's cache folder (SEGFACE_CACHE names another; empty for none).
    ///
    /// # Errors
    /// If there is none.
    pub fn find() -> Result<Compiler, CudaError> {
        let looked = preload();
        // SAFETY: looks for a library and loads it.
        if !unsafe { sys::is_culib_present() } {
            let looked = std::iter::once("the dynamic loader's path".to_owned()).chain(looked);
            return Err(CudaError::NoCompiler { looked: looked.collect::<Vec<_>>().join(", ") });
        }
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: both point to integers.
        unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
        Ok(Compiler { version: (major, minor), cache: cache_folder() })
    }

    /// Its version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// PTX for the card's architecture, or machine code where the driver is older than this compiler and would not know its PTX.
    ///
    /// # Errors
    /// If the compiler refuses one of them.
    pub fn for_device(&self, kernels: &[Kernel], device: &Device) -> Result<Vec<Image>, CudaError> {
        let (major, minor) = device.capability();
        let arch = major * 10 + minor;
        let cubin = driver_version() < self.version;
        self.compile(kernels, &format!("{}_{arch}", if cubin { "sm" } else { "compute" }))
    }

    /// Compiles kernels for a target: `compute_80` gives PTX, `sm_80` machine code. Uses every core.
    ///
    /// # Errors
    /// If the compiler refuses one of them; the first one's log.
    pub fn compile(&self, kernels: &[Kernel], target: &str) -> Result<Vec<Image>, CudaError> {
        kernels.par_iter().map(|kernel| self.compile_one(kernel, target)).collect()
    }

    /// What kernels need on a card of architecture `sm_…`, as its assembler says.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn resources(&self, kernels: &[Kernel], target: &str) -> Result<Vec<Resources>, CudaError> {
        let resources = kernels.par_iter().map(|kernel| {
            let path = self.cache.as_ref().map(|folder| folder.join(self.key(kernel, target) + ".ptxas"));
            let kept = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
            if let Some(resources) = kept.and_then(|log| Resources::read(&log)) {
                return Ok(resources);
            }
            let (_, log) = self.nvrtc(kernel, target, &["--ptxas-options=-v"])?;
            let resources = Resources::read(&log)
                .ok_or_else(|| self.refused(kernel, target, format!("its log says no registers:\n{log}")))?;
            if let Some(path) = path {
                keep(&path, log.as_bytes());
            }
            Ok(resources)
        });
        resources.collect()
    }

    fn compile_one(&self, kernel: &Kernel, target: &str) -> Result<Image, CudaError> {
        let machine_code = target.starts_with("sm_");
        let path = self.cache.as_ref().map(|folder| folder.join(self.key(kernel, target)));
        if let Some(content) = path.as_ref().and_then(|path| std::fs::read(path).ok()) {
            match machine_code {
                true => return Ok(Image::Cubin(content)),
                false => {
                    if let Ok(text) = String::from_utf8(content) {
                        return Ok(Image::Ptx(text));
                    }
                }
            }
        }
        let (image, _) = self.nvrtc(kernel, target, &[])?;
        if let Some(path) = path {
            keep(&path, image.bytes());
        }
        Ok(image)
    }

    /// The name of a result: a hash of everything that went into it.
    fn key(&self, kernel: &Kernel, target: &str) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {target} {COMPILE_OPTIONS:?}\n", self.version));
        for (name, text) in HEADERS {
            hash.update(format!("{name}\n{text}\n"));
        }
        hash.update(&kernel.source);
        let digest = hash.finalize();
        digest.iter().take(16).fold(format!("{}-{target}-", kernel.name), |name, byte| format!("{name}{byte:02x}"))
    }

    fn refused(&self, kernel: &Kernel, target: &str, log: String) -> CudaError {
        CudaError::Compile {
            version: format!("{}.{}", self.version.0, self.version.1),
            kernel: kernel.name.clone(),
            target: target.into(),
            log,
        }
    }

    /// The image, and what the compiler said about it.
    fn nvrtc(&self, kernel: &Kernel, target: &str, extra: &[&str]) -> Result<(Image, String), CudaError> {
        let refused = |log: String| self.refused(kernel, target, log);
        let c = |text: &str| CString::new(text).map_err(|_| refused("its source holds a zero byte".into()));
        let (source, name) = (c(&kernel.source)?, c(&format!("{}.cu", kernel.name))?);
        let names = HEADERS.iter().map(|(name, _)| c(name)).collect::<Result<Vec<_>, _>>()?;
        let texts = HEADERS.iter().map(|(_, text)| c(text)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
        let mut program = std::ptr::null_mut();
        // SAFETY: every pointer is to a string that lives until the program is destroyed.
        unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as c_int,
                pointers(&texts).as_ptr(),
                pointers(&names).as_ptr(),
            )
        }
        .result()
        .map_err(|error| refused(format!("{error:?}")))?;
        let options: Vec<String> = COMPILE_OPTIONS
            .iter()
            .chain(extra)
            .map(ToString::to_string)
            .chain([format!("--gpu-architecture={target}")])
            .collect();
        // SAFETY: `program` is a program of NVRTC, destroyed once, below.
        unsafe {
            let compiled = result::compile_program(program, &options);
            let log = result::get_program_log(program)
                .map(|log| CStr::from_ptr(log.as_ptr()).to_string_lossy().into_owned())
                .unwrap_or_default();
            let image = compiled.map_err(|error| refused(format!("{error:?}\n{log}"))).and_then(|()| {
                if target.starts_with("sm_") {
                    let mut size = 0;
                    sys::nvrtcGetCUBINSize(program, &mut size)
                        .result()
                        .map_err(|error| refused(format!("{error:?}")))?;
                    let mut bytes = vec![0u8; size];
                    let read = sys::nvrtcGetCUBIN(program, bytes.as_mut_ptr().cast());
                    read.result().map_err(|error| refused(format!("{error:?}")))?;
                    return Ok(Image::Cubin(bytes));
                }
                let text = result::get_ptx(program).map_err(|error| refused(format!("{error:?}")))?;
                Ok(Image::Ptx(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned()))
            });
            // Nothing is lost if it stays.
            let _ = result::destroy_program(program);
            Ok((image?, log))
        }
    }
}

/// Writes a result into the cache. One that cannot be written is no reason to fail: the result is there.
pub(super) fn keep(path: &Path, bytes: &[u8]) {
    if write_atomically(path, true, |out: &mut dyn std::io::Write| out.write_all(bytes)).is_err() {
        tracing::debug!("cannot keep {}", path.display());
    }
}

/// The newest CUDA version whose PTX the driver knows, once a device was opened.
pub fn driver_version() -> (i32, i32) {
    let mut version: c_int = 0;
    // SAFETY: points to an integer; a device was opened, so the driver is loaded.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    (version / 1000, version % 1000 / 10)
}

/// Loads NVRTC from the folders where it usually is, before the dynamic loader is asked: its wheels have no run path, so the
/// library of built-in functions must be loaded first. Says where it looked.
fn preload() -> Vec<String> {
    static LOOKED: OnceLock<Vec<String>> = OnceLock::new();
    LOOKED
        .get_or_init(|| {
            let folders = folders();
            for folder in &folders {
                if load_from(folder) {
                    break;
                }
            }
            folders.iter().map(|folder| folder.display().to_string()).collect()
        })
        .clone()
}

fn folders() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = variable("SEGFACE_NVRTC").into_iter().collect();
    let toolkits = [variable("CUDA_HOME"), variable("CUDA_PATH"), Some("/usr/local/cuda".into())];
    folders.extend(toolkits.into_iter().flatten().map(|root| root.join("lib64")));
    // Wheels of `pip install nvidia-cuda-nvrtc` in the active virtual environment or the user's own packages.
    let roots = [variable("VIRTUAL_ENV"), std::env::home_dir().map(|home| home.join(".local"))];
    for root in roots.into_iter().flatten() {
        let pattern = root.join("lib/python3*/site-packages/nvidia/c*/lib");
        let found = pattern.to_str().and_then(|pattern| glob::glob(pattern).ok());
        folders.extend(found.into_iter().flatten().flatten());
    }
    folders
}

/// Whether the folder holds NVRTC and it could be loaded.
fn load_from(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let name = |path: &PathBuf| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| {
        let name = name(path);
        name.starts_with("libnvrtc") && name.contains(".so.") && !name.contains(".alt.")
    });
    files.sort_by_key(|path| (!name(path).contains("builtins"), name(path)));
    let mut loaded = false;
    for file in &files {
        // SAFETY: NVRTC's initialisers do nothing that could harm this process.
        match unsafe { libloading::Library::new(file) } {
            Ok(library) => {
                // It stays for the life of the process.
                std::mem::forget(library);
                loaded |= !name(file).contains("builtins");
            }
            Err(error) => tracing::debug!("{}: {error}", file.display()),
        }
    }
    loaded
}

/// Where results are kept.
pub(super) fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("SEGFACE_CACHE") {
        return (!folder.is_empty()).then(|| PathBuf::from(folder));
    }
    let root = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let folder = root.or_else(|| Some(std::env::home_dir()?.join(".cache")))?.join("segface/kernels");
    std::fs::create_dir_all(&folder).is_ok().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_read_from_the_log_of_the_assembler() {
        let log = "ptxas info    : Compiling entry function 'k' for 'sm_80'\nptxas info    : Function properties for k\n    \
                   8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\nptxas info    : Used 77 registers, used 1 \
                   barriers, 256 bytes smem, 400 bytes cmem[0]\n";
        assert_eq!(Resources::read(log), Some(Resources { registers: 77, spilled: 28, stack: 8, static_shared: 256 }));
        assert_eq!(Resources::read("nothing"), None);
    }
}

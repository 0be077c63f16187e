//! NVRTC, loaded when a CUDA source is to be compiled.

use crate::{Compiler, Failure};
use libloading::{Library, Symbol};
use std::{
    ffi::{CString, c_char, c_int},
    path::{Path, PathBuf},
    ptr,
};

/// Names it goes by.
const NAMES: [&str; 4] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2"];

/// NVRTC, and where it was found.
pub(crate) struct Nvrtc {
    library: Library,
    /// Its builtins must be loaded before it where it has no run path of its own.
    _builtins: Option<Library>,
    pub(crate) place: PathBuf,
}

type Handle = *mut std::ffi::c_void;
type Text = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;

impl Nvrtc {
    /// Looks in `folder`, else where the loader looks.
    pub(crate) fn find(folder: Option<&Path>) -> Result<Self, Failure> {
        let mut builtins = None;
        if let Some(folder) = folder {
            let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            let file = entries.flatten().map(|entry| entry.path()).find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                name.starts_with("libnvrtc-builtins.so") && !name.contains(".alt.")
            });
            // SAFETY: NVIDIA's library; its initialisers do nothing but set up the library.
            builtins = file.and_then(|file| unsafe { Library::new(file) }.ok());
        }
        for name in NAMES {
            let place = folder.map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
            // SAFETY: as above.
            if let Ok(library) = unsafe { Library::new(&place) } {
                return Ok(Self { library, _builtins: builtins, place });
            }
        }
        let place = folder.map_or("the loader's places".to_owned(), |folder| folder.display().to_string());
        Err(format!(
            "no libnvrtc.so in {place}: a .cu file needs it. It comes with the CUDA toolkit and with `pip install \
             nvidia-cuda-nvrtc`; name its folder with --nvrtc, or compile to .ptx yourself"
        )
        .into())
    }

    fn symbol<T>(&self, name: &str) -> Result<Symbol<'_, T>, Failure> {
        // SAFETY: the types below are those of NVRTC's documentation.
        unsafe { self.library.get(name.as_bytes()) }
            .map_err(|_| format!("{} has no {name}: is it NVRTC?", self.place.display()).into())
    }

    /// Its version.
    pub(crate) fn version(&self) -> Result<(i32, i32), Failure> {
        let version: Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> = self.symbol("nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two integers to write to.
        unsafe { version(&mut major, &mut minor) };
        Ok((major, minor))
    }

    /// PTX of the CUDA source in `file`.
    pub(crate) fn compile(&self, source: &str, file: &Path, compiler: &Compiler) -> Result<String, Failure> {
        type Create = unsafe extern "C" fn(
            *mut Handle,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
        let create: Symbol<'_, Create> = self.symbol("nvrtcCreateProgram")?;
        let compile: Symbol<'_, Compile> = self.symbol("nvrtcCompileProgram")?;
        let destroy: Symbol<'_, unsafe extern "C" fn(*mut Handle) -> c_int> = self.symbol("nvrtcDestroyProgram")?;

        let mut options = vec![
            format!("--gpu-architecture={}", compiler.arch),
            "--std=c++17".to_owned(),
            "--generate-line-info".to_owned(),
        ];
        let beside = file.parent().map(|folder| Path::new(".").join(folder));
        let folders = compiler.include.iter().cloned().chain(beside).chain(headers(compiler.nvrtc.as_deref()));
        options.extend(folders.map(|folder| format!("--include-path={}", folder.display())));
        options.extend(compiler.nvrtc_option.iter().cloned());
        let options = options.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let (source, name) = (CString::new(source)?, CString::new(file.display().to_string())?);
        let mut handle: Handle = ptr::null_mut();
        // SAFETY: all strings outlive the calls, and the handle is the library's own.
        unsafe {
            if create(&mut handle, source.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null()) != 0 {
                return Err("NVRTC cannot create a program".into());
            }
            let failed = compile(handle, pointers.len() as c_int, pointers.as_ptr()) != 0;
            let text = if failed {
                self.text(handle, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
            } else {
                self.text(handle, "nvrtcGetPTXSize", "nvrtcGetPTX")
            };
            destroy(&mut handle);
            if failed { Err(format!("NVRTC refuses the source:\n{}", text?).into()) } else { text }
        }
    }

    /// # Safety
    /// `handle` must be a program of this library.
    unsafe fn text(&self, handle: Handle, size: &str, get: &str) -> Result<String, Failure> {
        let (size, get): (Symbol<'_, Size>, Symbol<'_, Text>) = (self.symbol(size)?, self.symbol(get)?);
        let mut bytes = 0;
        // SAFETY: the caller's contract; the buffer has the size that the library asks for.
        let text = unsafe {
            size(handle, &mut bytes);
            let mut text = vec![0u8; bytes];
            get(handle, text.as_mut_ptr().cast());
            text
        };
        Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
    }
}

/// Folders of the toolkit's headers (`cuda_fp16.h`, `cooperative_groups.h`), beside NVRTC as the toolkit and pip have them, or where the
/// toolkit usually is.
fn headers(nvrtc: Option<&Path>) -> Vec<PathBuf> {
    let beside = ["../include", "../../include", "../../cuda_runtime/include", "../../cuda_cccl/include"];
    let mut folders: Vec<PathBuf> = nvrtc.iter().flat_map(|folder| beside.map(|path| folder.join(path))).collect();
    folders.extend(std::env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("include")));
    folders.push("/usr/local/cuda/include".into());
    folders.retain(|folder| folder.is_dir());
    folders
}

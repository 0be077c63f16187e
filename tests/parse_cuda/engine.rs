//! Engine files, whole and with faults planted in their code.

use segface::engine::cuda::{Compiler, CudaFile, Image};
use segface::parser::Request;
use segface_codegen::cuda::{Kernel, image_kernels};
use segface_codegen::plan::Precision;
use segface_kernels::DType;
use segface_kernels::image::cuda::Kernel as ImageKernel;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The demonstration network for any card, at 64x64 in f32.
pub(crate) fn whole() -> &'static CudaFile {
    static FILE: OnceLock<CudaFile> = OnceLock::new();
    FILE.get_or_init(|| {
        let request = Request { size: Some([64, 64]), precision: Some(Precision::F32), ..Request::default() };
        let program = request.program().expect("it compiles");
        CudaFile::compile(program, &[]).expect("`cargo xtask test` provides a compiler")
    })
}

/// Writes a file's changed copy.
pub(crate) fn changed(folder: &Path, change: impl FnOnce(&mut CudaFile)) -> PathBuf {
    let mut file = whole().clone();
    change(&mut file);
    let path = folder.join("changed.engine");
    file.save(&path, true).expect("it can be written");
    path
}

/// The file's only code, and where the kernel lies in it that every photo runs once.
fn regions(file: &CudaFile) -> (Vec<Image>, usize) {
    let images = file.images[0].1.clone();
    let entry = format!(".entry {}", ImageKernel::ClassRegions.name());
    let is_it = |image: &Image| matches!(image, Image::Ptx(text) if text.contains(&entry));
    let index = images.iter().position(is_it).expect("an engine file has the kernels of photos");
    (images, index)
}

/// Adds code for cards of `target` whose launch number `launch` (from 0) and all later ones read where nothing is.
pub(crate) fn faulty_from(file: &mut CudaFile, target: &str, launch: usize) {
    let [kernel] = &image_kernels(&[ImageKernel::ClassRegions], DType::F32, 19)[..] else { panic!("one kernel") };
    let body = kernel.source.rfind("{\n").expect("a kernel has a body") + 2;
    let fault = format!(
        "    if (blockIdx.x == 0 && threadIdx.x == 0 && atomicAdd(&launches, 1u) >= {launch}u) \
         regions[0] = *reinterpret_cast<const u32 *>(64);\n"
    );
    let begin = kernel.source.find("extern \"C\"").expect("a kernel has a head");
    let (head, rest) = kernel.source.split_at(body);
    let source = format!("{}__device__ u32 launches = 0;\n{}{fault}{rest}", &head[..begin], &head[begin..]);
    let kernel = Kernel { source, ..kernel.clone() };
    let compiled = Compiler::find().and_then(|compiler| compiler.compile(&[kernel], target));
    let (mut images, index) = regions(file);
    images[index] = compiled.expect("it compiles").remove(0);
    file.images.push((target.into(), images));
}

/// A place for an engine file.
pub(crate) fn saved(folder: &Path) -> PathBuf {
    let path = folder.join("whole.engine");
    whole().save(&path, true).expect("it can be written");
    path
}

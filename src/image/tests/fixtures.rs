//! Fixtures of the tests: what OpenCV, Pillow and the published loaders made of the same files.

use safetensors::{Dtype, SafeTensors};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A path below `fixtures/`.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A tensor: its shape and its values.
pub(super) struct Tensor<T> {
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<T>,
}

/// Tensors of a safetensors file.
pub(super) struct Tensors(Vec<u8>);

impl Tensors {
    pub(super) fn open(name: &str) -> Tensors {
        Tensors(fs::read(path(name)).unwrap())
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file().names().into_iter().map(String::from).collect();
        names.sort();
        names
    }

    pub(super) fn u8(&self, name: &str) -> Tensor<u8> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::U8, "{name}");
        Tensor { shape: tensor.shape().to_vec(), data: tensor.data().to_vec() }
    }

    pub(super) fn f32(&self, name: &str) -> Tensor<f32> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        let (words, _) = tensor.data().as_chunks::<4>();
        Tensor { shape: tensor.shape().to_vec(), data: words.iter().map(|w| f32::from_le_bytes(*w)).collect() }
    }
}

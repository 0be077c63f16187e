//! What the published loaders made of the same inputs.

#![allow(dead_code, reason = "each test program uses its part of it")]

use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// A tensor file of `fixtures/pipeline`.
pub(crate) struct Case(Vec<u8>);

impl Case {
    pub(crate) fn open(name: &str) -> Case {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pipeline").join(name);
        Case(std::fs::read(path).unwrap())
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), dtype, "{name}");
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    pub(crate) fn u8(&self, name: &str) -> (Vec<usize>, Vec<u8>) {
        self.tensor(name, Dtype::U8)
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.tensor(name, Dtype::F32).1.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }

    pub(crate) fn f64(&self, name: &str) -> Vec<f64> {
        self.tensor(name, Dtype::F64).1.as_chunks::<8>().0.iter().map(|word| f64::from_le_bytes(*word)).collect()
    }

    /// `[3, H, W]` as `[H, W, 3]`.
    pub(crate) fn channels_last(&self, name: &str) -> Vec<f32> {
        let planes = self.f32(name);
        let pixels = planes.len() / 3;
        (0..planes.len()).map(|i| planes[i % 3 * pixels + i / 3]).collect()
    }

    /// Labels stored as floats.
    pub(crate) fn labels(&self, name: &str) -> Vec<u8> {
        self.f32(name).iter().map(|&label| label as u8).collect()
    }
}

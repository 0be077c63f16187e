//! Memory that others hold, as libtorch's tensors.

use super::super::Entry;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// The f32 at `values` as a tensor, row-major.
///
/// # Safety
/// As many as the shape says lie there, for as long as the tensor or anything computed from it is used; what libtorch writes to, nobody else
/// uses at that time.
pub(super) unsafe fn view(values: *mut f32, shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    // SAFETY: the caller's promise.
    unsafe { Tensor::from_blob(values.cast_const().cast(), &shape, &strides, Kind::Float, Device::Cpu) }
}

/// Views of tensors of a layout by name, with gradients where they are trained.
///
/// # Safety
/// As [`view`], of both arrays.
pub(super) unsafe fn tensors<'e>(
    entries: impl Iterator<Item = &'e Entry>,
    parameters: *mut f32,
    buffers: *mut f32,
) -> BTreeMap<String, Tensor> {
    let tensor = |entry: &Entry| {
        let parameter = entry.role == super::super::Role::Parameter;
        let array = if parameter { parameters } else { buffers };
        // SAFETY: the caller's promise.
        let tensor = unsafe { view(array.add(entry.range.start), &entry.shape) };
        (entry.name.clone(), tensor.set_requires_grad(parameter && entry.trained))
    };
    entries.map(tensor).collect()
}

/// A map [N, h, w, C] as libtorch takes it, [N, C, h, w], where it lies.
pub(super) fn channels_first(map: &Tensor) -> Tensor {
    map.permute([0, 3, 1, 2])
}

/// The other way.
pub(super) fn channels_last(map: &Tensor) -> Tensor {
    map.permute([0, 2, 3, 1])
}

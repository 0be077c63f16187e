//! One tensor of a checkpoint: its type, its shape and its bytes, wherever those lie.

use bytemuck::Pod;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE double precision.
    F64,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an IEEE single.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, zero or one.
    Bool,
}

impl DType {
    /// Every element type, each once.
    pub const ALL: [DType; 10] = [
        DType::F64,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U8,
        DType::Bool,
    ];

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 | DType::I16 => 2,
            DType::I8 | DType::U8 | DType::Bool => 1,
        }
    }

    /// Whether it is one of the floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
    }

    /// The name safetensors files use, e.g. `F32`.
    pub fn safetensors_name(self) -> &'static str {
        match self {
            DType::F64 => "F64",
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            DType::I64 => "I64",
            DType::I32 => "I32",
            DType::I16 => "I16",
            DType::I8 => "I8",
            DType::U8 => "U8",
            DType::Bool => "BOOL",
        }
    }
}

impl fmt::Display for DType {
    /// The field's name for it, e.g. `float32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::I16 => "int16",
            DType::I8 => "int8",
            DType::U8 => "uint8",
            DType::Bool => "bool",
        })
    }
}

/// Bytes that are shared between tensors: a mapped file, the program's own read-only data, or memory.
#[derive(Clone)]
pub(crate) enum Bytes {
    /// A file mapped into memory.
    Mapped(Arc<memmap2::Mmap>),
    /// Data inside the executable.
    Static(&'static [u8]),
    /// Memory of ours.
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// A tensor in row-major order, little-endian. Cloning shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
    range: Range<usize>,
}

impl Tensor {
    /// A view of `range` in `bytes`. `None` when the range is not inside or not exactly as long as the shape asks.
    pub(crate) fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes, range: Range<usize>) -> Option<Tensor> {
        let wanted = byte_len(dtype, &shape)?;
        let found = bytes.as_slice().get(range.clone())?.len();
        (wanted == found).then_some(Tensor { dtype, shape, bytes, range })
    }

    /// Lets the system take back the memory of a mapped tensor; it is read from the file again when it is used again.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // SAFETY: the mapping is read-only and backed by its file, so that dropped pages come back with the same bytes.
            // That the advice may fail, or reach a neighbour on the same page, does not matter.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }

    /// A tensor of these bytes (row-major, little-endian); `None` when there are not as many as the shape asks.
    pub fn from_bytes(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Option<Tensor> {
        let range = 0..bytes.len();
        Tensor::new(dtype, shape, Bytes::Owned(Arc::new(bytes)), range)
    }

    /// A float32 tensor of these values in row-major order; `None` when there are not as many as the shape asks.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Option<Tensor> {
        Tensor::from_bytes(DType::F32, shape, bytemuck::cast_slice(values).to_vec())
    }

    /// Element type as stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The stored bytes: row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes.as_slice()[self.range.clone()]
    }

    /// The values as f32, in row-major order: borrowed where they are stored so and aligned, else converted.
    /// float64 and integers are rounded to the nearest f32.
    pub fn values(&self) -> Cow<'_, [f32]> {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => match bytemuck::try_cast_slice(bytes) {
                Ok(values) => Cow::Borrowed(values),
                Err(_) => Cow::Owned(collect(bytes)),
            },
            DType::F16 => {
                let halves: Vec<f16> = collect(bytes);
                let mut values = vec![0.0; halves.len()];
                halves.convert_to_f32_slice(&mut values);
                Cow::Owned(values)
            }
            DType::BF16 => convert::<bf16>(bytes, bf16::to_f32),
            DType::F64 => convert::<f64>(bytes, |v| v as f32),
            DType::I64 => convert::<i64>(bytes, |v| v as f32),
            DType::I32 => convert::<i32>(bytes, |v| v as f32),
            DType::I16 => convert::<i16>(bytes, f32::from),
            DType::I8 => convert::<i8>(bytes, f32::from),
            DType::U8 => convert::<u8>(bytes, f32::from),
            DType::Bool => convert::<u8>(bytes, |v| f32::from(u8::from(v != 0))),
        }
    }

    /// The same values stored in another floating-point type, rounded to nearest even.
    pub(crate) fn to_float(&self, dtype: DType) -> Tensor {
        if dtype == self.dtype {
            return self.clone();
        }
        let values = self.values();
        let bytes: Vec<u8> = match dtype {
            DType::F32 => bytemuck::cast_slice(&values).to_vec(),
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            other => unreachable!("weights are never written as {other}"),
        };
        let range = 0..bytes.len();
        Tensor { dtype, shape: self.shape.clone(), bytes: Bytes::Owned(Arc::new(bytes)), range }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.dtype, self.shape)
    }
}

/// Bytes a tensor takes, or `None` if that overflows.
pub(crate) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent))
}

/// Bytes of any alignment as numbers.
fn collect<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut values = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut values).copy_from_slice(bytes);
    values
}

fn convert<T: Pod>(bytes: &[u8], to_f32: impl Fn(T) -> f32) -> Cow<'static, [f32]> {
    Cow::Owned(bytes.chunks_exact(size_of::<T>()).map(|c| to_f32(bytemuck::pod_read_unaligned(c))).collect())
}

/// `16x3x3x3`, or `scalar`.
pub(crate) fn shape_name(shape: &[usize]) -> String {
    if shape.is_empty() {
        return "scalar".into();
    }
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, bytes: &[u8]) -> Tensor {
        Tensor::from_bytes(dtype, vec![bytes.len() / dtype.size()], bytes.to_vec()).unwrap()
    }

    #[test]
    fn every_element_type_is_read_as_f32() {
        let halves = [f16::from_f32(1.5), f16::from_f32(-0.25)];
        assert_eq!(*tensor(DType::F16, bytemuck::cast_slice(&halves)).values(), [1.5, -0.25]);
        let brains = [bf16::from_f32(3.0), bf16::from_f32(-1e30)];
        assert_eq!(*tensor(DType::BF16, bytemuck::cast_slice(&brains)).values(), brains.map(f32::from));
        assert_eq!(*tensor(DType::F32, bytemuck::cast_slice(&[0.1f32, 7.0])).values(), [0.1, 7.0]);
        assert_eq!(*tensor(DType::F64, bytemuck::cast_slice(&[0.1f64, -2.0])).values(), [0.1, -2.0]);
        assert_eq!(*tensor(DType::I64, bytemuck::cast_slice(&[-3i64, 1 << 40])).values(), [-3.0, (1u64 << 40) as f32]);
        assert_eq!(*tensor(DType::I32, bytemuck::cast_slice(&[-70_000i32])).values(), [-70_000.0]);
        assert_eq!(*tensor(DType::I16, bytemuck::cast_slice(&[-300i16])).values(), [-300.0]);
        assert_eq!(*tensor(DType::I8, &[0xff, 5]).values(), [-1.0, 5.0]);
        assert_eq!(*tensor(DType::U8, &[0xff, 5]).values(), [255.0, 5.0]);
        assert_eq!(*tensor(DType::Bool, &[0, 1]).values(), [0.0, 1.0]);
    }

    #[test]
    fn misaligned_float32_is_copied_not_refused() {
        let mut bytes = vec![0u8; 1];
        bytes.extend_from_slice(bytemuck::cast_slice(&[1.0f32, 2.0, 3.0]));
        let shared = Bytes::Owned(Arc::new(bytes));
        for start in [0, 1] {
            let view = Tensor::new(DType::F32, vec![3], shared.clone(), start..start + 12).unwrap();
            assert_eq!(view.values().len(), 3);
        }
        let view = Tensor::new(DType::F32, vec![3], shared, 1..13).unwrap();
        assert_eq!(*view.values(), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn views_outside_the_bytes_or_of_the_wrong_length_do_not_exist() {
        let shared = Bytes::Static(&[0; 16]);
        assert!(Tensor::new(DType::F32, vec![4], shared.clone(), 0..16).is_some());
        assert!(Tensor::new(DType::F32, vec![4], shared.clone(), 4..20).is_none());
        assert!(Tensor::new(DType::F32, vec![3], shared.clone(), 0..16).is_none());
        assert!(Tensor::new(DType::F32, vec![usize::MAX, 4], shared.clone(), 0..16).is_none());
        assert!(Tensor::new(DType::F32, vec![usize::MAX, 0], shared, 0..0).is_none());
    }
}

//! What a pickle of a checkpoint is made of: a closed list of globals, values, objects.

use crate::weights::DType;

/// The Python objects a pickle may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// `collections.OrderedDict`: state dicts.
    OrderedDict,
    /// `collections.Counter`: the milestones of a MultiStepLR scheduler.
    Counter,
    /// `torch._utils._rebuild_tensor_v2`
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`
    RebuildParameter,
    /// `torch.FloatStorage` and its kin.
    Storage(DType),
    /// `torch.Size`
    Size,
    /// `torch.device`
    Device,
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("collections", "Counter") => Global::Counter,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "DoubleStorage") => Global::Storage(DType::F64),
            ("torch", "FloatStorage") => Global::Storage(DType::F32),
            ("torch", "HalfStorage") => Global::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Global::Storage(DType::BF16),
            ("torch", "LongStorage") => Global::Storage(DType::I64),
            ("torch", "IntStorage") => Global::Storage(DType::I32),
            ("torch", "ShortStorage") => Global::Storage(DType::I16),
            ("torch", "CharStorage") => Global::Storage(DType::I8),
            ("torch", "ByteStorage") => Global::Storage(DType::U8),
            ("torch", "BoolStorage") => Global::Storage(DType::Bool),
            ("torch", "Size") => Global::Size,
            ("torch", "device") => Global::Device,
            _ => return None,
        })
    }
}

/// A stack slot: a small value, or the index of an object in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// A Python int that fits.
    Int(i64),
    /// None, a bool, a float, or an int that does not fit: nothing a tensor is made of.
    Other,
    /// An object of the arena.
    Object(u32),
}

/// What the arena holds.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Str(&'a str),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// A dict, OrderedDict or Counter, in order of insertion; a later entry of the same key counts.
    Dict(Vec<(Value, Value)>),
    Global(Global),
    Storage(Storage<'a>),
    /// Boxed, so that the many small objects stay small.
    Tensor(Box<TensorView<'a>>),
    /// A set, bytes, a device: carried, never looked into.
    Opaque,
}

/// A run of elements in a record of its own, which tensors view.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    pub(super) dtype: DType,
    /// Name of the record, under `data/`.
    pub(super) key: &'a str,
    /// Number of elements.
    pub(super) len: usize,
}

/// A tensor as `torch` stores it: a strided view of a storage. The view is inside the storage.
#[derive(Debug, Clone)]
pub(super) struct TensorView<'a> {
    pub(super) storage: Storage<'a>,
    /// In elements.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements, one per dimension.
    pub(super) strides: Vec<usize>,
}

/// What a pickle describes.
pub(super) struct Unpickled<'a> {
    pub(super) root: Value,
    pub(super) objects: Vec<Object<'a>>,
}

impl<'a> Unpickled<'a> {
    /// The object behind a value, if it is one.
    pub(super) fn object(&self, value: Value) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index as usize),
            _ => None,
        }
    }

    /// The entries of a dict, if it is one.
    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.object(value) {
            Some(Object::Dict(entries)) => Some(entries),
            _ => None,
        }
    }

    /// The text of a string, if it is one.
    pub(super) fn text(&self, value: Value) -> Option<&'a str> {
        match self.object(value) {
            Some(Object::Str(text)) => Some(text),
            _ => None,
        }
    }
}

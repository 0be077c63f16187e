//! A virtual machine for the pickles that `torch.save` writes.
//!
//! A pickle is a program; Python's own machine lets it call anything importable. This one knows the opcodes of protocols 2
//! to 5 and a closed list of globals ([`Global`]): it can build containers, strings, numbers and *descriptions* of tensors.
//! Everything else is refused by name.
//!
//! Memory: every opcode makes at most one object, which holds either a slice of the pickle or references that were on the
//! stack, so memory is linear in the pickle's length, at most about 100 bytes per byte of it ([`MAX_PICKLE`]). Objects live in one arena and refer to each other
//! by index, so neither deep nesting nor cycles cost stack space or are ever followed.

use super::object::{Global, Object, Storage, TensorView, Unpickled, Value};
use std::collections::HashMap;

/// Longest pickle that is read. That of the network with most tensors (EfficientNet) and its optimizer state has 0.33 MB.
pub(super) const MAX_PICKLE: usize = 8 << 20;

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 16;

/// Why a pickle was not read.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// It asks for a Python object outside the closed list. A checkpoint needs none of those; this may be an attack.
    #[error(
        "its pickle asks for the Python object `{name}` (at byte {offset}), which no checkpoint needs and which could run \
         arbitrary code; nothing was run. If you trust the file, load it in Python and save only its state dict"
    )]
    Forbidden {
        /// `module.name`
        name: String,
        /// Where in the pickle.
        offset: usize,
    },
    /// It is damaged, or uses the format in a way `torch.save` does not.
    #[error("its pickle is damaged or was not written by torch.save: {reason} (at byte {offset})")]
    Malformed {
        /// What is wrong.
        reason: String,
        /// Where in the pickle.
        offset: usize,
    },
}

/// Runs a pickle to its end.
pub(super) fn unpickle(bytes: &[u8]) -> Result<Unpickled<'_>, PickleError> {
    let mut vm = Machine {
        bytes,
        at: 0,
        op_at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
    };
    if bytes.len() > MAX_PICKLE {
        return Err(vm.malformed(format!("it has {} bytes, more than {MAX_PICKLE}", bytes.len())));
    }
    let root = vm.run()?;
    Ok(Unpickled { root, objects: vm.objects })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the current opcode starts.
    op_at: usize,
    stack: Vec<Value>,
    /// Heights of the stack at each MARK that is still open.
    marks: Vec<usize>,
    /// A map, not a table: a pickle chooses the indices.
    memo: HashMap<u64, Value>,
    objects: Vec<Object<'a>>,
}

type Step<T = ()> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    fn malformed(&self, reason: impl Into<String>) -> PickleError {
        PickleError::Malformed { reason: reason.into(), offset: self.op_at }
    }

    fn run(&mut self) -> Step<Value> {
        if self.bytes.first() != Some(&0x80) {
            return Err(self.malformed("it does not start with a protocol of 2 or later"));
        }
        loop {
            self.op_at = self.at;
            let opcode = self.take_array::<1>()?[0];
            match opcode {
                0x80 => match self.take_array::<1>()?[0] {
                    2..=5 => {}
                    other => return Err(self.malformed(format!("protocol {other}, expected 2 to 5"))),
                },
                // FRAME: the length only helps a reader that streams.
                0x95 => {
                    self.take_array::<8>()?;
                }
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    self.pop()?;
                }
                b'1' => {
                    self.pop_mark()?;
                }
                b'2' => {
                    let top = self.pop()?;
                    self.stack.extend([top, top]);
                }
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
                b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(opcode)?,
                b'X' | 0x8c | 0x8d => self.string(opcode)?,
                b'C' | b'B' | 0x8e | 0x96 => self.byte_string(opcode)?,
                b'}' => self.push(Object::Dict(Vec::new())),
                b']' => self.push(Object::List(Vec::new())),
                b')' => self.push(Object::Tuple(Vec::new())),
                0x8f => self.push(Object::Opaque),
                0x85..=0x87 => self.small_tuple(usize::from(opcode - 0x84))?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Object::Tuple(items));
                }
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Object::List(items));
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    let entries = self.pairs(&items)?;
                    self.push(Object::Dict(entries));
                }
                0x91 => {
                    self.pop_mark()?;
                    self.push(Object::Opaque);
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set_items(&items)?;
                }
                0x90 => {
                    self.pop_mark()?;
                    self.expect_top("ADDITEMS", |o| matches!(o, Object::Opaque))?;
                }
                b'c' | b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                    if opcode == b'i' {
                        return Err(self.malformed("opcode INST, which no protocol of 2 or later writes"));
                    }
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Some(module), Some(name)) = (self.text(module), self.text(name)) else {
                        return Err(self.malformed("STACK_GLOBAL of something other than two strings"));
                    };
                    self.global(module, name)?;
                }
                b'R' => self.reduce()?,
                // Attributes of an OrderedDict (a state dict's `_metadata`) say nothing about tensors.
                b'b' => {
                    self.pop()?;
                    self.expect_top("BUILD", |o| matches!(o, Object::Dict(_)))?;
                }
                b'Q' => self.persistent()?,
                b'q' | b'r' | 0x94 => {
                    let index = match opcode {
                        b'q' => u64::from(self.take_array::<1>()?[0]),
                        b'r' => u64::from(u32::from_le_bytes(self.take_array()?)),
                        _ => self.memo.len() as u64,
                    };
                    let top = self.peek()?;
                    self.memo.insert(index, top);
                }
                b'h' | b'j' => {
                    let index = match opcode {
                        b'h' => u64::from(self.take_array::<1>()?[0]),
                        _ => u64::from(u32::from_le_bytes(self.take_array()?)),
                    };
                    let Some(&value) = self.memo.get(&index) else {
                        return Err(self.malformed(format!("memo entry {index} was never written")));
                    };
                    self.stack.push(value);
                }
                other => return Err(self.malformed(format!("opcode 0x{other:02x}, which torch.save does not write"))),
            }
        }
    }

    fn take(&mut self, len: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if len > rest.len() {
            return Err(self.malformed(format!("it ends early: {len} bytes announced, {} left", rest.len())));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn take_array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A length of one, four or eight bytes.
    fn take_len(&mut self, width: usize) -> Step<usize> {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| self.malformed("a length beyond this machine's memory"))
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&b| b == b'\n') else {
            return Err(self.malformed("a name without an end"));
        };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.malformed("a name that is not UTF-8"))
    }

    fn push(&mut self, object: Object<'a>) {
        // One object per opcode at most, and at most MAX_PICKLE opcodes: the index fits.
        self.stack.push(Value::Object(self.objects.len() as u32));
        self.objects.push(object);
    }

    /// Lowest height the stack may be popped to.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn peek(&self) -> Step<Value> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(self.malformed("its stack is empty")),
        }
    }

    fn pop(&mut self) -> Step<Value> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Step<Vec<Value>> {
        let Some(height) = self.marks.pop() else {
            return Err(self.malformed("no MARK is open"));
        };
        Ok(self.stack.split_off(height))
    }

    fn text(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Object(index) => match self.objects.get(index as usize) {
                Some(Object::Str(text)) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object on top of the stack, to be changed in place.
    fn top_object(&mut self) -> Step<&mut Object<'a>> {
        match self.peek()? {
            Value::Object(index) => Ok(&mut self.objects[index as usize]),
            _ => Err(self.malformed("a container was expected on the stack")),
        }
    }

    fn expect_top(&mut self, what: &str, fits: impl Fn(&Object<'a>) -> bool) -> Step {
        if !fits(self.top_object()?) {
            return Err(self.malformed(format!("{what} on an object that takes none")));
        }
        Ok(())
    }

    fn number(&mut self, opcode: u8) -> Step {
        let value = match opcode {
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.take_array()?))),
            b'K' => Value::Int(i64::from(self.take_array::<1>()?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.take_array()?))),
            b'G' => {
                self.take_array::<8>()?;
                Value::Other
            }
            _ => {
                let width = self.take_len(if opcode == 0x8a { 1 } else { 4 })?;
                let digits = self.take(width)?;
                if width > 8 {
                    Value::Other
                } else {
                    // Two's complement: the sign fills the upper bytes.
                    let sign = if digits.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
                    let mut bytes = [sign; 8];
                    bytes[..width].copy_from_slice(digits);
                    Value::Int(i64::from_le_bytes(bytes))
                }
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn string(&mut self, opcode: u8) -> Step {
        let width = match opcode {
            0x8c => 1,
            b'X' => 4,
            _ => 8,
        };
        let len = self.take_len(width)?;
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("a string that is not UTF-8"))?;
        self.push(Object::Str(text));
        Ok(())
    }

    fn byte_string(&mut self, opcode: u8) -> Step {
        let width = match opcode {
            b'C' => 1,
            b'B' => 4,
            _ => 8,
        };
        let len = self.take_len(width)?;
        self.take(len)?;
        self.push(Object::Opaque);
        Ok(())
    }

    fn small_tuple(&mut self, len: usize) -> Step {
        if self.stack.len() < self.floor() + len {
            return Err(self.malformed("its stack is empty"));
        }
        let items = self.stack.split_off(self.stack.len() - len);
        self.push(Object::Tuple(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Step {
        match self.top_object()? {
            Object::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err(self.malformed("APPEND to something that is no list")),
        }
    }

    fn pairs(&self, items: &[Value]) -> Step<Vec<(Value, Value)>> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.malformed("a key without a value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn set_items(&mut self, items: &[Value]) -> Step {
        let pairs = self.pairs(items)?;
        match self.top_object()? {
            Object::Dict(entries) => {
                entries.extend(pairs);
                Ok(())
            }
            _ => Err(self.malformed("SETITEM on something that is no dict")),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Step {
        let Some(global) = Global::find(module, name) else {
            return Err(PickleError::Forbidden { name: format!("{module}.{name}"), offset: self.op_at });
        };
        self.push(Object::Global(global));
        Ok(())
    }

    fn tuple(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Object(index) => match self.objects.get(index as usize) {
                Some(Object::Tuple(items)) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// Calls a global with a tuple of arguments.
    fn reduce(&mut self) -> Step {
        let (args, callee) = (self.pop()?, self.pop()?);
        let Value::Object(callee) = callee else { return Err(self.malformed("REDUCE of something that is no global")) };
        let Object::Global(global) = self.objects[callee as usize] else {
            return Err(self.malformed("REDUCE of something that is no global"));
        };
        let Some(items) = self.tuple(args) else { return Err(self.malformed("REDUCE without a tuple of arguments")) };
        match (global, items) {
            (Global::OrderedDict | Global::Counter, []) => self.push(Object::Dict(Vec::new())),
            // Shared with the argument, never copied: a copy per call would be quadratic in the pickle's length.
            (Global::Counter, &[Value::Object(dict)]) if matches!(self.objects[dict as usize], Object::Dict(_)) => {
                self.stack.push(Value::Object(dict));
            }
            (Global::Size, &[Value::Object(tuple)]) if matches!(self.objects[tuple as usize], Object::Tuple(_)) => {
                self.stack.push(Value::Object(tuple));
            }
            (Global::RebuildParameter, &[Value::Object(data), _, _])
                if matches!(self.objects[data as usize], Object::Tensor(_)) =>
            {
                self.stack.push(Value::Object(data));
            }
            (Global::Device, _) => self.push(Object::Opaque),
            (Global::RebuildTensor, &[storage, offset, shape, strides, _, _, ..]) => {
                let tensor = self.tensor(storage, offset, shape, strides)?;
                self.push(Object::Tensor(Box::new(tensor)));
            }
            _ => return Err(self.malformed(format!("{global:?} called with arguments it does not take"))),
        }
        Ok(())
    }

    fn extents(&self, value: Value) -> Option<Vec<usize>> {
        let items = self.tuple(value).filter(|items| items.len() <= MAX_DIMS)?;
        items
            .iter()
            .map(|item| match item {
                &Value::Int(extent) => usize::try_from(extent).ok(),
                _ => None,
            })
            .collect()
    }

    fn tensor(&self, storage: Value, offset: Value, shape: Value, strides: Value) -> Step<TensorView<'a>> {
        let storage = match storage {
            Value::Object(index) => match self.objects[index as usize] {
                Object::Storage(storage) => storage,
                _ => return Err(self.malformed("a tensor without a storage")),
            },
            _ => return Err(self.malformed("a tensor without a storage")),
        };
        let offset = match offset {
            Value::Int(offset) => usize::try_from(offset).ok(),
            _ => None,
        };
        let (Some(offset), Some(shape), Some(strides)) = (offset, self.extents(shape), self.extents(strides)) else {
            return Err(self.malformed("a tensor whose offset, shape or strides are not counts"));
        };
        if shape.len() != strides.len() {
            return Err(self.malformed("a tensor with more strides than dimensions, or fewer"));
        }
        // One past the last element; an empty tensor has none, wherever it says it starts.
        let end = if shape.contains(&0) {
            Some(0)
        } else {
            shape
                .iter()
                .zip(&strides)
                .try_fold(offset.checked_add(1), |end, (&extent, &stride)| {
                    Some((extent - 1).checked_mul(stride).and_then(|step| end?.checked_add(step)))
                })
                .flatten()
        };
        if end.is_none_or(|end| end > storage.len) {
            return Err(self.malformed(format!(
                "a tensor of shape {shape:?}, strides {strides:?} from element {offset} reaches beyond its storage of {}",
                storage.len
            )));
        }
        // A view that repeats elements (stride 0) could be far larger than the file.
        let len = shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent));
        if len.is_none_or(|len| len > storage.len) {
            return Err(self.malformed(format!(
                "a tensor of shape {shape:?} repeats the elements of a storage of {}; weights do not",
                storage.len
            )));
        }
        Ok(TensorView { storage, offset, shape, strides })
    }

    /// A persistent id: `("storage", torch.FloatStorage, key, device, length)`.
    fn persistent(&mut self) -> Step {
        let id = self.pop()?;
        let storage = match self.tuple(id) {
            Some(&[kind, Value::Object(class), key, _, Value::Int(len)]) if self.text(kind) == Some("storage") => {
                match (&self.objects[class as usize], self.text(key), usize::try_from(len)) {
                    (&Object::Global(Global::Storage(dtype)), Some(key), Ok(len)) => Some(Storage { dtype, key, len }),
                    _ => None,
                }
            }
            _ => None,
        };
        let Some(storage) = storage else { return Err(self.malformed("a persistent id that is no storage")) };
        self.push(Object::Storage(storage));
        Ok(())
    }
}

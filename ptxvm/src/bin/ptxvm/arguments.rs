//! Kernel arguments written on the command line: `f32=1.5`, `i32[1024]=iota`, `u8[]=file.bin`.

use crate::Failure;
use ptxvm::memory::{AllocationKind, Memory};
use std::str::FromStr;

/// Type of a scalar or of an array's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "i8" => Self::I8,
            "u8" => Self::U8,
            "i16" => Self::I16,
            "u16" => Self::U16,
            "i32" => Self::I32,
            "u32" => Self::U32,
            "i64" => Self::I64,
            "u64" => Self::U64,
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    fn encode(self, value: f64) -> Vec<u8> {
        match self {
            Self::I8 => (value as i8).to_le_bytes().to_vec(),
            Self::U8 => (value as u8).to_le_bytes().to_vec(),
            Self::I16 => (value as i16).to_le_bytes().to_vec(),
            Self::U16 => (value as u16).to_le_bytes().to_vec(),
            Self::I32 => (value as i32).to_le_bytes().to_vec(),
            Self::U32 => (value as u32).to_le_bytes().to_vec(),
            Self::I64 => (value as i64).to_le_bytes().to_vec(),
            Self::U64 => (value as u64).to_le_bytes().to_vec(),
            Self::F16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
            Self::Bf16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            Self::F32 => (value as f32).to_le_bytes().to_vec(),
            Self::F64 => value.to_le_bytes().to_vec(),
        }
    }

    fn show(self, bytes: &[u8]) -> String {
        let mut word = [0u8; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(word);
        match self {
            Self::I8 => (bits as i8).to_string(),
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => bits.to_string(),
            Self::I16 => (bits as i16).to_string(),
            Self::I32 => (bits as i32).to_string(),
            Self::I64 => (bits as i64).to_string(),
            Self::F16 => half::f16::from_bits(bits as u16).to_string(),
            Self::Bf16 => half::bf16::from_bits(bits as u16).to_string(),
            Self::F32 => f32::from_bits(bits as u32).to_string(),
            Self::F64 => f64::from_bits(bits).to_string(),
        }
    }
}

/// What an array starts with.
#[derive(Clone, Debug, PartialEq)]
enum Fill {
    Zero,
    Iota,
    Random,
    Value(f64),
    File(String),
}

/// One argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Argument {
    element: Element,
    /// `None`: a scalar. `Some(None)`: an array as long as its file.
    length: Option<Option<usize>>,
    fill: Fill,
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected TYPE=VALUE, TYPE[COUNT]=zero|iota|random|VALUE or TYPE[]=FILE, with TYPE one of i8 u8 i16 u16 \
                        i32 u32 i64 u64 f16 bf16 f32 f64";
        let wrong = || format!("`{text}`: {expected}");
        let (left, right) = text.split_once('=').unwrap_or((text, "zero"));
        let (name, length) = match left.split_once('[') {
            None => (left, None),
            Some((name, count)) => {
                let count = count.strip_suffix(']').ok_or_else(wrong)?;
                let count = if count.is_empty() { None } else { Some(count.parse().map_err(|_| wrong())?) };
                (name, Some(count))
            }
        };
        let element = Element::named(name).ok_or_else(wrong)?;
        let fill = match (right, length) {
            (file, Some(None)) => Fill::File(file.to_owned()),
            ("zero", _) => Fill::Zero,
            ("iota", Some(_)) => Fill::Iota,
            ("random", Some(_)) => Fill::Random,
            (number, _) => Fill::Value(number.parse().map_err(|_| wrong())?),
        };
        Ok(Self { element, length, fill })
    }
}

/// An argument as the kernel gets it.
pub(crate) struct Placed {
    element: Element,
    /// The parameter's bytes.
    pub(crate) bytes: Vec<u8>,
    /// Address and elements, of arrays.
    array: Option<(u64, usize)>,
}

impl Argument {
    /// Makes the value, or the array in device memory.
    pub(crate) fn place(&self, number: usize) -> Result<Placed, Failure> {
        let element = self.element;
        let Some(length) = self.length else {
            let value = match self.fill {
                Fill::Value(value) => value,
                _ => 0.0,
            };
            return Ok(Placed { element, bytes: element.encode(value), array: None });
        };
        let content = match (&self.fill, length) {
            (Fill::File(path), _) => std::fs::read(path).map_err(|error| format!("{path}: {error}"))?,
            (fill, length) => {
                let mut state = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(number as u64 + 1);
                (0..length.unwrap_or(0))
                    .flat_map(|at| {
                        element.encode(match fill {
                            Fill::Iota => at as f64,
                            Fill::Value(value) => *value,
                            Fill::Random => {
                                state = state
                                    .wrapping_mul(6_364_136_223_846_793_005)
                                    .wrapping_add(1_442_695_040_888_963_407);
                                (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
                            }
                            Fill::Zero | Fill::File(_) => 0.0,
                        })
                    })
                    .collect()
            }
        };
        let bytes = content.len().max(1) as u64;
        let label = format!("argument {number}");
        let address = Memory::global().allocate(bytes, 256, AllocationKind::Device, 0, label)?;
        // SAFETY: the allocation was just made with at least that many bytes.
        unsafe { Memory::global().copy(address, content.as_ptr() as u64, content.len() as u64)? };
        let count = content.len() / element.bytes();
        Ok(Placed { element, bytes: address.to_le_bytes().to_vec(), array: Some((address, count)) })
    }
}

impl Placed {
    /// What an array holds; it is freed. `None` for a scalar.
    pub(crate) fn take(&self) -> Result<Option<Vec<u8>>, Failure> {
        let Some((address, count)) = self.array else { return Ok(None) };
        let mut bytes = vec![0u8; count * self.element.bytes()];
        // SAFETY: the buffer has as many bytes as the array.
        unsafe { Memory::global().copy(bytes.as_mut_ptr() as u64, address, bytes.len() as u64)? };
        Memory::global().free(address)?;
        Ok(Some(bytes))
    }

    /// The first elements of an array; `None` for a scalar.
    pub(crate) fn show(&self, most: usize) -> Result<Option<String>, Failure> {
        let Some((address, count)) = self.array else { return Ok(None) };
        let size = self.element.bytes();
        let mut bytes = vec![0u8; count.min(most) * size];
        // SAFETY: the buffer has that many bytes, and the array at least as many.
        unsafe { Memory::global().copy(bytes.as_mut_ptr() as u64, address, bytes.len() as u64)? };
        let mut words: Vec<_> = bytes.chunks_exact(size).map(|word| self.element.show(word)).collect();
        if count > most {
            words.push(format!("… ({count} elements)"));
        }
        Ok(Some(words.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_written() {
        let array = Argument { element: Element::F32, length: Some(Some(8)), fill: Fill::Iota };
        assert_eq!("f32[8]=iota".parse(), Ok(array));
        let scalar = Argument { element: Element::I32, length: None, fill: Fill::Value(-3.0) };
        assert_eq!("i32=-3".parse(), Ok(scalar));
        assert!("f31=2".parse::<Argument>().is_err());
        assert!("f32[x]=zero".parse::<Argument>().is_err());
        assert!("f32=iota".parse::<Argument>().is_err(), "a scalar has no sequence");
    }
}

//! The dotted parts of an opcode, with its types picked out.

use ptxvm::ptx::ast::{Instruction, Type};

use crate::exact::Rounding;

/// What an instruction's modifiers say.
#[derive(Clone, Debug)]
pub(crate) struct Modifiers {
    words: Vec<String>,
    /// The types in the order of the text.
    pub(crate) types: Vec<Type>,
}

impl Modifiers {
    pub(crate) fn of(instruction: &Instruction) -> Self {
        let words = instruction.modifiers.clone();
        let types = words.iter().filter_map(|word| Type::parse(word)).collect();
        Self { words, types }
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|other| other == word)
    }

    /// The first of several words that is there.
    pub(crate) fn first_of<'a>(&self, words: &[&'a str]) -> Option<&'a str> {
        words.iter().copied().find(|word| self.has(word))
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// The last type, which is the instruction's own where there is one only.
    pub(crate) fn ty(&self) -> Option<Type> {
        self.types.last().copied()
    }

    pub(crate) fn rounding(&self) -> Option<Rounding> {
        Some(match self.first_of(&["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"])? {
            "rz" | "rzi" => Rounding::TowardZero,
            "rm" | "rmi" => Rounding::Down,
            "rp" | "rpi" => Rounding::Up,
            "rna" => Rounding::NearestAway,
            _ => Rounding::NearestEven,
        })
    }
}

/// The low `bits` bits.
pub(crate) fn low(value: u128, bits: u32) -> u128 {
    if bits >= 128 { value } else { value & ((1 << bits) - 1) }
}

/// The low `bits` bits read as two's complement.
pub(crate) fn signed(value: u128, bits: u32) -> i128 {
    let unused = 128 - bits;
    ((value << unused) as i128) >> unused
}

/// The low bits read as the integer type says.
pub(crate) fn integer(value: u128, ty: Type) -> i128 {
    if ty.is_signed() { signed(value, ty.bits()) } else { low(value, ty.bits()) as i128 }
}

/// Smallest and largest value of an integer type.
pub(crate) fn limits(ty: Type) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Applies an operation to parts of `bits` bits side by side and packs the results alike.
pub(crate) fn by_parts(parts: u32, bits: u32, arguments: &[u128], mut operation: impl FnMut(&[u128]) -> u128) -> u128 {
    (0..parts).fold(0, |packed, part| {
        let taken: Vec<u128> = arguments.iter().map(|value| low(value >> (part * bits), bits)).collect();
        packed | low(operation(&taken), bits) << (part * bits)
    })
}

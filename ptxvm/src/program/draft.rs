//! Operations of a function before slots are allocated and labels resolved.

use super::Constant;
use crate::{
    machine::op::{Op, Slot},
    ptx::ast::Type,
};

/// A register file is laid out by classes: a slot is never shared between values of different classes, since lane i of
/// a 64-bit register lies where lanes 2i and 2i+1 of a 32-bit one do, and lanes run at different places of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    Word32,
    Word64,
    Word128,
    Predicate,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Word128, Self::Word64, Self::Word32, Self::Predicate];

    pub(crate) fn of(ty: Type) -> Self {
        match ty.bits() {
            128 => Self::Word128,
            64 => Self::Word64,
            _ if ty == Type::Pred => Self::Predicate,
            _ => Self::Word32,
        }
    }

    /// Bytes of one register for all lanes.
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Self::Word32 => 128,
            Self::Word64 => 256,
            Self::Word128 => 512,
            Self::Predicate => 4,
        }
    }
}

/// A virtual register, or a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) class: Class,
    pub(crate) constant: Option<Constant>,
}

/// A place in the function, numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Label(pub(crate) u32);

/// What an operation does to the flow of control.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Control {
    /// Goes on.
    None,
    /// Not an operation: a label.
    Label(Label),
    /// Always to the label.
    Jump(Label),
    /// To the label where the predicate holds, else on.
    Branch(Label),
    /// To one of the table's labels (`Builder::tables`), by index.
    Table(usize),
    /// Ends lanes, or leaves the function.
    End,
    /// A call: goes on behind it, and lanes meet again there.
    Call,
}

/// An operation whose slots are numbers of [`Value`]s.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) op: Op,
    pub(crate) wide: Vec<Slot>,
    pub(crate) reads: Vec<Slot>,
    pub(crate) writes: Vec<Slot>,
    pub(crate) control: Control,
    /// May suspend: a guard must become a branch around it.
    pub(crate) suspends: bool,
    /// Its writes may leave lanes as they were (it is guarded), so they do not end the life of the value before.
    pub(crate) partial: bool,
}

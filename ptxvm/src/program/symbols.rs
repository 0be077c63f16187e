//! Names of a module, and where its variables lie.

use crate::{
    machine::op::Slot,
    ptx::ast::{Initial, Type},
};
use std::collections::HashMap;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Symbol {
    Register {
        slot: Slot,
        ty: Type,
    },
    Vector {
        slots: Vec<Slot>,
        ty: Type,
    },
    /// A shared variable: index into [`VariableLists::shared`] (function scope ones are there too).
    Shared(u32),
    /// A `.global` or `.const` variable: index into [`VariableLists::variables`].
    Variable(u32),
    /// A byte offset into a kernel's parameters.
    KernelParam {
        offset: u32,
    },
    /// Bytes of the frame's local memory.
    Frame {
        offset: u32,
        bytes: u32,
    },
    Label(super::draft::Label),
    /// A `.branchtargets` list.
    Targets(Vec<String>),
    /// A `.callprototype` or `.calltargets`.
    Prototype,
    Function(u32),
}

/// A `.global` or `.const` variable.
#[derive(Clone, Debug)]
pub struct GlobalVariable {
    /// Its name; several modules may each have one of their own of the same name.
    pub name: String,
    /// Number of the module it stands in, among those linked.
    pub module: u32,
    /// Other modules see it.
    pub is_visible: bool,
    /// `.const`: reads only.
    pub is_const: bool,
    /// `.extern`: to be found in another module when linking.
    pub is_extern: bool,
    /// `.attribute(.managed)`.
    pub is_managed: bool,
    /// Size in bytes.
    pub bytes: u64,
    /// Alignment in bytes.
    pub align: u32,
    /// Bytes of one element.
    pub element: u32,
    /// Type of one element.
    pub ty: Type,
    /// Elements; the rest is zero.
    pub initial: Vec<Initial>,
}

/// A `.shared` variable.
#[derive(Clone, Debug)]
pub struct SharedVariable {
    /// Its name.
    pub name: String,
    /// Size in bytes; 0 for `.extern .shared x[]`, which begins where the static ones end.
    pub bytes: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// `.extern`: the launch's dynamic shared memory.
    pub is_dynamic: bool,
}

/// What functions of a module see.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModuleSymbols {
    pub(crate) version: u32,
    pub(crate) target: u32,
    /// The letter of `sm_100a` or `sm_100f`.
    pub(crate) features: Option<char>,
    /// The module's place among those linked.
    pub(crate) number: u32,
    /// What is added to the module's `.file` numbers in the program.
    pub(crate) file_base: u32,
    pub(crate) names: HashMap<String, Symbol>,
}

impl ModuleSymbols {
    /// Whether the target has what only architectures or families from `least` on have: `sm_100a`, `sm_120f`.
    pub(crate) fn has_family_features(&self, least: u32) -> bool {
        self.target >= least && self.features.is_some()
    }
}

/// The variables of all modules and of all functions.
#[derive(Clone, Debug, Default)]
pub(crate) struct VariableLists {
    pub(crate) variables: Vec<GlobalVariable>,
    pub(crate) shared: Vec<SharedVariable>,
}

//! The syntax tree of PTX text: what was written, with names and modifiers as strings, and the line of everything.
//!
//! The tree takes no part in meaning: a modifier that nobody knows is kept here and refused by the decoder of its opcode
//! (`crate::ops`), which is the only place that knows the closed set of what each opcode may carry.

use std::{fmt, sync::Arc};

/// A whole `.ptx` text.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// `.version major.minor`.
    pub version: (u32, u32),
    /// `.target`: the architecture first, e.g. `sm_80`, then options (`debug`, `texmode_unified`).
    pub targets: Vec<String>,
    /// `.address_size`: 64 (32 is refused by the parser).
    pub address_size: u32,
    /// Module-scope variables in the order of the text.
    pub variables: Vec<Variable>,
    /// Functions and kernels, declarations (no body) included, in the order of the text.
    pub functions: Vec<Function>,
    /// `.alias f, g`: the first name stands for the second.
    pub aliases: Vec<(String, String)>,
    /// `.file index "name"`.
    pub files: Vec<(u32, String)>,
}

/// Who sees a symbol of module scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Linkage {
    /// No directive: this module only.
    #[default]
    Private,
    /// `.visible`.
    Visible,
    /// `.extern`: defined elsewhere.
    Extern,
    /// `.weak`.
    Weak,
    /// `.common`.
    Common,
}

/// A state space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// `.reg`.
    Register,
    /// `.sreg`.
    Special,
    /// `.const`.
    Const,
    /// `.global`.
    Global,
    /// `.local`.
    Local,
    /// `.param`.
    Param,
    /// `.shared`.
    Shared,
    /// `.tex` (deprecated; textures are refused at load).
    Texture,
}

/// A fundamental type (`.u32`, `.f16x2`, `.pred`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the PTX type of its name")]
pub enum Type {
    B1,
    B8,
    B16,
    B32,
    B64,
    B128,
    U4,
    U8,
    U16,
    U32,
    U64,
    S4,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    F32,
    F64,
    F32x2,
    Bf16,
    Bf16x2,
    Tf32,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
    E2m1x2,
    E2m3x2,
    E3m2x2,
    Ue8m0x2,
    U16x2,
    S16x2,
    U8x4,
    S8x4,
    Pred,
    Opaque,
}

/// A variable, in any space, at module, function or block scope. Registers are variables of space [`Space::Register`].
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// Its name; the stem of the names where there is a `count`.
    pub name: String,
    /// Who sees it.
    pub linkage: Linkage,
    /// Where it lies.
    pub space: Space,
    /// Type of an element.
    pub ty: Type,
    /// 1, 2 or 4 (`.v2`, `.v4`).
    pub vector: u32,
    /// `.align`, or the natural alignment of the type times the vector.
    pub align: u32,
    /// Array dimensions, outermost first; `None` for `[]`. Empty for a scalar.
    pub dimensions: Vec<Option<u64>>,
    /// `.reg .b32 %r<N>`: N registers `%r0 … %r(N−1)`.
    pub count: Option<u32>,
    /// `= …`, flattened in row-major order; missing elements are zero.
    pub initial: Vec<Initial>,
    /// `.ptr .space .align n` of a kernel parameter: the alignment it promises.
    pub pointer: Option<PointerAttribute>,
    /// `.attribute(.managed)`.
    pub managed: bool,
    /// Line in the PTX text, from 1.
    pub line: u32,
}

/// `.ptr{.space}{.align n}` on a kernel parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointerAttribute {
    /// The space it points to; `None`: generic.
    pub space: Option<Space>,
    /// Alignment of what it points to, in bytes.
    pub align: u32,
}

/// One element of an initialiser.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields of the variants are named by what they hold")]
pub enum Initial {
    /// An integer constant expression, already evaluated.
    Integer(i128),
    /// A floating-point constant (`0f…`, `0d…` or decimal).
    Float(Float),
    /// Address of a variable or function in its own space, plus an offset; with `generic` the generic address;
    /// `mask` is the byte of `mask(symbol)` initialisers (`0xFF(symbol)`), else `None`.
    Address { symbol: String, offset: i64, generic: bool, mask: Option<u64> },
}

/// A floating-point constant with the bits it was written as.
#[derive(Clone, Copy, Debug)]
pub enum Float {
    /// `0f3F800000`.
    Single(u32),
    /// `0d3FF0000000000000`, or a decimal one (which PTX takes as double).
    Double(u64),
}

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Single(a), Self::Single(b)) => a == b,
            (Self::Double(a), Self::Double(b)) => a == b,
            _ => false,
        }
    }
}

impl Float {
    /// The value, converted to double where it was written as single.
    pub fn value(self) -> f64 {
        match self {
            Self::Single(bits) => f64::from(f32::from_bits(bits)),
            Self::Double(bits) => f64::from_bits(bits),
        }
    }
}

/// A `.entry` or `.func`.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Who sees it.
    pub linkage: Linkage,
    /// `.entry`.
    pub is_kernel: bool,
    /// `.noreturn`.
    pub no_return: bool,
    /// `.func (…)`: return parameters (space `Param` or `Register`).
    pub returns: Vec<Variable>,
    /// Formal parameters (space `Param` or `Register`).
    pub params: Vec<Variable>,
    /// `.maxntid x,y,z` (missing dimensions are 1).
    pub max_threads: Option<[u32; 3]>,
    /// `.reqntid x,y,z`.
    pub required_threads: Option<[u32; 3]>,
    /// `.minnctapersm n`.
    pub min_blocks: Option<u32>,
    /// `.maxnreg n`.
    pub max_registers: Option<u32>,
    /// Directives about clusters or anything else kept as text (`.explicitcluster`, `.maxclusterrank 8`, `.blocksareclusters`).
    pub other_directives: Vec<String>,
    /// `None`: a declaration.
    pub body: Option<Block>,
    /// Line in the PTX text, from 1.
    pub line: u32,
}

/// `{ … }`. Registers, variables and labels declared inside are seen inside only.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Block {
    /// In the order of the text.
    pub statements: Vec<Statement>,
}

/// What stands in a block.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields of the variants are named by what they hold")]
pub enum Statement {
    /// `.reg`, `.local`, `.shared`, `.param`, … declarations.
    Variable(Variable),
    /// `name:`.
    Label { name: String, line: u32 },
    /// An instruction.
    Instruction(Instruction),
    /// A nested scope.
    Block(Block),
    /// `name: .branchtargets a, b, c;`
    BranchTargets { name: String, labels: Vec<String>, line: u32 },
    /// `name: .calltargets f, g;`
    CallTargets { name: String, functions: Vec<String>, line: u32 },
    /// `name: .callprototype (…) _ (…);`
    CallPrototype { name: String, returns: Vec<Variable>, params: Vec<Variable>, no_return: bool, line: u32 },
    /// `.loc file line column`: the source position of what follows.
    Location(SourceLine),
    /// `.pragma "…";`
    Pragma(String),
}

/// A position in the CUDA source, from `.loc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceLine {
    /// Index of a `.file`.
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 where it is unknown.
    pub column: u32,
}

/// `@{!}p opcode.modifier.modifier operand, operand;`
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The predicate it runs under.
    pub guard: Option<Guard>,
    /// The part before the first dot: `mad` of `mad.lo.s32`.
    pub opcode: String,
    /// The dotted parts in order, without the dots: `["lo", "s32"]`. `shared::cta` is one modifier.
    pub modifiers: Vec<String>,
    /// In the order of the text. `d|p` is [`Operand::Pair`]. See [`Call`] for `call`.
    pub operands: Vec<Operand>,
    /// For `call` only.
    pub call: Option<Box<Call>>,
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// The `.loc` in force.
    pub source: Option<SourceLine>,
}

/// `@p` or `@!p`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The predicate register.
    pub register: String,
    /// `@!p`.
    pub negated: bool,
}

/// `call{.uni} (returns), target, (arguments), prototype-or-targets;`
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Where results go.
    pub returns: Vec<Operand>,
    /// A function's name, or a register for an indirect call.
    pub target: String,
    /// What it is given.
    pub arguments: Vec<Operand>,
    /// The label of a `.callprototype` or `.calltargets`.
    pub prototype: Option<String>,
}

/// An operand as written. Names are not resolved: a register, a variable, a label and a special register look alike.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields of the variants are named by what they hold")]
pub enum Operand {
    /// `%r1`, `variable`, `$L__BB0_2`, `%tid.x`, `%clock64`, `_` (a sink), `WARP_SZ` is parsed as an integer.
    Name(String),
    /// `-%r1` is not PTX; `!%p1` is (in `setp … , !p`).
    Not(String),
    /// `variable+8`, `variable-4` outside brackets.
    Offset { name: String, offset: i64 },
    /// An integer constant; `unsigned` if it was written with a U or does not fit in i64.
    Integer { value: i128, unsigned: bool },
    /// A floating-point constant.
    Float(Float),
    /// `[…]`.
    Address(Address),
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `a|b`.
    Pair(Box<Operand>, Box<Operand>),
    /// `%v.x` … of a vector register (`component` 0..3).
    Component { name: String, component: u8 },
}

/// `[base+offset]`, `[variable+offset]`, `[immediate]`; a tensor operand `[map, {x, y}]` keeps its extra parts in `rest`.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// Where it starts.
    pub base: AddressBase,
    /// Bytes added.
    pub offset: i64,
    /// Further parts (tensor coordinates).
    pub rest: Vec<Operand>,
}

/// Where an address starts.
#[derive(Clone, Debug, PartialEq)]
pub enum AddressBase {
    /// A register or a variable.
    Name(String),
    /// An absolute address.
    Absolute(u64),
}

impl Type {
    /// The type named by a modifier (`"u32"`), if it names one.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "b1" => Self::B1,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "b128" => Self::B128,
            "u4" => Self::U4,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s4" => Self::S4,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "f32x2" => Self::F32x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "tf32" => Self::Tf32,
            "e4m3" => Self::E4m3,
            "e5m2" => Self::E5m2,
            "e4m3x2" => Self::E4m3x2,
            "e5m2x2" => Self::E5m2x2,
            "e2m1x2" => Self::E2m1x2,
            "e2m3x2" => Self::E2m3x2,
            "e3m2x2" => Self::E3m2x2,
            "ue8m0x2" => Self::Ue8m0x2,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            "u8x4" => Self::U8x4,
            "s8x4" => Self::S8x4,
            "pred" => Self::Pred,
            "texref" | "samplerref" | "surfref" => Self::Opaque,
            _ => return None,
        })
    }

    /// Size in bits: 1 for predicates, 64 for opaque handles.
    pub fn bits(self) -> u32 {
        match self {
            Self::Pred | Self::B1 => 1,
            Self::U4 | Self::S4 => 4,
            Self::B8 | Self::U8 | Self::S8 | Self::E4m3 | Self::E5m2 | Self::E2m1x2 => 8,
            Self::B16
            | Self::U16
            | Self::S16
            | Self::F16
            | Self::Bf16
            | Self::E4m3x2
            | Self::E5m2x2
            | Self::E2m3x2
            | Self::E3m2x2
            | Self::Ue8m0x2 => 16,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::Tf32 => 32,
            Self::F16x2 | Self::Bf16x2 | Self::U16x2 | Self::S16x2 | Self::U8x4 | Self::S8x4 => 32,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 | Self::F32x2 | Self::Opaque => 64,
            Self::B128 => 128,
        }
    }

    /// Size in bytes in memory.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// A signed integer type.
    pub fn is_signed(self) -> bool {
        matches!(self, Self::S4 | Self::S8 | Self::S16 | Self::S32 | Self::S64 | Self::S16x2 | Self::S8x4)
    }

    /// A floating-point type of any width, packed ones included.
    pub fn is_float(self) -> bool {
        matches!(
            self,
            Self::F16 | Self::F16x2 | Self::F32 | Self::F64 | Self::F32x2 | Self::Bf16 | Self::Bf16x2 | Self::Tf32
        )
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

impl Variable {
    /// Elements over all dimensions, times the vector; `None` for an array without a size.
    pub fn elements(&self) -> Option<u64> {
        self.dimensions.iter().try_fold(u64::from(self.vector), |product, size| size.map(|size| product * size))
    }

    /// Size in bytes; `None` for an array without a size (`.extern .shared x[]`).
    pub fn bytes(&self) -> Option<u64> {
        Some(self.elements()? * u64::from(self.ty.bytes()))
    }
}

impl Instruction {
    /// `mad.lo.s32`.
    pub fn full_opcode(&self) -> String {
        let mut text = self.opcode.clone();
        for modifier in &self.modifiers {
            text.push('.');
            text.push_str(modifier);
        }
        text
    }

    /// Whether a modifier is there.
    pub fn has(&self, modifier: &str) -> bool {
        self.modifiers.iter().any(|other| other == modifier)
    }
}

/// A module's text beside its tree, for reports that quote lines.
#[derive(Clone, Debug)]
pub struct Source {
    /// The PTX text.
    pub text: Arc<str>,
    /// The tree.
    pub module: Arc<Module>,
}

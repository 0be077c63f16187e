//! The syntax tree as text again: what [`super::parse`] reads back to an equal tree (but for line numbers).

use std::fmt::{self, Display, Formatter, Write};

use super::ast::{
    Address, AddressBase, Block, Call, Float, Function, Initial, Instruction, Linkage, Module, Operand, Space,
    Statement, Type, Variable,
};

impl Display for Module {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, ".version {}.{}", self.version.0, self.version.1)?;
        writeln!(f, ".target {}", self.targets.join(", "))?;
        writeln!(f, ".address_size {}", self.address_size)?;
        for (index, name) in &self.files {
            writeln!(f, ".file {index} \"{name}\"")?;
        }
        // Names are declared before they are used: variables and functions come in the order of their lines.
        let mut variables = self.variables.iter().peekable();
        for function in &self.functions {
            while let Some(variable) = variables.next_if(|variable| variable.line <= function.line) {
                writeln!(f, "{variable};")?;
            }
            writeln!(f, "{function}")?;
        }
        for variable in variables {
            writeln!(f, "{variable};")?;
        }
        for (alias, aliasee) in &self.aliases {
            writeln!(f, ".alias {alias}, {aliasee};")?;
        }
        Ok(())
    }
}

impl Display for Linkage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "",
            Self::Visible => ".visible ",
            Self::Extern => ".extern ",
            Self::Weak => ".weak ",
            Self::Common => ".common ",
        })
    }
}

impl Display for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => ".reg",
            Self::Special => ".sreg",
            Self::Const => ".const",
            Self::Global => ".global",
            Self::Local => ".local",
            Self::Param => ".param",
            Self::Shared => ".shared",
            Self::Texture => ".tex",
        })
    }
}

/// The declaration without its semicolon, as parameters have none.
impl Display for Variable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.linkage, self.space)?;
        if self.managed {
            f.write_str(" .attribute(.managed)")?;
        }
        if self.align != self.ty.bytes() * self.vector {
            write!(f, " .align {}", self.align)?;
        }
        if self.vector != 1 {
            write!(f, " .v{}", self.vector)?;
        }
        match self.ty {
            Type::Opaque => f.write_str(" .texref")?,
            ty => write!(f, " .{ty}")?,
        }
        if let Some(pointer) = self.pointer {
            f.write_str(" .ptr")?;
            if let Some(space) = pointer.space {
                write!(f, " {space}")?;
            }
            write!(f, " .align {}", pointer.align)?;
        }
        write!(f, " {}", self.name)?;
        if let Some(count) = self.count {
            write!(f, "<{count}>")?;
        }
        for size in &self.dimensions {
            match size {
                Some(size) => write!(f, "[{size}]")?,
                None => f.write_str("[]")?,
            }
        }
        if self.initial.is_empty() {
            return Ok(());
        }
        f.write_str(" = ")?;
        let mut shape = self.dimensions.clone();
        if self.vector != 1 {
            shape.push(Some(self.vector.into()));
        }
        write_initial(f, &self.initial, &shape)
    }
}

/// Initial values with a level of braces for each dimension.
fn write_initial(f: &mut Formatter<'_>, elements: &[Initial], shape: &[Option<u64>]) -> fmt::Result {
    let Some((_, inner)) = shape.split_first() else { return list(f, elements) };
    let stride: u64 = inner.iter().map(|size| size.unwrap_or(1)).product();
    let stride = usize::try_from(stride).unwrap_or(usize::MAX).max(1);
    f.write_char('{')?;
    for (index, row) in elements.chunks(stride).enumerate() {
        f.write_str(if index == 0 { "" } else { ", " })?;
        write_initial(f, row, inner)?;
    }
    f.write_char('}')
}

impl Display for Initial {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(float) => write!(f, "{float}"),
            Self::Address { symbol, offset, generic, mask } => {
                if let Some(mask) = mask {
                    write!(f, "{mask:#X}(")?;
                }
                if *generic {
                    write!(f, "generic({symbol})")?
                } else {
                    f.write_str(symbol)?
                }
                write_offset(f, *offset)?;
                f.write_str(if mask.is_some() { ")" } else { "" })
            }
        }
    }
}

impl Display for Float {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single(bits) => write!(f, "0f{bits:08X}"),
            Self::Double(bits) => write!(f, "0d{bits:016X}"),
        }
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.linkage, if self.is_kernel { ".entry " } else { ".func " })?;
        if !self.returns.is_empty() {
            write_params(f, &self.returns)?;
            f.write_char(' ')?;
        }
        f.write_str(&self.name)?;
        write_params(f, &self.params)?;
        if self.no_return {
            f.write_str(" .noreturn")?;
        }
        for (directive, sizes) in [(".maxntid", self.max_threads), (".reqntid", self.required_threads)] {
            if let Some([x, y, z]) = sizes {
                write!(f, "\n{directive} {x}, {y}, {z}")?;
            }
        }
        for (directive, size) in [(".minnctapersm", self.min_blocks), (".maxnreg", self.max_registers)] {
            if let Some(size) = size {
                write!(f, "\n{directive} {size}")?;
            }
        }
        for directive in &self.other_directives {
            write!(f, "\n{directive}")?;
        }
        match &self.body {
            Some(body) => {
                f.write_char('\n')?;
                write_block(f, body, 0)
            }
            None => f.write_char(';'),
        }
    }
}

fn write_params(f: &mut Formatter<'_>, params: &[Variable]) -> fmt::Result {
    f.write_char('(')?;
    list(f, params)?;
    f.write_char(')')
}

fn write_block(f: &mut Formatter<'_>, block: &Block, depth: usize) -> fmt::Result {
    let margin = depth * 4;
    writeln!(f, "{:margin$}{{", "")?;
    for statement in &block.statements {
        write_statement(f, statement, depth + 1)?;
    }
    write!(f, "{:margin$}}}", "")
}

fn write_statement(f: &mut Formatter<'_>, statement: &Statement, depth: usize) -> fmt::Result {
    if let Statement::Block(block) = statement {
        write_block(f, block, depth)?;
        return f.write_char('\n');
    }
    if !matches!(statement, Statement::Label { .. }) {
        write!(f, "{:width$}", "", width = depth * 4)?;
    }
    match statement {
        Statement::Block(_) => Ok(()),
        Statement::Variable(variable) => writeln!(f, "{variable};"),
        Statement::Label { name, .. } => writeln!(f, "{name}:"),
        Statement::Instruction(instruction) => writeln!(f, "{instruction};"),
        Statement::BranchTargets { name, labels, .. } => writeln!(f, "{name}: .branchtargets {};", labels.join(", ")),
        Statement::CallTargets { name, functions, .. } => writeln!(f, "{name}: .calltargets {};", functions.join(", ")),
        Statement::CallPrototype { name, returns, params, no_return, .. } => {
            write!(f, "{name}: .callprototype ")?;
            write_params(f, returns)?;
            f.write_str(" _ ")?;
            write_params(f, params)?;
            writeln!(f, "{};", if *no_return { " .noreturn" } else { "" })
        }
        Statement::Location(at) => writeln!(f, ".loc {} {} {}", at.file, at.line, at.column),
        Statement::Pragma(text) => writeln!(f, ".pragma \"{text}\";"),
    }
}

/// The instruction without its semicolon.
impl Display for Instruction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(guard) = &self.guard {
            write!(f, "@{}{} ", if guard.negated { "!" } else { "" }, guard.register)?;
        }
        f.write_str(&self.opcode)?;
        for modifier in &self.modifiers {
            write!(f, ".{modifier}")?;
        }
        if !self.operands.is_empty() {
            f.write_char(' ')?;
            list(f, &self.operands)?;
        }
        match &self.call {
            Some(call) => write!(f, " {call}"),
            None => Ok(()),
        }
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.returns.is_empty() {
            f.write_char('(')?;
            list(f, &self.returns)?;
            f.write_str("), ")?;
        }
        f.write_str(&self.target)?;
        if !self.arguments.is_empty() {
            f.write_str(", (")?;
            list(f, &self.arguments)?;
            f.write_char(')')?;
        }
        match &self.prototype {
            Some(prototype) => write!(f, ", {prototype}"),
            None => Ok(()),
        }
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Not(name) => write!(f, "!{name}"),
            Self::Offset { name, offset } => write!(f, "{name}+{offset}"),
            Self::Integer { value, unsigned } => {
                // A value that is unsigned by its size alone reads back so without the suffix.
                write!(f, "{value}{}", if *unsigned { "U" } else { "" })
            }
            Self::Float(float) => write!(f, "{float}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Vector(elements) => {
                f.write_char('{')?;
                list(f, elements)?;
                f.write_char('}')
            }
            Self::Pair(first, second) => write!(f, "{first}|{second}"),
            Self::Component { name, component } => {
                write!(f, "{name}.{}", ["x", "y", "z", "w"][usize::from(*component).min(3)])
            }
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.base {
            AddressBase::Name(name) => write!(f, "[{name}")?,
            AddressBase::Absolute(address) => write!(f, "[{address:#X}")?,
        }
        write_offset(f, self.offset)?;
        for operand in &self.rest {
            write!(f, ", {operand}")?;
        }
        f.write_char(']')
    }
}

fn write_offset(f: &mut Formatter<'_>, offset: i64) -> fmt::Result {
    if offset == 0 { Ok(()) } else { write!(f, "+{offset}") }
}

/// The items with commas between them.
fn list(f: &mut Formatter<'_>, items: &[impl Display]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
    }
    Ok(())
}

//! Declarations of variables, registers and parameters.

use super::super::ast::{Linkage, PointerAttribute, Space, Type, Variable};
use super::super::number::Number;
use super::{MAX_ALIGNMENT, MAX_REGISTERS, MAX_VARIABLE_BYTES, Parsed, Parser, TokenKind};

/// What stands between a space and the names.
#[derive(Clone, Copy)]
struct Attributes {
    ty: Type,
    vector: u32,
    align: u32,
    pointer: Option<PointerAttribute>,
    managed: bool,
}

impl Parser<'_> {
    /// `{.align n}{.v2}.type name, name<9>, name[4] = …, …;`, after the space.
    pub(super) fn variables(&mut self, linkage: Linkage, space: Space, add: &mut dyn FnMut(Variable)) -> Parsed<()> {
        let attributes = self.attributes(false)?;
        loop {
            let mut variable = self.named(attributes, linkage, space)?;
            if self.sees("=") && variable.count.is_none() {
                if !matches!(space, Space::Global | Space::Const) || linkage == Linkage::Extern {
                    let message =
                        "only `.global` and `.const` variables that are not `.extern` can have initial values";
                    return Err(self.error(message));
                }
                self.advance()?;
                self.initial(&mut variable)?;
                self.check_size(&variable)?;
            }
            if linkage != Linkage::Extern && variable.dimensions.iter().any(|size| size.unwrap_or(0) == 0) {
                return Err(self.error(format!("the array `{}` has no size and is not `.extern`", variable.name)));
            }
            match variable.count {
                // Registers are many, and stay one entry.
                Some(count) if space != Space::Register => {
                    self.take_names(count)?;
                    variable.count = None;
                    (0..count).for_each(|index| {
                        add(Variable { name: format!("{}{index}", variable.name), ..variable.clone() })
                    });
                }
                _ => add(variable),
            }
            if !self.accept(",")? {
                return self.expect(";");
            }
        }
    }

    /// A formal parameter, after `.param` or `.reg`.
    pub(super) fn param(&mut self, space: Space) -> Parsed<Variable> {
        let attributes = self.attributes(true)?;
        let variable = self.named(attributes, Linkage::Private, space)?;
        match variable.count {
            Some(_) => Err(self.error("a parameter is one name: write each by itself")),
            None => Ok(variable),
        }
    }

    /// `{.align n}{.attribute(…)}{.v2}.type`, and `.ptr…` after it if that may be.
    fn attributes(&mut self, is_param: bool) -> Parsed<Attributes> {
        let (mut vector, mut align, mut managed) = (1, None, false);
        let ty = loop {
            match self.token.kind {
                TokenKind::Dotted("align") => align = Some(self.align()?),
                TokenKind::Dotted("attribute") => managed |= self.attribute()?,
                TokenKind::Dotted(width @ ("v2" | "v4")) => {
                    vector = if width == "v2" { 2 } else { 4 };
                    self.advance()?;
                }
                TokenKind::Dotted(name) => match Type::parse(name) {
                    Some(ty) if is_fundamental(ty) => break ty,
                    Some(_) => {
                        let message = format!("`.{name}` is a type of instructions: declare bits (`.b16`, `.b32`, …)");
                        return Err(self.error(message));
                    }
                    None => return Err(self.expected("a type, `.align`, `.v2`, `.v4` or `.attribute`")),
                },
                _ => return Err(self.expected("a type (`.b32`, `.f32`, `.pred`, …)")),
            }
        };
        self.advance()?;
        let mut pointer = None;
        if is_param && self.token.kind == TokenKind::Dotted("ptr") {
            pointer = Some(self.pointer()?);
        }
        Ok(Attributes { ty, vector, align: align.unwrap_or(ty.bytes() * vector), pointer, managed })
    }

    /// `.align n`.
    fn align(&mut self) -> Parsed<u32> {
        self.advance()?;
        let token = self.token;
        let align = self.expect_u32("an alignment")?;
        if align.is_power_of_two() && align <= MAX_ALIGNMENT {
            return Ok(align);
        }
        Err(self.error_at(&token, format!("an alignment is a power of two up to {MAX_ALIGNMENT}, found {align}")))
    }

    /// `.ptr{.space}{.align n}`; a pointer that promises nothing is aligned to 4 bytes, says the manual.
    fn pointer(&mut self) -> Parsed<PointerAttribute> {
        self.advance()?;
        let space = match self.token.kind {
            TokenKind::Dotted("const") => Some(Space::Const),
            TokenKind::Dotted("global") => Some(Space::Global),
            TokenKind::Dotted("local") => Some(Space::Local),
            TokenKind::Dotted("shared") => Some(Space::Shared),
            _ => None,
        };
        if space.is_some() {
            self.advance()?;
        }
        let align = if self.token.kind == TokenKind::Dotted("align") { self.align()? } else { 4 };
        Ok(PointerAttribute { space, align })
    }

    /// `.attribute(.managed, .unified(a, b))`: whether `.managed` is there.
    ///
    /// `.unified` only says that the address is the same on all devices, which it always is here.
    pub(super) fn attribute(&mut self) -> Parsed<bool> {
        self.advance()?;
        self.expect("(")?;
        let mut managed = false;
        loop {
            if self.accept_dotted("managed")? {
                managed = true;
            } else if self.accept_dotted("unified")? {
                self.expect("(")?;
                self.constant_integer("the first half of an identifier")?;
                self.expect(",")?;
                self.constant_integer("the second half of an identifier")?;
                self.expect(")")?;
            } else {
                return Err(self.expected("`.managed` or `.unified`"));
            }
            if !self.accept(",")? {
                self.expect(")")?;
                return Ok(managed);
            }
        }
    }

    /// A name with its register count or its dimensions.
    fn named(&mut self, attributes: Attributes, linkage: Linkage, space: Space) -> Parsed<Variable> {
        let line = self.token.line;
        let name = self.expect_word("a name")?.to_owned();
        let Attributes { ty, vector, align, pointer, managed } = attributes;
        let mut variable = Variable {
            name,
            linkage,
            space,
            ty,
            vector,
            align,
            dimensions: Vec::new(),
            count: None,
            initial: Vec::new(),
            pointer,
            managed,
            line,
        };
        let token = self.token;
        variable.count = self.name_count()?;
        if ty == Type::Pred && space != Space::Register {
            return Err(self.error_at(&token, "a predicate is a register"));
        }
        if space == Space::Register {
            let left = self.registers_left.checked_sub(variable.count.unwrap_or(1));
            self.registers_left = left.ok_or_else(|| {
                self.error_at(&token, format!("a function may declare up to {MAX_REGISTERS} registers"))
            })?;
        } else if variable.count.is_none() {
            self.dimensions(&mut variable)?;
        }
        Ok(variable)
    }

    /// `[4][]…`.
    fn dimensions(&mut self, variable: &mut Variable) -> Parsed<()> {
        const MOST: usize = 32;
        while self.accept("[")? {
            if variable.dimensions.len() == MOST {
                return Err(self.error(format!("an array may have up to {MOST} dimensions")));
            }
            let size = if self.sees("]") {
                if !variable.dimensions.is_empty() {
                    return Err(self.expected("a size: only the first dimension may be left open"));
                }
                None
            } else {
                let TokenKind::Number(Number::Integer { value, .. }) = self.token.kind else {
                    return Err(self.expected("the size of an array"));
                };
                self.advance()?;
                Some(value)
            };
            variable.dimensions.push(size);
            self.expect("]")?;
        }
        self.check_size(variable)
    }

    /// Later arithmetic on sizes must not overflow.
    fn check_size(&self, variable: &Variable) -> Parsed<()> {
        let element = u64::from(variable.ty.bytes()) * u64::from(variable.vector);
        let sizes = variable.dimensions.iter().flatten();
        let bytes = sizes.into_iter().try_fold(element, |product, &size| product.checked_mul(size.max(1)));
        match bytes {
            Some(bytes) if bytes <= MAX_VARIABLE_BYTES => Ok(()),
            _ => Err(self.error(format!("`{}` is larger than {MAX_VARIABLE_BYTES} bytes", variable.name))),
        }
    }
}

/// Whether variables can have the type. The others exist for instructions only.
fn is_fundamental(ty: Type) -> bool {
    use Type::*;
    matches!(
        ty,
        B8 | B16
            | B32
            | B64
            | B128
            | U8
            | U16
            | U32
            | U64
            | S8
            | S16
            | S32
            | S64
            | F16
            | F16x2
            | F32
            | F64
            | Pred
            | Opaque
    )
}

//! Variables of modules and functions become symbols with a place.

use super::{
    CompileError, ParamInfo,
    builder::Builder,
    draft::Class,
    symbols::{GlobalVariable, SharedVariable, Symbol, VariableLists},
};
use crate::ptx::ast::{Linkage, Space, Variable};

/// An error about a declaration.
pub(super) fn declaration_error(variable: &Variable, function: &str, reason: impl Into<String>) -> CompileError {
    CompileError {
        line: variable.line,
        function: function.to_owned(),
        opcode: format!("declaration of {}", variable.name),
        reason: reason.into(),
    }
}

fn small(variable: &Variable, function: &str, what: &str) -> Result<u32, CompileError> {
    let bytes =
        variable.bytes().ok_or_else(|| declaration_error(variable, function, "an array needs its size here"))?;
    u32::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 24).ok_or_else(|| {
        declaration_error(variable, function, format!("{bytes} bytes of {what} are more than there are"))
    })
}

/// Puts a module-scope variable, or a function-scope one of the same spaces, into the module's lists.
pub(super) fn module_variable(
    variable: &Variable,
    symbols: &mut VariableLists,
    function: &str,
    module: u32,
) -> Result<Symbol, CompileError> {
    match variable.space {
        Space::Shared => {
            let is_dynamic = variable.linkage == Linkage::Extern;
            let bytes = if is_dynamic { 0 } else { small(variable, function, "shared memory")? };
            symbols.shared.push(SharedVariable {
                name: variable.name.clone(),
                bytes,
                align: variable.align,
                is_dynamic,
            });
            Ok(Symbol::Shared((symbols.shared.len() - 1) as u32))
        }
        Space::Global | Space::Const => {
            let bytes = match variable.bytes() {
                Some(bytes) => bytes,
                None if variable.linkage == Linkage::Extern => 0,
                None => variable.initial.len() as u64 * u64::from(variable.ty.bytes()),
            };
            if bytes > 1 << 40 {
                return Err(declaration_error(variable, function, format!("{bytes} bytes are more than a card has")));
            }
            symbols.variables.push(GlobalVariable {
                name: variable.name.clone(),
                module,
                is_visible: variable.linkage != Linkage::Private,
                is_const: variable.space == Space::Const,
                is_extern: variable.linkage == Linkage::Extern,
                is_managed: variable.managed,
                bytes,
                align: variable.align.max(1),
                element: variable.ty.bytes(),
                ty: variable.ty,
                initial: variable.initial.clone(),
            });
            Ok(Symbol::Variable((symbols.variables.len() - 1) as u32))
        }
        Space::Texture => Err(declaration_error(variable, function, "textures are not modelled")),
        other => Err(declaration_error(variable, function, format!("a variable of space {other:?} cannot stand here"))),
    }
}

/// The layout of a kernel's parameters.
pub(super) fn kernel_params(params: &[Variable], function: &str) -> Result<(Vec<ParamInfo>, u32), CompileError> {
    let mut list = Vec::new();
    let mut end = 0u32;
    for param in params {
        let bytes = small(param, function, "parameters")?;
        let offset = end.next_multiple_of(param.align.max(1));
        end = offset + bytes;
        list.push(ParamInfo { offset, bytes, align: param.align.max(1) });
    }
    if end > 32764 {
        return Err(CompileError {
            line: params.first().map_or(0, |param| param.line),
            function: function.to_owned(),
            opcode: "parameters".to_owned(),
            reason: format!("{end} bytes of kernel parameters, at most 32764 are possible"),
        });
    }
    Ok((list, end))
}

impl Builder<'_> {
    /// Declares a variable inside a function.
    pub(super) fn declare(&mut self, variable: &Variable, extra: &mut VariableLists) -> Result<(), CompileError> {
        let symbol = match variable.space {
            Space::Register => return self.declare_registers(variable),
            Space::Local | Space::Param => {
                let bytes = small(variable, self.function, "local memory")?;
                if variable.space == Space::Local {
                    self.local_variables = self.local_variables.saturating_add(bytes);
                }
                Symbol::Frame { offset: self.reserve_local(bytes, variable.align), bytes }
            }
            Space::Shared | Space::Global | Space::Const => {
                // The lists of the module are shared by its functions: numbers go on behind those of module scope.
                module_variable(variable, extra, self.function, self.module.number)?
            }
            Space::Special | Space::Texture => {
                return Err(declaration_error(variable, self.function, "this space is not modelled"));
            }
        };
        self.insert(variable.name.clone(), symbol);
        Ok(())
    }

    pub(super) fn reserve_local(&mut self, bytes: u32, align: u32) -> u32 {
        let offset = self.local_bytes.next_multiple_of(align.max(1));
        self.local_bytes = offset + bytes;
        self.frame_bytes = self.frame_bytes.max(self.local_bytes);
        offset
    }

    pub(super) fn insert(&mut self, name: String, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, symbol);
        }
    }

    fn declare_registers(&mut self, variable: &Variable) -> Result<(), CompileError> {
        let class = Class::of(variable.ty);
        let ty = variable.ty;
        match (variable.count, variable.vector) {
            (Some(count), 1) => {
                if count > 1 << 20 {
                    return Err(declaration_error(variable, self.function, format!("{count} registers are too many")));
                }
                for number in 0..count {
                    let slot = self.new_value(class);
                    self.insert(format!("{}{number}", variable.name), Symbol::Register { slot, ty });
                }
            }
            (None, 1) => {
                let slot = self.new_value(class);
                self.insert(variable.name.clone(), Symbol::Register { slot, ty });
            }
            (count, vector) => {
                let names = match count {
                    Some(count) if count <= 1 << 18 => {
                        (0..count).map(|number| format!("{}{number}", variable.name)).collect()
                    }
                    Some(count) => {
                        return Err(declaration_error(
                            variable,
                            self.function,
                            format!("{count} registers are too many"),
                        ));
                    }
                    None => vec![variable.name.clone()],
                };
                for name in names {
                    let slots = (0..vector).map(|_| self.new_value(class)).collect();
                    self.insert(name, Symbol::Vector { slots, ty });
                }
            }
        }
        Ok(())
    }
}

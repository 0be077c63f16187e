//! A program on a device: its variables have addresses.

use super::launch::FUNCTION_WINDOW;
use crate::{
    memory::{AllocationKind, Memory, MemoryError},
    program::{GlobalVariable, KernelInfo, Program, symbols::Symbol},
    ptx::ast::{Float, Initial, Type},
};
use std::sync::Arc;
use thiserror::Error;

/// A kernel of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelId(pub(crate) u32);

/// Why a program cannot be put on a device.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No memory for its variables.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An initialiser or an instruction names something that no module defines.
    #[error("`{name}` is declared .extern, and none of the modules linked defines it")]
    Undefined {
        /// The symbol.
        name: String,
    },
}

/// A program whose variables lie in memory.
#[derive(Debug)]
pub struct LoadedModule {
    /// The program.
    pub program: Arc<Program>,
    /// The device it is on.
    pub device: u32,
    pub(crate) addresses: Vec<u64>,
}

impl LoadedModule {
    /// Allocates and initialises the program's variables.
    ///
    /// # Errors
    /// Memory is exhausted, or a symbol is undefined.
    pub fn load(program: Arc<Program>, device: u32) -> Result<Arc<Self>, LoadError> {
        crate::monitor::prepare();
        let mut module = Self { program: program.clone(), device, addresses: Vec::new() };
        for variable in &program.variables {
            if variable.is_extern {
                return Err(LoadError::Undefined { name: variable.name.clone() });
            }
            let kind = match (variable.is_const, variable.is_managed) {
                (true, _) => AllocationKind::ModuleConst,
                (_, true) => AllocationKind::Managed,
                _ => AllocationKind::ModuleGlobal,
            };
            let label = format!("variable {}", variable.name);
            let address =
                Memory::global().allocate(variable.bytes.max(1), variable.align.max(16).into(), kind, device, label)?;
            module.addresses.push(address);
        }
        for (variable, address) in program.variables.iter().zip(&module.addresses) {
            let bytes = module.initial_bytes(variable)?;
            // SAFETY: the allocation was just made with `variable.bytes`, and nobody else knows it.
            unsafe { Memory::global().copy(*address, bytes.as_ptr() as u64, bytes.len() as u64)? };
        }
        Ok(Arc::new(module))
    }

    fn initial_bytes(&self, variable: &GlobalVariable) -> Result<Vec<u8>, LoadError> {
        let mut bytes = vec![0u8; variable.bytes as usize];
        let size = variable.element.max(1) as usize;
        for (element, initial) in bytes.chunks_mut(size).zip(&variable.initial) {
            let value = match initial {
                Initial::Integer(value) => *value as u128,
                Initial::Float(float) => match (variable.ty, float) {
                    (Type::F32, Float::Double(_)) => u128::from((float.value() as f32).to_bits()),
                    (Type::F64, _) => u128::from(float.value().to_bits()),
                    (_, Float::Single(bits)) => u128::from(*bits),
                    (_, Float::Double(bits)) => u128::from(*bits),
                },
                Initial::Address { symbol, offset, mask, .. } => {
                    let address = self.symbol_address(variable.module, symbol)?.wrapping_add_signed(*offset);
                    match mask {
                        // `0xFF00(symbol)`: the byte that the mask names.
                        Some(mask) => u128::from((address & mask) >> mask.trailing_zeros().min(63)),
                        None => u128::from(address),
                    }
                }
            };
            let length = element.len();
            element.copy_from_slice(&value.to_le_bytes()[..length.min(16)]);
        }
        Ok(bytes)
    }

    fn symbol_address(&self, module: u32, name: &str) -> Result<u64, LoadError> {
        match self.program.symbol(module, name) {
            Some(Symbol::Variable(at)) => Ok(self.addresses[*at as usize]),
            Some(Symbol::Function(number)) => Ok(FUNCTION_WINDOW + u64::from(*number)),
            _ => Err(LoadError::Undefined { name: name.to_owned() }),
        }
    }

    /// The kernel of a name.
    pub fn kernel(&self, name: &str) -> Option<KernelId> {
        self.program.kernel_number(name).map(KernelId)
    }

    /// Names of all kernels.
    pub fn kernels(&self) -> Vec<String> {
        self.program.kernels().map(|kernel| kernel.name.clone()).collect()
    }

    /// Address and size of a `.global` or `.const` variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        let variables = &self.program.variables;
        let of_name = |visible: bool| {
            variables.iter().position(|variable| variable.name == name && (variable.is_visible || !visible))
        };
        let at = of_name(true).or_else(|| of_name(false))?;
        Some((self.addresses[at], self.program.variables[at].bytes))
    }

    /// What is known of a kernel.
    pub fn info(&self, kernel: KernelId) -> &KernelInfo {
        match &self.program.functions[kernel.0 as usize].info {
            Some(info) => info,
            // A KernelId is only made for kernels, which have it.
            None => unreachable!("a kernel without its description"),
        }
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        for address in self.addresses.drain(..) {
            // A variable that the program itself freed is no harm here.
            let _ = Memory::global().free(address);
        }
    }
}

//! The spaces of memory as byte vectors.

use ptxvm::ptx::ast::Space;

use crate::error::OracleError;

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 1 << 56;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 1 << 57;
/// Generic addresses of constants start here.
pub(crate) const CONST_WINDOW: u64 = 1 << 58;
/// Generic addresses of kernel parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 1 << 59;
/// Distance between the buffers a kernel is given.
const BUFFER_SPACING: u64 = 1 << 32;

/// Address of a buffer that a kernel is given.
pub(crate) fn buffer_address(index: usize) -> u64 {
    BUFFER_SPACING * (index as u64 + 1)
}

/// Everything a thread can address. Local memory is of one thread, shared memory of one block.
pub(crate) struct Memory<'a> {
    /// The kernel's buffers, then the module's global variables.
    pub(crate) buffers: &'a mut [Vec<u8>],
    pub(crate) shared: &'a mut Vec<u8>,
    pub(crate) local: &'a mut Vec<u8>,
    pub(crate) constants: &'a mut Vec<u8>,
    pub(crate) params: &'a mut Vec<u8>,
}

/// The window of a space in generic addresses.
pub(crate) fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Const => CONST_WINDOW,
        Space::Param => PARAM_WINDOW,
        _ => 0,
    }
}

/// The space a generic address belongs to.
pub(crate) fn space_of(address: u64) -> Space {
    [Space::Param, Space::Const, Space::Local, Space::Shared]
        .into_iter()
        .find(|&space| address >= window(space))
        .unwrap_or(Space::Global)
}

impl Memory<'_> {
    /// The bytes at an address of a space; no space means a generic address.
    pub(crate) fn bytes(
        &mut self,
        space: Option<Space>,
        address: u64,
        bytes: usize,
        line: u32,
    ) -> Result<&mut [u8], OracleError> {
        let (space, offset) = match space {
            Some(space) => (space, address),
            None => {
                let space = space_of(address);
                (space, address - window(space))
            }
        };
        let (name, region, offset) = match space {
            Space::Shared => ("shared", Some(&mut *self.shared), offset),
            Space::Local => ("local", Some(&mut *self.local), offset),
            Space::Const => ("const", Some(&mut *self.constants), offset),
            Space::Param => ("param", Some(&mut *self.params), offset),
            _ => {
                let index = (offset / BUFFER_SPACING) as usize;
                let region = index.checked_sub(1).and_then(|index| self.buffers.get_mut(index));
                ("global", region, offset % BUFFER_SPACING)
            }
        };
        region
            .and_then(|region| region.get_mut(offset as usize..offset as usize + bytes))
            .ok_or(OracleError::OutOfBounds { space: name, address, bytes, line })
    }

    pub(crate) fn load(
        &mut self,
        space: Option<Space>,
        address: u64,
        bytes: usize,
        line: u32,
    ) -> Result<u128, OracleError> {
        let mut padded = [0; 16];
        padded[..bytes].copy_from_slice(self.bytes(space, address, bytes, line)?);
        Ok(u128::from_le_bytes(padded))
    }

    pub(crate) fn store(
        &mut self,
        space: Option<Space>,
        address: u64,
        bytes: usize,
        value: u128,
        line: u32,
    ) -> Result<(), OracleError> {
        self.bytes(space, address, bytes, line)?.copy_from_slice(&value.to_le_bytes()[..bytes]);
        Ok(())
    }
}

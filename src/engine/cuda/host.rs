//! Memory of the host that the card copies from and to by itself, while the processor does something else.

use super::{CudaError, Device};
use cudarc::driver::PinnedHostSlice;

/// Sizes are rounded up to this, since locking pages takes time and photos of one camera differ little.
const GRAIN: usize = 1 << 20;

/// Page-locked bytes that grow as they are needed and are never given back, as the next photo will need as many.
///
/// Whoever starts a copy from or to it waits for the copy before the next call here.
pub(super) struct HostBuffer {
    device: Device,
    memory: Option<PinnedHostSlice<u8>>,
}

impl HostBuffer {
    pub(super) fn new(device: &Device) -> Self {
        Self { device: device.clone(), memory: None }
    }

    /// The first `bytes` bytes; they hold anything.
    ///
    /// # Errors
    /// If the system has no more memory to lock.
    pub(super) fn bytes(&mut self, bytes: usize) -> Result<&mut [u8], CudaError> {
        if self.memory.as_ref().is_none_or(|memory| memory.len() < bytes) {
            self.memory = None;
            let wanted = bytes.max(1).next_multiple_of(GRAIN);
            let failed = CudaError::of(format!("locking {wanted} bytes of the host's memory for copies"));
            // No flags: labels are read from it, which write-combined memory makes slow.
            // SAFETY: bytes have no invalid values, and are written before they are read: by us or by the card.
            let memory = unsafe { self.device.context.alloc_pinned_with_flags::<u8>(wanted, 0) }.map_err(failed)?;
            self.memory = Some(memory);
        }
        let memory = self.memory.as_mut().expect("taken above");
        let slice = memory.as_mut_slice().map_err(CudaError::of("waiting for a copy"))?;
        Ok(&mut slice[..bytes])
    }
}

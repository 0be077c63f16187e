//! Why a kernel's access was refused, in words.

use super::{AllocationKind, Memory, table::Whereabouts};
use crate::machine::fault::{Fault, FaultKind};

/// What an access does, as reports name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
    Atomic,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Atomic => "atomic access",
        }
    }
}

/// The fault of an access to global memory that no allocation allows.
#[cold]
pub(crate) fn bad_range(action: Action, address: u64, bytes: u64, device: u32) -> Fault {
    let memory = Memory::global();
    let what = format!("{} of {bytes} bytes at 0x{address:x}", action.name());
    let illegal = |finding, message: String| Fault::new(FaultKind::IllegalAddress, finding, message);
    match memory.table().whereabouts(address) {
        Whereabouts::Live(allocation) => {
            let left = allocation.base + allocation.bytes - address;
            if bytes > left {
                illegal("out-of-bounds", format!("{what} is out of bounds: only {left} bytes are left of {allocation}"))
            } else if !memory.may_use(device, &allocation) {
                let owner = allocation.device;
                let place = format!("it is in {allocation}, which is memory of device {owner}");
                illegal("no-peer-access", format!("{what}: {place}, and device {device} has no peer access to it"))
            } else if allocation.kind == AllocationKind::ModuleConst && action != Action::Read {
                illegal("write-to-constant", format!("{what}: it is in {allocation}, which kernels may only read"))
            } else {
                illegal("use-after-free", format!("{what}: {allocation} came and went while the kernel ran"))
            }
        }
        Whereabouts::Freed(allocation) => {
            illegal("use-after-free", format!("{what} is {} bytes into freed {allocation}", address - allocation.base))
        }
        Whereabouts::Nowhere(_) if address < 4096 => {
            illegal("null-pointer", format!("{what}: the pointer is null, or an offset from null"))
        }
        Whereabouts::Nowhere(place) => illegal("out-of-bounds", format!("{what} is out of bounds: {place}")),
    }
}

/// The fault of an address that is no multiple of the size of its access.
#[cold]
pub(crate) fn bad_alignment(action: Action, address: u64, bytes: u64) -> Fault {
    let message = format!(
        "{} of {bytes} bytes at 0x{address:x} is misaligned: the address is {} bytes past a multiple of {bytes}",
        action.name(),
        address % bytes
    );
    Fault::new(FaultKind::MisalignedAddress, "misaligned-address", message)
}

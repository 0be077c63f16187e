//! What `wmma.load` and `wmma.store` run: matrices between memory and fragments.
//!
//! A matrix is lines (rows or columns) that are a stride apart. Each line is checked once, whole.

use super::{
    together,
    wmma::{Part, Tiling},
};
use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, NO_SLOT, Op, free},
        warp::Warp,
    },
    memory::{Action, LOCAL_WINDOW, SHARED_WINDOW, bad_alignment, bad_range},
    monitor::{Access, AccessKind, AccessSpace, Ordering},
    ptx::ast::Space,
};

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) part: Part,
    /// Bits of an element.
    pub(super) ty: u32,
    /// The elements of a register lie side by side in memory.
    pub(super) along: bool,
    pub(super) tiling: Tiling,
    /// `None`: generic.
    pub(super) space: Option<Space>,
    /// Addresses have 32 bits.
    pub(super) narrow: bool,
}

impl Transfer {
    /// As two plain numbers of an operation.
    pub(super) fn pack(self) -> (u32, u32) {
        let Tiling { s, h, rows, columns } = self.tiling;
        let space = match self.space {
            Some(Space::Global) => 1,
            Some(_) => 2,
            None => 0,
        };
        let x = self.part as u32 | self.ty << 2 | u32::from(self.along) << 10 | u32::from(self.narrow) << 11;
        (x | space << 12, s | h << 4 | rows << 8 | columns << 12)
    }

    pub(super) fn unpack(x: u32, y: u32) -> Self {
        Self {
            part: match x & 3 {
                0 => Part::A,
                1 => Part::B,
                _ => Part::C,
            },
            ty: x >> 2 & 255,
            along: x >> 10 & 1 != 0,
            narrow: x >> 11 & 1 != 0,
            space: match x >> 12 & 3 {
                0 => None,
                1 => Some(Space::Global),
                _ => Some(Space::Shared),
            },
            tiling: Tiling { s: y & 15, h: y >> 4 & 15, rows: y >> 8 & 15, columns: y >> 12 & 15 },
        }
    }

    /// Bits of a register's lane.
    fn register_bits(self) -> u32 {
        self.ty.max(32)
    }

    /// Elements side by side in a register's lane.
    fn side(self) -> usize {
        (self.register_bits() / self.ty) as usize
    }

    /// Rows and columns of the matrix.
    fn extent(self) -> (usize, usize) {
        let Tiling { s, h, rows, columns } = self.tiling;
        let (m, n, k) = ((8 * h * rows) as usize, 8 * columns as usize, s as usize * 4 * self.side());
        match self.part {
            Part::A => (m, k),
            Part::B => (k, n),
            Part::C => (m, n),
        }
    }

    /// Line of the first element of a lane in a register, and its position in the line; the next elements follow in the
    /// line if `along`, else in the next lines.
    pub(super) fn place(self, lane: usize, register: usize) -> (usize, usize) {
        // Division of 32 bits is much faster on most machines.
        let (group, thread, register) = (lane as u32 / 4, lane as u32 % 4, register as u32);
        let side = self.side() as u32;
        let Tiling { s, h, columns, .. } = self.tiling;
        let (across, along) = match self.part {
            Part::A => {
                let (tile, within) = (register / (s * h), register % (s * h));
                (tile * 8 * h + group + within % h * 8, (within / h * 4 + thread) * side)
            }
            Part::B => (register / s * 8 + group, (register % s * 4 + thread) * side),
            Part::C => {
                // Two columns in each lane: in one register or in two.
                let index = register * side.min(2);
                let (tile, within) = (index / (2 * h), index % (2 * h));
                let row = tile / columns * 8 * h + group + within / 2 * 8;
                (row, tile % columns * 8 + thread * 2 + within % 2)
            }
        };
        let (across, along) = (across as usize, along as usize);
        if self.along { (across, along) } else { (along, across) }
    }

    /// Line and byte in the line of the first element of a lane in a register.
    fn start(self, lane: usize, register: usize) -> (usize, usize) {
        let (line, position) = self.place(lane, register);
        (line, position * self.ty as usize / 8)
    }

    /// Lines, and elements of each.
    fn lines(self) -> (usize, usize) {
        let (rows, columns) = self.extent();
        let by_rows = self.along != (self.part == Part::B);
        if by_rows { (rows, columns) } else { (columns, rows) }
    }

    /// Registers that hold different elements.
    fn registers(self) -> usize {
        let (rows, columns) = self.extent();
        rows * columns / 32 / self.side()
    }
}

/// The most lines of a matrix.
const LINES: usize = 32;

/// Where the lines of a matrix lie: pointers, and addresses within their space.
struct Lines {
    pointers: [*mut u8; LINES],
    addresses: [u64; LINES],
    space: AccessSpace,
}

/// Checks a line: its pointer, its space and its address there.
fn resolve(
    warp: &mut Warp,
    transfer: Transfer,
    address: u64,
    bytes: u64,
    action: Action,
) -> Result<(*mut u8, AccessSpace, u64), Fault> {
    let align = u64::from(transfer.register_bits() / 8).min(bytes);
    if !address.is_multiple_of(align) {
        return Err(bad_alignment(action, address, align));
    }
    let shared = |warp: &mut Warp, offset: u64| {
        let memory = warp.block().shared();
        if offset.checked_add(bytes).is_none_or(|end| end > memory.len() as u64) {
            let room = memory.len();
            let name = action.name();
            let message = format!(
                "{name} of {bytes} bytes at 0x{address:x} is out of bounds: the block has {room} bytes of shared memory"
            );
            return Err(Fault::new(FaultKind::IllegalAddress, "out-of-bounds", message));
        }
        Ok((memory[offset as usize..].as_mut_ptr(), AccessSpace::Shared, offset))
    };
    match transfer.space {
        Some(Space::Shared) => shared(warp, address),
        None if (SHARED_WINDOW..LOCAL_WINDOW).contains(&address) => shared(warp, address - SHARED_WINDOW),
        _ if address >= LOCAL_WINDOW => {
            let message = format!("matrices lie in global or shared memory, 0x{address:x} is an address of neither");
            Err(Fault::new(FaultKind::InvalidAddressSpace, "wrong-space", message))
        }
        _ => {
            let device = warp.running().launch.device;
            let range = match warp.cache.lookup(address) {
                Some(range) => Some(range),
                None => warp.cache.fill(address, device),
            };
            let high = range.map_or(0, |range| if action == Action::Read { range.high } else { range.writable });
            if address >= high || high - address < bytes {
                return Err(bad_range(action, address, bytes, device));
            }
            Ok((address as *mut u8, AccessSpace::Global, address))
        }
    }
}

/// Checks all lines and tells the monitor.
fn lines(warp: &mut Warp, op: &Op, transfer: Transfer, kind: AccessKind) -> Result<Lines, Fault> {
    let action = if kind == AccessKind::Write { Action::Write } else { Action::Read };
    let leader = warp.leader();
    let (count, length) = transfer.lines();
    // SAFETY: `a` holds addresses of that width, `b` strides of 32 bits if it is there.
    let (base, stride) = unsafe {
        let base = if transfer.narrow {
            u64::from(warp.lanes::<u32>(op.a)[leader].wrapping_add(op.imm as u32))
        } else {
            warp.lanes::<u64>(op.a)[leader].wrapping_add(op.imm)
        };
        (base, if op.b == NO_SLOT { length as u32 } else { warp.lanes::<u32>(op.b)[leader] })
    };
    let bits = u64::from(transfer.ty);
    let mut lines =
        Lines { pointers: [std::ptr::null_mut(); LINES], addresses: [0; LINES], space: AccessSpace::Shared };
    for line in 0..count {
        let address = base.wrapping_add(line as u64 * u64::from(stride) * bits / 8);
        let found = resolve(warp, transfer, address, length as u64 * bits / 8, action);
        let (pointer, space, address) = found.map_err(|fault| fault.in_lane(leader))?;
        (lines.pointers[line], lines.addresses[line], lines.space) = (pointer, address, space);
    }
    if warp.monitor.is_some() {
        tell(warp, op, transfer, kind, &lines);
    }
    Ok(lines)
}

/// Tells the monitor what each lane accesses.
#[cold]
fn tell(warp: &mut Warp, op: &Op, transfer: Transfer, kind: AccessKind, lines: &Lines) {
    let pieces = if transfer.along { 1 } else { transfer.side() };
    let bytes = transfer.register_bits() / 8 / pieces as u32;
    for register in 0..transfer.registers() {
        for piece in 0..pieces {
            let addresses = std::array::from_fn(|lane| {
                let (line, position) = transfer.place(lane, register);
                lines.addresses[line + piece] + (position * transfer.ty as usize / 8) as u64
            });
            if let Some(monitor) = warp.monitor() {
                let access = Access {
                    space: lines.space,
                    kind,
                    bytes,
                    mask: warp.mask,
                    addresses: &addresses,
                    ordering: Ordering::default(),
                    instruction: op.instruction,
                };
                monitor.access(warp, &access);
            }
        }
    }
}

/// Where a register's elements lie: lanes are groups of four threads, and a step of either is a step in one direction.
#[derive(Clone, Copy)]
struct Pattern {
    /// Line and byte within the line of the first lane.
    line: usize,
    byte: usize,
    /// Lines from thread to thread of a group, bytes likewise; and from group to group.
    thread: (usize, usize),
    group: (usize, usize),
}

impl Pattern {
    /// Of register 0; the others start elsewhere.
    fn of(transfer: Transfer) -> Self {
        let step = |lane: usize| transfer.start(lane, 0);
        Self { line: 0, byte: 0, thread: step(1), group: step(4) }
    }

    fn at(self, transfer: Transfer, register: usize) -> Self {
        let (line, byte) = transfer.start(0, register);
        Self { line, byte, ..self }
    }

    /// Line and byte of a lane.
    #[inline(always)]
    fn place(self, group: usize, thread: usize) -> (usize, usize) {
        (
            self.line + group * self.group.0 + thread * self.thread.0,
            self.byte + group * self.group.1 + thread * self.thread.1,
        )
    }
}

/// Calls `f` with each lane and where its register's first piece lies; further pieces lie as far on in the next lines.
#[inline(always)]
fn each_lane(pattern: Pattern, mut f: impl FnMut(usize, usize, usize)) {
    for group in 0..8 {
        for thread in 0..4 {
            let (line, byte) = pattern.place(group, thread);
            // `extent` has no more lines.
            f(group * 4 + thread, line & (LINES - 1), byte);
        }
    }
}

/// `wmma.load`; `a`: address, `b`: stride; further slots: the fragment.
pub(super) fn load() -> Exec {
    free(|warp: &mut Warp, op: &Op| {
        if let Some(flow) = together(warp) {
            return flow;
        }
        let transfer = Transfer::unpack(op.x, op.y);
        let lines = match lines(warp, op, transfer, AccessKind::Read) {
            Ok(lines) => lines,
            Err(fault) => return warp.raise(fault),
        };
        let (distinct, steps) = (transfer.registers(), Pattern::of(transfer));
        // SAFETY: `wide` has slots of that many bits; all pieces lie in lines that have been checked.
        unsafe {
            let slots = warp.wide(op);
            for (register, slot) in slots.iter().take(distinct).enumerate() {
                let pattern = steps.at(transfer, register);
                if transfer.ty == 64 {
                    let mut values = [0u64; 32];
                    each_lane(pattern, |lane, line, byte| {
                        values[lane] = lines.pointers[line].add(byte).cast::<u64>().read_unaligned();
                    });
                    warp.write::<u64>(*slot, &values);
                    continue;
                }
                let mut values = [0u32; 32];
                match (transfer.along, transfer.ty) {
                    (false, 16) => each_lane(pattern, |lane, line, byte| {
                        values[lane] = (0..2).fold(0, |word, k| {
                            let at = lines.pointers[(line + k) & (LINES - 1)].add(byte).cast::<u16>();
                            word | u32::from(at.read_unaligned()) << (16 * k)
                        });
                    }),
                    (false, 8) => each_lane(pattern, |lane, line, byte| {
                        values[lane] = (0..4).fold(0, |word, k| {
                            let at = lines.pointers[(line + k) & (LINES - 1)].add(byte);
                            word | u32::from(at.read()) << (8 * k)
                        });
                    }),
                    _ => each_lane(pattern, |lane, line, byte| {
                        values[lane] = lines.pointers[line].add(byte).cast::<u32>().read_unaligned();
                    }),
                }
                // The other registers repeat.
                for slot in slots.iter().skip(register).step_by(distinct) {
                    warp.write::<u32>(*slot, &values);
                }
            }
        }
        Flow::Next
    })
}

/// `wmma.store`; as [`load`].
pub(super) fn store() -> Exec {
    free(|warp: &mut Warp, op: &Op| {
        if let Some(flow) = together(warp) {
            return flow;
        }
        let transfer = Transfer::unpack(op.x, op.y);
        let lines = match lines(warp, op, transfer, AccessKind::Write) {
            Ok(lines) => lines,
            Err(fault) => return warp.raise(fault),
        };
        let (mask, steps) = (warp.mask, Pattern::of(transfer));
        // SAFETY: as in `load`.
        unsafe {
            for (register, slot) in warp.wide(op).iter().enumerate() {
                let pattern = steps.at(transfer, register);
                if transfer.ty == 64 {
                    let values = warp.lanes::<u64>(*slot);
                    each_lane(pattern, |lane, line, byte| {
                        if mask >> lane & 1 != 0 {
                            lines.pointers[line].add(byte).cast::<u64>().write_unaligned(values[lane]);
                        }
                    });
                    continue;
                }
                let values = warp.lanes::<u32>(*slot);
                let halves = !transfer.along && transfer.ty == 16;
                each_lane(pattern, |lane, line, byte| {
                    if mask >> lane & 1 == 0 {
                        return;
                    }
                    let word = values[lane];
                    if halves {
                        for k in 0..2 {
                            let at = lines.pointers[(line + k) & (LINES - 1)].add(byte).cast::<u16>();
                            at.write_unaligned((word >> (16 * k)) as u16);
                        }
                    } else {
                        lines.pointers[line].add(byte).cast::<u32>().write_unaligned(word);
                    }
                });
            }
        }
        Flow::Next
    })
}

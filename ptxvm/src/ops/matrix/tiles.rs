//! `ldmatrix`, `stmatrix`, `movmatrix`: tiles of 8 × 8 elements of 16 bits.
//!
//! A fragment's register is such a tile, row after row, so a row is copied whole.

use super::{
    address::{Addressing, Offsets, checked_offsets, offsets, place, take_shared},
    together,
    transpose::transpose as transposed,
};
use crate::{
    machine::{
        fault::Fault,
        op::{Body, Exec, Flow, Op, exec, free},
        warp::Warp,
    },
    monitor::AccessKind,
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// Addresses of shared memory by the number that stands for them in a body's type.
const ADDRESSING: [Addressing; 3] = [Addressing::Narrow, Addressing::Wide, Addressing::Generic];

/// Loads `N` tiles; `a`: addresses, `imm`: offset; further slots: destinations.
struct Load<const N: usize, const TRANSPOSE: bool, const ADDRESS: usize>;

/// Eight rows of 16 bytes.
#[inline(always)]
unsafe fn gather(shared: *const u8, offsets: &[u32]) -> [u32; 32] {
    let mut tile = [[0u32; 4]; 8];
    for (row, offset) in tile.iter_mut().zip(offsets) {
        // SAFETY: the caller has checked the offsets.
        *row = unsafe { shared.add(*offset as usize).cast::<[u32; 4]>().read_unaligned() };
    }
    // SAFETY: both are 32 words.
    unsafe { std::mem::transmute::<[[u32; 4]; 8], [u32; 32]>(tile) }
}

/// Where the rows of `N` tiles lie, and the start of shared memory.
#[inline(always)]
fn row_offsets<const N: usize>(
    warp: &mut Warp,
    op: &Op,
    addressing: Addressing,
    kind: AccessKind,
) -> Result<(Offsets, *mut u8), Fault> {
    if warp.mask == u32::MAX && warp.monitor.is_none() {
        // SAFETY: `a` holds addresses of this kind; 8N is at most 32.
        let found = unsafe {
            match N {
                1 => offsets::<8>(warp, op, addressing),
                2 => offsets::<16>(warp, op, addressing),
                _ => offsets::<32>(warp, op, addressing),
            }
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let lanes = warp.mask & (u32::MAX >> (32 - 8 * N));
    checked_offsets(warp, op, addressing, lanes, kind)
}

impl<const N: usize, const TRANSPOSE: bool, const ADDRESS: usize> Body for Load<N, TRANSPOSE, ADDRESS> {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        if let Some(flow) = together(warp) {
            return flow;
        }
        let (offsets, shared) = match row_offsets::<N>(warp, op, ADDRESSING[ADDRESS], AccessKind::Read) {
            Ok(found) => found,
            Err(fault) => return warp.raise(fault),
        };
        // SAFETY: offsets are inside of shared memory (or 0 for lanes that are missing, if there is any); `wide` has N
        // 32-bit slots.
        unsafe {
            if warp.block().shared().len() < 16 {
                return Flow::Next;
            }
            let slots = warp.wide(op);
            for (k, slot) in slots[..N].iter().enumerate() {
                let tile = gather(shared, &offsets.0[8 * k..8 * k + 8]);
                let tile = if TRANSPOSE { transposed(&tile) } else { tile };
                warp.write::<u32>(*slot, &tile);
            }
        }
        Flow::Next
    }
}

/// Stores `N` tiles; `a`: addresses, `imm`: offset; further slots: sources.
struct Store<const N: usize, const TRANSPOSE: bool, const ADDRESS: usize>;

impl<const N: usize, const TRANSPOSE: bool, const ADDRESS: usize> Body for Store<N, TRANSPOSE, ADDRESS> {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        if let Some(flow) = together(warp) {
            return flow;
        }
        let lanes = warp.mask & (u32::MAX >> (32 - 8 * N));
        let (offsets, shared) = match row_offsets::<N>(warp, op, ADDRESSING[ADDRESS], AccessKind::Write) {
            Ok(found) => found,
            Err(fault) => return warp.raise(fault),
        };
        // SAFETY: the offsets of the lanes are inside of shared memory; `wide` has N 32-bit slots.
        unsafe {
            let slots = warp.wide(op);
            for (k, slot) in slots[..N].iter().enumerate() {
                let tile = *warp.lanes::<u32>(*slot);
                let tile = if TRANSPOSE { transposed(&tile) } else { tile };
                if lanes >> (8 * k) & 0xff == 0xff {
                    for (row, words) in tile.as_chunks::<4>().0.iter().enumerate() {
                        shared.add(offsets.0[8 * k + row] as usize).cast::<[u32; 4]>().write_unaligned(*words);
                    }
                    continue;
                }
                for (row, words) in tile.as_chunks::<4>().0.iter().enumerate() {
                    let lane = 8 * k + row;
                    if lanes >> lane & 1 != 0 {
                        let to = shared.add(offsets.0[lane] as usize).cast::<[u32; 4]>();
                        to.write_unaligned(*words);
                    }
                }
            }
        }
        Flow::Next
    }
}

macro_rules! pick {
    ($body:ident, $count:expr, $transpose:expr, $addressing:expr) => {
        match ($count, $transpose, $addressing) {
            (1, false, Addressing::Narrow) => exec::<$body<1, false, 0>>(),
            (2, false, Addressing::Narrow) => exec::<$body<2, false, 0>>(),
            (_, false, Addressing::Narrow) => exec::<$body<4, false, 0>>(),
            (1, true, Addressing::Narrow) => exec::<$body<1, true, 0>>(),
            (2, true, Addressing::Narrow) => exec::<$body<2, true, 0>>(),
            (_, true, Addressing::Narrow) => exec::<$body<4, true, 0>>(),
            (1, false, Addressing::Wide) => exec::<$body<1, false, 1>>(),
            (2, false, Addressing::Wide) => exec::<$body<2, false, 1>>(),
            (_, false, Addressing::Wide) => exec::<$body<4, false, 1>>(),
            (1, true, Addressing::Wide) => exec::<$body<1, true, 1>>(),
            (2, true, Addressing::Wide) => exec::<$body<2, true, 1>>(),
            (_, true, Addressing::Wide) => exec::<$body<4, true, 1>>(),
            (1, false, Addressing::Generic) => exec::<$body<1, false, 2>>(),
            (2, false, Addressing::Generic) => exec::<$body<2, false, 2>>(),
            (_, false, Addressing::Generic) => exec::<$body<4, false, 2>>(),
            (1, true, Addressing::Generic) => exec::<$body<1, true, 2>>(),
            (2, true, Addressing::Generic) => exec::<$body<2, true, 2>>(),
            (_, true, Addressing::Generic) => exec::<$body<4, true, 2>>(),
        }
    };
}

pub(super) fn load_exec(count: usize, transpose: bool, addressing: Addressing) -> Exec {
    pick!(Load, count, transpose, addressing)
}

pub(super) fn store_exec(count: usize, transpose: bool, addressing: Addressing) -> Exec {
    pick!(Store, count, transpose, addressing)
}

/// Number of tiles, whether they are transposed, and whether `.shared` is named.
fn modifiers(i: &Instruction, b: &Builder<'_>) -> Result<(usize, bool, bool), CompileError> {
    let mut m = Modifiers::of(i);
    if !m.take("sync") || !m.take("aligned") {
        return Err(b.error(i, "it must be .sync.aligned"));
    }
    if m.take_any(&["m16n16", "m8n16", "m16n8"]).is_some() {
        return Err(b.error(i, "tiles of elements of 8 bits and less are not modelled, only .m8n8 … .b16"));
    }
    let shape = m.take("m8n8");
    let count = match m.take_any(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err(b.error(i, ".x1, .x2 or .x4 is expected")),
    };
    let transpose = m.take("trans");
    let shared = take_shared(&mut m);
    let ty = m.take_type();
    m.finish(b)?;
    if !shape || ty != Some(Type::B16) {
        return Err(b.unknown(i));
    }
    Ok((count, transpose, shared))
}

fn check_count(i: &Instruction, b: &Builder<'_>, found: usize, count: usize) -> Result<(), CompileError> {
    if found == count {
        return Ok(());
    }
    Err(b.error(i, format!("found {found} registers, expected {count}")))
}

/// `ldmatrix`.
pub(super) fn load(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let (count, transpose, shared) = modifiers(i, b)?;
    let [targets, address] = b.operands::<2>(i)?;
    let (addressing, slot, offset) = place(i, b, address, shared)?;
    let targets = b.elements(i, targets)?;
    check_count(i, b, targets.len(), count)?;
    let wide = targets.iter().map(|target| b.write(i, target, Type::B32)).collect::<Result<Vec<_>, _>>()?;
    let mut op = Op::new(load_exec(count, transpose, addressing));
    (op.a, op.imm) = (slot, offset as u64);
    b.emit_suspending(op, wide);
    Ok(())
}

/// `stmatrix`.
pub(super) fn store(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let (count, transpose, shared) = modifiers(i, b)?;
    let [address, sources] = b.operands::<2>(i)?;
    let (addressing, slot, offset) = place(i, b, address, shared)?;
    let sources = b.elements(i, sources)?;
    check_count(i, b, sources.len(), count)?;
    let wide = sources.iter().map(|source| b.read(i, source, Type::B32)).collect::<Result<Vec<_>, _>>()?;
    let mut op = Op::new(store_exec(count, transpose, addressing));
    (op.a, op.imm) = (slot, offset as u64);
    b.emit_suspending(op, wide);
    Ok(())
}

/// `movmatrix`: `d` is tile `a` transposed.
pub(super) fn transpose(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    let known = m.take("sync") && m.take("aligned") && m.take("m8n8") && m.take("trans");
    let ty = m.take_type();
    m.finish(b)?;
    if !known || ty != Some(Type::B16) {
        return Err(b.unknown(i));
    }
    let [target, source] = b.operands::<2>(i)?;
    let mut op = Op::new(free(|warp: &mut Warp, op: &Op| {
        if let Some(flow) = together(warp) {
            return flow;
        }
        // SAFETY: `a` and `d` are 32-bit slots of this frame.
        unsafe {
            let tile = transposed(warp.lanes::<u32>(op.a));
            warp.write::<u32>(op.d, &tile);
        }
        Flow::Next
    }));
    op.a = b.read(i, source, Type::B32)?;
    op.d = b.write(i, target, Type::B32)?;
    b.emit_suspending(op, vec![]);
    Ok(())
}

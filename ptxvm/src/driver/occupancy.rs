//! How many blocks of a kernel a multiprocessor holds.

use super::entry::{In, Out, entries};
use super::module::FunctionAttributes;
use super::state::lock;
use super::status::{Outcome, Status};
use super::types::{BlockToShared, Handle, LaunchConfig};
use crate::card::Card;
use crate::program::KernelInfo;

/// Registers are given to a warp in pieces of this size, and warps come in fours.
const REGISTER_UNIT: u32 = 256;
const WARP_UNIT: u32 = 4;

/// Blocks of `threads` threads with `shared` bytes of dynamic shared memory that fit into a multiprocessor.
pub(super) fn blocks(card: &Card, info: &KernelInfo, threads: u32, shared: u32) -> u32 {
    if threads == 0 || threads > info.max_threads.min(Card::MAX_BLOCK_THREADS) {
        return 0;
    }
    let warps = threads.div_ceil(Card::WARP);
    let by_warps = card.threads_per_multiprocessor() / Card::WARP / warps;
    let registers = info.registers.clamp(1, Card::MAX_THREAD_REGISTERS) * Card::WARP;
    let warps_by_registers = Card::REGISTERS / registers.next_multiple_of(REGISTER_UNIT) / WARP_UNIT * WARP_UNIT;
    let by_registers = warps_by_registers / warps;
    let used = info.static_shared.saturating_add(shared);
    if used > card.shared_per_block_optin() {
        return 0;
    }
    let used = (used + card.reserved_shared()).next_multiple_of(card.shared_granularity());
    let by_shared = card.shared_per_multiprocessor().checked_div(used).unwrap_or(u32::MAX);
    by_warps.min(by_registers).min(by_shared).min(card.blocks_per_multiprocessor())
}

/// What a question about a function is answered from.
struct Subject {
    card: &'static Card,
    info: KernelInfo,
    attributes: FunctionAttributes,
}

fn subject(handle: Handle) -> Outcome<Subject> {
    let mut state = lock();
    let handle = state.resolve_function(handle)?;
    let context = state.function(handle)?.context;
    let card = state.context(context)?.card;
    let function = state.function(handle)?;
    Ok(Subject { card, info: function.loaded.info(function.kernel).clone(), attributes: function.attributes })
}

impl Subject {
    fn blocks(&self, threads: u32, shared: usize) -> u32 {
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        if shared > self.attributes.dynamic_limit(&self.info) {
            return 0;
        }
        blocks(self.card, &self.info, threads, shared)
    }
}

fn threads_of(size: i32) -> Outcome<u32> {
    let threads = u32::try_from(size).ok().filter(|threads| *threads > 0);
    threads.ok_or_else(|| Status::InvalidValue.because(format!("blocks of {size} threads")))
}

fn check_flags(flags: u32) -> Outcome {
    if flags > 1 {
        return Err(Status::InvalidValue.because(format!("there are no CUoccupancy_flags {flags:#x}")));
    }
    Ok(())
}

fn active(out: Out<i32>, function: Handle, size: i32, shared: usize, flags: u32) -> Outcome {
    check_flags(flags)?;
    let subject = subject(function)?;
    out.set("numBlocks", subject.blocks(threads_of(size)?, shared).cast_signed())
}

/// What `cuOccupancyMaxPotentialBlockSize` is asked.
struct Search {
    shared_of: BlockToShared,
    shared: usize,
    limit: i32,
    flags: u32,
}

fn best_size(grid: Out<i32>, block: Out<i32>, function: Handle, search: &Search) -> Outcome {
    check_flags(search.flags)?;
    grid.check("minGridSize")?;
    block.check("blockSize")?;
    let subject = subject(function)?;
    let most = subject.info.max_threads.min(Card::MAX_BLOCK_THREADS);
    let most = u32::try_from(search.limit).ok().filter(|limit| *limit > 0).map_or(most, |limit| limit.min(most));
    // From the largest down in whole warps; the first of equals is the largest.
    let mut best = (0, 0, 0);
    let mut size = most;
    while size > 0 {
        let shared = match search.shared_of {
            // SAFETY: the caller promised that the function may be called with any block size.
            Some(shared_of) => unsafe { shared_of(size.cast_signed()) },
            None => search.shared,
        };
        let blocks = subject.blocks(size, shared);
        if blocks * size > best.0 {
            best = (blocks * size, size, blocks);
        }
        size = (size - 1) / Card::WARP * Card::WARP;
    }
    if best.0 == 0 {
        return Err(Status::InvalidValue.because("no block size fits: too much shared memory"));
    }
    grid.set("minGridSize", (best.2 * subject.card.multiprocessors).cast_signed())?;
    block.set("blockSize", best.1.cast_signed())
}

entries! { list:
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, function: Handle, size: i32, shared: usize) {
        active(blocks, function, size, shared, 0)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<i32>, function: Handle, size: i32, shared: usize, flags: u32) {
        active(blocks, function, size, shared, flags)
    }

    fn cuOccupancyMaxPotentialBlockSize(grid: Out<i32>, block: Out<i32>, function: Handle, shared_of: BlockToShared, shared: usize, limit: i32) {
        best_size(grid, block, function, &Search { shared_of, shared, limit, flags: 0 })
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(grid: Out<i32>, block: Out<i32>, function: Handle, shared_of: BlockToShared, shared: usize, limit: i32, flags: u32) {
        best_size(grid, block, function, &Search { shared_of, shared, limit, flags })
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, function: Handle, count: i32, size: i32) {
        let subject = subject(function)?;
        let (count, threads) = (threads_of(count)?, threads_of(size)?);
        if subject.blocks(threads, 0) < count {
            return Err(Status::InvalidValue.because(format!(
                "a multiprocessor does not hold {count} blocks of {threads} threads of '{}'",
                subject.info.name
            )));
        }
        let unit = subject.card.shared_granularity();
        let each = subject.card.shared_per_multiprocessor() / count / unit * unit;
        let each = each.saturating_sub(subject.card.reserved_shared() + subject.info.static_shared);
        let most = subject.card.shared_per_block_optin().saturating_sub(subject.info.static_shared);
        bytes.set("dynamicSmemSize", each.min(most) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(size: Out<i32>, function: Handle, config: In<LaunchConfig>) {
        config.get("config")?;
        subject(function)?;
        // Clusters are not modelled: every block is its own.
        size.set("clusterSize", 1)
    }

    fn cuOccupancyMaxActiveClusters(count: Out<i32>, function: Handle, config: In<LaunchConfig>) {
        let config = config.get("config")?;
        let subject = subject(function)?;
        let blocks = subject.blocks(config.block.iter().product(), config.shared as usize);
        count.set("numClusters", (blocks * subject.card.multiprocessors).cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(registers: u32, static_shared: u32) -> KernelInfo {
        KernelInfo {
            name: "kernel".to_owned(),
            params: Vec::new(),
            param_bytes: 0,
            static_shared,
            local_bytes: 0,
            stack_bytes: 0,
            const_bytes: 0,
            registers,
            max_threads: 1024,
            required_threads: None,
            ptx_version: 80,
            target: 80,
        }
    }

    /// Against values of NVIDIA's occupancy calculator.
    #[test]
    fn each_limit_of_a_multiprocessor_binds() {
        let a100 = crate::card::find("a100").expect("known");
        let rtx3090 = crate::card::find("rtx3090").expect("known");
        let cases = [
            (a100, 32, 0, 1024, 0, 2, "warps"),
            (a100, 32, 0, 32, 0, 32, "blocks"),
            (a100, 255, 0, 256, 0, 1, "registers: 8 warps of 64 KiB / (255 -> 256 x 32)"),
            (a100, 128, 0, 256, 0, 2, "registers"),
            (a100, 32, 48 << 10, 128, 0, 3, "shared: 164 / 49"),
            (a100, 32, 0, 128, 163 << 10, 1, "shared: all that a block may have"),
            (a100, 32, 0, 128, (163 << 10) + 1, 0, "shared: more than a block may have"),
            (rtx3090, 32, 0, 1024, 0, 1, "1536 threads hold one block of 1024"),
            (rtx3090, 32, 0, 768, 0, 2, "1536 threads hold two of 768"),
            (rtx3090, 40, 0, 128, 0, 12, "registers: 48 warps of 51 wanted, then threads"),
        ];
        for (card, registers, fixed, threads, dynamic, expected, why) in cases {
            assert_eq!(blocks(card, &kernel(registers, fixed), threads, dynamic), expected, "{why}");
        }
        assert_eq!(blocks(a100, &kernel(32, 0), 1025, 0), 0);
    }
}

//! A launch: what runs, with what, and the state its blocks share.

use super::{
    block::Spare,
    fault::Fault,
    module::{KernelId, LoadedModule},
    warp::RegisterLine,
    workers,
};
use crate::{
    monitor::{LaunchWatch, Monitor},
    program::{Constant, Program, draft::Class},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// Function addresses start here: what `mov` of a function's name gives, and indirect calls take.
pub(crate) const FUNCTION_WINDOW: u64 = 4 << 48;

/// How a launch is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that run blocks.
    pub threads: usize,
    /// Draws the order of blocks, warps and lanes; `None`: the natural order.
    pub seed: Option<u64>,
    /// The checks of checked mode are on: asynchronous copies poison their target until they are waited for.
    pub checked: bool,
    /// How long all blocks may do nothing but wait for one another before that is called a deadlock.
    pub patience: Duration,
    /// Says whether nothing outside the launch, which runs on so many threads, can change memory while it runs. Then a
    /// deadlock is told as soon as it can be proven.
    pub alone: Option<fn(usize) -> bool>,
    /// In checked mode: findings are shrunk to few blocks by running the launch again; memory is put back afterwards.
    pub shrink: bool,
    /// Only these blocks are run.
    pub only: Option<Arc<[u64]>>,
    /// The launch is given up after this time.
    pub limit: Option<Duration>,
    /// Nothing is printed for the kernel: it is run again to find something out.
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            threads,
            seed: None,
            checked: false,
            patience: Duration::from_secs(20),
            alone: None,
            shrink: false,
            only: None,
            limit: None,
            quiet: false,
        }
    }
}

/// A point in the partial order of everything that a process asks its devices to do.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// For every timeline (stream or host thread) the latest of its events that happens before.
    pub before: Arc<BTreeMap<u64, u64>>,
    /// The timeline this belongs to.
    pub timeline: u64,
    /// Its time there.
    pub time: u64,
}

/// A kernel launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The module.
    pub module: Arc<LoadedModule>,
    /// Its kernel.
    pub kernel: KernelId,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads per block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter buffer, laid out as [`crate::program::ParamInfo`] says.
    pub params: Vec<u8>,
    /// All blocks are resident at once and may wait for one another.
    pub cooperative: bool,
    /// Number of the device.
    pub device: u32,
    /// Multiprocessors of the device.
    pub multiprocessors: u32,
    /// Blocks that a multiprocessor holds at once.
    pub resident: u32,
    /// Bytes of local memory per thread at most.
    pub local_limit: u32,
    /// Stream and number, for reports.
    pub label: String,
    /// Where the launch stands among everything else.
    pub order: Order,
    /// How it is run.
    pub options: Options,
}

impl Launch {
    /// A launch with what most launches have.
    pub fn new(module: Arc<LoadedModule>, kernel: KernelId, grid: [u32; 3], block: [u32; 3], params: Vec<u8>) -> Self {
        Self {
            module,
            kernel,
            grid,
            block,
            dynamic_shared: 0,
            params,
            cooperative: false,
            device: 0,
            multiprocessors: 132,
            resident: 2,
            local_limit: 512 << 10,
            label: String::new(),
            order: Order::default(),
            options: Options::default(),
        }
    }

    /// Threads per block.
    pub fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Blocks in the grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&extent| u64::from(extent)).product()
    }
}

/// A launch under way: what its blocks share.
pub(crate) struct Running<'a> {
    pub(crate) launch: &'a Launch,
    images: Vec<OnceLock<Vec<RegisterLine>>>,
    shared_offsets: HashMap<u32, u32>,
    static_shared: u32,
    watch: Option<Arc<dyn LaunchWatch>>,
    /// Memory of blocks that have ended: making it anew takes longer than a small block runs.
    spares: Mutex<Vec<Spare>>,
    /// Memory that a grid-wide barrier works on.
    pub(crate) workspace: u64,
}

impl<'a> Running<'a> {
    pub(crate) fn new(launch: &'a Launch, workspace: u64, watch: Option<Arc<dyn LaunchWatch>>) -> Self {
        let program = &launch.module.program;
        let (shared_offsets, static_shared) = program.shared_layout(launch.kernel.0);
        Self {
            launch,
            images: program.functions.iter().map(|_| OnceLock::new()).collect(),
            shared_offsets,
            static_shared,
            watch,
            spares: Mutex::default(),
            workspace,
        }
    }

    /// The program.
    #[inline(always)]
    pub(crate) fn program(&self) -> &Program {
        &self.launch.module.program
    }

    /// The parameter buffer.
    #[inline(always)]
    pub(crate) fn params(&self) -> &[u8] {
        &self.launch.params
    }

    /// Whether the checks of checked mode are on.
    #[inline(always)]
    pub(crate) fn checked(&self) -> bool {
        self.launch.options.checked
    }

    /// Bytes of local memory per thread at most.
    pub(crate) fn local_limit(&self) -> u32 {
        self.launch.local_limit
    }

    /// Bytes of shared memory per block, static and dynamic.
    pub(crate) fn shared_bytes(&self) -> u32 {
        if self.launch.dynamic_shared == 0 {
            return self.static_shared;
        }
        let start = self.static_shared.next_multiple_of(16);
        let start = self.shared_offsets.values().copied().max().filter(|last| *last >= start).unwrap_or(start);
        start + self.launch.dynamic_shared
    }

    /// The kernel's name.
    pub(crate) fn kernel_name(&self) -> &str {
        &self.program().functions[self.launch.kernel.0 as usize].name
    }

    pub(crate) fn watch_block(&self, number: u64) -> Option<Box<dyn Monitor>> {
        self.watch.as_ref().map(|watch| watch.block(number))
    }

    pub(crate) fn end(&self, fault: Option<&Fault>) {
        if let Some(watch) = &self.watch {
            watch.end(fault);
        }
    }

    /// The order in which a block's warps have their turns.
    pub(crate) fn warp_order(&self, block: u64, warps: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..warps).collect();
        if let Some(seed) = self.launch.options.seed {
            let mut state = seed ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for at in (1..warps).rev() {
                order.swap(at, (mix(&mut state) % (at as u64 + 1)) as usize);
            }
        }
        order
    }

    /// Blocks that are run.
    pub(crate) fn count(&self) -> u64 {
        self.launch.options.only.as_ref().map_or(self.launch.blocks(), |only| only.len() as u64)
    }

    /// The block that has turn `turn`: a permutation drawn by the seed.
    pub(crate) fn block_at(&self, turn: u64) -> u64 {
        let turn = self.permuted(turn);
        match &self.launch.options.only {
            Some(only) => only[turn as usize],
            None => turn,
        }
    }

    fn permuted(&self, turn: u64) -> u64 {
        let blocks = self.count();
        let Some(mut seed) = self.launch.options.seed.filter(|_| blocks > 1) else { return turn };
        let shift = mix(&mut seed) % blocks;
        let mut stride = (mix(&mut seed) % blocks) | 1;
        while gcd(stride, blocks) != 1 {
            stride += 2;
        }
        ((u128::from(turn) * u128::from(stride) + u128::from(shift)) % u128::from(blocks)) as u64
    }

    /// Registers of a new frame of a function.
    pub(crate) fn registers_of(&self, function: u32) -> Vec<RegisterLine> {
        let mut registers = Vec::new();
        self.fill_registers(function, &mut registers);
        registers
    }

    /// As [`Self::registers_of`], in memory that is there already.
    pub(crate) fn fill_registers(&self, function: u32, registers: &mut Vec<RegisterLine>) {
        registers.clear();
        registers.extend_from_slice(self.images[function as usize].get_or_init(|| self.image(function)));
    }

    /// Memory of a block that has ended, if there is some.
    pub(crate) fn take_spare(&self) -> Option<Spare> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps the memory of a block that has ended for the next one.
    pub(crate) fn keep_spare(&self, spare: Spare) {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).push(spare);
    }

    fn image(&self, function: u32) -> Vec<RegisterLine> {
        let code = &self.program().functions[function as usize];
        let mut lines = vec![RegisterLine([0; 64]); (code.register_bytes as usize).div_ceil(64)];
        for &(class, slot, constant) in &code.constants {
            let bits = match constant {
                Constant::Bits(bits) => bits,
                Constant::Variable { index, offset } => {
                    self.launch.module.addresses[index as usize].wrapping_add_signed(offset).into()
                }
                Constant::Shared { index, offset, generic } => {
                    let base = u64::from(self.shared_offsets.get(&index).copied().unwrap_or(0));
                    let window = if generic { crate::memory::SHARED_WINDOW } else { 0 };
                    (window + base).wrapping_add_signed(offset).into()
                }
                Constant::Function { index } => (FUNCTION_WINDOW + u64::from(index)).into(),
            };
            let (width, count) = match class {
                Class::Word32 => (4, 32),
                Class::Word64 => (8, 32),
                Class::Word128 => (16, 32),
                Class::Predicate => (4, 1),
            };
            for lane in 0..count {
                let at = slot as usize + lane * width;
                // Lanes are aligned to their width, so they do not cross lines.
                lines[at / 64].0[at % 64..at % 64 + width].copy_from_slice(&bits.to_le_bytes()[..width]);
            }
        }
        lines
    }
}

/// splitmix64.
pub(crate) fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Runs a launch to its end.
///
/// # Errors
/// The fault that stopped it.
pub fn run(launch: &Launch) -> Result<(), Fault> {
    workers::run(launch)
}

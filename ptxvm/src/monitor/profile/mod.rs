//! Profile mode: what each instruction of a kernel does and costs, as far as that can be told from PTX.

mod class;
mod output;
mod requests;

pub(crate) use output::{render, to_json};

use super::{Access, AccessKind, AccessSpace, LaunchWatch, MbarrierEvent, Monitor, Scope, actor::Actor, site::Kernel};
use crate::machine::{Fault, Launch, warp::Warp};
use class::{Class, macs};
use requests::{SECTOR, sectors, waves};
use std::{
    collections::{BTreeMap, HashMap},
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// What is counted, of an instruction or of everything.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Counters {
            $($(#[doc = $doc])* pub(crate) $name: u64,)*
        }

        impl Counters {
            /// Names and values.
            pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }

            fn map(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
                Self { $($name: f(self.$name, other.$name),)* }
            }
        }
    };
}

counters! {
    /// Instructions of a warp.
    instructions,
    /// Lanes active in them.
    lanes,
    /// Branches whose lanes parted.
    divergent,
    /// Multiply-accumulates of `mma`.
    macs,
    /// Loads, stores and atomics of a warp on global memory.
    requests,
    /// Sectors of 32 bytes that they touch.
    sectors,
    /// Accesses of a warp to shared memory.
    shared_requests,
    /// Waves that they take.
    waves,
    /// Waves beyond those that the same accesses would take without conflicts.
    bank_conflicts,
    global_read,
    global_written,
    shared_read,
    shared_written,
    local_read,
    local_written,
    /// Arrivals at barriers that wait.
    barrier_waits,
    /// Instructions of the block's other warps that went by while warps waited in barriers.
    waited,
}

impl AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        *self = self.map(other, |a, b| a + b);
    }
}

/// Which sectors of global memory were touched: a bit each, by pages of 4 KiB.
#[derive(Clone, Debug, Default)]
pub(crate) struct Footprint(HashMap<u64, u128>);

impl Footprint {
    fn add(&mut self, sectors: &[u64]) {
        let mut at = 0;
        while at < sectors.len() {
            let page = sectors[at] / 128;
            let mut bits = 0;
            while at < sectors.len() && sectors[at] / 128 == page {
                bits |= 1u128 << (sectors[at] % 128);
                at += 1;
            }
            *self.0.entry(page).or_default() |= bits;
        }
    }

    fn merge(&mut self, other: &Self) {
        for (page, bits) in &other.0 {
            *self.0.entry(*page).or_default() |= bits;
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|bits| u64::from(bits.count_ones()) * SECTOR).sum()
    }
}

/// All launches of a kernel.
#[derive(Debug)]
pub(crate) struct KernelProfile {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) launches: u64,
    pub(crate) blocks: u64,
    /// Of each instruction.
    pub(crate) sites: Vec<Counters>,
    /// Over blocks.
    pub(crate) total: Counters,
    pub(crate) least: Counters,
    pub(crate) most: Counters,
    /// Of the launch that touched most.
    pub(crate) read_footprint: u64,
    pub(crate) written_footprint: u64,
}

static PROFILES: Mutex<BTreeMap<(String, usize), KernelProfile>> = Mutex::new(BTreeMap::new());

fn profiles() -> MutexGuard<'static, BTreeMap<(String, usize), KernelProfile>> {
    PROFILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A launch that is being profiled.
pub(crate) struct ProfiledLaunch(Arc<Shared>);

struct Shared {
    kernel: Arc<Kernel>,
    key: (String, usize),
    /// Read and written.
    footprints: Mutex<[Footprint; 2]>,
    macs: Vec<u64>,
    warps: usize,
}

impl ProfiledLaunch {
    pub(crate) fn new(launch: &Launch) -> Self {
        let program = launch.module.program.clone();
        let name = launch.module.info(launch.kernel).name.clone();
        let key = (name.clone(), Arc::as_ptr(&program) as usize);
        let kernel = Arc::new(Kernel::new(program, name, launch.grid, launch.block));
        let macs = (0..kernel.sites() as u32)
            .map(|site| kernel.instruction(site).map_or(0, |(_, info)| macs(&info.opcode)))
            .collect();
        let warps = launch.threads().div_ceil(32) as usize;
        Self(Arc::new(Shared { kernel, key, footprints: Mutex::default(), macs, warps }))
    }
}

impl LaunchWatch for ProfiledLaunch {
    fn block(&self, _number: u64) -> Box<dyn Monitor> {
        Box::new(Profiler {
            sites: vec![Counters::default(); self.0.kernel.sites()],
            launch: self.0.clone(),
            footprints: Default::default(),
            arrivals: vec![None; self.0.warps],
            operations: 0,
            sectors: Vec::new(),
        })
    }

    fn end(&self, _fault: Option<&Fault>) {
        let footprints = self.0.footprints.lock().unwrap_or_else(PoisonError::into_inner);
        let [read, written] = [footprints[0].bytes(), footprints[1].bytes()];
        if let Some(profile) = profiles().get_mut(&self.0.key) {
            profile.launches += 1;
            profile.read_footprint = profile.read_footprint.max(read);
            profile.written_footprint = profile.written_footprint.max(written);
        }
    }
}

/// Counts one block.
struct Profiler {
    launch: Arc<Shared>,
    sites: Vec<Counters>,
    /// Read and written.
    footprints: [Footprint; 2],
    /// Of each warp that waits: the barrier, its instruction, and the block's operations at its arrival.
    arrivals: Vec<Option<(u32, u32, u64)>>,
    operations: u64,
    sectors: Vec<u64>,
}

impl Profiler {
    fn site(&self, warp: &Warp) -> usize {
        let actor = Actor::of(warp);
        self.launch.kernel.site(actor.function, actor.instruction) as usize
    }
}

impl Monitor for Profiler {
    fn access(&mut self, warp: &Warp, access: &Access<'_>) {
        let site = self.site(warp);
        let counters = &mut self.sites[site];
        let bytes = u64::from(access.bytes) * u64::from(access.mask.count_ones());
        let reads = !matches!(access.kind, AccessKind::Write | AccessKind::AsyncWrite);
        let writes = !matches!(access.kind, AccessKind::Read | AccessKind::AsyncRead);
        let (read, written) = (if reads { bytes } else { 0 }, if writes { bytes } else { 0 });
        match access.space {
            AccessSpace::Global => {
                sectors(access.mask, access.bytes, access.addresses, &mut self.sectors);
                counters.requests += 1;
                counters.sectors += self.sectors.len() as u64;
                counters.global_read += read;
                counters.global_written += written;
                for (footprint, wanted) in self.footprints.iter_mut().zip([reads, writes]) {
                    if wanted {
                        footprint.add(&self.sectors);
                    }
                }
            }
            AccessSpace::Shared => {
                counters.shared_requests += 1;
                let (taken, least) = waves(access.mask, access.bytes, access.addresses);
                counters.waves += u64::from(taken);
                counters.bank_conflicts += u64::from(taken - least);
                counters.shared_read += read;
                counters.shared_written += written;
            }
            AccessSpace::Local => {
                counters.local_read += read;
                counters.local_written += written;
            }
        }
    }

    fn commit_copies(&mut self, _warp: &Warp) {}

    fn wait_copies(&mut self, _warp: &Warp, _pending: u32) {}

    fn arrive(&mut self, warp: &Warp, id: u32, waits: bool, _aligned: bool) {
        if waits {
            let site = self.site(warp);
            self.sites[site].barrier_waits += 1;
            self.arrivals[warp.index as usize] = Some((id, site as u32, self.operations));
        }
    }

    fn release(&mut self, id: u32) {
        for arrival in &mut self.arrivals {
            if let Some((_, site, since)) = arrival.take_if(|(barrier, ..)| *barrier == id) {
                self.sites[site as usize].waited += self.operations - since;
            }
        }
    }

    fn warp_sync(&mut self, _warp: &Warp, _members: u32, _memory: bool) {}

    fn shuffled_from_absent(&mut self, _warp: &Warp, _readers: u32) {}

    fn fence(&mut self, _warp: &Warp, _scope: Scope) {}

    fn mbarrier(&mut self, _warp: &Warp, _address: u64, _event: MbarrierEvent) {}

    fn operation(&mut self, warp: &Warp) {
        // An instruction may be several operations: the first counts. One that runs again after it has waited does not.
        // SAFETY: `pc` is a position of the current function, and so is the one before it.
        let first = warp.pc == 0
            || unsafe {
                let op = warp.ops.add(warp.pc as usize);
                (*op.sub(1)).instruction != (*op).instruction
            };
        if first && warp.resume.is_none() {
            let site = self.site(warp);
            self.operations += 1;
            let macs = self.launch.macs[site];
            let counters = &mut self.sites[site];
            counters.instructions += 1;
            counters.lanes += u64::from(warp.mask.count_ones());
            counters.macs += macs;
        }
    }

    fn wants_operations(&self) -> bool {
        true
    }

    fn diverged(&mut self, warp: &Warp, _taken: u32, _not_taken: u32) {
        let site = self.site(warp);
        self.sites[site].divergent += 1;
    }

    fn block_end(&mut self) {
        let mut block = Counters::default();
        self.sites.iter().for_each(|counters| block += counters);
        let mut profiles = profiles();
        let profile = profiles.entry(self.launch.key.clone()).or_insert_with(|| KernelProfile {
            kernel: self.launch.kernel.clone(),
            launches: 0,
            blocks: 0,
            sites: vec![Counters::default(); self.sites.len()],
            total: Counters::default(),
            least: block,
            most: block,
            read_footprint: 0,
            written_footprint: 0,
        });
        profile.blocks += 1;
        profile.total += &block;
        profile.least = profile.least.map(&block, u64::min);
        profile.most = profile.most.map(&block, u64::max);
        for (sum, counters) in profile.sites.iter_mut().zip(&self.sites) {
            *sum += counters;
        }
        drop(profiles);
        let mut footprints = self.launch.footprints.lock().unwrap_or_else(PoisonError::into_inner);
        for (all, own) in footprints.iter_mut().zip(&self.footprints) {
            all.merge(own);
        }
    }
}

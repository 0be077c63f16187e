//! Special registers.

use crate::{
    machine::{
        op::{Exec, Flow, free},
        warp::Warp,
    },
    ptx::ast::Type,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMask(LaneMask),
    Clock,
    ClockHi,
    Clock64,
    GlobalTimer,
    GlobalTimerLo,
    GlobalTimerHi,
    DynamicShared,
    TotalShared,
    AggregateShared,
    /// Registers that the driver fills; 1 and 2 are the address of a grid's barrier.
    Env(u8),
    /// Of the cluster of one block that every launch without clusters is.
    ClusterZero,
    ClusterOne,
    ClusterId(u8),
    NClusterId(u8),
    IsExplicitCluster,
    ReservedSharedOffset,
}

/// `%lanemask_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

impl Special {
    /// The register of a name, with its component for vectors (`%tid.x`).
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (base, component) = match name.rsplit_once('.') {
            Some((base, "x")) => (base, 0),
            Some((base, "y")) => (base, 1),
            Some((base, "z")) => (base, 2),
            Some((base, "w")) => (base, 3),
            Some(_) => return None,
            None => (name, u8::MAX),
        };
        if component != u8::MAX {
            return Some(match base {
                "%tid" => Self::Tid(component),
                "%ntid" => Self::Ntid(component),
                "%ctaid" => Self::Ctaid(component),
                "%nctaid" => Self::Nctaid(component),
                "%clusterid" => Self::ClusterId(component),
                "%nclusterid" => Self::NClusterId(component),
                "%cluster_ctaid" => Self::ClusterZero,
                "%cluster_nctaid" => Self::ClusterOne,
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Self::LaneId,
            "%warpid" => Self::WarpId,
            "%nwarpid" => Self::NWarpId,
            "%smid" => Self::SmId,
            "%nsmid" => Self::NSmId,
            "%gridid" => Self::GridId,
            "%lanemask_eq" => Self::LaneMask(LaneMask::Eq),
            "%lanemask_le" => Self::LaneMask(LaneMask::Le),
            "%lanemask_lt" => Self::LaneMask(LaneMask::Lt),
            "%lanemask_ge" => Self::LaneMask(LaneMask::Ge),
            "%lanemask_gt" => Self::LaneMask(LaneMask::Gt),
            "%clock" => Self::Clock,
            "%clock_hi" => Self::ClockHi,
            "%clock64" => Self::Clock64,
            "%globaltimer" => Self::GlobalTimer,
            "%globaltimer_lo" => Self::GlobalTimerLo,
            "%globaltimer_hi" => Self::GlobalTimerHi,
            "%dynamic_smem_size" => Self::DynamicShared,
            "%total_smem_size" => Self::TotalShared,
            "%aggr_smem_size" => Self::AggregateShared,
            "%cluster_ctarank" => Self::ClusterZero,
            "%cluster_nctarank" => Self::ClusterOne,
            "%is_explicit_cluster" => Self::IsExplicitCluster,
            "%reserved_smem_offset_begin" | "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => {
                Self::ReservedSharedOffset
            }
            _ => {
                let number: u8 = name.strip_prefix("%envreg")?.parse().ok()?;
                return (number < 32).then_some(Self::Env(number));
            }
        })
    }

    /// Its type.
    pub(crate) fn ty(self) -> Type {
        match self {
            Self::GridId | Self::Clock64 | Self::GlobalTimer => Type::U64,
            Self::IsExplicitCluster => Type::Pred,
            _ => Type::U32,
        }
    }

    /// What the operation's `imm` must be.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Tid(k)
            | Self::Ntid(k)
            | Self::Ctaid(k)
            | Self::Nctaid(k)
            | Self::ClusterId(k)
            | Self::NClusterId(k)
            | Self::Env(k) => k.into(),
            _ => 0,
        }
    }

    /// The operation that writes its value to `d`.
    pub(crate) fn exec(self) -> Exec {
        match self {
            Self::Tid(3) => value(|_, _| 0),
            Self::Tid(_) => free(|warp, op| {
                let values = warp.tid[op.imm as usize];
                // SAFETY: `d` is a 32-bit slot of this frame (`Self::ty`).
                unsafe { warp.write::<u32>(op.d, &values) };
                Flow::Next
            }),
            Self::Ntid(3) | Self::Nctaid(3) | Self::NClusterId(3) => value(|_, _| 1),
            Self::Ntid(_) => value(|warp, k| warp.running().launch.block[k]),
            Self::Ctaid(3) | Self::ClusterId(3) => value(|_, _| 0),
            Self::Ctaid(_) | Self::ClusterId(_) => value(|warp, k| warp.block().index[k]),
            Self::Nctaid(_) | Self::NClusterId(_) => value(|warp, k| warp.running().launch.grid[k]),
            Self::LaneId => per_lane(|lane| lane),
            Self::WarpId => value(|warp, _| warp.index),
            Self::NWarpId => value(|_, _| 64),
            Self::SmId => {
                value(|warp, _| (warp.block().number % u64::from(warp.running().launch.multiprocessors.max(1))) as u32)
            }
            Self::NSmId => value(|warp, _| warp.running().launch.multiprocessors),
            Self::GridId => value64(|warp| warp.running().launch.order.time),
            Self::LaneMask(LaneMask::Eq) => per_lane(|lane| 1 << lane),
            Self::LaneMask(LaneMask::Le) => per_lane(|lane| u32::MAX >> (31 - lane)),
            Self::LaneMask(LaneMask::Lt) => per_lane(|lane| (1 << lane) - 1),
            Self::LaneMask(LaneMask::Ge) => per_lane(|lane| u32::MAX << lane),
            Self::LaneMask(LaneMask::Gt) => per_lane(|lane| u32::MAX - (u32::MAX >> (31 - lane))),
            Self::Clock => value(|warp, _| clock(warp) as u32),
            Self::ClockHi => value(|warp, _| (clock(warp) >> 32) as u32),
            Self::Clock64 => value64(clock),
            Self::GlobalTimer => value64(|_| nanoseconds()),
            Self::GlobalTimerLo => value(|_, _| nanoseconds() as u32),
            Self::GlobalTimerHi => value(|_, _| (nanoseconds() >> 32) as u32),
            Self::DynamicShared => value(|warp, _| warp.running().launch.dynamic_shared),
            Self::TotalShared | Self::AggregateShared => value(|warp, _| warp.running().shared_bytes()),
            // Cooperative groups read the address of the grid's barrier from these two.
            Self::Env(1) => value(|warp, _| (warp.running().workspace >> 32) as u32),
            Self::Env(2) => value(|warp, _| warp.running().workspace as u32),
            Self::Env(_) | Self::ClusterZero | Self::ReservedSharedOffset => value(|_, _| 0),
            Self::ClusterOne => value(|_, _| 1),
            Self::IsExplicitCluster => free(|warp, op| {
                // SAFETY: `d` is a predicate slot of this frame (`Self::ty`).
                unsafe { warp.write_predicate(op.d, 0) };
                Flow::Next
            }),
        }
    }
}

/// Operations stand for cycles: only differences and order mean something. Reading it counts, so that loops that wait
/// for it to go on give way in the end.
fn clock(warp: &mut Warp) -> u64 {
    warp.clock += 1;
    warp.clock
}

fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}

/// The same 32-bit value in every lane; the closure is given the component.
fn value<F: Fn(&mut Warp, usize) -> u32 + Copy>(_: F) -> Exec {
    free(|warp, op| {
        let value = crate::machine::op::conjure::<F>()(warp, op.imm as usize);
        // SAFETY: `d` is a 32-bit slot of this frame (`Special::ty`).
        unsafe { warp.write::<u32>(op.d, &[value; 32]) };
        Flow::Next
    })
}

fn value64<F: Fn(&mut Warp) -> u64 + Copy>(_: F) -> Exec {
    free(|warp, op| {
        let value = crate::machine::op::conjure::<F>()(warp);
        // SAFETY: `d` is a 64-bit slot of this frame (`Special::ty`).
        unsafe { warp.write::<u64>(op.d, &[value; 32]) };
        Flow::Next
    })
}

fn per_lane<F: Fn(u32) -> u32 + Copy>(_: F) -> Exec {
    free(|warp, op| {
        let values = std::array::from_fn(|lane| crate::machine::op::conjure::<F>()(lane as u32));
        // SAFETY: `d` is a 32-bit slot of this frame (`Special::ty`).
        unsafe { warp.write::<u32>(op.d, &values) };
        Flow::Next
    })
}

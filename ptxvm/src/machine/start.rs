//! A warp about to start.

use super::{
    block::Block,
    launch::Running,
    warp::{Frame, NONE, Warp},
};
use crate::monitor::Monitor;
use std::ptr::NonNull;

/// `%tid` of the lanes of warp `index`. Lanes beyond the block's last thread have numbers too, which nobody sees.
fn thread_indices([x, y, _]: [u32; 3], index: u32) -> [[u32; 32]; 3] {
    let first = index * 32;
    let mut place = [first % x, first / x % y, first / x / y];
    let mut tid = [[0; 32]; 3];
    for lane in 0..32 {
        for axis in 0..3 {
            tid[axis][lane] = place[axis];
        }
        place[0] += 1;
        if place[0] == x {
            place[0] = 0;
            place[1] += 1;
            if place[1] == y {
                place[1] = 0;
                place[2] += 1;
            }
        }
    }
    tid
}

/// A warp of a block about to start: one split, in the kernel's frame. `old`: the warp of the same number of a block of
/// this launch that has ended, whose memory it takes over.
pub(crate) fn first_frame(
    running: &Running<'_>,
    block: *mut Block,
    monitor: Option<NonNull<dyn Monitor>>,
    index: u32,
    old: Option<&mut Warp>,
) -> Warp {
    let launch = running.launch;
    let count = (launch.threads() - index * 32).min(32);
    let lanes = if count == 32 { u32::MAX } else { (1 << count) - 1 };
    let kernel = launch.kernel.0;
    let local_bytes = running.program().functions[kernel as usize].local_bytes;
    let (mut others, mut joins, mut frames, mut local) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut tid, mut cache) = (None, Default::default());
    let mut registers = Vec::new();
    if let Some(old) = old {
        (others, joins) = (std::mem::take(&mut old.others), std::mem::take(&mut old.joins));
        (frames, local) = (std::mem::take(&mut old.frames), std::mem::take(&mut old.local));
        (tid, cache) = (Some(old.tid), std::mem::take(&mut old.cache));
        registers =
            frames.first_mut().map(|frame: &mut Frame| std::mem::take(&mut frame.registers)).unwrap_or_default();
        others.clear();
        joins.clear();
        frames.clear();
        local.clear();
    }
    running.fill_registers(kernel, &mut registers);
    frames.push(Frame { registers, function: kernel, local_base: 0, tops: None, caller: NONE, call_pc: 0, used: true });
    local.resize(local_bytes as usize * 32, 0);
    Warp {
        mask: lanes,
        pc: 0,
        registers: std::ptr::null_mut(),
        ops: std::ptr::null(),
        wide: std::ptr::null(),
        frame: 0,
        join: NONE,
        unguarded: 0,
        resume: None,
        spinning: 0,
        spun_slices: 0,
        spun_lanes: 0,
        live: lanes,
        lanes,
        index,
        clock: 0,
        local_base: 0,
        block,
        running: std::ptr::from_ref(running).cast(),
        monitor,
        cache,
        fault: None,
        others,
        joins,
        frames,
        tid: tid.unwrap_or_else(|| thread_indices(launch.block, index)),
        local,
        local_bytes,
        copies: Default::default(),
        suspended: None,
    }
}

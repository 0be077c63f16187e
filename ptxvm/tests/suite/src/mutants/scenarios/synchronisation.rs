//! Barriers of all kinds, asynchronous copies, locks, queues, warps.

use cudarc::driver::DriverError;

use super::scenario;
use crate::mutants::{
    Source::{Corpus, Cuda, Ptx},
    Stage,
    stage::{arguments, line},
};

type Outcome = Result<(), DriverError>;

scenario!(SMOOTH, Corpus("async_copy"), smooth);
fn smooth(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(2 * 5 * 256), stage.empty::<f32>(2 * 5 * 256));
    stage.launch("smooth_double_buffered", line(2, 256, 0), arguments![&input, &out, 5])?;
    stage.finish()
}

scenario!(ZERO_FILLED, Corpus("async_copy"), zero_filled);
fn zero_filled(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(2_000), stage.empty::<f32>(2_048));
    stage.launch("reverse_zero_filled", line(2, 256, 0), arguments![&input, &out, 2_000])?;
    stage.finish()
}

scenario!(RING, Corpus("mbarrier"), ring);
fn ring(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(2 * 7 * 96), stage.empty::<f32>(2 * 7 * 96));
    stage.launch("ring_of_mbarriers", line(2, 128, 0), arguments![&input, &out, 7])?;
    stage.finish()
}

scenario!(MBARRIER_COPY, Corpus("mbarrier"), mbarrier_copy);
fn mbarrier_copy(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(256), stage.empty::<f32>(256));
    stage.launch("copies_arrive_on_mbarrier", line(2, 128, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(NAMED, Corpus("named_barriers"), named);
fn named(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(6 * 64, -9, 9), stage.empty::<i32>(6 * 64));
    stage.launch("named_barrier_pipeline", line(1, 128, 0), arguments![&input, &out, 6])?;
    stage.finish()
}

scenario!(SPIN_LOCK, Corpus("spin_lock"), spin_lock);
fn spin_lock(stage: &Stage) -> Outcome {
    let (counter, order) = (stage.zeros::<i32>(1), stage.empty::<i32>(256));
    stage.launch("count_under_lock", line(2, 64, 0), arguments![&counter, &order, 2])?;
    stage.finish()
}

scenario!(SORTED_LIST, Corpus("spin_lock"), sorted_list);
fn sorted_list(stage: &Stage) -> Outcome {
    let heads = stage.device.upload(&[-1i32; 5]);
    let (next, locks) = (stage.empty::<i32>(100), stage.zeros::<i32>(5));
    let keys = stage.integers(100, 0, 1_000);
    stage.launch("insert_sorted_list", line(2, 64, 0), arguments![&heads, &next, &keys, &locks, 5, 100])?;
    stage.finish()
}

scenario!(QUEUE, Corpus("queue"), queue);
fn queue(stage: &Stage) -> Outcome {
    let queue = stage.device.upload(&[0u32, 1, 1, 0]);
    let mut first = [0i32; 128];
    first[1] = 900;
    let items = stage.device.upload(&first);
    let mut flags = [0u32; 64];
    flags[0] = 1;
    let (ready, total) = (stage.device.upload(&flags), stage.zeros::<u64>(1));
    stage.launch("persistent_sum", line(3, 64, 0), arguments![&queue, &items, &ready, 64, &total])?;
    stage.finish()
}

scenario!(GRADIENT, Corpus("conjugate_gradient"), gradient);
fn gradient(stage: &Stage) -> Outcome {
    let b = stage.device.upload(&[1.0f64; 300]);
    let [x, r, p, ap] = std::array::from_fn(|_| stage.empty::<f64>(300));
    let dots = stage.zeros::<f64>(9);
    let shape = line(4, 64, 0);
    stage.launch_cooperative("conjugate_gradient", shape, arguments![&b, &x, &r, &p, &ap, &dots, 300, 0.5f64, 4])?;
    stage.finish()
}

scenario!(COMPACT, Corpus("compaction"), compact);
fn compact(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(1_000, -9, 10), stage.empty::<i32>(1_000));
    // Starting at the end, the first result already lies outside.
    let count = stage.device.upload(&[if stage.mutated { 1_000i32 } else { 0 }]);
    stage.launch("compact_ballot", line(8, 128, 0), arguments![&input, &out, &count, 1_000])?;
    stage.finish()
}

scenario!(COMPACT_AGGREGATED, Corpus("compaction"), compact_aggregated);
fn compact_aggregated(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(1_000, -9, 10), stage.empty::<i32>(1_000));
    let count = stage.zeros::<i32>(1);
    stage.launch("compact_aggregated", line(8, 128, 0), arguments![&input, &out, &count, 1_000])?;
    stage.finish()
}

scenario!(SUM_BY_KEY, Corpus("warp_tricks"), sum_by_key);
fn sum_by_key(stage: &Stage) -> Outcome {
    let (keys, values, sums) = (stage.integers(300, 0, 9), stage.integers(300, -9, 9), stage.zeros::<i32>(9));
    stage.launch("sum_by_key", line(5, 64, 0), arguments![&keys, &values, &sums, 300])?;
    stage.finish()
}

scenario!(REVERSE_IN_WARP, Corpus("warp_tricks"), reverse_in_warp);
fn reverse_in_warp(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(512, -9, 9), stage.empty::<i32>(512));
    stage.launch("reverse_in_warp", line(2, 256, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(HASH, Corpus("atomics"), hash);
fn hash(stage: &Stage) -> Outcome {
    let keys: Vec<u64> = (0..400u64).map(|i| i % 60 + 1).collect();
    let (keys, table, counts) = (stage.device.upload(&keys), stage.zeros::<u64>(256), stage.zeros::<u32>(256));
    stage.launch("hash_insert", line(4, 128, 0), arguments![&keys, &table, &counts, 256, 400])?;
    stage.finish()
}

scenario!(WARP_SUM, Cuda("warp_synchronous"), warp_sum);
fn warp_sum(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(256), stage.empty::<f32>(2));
    stage.launch("sum_without_shuffles", line(2, 128, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(WARP_BROADCAST, Cuda("warp_synchronous"), warp_broadcast);
fn warp_broadcast(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(256), stage.empty::<f32>(256));
    stage.launch("broadcast_in_warp", line(2, 128, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(BARRIER_LOOP, Cuda("barriers"), barrier_loop);
fn barrier_loop(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(200), stage.empty::<f32>(200));
    stage.launch("rotate_rounds", line(1, 64, 0), arguments![&input, &out, 200])?;
    stage.finish()
}

scenario!(BARRIER_SWITCH, Cuda("barriers"), barrier_switch);
fn barrier_switch(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(64), stage.empty::<f32>(64));
    stage.launch("split_roles", line(1, 64, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(GRID_BARRIER, Cuda("barriers"), grid_barrier);
fn grid_barrier(stage: &Stage) -> Outcome {
    let (cells, arrived) = (stage.zeros::<i32>(4), stage.zeros::<u32>(1));
    stage.launch_cooperative("own_grid_barrier", line(4, 32, 0), arguments![&cells, &arrived])?;
    stage.finish()
}

scenario!(PTX_COPY, Ptx("async_copy"), ptx_copy);
fn ptx_copy(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(64), stage.empty::<f32>(64));
    stage.launch("copy_two_groups", line(1, 32, 0), arguments![&input, &out])?;
    stage.finish()
}

scenario!(PTX_BARRIER, Ptx("barrier"), ptx_barrier);
fn ptx_barrier(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(64), stage.empty::<f32>(64));
    stage.launch("swap_halves", line(1, 64, 0), arguments![&input, &out])?;
    stage.finish()
}

use super::*;

/// A card of round numbers: 100 multiprocessors at 1 GHz, 1 TFLOP/s of tensor cores each, 1 GB/s is a byte a nanosecond.
fn round() -> Card {
    Card {
        multiprocessors: 100,
        clock_mhz: 1000.0,
        half_tflops: 100.0 / achievable().tensor,
        f32_tflops: 10.0 / achievable().scalar,
        memory_gbs: 1000.0 / achievable().memory,
        l2_gbs: 4000.0 / achievable().l2,
        threads: 2048,
        launch_microseconds: 1.0,
        ..Card::default()
    }
}

fn nothing() -> Needs {
    Needs {
        precision: Precision::Bf16,
        tensor: true,
        flops: 0.0,
        memory_bytes: 0.0,
        traffic: 0.0,
        blocks: 100,
        threads: 256,
        resident: 2,
        steps: 0,
        barriers: 0,
        counted: None,
    }
}

#[test]
fn arithmetic_at_the_card_s_rate_when_blocks_fill_it() {
    // 10 GFLOP at 100 TFLOP/s are 100 µs; a microsecond to start; and the first loads, which nothing hides in one round.
    let bound = round().bound(&Needs { flops: 10e9, ..nothing() });
    let expected = 1.0 + 100.0 + latency().first_load_l2;
    assert!((bound.microseconds - expected).abs() < 1e-9, "{bound:?}");
    assert_eq!((bound.limit, bound.waves), (Limit::Arithmetic, 0.5));
    assert_eq!(bound.occupancy, 256.0 / 2048.0);
}

#[test]
fn one_block_more_than_multiprocessors_takes_twice_as_long() {
    let full = round().bound(&Needs { flops: 10e9, resident: 1, ..nothing() });
    let over = round().bound(&Needs { flops: 10.1e9, blocks: 101, resident: 1, ..nothing() });
    assert!((over.parts.busiest - 2.0 * full.parts.busiest).abs() < 1e-9, "{over:?}");
    assert_eq!((full.limit, over.limit), (Limit::Arithmetic, Limit::Waves));
}

#[test]
fn two_warps_leave_half_of_the_schedulers_idle() {
    let bound = round().bound(&Needs { flops: 10e9, threads: 64, ..nothing() });
    assert!((bound.parts.busiest - 200.0).abs() < 1e-9, "{bound:?}");
    assert_eq!(bound.limit, Limit::Waves);
    // Two such blocks at once do not.
    let bound = round().bound(&Needs { flops: 10e9, threads: 64, blocks: 200, ..nothing() });
    assert!((bound.parts.busiest - 100.0).abs() < 1e-9, "{bound:?}");
}

#[test]
fn f32_work_outside_of_products_runs_at_f32_s_rate() {
    let bound = round().bound(&Needs { flops: 10e9, tensor: false, ..nothing() });
    assert!((bound.parts.arithmetic - 1000.0).abs() < 1e-9, "{bound:?}");
}

#[test]
fn memory_and_the_second_cache_have_rates_of_their_own() {
    // 10 MB at 1000 GB/s; 100 MB at 4000 GB/s.
    let bound = round().bound(&Needs { memory_bytes: 10e6, ..nothing() });
    assert!((bound.microseconds - 11.0).abs() < 1e-9 && bound.limit == Limit::Memory, "{bound:?}");
    let bound = round().bound(&Needs { memory_bytes: 1e6, traffic: 100e6, ..nothing() });
    assert!((bound.microseconds - 26.0).abs() < 1e-9 && bound.limit == Limit::L2, "{bound:?}");
    // One block takes what its multiprocessor's port lets through: 64 bytes a nanosecond, times the share.
    let bound = round().bound(&Needs { traffic: 1e6, blocks: 1, ..nothing() });
    assert!((bound.parts.l2 - 1e6 / (64.0 * 1000.0 * achievable().l2)).abs() < 1e-9, "{bound:?}");
}

#[test]
fn steps_one_after_the_other_and_barriers_take_their_time() {
    let bound = round().bound(&Needs { steps: 100, ..nothing() });
    assert!((bound.parts.latency - (latency().first_load_l2 + 100.0 * latency().step)).abs() < 1e-9, "{bound:?}");
    assert_eq!(bound.limit, Limit::Latency);
    let bound = round().bound(&Needs { barriers: 8, ..nothing() });
    let expected = 1.0 + 8.0 * latency().barrier + latency().first_load_l2;
    assert!((bound.microseconds - expected).abs() < 1e-9 && bound.limit == Limit::Barriers, "{bound:?}");
    assert_eq!(round().bound(&nothing()).limit, Limit::Launch);
}

#[test]
fn counted_instructions_and_bank_conflicts_can_decide() {
    // 100 multiprocessors × 4 schedulers × 1000 a microsecond.
    let counted = Counted { warp_instructions: 8e6, shared_waves: 1e5, sector_bytes: 0.0 };
    let bound = round().bound(&Needs { counted: Some(counted), ..nothing() });
    assert!((bound.parts.issue - 20.0).abs() < 1e-9 && bound.limit == Limit::Issue, "{bound:?}");
    let counted = Counted { warp_instructions: 0.0, shared_waves: 3e6, sector_bytes: 8e6 };
    let bound = round().bound(&Needs { counted: Some(counted), traffic: 4e6, ..nothing() });
    assert!((bound.parts.shared - 30.0).abs() < 1e-9 && bound.limit == Limit::Shared, "{bound:?}");
    // Sectors are the first cache's: 8 MB over 100 of them, 128 bytes a nanosecond each. The second sees the traffic.
    assert!((bound.parts.l1 - 0.625).abs() < 1e-9 && (bound.parts.l2 - 1.0).abs() < 1e-9, "{bound:?}");
}

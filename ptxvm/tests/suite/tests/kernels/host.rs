//! What the host does around kernels: streams, events, graphs, pinned and managed memory, globals, printing, several devices.

use std::process::Command;

use cudarc::driver::{
    DriverError,
    sys::{CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus},
};
use ptxvm_suite::{Device, Random, assert_equal, function, launch, try_launch};

fn blocks(n: usize) -> (u32, u32, u32) {
    (n.div_ceil(128) as u32, 1, 1)
}

const THREADS: (u32, u32, u32) = (128, 1, 1);

#[test]
fn chunks_go_through_several_streams_and_meet_at_events() {
    let device = Device::new();
    let module = device.module("streams");
    let (scale, add) = (function(&module, "scale"), function(&module, "add"));
    let n = 5_003;
    let input = Random::new(1).units(n);
    let first = device.context.new_stream().expect("stream");
    let second = device.context.new_stream().expect("stream");
    // The program orders its streams by its own events.
    // SAFETY: every buffer outlives the work on it.
    unsafe { device.context.disable_event_tracking() };
    let mut a = first.clone_htod(&input).expect("copy");
    let mut b = second.clone_htod(&input).expect("copy");
    let mut out = first.alloc_zeros::<f32>(n).expect("allocation");
    for _ in 0..10 {
        launch!(first, scale, blocks(n), THREADS, 0; &mut a, &1.5f32, &(n as i32));
        launch!(second, scale, blocks(n), THREADS, 0; &mut b, &0.5f32, &(n as i32));
    }
    let done = second.record_event(None).expect("event");
    first.wait(&done).expect("wait");
    launch!(first, add, blocks(n), THREADS, 0; &a, &b, &mut out, &(n as i32));
    let out = first.clone_dtoh(&out).expect("copy");
    first.synchronize().expect("synchronize");
    let power = |v: f32, factor: f32| (0..10).fold(v, |v, _| v * factor);
    let expected: Vec<f32> = input.iter().map(|&v| power(v, 1.5) + power(v, 0.5)).collect();
    assert_equal("two streams", &out, &expected);
}

#[test]
fn events_measure_time_that_passes() {
    let device = Device::new();
    let kernel = device.kernel("streams", "fill");
    let start = device.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("event");
    let mut data = device.zeros::<f32>(100_000);
    launch!(device.stream, kernel, blocks(100_000), THREADS, 0; &mut data, &2.0f32, &100_000i32);
    let end = device.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("event");
    end.synchronize().expect("synchronize");
    assert!(end.is_complete());
    assert!(start.elapsed_ms(&end).expect("time") > 0.0);
}

#[test]
fn a_captured_graph_replays_its_work() {
    let device = Device::new();
    let module = device.module("streams");
    let (scale, add) = (function(&module, "scale"), function(&module, "add"));
    let n = 1_001;
    // SAFETY: every buffer outlives the work on it.
    unsafe { device.context.disable_event_tracking() };
    let stream = device.context.new_stream().expect("stream");
    let side = device.context.new_stream().expect("stream");
    let mut a = stream.clone_htod(&vec![1.0f32; n]).expect("copy");
    let mut b = stream.clone_htod(&vec![1.0f32; n]).expect("copy");
    let mut out = stream.alloc_zeros::<f32>(n).expect("allocation");
    stream.synchronize().expect("synchronize");
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("capture");
    // A fork and a join: the side stream takes part in the capture through events.
    let fork = stream.record_event(None).expect("event");
    side.wait(&fork).expect("wait");
    launch!(stream, scale, blocks(n), THREADS, 0; &mut a, &2.0f32, &(n as i32));
    launch!(side, scale, blocks(n), THREADS, 0; &mut b, &3.0f32, &(n as i32));
    let join = side.record_event(None).expect("event");
    stream.wait(&join).expect("wait");
    launch!(stream, add, blocks(n), THREADS, 0; &a, &b, &mut out, &(n as i32));
    let status = stream.capture_status().expect("status");
    assert_eq!(status, CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).expect("end of capture").expect("a graph");
    assert_equal("nothing ran while captured", &stream.clone_dtoh(&out).expect("copy"), &vec![0.0; n]);
    for round in 1..=4 {
        graph.launch().expect("launch of the graph");
        let expected = 2f32.powi(round) + 3f32.powi(round);
        assert_equal("replay", &stream.clone_dtoh(&out).expect("copy"), &vec![expected; n]);
    }
}

#[test]
fn managed_memory_is_seen_from_both_sides() {
    let device = Device::new();
    let kernel = device.kernel("streams", "scale");
    let n = 777usize;
    // SAFETY: written before it is read.
    let mut data = unsafe { device.context.alloc_unified::<f32>(n, true) }.expect("managed memory");
    data.as_mut_slice().expect("host access").iter_mut().enumerate().for_each(|(i, v)| *v = i as f32);
    launch!(device.stream, kernel, blocks(n), THREADS, 0; &mut data, &2.0f32, &(n as i32));
    device.stream.synchronize().expect("synchronize");
    let expected: Vec<f32> = (0..n).map(|i| 2.0 * i as f32).collect();
    assert_equal("managed memory", data.as_slice().expect("host access"), &expected);
}

#[test]
fn pinned_memory_is_copied_asynchronously() {
    let device = Device::new();
    let kernel = device.kernel("streams", "scale");
    let n = 2_049usize;
    let stream = device.context.new_stream().expect("stream");
    // SAFETY: written before it is read.
    let mut pinned = unsafe { device.context.alloc_pinned_with_flags::<f32>(n, 0) }.expect("pinned memory");
    pinned.as_mut_slice().expect("host access").fill(1.25);
    let mut data = stream.alloc_zeros::<f32>(n).expect("allocation");
    stream.memcpy_htod(&pinned, &mut data).expect("copy");
    launch!(stream, kernel, blocks(n), THREADS, 0; &mut data, &4.0f32, &(n as i32));
    stream.memcpy_dtoh(&data, &mut pinned).expect("copy");
    stream.synchronize().expect("synchronize");
    assert_equal("pinned memory", pinned.as_slice().expect("host access"), &vec![5.0; n]);
}

#[test]
fn globals_keep_their_values_between_launches() {
    let device = Device::new();
    let module = device.module("streams");
    let (count, read) = (function(&module, "count_launch"), function(&module, "read_table"));
    let mut seen = device.zeros::<i32>(1);
    for launches in 1..=3 {
        launch!(device.stream, count, (1, 1, 1), (1, 1, 1), 0; &mut seen);
        assert_equal("launches", &device.download(&seen), &[launches]);
    }
    let values: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let mut table = module.get_global("table", &device.stream).expect("the global");
    // SAFETY: any bits are an f32.
    let mut table = unsafe { table.transmute_mut::<f32>(64) }.expect("64 values");
    device.stream.memcpy_htod(&values, &mut table).expect("copy");
    let mut out = device.poisoned::<f32>(64);
    launch!(device.stream, read, (1, 1, 1), (64, 1, 1), 0; &mut out);
    let expected: Vec<f32> = values.iter().map(|v| 2.0 * v).collect();
    assert_equal("table", &device.download(&out), &expected);
}

#[test]
fn impossible_launches_are_refused_and_break_nothing() {
    let device = Device::new();
    let kernel = device.kernel("streams", "fill");
    let mut data = device.zeros::<f32>(128);
    for (grid, block, shared) in [
        ((1, 1, 1), (1_025, 1, 1), 0),
        ((0, 1, 1), (32, 1, 1), 0),
        ((1, 1, 1), (32, 1, 65), 0),
        ((1, 1, 1), (32, 1, 1), 1 << 20),
        ((1, 65_536, 1), (32, 1, 1), 0),
    ] {
        let refused = try_launch!(device.stream, kernel, grid, block, shared; &mut data, &1.0f32, &128i32);
        assert_eq!(refused, Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)), "{grid:?} {block:?} {shared}");
    }
    launch!(device.stream, kernel, (1, 1, 1), (128, 1, 1), 0; &mut data, &3.0f32, &128i32);
    assert_equal("after refused launches", &device.download(&data), &[3.0; 128]);
}

/// Runs one of the suite's programs and returns its standard output.
fn program(name: &str, devices: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ptxvm-suite-program"))
        .arg(name)
        .env("PTXVM_DEVICE", devices)
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed ({}):\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn printf_writes_every_lane_to_standard_output() {
    let mut lines: Vec<String> = program("print", "h100").lines().map(str::to_owned).collect();
    let mut expected: Vec<String> = (0..2)
        .flat_map(|block| (0..5u64).map(move |lane| (block, lane)))
        .map(|(block, lane)| {
            let (scaled, big, bits) = (lane as f64 * 0.125, lane * 10_000_000_000, 255 + lane);
            let letter = char::from(b'a' + lane as u8);
            format!("lane {lane} of block {block}: value {scaled:.3} {big:>5} {bits:#x} {letter}%")
        })
        .collect();
    lines.sort();
    expected.sort();
    assert_equal("printed lines", &lines, &expected);
}

#[test]
fn a_primary_context_that_goes_is_not_given_to_another_thread() {
    assert_eq!(program("contexts", "h100").trim(), "contexts came and went");
}

#[test]
fn data_travels_between_two_devices() {
    assert_eq!(program("peer", "h100,a100").trim(), "peer copy ok");
}

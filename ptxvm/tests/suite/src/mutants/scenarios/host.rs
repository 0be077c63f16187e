//! Streams, events and copies that the host orders, or forgets to.

use cudarc::driver::{
    DriverError, result,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};

use super::scenario;
use crate::mutants::{
    Source::Corpus,
    Stage,
    stage::{Argument, arguments, line},
};

type Outcome = Result<(), DriverError>;

const N: usize = 2_000;

fn address(argument: Argument) -> u64 {
    let Argument::Address(address) = argument else { unreachable!("a buffer is an address") };
    address
}

scenario!(EVENT_BETWEEN_STREAMS, Corpus("streams"), event_between_streams);
fn event_between_streams(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let (a, out) = (stage.floats(N), stage.empty::<f32>(N));
    stage.finish()?;
    stage.launch_on(&first, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    let done = first.record_event(None)?;
    if !stage.mutated {
        second.wait(&done)?;
    }
    stage.launch_on(&second, "add", line(16, 128, 0), arguments![&a, &a, &out, N as i32])?;
    first.synchronize()?;
    second.synchronize()
}

scenario!(EVENT_AFTER_THE_WORK, Corpus("streams"), event_after_the_work);
fn event_after_the_work(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let (a, out) = (stage.floats(N), stage.empty::<f32>(N));
    stage.finish()?;
    let early = first.record_event(None)?;
    stage.launch_on(&first, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    let late = first.record_event(None)?;
    second.wait(if stage.mutated { &early } else { &late })?;
    stage.launch_on(&second, "add", line(16, 128, 0), arguments![&a, &a, &out, N as i32])?;
    first.synchronize()?;
    second.synchronize()
}

scenario!(NON_BLOCKING_STREAM, Corpus("streams"), non_blocking_stream);
fn non_blocking_stream(stage: &Stage) -> Outcome {
    let other = stage.other_stream()?;
    let a = stage.zeros::<f32>(N);
    stage.finish()?;
    stage.launch("fill", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    // The default stream does not wait for non-blocking streams, nor they for it.
    if !stage.mutated {
        stage.finish()?;
    }
    stage.launch_on(&other, "scale", line(16, 128, 0), arguments![&a, 3.0f32, N as i32])?;
    other.synchronize()?;
    stage.finish()
}

scenario!(COPY_ON_ANOTHER_STREAM, Corpus("streams"), copy_on_another_stream);
fn copy_on_another_stream(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let (a, copy) = (stage.floats(N), stage.empty::<f32>(N));
    stage.finish()?;
    stage.launch_on(&first, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    if !stage.mutated {
        second.wait(&first.record_event(None)?)?;
    }
    // SAFETY: both buffers have that size and outlive the streams' work.
    unsafe {
        result::memcpy_dtod_async(address((&copy).into()), address((&a).into()), 4 * N, second.cu_stream())?;
    }
    first.synchronize()?;
    second.synchronize()
}

scenario!(MEMSET_ON_ANOTHER_STREAM, Corpus("streams"), memset_on_another_stream);
fn memset_on_another_stream(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let (a, b, out) = (stage.floats(N), stage.floats(N), stage.empty::<f32>(N));
    stage.finish()?;
    stage.launch_on(&first, "add", line(16, 128, 0), arguments![&a, &b, &out, N as i32])?;
    if !stage.mutated {
        second.wait(&first.record_event(None)?)?;
    }
    // SAFETY: the buffer has that size and outlives the streams' work.
    unsafe {
        result::memset_d8_async(address((&a).into()), 0, 4 * N, second.cu_stream())?;
    }
    first.synchronize()?;
    second.synchronize()
}

scenario!(GRAPH_AND_STREAM, Corpus("streams"), graph_and_stream);
fn graph_and_stream(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let a = stage.floats(N);
    stage.finish()?;
    first.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    stage.launch_on(&first, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let Some(graph) = first.end_capture(flags)? else { return Ok(()) };
    graph.launch()?;
    if !stage.mutated {
        first.synchronize()?;
    }
    stage.launch_on(&second, "scale", line(16, 128, 0), arguments![&a, 3.0f32, N as i32])?;
    first.synchronize()?;
    second.synchronize()
}

scenario!(GRAPH_BRANCHES, Corpus("streams"), graph_branches);
fn graph_branches(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let (a, out) = (stage.floats(N), stage.empty::<f32>(N));
    stage.finish()?;
    first.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let fork = first.record_event(None)?;
    stage.launch_on(&first, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    let scaled = first.record_event(None)?;
    // The side branch needs what the main branch computes, not what was there at the fork.
    second.wait(if stage.mutated { &fork } else { &scaled })?;
    stage.launch_on(&second, "add", line(16, 128, 0), arguments![&a, &a, &out, N as i32])?;
    first.wait(&second.record_event(None)?)?;
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let Some(graph) = first.end_capture(flags)? else { return Ok(()) };
    graph.launch()?;
    first.synchronize()
}

scenario!(READ_BACK, Corpus("streams"), read_back);
fn read_back(stage: &Stage) -> Outcome {
    let other = stage.other_stream()?;
    let a = stage.floats(N);
    let mut host = vec![0.0f32; N];
    stage.finish()?;
    stage.launch_on(&other, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
    if !stage.mutated {
        other.synchronize()?;
    }
    // SAFETY: both sides have that size.
    unsafe { result::memcpy_dtoh_sync(&mut host, address((&a).into()))? };
    other.synchronize()
}

scenario!(OVERWRITE, Corpus("streams"), overwrite);
fn overwrite(stage: &Stage) -> Outcome {
    let other = stage.other_stream()?;
    let (a, b, out) = (stage.floats(N), stage.floats(N), stage.empty::<f32>(N));
    let host = vec![1.0f32; N];
    stage.finish()?;
    stage.launch_on(&other, "add", line(16, 128, 0), arguments![&a, &b, &out, N as i32])?;
    if !stage.mutated {
        other.synchronize()?;
    }
    // SAFETY: both sides have that size.
    unsafe { result::memcpy_htod_sync(address((&a).into()), &host)? };
    other.synchronize()
}

scenario!(PINNED_TOO_EARLY, Corpus("streams"), pinned_too_early);
fn pinned_too_early(stage: &Stage) -> Outcome {
    let other = stage.other_stream()?;
    let (a, b) = (stage.floats(N), stage.zeros::<f32>(N));
    stage.finish()?;
    // SAFETY: the pinned buffer has the size of the copies and is freed once the stream is idle.
    unsafe {
        let pinned = result::malloc_host(4 * N, 0)?;
        let slice = std::slice::from_raw_parts_mut(pinned.cast::<f32>(), N);
        stage.launch_on(&other, "scale", line(16, 128, 0), arguments![&a, 2.0f32, N as i32])?;
        result::memcpy_dtoh_async(slice, address((&a).into()), other.cu_stream())?;
        if !stage.mutated {
            other.synchronize()?;
        }
        // The host hands on what the copy may not have brought yet.
        result::memcpy_htod_sync(address((&b).into()), slice)?;
        other.synchronize()?;
        result::free_host(pinned)
    }
}

scenario!(PINNED_REUSED, Corpus("streams"), pinned_reused);
fn pinned_reused(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    let (a, b) = (stage.floats(N), stage.floats(N));
    stage.finish()?;
    // SAFETY: the pinned buffer has the size of the copies and is freed once the streams are idle.
    unsafe {
        let pinned = result::malloc_host(4 * N, 0)?;
        let slice = std::slice::from_raw_parts_mut(pinned.cast::<f32>(), N);
        slice.fill(0.5);
        result::memcpy_htod_async(address((&a).into()), slice, first.cu_stream())?;
        if !stage.mutated {
            second.wait(&first.record_event(None)?)?;
        }
        result::memcpy_dtoh_async(slice, address((&b).into()), second.cu_stream())?;
        first.synchronize()?;
        second.synchronize()?;
        result::free_host(pinned)
    }
}

scenario!(FREED_WHILE_IN_USE, Corpus("streams"), freed_while_in_use);
fn freed_while_in_use(stage: &Stage) -> Outcome {
    let (first, second) = (stage.other_stream()?, stage.other_stream()?);
    // SAFETY: freed once; before its use is over only where mutated.
    unsafe {
        let buffer = result::malloc_async(first.cu_stream(), 4 * N)?;
        result::memset_d8_async(buffer, 0, 4 * N, first.cu_stream())?;
        stage.launch_on(&first, "scale", line(16, 128, 0), arguments![buffer, 2.0f32, N as i32])?;
        if !stage.mutated {
            second.wait(&first.record_event(None)?)?;
        }
        result::free_async(buffer, second.cu_stream())?;
    }
    first.synchronize()?;
    second.synchronize()
}

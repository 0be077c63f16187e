//! Streams and events.

use super::super::{copy, event, fill, launch, value};
use super::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

fn event_with(flags: u32) -> Handle {
    let mut handle = Handle::NULL;
    ok(event::cuEventCreate(out(&mut handle), flags));
    handle
}

/// Waits until the number is not 0 any more.
extern "C" fn wait_for_flag(flag: Opaque) {
    // SAFETY: the test keeps the number until the stream is done.
    let flag = unsafe { AtomicU32::from_ptr(flag.cast()) };
    let limit = Instant::now() + Duration::from_secs(20);
    while flag.load(Ordering::Acquire) == 0 && Instant::now() < limit {
        std::thread::yield_now();
    }
}

#[test]
fn an_event_holds_another_stream_back_and_nothing_else_does() {
    let world = World::new();
    let (first, second) = (world.stream(1), world.stream(1));
    let pointer = world.numbers(&[1; 100]);
    ok(context::cuCtxSynchronize());
    let gate = AtomicU32::new(0);
    ok(launch::cuLaunchHostFunc(first, Some(wait_for_flag), gate.as_ptr().cast()));
    ok(world.step(pointer, 100, 3, first));
    let reached = event_with(2);
    ok(event::cuEventRecord(reached, first));
    // Nothing orders this after the first stream.
    let other = world.stream(1);
    ok(stream::cuStreamSynchronize(other));
    ok(stream::cuStreamWaitEvent(second, reached, 0));
    ok(world.step(pointer, 100, 10, second));
    fails(stream::cuStreamQuery(second), Status::NotReady);
    fails(event::cuEventQuery(reached), Status::NotReady);
    gate.store(1, Ordering::Release);
    ok(stream::cuStreamSynchronize(second));
    assert_eq!(world.read(pointer, 100), [41; 100]);
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_not_for_others() {
    let world = World::new();
    let (blocking, free) = (world.stream(0), world.stream(1));
    let pointer = world.numbers(&[2]);
    ok(context::cuCtxSynchronize());
    let gate = AtomicU32::new(0);
    ok(launch::cuLaunchHostFunc(free, Some(wait_for_flag), gate.as_ptr().cast()));
    ok(world.step(pointer, 1, 5, blocking));
    ok(world.step(pointer, 1, 2, Handle::NULL));
    ok(world.step(pointer, 1, 3, blocking));
    ok(stream::cuStreamSynchronize(blocking));
    assert_eq!(world.read(pointer, 1), [((2 * 5 + 1) * 2 + 1) * 3 + 1]);
    // The default stream is done although the free stream is not.
    fails(stream::cuStreamQuery(free), Status::NotReady);
    gate.store(1, Ordering::Release);
    ok(stream::cuStreamSynchronize(free));
}

#[test]
fn the_legacy_stream_and_blocking_streams_hold_each_other_back() {
    let world = World::new();
    let streams = [Handle::NULL, world.stream(0)];
    let pointer = world.numbers(&[1]);
    for (first, second) in [(0, 1), (1, 0)] {
        ok(context::cuCtxSynchronize());
        let gate = AtomicU32::new(0);
        ok(launch::cuLaunchHostFunc(streams[first], Some(wait_for_flag), gate.as_ptr().cast()));
        ok(world.step(pointer, 1, 5, streams[second]));
        std::thread::sleep(Duration::from_millis(20));
        fails(stream::cuStreamQuery(streams[second]), Status::NotReady);
        gate.store(1, Ordering::Release);
        ok(stream::cuStreamSynchronize(streams[second]));
    }
    assert_eq!(world.read(pointer, 1), [31]);
}

#[test]
fn a_copy_from_pageable_memory_takes_it_as_it_was() {
    let world = World::new();
    let stream = world.stream(1);
    let pointer = world.numbers(&[0]);
    ok(context::cuCtxSynchronize());
    let gate = AtomicU32::new(0);
    ok(launch::cuLaunchHostFunc(stream, Some(wait_for_flag), gate.as_ptr().cast()));
    let mut number = [5_u32];
    ok(copy::cuMemcpyHtoDAsync_v2(pointer, In::from(number.as_ptr().cast()), 4, stream));
    number[0] = 6;
    gate.store(1, Ordering::Release);
    ok(stream::cuStreamSynchronize(stream));
    assert_eq!((world.read(pointer, 1)[0], number[0]), (5, 6));
}

#[test]
fn a_word_of_memory_holds_a_stream_back() {
    let world = World::new();
    let (first, second) = (world.stream(1), world.stream(1));
    let (word, pointer) = (world.numbers(&[0]), world.numbers(&[1]));
    ok(context::cuCtxSynchronize());
    ok(value::cuStreamWaitValue32_v2(first, word, 3, 0));
    ok(world.step(pointer, 1, 7, first));
    fails(stream::cuStreamQuery(first), Status::NotReady);
    ok(value::cuStreamWriteValue32_v2(second, word, 4, 0));
    ok(stream::cuStreamSynchronize(first));
    assert_eq!(world.read(pointer, 1), [8]);
    fails(value::cuStreamWaitValue32_v2(first, word + 2, 3, 0), Status::InvalidValue);
}

#[test]
fn events_time_what_lies_between_them() {
    let world = World::new();
    let (start, end, untimed) = (event_with(0), event_with(0), event_with(2));
    let pointer = world.numbers(&[0; 1000]);
    let mut milliseconds = 0.0_f32;
    fails(event::cuEventElapsedTime(out(&mut milliseconds), start, end), Status::InvalidHandle);
    ok(event::cuEventRecord(start, Handle::NULL));
    ok(fill::cuMemsetD8_v2(pointer, 1, 4000));
    ok(event::cuEventRecord(end, Handle::NULL));
    ok(event::cuEventRecord(untimed, Handle::NULL));
    ok(event::cuEventSynchronize(untimed));
    ok(event::cuEventElapsedTime_v2(out(&mut milliseconds), start, end));
    assert!((0.0..10_000.0).contains(&milliseconds));
    ok(event::cuEventElapsedTime_v2(out(&mut milliseconds), end, start));
    assert!(milliseconds <= 0.0);
    fails(event::cuEventElapsedTime(out(&mut milliseconds), start, untimed), Status::InvalidHandle);
    ok(event::cuEventQuery(event_with(0)));
}

#[test]
fn a_destroyed_stream_still_does_its_work() {
    let world = World::new();
    let stream = world.stream(0);
    let pointer = world.numbers(&[1]);
    ok(world.step(pointer, 1, 9, stream));
    ok(stream::cuStreamDestroy_v2(stream));
    assert_eq!(world.read(pointer, 1), [10]);
    fails(stream::cuStreamSynchronize(stream), Status::InvalidHandle);
    fails(stream::cuStreamDestroy_v2(Handle::NULL), Status::InvalidHandle);
}

extern "C" fn note_status(_: Handle, status: u32, to: Opaque) {
    // SAFETY: the test keeps the number until the stream is done.
    unsafe { AtomicU32::from_ptr(to.cast()) }.store(status + 1, Ordering::Release);
}

#[test]
fn a_callback_hears_of_a_fault_and_a_host_function_is_not_called_after_one() {
    let world = World::new();
    let stream = world.stream(1);
    let (heard, called) = (AtomicU32::new(0), AtomicU32::new(1));
    extern "C" fn clear(to: Opaque) {
        // SAFETY: the test keeps the number until the stream is done.
        unsafe { AtomicU32::from_ptr(to.cast()) }.store(0, Ordering::Release);
    }
    ok(world.poke(8, stream));
    let added = stream::cuStreamAddCallback(stream, Some(note_status), heard.as_ptr().cast(), 0);
    // The fault may have come already; then nothing more is taken.
    if added == 0 {
        launch::cuLaunchHostFunc(stream, Some(clear), called.as_ptr().cast());
        fails(stream::cuStreamSynchronize(stream), Status::IllegalAddress);
        assert_eq!(heard.load(Ordering::Acquire), Status::IllegalAddress as u32 + 1);
    } else {
        fails(added, Status::IllegalAddress);
    }
    assert_eq!(called.load(Ordering::Acquire), 1);
}

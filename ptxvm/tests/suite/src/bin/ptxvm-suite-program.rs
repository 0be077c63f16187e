//! Programs that need a process of their own, because of what they print or of the devices they ask for.

use ptxvm_suite::{Device, assert_equal, function, launch};

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "print" => print(),
        "peer" => peer(),
        "contexts" => contexts(),
        _ => panic!("the name of a program was expected (print, peer or contexts), found {name:?}"),
    }
}

/// Threads that open and close the device: whoever closes it last takes its primary context down, while others ask for it.
fn contexts() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| drop(Device::new())));
        }
    });
    println!("contexts came and went");
}

/// Two blocks whose first five lanes print.
fn print() {
    let device = Device::new();
    let kernel = device.kernel("print", "print_lanes");
    launch!(device.stream, kernel, (2, 1, 1), (32, 1, 1), 0; &5i32, &0.125f64);
    device.stream.synchronize().expect("synchronize");
}

/// Scales on the first device, copies to the second one, scales there.
fn peer() {
    let (first, second) = (Device::numbered(0), Device::numbered(1));
    assert_ne!(first.context.name(), second.context.name(), "two different cards were asked for");
    let n = 3_001usize;
    let input: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let grid = (n.div_ceil(128) as u32, 1, 1);
    first.context.bind_to_thread().expect("current context");
    let scale = function(&first.module("streams"), "scale");
    let mut source = first.upload(&input);
    launch!(first.stream, scale, grid, (128, 1, 1), 0; &mut source, &3.0f32, &(n as i32));
    first.stream.synchronize().expect("synchronize");
    second.context.bind_to_thread().expect("current context");
    let mut copy = second.zeros::<f32>(n);
    second.stream.memcpy_dtod(&source, &mut copy).expect("peer copy");
    let scale = function(&second.module("streams"), "scale");
    launch!(second.stream, scale, grid, (128, 1, 1), 0; &mut copy, &2.0f32, &(n as i32));
    let expected: Vec<f32> = input.iter().map(|v| v * 6.0).collect();
    assert_equal("peer copy", &second.download(&copy), &expected);
    println!("peer copy ok");
}

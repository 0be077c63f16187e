//! Kernels of training steps, which are not in the table: nothing is spilled and no thread has local memory.

use crate::table::compiler;
use segface_codegen::Backbone;
use segface_codegen::cuda::Kernel;
use segface_codegen::plan::Precision;
use segface_tests::instances::{Instances, collect, training_step};
use std::collections::BTreeMap;

/// One network of each kind.
const STEPS: [Backbone; 6] = [
    Backbone::MobileNet,
    Backbone::SwinBase,
    Backbone::SwinV2Tiny,
    Backbone::ConvNextTiny,
    Backbone::ResNet,
    Backbone::EfficientNet,
];

/// All of them by tensor cores, and one in f32.
fn all() -> Instances {
    let mut found = Instances::new();
    for backbone in STEPS {
        collect(&mut found, training_step(backbone, Precision::Tf32));
    }
    collect(&mut found, training_step(Backbone::MobileNet, Precision::F32));
    found
}

fn assert_nothing_is_spilled(kernels: &BTreeMap<String, Kernel>) {
    let (names, kernels): (Vec<&String>, Vec<Kernel>) =
        kernels.iter().map(|(name, kernel)| (name, kernel.clone())).unzip();
    let resources = compiler().resources(&kernels, "sm_80").unwrap_or_else(|e| panic!("{e}"));
    let bad: Vec<_> = names.iter().zip(&resources).filter(|(_, needs)| needs.spilled + needs.stack > 0).collect();
    assert!(!names.is_empty() && bad.is_empty(), "{bad:#?}");
}

#[test]
fn the_largest_of_each_room_spills_nothing() {
    let mut largest: BTreeMap<String, (usize, Kernel)> = BTreeMap::new();
    for (name, kernel) in all() {
        let room = name.split(':').next().unwrap_or_default().to_owned();
        // The sum of the numbers it is instantiated with: channels, mostly.
        let size = name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<usize>().ok()).sum();
        if largest.get(&room).is_none_or(|(before, _)| *before < size) {
            largest.insert(room, (size, kernel));
        }
    }
    let kernels: BTreeMap<String, Kernel> = largest.into_iter().map(|(room, (_, kernel))| (room, kernel)).collect();
    // Every room that a step has, forward and backward.
    assert!(kernels.len() > 40, "{:?}", kernels.keys());
    assert_nothing_is_spilled(&kernels);
}

#[test]
#[ignore = "hundreds of kernels: takes a quarter of an hour"]
fn no_kernel_of_a_step_spills() {
    assert_nothing_is_spilled(&all());
}

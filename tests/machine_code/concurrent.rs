//! Kernels that NVRTC compiles at once are those that it compiles alone.

use super::table::{compiler, hash_of, ptx};
use segface_codegen::cuda::Kernel;
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_tests::instances::Case;
use std::collections::BTreeSet;

/// Threads that compile the same kernel at once.
const THREADS: usize = 4;

/// NVRTC's load vectoriser was seen to split 16-byte loads of class-token steps in some runs and not in others, when several threads
/// compiled; instructions of ours leave it no choice. One kernel of each kind; `-- --ignored concurrent` runs it, in minutes.
#[test]
#[ignore = "compiles every kind of kernel several times"]
fn kernels_compiled_at_once_are_those_compiled_alone() {
    let compiler = compiler();
    let mut kinds = BTreeSet::new();
    let mut kernels: Vec<Kernel> = Vec::new();
    for backbone in [Backbone::MobileNet, Backbone::SwinBase, Backbone::SwinV2Tiny, Backbone::ConvNextTiny] {
        let case = Case::usual(ModelSpec { backbone, variant: Variant::Celeb }, [1, 512, 512]);
        let kind = |name: &str| name.rsplit_once('_').map(|(kind, _)| kind.to_owned());
        kernels.extend(case.kernels(&[Precision::Bf16]).into_iter().filter(|kernel| kinds.insert(kind(&kernel.name))));
    }
    let mut differ = BTreeSet::new();
    for kernel in &kernels {
        let alone = hash_of(&ptx(&compiler, kernel, 80));
        std::thread::scope(|scope| {
            let at_once: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| hash_of(&ptx(&compiler, kernel, 80)))).collect();
            for thread in at_once {
                if thread.join().expect("a thread that compiles") != alone {
                    differ.insert(&kernel.name);
                }
            }
        });
    }
    assert!(differ.is_empty(), "{differ:#?}");
}

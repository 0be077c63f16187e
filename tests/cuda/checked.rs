//! Whole networks in ptxvm's checked mode: no access out of bounds, no race, no byte read that nobody wrote. The mode is chosen when the
//! driver is loaded, so another process runs them. On a real device this is one more run.

use segface::weights::seeded;
use segface_codegen::{Backbone, ModelSpec, Variant, plan::Precision};
use segface_tests::network::{Setup, run};
use segface_tests::parity;
use std::process::Command;

/// What the process ends with where there are findings.
const FINDINGS: i32 = 66;

fn assert_no_findings(test: &str) {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--ignored", "--exact", test])
        .env("PTXVM_MODE", "checked")
        .env("PTXVM_EXIT_CODE", FINDINGS.to_string())
        .output()
        .expect("the program of this test runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 passed"), "{test} was not run or failed:\n{said}");
    assert!(output.status.success(), "{test} in checked mode, {}:\n{said}", output.status);
}

fn network(backbone: Backbone, precision: Precision) {
    let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
    // Two images, neither side a multiple of a window.
    let input = parity::input(2, 68, 76);
    run(&weights, &input, None, &Setup::cuda(precision));
}

macro_rules! networks {
    ($($test:ident $inner:ident $backbone:ident $precision:ident)*) => {$(
        #[test]
        fn $test() {
            assert_no_findings(concat!("checked::", stringify!($inner)));
        }

        #[test]
        #[ignore = "run in checked mode by the test beside it"]
        fn $inner() {
            network(Backbone::$backbone, Precision::$precision);
        }
    )*};
}

networks! {
    mobilenet_has_no_findings mobilenet MobileNet F16
    swin_base_has_no_findings swin_base SwinBase Bf16
    swinv2_tiny_has_no_findings swinv2_tiny SwinV2Tiny F16
    convnext_tiny_has_no_findings convnext_tiny ConvNextTiny F32
}

//! The kernels of this program once more, under other orders of streams, blocks, warps and lanes.

use std::process::Command;

/// A seed draws the order of everything that CUDA leaves open: a healthy program computes the same in all of them, and no
/// checker finds fault with it.
#[test]
fn every_order_gives_the_same_results_and_no_findings() {
    let program = std::env::current_exe().expect("this program has a path");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for seed in ["1", "2"] {
        let report = folder.path().join(seed);
        let output = Command::new(&program)
            .args(["--skip", "seeds::", "--test-threads", "2"])
            .env("PTXVM_SEED", seed)
            .env("PTXVM_MODE", "checked")
            .env("PTXVM_REPORT", &report)
            .output()
            .expect("it starts again");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "seed {seed}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(" 0 failed"), "seed {seed} has run no tests: {text}");
        let report = std::fs::read_to_string(&report).expect("a checked program writes its report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("the report is JSON");
        assert_eq!(report["findings"].as_array().map(Vec::len), Some(0), "seed {seed}: {report:#}");
    }
}

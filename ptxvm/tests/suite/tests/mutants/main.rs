//! Every mutant must be found by the checker that is there for it, and its healthy twin must be found clean.

mod runner;

use std::collections::BTreeSet;

use ptxvm_suite::mutants::{Edit, Mode, table};

use runner::{check_all, state_of, state_with};

#[test]
fn names_are_unique_and_every_edit_fits_its_source() {
    let mutants = table();
    let names: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), mutants.len(), "two mutants share a name");
    assert!(mutants.len() >= 70, "only {} mutants", mutants.len());
    let problems: Vec<String> = mutants
        .iter()
        .filter_map(|mutant| match mutant.mutated_text() {
            Err(problem) => Some(problem),
            Ok(text) => {
                let changed = text != mutant.scenario.healthy_text();
                let should = matches!(mutant.edit, Edit::Source(..));
                (changed != should).then(|| format!("{}: the edit changes nothing", mutant.name))
            }
        })
        .collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// A test for each kind of finding: all of its mutants are caught, all of their healthy twins are clean.
macro_rules! kinds {
    ($($test:ident: $kind:literal,)*) => {
        $(#[test]
        fn $test() {
            check_all($kind);
        })*

        #[test]
        fn no_kind_of_finding_is_left_untested() {
            let tested = BTreeSet::from([$($kind),*]);
            let expected: BTreeSet<&str> = table().iter().map(|mutant| mutant.expected).collect();
            assert_eq!(tested, expected);
        }
    };
}

kinds! {
    accesses_out_of_bounds_are_found: "out-of-bounds",
    misaligned_accesses_are_found: "misaligned",
    uses_after_free_are_found: "use-after-free",
    double_frees_are_found: "double-free",
    leaks_are_found: "leak",
    uninitialised_global_reads_are_found: "uninitialised-global",
    uninitialised_shared_reads_are_found: "uninitialised-shared",
    uninitialised_local_reads_are_found: "uninitialised-local",
    races_in_shared_memory_are_found: "race-shared",
    races_between_blocks_are_found: "race-global",
    races_between_streams_are_found: "race-streams",
    races_within_warps_are_found: "race-warp",
    divergent_barriers_are_found: "barrier-divergence",
    deadlocks_are_found: "deadlock",
    copies_not_awaited_are_found: "async-copy",
    wrong_warp_masks_are_found: "warp-mask",
    races_with_the_host_are_found: "host-race",
    bank_conflicts_are_counted: "bank-conflicts",
    sectors_are_counted: "sectors",
}

/// The same seed must lead to the same findings, or a finding could not be replayed.
#[test]
fn findings_are_replayed_by_their_seed() {
    let mutants = table();
    let mutant = mutants.iter().find(|mutant| mutant.name == "transpose_without_barrier").expect("in the table");
    assert_eq!(mutant.mode, Mode::Checked);
    let lines = |report: &serde_json::Value| -> Vec<String> {
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        findings
            .iter()
            .map(|finding| format!("{} {} {}", finding["kind"], finding["kernel"], finding["line"]))
            .collect()
    };
    let (first, second) = (state_of(mutant, true), state_of(mutant, true));
    assert!(!lines(&first.report).is_empty());
    assert_eq!(lines(&first.report), lines(&second.report));
}

/// A finding is named with the few blocks that show it, and the program goes on as if nothing had been run again.
#[test]
fn findings_are_shrunk_to_few_blocks() {
    let mutants = table();
    for (name, blocks) in [("transpose_without_barrier", 1), ("total_without_atomic", 2), ("guard_off_by_one", 1)] {
        let mutant = mutants.iter().find(|mutant| mutant.name == name).expect("in the table");
        let plain = state_of(mutant, true);
        let state = state_with(mutant, true, &[("PTXVM_SHRINK", "1")]);
        assert_eq!(state.success, plain.success, "{name}: {}", state.errors);
        let findings = state.report["findings"].as_array().cloned().unwrap_or_default();
        // Of the many findings of a launch the first few are shrunk.
        let is_it = |finding: &&serde_json::Value| finding["kind"] == mutant.expected && !finding["shrunk"].is_null();
        let finding = findings.iter().find(is_it).unwrap_or_else(|| panic!("{name}: {}", state.errors));
        let shrunk = &finding["shrunk"];
        assert_eq!(shrunk["blocks"].as_array().map(Vec::len), Some(blocks), "{name}: {finding}");
        assert!(shrunk["of"].as_u64() > Some(blocks as u64), "{name}: {shrunk}");
        assert!(state.errors.contains("shrunk: "), "{name}: {}", state.errors);
        assert!(plain.report["findings"][0]["shrunk"].is_null(), "nobody asked for it");
    }
}

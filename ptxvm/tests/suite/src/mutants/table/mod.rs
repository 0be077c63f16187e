//! The table of mutants: name, healthy program, edit, expected finding.

mod host;
mod memory;
mod profiles;
mod races;
mod waiting;

use super::{Edit, Mode, Mutant, Scenario};

const fn source(
    name: &'static str,
    scenario: Scenario,
    from: &'static str,
    to: &'static str,
    expected: &'static str,
) -> Mutant {
    Mutant { name, scenario, edit: Edit::Source(from, to), mode: Mode::Checked, expected }
}

const fn host(name: &'static str, scenario: Scenario, what: &'static str, expected: &'static str) -> Mutant {
    Mutant { name, scenario, edit: Edit::Host(what), mode: Mode::Checked, expected }
}

const fn profile(
    name: &'static str,
    scenario: Scenario,
    from: &'static str,
    to: &'static str,
    expected: &'static str,
) -> Mutant {
    Mutant { name, scenario, edit: Edit::Source(from, to), mode: Mode::Profile, expected }
}

/// All mutants.
pub fn table() -> Vec<Mutant> {
    [
        memory::ADDRESSES,
        memory::UNINITIALISED,
        races::SHARED_RACES,
        races::GLOBAL_RACES,
        waiting::BARRIERS,
        waiting::ASYNC_COPIES,
        waiting::WARPS,
        host::HOST,
        profiles::PROFILES,
    ]
    .concat()
}

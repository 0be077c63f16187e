//! The host programs of the mutants. All of them are clean as they stand; those that can err on the host's side do so
//! where their stage says `mutated`.

mod host;
mod matrices;
mod memory;
mod small;
mod synchronisation;

pub(crate) use host::*;
pub(crate) use matrices::*;
pub(crate) use memory::*;
pub(crate) use small::*;
pub(crate) use synchronisation::*;

/// Declares a scenario: a constant beside the function that it runs.
macro_rules! scenario {
    ($constant:ident, $source:expr, $run:ident) => {
        pub(crate) const $constant: $crate::mutants::Scenario =
            $crate::mutants::Scenario { name: stringify!($run), source: $source, run: $run };
    };
}
pub(crate) use scenario;

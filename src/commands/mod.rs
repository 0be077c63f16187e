//! One file per subcommand: its arguments and what it does with them.

pub(crate) mod convert;
pub(crate) mod download;
pub(crate) mod inspect;

//! One file per subcommand: its arguments and what it does with them.

pub(crate) mod compile;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod download;
pub(crate) mod eval;
pub(crate) mod explain;
pub(crate) mod inspect;
pub(crate) mod logits;
mod model;
pub(crate) mod parse;
pub(crate) mod profile;
pub(crate) mod train;
pub(crate) mod tune;

use segface::Error;
use std::io::{self, Write};

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Io { action: "write to standard output".into(), source })
        }
        _ => Ok(()),
    }
}

//! Lines to standard error, at the level that `PTXVM_LOG` names.

use crate::settings::{LogLevel, settings};
use std::fmt::Arguments;
use std::io::Write;

fn line(level: LogLevel, message: Arguments<'_>) {
    if settings().log >= level {
        // One write per line, so that lines of several threads do not mix. Nothing can be done if standard error is closed.
        let _ = std::io::stderr().write_all(format!("ptxvm: {message}\n").as_bytes());
    }
}

pub(super) fn error(message: Arguments<'_>) {
    line(LogLevel::Error, message);
}

pub(super) fn info(message: Arguments<'_>) {
    line(LogLevel::Info, message);
}

pub(super) fn debug(message: Arguments<'_>) {
    line(LogLevel::Debug, message);
}

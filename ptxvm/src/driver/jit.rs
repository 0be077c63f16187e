//! Options of the just-in-time compiler: log buffers, mostly.

use super::entry::{In, Opaque, Out, write_text};
use super::status::{Failure, Outcome, Status};
use std::ffi::c_char;

const WALL_TIME: u32 = 2;
const INFO_BUFFER: u32 = 3;
const INFO_BYTES: u32 = 4;
const ERROR_BUFFER: u32 = 5;
const ERROR_BYTES: u32 = 6;
const OPTIONS: u32 = 35;

/// What a call asks of the compiler.
pub(super) struct Options {
    values: Out<Opaque>,
    info: Log,
    error: Log,
    wall_time: Option<usize>,
}

#[derive(Default)]
struct Log {
    buffer: u64,
    capacity: usize,
    /// Which option holds the capacity, and gets the bytes written.
    size_at: Option<usize>,
}

impl Options {
    pub(super) fn none() -> Options {
        Options {
            values: Out::from(std::ptr::null_mut()),
            info: Log::default(),
            error: Log::default(),
            wall_time: None,
        }
    }

    pub(super) fn read(count: u32, options: In<u32>, values: Out<Opaque>) -> Outcome<Options> {
        let mut read = Options { values, ..Options::none() };
        for index in 0..count as usize {
            let option = options.get_at("options", index)?;
            let value = values.get_at("optionValues", index)?;
            match option {
                WALL_TIME => read.wall_time = Some(index),
                INFO_BUFFER => read.info.buffer = value as u64,
                INFO_BYTES => (read.info.capacity, read.info.size_at) = (value as usize & 0xffff_ffff, Some(index)),
                ERROR_BUFFER => read.error.buffer = value as u64,
                ERROR_BYTES => (read.error.capacity, read.error.size_at) = (value as usize & 0xffff_ffff, Some(index)),
                option if option < OPTIONS => {}
                option => return Err(Status::InvalidValue.because(format!("there is no CUjit_option {option}"))),
            }
        }
        Ok(read)
    }

    /// Writes the logs that a compilation leaves.
    pub(super) fn finish<T>(&self, result: Outcome<T>) -> Outcome<T> {
        let error = result.as_ref().err().and_then(|failure| failure.reason.clone()).unwrap_or_default();
        self.write(&self.error, &error)?;
        self.write(&self.info, "")?;
        if let Some(index) = self.wall_time {
            self.values.set_at("optionValues", index, std::ptr::null_mut())?;
        }
        result
    }

    fn write(&self, log: &Log, text: &str) -> Result<(), Failure> {
        let written = write_text(Out::from(log.buffer as *mut c_char), log.capacity, text)?;
        match log.size_at {
            Some(index) => self.values.set_at("optionValues", index, written as Opaque),
            None => Ok(()),
        }
    }
}

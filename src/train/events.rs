//! TensorBoard's event files: records of a length, a checksum of it, a protocol-buffer message and a checksum of that.
//!
//! Only what is needed of the messages is written: `Event { wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7 }`,
//! `Summary { value = 1 }`, `Value { tag = 1, simple_value = 2 }`, `SessionLog { status = 1 }`.

use super::TrainError;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An event file that is being written.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `folder`. What other files there say of `step` and later ones is taken back.
    pub(super) fn create(folder: &Path, step: u64) -> Result<Events, TrainError> {
        let seconds = now() as u64;
        let mut number = 0;
        loop {
            let path =
                folder.join(format!("events.out.tfevents.{seconds:010}.segface.{}.{number}", std::process::id()));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    let mut events = Events { path, file };
                    events.record(&event(0, 3, b"brain.Event:2"))?;
                    if step > 0 {
                        // SessionLog::START: what was written of this step and later ones belongs to a run that died.
                        events.record(&event(step + 1, 7, &[1 << 3, 1]))?;
                    }
                    return Ok(events);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(TrainError::Write { path, source }),
            }
        }
    }

    /// Adds the values of one step.
    pub(super) fn write(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        if scalars.is_empty() {
            return Ok(());
        }
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut message = Vec::new();
            field(&mut message, 1, tag.as_bytes());
            message.push(2 << 3 | 5);
            message.extend((*value as f32).to_le_bytes());
            field(&mut summary, 1, &message);
        }
        self.record(&event(step, 5, &summary))
    }

    fn record(&mut self, message: &[u8]) -> Result<(), TrainError> {
        let len = (message.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(message.len() + 16);
        record.extend(len);
        record.extend(masked(&len).to_le_bytes());
        record.extend(message);
        record.extend(masked(message).to_le_bytes());
        self.file.write_all(&record).map_err(|source| TrainError::Write { path: self.path.clone(), source })
    }
}

/// An event with one field of bytes.
fn event(step: u64, number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(now().to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    field(&mut event, number, bytes);
    event
}

fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// CRC-32C, turned and shifted as TensorFlow's records have it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

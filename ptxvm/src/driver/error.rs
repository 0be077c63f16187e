//! Names and texts of errors.

use super::entry::{Out, entries};
use super::status::{Outcome, Status};
use std::ffi::{CStr, c_char};

entries! { list:
    [always] fn cuGetErrorName(error: u32, text: Out<*const c_char>) { answer(error, text, Status::name) }

    [always] fn cuGetErrorString(error: u32, text: Out<*const c_char>) { answer(error, text, Status::text) }
}

fn answer(error: u32, text: Out<*const c_char>, of: fn(Status) -> &'static CStr) -> Outcome {
    match Status::from_code(error) {
        Some(status) => text.set("pStr", of(status).as_ptr()),
        None => {
            text.set("pStr", std::ptr::null())?;
            Err(Status::InvalidValue.because(format!("there is no CUresult {error}")))
        }
    }
}

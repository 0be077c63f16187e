//! Waiting for and writing words of memory in stream order.

use super::entry::{In, entries};
use super::graph::check_value;
use super::operation::{Operation, value};
use super::state::lock;
use super::status::{Outcome, Status};
use super::types::{Handle, ValueOperation};

fn issue(stream: Handle, operations: Vec<ValueOperation>) -> Outcome {
    operations.iter().try_for_each(check_value)?;
    let mut state = lock();
    let stream = state.resolve_stream(stream)?;
    state.issue(stream, Operation::Values(operations)).map(|_| ())
}

fn one(stream: Handle, operation: u32, address: u64, value: u64, flags: u32) -> Outcome {
    let operation =
        ValueOperation { operation, padding: 0, address, value, flags, padding_2: 0, alias: 0, reserved: 0 };
    issue(stream, vec![operation])
}

fn batch(stream: Handle, count: u32, list: In<ValueOperation>, flags: u32) -> Outcome {
    if flags != 0 || count > 256 {
        return Err(Status::InvalidValue.because(format!("{count} operations (256 at most) with flags {flags:#x}")));
    }
    issue(stream, list.list("paramArray", count as usize)?)
}

entries! { list:
    fn cuStreamWaitValue32 | cuStreamWaitValue32_ptsz(stream: Handle, address: u64, word: u32, flags: u32) {
        one(stream, value::WAIT_32, address, word.into(), flags)
    }

    fn cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(stream: Handle, address: u64, word: u32, flags: u32) {
        one(stream, value::WAIT_32, address, word.into(), flags)
    }

    fn cuStreamWaitValue64 | cuStreamWaitValue64_ptsz(stream: Handle, address: u64, word: u64, flags: u32) {
        one(stream, value::WAIT_64, address, word, flags)
    }

    fn cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(stream: Handle, address: u64, word: u64, flags: u32) {
        one(stream, value::WAIT_64, address, word, flags)
    }

    fn cuStreamWriteValue32 | cuStreamWriteValue32_ptsz(stream: Handle, address: u64, word: u32, flags: u32) {
        one(stream, value::WRITE_32, address, word.into(), flags)
    }

    fn cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(stream: Handle, address: u64, word: u32, flags: u32) {
        one(stream, value::WRITE_32, address, word.into(), flags)
    }

    fn cuStreamWriteValue64 | cuStreamWriteValue64_ptsz(stream: Handle, address: u64, word: u64, flags: u32) {
        one(stream, value::WRITE_64, address, word, flags)
    }

    fn cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(stream: Handle, address: u64, word: u64, flags: u32) {
        one(stream, value::WRITE_64, address, word, flags)
    }

    fn cuStreamBatchMemOp | cuStreamBatchMemOp_ptsz(stream: Handle, count: u32, list: In<ValueOperation>, flags: u32) {
        batch(stream, count, list, flags)
    }

    fn cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz(stream: Handle, count: u32, list: In<ValueOperation>, flags: u32) {
        batch(stream, count, list, flags)
    }
}

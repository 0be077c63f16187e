//! Comes with its room.
use super::Decode;

pub(crate) fn family(_opcode: &str) -> Option<Decode> {
    None
}

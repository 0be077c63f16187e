//! Which bytes of the local memory of a warp's threads have been written.

use super::{Access, AccessKind};

/// For each word of 4 bytes and each lane, a bit per byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalShadow {
    words: Vec<[u8; 32]>,
}

impl LocalShadow {
    /// Notes an access; a lane that reads what it has not written.
    pub(crate) fn access(&mut self, access: &Access<'_>) -> Option<u32> {
        let first = access.mask.trailing_zeros() as usize & 31;
        let start = access.addresses[first];
        let same = (0..32).all(|lane| access.mask >> lane & 1 == 0 || access.addresses[lane] == start);
        if same {
            return self.lanes(access, access.mask, start);
        }
        let mut unwritten = None;
        for lane in (0..32).filter(|lane| access.mask >> lane & 1 != 0) {
            let found = self.lanes(access, 1 << lane, access.addresses[lane as usize]);
            unwritten = unwritten.or(found);
        }
        unwritten
    }

    /// An access of `mask`, all at the same address of their own.
    fn lanes(&mut self, access: &Access<'_>, mask: u32, start: u64) -> Option<u32> {
        let end = start.saturating_add(access.bytes.max(1).into());
        let last = end.div_ceil(4) as usize;
        if self.words.len() < last {
            self.words.resize(last, [0; 32]);
        }
        let mut active = [0u8; 32];
        for (lane, active) in active.iter_mut().enumerate() {
            *active = ((mask >> lane & 1) as u8).wrapping_neg();
        }
        let mut any = [0u8; 32];
        for (word, written) in self.words[..last].iter_mut().enumerate().skip(start as usize / 4) {
            let low = start.saturating_sub(word as u64 * 4).min(4) as u32;
            let high = (end - word as u64 * 4).min(4) as u32;
            let bits = ((1u32 << high) - (1 << low)) as u8;
            for lane in 0..32 {
                if access.kind == AccessKind::Write {
                    written[lane] |= bits & active[lane];
                }
                any[lane] |= written[lane] & bits;
            }
        }
        // A part that was never written may be the padding of a structure that is moved as a whole.
        (0..32).find(|lane| active[*lane] != 0 && any[*lane] == 0).map(|lane| lane as u32)
    }
}

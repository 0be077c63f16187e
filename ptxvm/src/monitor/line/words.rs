//! Notes of a line whose words a block has accessed one by one: a table of 8 bytes a word.
//!
//! Where every lane of a warp accesses a line of its own, as in a transpose, each access to a line is a word, and a note of 40 bytes for
//! each is ten times what was accessed: reading and writing the notes then takes longer than all else.

use super::{Lanes, Note};

/// Words of a line.
const WORDS: usize = 32;

/// An access to a word.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    clock: u32,
    site: u16,
    warp: u8,
    lane: u8,
}

/// Accesses to words by warps of one block, all reads or all writes, none of them strong.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    source: u32,
    block: u32,
    writes: bool,
    /// The words that there are notes of.
    present: u32,
    words: [Word; WORDS],
}

/// An access to single words by lanes of a warp, not strong.
pub(in super::super) struct WordAccess {
    pub(in super::super) source: u32,
    pub(in super::super) block: u32,
    pub(in super::super) clock: u32,
    pub(in super::super) site: u16,
    pub(in super::super) warp: u8,
    pub(in super::super) writes: bool,
}

/// The word that is all a note is about, and the lane that accessed it; `None` if the table does not hold such notes.
fn word(note: &Note) -> Option<(usize, u8)> {
    let mask = note.mask();
    let word = mask.trailing_zeros() as usize / 4;
    let one = word < WORDS && mask == 0xf << (4 * word);
    match note.lanes {
        Lanes::Side { base, shift: 2 } if one && !note.strong && note.site <= u16::MAX.into() => {
            Some((word, (i32::from(base) + word as i32) as u8 & 31))
        }
        _ => None,
    }
}

/// Four bits for each one.
fn nibbles(bits: u16) -> u64 {
    let mut all = u64::from(bits);
    for (shift, kept) in [
        (24, 0x0000_00ff_0000_00ff),
        (12, 0x000f_000f_000f_000f),
        (6, 0x0303_0303_0303_0303),
        (3, 0x1111_1111_1111_1111),
    ] {
        all = (all | all << shift) & kept;
    }
    all * 0xf
}

impl Words {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Keeps a note of a word that there is none of, if it is of the kind that the others are of.
    pub(super) fn take(&mut self, note: &Note) -> bool {
        let Some((word, lane)) = word(note) else { return false };
        if self.present == 0 {
            (self.source, self.block, self.writes) = (note.source, note.block, note.writes);
        } else if (self.source, self.block, self.writes) != (note.source, note.block, note.writes) {
            return false;
        }
        debug_assert_eq!(self.present >> word & 1, 0);
        self.present |= 1 << word;
        self.words[word] = Word { clock: note.clock, site: note.site as u16, warp: note.warp, lane };
        true
    }

    /// Keeps an access to a word that there is no note of, if the table has notes and they are of its kind.
    #[inline]
    pub(super) fn add(&mut self, access: &WordAccess, word: u32, lane: u32) -> bool {
        let &WordAccess { source, block, clock, site, warp, writes } = access;
        if self.present == 0 || (self.source, self.block, self.writes) != (source, block, writes) {
            return false;
        }
        self.present |= 1 << word;
        self.words[word as usize % WORDS] = Word { clock, site, warp, lane: lane as u8 };
        true
    }

    /// The notes, put together by instruction, and none are left.
    pub(super) fn drain_by_site(&mut self, mut each: impl FnMut(Note)) {
        let mut left = std::mem::take(&mut self.present);
        while left != 0 {
            let first = self.words[left.trailing_zeros() as usize];
            let same = (0..WORDS).fold(0, |all, word| all | u32::from(self.words[word].site == first.site) << word);
            let mine = left & same;
            let mask = u128::from(nibbles(mine as u16)) | u128::from(nibbles((mine >> 16) as u16)) << 64;
            left &= !same;
            let who = (self.block, first.warp.into(), first.clock);
            each(Note::new(self.source, who, first.site.into(), Lanes::Unknown, (self.writes, false), mask));
        }
    }

    /// The notes, and none are left.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Note> + '_ {
        let present = std::mem::take(&mut self.present);
        (0..WORDS).filter(move |word| present >> word & 1 != 0).map(|word| {
            let Word { clock, site, warp, lane } = self.words[word];
            let lanes = Lanes::Side { base: (i32::from(lane) - word as i32) as i8, shift: 2 };
            let who = (self.block, warp.into(), clock);
            Note::new(self.source, who, site.into(), lanes, (self.writes, false), 0xf << (4 * word))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(word: u32, lane: u32, site: u32, writes: bool) -> Note {
        let lanes = Lanes::Side { base: (lane as i32 - word as i32) as i8, shift: 2 };
        Note::new(3, (70_000, lane % 8, 1000 + word), site, lanes, (writes, false), 0xf << (4 * word))
    }

    #[test]
    fn notes_come_back_as_they_were() {
        let notes: Vec<Note> = (0..32).map(|word| note(word, 31 - word, 65_535 - word, word < 40)).collect();
        let mut words = Words::default();
        for note in notes.iter().rev() {
            assert!(words.take(note));
        }
        assert_eq!(words.drain().collect::<Vec<_>>(), notes);
        assert!(words.is_empty());
    }

    #[test]
    fn notes_of_an_instruction_are_put_together() {
        let mut words = Words::default();
        for word in 0..32 {
            assert!(words.take(&note(word, word, [7, 9, 7, 1][word as usize % 4], true)));
        }
        let mut found = Vec::new();
        words.drain_by_site(|note| found.push((note.site, note.mask(), note.block, note.lanes, note.writes)));
        let mask = |nibbles: u16| (0..8).fold(0u128, |all, part| all | u128::from(nibbles) << (16 * part));
        let expected = [(7, 0x0f0f), (9, 0x00f0), (1, 0xf000)];
        assert_eq!(found, expected.map(|(site, nibbles)| (site, mask(nibbles), 70_000, Lanes::Unknown, true)));
        assert!(words.is_empty());
    }

    #[test]
    fn notes_of_other_kinds_are_not_taken() {
        let mut words = Words::default();
        assert!(words.take(&note(0, 0, 0, true)));
        let refused = [
            note(1, 0, 0, false),
            note(1, 0, 65_536, true),
            Note { block: 4, ..note(1, 0, 0, true) },
            Note { source: 4, ..note(1, 0, 0, true) },
            Note { strong: true, ..note(1, 0, 0, true) },
            Note { lanes: Lanes::Unknown, ..note(1, 0, 0, true) },
            Note::new(3, (70_000, 0, 0), 0, Lanes::Side { base: 0, shift: 2 }, (true, false), 0xff0),
            Note::new(3, (70_000, 0, 0), 0, Lanes::Side { base: 0, shift: 2 }, (true, false), 0x3c0),
            Note::new(3, (70_000, 0, 0), 0, Lanes::Side { base: 0, shift: 1 }, (true, false), 0xf0),
        ];
        for note in refused {
            assert!(!words.take(&note), "{note:?}");
        }
        assert_eq!(words.drain().count(), 1);
    }
}

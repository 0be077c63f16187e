//! The lanes of an access, gathered by the lines of memory that they touch.

use super::{
    line::Lanes,
    pages::{LINE, range_mask},
};

/// Part of an access that lies in one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where the line starts.
    pub(crate) line: u64,
    /// Its bytes that are touched.
    pub(crate) mask: u128,
    pub(crate) lanes: Lanes,
}

/// Calls `part` for each line that an access touches.
#[inline]
pub(crate) fn parts(mask: u32, bytes: u32, addresses: &[u64; 32], mut part: impl FnMut(Part)) {
    if mask == 0 || bytes == 0 {
        return;
    }
    let first = mask.trailing_zeros() as usize;
    let width = u64::from(bytes);
    let origin = addresses[first].wrapping_sub(first as u64 * width);
    let mut off = 0;
    if mask == u32::MAX {
        for lane in 0..32 {
            off |= addresses[lane] ^ origin.wrapping_add(lane as u64 * width);
        }
    } else {
        for lane in 0..32 {
            let expected = origin.wrapping_add(lane as u64 * width);
            off |= (addresses[lane] ^ expected) & (u64::from(mask >> lane & 1)).wrapping_neg();
        }
    }
    let shift = bytes.trailing_zeros();
    // Lanes side by side, all from the first to the last.
    let run = mask >> first;
    if off == 0 && bytes.is_power_of_two() && run & run.wrapping_add(1) == 0 {
        let count = u64::from(run.count_ones()) * width;
        for (line, mask) in super::pages::lines(addresses[first], count) {
            let base = (line.wrapping_sub(origin) as i64 >> shift) as i8;
            part(Part { line, mask, lanes: Lanes::Side { base, shift: shift as u8 } });
        }
        return;
    }
    if in_order(mask, addresses) {
        let mut left = mask;
        while left != 0 {
            let leader = left.trailing_zeros();
            let line = addresses[leader as usize] / LINE;
            let mut group = 0;
            while left != 0 && addresses[left.trailing_zeros() as usize & 31] / LINE == line {
                group |= left & left.wrapping_neg();
                left &= left - 1;
            }
            gather_line(group, bytes, addresses, line * LINE, &mut part);
        }
        return;
    }
    let mut left = mask;
    while left != 0 {
        let leader = left.trailing_zeros() as usize;
        let line = addresses[leader] / LINE;
        let mut group = 0u32;
        for lane in 0..32 {
            group |= u32::from(addresses[lane] / LINE == line) << lane;
        }
        group &= left;
        left &= !group;
        gather_line(group, bytes, addresses, line * LINE, &mut part);
    }
}

/// Whether lines never fall from one lane to the next, so that the lanes of a line are neighbours.
#[inline]
fn in_order(mask: u32, addresses: &[u64; 32]) -> bool {
    let (mut left, mut before) = (mask, 0);
    while left != 0 {
        let line = addresses[left.trailing_zeros() as usize] / LINE;
        if line < before {
            return false;
        }
        before = line;
        left &= left - 1;
    }
    true
}

/// The lanes of one line: as few parts as tell whose each byte is, or one that does not.
fn gather_line(group: u32, bytes: u32, addresses: &[u64; 32], line: u64, part: &mut impl FnMut(Part)) {
    const MOST: usize = 4;
    let shift = bytes.next_power_of_two().trailing_zeros() as u8;
    if group.is_power_of_two() && bytes == 1 << shift {
        let lane = group.trailing_zeros();
        let offset = (addresses[lane as usize] - line) as u32;
        let mask = range_mask(offset, bytes.min(LINE as u32 - offset));
        part(Part { line, mask, lanes: Lanes::Side { base: (lane as i32 - (offset >> shift) as i32) as i8, shift } });
        return;
    }
    let mut found: [(i8, u128); MOST] = [(0, 0); MOST];
    let mut count = 0;
    let mut all = 0u128;
    let (mut shared, mut apart, mut unknown) = (false, false, bytes > 1 << shift);
    let mut next = group;
    while next != 0 {
        let lane = next.trailing_zeros();
        next &= next - 1;
        let offset = (addresses[lane as usize] - line) as u32;
        // Bytes beyond the line are left out: aligned accesses have none.
        let mask = range_mask(offset, bytes.min(LINE as u32 - offset));
        match all & mask {
            0 => apart |= all != 0,
            both => {
                shared = true;
                unknown |= both != mask;
            }
        }
        all |= mask;
        let base = (lane as i32 - (offset >> shift) as i32) as i8;
        match found[..count].iter_mut().find(|(known, _)| *known == base) {
            Some((_, bytes)) => *bytes |= mask,
            None if count < MOST => {
                found[count] = (base, mask);
                count += 1;
            }
            None => unknown = true,
        }
    }
    if shared && !apart && !unknown {
        part(Part { line, mask: all, lanes: Lanes::Several });
    } else if shared || unknown {
        part(Part { line, mask: all, lanes: Lanes::Unknown });
    } else {
        for &(base, mask) in &found[..count] {
            part(Part { line, mask, lanes: Lanes::Side { base, shift } });
        }
    }
}

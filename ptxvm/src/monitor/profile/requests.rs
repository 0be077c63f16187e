//! What an access of a warp costs: sectors of global memory, waves of shared memory.

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 32;

/// The sectors that the lanes of an access touch, in ascending order, each once.
pub(crate) fn sectors(mask: u32, bytes: u32, addresses: &[u64; 32], out: &mut Vec<u64>) {
    out.clear();
    for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
        let last = (addresses[lane] + u64::from(bytes.max(1)) - 1) / SECTOR;
        for sector in addresses[lane] / SECTOR..=last {
            if out.last() != Some(&sector) {
                out.push(sector);
            }
        }
    }
    if !out.is_sorted() {
        out.sort_unstable();
    }
    out.dedup();
}

/// Waves that an access to shared memory takes: 32 banks of 4 bytes each serve one word per wave, and one word for any
/// number of lanes. Accesses of 8 bytes go by half warps, of 16 by quarters. Gives the waves, and how few they could be.
pub(crate) fn waves(mask: u32, bytes: u32, addresses: &[u64; 32]) -> (u32, u32) {
    let lanes = match bytes {
        0..=4 => 32,
        5..=8 => 16,
        _ => 8,
    };
    let phases = (0..32).step_by(lanes).map(|first| phase(mask, bytes, &addresses[first..first + lanes], first));
    phases.fold((0, 0), |(taken, least), waves| (taken + waves, least + waves.min(1)))
}

fn phase(mask: u32, bytes: u32, addresses: &[u64], first: usize) -> u32 {
    // Up to 8 lanes of 4 words, or 32 of 2 (unaligned ones aside): never more than 64 words.
    let mut words = [0u64; 64];
    let mut count = 0;
    for (_, &address) in addresses.iter().enumerate().filter(|(at, _)| mask >> (first + at) & 1 != 0) {
        let last = (address + u64::from(bytes.max(1)) - 1) / 4;
        for word in address / 4..=last {
            if count < words.len() {
                words[count] = word;
                count += 1;
            }
        }
    }
    let words = &mut words[..count];
    words.sort_unstable();
    let mut banks = [0u32; 32];
    for at in 0..words.len() {
        if at == 0 || words[at] != words[at - 1] {
            banks[words[at] as usize % 32] += 1;
        }
    }
    banks.into_iter().max().unwrap_or(0)
}

use super::*;

/// A write of word `word` of the line by lane 0 of warp 0 of a block.
fn write(source: u32, block: u32, word: u32) -> Note {
    let lanes = Lanes::Side { base: -(word as i8), shift: 2 };
    Note::new(source, (block, 0, 1), 7, lanes, (true, false), super::super::pages::range_mask(4 * word, 4))
}

/// Writes, and says which notes that conflicts with. `over`: sources that were over when this one began.
fn access(line: &mut Line, note: Note, over: &[u32]) -> Vec<(u32, u32, u32)> {
    let mut found = Vec::new();
    let relation = |old: &Note| match old.source {
        source if over.contains(&source) => Relation::Before,
        source if source == note.source && old.block == note.block => Relation::SameWarp,
        _ => Relation::Apart,
    };
    line.access(&note, None, relation, |conflict| {
        found.push((conflict.other.source, conflict.other.block, conflict.byte));
    });
    found
}

#[test]
fn what_many_blocks_of_a_launch_that_is_over_have_done_is_remembered_together() {
    let mut line = Line::default();
    for word in 0..32 {
        assert!(access(&mut line, write(1, word, word), &[]).is_empty());
    }
    // The next launch writes half of the line again.
    for word in 0..16 {
        assert!(access(&mut line, write(2, word, word), &[1]).is_empty());
    }
    assert_eq!((line.past.len(), line.past_source), (32, 1));
    // Two of its blocks write the same place.
    assert_eq!(access(&mut line, write(2, 9, 5), &[1]), [(2, 5, 20)]);
    // A third one is ordered with neither: it meets the second where that has written, the first elsewhere.
    assert_eq!(access(&mut line, write(3, 0, 3), &[]), [(2, 3, 12)]);
    assert_eq!(access(&mut line, write(3, 0, 20), &[]), [(1, 20, 80)]);
}

#[test]
fn what_launches_that_are_over_have_left_is_put_together() {
    let mut line = Line::default();
    for word in 0..32 {
        access(&mut line, write(1, word, word), &[]);
    }
    for word in 0..16 {
        access(&mut line, write(2, word, word), &[1]);
    }
    // A third begins when both are over, and half of what the first has written is still there.
    assert!(access(&mut line, write(3, 0, 4), &[1, 2]).is_empty());
    assert_eq!((line.past.len(), line.past_source), (2, 0));
    // A fourth is ordered with none of them.
    assert_eq!(access(&mut line, write(4, 0, 4), &[]), [(3, 0, 16)]);
    assert_eq!(access(&mut line, write(4, 0, 5), &[]), [(2, SEVERAL_BLOCKS, 20)]);
    assert_eq!(access(&mut line, write(4, 0, 20), &[]), [(1, SEVERAL_BLOCKS, 80)]);
}

#[test]
fn a_launch_that_writes_all_again_leaves_nothing_of_earlier_ones() {
    let mut line = Line::default();
    for source in 1..5 {
        for word in 0..32 {
            assert!(access(&mut line, write(source, word, word), &[1, 2, 3, 4][..source as usize - 1]).is_empty());
        }
    }
    assert_eq!((line.past.len(), line.past_live, line.noted), (32, [0, 0], [u64::MAX; 2]));
    assert_eq!(access(&mut line, write(9, 0, 7), &[]), [(4, 7, 28)]);
}

#[test]
fn bytes_that_are_forgotten_are_forgotten_of_all() {
    let mut line = Line::default();
    for word in 0..32 {
        access(&mut line, write(1, word, word), &[]);
    }
    access(&mut line, write(2, 0, 0), &[1]);
    line.forget(u128::MAX);
    assert_eq!((line.past.len(), line.noted), (0, [0, 0]));
    for word in 0..32 {
        assert!(access(&mut line, write(3, 0, word), &[]).is_empty());
    }
}

/// Accesses of a few warps and blocks of three launches to words of a line, with a meaning of "before" that has all cases in it: the
/// conflicts found are the same with and without the short way, and it is taken.
#[test]
fn the_short_way_finds_what_the_long_one_finds() {
    let mut random = 1u64;
    let mut below = |count: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as u32 % count as u32
    };
    let (mut short_ways, mut conflicts) = (0, 0);
    for _ in 0..3000 {
        let (mut long, mut short) = (Line::default(), Line::default());
        let blocks = 1 + u64::from(below(2));
        // Launch 3 comes after 1 and 2, launch 2 perhaps after 1.
        let ordered = below(2) == 0;
        for source in 1..=3 {
            let mostly_writes = below(2) == 0;
            let (mut order, count) = ([0; 32].map(|_| below(32)), 8 + below(30));
            if below(3) > 0 {
                let turn = below(32);
                order = std::array::from_fn(|word| (word as u32 + turn) % 32);
            }
            for word in order.iter().cycle().take(count as usize).copied() {
                let (block, warp, lane) = (below(blocks), below(4), below(32));
                let (site, clock) = (below(3), below(2));
                let writes = mostly_writes != (below(40) == 0);
                let lanes = Lanes::Side { base: (lane as i32 - word as i32) as i8, shift: 2 };
                let note = Note::new(
                    source,
                    (block, warp, clock),
                    site,
                    lanes,
                    (writes, false),
                    super::super::pages::range_mask(4 * word, 4),
                );
                let relation = |old: &Note| match old.source {
                    old if old < source => match ordered || source == 3 {
                        true => Relation::Before,
                        false => Relation::Apart,
                    },
                    _ if old.block == block && old.clock < clock => Relation::Before,
                    _ if old.block == block && u32::from(old.warp) == warp => Relation::SameWarp,
                    _ => Relation::Apart,
                };
                let over = if source > 1 && (ordered || source == 3) { source - 1 } else { 0 };
                let mut found = [Vec::new(), Vec::new()];
                let seen = |conflict: Conflict| (conflict.other.source, conflict.other.writes, conflict.byte / 4);
                long.access(&note, None, relation, |conflict| found[0].push(seen(conflict)));
                let access = WordAccess { source, block, clock, site: site as u16, warp: warp as u8, writes };
                if short.access_word(&access, word, lane, over) {
                    short_ways += 1;
                } else {
                    short.access(&note, None, relation, |conflict| found[1].push(seen(conflict)));
                }
                found.iter_mut().for_each(|found| {
                    found.sort_unstable();
                    found.dedup();
                });
                assert_eq!(found[0], found[1]);
                conflicts += found[0].len();
            }
        }
    }
    assert!(short_ways > 10_000 && conflicts > 10_000, "{short_ways} {conflicts}");
}

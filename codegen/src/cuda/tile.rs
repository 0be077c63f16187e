//! Which tile a product is cut into: as measured on a card, else by a model of one.
//!
//! The model is `bound.rs`, with `cards.json` and with the registers of `tiles.json`, which decide how many blocks a multiprocessor
//! holds. Both are committed, so the same network and card give the same kernels everywhere.

use super::bound::Needs;
use super::card::Card;
use crate::plan::Precision;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

/// The numbers of `segface::Shape` in `cuda/product.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Rows of a block's tile.
    pub rows: usize,
    /// Columns of a block's tile.
    pub columns: usize,
    /// Warps along the rows.
    pub warps_m: usize,
    /// Warps along the columns.
    pub warps_n: usize,
    /// Bytes of k per row and stage: 64 or 128.
    pub row_bytes: usize,
    /// Stages of copies under way.
    pub stages: usize,
}

impl Tile {
    const fn new(rows: usize, columns: usize, warps: [usize; 2], row_bytes: usize, stages: usize) -> Self {
        Self { rows, columns, warps_m: warps[0], warps_n: warps[1], row_bytes, stages }
    }

    /// The template with its arguments, for products by `fragment` (`cuda/number.cuh`).
    pub fn shape(&self, fragment: &str) -> String {
        let Tile { rows, columns, warps_m, warps_n, row_bytes, stages } = self;
        format!("Shape<{fragment}, {rows}, {columns}, {warps_m}, {warps_n}, {row_bytes}, {stages}>")
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        32 * self.warps_m * self.warps_n
    }

    /// Shared memory of the main loop: `Shape::BYTES`.
    pub fn loop_bytes(&self) -> usize {
        self.stages * (self.rows + self.columns) * self.row_bytes
    }

    /// Shared memory of the epilogue: `finish_bytes`.
    pub fn finish_bytes(&self, norm: bool) -> usize {
        let staging = self.warps_m * self.warps_n * 16 * (self.columns / self.warps_n + 8) * 4;
        staging + if norm { self.rows * self.warps_n * 8 } else { 0 }
    }

    /// Shared memory of a block whose epilogue follows in the main loop's buffer.
    pub fn bytes(&self, norm: bool) -> usize {
        self.loop_bytes().max(self.finish_bytes(norm))
    }

    /// Shared memory of `gemm::forward_wide`, where only rows are copied: `bytes_wide`.
    pub fn wide_bytes(&self, norm: bool) -> usize {
        (self.stages * self.rows * self.row_bytes).max(self.finish_bytes(norm))
    }

    /// Blocks that make a product of that size.
    pub fn grid(&self, rows: usize, n: usize) -> [u32; 3] {
        [rows.div_ceil(self.rows) as u32, n.div_ceil(self.columns) as u32, 1]
    }
}

/// Tiles of products whose epilogue needs no whole rows, the largest first. `tiles.json` holds their registers in this order.
pub const TILES: [Tile; 6] = [
    Tile::new(128, 128, [4, 2], 64, 3),
    Tile::new(128, 64, [4, 2], 64, 4),
    Tile::new(64, 64, [2, 2], 64, 4),
    Tile::new(64, 32, [4, 1], 64, 4),
    Tile::new(32, 64, [2, 2], 64, 4),
    Tile::new(32, 32, [2, 1], 64, 4),
];

/// Columns up to which weights of whole rows go through shared memory. Wider products are `gemm/wide.cuh`.
pub const WIDE: usize = 256;

/// A product, as far as its tile depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Where its rows come from: the kernel's `Source`.
    pub source: String,
    /// Whether its epilogue norms whole rows.
    pub norm: bool,
    /// How it is computed.
    pub precision: Precision,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let norm = if self.norm { ", normed" } else { "" };
        write!(f, "{} {}x{}x{} {}{norm}", self.source, self.rows, self.n, self.k, self.precision.name())
    }
}

/// A product of a program and the tile it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Index of the launch that makes it.
    pub launch: usize,
    /// The product.
    pub problem: Problem,
    /// Its tile.
    pub tile: Tile,
}

/// How tiles are chosen: as measured where somebody has, else by the model of a card.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tuning {
    /// The card whose data the model uses. [`Card::default`] where none is at hand, and for engine files for several.
    pub card: Card,
    /// What was measured.
    pub tiles: HashMap<Problem, Tile>,
    /// Where it was measured, for messages.
    pub measured_on: Option<String>,
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = &self.measured_on {
            write!(f, "measurements of {} products on {device}, else ", self.tiles.len())?;
        }
        write!(f, "the cost model with the data of the {}", self.card.name)
    }
}

impl Tuning {
    /// For one card, by the model alone.
    pub fn of(card: Card) -> Self {
        Self { card, ..Self::default() }
    }

    /// The tile for a product.
    pub fn choose(&self, problem: &Problem) -> Tile {
        if let Some(tile) = self.tiles.get(problem) {
            return *tile;
        }
        match problem.norm {
            true => full_row(problem, self.card.multiprocessors),
            false => choose(problem, &self.card),
        }
    }
}

/// Every tile that a product can be cut into.
pub fn candidates(problem: &Problem) -> Vec<Tile> {
    if !problem.norm {
        return TILES.to_vec();
    }
    match problem.n {
        0..=128 => [64, 32].map(|rows| Tile { rows, ..full_row(problem, 1) }).to_vec(),
        129..=WIDE => [32, 16].map(|rows| Tile { rows, ..full_row(problem, 1) }).to_vec(),
        _ => {
            // With one multiprocessor rows are never few.
            let large = full_row(problem, 1);
            let rows = if large.rows == 32 { vec![32, 16] } else { vec![16] };
            rows.into_iter().map(|rows| Tile { rows, ..large }).collect()
        }
    }
}

/// The tile of [`TILES`] for which [`cost`] is least.
fn choose(problem: &Problem, card: &Card) -> Tile {
    let costs = TILES.map(|tile| cost(problem, &tile, card));
    let best = (0..TILES.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
    TILES[best.expect("there are tiles")]
}

/// What a product costs with a tile, in microseconds: its bound on the card, and a little of everything the bound hides behind its
/// longest part, since that is never hidden altogether. Operands are taken to be in L2: how they come there is the same for every
/// tile.
pub fn cost(problem: &Problem, tile: &Tile, card: &Card) -> f64 {
    let Problem { norm, precision, rows, n, k, .. } = *problem;
    let size = precision.dtype().size();
    let [tiles_m, tiles_n, _] = tile.grid(rows, n).map(|side| side as usize);
    let registers = registers(tile, precision, card.arch);
    let needs = Needs {
        precision,
        tensor: true,
        // What a tile multiplies beyond the matrix takes as long as what lies in it.
        flops: 2.0 * (tiles_m * tile.rows * tiles_n * tile.columns * k) as f64,
        memory_bytes: 0.0,
        traffic: (size * (tiles_n * rows * k + tiles_m * n * k + rows * n)) as f64,
        blocks: tiles_m * tiles_n,
        threads: tile.threads(),
        resident: card.resident_blocks(tile.threads(), registers, tile.bytes(norm)),
        steps: (k * size).div_ceil(tile.row_bytes),
        barriers: 0,
        counted: None,
    };
    let bound = card.bound(&needs);
    bound.microseconds + HIDDEN * bound.parts.sum()
}

/// The share of hidden parts that shows all the same: a guess, small enough to decide between equals only.
const HIDDEN: f64 = 0.1;

/// Registers of the tiles, as ptxas says.
#[derive(Deserialize)]
struct Registers {
    /// `sm_…`.
    architectures: Vec<u32>,
    /// By fragment: a row for each of [`TILES`], a column for each architecture.
    registers: HashMap<String, Vec<Vec<usize>>>,
}

/// Registers of a thread in a product with that tile, on the newest known architecture not after `arch`; zero for tiles that
/// `tiles.json` does not know.
pub fn registers(tile: &Tile, precision: Precision, arch: u32) -> usize {
    static DATA: OnceLock<Registers> = OnceLock::new();
    let data = DATA
        .get_or_init(|| serde_json::from_str(include_str!("tiles.json")).expect("tiles.json is part of the program"));
    let column = data.architectures.iter().rposition(|known| *known <= arch).unwrap_or(0);
    let row = TILES.iter().position(|known| known == tile);
    let table = data.registers.get(precision.fragment().name());
    row.zip(table).and_then(|(row, table)| table.get(row)?.get(column).copied()).unwrap_or(0)
}

/// The tile for a product whose epilogue norms whole rows of n: all columns in one block, few rows.
fn full_row(problem: &Problem, multiprocessors: usize) -> Tile {
    let Problem { precision, rows, n, .. } = *problem;
    match n {
        0..=128 => Tile::new(64, n.next_multiple_of(64), [2, 2], 64, 3),
        129..=WIDE => Tile::new(32, n.next_multiple_of(64), [1, 4], 64, 3),
        _ => {
            let warps = if n <= 512 { 8 } else { 16 };
            // 32 rows of 1024 columns by 16 warps, or of f32 fragments, are more sums than registers.
            let few = n > 512 || precision == Precision::F32 || rows.div_ceil(32) < multiprocessors;
            Tile::new(if few { 16 } else { 32 }, n.next_multiple_of(8 * warps), [1, warps], 128, 4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(rows: usize, n: usize, k: usize) -> Problem {
        Problem { source: "Rows".into(), norm: false, precision: Precision::Bf16, rows, n, k }
    }

    fn chosen(card: &str, rows: usize, n: usize, k: usize) -> [usize; 2] {
        let tile = Tuning::of(Card::named(card).unwrap().clone()).choose(&problem(rows, n, k));
        [tile.rows, tile.columns]
    }

    #[test]
    fn large_products_take_large_tiles_and_small_ones_fill_the_card() {
        for card in ["A100", "H100", "RTX 4090", "A6000"] {
            // Of the largest tile a multiprocessor holds one: cards of slow tensor cores do as well with two of half the columns.
            let [rows, columns] = chosen(card, 65536, 1024, 1024);
            assert!(rows == 128 && (columns == 128 || !["A100", "H100"].contains(&card)), "{card}: {rows}x{columns}");
            // A block for each 32 by 32: 160 of them, where the largest tile would leave all but 10 multiprocessors idle.
            let [rows, columns] = chosen(card, 256, 640, 160);
            assert!(256usize.div_ceil(rows) * 640usize.div_ceil(columns) >= 40, "{card}: {rows}x{columns}");
        }
    }

    #[test]
    fn columns_beyond_the_matrix_are_not_free() {
        // Sixteen columns: a tile of 32 multiplies half as much beside them as one of 64, which decides where arithmetic does.
        let problem = Problem { precision: Precision::F32, ..problem(65536, 16, 512) };
        assert_eq!(Tuning::default().choose(&problem).columns, 32);
    }

    #[test]
    fn the_card_s_data_decide() {
        // 132 blocks of 64 by 64 are one for each multiprocessor of an H100, and more than two for each of an L4.
        let problem = problem(64 * 12, 64 * 11, 1024);
        let cost = |card: &str, tile: usize| super::cost(&problem, &TILES[tile], Card::named(card).unwrap());
        assert!(cost("H100", 2) < cost("H100", 0) && cost("H100", 2) < cost("H100", 1));
        assert!(cost("L4", 2) > cost("H100", 2));
    }

    #[test]
    fn what_was_measured_wins() {
        let problem = problem(65536, 1024, 1024);
        let tiles = HashMap::from([(problem.clone(), TILES[5])]);
        let tuning = Tuning { tiles, measured_on: Some("a card".into()), ..Tuning::default() };
        assert_eq!(tuning.choose(&problem), TILES[5]);
        assert_eq!(tuning.choose(&Problem { k: 512, ..problem }), TILES[0]);
        assert_eq!(
            tuning.to_string(),
            "measurements of 1 products on a card, else the cost model with the data of the H100"
        );
    }

    #[test]
    fn every_tile_has_its_registers_on_every_card_and_fits_it() {
        for card in super::super::card::cards() {
            for precision in Precision::ALL {
                for tile in &TILES {
                    let registers = registers(tile, precision, card.arch);
                    assert!((24..=255).contains(&registers), "{tile:?} {precision:?} {}: {registers}", card.name);
                    assert!(
                        card.resident_blocks(tile.threads(), registers, tile.bytes(false)) > 0,
                        "{tile:?} {}",
                        card.name
                    );
                }
            }
        }
        assert_eq!(registers(&Tile::new(16, 8, [1, 1], 64, 3), Precision::Bf16, 80), 0);
    }

    #[test]
    fn candidates_hold_what_is_chosen_and_fit_every_card() {
        for norm in [false, true] {
            for n in [16, 96, 200, 384, 512, 1000] {
                for precision in Precision::ALL {
                    let problem = Problem { norm, precision, ..problem(4096, n, 512) };
                    let all = candidates(&problem);
                    assert!(all.contains(&Tuning::default().choose(&problem)), "{problem}");
                    for tile in all {
                        let bytes = if norm && n > WIDE { tile.wide_bytes(norm) } else { tile.bytes(norm) };
                        assert!(bytes <= 99 << 10, "{problem}: {tile:?} takes {bytes} bytes");
                        assert!(!norm || tile.columns >= n, "{problem}: {tile:?}");
                    }
                }
            }
        }
    }
}

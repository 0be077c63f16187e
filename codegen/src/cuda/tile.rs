//! Which tile a product is cut into.

use crate::plan::Precision;

/// The numbers of `segface::Shape` in `cuda/product.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

    /// The template's arguments.
    pub fn shape(&self, precision: Precision) -> String {
        let Tile { rows, columns, warps_m, warps_n, row_bytes, stages } = self;
        format!(
            "Shape<{}, {rows}, {columns}, {warps_m}, {warps_n}, {row_bytes}, {stages}>",
            precision.fragment().name()
        )
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

/// Tiles of products whose epilogue needs no whole rows, the largest first.
const TILES: [Tile; 6] = [
    Tile::new(128, 128, [4, 2], 64, 3),
    Tile::new(128, 64, [4, 2], 64, 4),
    Tile::new(64, 64, [2, 2], 64, 4),
    Tile::new(64, 32, [4, 1], 64, 4),
    Tile::new(32, 64, [2, 2], 64, 4),
    Tile::new(32, 32, [2, 1], 64, 4),
];

/// Blocks with which a large card is busy: about one for each of its multiprocessors.
pub const BUSY: usize = 108;

/// The tile for a product of [rows, n]: the one whose blocks take least time if a card runs [`BUSY`] of them at once, counting
/// what a tile multiplies beside the matrix and that small tiles read their operands more often.
pub fn choose(rows: usize, n: usize) -> Tile {
    let cost = |tile: &Tile| {
        let blocks = rows.div_ceil(tile.rows) * n.div_ceil(tile.columns);
        let waves = blocks.div_ceil(BUSY);
        // Arithmetic of a block, and the traffic of its operands in the same unit: about 64 multiply-adds per element.
        waves * (tile.rows * tile.columns + 64 * (tile.rows + tile.columns) / 2)
    };
    *TILES.iter().min_by_key(|tile| cost(tile)).expect("there are tiles")
}

/// The tile for a product whose epilogue norms whole rows of n: all columns in one block, few rows.
pub fn full_row(rows: usize, n: usize, precision: Precision) -> Tile {
    match n {
        0..=128 => Tile::new(64, n.next_multiple_of(64), [2, 2], 64, 3),
        129..=WIDE => Tile::new(32, n.next_multiple_of(64), [1, 4], 64, 3),
        _ => {
            let warps = if n <= 512 { 8 } else { 16 };
            // 32 rows of 1024 columns by 16 warps, or of f32 fragments, are more sums than registers.
            let few = n > 512 || precision == Precision::F32 || rows.div_ceil(32) < BUSY;
            Tile::new(if few { 16 } else { 32 }, n.next_multiple_of(8 * warps), [1, warps], 128, 4)
        }
    }
}

/// Columns up to which weights of whole rows go through shared memory. Wider products are `gemm/wide.cuh`.
pub const WIDE: usize = 256;

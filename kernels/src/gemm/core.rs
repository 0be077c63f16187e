//! The tile product every kernel is built on: C tile (f32 scratch) = A tile (rows of T) × packed B.
//!
//! Packed B is one layout for all instruction sets, so that packed weights can be stored and mapped by any machine: panels
//! of [`PANEL`] columns, each panel k-major.
//!
//! - f32: `[panel][k][16]`
//! - bf16: `[panel][k/2][16][2]`, k padded to a multiple of 32 with zeros. Sixteen pair-rows of it are an AMX tile, one
//!   pair-row is an operand of `vdpbf16ps`.
//!
//! Columns are padded with zeros to whole panels.

use crate::{DType, Element, Isa};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Columns of a panel of packed B.
pub const PANEL: usize = 16;

/// k of packed bf16 is padded to a multiple of this: the depth of an AMX tile.
pub(super) const BF16_DEPTH: usize = 32;

/// k as stored.
pub(super) fn padded_k(dtype: DType, k: usize) -> usize {
    if dtype == DType::Bf16 { k.next_multiple_of(BF16_DEPTH) } else { k }
}

/// Elements of T that packed B [n, k] takes.
pub fn packed_len<T: Element>(n: usize, k: usize) -> usize {
    n.next_multiple_of(PANEL) * padded_k(T::DTYPE, k)
}

/// A matrix B [n, k] (a weight, rows are output channels) in packed layout, owned or in memory shared with others.
#[derive(Clone)]
pub struct PackedMatrix {
    header: PackedHeader,
    storage: Storage,
}

/// Size and type of a [`PackedMatrix`], to be stored beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedHeader {
    /// Output channels.
    pub n: usize,
    /// Inner dimension.
    pub k: usize,
    /// Element type.
    pub dtype: DType,
}

impl PackedHeader {
    /// Bytes of the packed matrix; `None` if that overflows or the type is none that the CPU multiplies.
    pub fn byte_len(&self) -> Option<usize> {
        let depth = match self.dtype {
            DType::F32 => self.k,
            DType::Bf16 => self.k.checked_next_multiple_of(BF16_DEPTH)?,
            DType::F16 | DType::U8 => return None,
        };
        self.n.checked_next_multiple_of(PANEL)?.checked_mul(depth)?.checked_mul(self.dtype.size())
    }
}

/// Memory that a [`PackedMatrix`] shares, such as a mapped engine file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

#[derive(Clone)]
enum Storage {
    Owned(Vec<Line>),
    Shared(SharedBytes, Range<usize>),
}

/// Sixteen f32 or sixteen pairs of bf16: what a panel row takes, so that panels are aligned to cache lines.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; PANEL]);

/// Why stored bytes are not a packed matrix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    /// Length and header contradict each other.
    #[error(
        "a packed {dtype:?} matrix [{n}, {k}] takes {expected:?} bytes, the file holds {found}; make the engine file again"
    )]
    Length {
        /// From the header.
        n: usize,
        /// From the header.
        k: usize,
        /// From the header.
        dtype: DType,
        /// Bytes the header asks for; none if no such matrix can exist.
        expected: Option<usize>,
        /// Bytes given.
        found: usize,
    },
    /// The range is not inside the memory.
    #[error("packed bytes {start}..{end} lie outside the {len} bytes of the file; it is cut off, make it again")]
    Range {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Bytes there are.
        len: usize,
    },
    /// The address does not suit the element type.
    #[error("packed bytes start at offset {start}, which is not a multiple of 4 in memory; make the engine file again")]
    Alignment {
        /// First byte.
        start: usize,
    },
}

impl PackedMatrix {
    /// Packs B given as rows: `weight[n · k + k_index]`, rounded to T.
    ///
    /// # Panics
    /// If `weight` does not hold n·k values.
    pub fn pack<T: Element>(isa: Isa, n: usize, k: usize, weight: &[f32]) -> Self {
        assert_eq!(weight.len(), n * k, "a [{n}, {k}] matrix");
        let header = PackedHeader { n, k, dtype: T::DTYPE };
        let bytes = packed_len::<T>(n, k) * size_of::<T>();
        let mut lines = vec![Line([0; PANEL]); bytes / size_of::<Line>()];
        super::pack_rows_f32::<T>(isa, n, k, weight, k, bytemuck::cast_slice_mut(&mut lines));
        Self { header, storage: Storage::Owned(lines) }
    }

    /// A matrix of nothing, to be filled by [`PackedMatrix::repack`].
    pub fn empty() -> Self {
        let header = PackedHeader { n: 0, k: 0, dtype: DType::F32 };
        Self { header, storage: Storage::Owned(Vec::new()) }
    }

    /// Makes this the matrix of nothing again, but keeps its memory for [`PackedMatrix::repack`].
    pub fn forget(&mut self) {
        self.header = PackedHeader { n: 0, k: 0, dtype: DType::F32 };
    }

    /// Packs another B [n, k] into this matrix's memory, rounded to T. With `transposed` it is given as k rows of n,
    /// `weight[k_index · n + n_index]`: the data gradient of a product multiplies by the weight this way round.
    ///
    /// # Panics
    /// If `weight` does not hold n·k values.
    pub fn repack<T: Element>(&mut self, isa: Isa, n: usize, k: usize, weight: &[f32], transposed: bool) {
        assert_eq!(weight.len(), n * k, "a matrix of {n} by {k}");
        self.header = PackedHeader { n, k, dtype: T::DTYPE };
        let count = packed_len::<T>(n, k) * size_of::<T>() / size_of::<Line>();
        let mut lines = match std::mem::replace(&mut self.storage, Storage::Owned(Vec::new())) {
            Storage::Owned(lines) => lines,
            Storage::Shared(..) => Vec::new(),
        };
        lines.resize(count, Line([0; PANEL]));
        if transposed {
            super::pack_columns_f32::<T>(isa, n, k, weight, n, bytemuck::cast_slice_mut(&mut lines));
        } else {
            super::pack_rows_f32::<T>(isa, n, k, weight, k, bytemuck::cast_slice_mut(&mut lines));
        }
        self.storage = Storage::Owned(lines);
    }

    /// Takes packed bytes (as [`PackedMatrix::as_bytes`] gave them) out of shared memory, without copying.
    ///
    /// # Errors
    /// If the bytes cannot be that matrix: wrong length, outside the memory, or not aligned to 4.
    pub fn from_shared(header: PackedHeader, memory: SharedBytes, range: Range<usize>) -> Result<Self, PackedError> {
        let all = (*memory).as_ref();
        let (start, end, len) = (range.start, range.end, all.len());
        let bytes = all.get(range.clone()).ok_or(PackedError::Range { start, end, len })?;
        if header.byte_len() != Some(bytes.len()) {
            let PackedHeader { n, k, dtype } = header;
            return Err(PackedError::Length { n, k, dtype, expected: header.byte_len(), found: bytes.len() });
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(4) {
            return Err(PackedError::Alignment { start });
        }
        Ok(Self { header, storage: Storage::Shared(memory, range) })
    }

    /// Size and type.
    pub fn header(&self) -> PackedHeader {
        self.header
    }

    /// The packed bytes, in the machine's byte order.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Owned(lines) => bytemuck::cast_slice(lines),
            Storage::Shared(memory, range) => &(**memory).as_ref()[range.clone()],
        }
    }

    /// Bytes the matrix takes, owned or shared.
    pub fn bytes(&self) -> usize {
        self.as_bytes().len()
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.header.n
    }

    /// Inner dimension.
    pub fn k(&self) -> usize {
        self.header.k
    }

    /// What [`tile`] takes.
    pub fn view(&self) -> PackedView<'_> {
        let PackedHeader { n, k, dtype } = self.header;
        let depth = padded_k(dtype, k);
        PackedView { n, k, dtype, panel_bytes: depth * PANEL * dtype.size(), data: self.as_bytes() }
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedMatrix").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Equal size, type and bytes.
impl PartialEq for PackedMatrix {
    fn eq(&self, other: &Self) -> bool {
        self.header == other.header && self.as_bytes() == other.as_bytes()
    }
}

/// Borrowed packed B [n, k]: a weight's, or made at run time by [`super::pack_rows`] and its sisters.
#[derive(Clone, Copy)]
pub struct PackedView<'a> {
    n: usize,
    k: usize,
    dtype: DType,
    /// Bytes from one panel to the next.
    panel_bytes: usize,
    /// From the first panel's first row to the last panel's end (or later).
    data: &'a [u8],
}

impl<'a> PackedView<'a> {
    /// Memory that one of the packing functions has filled, as B [n, k].
    ///
    /// # Panics
    /// If `data` is too short.
    pub(crate) fn new<T: Element>(n: usize, k: usize, data: &'a [T]) -> Self {
        assert!(data.len() >= packed_len::<T>(n, k), "packed [{n}, {k}]");
        let panel_bytes = padded_k(T::DTYPE, k) * PANEL * size_of::<T>();
        Self { n, k, dtype: T::DTYPE, panel_bytes, data: bytemuck::cast_slice(data) }
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The part of the inner dimension `range`, for products that are summed up piece by piece.
    ///
    /// # Panics
    /// If the range is not inside 0..k, starts at no multiple of 32, or ends neither at k nor at a multiple of 32.
    pub fn depth(&self, range: Range<usize>) -> PackedView<'a> {
        assert!(range.start <= range.end && range.end <= self.k, "{range:?} of depth {}", self.k);
        assert!(range.start.is_multiple_of(BF16_DEPTH), "depth begins at {}", range.start);
        assert!(range.end == self.k || range.end.is_multiple_of(BF16_DEPTH), "depth ends at {}", range.end);
        let data = &self.data[(range.start * PANEL * self.dtype.size()).min(self.data.len())..];
        PackedView { k: range.len(), data, ..*self }
    }

    /// Address of the panel that begins with column `column` (a multiple of [`PANEL`] below the padded n), good for
    /// reading the panel's padded depth.
    pub(super) fn panel(&self, column: usize) -> *const u8 {
        debug_assert!(column.is_multiple_of(PANEL) && column < self.n);
        let start = column / PANEL * self.panel_bytes;
        let depth = padded_k(self.dtype, self.k) * PANEL * self.dtype.size();
        assert!(start + depth <= self.data.len(), "panel at column {column} of packed [{}, {}]", self.n, self.k);
        self.data[start..].as_ptr()
    }

    /// Bytes from one panel to the next.
    pub(super) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }
}

/// `c[i, j] (+)= Σ_k a[i, k] · b[columns.start + j, k]` for i in 0..m, j in 0..columns.len()
///
/// `a` is row-major with row stride `lda` (elements), `c` is row-major f32 with row stride `ldc`. Sums are f32.
/// With `accumulate` the product is added to `c`, else it overwrites. Nothing outside the named rows and columns is read or
/// written, so strides may be larger than rows and the space between them may hold anything.
///
/// The order in which k is summed depends on the tier, the element type and k alone: a row's result does not depend on m,
/// nor a column's on `columns`.
///
/// # Panics
/// If `columns` does not start at a multiple of [`PANEL`], a slice is too short, or `b` was packed for another type.
#[allow(clippy::too_many_arguments)] // a BLAS-shaped call: grouping the strides would only hide them
pub fn tile<T: Element>(
    isa: Isa,
    m: usize,
    a: &[T],
    lda: usize,
    b: PackedView<'_>,
    columns: Range<usize>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    let n = columns.len();
    assert!(b.dtype == T::DTYPE, "B is packed as {:?}, A is {:?}", b.dtype, T::DTYPE);
    assert!(columns.start.is_multiple_of(PANEL) && columns.end <= b.n, "columns {columns:?} of {}", b.n);
    if m == 0 || n == 0 {
        return;
    }
    assert!(lda >= b.k && (m - 1) * lda + b.k <= a.len(), "A [{m}, {}] with stride {lda} in {}", b.k, a.len());
    assert!(ldc >= n && (m - 1) * ldc + n <= c.len(), "C [{m}, {n}] with stride {ldc} in {}", c.len());
    let product = Product { m, a: a.as_ptr(), lda, b, columns, c: c.as_mut_ptr(), ldc, accumulate };
    // SAFETY: sizes are checked above; `dispatch` and `is_available` vouch for the instructions.
    unsafe {
        match (T::DTYPE, isa) {
            (DType::F32, _) => super::fma::f32_tile(isa, product.cast()),
            #[cfg(target_arch = "x86_64")]
            (_, Isa::Amx) => super::amx::tile(product.cast()),
            #[cfg(target_arch = "x86_64")]
            (_, Isa::Avx512Bf16) => super::dot::tile(product.cast()),
            _ => super::fma::bf16_tile(isa, product.cast()),
        }
    }
}

/// A checked call of [`tile`]: A has m rows of b.k elements, C has m rows of columns.len() values.
pub(super) struct Product<'a, T> {
    pub(super) m: usize,
    pub(super) a: *const T,
    pub(super) lda: usize,
    pub(super) b: PackedView<'a>,
    pub(super) columns: Range<usize>,
    pub(super) c: *mut f32,
    pub(super) ldc: usize,
    pub(super) accumulate: bool,
}

impl<'a, T> Product<'a, T> {
    /// The same call with A's type named.
    fn cast<U>(self) -> Product<'a, U> {
        let Self { m, a, lda, b, columns, c, ldc, accumulate } = self;
        Product { m, a: a.cast(), lda, b, columns, c, ldc, accumulate }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

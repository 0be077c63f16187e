//! What happens to an accumulator tile before it is stored: shared by `gemm`, `conv`, `mlp` and `patch_merge`.

use crate::context::Disjoint;
use crate::rows::{Moments, load, moments, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Element, Isa};
use serde::{Deserialize, Serialize};

/// The steps between accumulator and stored value, in this order, each optional:
///
/// `y = acc + bias[n]` → `act` → `× scale[n]` → layer norm over n (γ, β) → `+ residual[m, n]` → `act_after`
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Epilogue {
    /// Add `bias[n]`.
    pub bias: bool,
    /// Activation right after the bias.
    pub act: Act,
    /// Multiply by `scale[n]` (ConvNeXt's layer scale).
    pub scale: bool,
    /// Layer norm over the output channels with this ε (Swin V2's post-norm).
    pub norm: Option<f32>,
    /// Add the residual.
    pub residual: bool,
    /// Activation after the residual (ResNet).
    pub act_after: Act,
}

/// The operands an [`Epilogue`] names. Exactly those its flags ask for are present.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpilogueOperands<'a, T: Element> {
    /// `[n]`
    pub bias: Option<&'a [f32]>,
    /// `[n]`
    pub scale: Option<&'a [f32]>,
    /// γ and β of the norm, `[n]` each.
    pub norm: Option<(&'a [f32], &'a [f32])>,
    /// Where the residual comes from.
    pub residual: Residual<'a, T>,
}

/// Source of the residual operand.
#[derive(Debug, Clone, Copy, Default)]
pub enum Residual<'a, T: Element> {
    /// There is none.
    #[default]
    None,
    /// The output buffer holds it: read, added to and overwritten element by element.
    InPlace,
    /// Another buffer of the output's shape.
    From(&'a [T]),
}

/// A rectangle of a kernel's output [rows, n] whose accumulators stand in a scratch tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First output row.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// First output column.
    pub column: usize,
    /// Number of columns. All n with a norm.
    pub columns: usize,
    /// Length of an output row.
    pub n: usize,
}

/// Runs the epilogue over a scratch tile: accumulators `c` (row stride `ldc`) in, stored values out, at the region's place of
/// `out` [.., n]. `c` serves as working memory.
///
/// # Safety
/// While this runs, nobody else uses the region's part of `out`, nor writes that of a [`Residual::From`] buffer.
///
/// # Panics
/// If a slice is too short, an operand is missing that the flags ask for, or a norm sees only some of the columns.
pub unsafe fn apply<T: Element>(
    isa: Isa,
    epilogue: &Epilogue,
    operands: &EpilogueOperands<'_, T>,
    region: Region,
    c: &mut [f32],
    ldc: usize,
    out: &Disjoint<'_, T>,
) {
    // SAFETY: the caller's promise.
    unsafe { apply_placed(isa, epilogue, operands, region, c, ldc, out, &|row| Some(region.row + row)) }
}

/// As [`apply`], but row i of the tile goes to output row `place(i)`, or nowhere: for windows and other scattered rows.
///
/// # Safety
/// While this runs, nobody else uses the named rows' part of `out`, nor writes that of a [`Residual::From`] buffer; no two
/// rows have the same place.
///
/// # Panics
/// As [`apply`].
#[allow(clippy::too_many_arguments)] // the tile and its place: grouping them would only hide them
pub unsafe fn apply_rows<T: Element>(
    isa: Isa,
    epilogue: &Epilogue,
    operands: &EpilogueOperands<'_, T>,
    region: Region,
    c: &mut [f32],
    ldc: usize,
    out: &Disjoint<'_, T>,
    place: impl Fn(usize) -> Option<usize>,
) {
    // SAFETY: the caller's promise.
    unsafe { apply_placed(isa, epilogue, operands, region, c, ldc, out, &place) }
}

/// [`apply_rows`], compiled once whatever `place` is.
///
/// # Safety
/// As [`apply_rows`].
#[allow(clippy::too_many_arguments)] // as above
unsafe fn apply_placed<T: Element>(
    isa: Isa,
    epilogue: &Epilogue,
    operands: &EpilogueOperands<'_, T>,
    region: Region,
    c: &mut [f32],
    ldc: usize,
    out: &Disjoint<'_, T>,
    place: &dyn Fn(usize) -> Option<usize>,
) {
    let Region { rows, column, columns, n, .. } = region;
    assert!(column + columns <= n && columns <= ldc, "{region:?} with row stride {ldc}");
    assert!(rows == 0 || (rows - 1) * ldc + columns <= c.len(), "{region:?} of {} accumulators", c.len());
    let of_columns = |flag: bool, values: Option<&[f32]>, name: &str| -> *const f32 {
        if !flag {
            return std::ptr::null();
        }
        values.unwrap_or_else(|| panic!("the epilogue's {name} is missing"))[column..column + columns].as_ptr()
    };
    let norm = epilogue.norm.map(|eps| {
        assert!(columns == n, "a norm over {n} columns sees {columns}");
        let (weight, bias) = operands.norm.expect("the epilogue's norm is missing");
        assert!(weight.len() == n && bias.len() == n, "norm of {n} columns");
        Norm { eps, weight: weight.as_ptr(), bias: bias.as_ptr() }
    });
    let bias = of_columns(epilogue.bias, operands.bias, "bias");
    let scale = of_columns(epilogue.scale, operands.scale, "scale");
    assert!(epilogue.residual != matches!(operands.residual, Residual::None), "residual flag and operand differ");
    dispatch(
        isa,
        Rows {
            rows,
            columns,
            act: epilogue.act,
            act_after: epilogue.act_after,
            bias,
            scale,
            norm,
            c: c.as_mut_ptr(),
            ldc,
            place: &|row| {
                place(row).map(|row| {
                    let start = row * n + column;
                    // SAFETY: the caller keeps this part of the output to us, and rows are different.
                    let out = unsafe { out.slice(start, columns) };
                    let residual = match operands.residual {
                        Residual::None => std::ptr::null(),
                        Residual::InPlace => out.as_ptr(),
                        Residual::From(other) => other[start..start + columns].as_ptr(),
                    };
                    (out.as_mut_ptr(), residual)
                })
            },
        },
    );
}

#[derive(Clone, Copy)]
struct Norm {
    eps: f32,
    weight: *const f32,
    bias: *const f32,
}

/// Output and residual of a row of the tile.
type Place<'a, T> = dyn Fn(usize) -> Option<(*mut T, *const T)> + 'a;

/// A checked call of [`apply_rows`]; null means there is none. `place` gives a row's output and residual.
struct Rows<'a, T> {
    rows: usize,
    columns: usize,
    act: Act,
    act_after: Act,
    bias: *const f32,
    scale: *const f32,
    norm: Option<Norm>,
    c: *mut f32,
    ldc: usize,
    place: &'a Place<'a, T>,
}

impl<T: Element> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for row in 0..self.rows {
            let Some((out, residual)) = (self.place)(row) else { continue };
            // SAFETY: the row lies inside the accumulators, output and residual hold `columns` elements.
            unsafe {
                let c = self.c.add(row * self.ldc);
                match self.norm {
                    None => self.finish_row::<V>(c, None, out, residual),
                    Some(norm) => {
                        let statistics = self.norm_statistics::<V>(c, norm.eps);
                        self.finish_row::<V>(c, Some((norm, statistics)), out, residual);
                    }
                }
            }
        }
    }
}

/// Vectors that are worked on side by side.
const GROUP: usize = 4;

impl<T: Element> Rows<'_, T> {
    /// Bias, activation and scale of the `N` vectors from column `i`; with N = 1 of `count` columns.
    ///
    /// # Safety
    /// The columns exist.
    #[inline(always)]
    unsafe fn begin<V: Vector, const N: usize>(&self, c: *const f32, i: usize, count: usize) -> [V; N] {
        // SAFETY: columns of the row and of the operands.
        unsafe {
            let mut values: [V; N] = load_group(c.add(i), count);
            if !self.bias.is_null() {
                let bias: [V; N] = load_group(self.bias.add(i), count);
                for (value, bias) in values.iter_mut().zip(bias) {
                    *value = value.add(bias);
                }
            }
            self.act.apply_group::<T, V, N>(&mut values);
            if !self.scale.is_null() {
                let scale: [V; N] = load_group(self.scale.add(i), count);
                for (value, scale) in values.iter_mut().zip(scale) {
                    *value = value.mul(scale);
                }
            }
            values
        }
    }

    /// Stores the row's values before the norm back into `c`; their moments.
    ///
    /// # Safety
    /// `c` holds the row.
    #[inline(always)]
    unsafe fn norm_statistics<V: Vector>(&self, c: *mut f32, eps: f32) -> Moments {
        let n = self.columns;
        let mut i = 0;
        // SAFETY: columns of the row, which holds n values.
        unsafe {
            while i + GROUP * V::LANES <= n {
                let values: [V; GROUP] = self.begin::<V, GROUP>(c, i, V::LANES);
                store_group(values, c.add(i), V::LANES);
                i += GROUP * V::LANES;
            }
            while i < n {
                let count = V::LANES.min(n - i);
                store_group(self.begin::<V, 1>(c, i, count), c.add(i), count);
                i += count;
            }
            moments::<V, f32>(c, n, eps)
        }
    }

    /// # Safety
    /// `c` holds the row (already begun if there is a norm), `out` and `residual` as many elements.
    #[inline(always)]
    unsafe fn finish_row<V: Vector>(
        &self,
        c: *const f32,
        norm: Option<(Norm, Moments)>,
        out: *mut T,
        residual: *const T,
    ) {
        let n = self.columns;
        let mut i = 0;
        // SAFETY: columns of the row.
        unsafe {
            while i + GROUP * V::LANES <= n {
                self.finish::<V, GROUP>(c, i, V::LANES, norm, out, residual);
                i += GROUP * V::LANES;
            }
            while i < n {
                let count = V::LANES.min(n - i);
                self.finish::<V, 1>(c, i, count, norm, out, residual);
                i += count;
            }
        }
    }

    /// `N` vectors of [`Rows::finish_row`] from column `i`; with N = 1 `count` columns.
    ///
    /// # Safety
    /// As for `finish_row`, and the columns exist.
    #[inline(always)]
    unsafe fn finish<V: Vector, const N: usize>(
        &self,
        c: *const f32,
        i: usize,
        count: usize,
        norm: Option<(Norm, Moments)>,
        out: *mut T,
        residual: *const T,
    ) {
        // SAFETY: as the caller promises.
        unsafe {
            let mut values: [V; N] = match norm {
                None => self.begin::<V, N>(c, i, count),
                Some((norm, moments)) => {
                    let mut values: [V; N] = load_group(c.add(i), count);
                    let weights: [V; N] = load_group(norm.weight.add(i), count);
                    let biases: [V; N] = load_group(norm.bias.add(i), count);
                    for v in 0..N {
                        values[v] = moments.normalise(values[v]).mul_add(weights[v], biases[v]);
                    }
                    values
                }
            };
            if !residual.is_null() {
                let residual: [V; N] = load_group(residual.add(i), count);
                for (value, residual) in values.iter_mut().zip(residual) {
                    *value = value.add(residual);
                }
            }
            self.act_after.apply_group::<T, V, N>(&mut values);
            store_group(values, out.add(i), count);
        }
    }
}

/// `N` vectors, or with N = 1 `count` elements.
///
/// # Safety
/// `from` is valid for as many reads.
#[inline(always)]
unsafe fn load_group<V: Vector, T: Element, const N: usize>(from: *const T, count: usize) -> [V; N] {
    let mut values = [V::zero(); N];
    for (v, value) in values.iter_mut().enumerate() {
        // SAFETY: as the caller promises.
        *value = unsafe { if N == 1 { load(from, count) } else { V::load_as(from.add(v * V::LANES)) } };
    }
    values
}

/// `N` vectors, or with N = 1 `count` elements.
///
/// # Safety
/// `to` is valid for as many writes.
#[inline(always)]
unsafe fn store_group<V: Vector, T: Element, const N: usize>(values: [V; N], to: *mut T, count: usize) {
    for (v, value) in values.into_iter().enumerate() {
        // SAFETY: as the caller promises.
        unsafe { if N == 1 { store(value, to, count) } else { value.store_as(to.add(v * V::LANES)) } }
    }
}

//! The whole branch. Windows are taken in groups: a group's tokens go through norm, qkv, attention and projection while they
//! are in the cache, and only the weights stream by. A small map has too few windows to keep all threads busy; there the
//! steps run one after the other, each shared out by itself, with the tokens of all windows in between.

use super::geometry::Geometry;
use super::head::{HEAD, Head, HeadScratch, Qkv, Target, attend};
use crate::context::{Disjoint, Scratch, cut, scratch_bytes};
use crate::epilogue::{EpilogueOperands, Region, Residual, apply_rows};
use crate::gemm::{PANEL, PackedMatrix, tile};
use crate::rows::normalize_row;
use crate::window_attention::{WindowAttentionOperands, WindowAttentionSpec, WindowKind, WindowPlan};
use crate::{Context, Element, Epilogue, Isa};
use std::ops::Range;

/// Cache that a group's tokens may take: three quarters of a second-level cache of 2 MB. Weights stream through the rest,
/// once per group. Between 1 and 1.4 MB larger groups were mostly faster on a loaded machine; beyond that nothing was tried.
const GROUP_BYTES: usize = 3 << 19;

/// Rows of a group at most: more do not use the weights better.
const MAX_GROUP_ROWS: usize = 512;

/// f32 values of a tile of the projection.
const PROJECTION_TILE: usize = 1 << 16;

/// Elements between the end of a row of a scratch matrix and the next row, so that rows do not fall on the same cache sets.
const ROW_GAP: usize = 32;

/// How many tokens ahead are asked for, and how much of each: the rest of a long one is foreseen by the hardware.
const PREFETCH_ROWS: usize = 8;
const PREFETCH_BYTES: usize = 512;

/// `x += branch(x)`, see [`WindowAttentionSpec`].
///
/// # Panics
/// If operands do not have the sizes that the spec says, or heads are not 32 wide.
pub fn window_attention<T: Element>(
    context: &mut Context,
    spec: &WindowAttentionSpec,
    operands: WindowAttentionOperands<'_, T>,
) {
    let branch = Branch::new(context.isa(), spec, operands);
    let (rows, threads) = (branch.geometry.rows(), context.threads());
    if rows == 0 {
        return;
    }
    let groups = branch.geometry.cut(rows.div_ceil(branch.group_rows()).next_multiple_of(threads));
    let most = branch.geometry.most_rows(&groups);
    // Whole groups are best, if no thread waits long for the last of them.
    let even = groups.len().is_multiple_of(threads) && most * groups.len() <= rows * 11 / 10;
    if threads == 1 || even || groups.len() >= 4 * threads {
        context.parallel(groups.len(), branch.fused_bytes(most), |index, scratch| {
            branch.fused(groups[index].clone(), scratch);
        });
    } else {
        branch.in_steps(context);
    }
}

/// One call: what all tasks share. Matrices in scratch memory have rows of C elements that are [`Branch::stride`] apart.
struct Branch<'a, T: Element> {
    isa: Isa,
    spec: WindowAttentionSpec,
    geometry: Geometry,
    norm: (&'a [f32], &'a [f32]),
    qkv_weight: &'a PackedMatrix,
    qkv_bias: &'a [f32],
    score_scale: &'a [f32],
    bias: &'a [f32],
    proj_weight: &'a PackedMatrix,
    proj_bias: &'a [f32],
    x: Disjoint<'a, T>,
}

impl<'a, T: Element> Branch<'a, T> {
    fn new(isa: Isa, spec: &WindowAttentionSpec, operands: WindowAttentionOperands<'a, T>) -> Self {
        let WindowAttentionOperands { norm, qkv_weight, qkv_bias, score_scale, bias, proj_weight, proj_bias, x } =
            operands;
        let WindowAttentionSpec { batch, input, channels, heads, window, shift, .. } = *spec;
        let tokens = window * window;
        assert_eq!(channels, heads * HEAD, "channels of {heads} heads");
        assert_eq!((norm.0.len(), norm.1.len()), (channels, channels), "the norm's γ and β");
        assert_eq!((qkv_weight.n(), qkv_weight.k()), (3 * channels, channels), "the qkv weight");
        assert_eq!(qkv_bias.len(), 3 * channels, "the qkv bias");
        assert_eq!(score_scale.len(), heads, "score scales");
        assert_eq!(bias.len(), heads * tokens * tokens, "the position bias");
        assert_eq!((proj_weight.n(), proj_weight.k()), (channels, channels), "the projection's weight");
        assert_eq!(proj_bias.len(), channels, "the projection's bias");
        assert_eq!(x.len(), batch * input[0] * input[1] * channels, "x");
        Self {
            isa,
            spec: *spec,
            geometry: Geometry::new(batch, &WindowPlan { input, window, shift }),
            norm,
            qkv_weight,
            qkv_bias,
            score_scale,
            bias,
            proj_weight,
            proj_bias,
            x: Disjoint::new(x),
        }
    }

    fn stride(&self) -> usize {
        self.spec.channels + ROW_GAP
    }

    /// Heads whose q, k and v are made by one product.
    fn heads_per_pass(&self) -> usize {
        [2, 3].into_iter().find(|n| self.spec.heads.is_multiple_of(*n)).unwrap_or(1)
    }

    /// Rows of a group that fill [`GROUP_BYTES`].
    fn group_rows(&self) -> usize {
        let bytes = 2 * self.stride() * size_of::<T>() + self.heads_per_pass() * 3 * HEAD * size_of::<f32>();
        (GROUP_BYTES / bytes).clamp(1, MAX_GROUP_ROWS)
    }

    /// f32 values that the products of a task of at most `rows` rows take: q, k and v of some heads; a few rows or a few
    /// columns of the projection.
    fn products(&self, rows: usize) -> usize {
        (rows * self.heads_per_pass() * 3 * HEAD).max(rows * PANEL).max(self.spec.channels).max(PROJECTION_TILE)
    }

    /// Scratch of a task on at most `rows` rows, without the tokens themselves.
    fn task_bytes(&self, rows: usize) -> usize {
        scratch_bytes::<f32>(self.products(rows)) + HeadScratch::BYTES
    }

    /// Scratch of [`Branch::fused`] for a group of at most `rows` rows.
    fn fused_bytes(&self, rows: usize) -> usize {
        scratch_bytes::<u32>(rows) + 2 * scratch_bytes::<T>(rows * self.stride()) + self.task_bytes(rows)
    }

    /// The branch for a run of windows.
    fn fused(&self, windows: Range<usize>, mut scratch: Scratch<'_>) {
        let rows = self.geometry.rows_of(&windows).len();
        let pixels = scratch.take::<u32>(rows);
        let tokens = scratch.take::<T>(rows * self.stride());
        let mixed = scratch.take::<T>(rows * self.stride());
        let products = scratch.take::<f32>(self.products(rows));
        self.geometry.pixels(windows.clone(), pixels);
        // SAFETY: no two groups have a pixel in common, and `mixed` is this task's own.
        unsafe {
            self.load_tokens(pixels, tokens);
            let target = Disjoint::new(&mut *mixed);
            self.attend(
                windows,
                0..self.spec.heads,
                tokens,
                (&target, 0),
                products,
                &mut HeadScratch::take::<T>(self.isa, &mut scratch),
            );
            self.project(pixels, mixed, 0..self.spec.channels, products);
        }
    }

    /// The branch step by step, each step over all threads.
    fn in_steps(&self, context: &mut Context) {
        let WindowAttentionSpec { channels, heads, kind, .. } = self.spec;
        let (rows, stride) = (self.geometry.rows(), self.stride());
        let tasks = 4 * context.threads();
        let bytes = scratch_bytes::<u32>(rows) + 2 * scratch_bytes::<T>(rows * stride);
        context.with_shared(bytes, |context, mut shared| {
            let pixels = shared.take::<u32>(rows);
            let tokens = shared.take::<T>(rows * stride);
            let mixed = shared.take::<T>(rows * stride);
            self.geometry.pixels(0..self.geometry.windows(), pixels);

            let blocks = cut(rows, tasks, 1);
            let target = Disjoint::new(&mut *tokens);
            context.parallel(blocks.len(), 0, |index, _| {
                let block = blocks[index].clone();
                // SAFETY: blocks do not overlap, and x is only read in this step.
                unsafe {
                    let tokens = target.slice(block.start * stride, block.len() * stride);
                    self.load_tokens(&pixels[block], tokens);
                }
            });

            // Every group reads the weights of its heads: rather few heads of many rows than many of few.
            let passes = cut(heads, heads / self.heads_per_pass(), 1);
            let groups = rows.div_ceil(self.group_rows()).max(tasks.div_ceil(passes.len()));
            let groups = self.geometry.cut(groups);
            let bytes = self.task_bytes(self.geometry.most_rows(&groups));
            let target = Disjoint::new(&mut *mixed);
            context.parallel(groups.len() * passes.len(), bytes, |index, mut scratch| {
                let windows = groups[index / passes.len()].clone();
                let heads = passes[index % passes.len()].clone();
                let rows = self.geometry.rows_of(&windows);
                let tokens = &tokens[rows.start * stride..rows.end * stride];
                let products = scratch.take::<f32>(self.products(rows.len()));
                let mut scratch = HeadScratch::take::<T>(self.isa, &mut scratch);
                // SAFETY: no two tasks have both a row and a head in common.
                unsafe { self.attend(windows, heads, tokens, (&target, rows.start), products, &mut scratch) };
            });

            let blocks = cut(rows, rows.div_ceil(MAX_GROUP_ROWS), 1);
            let (blocks, columns) = match kind {
                WindowKind::V1 => (blocks.clone(), cut(channels, tasks.div_ceil(blocks.len()), 2 * PANEL)),
                WindowKind::V2 => (cut(rows, tasks.max(blocks.len()), PANEL), vec![0..channels; 1]),
            };
            let most = blocks.iter().map(Range::len).max().unwrap_or(0);
            context.parallel(blocks.len() * columns.len(), self.task_bytes(most), |index, mut scratch| {
                let block = blocks[index / columns.len()].clone();
                let columns = columns[index % columns.len()].clone();
                let products = scratch.take::<f32>(self.products(block.len()));
                let mixed = &mixed[block.start * stride..block.end * stride];
                // SAFETY: no two tasks have both a row and a column in common.
                unsafe { self.project(&pixels[block], mixed, columns, products) };
            });
        });
    }

    /// Gathers the tokens at `pixels` into `tokens`; V1 with its layer norm.
    ///
    /// # Safety
    /// Nobody writes those pixels of x meanwhile.
    unsafe fn load_tokens(&self, pixels: &[u32], tokens: &mut [T]) {
        let channels = self.spec.channels;
        for (row, (pixel, token)) in pixels.iter().zip(tokens.chunks_exact_mut(self.stride())).enumerate() {
            if let Some(pixel) = pixels.get(row + PREFETCH_ROWS) {
                self.prefetch(*pixel);
            }
            // SAFETY: as the caller promises.
            let from = unsafe { self.x.slice(*pixel as usize * channels, channels) };
            let token = &mut token[..channels];
            match self.spec.kind {
                WindowKind::V1 => normalize_row(self.isa, from, self.norm.0, self.norm.1, self.spec.eps, token),
                WindowKind::V2 => token.copy_from_slice(from),
            }
        }
    }

    /// Asks for a token that will be read soon: rows of a window lie far apart, which no hardware foresees.
    fn prefetch(&self, pixel: u32) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let bytes = self.spec.channels * size_of::<T>();
            let token = self.x.as_ptr().cast::<i8>().wrapping_add(pixel as usize * bytes);
            for line in (0..bytes.min(PREFETCH_BYTES)).step_by(64) {
                // SAFETY: a prefetch touches nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(token.wrapping_add(line)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = pixel;
    }

    /// qkv product and attention of some heads for a run of windows whose tokens are given; the result goes to the heads'
    /// columns of `target`, whose second part is the row where the first window begins there.
    ///
    /// # Safety
    /// Nobody else uses those rows and columns of `target` meanwhile.
    unsafe fn attend(
        &self,
        windows: Range<usize>,
        heads: Range<usize>,
        tokens: &[T],
        (target, target_row): (&Disjoint<'_, T>, usize),
        products: &mut [f32],
        scratch: &mut HeadScratch<'_>,
    ) {
        let (channels, per_pass) = (self.spec.channels, self.heads_per_pass());
        let all_rows = self.geometry.rows_of(&windows);
        let square = (self.spec.window * self.spec.window).pow(2);
        for first in heads.step_by(per_pass) {
            let width = per_pass * HEAD;
            for part in 0..3 {
                let columns = part * channels + first * HEAD..part * channels + first * HEAD + width;
                let (weight, c) = (self.qkv_weight.view(), &mut products[part * width..]);
                tile(self.isa, all_rows.len(), tokens, self.stride(), weight, columns, c, 3 * width, false);
            }
            for index in 0..per_pass {
                let number = first + index;
                let of_head = |part: usize| {
                    let start = part * channels + number * HEAD;
                    &self.qkv_bias[start..start + HEAD]
                };
                let head = Head {
                    kind: self.spec.kind,
                    tokens: self.spec.window * self.spec.window,
                    scale: self.score_scale[number],
                    bias: &self.bias[number * square..(number + 1) * square],
                    q_bias: of_head(0),
                    v_bias: of_head(2),
                };
                scratch.load_bias(&head);
                for window in windows.clone() {
                    let window = self.geometry.window(window);
                    let row = window.rows.start - all_rows.start;
                    let qkv = Qkv {
                        values: &products[row * 3 * width..],
                        stride: 3 * width,
                        starts: [0, 1, 2].map(|part| part * width + index * HEAD),
                    };
                    let start = (target_row + row) * self.stride() + number * HEAD;
                    let target = Target { values: target, stride: self.stride(), start };
                    // SAFETY: this window's rows and this head's columns.
                    unsafe { attend(self.isa, &head, &window, qkv, target, scratch) };
                }
            }
        }
    }

    /// Columns `columns` of the projection of `mixed`, added to x at `pixels`; V2 with its layer norm, for which all columns
    /// are needed.
    ///
    /// # Safety
    /// Nobody else uses those columns of those pixels of x meanwhile.
    unsafe fn project(&self, pixels: &[u32], mixed: &[T], columns: Range<usize>, products: &mut [f32]) {
        let WindowAttentionSpec { channels, kind, eps, .. } = self.spec;
        let norm = (kind == WindowKind::V2).then_some(eps);
        let epilogue = Epilogue { bias: true, norm, residual: true, ..Epilogue::default() };
        let operands = EpilogueOperands {
            bias: Some(self.proj_bias),
            norm: norm.map(|_| self.norm),
            residual: Residual::InPlace,
            ..EpilogueOperands::default()
        };
        let (rows, width) = match kind {
            WindowKind::V1 => (pixels.len(), (products.len() / pixels.len() / PANEL * PANEL).min(columns.len())),
            WindowKind::V2 => ((products.len() / channels).min(pixels.len()), channels),
        };
        for start in (0..pixels.len()).step_by(rows) {
            let pixels = &pixels[start..(start + rows).min(pixels.len())];
            let mixed = &mixed[start * self.stride()..];
            for column in columns.clone().step_by(width) {
                let columns = column..(column + width).min(columns.end);
                let weight = self.proj_weight.view();
                tile(self.isa, pixels.len(), mixed, self.stride(), weight, columns.clone(), products, width, false);
                let region = Region { row: 0, rows: pixels.len(), column, columns: columns.len(), n: channels };
                let place = |row: usize| Some(pixels[row] as usize);
                // SAFETY: as the caller promises; pixels are different.
                unsafe { apply_rows(self.isa, &epilogue, &operands, region, products, width, &self.x, place) };
            }
        }
    }
}

//! Attention of one head inside one window on AMX tiles: bf16 products, f32 softmax.
//!
//! 64 × 64 scores are 4 × 4 tiles of depth 32, one instruction each; the mixture of the values is 4 × 2 tiles of depth 64.
//! Windows of 7 × 7 leave the last tile of rows and of columns nearly empty. Scores are kept in units of ln 2, so that their
//! exponential is a power of two; weights are rounded to bf16, their sum is taken before.

use super::avx512::{NO_ROW, rows_of_tokens, transpose};
use super::geometry::{MAX_TOKENS, Window};
use super::head::{FLOOR, HEAD, Head, MASK, MIN_LENGTH, NO_KEY, Qkv, Target};
use crate::bf16;
use crate::context::{Scratch, scratch_bytes};
use crate::window_attention::WindowKind;
use std::arch::asm;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

/// Rows of a tile.
const ROWS: usize = 16;

/// Elements of a tile of bf16.
const TILE: usize = 512;

/// Tiles side by side over all tokens.
const TILES: usize = MAX_TOKENS / ROWS;

/// Working memory.
pub(super) struct TileScratch<'a> {
    /// Bias in units of ln 2, rows of 64.
    bias: &'a mut [f32],
    /// [64, 32], one row per real token.
    queries: &'a mut [bf16],
    /// Four tiles of 16 keys: [16 pairs of d, 16 keys, 2].
    keys: &'a mut [bf16],
    /// 2 × 2 tiles (columns d, depth tokens): [16 pairs of tokens, 16 d, 2].
    values: &'a mut [bf16],
    /// [64, 64]
    scores: &'a mut [f32],
    /// [64, 64]
    weights: &'a mut [bf16],
    /// [64, 32]
    mixed: &'a mut [f32],
}

impl<'a> TileScratch<'a> {
    /// Bytes it takes.
    pub(super) const BYTES: usize = 2 * scratch_bytes::<f32>(MAX_TOKENS * MAX_TOKENS)
        + 3 * scratch_bytes::<bf16>(MAX_TOKENS * HEAD)
        + scratch_bytes::<bf16>(MAX_TOKENS * MAX_TOKENS)
        + scratch_bytes::<f32>(MAX_TOKENS * HEAD);

    pub(super) fn take(scratch: &mut Scratch<'a>) -> Self {
        Self {
            bias: scratch.take(MAX_TOKENS * MAX_TOKENS),
            queries: scratch.take(MAX_TOKENS * HEAD),
            keys: scratch.take(MAX_TOKENS * HEAD),
            values: scratch.take(MAX_TOKENS * HEAD),
            scores: scratch.take(MAX_TOKENS * MAX_TOKENS),
            weights: scratch.take(MAX_TOKENS * MAX_TOKENS),
            mixed: scratch.take(MAX_TOKENS * HEAD),
        }
    }

    /// Lays out the head's bias.
    pub(super) fn load_bias(&mut self, head: &Head<'_>) {
        let rows = self.bias.chunks_exact_mut(MAX_TOKENS).zip(head.bias.chunks_exact(head.tokens));
        for (row, from) in rows {
            for (to, from) in row.iter_mut().zip(from) {
                *to = from * LOG2_E;
            }
            row[head.tokens..].fill(NO_KEY);
        }
    }
}

/// What `ldtilecfg` reads: all eight registers are 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let mut register = 0;
    while register < 8 {
        config.row_bytes[register] = 64;
        config.rows[register] = ROWS as u8;
        register += 1;
    }
    config
};

/// Attention of one window, after [`TileScratch::load_bias`].
///
/// # Safety
/// The CPU has AMX with bf16 and the process may use it; the window has tokens; sizes are as `head::attend` checks them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn attend(
    head: &Head<'_>,
    window: &Window,
    qkv: Qkv<'_>,
    target: &Target<'_, bf16>,
    scratch: &mut TileScratch<'_>,
) {
    let tokens = window.tokens();
    let row_tiles = tokens.len().div_ceil(ROWS);
    let row_of = rows_of_tokens(tokens);
    let mut inverse_sums = [0.0; MAX_TOKENS];
    // SAFETY: as the caller promises; every buffer of the scratch has room for 64 tokens.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly));
        // Tiles work while vectors do: scores are asked for one step before their exponentials, weights are used one step
        // after they are stored.
        load_queries(head, tokens.len(), qkv, scratch);
        load_keys(head, &row_of, qkv, scratch);
        load_key_tiles(scratch);
        score_tile(0, scratch);
        load_values(&row_of, qkv, scratch);
        for tile in 0..row_tiles {
            if tile + 1 < row_tiles {
                score_tile(tile + 1, scratch);
            }
            softmax(head, window, tile, scratch, &mut inverse_sums);
            if tile > 0 {
                mix_tile(tile - 1, scratch);
            }
        }
        mix_tile(row_tiles - 1, scratch);
        asm!("tilerelease", options(nostack, nomem));

        let (low, high) = (_mm512_loadu_ps(head.v_bias.as_ptr()), _mm512_loadu_ps(head.v_bias.as_ptr().add(16)));
        for (row, inverse) in inverse_sums.iter().enumerate().take(tokens.len()) {
            let mixed = scratch.mixed.as_ptr().add(row * HEAD);
            let factor = _mm512_set1_ps(*inverse);
            let low = _mm512_fmadd_ps(_mm512_loadu_ps(mixed), factor, low);
            let high = _mm512_fmadd_ps(_mm512_loadu_ps(mixed.add(16)), factor, high);
            _mm512_storeu_si512(target.row(row).cast(), to_bf16(low, high));
        }
    }
}

/// Thirty-two values, rounded to nearest even.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn to_bf16(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 plain bytes.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Thirty-two values of a row; V2 divides them by their length.
///
/// # Safety
/// `from` is good for 32 values.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load_row(head: &Head<'_>, from: *const f32, bias: [__m512; 2]) -> __m512i {
    // SAFETY: as the caller promises.
    let (low, high) = unsafe { (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))) };
    let (low, high) = (_mm512_add_ps(low, bias[0]), _mm512_add_ps(high, bias[1]));
    if head.kind == WindowKind::V1 {
        return to_bf16(low, high);
    }
    let square = _mm512_reduce_add_ps(_mm512_fmadd_ps(low, low, _mm512_mul_ps(high, high)));
    let factor = _mm512_set1_ps(1.0 / square.sqrt().max(MIN_LENGTH));
    to_bf16(_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor))
}

/// Rounds queries to bf16.
///
/// # Safety
/// There are that many rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load_queries(head: &Head<'_>, rows: usize, qkv: Qkv<'_>, scratch: &mut TileScratch<'_>) {
    let q = qkv.values[qkv.starts[0]..].as_ptr();
    // SAFETY: as the caller promises; at most 64 rows.
    unsafe {
        let bias = [_mm512_loadu_ps(head.q_bias.as_ptr()), _mm512_loadu_ps(head.q_bias.as_ptr().add(16))];
        for row in 0..rows {
            let values = load_row(head, q.add(row * qkv.stride), bias);
            _mm512_store_si512(scratch.queries.as_mut_ptr().add(row * HEAD).cast(), values);
        }
    }
}

/// Rounds keys to bf16 and lays them out as tiles; padded tokens are zeros.
///
/// # Safety
/// Rows are as `row_of` says.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load_keys(head: &Head<'_>, row_of: &[u8; MAX_TOKENS], qkv: Qkv<'_>, scratch: &mut TileScratch<'_>) {
    let k = qkv.values[qkv.starts[1]..].as_ptr();
    for tile in 0..TILES {
        let mut rows = [_mm512_setzero_si512(); ROWS];
        for (values, row) in rows.iter_mut().zip(&row_of[tile * ROWS..]) {
            if *row != NO_ROW {
                // SAFETY: as the caller promises.
                *values = unsafe { load_row(head, k.add(usize::from(*row) * qkv.stride), [_mm512_setzero_ps(); 2]) };
            }
        }
        for (pair, keys) in transpose(rows).into_iter().enumerate() {
            // SAFETY: line `pair` of the tile.
            unsafe { _mm512_store_si512(scratch.keys.as_mut_ptr().add(tile * TILE + pair * 32).cast(), keys) };
        }
    }
}

/// Rounds values to bf16 and lays them out as tiles; padded tokens are zeros.
///
/// # Safety
/// Rows are as `row_of` says.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn load_values(row_of: &[u8; MAX_TOKENS], qkv: Qkv<'_>, scratch: &mut TileScratch<'_>) {
    let v = qkv.values[qkv.starts[2]..].as_ptr();
    let value = |token: usize| match row_of[token] {
        NO_ROW => _mm512_setzero_si512(),
        row => {
            // SAFETY: as the caller promises.
            unsafe {
                let from = v.add(usize::from(row) * qkv.stride);
                to_bf16(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)))
            }
        }
    };
    // Words of two tokens' rows in turn: d 0 to 15, d 16 to 31.
    let low = _mm512_add_epi16(_mm512_set1_epi32(32 << 16), spread_words(0));
    let high = _mm512_add_epi16(_mm512_set1_epi32(32 << 16), spread_words(16));
    for pair in 0..MAX_TOKENS / 2 {
        let (first, second) = (value(2 * pair), value(2 * pair + 1));
        // SAFETY: line `pair` of the first and of the second two tiles.
        unsafe {
            let to = scratch.values.as_mut_ptr().add(pair * 32);
            _mm512_store_si512(to.cast(), _mm512_permutex2var_epi16(first, low, second));
            let to = to.add(2 * TILE);
            _mm512_store_si512(to.cast(), _mm512_permutex2var_epi16(first, high, second));
        }
    }
}

/// start, start, start + 1, start + 1, …
#[inline]
#[target_feature(enable = "avx512f")]
fn spread_words(start: u32) -> __m512i {
    let index: [u32; 16] = std::array::from_fn(|i| (start + i as u32) * 0x1_0001);
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(index.as_ptr().cast()) }
}

/// Keys to registers 4 to 7.
///
/// # Safety
/// The tile configuration is [`CONFIG`].
#[inline]
unsafe fn load_key_tiles(scratch: &TileScratch<'_>) {
    // SAFETY: four tiles of keys.
    unsafe {
        asm!(
            "tileloadd tmm4, [{keys} + {stride}]",
            "tileloadd tmm5, [{keys} + {stride} + 1024]",
            "tileloadd tmm6, [{keys} + {stride} + 2048]",
            "tileloadd tmm7, [{keys} + {stride} + 3072]",
            keys = in(reg) scratch.keys.as_ptr(),
            stride = in(reg) 64usize,
            options(nostack, readonly),
        );
    }
}

/// Scores of a tile of queries and all keys. Registers 0 to 3.
///
/// # Safety
/// After [`load_key_tiles`].
#[inline]
unsafe fn score_tile(tile: usize, scratch: &mut TileScratch<'_>) {
    // SAFETY: tiles are inside their buffers.
    unsafe {
        asm!(
            "tileloadd tmm0, [{queries} + {stride}]",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tdpbf16ps tmm1, tmm0, tmm4",
            "tdpbf16ps tmm2, tmm0, tmm5",
            "tdpbf16ps tmm3, tmm0, tmm6",
            "tilestored [{scores} + {score_stride}], tmm1",
            "tilezero tmm1",
            "tdpbf16ps tmm1, tmm0, tmm7",
            "tilestored [{scores} + {score_stride} + 64], tmm2",
            "tilestored [{scores} + {score_stride} + 128], tmm3",
            "tilestored [{scores} + {score_stride} + 192], tmm1",
            queries = in(reg) scratch.queries.as_ptr().add(tile * TILE),
            stride = in(reg) 64usize,
            scores = in(reg) scratch.scores.as_mut_ptr().add(tile * ROWS * MAX_TOKENS),
            score_stride = in(reg) MAX_TOKENS * size_of::<f32>(),
            options(nostack),
        );
    }
}

/// Weights of a tile of queries times values. Registers 0 to 3.
///
/// # Safety
/// The tile configuration is [`CONFIG`].
#[inline]
unsafe fn mix_tile(tile: usize, scratch: &mut TileScratch<'_>) {
    // SAFETY: tiles are inside their buffers.
    unsafe {
        asm!(
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm0, [{weights} + {row_stride}]",
            "tileloadd tmm1, [{values} + {stride}]",
            "tdpbf16ps tmm2, tmm0, tmm1",
            "tileloadd tmm1, [{values} + {stride} + 2048]",
            "tdpbf16ps tmm3, tmm0, tmm1",
            "tileloadd tmm0, [{weights} + {row_stride} + 64]",
            "tileloadd tmm1, [{values} + {stride} + 1024]",
            "tdpbf16ps tmm2, tmm0, tmm1",
            "tileloadd tmm1, [{values} + {stride} + 3072]",
            "tdpbf16ps tmm3, tmm0, tmm1",
            "tilestored [{mixed} + {row_stride}], tmm2",
            "tilestored [{mixed} + {row_stride} + 64], tmm3",
            weights = in(reg) scratch.weights.as_ptr().add(tile * ROWS * MAX_TOKENS),
            values = in(reg) scratch.values.as_ptr(),
            stride = in(reg) 64usize,
            mixed = in(reg) scratch.mixed.as_mut_ptr().add(tile * ROWS * HEAD),
            row_stride = in(reg) 128usize,
            options(nostack),
        );
    }
}

/// Turns the scores of a tile of queries into weights, and one over their sums.
///
/// # Safety
/// The scores are there.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512bf16")]
unsafe fn softmax(
    head: &Head<'_>,
    window: &Window,
    tile: usize,
    scratch: &mut TileScratch<'_>,
    inverse_sums: &mut [f32; MAX_TOKENS],
) {
    let scale = _mm512_set1_ps(head.scale * LOG2_E);
    let mask = _mm512_set1_ps(MASK * LOG2_E);
    let tokens = &window.tokens()[tile * ROWS..];
    let rows = tokens.len().min(ROWS);
    let scores = scratch.scores[tile * ROWS * MAX_TOKENS..].as_mut_ptr();
    let weights = scratch.weights[tile * ROWS * MAX_TOKENS..].as_mut_ptr();
    let mut largest = [_mm512_setzero_ps(); ROWS];
    for (row, (token, largest)) in tokens.iter().zip(&mut largest).enumerate() {
        let query = usize::from(*token);
        // SAFETY: rows of 64 values.
        unsafe {
            let scores = scores.add(row * MAX_TOKENS);
            let bias = scratch.bias.as_ptr().add(query * MAX_TOKENS);
            let mut s = [_mm512_setzero_ps(); TILES];
            for (i, s) in s.iter_mut().enumerate() {
                *s = _mm512_fmadd_ps(_mm512_loadu_ps(scores.add(16 * i)), scale, _mm512_loadu_ps(bias.add(16 * i)));
                if let Some(regions) = window.regions() {
                    let region = _mm512_loadu_ps(regions.as_ptr().add(16 * i));
                    let apart = _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(region, _mm512_set1_ps(regions[query]));
                    *s = _mm512_mask_add_ps(*s, apart, *s, mask);
                }
                _mm512_storeu_ps(scores.add(16 * i), *s);
            }
            *largest = _mm512_max_ps(_mm512_max_ps(s[0], s[1]), _mm512_max_ps(s[2], s[3]));
        }
    }
    let mut row_largest = [0.0f32; ROWS];
    let mut sums = [_mm512_setzero_ps(); ROWS];
    // SAFETY: 16 values; rows of 64 values.
    unsafe {
        _mm512_storeu_ps(row_largest.as_mut_ptr(), reduce_rows::<true>(largest));
        for (row, sum) in sums.iter_mut().enumerate().take(rows) {
            let largest = _mm512_set1_ps(row_largest[row]);
            let mut s = [_mm512_setzero_ps(); TILES];
            for (i, s) in s.iter_mut().enumerate() {
                let below = _mm512_sub_ps(_mm512_loadu_ps(scores.add(row * MAX_TOKENS + 16 * i)), largest);
                *s = power_of_two(_mm512_max_ps(below, _mm512_set1_ps(FLOOR * LOG2_E)));
            }
            *sum = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
            let weights = weights.add(row * MAX_TOKENS);
            _mm512_store_si512(weights.cast(), to_bf16(s[0], s[1]));
            _mm512_store_si512(weights.add(32).cast(), to_bf16(s[2], s[3]));
        }
        let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), reduce_rows::<false>(sums));
        _mm512_storeu_ps(inverse_sums[tile * ROWS..].as_mut_ptr(), inverse);
    }
}

/// Largest value (`MAX`) or sum of each of 16 registers, in order.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduce_rows<const MAX: bool>(rows: [__m512; ROWS]) -> __m512 {
    let join = |a: __m512, b: __m512| if MAX { _mm512_max_ps(a, b) } else { _mm512_add_ps(a, b) };
    // Every step joins halves of two registers: within quarters first, then quarters.
    let pair = |i: usize| {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        _mm512_castps_pd(join(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)))
    };
    let quad = |i: usize| {
        let (a, b) = (pair(2 * i), pair(2 * i + 1));
        join(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)))
    };
    let quarters = |a: __m512, b: __m512| join(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    quarters(quarters(quad(0), quad(1)), quarters(quad(2), quad(3)))
}

/// 2^x to 8e-5 of its value, a twentieth of what rounding to bf16 costs.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn power_of_two(x: __m512) -> __m512 {
    // x minus its floor, a minimax polynomial for 0..1, and the floor as exponent.
    const FRACTION_BELOW: i32 = 0b1001;
    let f = _mm512_reduce_ps::<FRACTION_BELOW>(x);
    let p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.078_022_77), _mm512_set1_ps(0.226_067_33));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.695_834_7));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999_924_97));
    _mm512_scalef_ps(p, x)
}

//! The product on AMX tiles: 32 rows by 32 columns of C stay in four tile registers over the whole depth.
//!
//! A's rows are read in place with their stride, B's panels are tiles already. The last rows get a configuration of their
//! own, the last columns and sums to be added to C go through a buffer of one tile, and the last k % 32 columns of A are
//! copied behind zeros, because what lies behind them may be a NaN.

use super::core::{BF16_DEPTH, PANEL, Product};
use crate::bf16;
use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Rows of a tile.
const ROWS: usize = 16;

/// Bytes of a tile: 16 rows of 64.
const TILE_BYTES: usize = 1024;

/// Whether CPU and operating system have AMX with bf16; asks the system for permission once per process.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const TILE_STATE: u64 = 0b11 << 17;
        if __cpuid(0).eax < 7 || __cpuid(1).ecx & (1 << 27) == 0 {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        let (bf16, tile) = (features & (1 << 22) != 0, features & (1 << 24) != 0);
        // SAFETY: CPUID said that XGETBV is enabled.
        bf16 && tile && unsafe { xgetbv0() } & TILE_STATE == TILE_STATE && permitted()
    })
}

/// The operating system's enabled register states.
///
/// # Safety
/// The operating system has enabled XGETBV.
unsafe fn xgetbv0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Asks Linux for the tile registers, for this process and all its threads.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this call takes a number and changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Registers 0, 1: C above; 2, 3: C below; 4: A above; 5: A below; 6, 7: B.
    fn new(above: usize, below: usize) -> Self {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let below_or_any = if below == 0 { above } else { below };
        for (register, rows) in
            [above, above, below_or_any, below_or_any, above, below_or_any, ROWS, ROWS].into_iter().enumerate()
        {
            config.row_bytes[register] = 64;
            config.rows[register] = rows as u8;
        }
        config
    }

    /// # Safety
    /// The CPU has AMX and the process may use it.
    unsafe fn load(&self) {
        // SAFETY: the configuration is valid; tile registers are nobody else's.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly)) };
    }
}

/// A tile of f32 or of bf16.
#[repr(C, align(64))]
struct Buffer([u8; TILE_BYTES]);

/// bf16 product.
///
/// # Safety
/// [`is_available`], and the sizes in `product` are right.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn tile(product: Product<'_, bf16>) {
    let m = product.m;
    let main = m / 32 * 32;
    // SAFETY: strips lie inside the product.
    unsafe {
        if main > 0 {
            Config::new(ROWS, ROWS).load();
            for row in (0..main).step_by(32) {
                strip(&product, row, ROWS, ROWS);
            }
        }
        if m > main {
            let above = (m - main).min(ROWS);
            let below = m - main - above;
            Config::new(above, below).load();
            strip(&product, main, above, below);
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// All columns of a strip of rows.
///
/// # Safety
/// The tile configuration is that of (above, below), and the rows are inside the product.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn strip(product: &Product<'_, bf16>, row: usize, above: usize, below: usize) {
    let Product { a, lda, b, columns, c, ldc, accumulate, .. } = product;
    let (k, lda) = (b.k(), *lda);
    let tail = k % BF16_DEPTH;
    let mut tails = [const { Buffer([0; TILE_BYTES]) }; 2];
    // SAFETY: addresses below are of rows row..row + above + below and of panels inside B.
    unsafe {
        let a_above = a.add(row * lda);
        let a_below = if below > 0 { a_above.add(ROWS * lda) } else { a_above };
        if tail > 0 {
            let mask = (1u32 << tail) - 1;
            for (buffer, (from, rows)) in tails.iter_mut().zip([(a_above, above), (a_below, below)]) {
                for i in 0..rows {
                    let values = _mm512_maskz_loadu_epi16(mask, from.add(i * lda + k - tail).cast());
                    _mm512_store_si512(buffer.0.as_mut_ptr().add(i * 64).cast(), values);
                }
            }
        }
        let mut column = 0;
        while column < columns.len() {
            let wide = columns.len() - column > PANEL;
            let b0 = b.panel(columns.start + column);
            let b1 = if wide { b.panel(columns.start + column + PANEL) } else { b0 };
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
            let full = k / BF16_DEPTH;
            multiply(full, a_above.cast(), a_below.cast(), lda * 2, b0, b1);
            if tail > 0 {
                let offset = full * TILE_BYTES;
                multiply(1, tails[0].0.as_ptr(), tails[1].0.as_ptr(), 64, b0.add(offset), b1.add(offset));
            }
            for (register, below_part, right) in
                [(0, false, false), (1, false, true), (2, true, false), (3, true, true)]
            {
                let rows = if below_part { below } else { above };
                if rows == 0 || (right && !wide) {
                    continue;
                }
                let start = column + if right { PANEL } else { 0 };
                let count = PANEL.min(columns.len() - start);
                let to = c.add((row + if below_part { ROWS } else { 0 }) * ldc + start);
                if count == PANEL && !accumulate {
                    store(register, to.cast(), ldc * 4);
                    continue;
                }
                let mut buffer = Buffer([0; TILE_BYTES]);
                store(register, buffer.0.as_mut_ptr(), 64);
                let mask = ((1u32 << count) - 1) as __mmask16;
                for i in 0..rows {
                    let mut sum = _mm512_load_ps(buffer.0.as_ptr().add(i * 64).cast());
                    if *accumulate {
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to.add(i * ldc)));
                    }
                    _mm512_mask_storeu_ps(to.add(i * ldc), mask, sum);
                }
            }
            column += 2 * PANEL;
        }
    }
}

/// Adds `steps` tiles of depth to the four tiles of C.
///
/// # Safety
/// Tiles are configured; A is readable for `steps` · 64 bytes per configured row, B for `steps` tiles.
#[inline]
unsafe fn multiply(steps: usize, a0: *const u8, a1: *const u8, a_stride: usize, b0: *const u8, b1: *const u8) {
    if steps == 0 {
        return;
    }
    // SAFETY: reads only what the caller promises; the compiler itself never uses tile registers.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm6, [{b0} + {b_stride}]",
            "tileloadd tmm4, [{a0} + {a_stride}]",
            "tileloadd tmm7, [{b1} + {b_stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a1} + {a_stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 64",
            "add {a1}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            a0 = inout(reg) a0 => _,
            a1 = inout(reg) a1 => _,
            b0 = inout(reg) b0 => _,
            b1 = inout(reg) b1 => _,
            steps = inout(reg) steps => _,
            a_stride = in(reg) a_stride,
            b_stride = in(reg) 64usize,
            options(nostack, readonly),
        );
    }
}

/// Stores C's tile register 0 to 3 with a row stride in bytes.
///
/// # Safety
/// `to` is writable for the register's configured rows of 64 bytes.
#[inline]
unsafe fn store(register: usize, to: *mut u8, stride: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        match register {
            0 => asm!("tilestored [{} + {}], tmm0", in(reg) to, in(reg) stride, options(nostack)),
            1 => asm!("tilestored [{} + {}], tmm1", in(reg) to, in(reg) stride, options(nostack)),
            2 => asm!("tilestored [{} + {}], tmm2", in(reg) to, in(reg) stride, options(nostack)),
            _ => asm!("tilestored [{} + {}], tmm3", in(reg) to, in(reg) stride, options(nostack)),
        }
    }
}

/// `steps` rounds of four independent tile products on registers; the operations they do.
///
/// # Safety
/// [`is_available`].
pub(crate) unsafe fn peak(steps: usize) -> f64 {
    // SAFETY: AMX is available; registers are zero after the configuration.
    unsafe {
        Config::new(ROWS, ROWS).load();
        for _ in 0..steps {
            asm!(
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                options(nostack, nomem),
            );
        }
        asm!("tilerelease", options(nostack, nomem));
    }
    (steps * 4 * 2 * ROWS * PANEL * BF16_DEPTH) as f64
}

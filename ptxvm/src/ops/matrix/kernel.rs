//! Products of fragments, for all types whose elements are at most 32 bits.
//!
//! In a register of `a`, lanes hold words (32 bits along k) of eight rows: lane `4 · row + t` word t. `b` likewise, with
//! columns for rows. A register of the accumulators holds the even columns of eight rows, the next the odd ones (f16
//! has both in one). So with vectors of lanes nothing ever leaves its place: a word of `a` is spread over its group, the
//! words of `b`'s even (odd) columns stand in every group, and their products belong to the lanes they are computed in.

use super::{
    product::{MOST_PARTS, Order, Product},
    vector::{Kernel, Vector},
};
use crate::machine::{
    op::{Flow, Op, Slot},
    warp::Warp,
};
use std::{marker::PhantomData, mem::MaybeUninit};

/// A register's 32 lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Register(pub(super) [u32; 32]);

/// Registers of `a` for a tile: two along k, two along m.
const MOST_A: usize = 4;
/// Registers of `b` for a tile: two along k.
const MOST_B: usize = 2;
/// Accumulators of one instruction.
const MOST_D: usize = 8;

/// Where a tile's registers lie.
struct Tile<'a> {
    a: &'a [*const u32],
    b: &'a [*const u32],
    c: &'a [*const u32],
    d: &'a [*mut u32],
}

/// What an operation asks for besides its types, packed into `Op::x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `kind` of [`Product::expand`] for `a`.
    pub(super) a_kind: u32,
    /// `kind` of [`Product::expand`] for `b`.
    pub(super) b_kind: u32,
    /// `.satfinite`.
    pub(super) saturate: bool,
    /// Tiles along m: 16 rows each.
    pub(super) rows: u32,
    /// Tiles along n: 8 columns each.
    pub(super) columns: u32,
}

impl Request {
    pub(super) fn pack(self) -> u32 {
        self.a_kind | self.b_kind << 1 | u32::from(self.saturate) << 2 | self.rows << 4 | self.columns << 8
    }

    #[inline(always)]
    fn unpack(x: u32) -> Self {
        Self { a_kind: x & 1, b_kind: x >> 1 & 1, saturate: x >> 2 & 1 != 0, rows: x >> 4 & 15, columns: x >> 8 & 15 }
    }
}

/// How accumulators lie in registers.
pub(super) trait Sums {
    /// Registers for eight rows.
    const REGISTERS: usize;
    /// Even and odd columns of a vector's rows; `lane` is the first of its lanes.
    unsafe fn load<V: Vector>(registers: &[*const u32], lane: usize) -> [V; 2];
    unsafe fn store<V: Vector>(sums: [V; 2], registers: &[*mut u32], lane: usize);
    /// The largest finite number.
    const LARGEST: f32 = f32::MAX;
}

/// A word for each: f32, s32.
pub(super) struct Single;

impl Sums for Single {
    const REGISTERS: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector>(registers: &[*const u32], lane: usize) -> [V; 2] {
        // SAFETY: registers have 32 lanes and vectors divide them.
        unsafe { [V::load(registers[0].add(lane)), V::load(registers[1].add(lane))] }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(sums: [V; 2], registers: &[*mut u32], lane: usize) {
        // SAFETY: as in `load`.
        unsafe {
            sums[0].store(registers[0].add(lane));
            sums[1].store(registers[1].add(lane));
        }
    }
}

/// f16, two in a word.
pub(super) struct Packed;

impl Sums for Packed {
    const REGISTERS: usize = 1;
    const LARGEST: f32 = 65504.0;

    #[inline(always)]
    unsafe fn load<V: Vector>(registers: &[*const u32], lane: usize) -> [V; 2] {
        // SAFETY: as for `Single`.
        unsafe { V::load(registers[0].add(lane)).widen_words() }
    }

    #[inline(always)]
    unsafe fn store<V: Vector>(sums: [V; 2], registers: &[*mut u32], lane: usize) {
        // SAFETY: as for `Single`.
        unsafe { V::narrow_words(sums).store(registers[0].add(lane)) }
    }
}

/// `a`, expanded: part v of register r at `[r · PARTS + v]`.
type ExpandedA = [Register; MOST_A * MOST_PARTS];
/// `b`, expanded: for every step along k four words of even columns, then four of odd ones.
type ExpandedB = [[u32; 8]; MOST_B * MOST_PARTS * 4];

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Aligned<T>(T);

#[inline(always)]
unsafe fn expand_a<P: Product, V: Vector>(registers: &[*const u32], kind: u32, to: *mut u32) {
    for (r, register) in registers.iter().enumerate() {
        for lane in (0..32).step_by(V::LANES) {
            // SAFETY: registers have 32 lanes, and `to` is an ExpandedA.
            unsafe {
                let parts = P::expand(V::load(register.add(lane)), kind);
                for v in 0..P::PARTS {
                    parts[v].store(to.add((r * P::PARTS + v) * 32 + lane));
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn expand_b<P: Product, V: Vector>(registers: &[*const u32], kind: u32, to: *mut u32) {
    for (s, register) in registers.iter().enumerate() {
        // SAFETY: registers have 32 lanes, and `to` is an ExpandedB.
        unsafe {
            // Even columns in the lower groups, odd ones in the upper.
            let rows =
                [V::load(*register), V::load(register.add(8)), V::load(register.add(16)), V::load(register.add(24))];
            if P::ORDER == Order::Words {
                let words = V::transpose(rows);
                for t in 0..4 {
                    let parts = P::expand(words[t], kind);
                    for v in 0..P::PARTS {
                        parts[v].store(to.add(((s * 4 + t) * P::PARTS + v) * 8));
                    }
                }
            } else {
                let [a, b, c, d] = rows;
                let (a, b, c, d) = (P::expand(a, kind), P::expand(b, kind), P::expand(c, kind), P::expand(d, kind));
                for v in 0..P::PARTS {
                    let words = V::transpose([a[v], b[v], c[v], d[v]]);
                    for t in 0..4 {
                        words[t].store(to.add(((s * P::PARTS + v) * 4 + t) * 8));
                    }
                }
            }
        }
    }
}

/// One step along k for `R` vectors of rows, the first of them vector `first` of the tile's.
#[inline(always)]
unsafe fn step<P: Product, V: Vector, const R: usize, const PATTERN: i32>(
    sums: &mut [[V; 2]; R],
    a: *const u32,
    b: *const u32,
    first: usize,
) {
    // SAFETY: `a` is the first row of the part, `b` the step's two groups.
    unsafe {
        let (even, odd) = (V::repeat(b), V::repeat(b.add(4)));
        for r in 0..R {
            let (half, lane) = half_and_lane::<V>(first + r);
            let sums = &mut sums[r];
            let factor = V::load(a.add(half * P::PARTS * 32 + lane)).spread::<PATTERN>();
            sums[0] = P::accumulate(sums[0], factor, even);
            sums[1] = P::accumulate(sums[1], factor, odd);
        }
    }
}

/// Which eight rows of the tile its `vector`-th vector of rows belongs to, and which lane it starts at.
#[inline(always)]
fn half_and_lane<V: Vector>(vector: usize) -> (usize, usize) {
    (vector * V::LANES / 32, vector * V::LANES % 32)
}

/// The sums of all products of `R` vectors of rows. `S` registers along k, `H` times eight rows.
#[inline(always)]
unsafe fn sum_up<P: Product, V: Vector, const S: usize, const H: usize, const R: usize>(
    sums: &mut [[V; 2]; R],
    a: *const u32,
    b: *const u32,
    first: usize,
) {
    for s in 0..S {
        // SAFETY: `a` is an ExpandedA, `b` an ExpandedB.
        unsafe {
            let a = a.add(s * H * P::PARTS * 32);
            let b = b.add(s * P::PARTS * 4 * 8);
            macro_rules! spread {
                ($t:literal, $pattern:literal, $v:expr) => {{
                    let at = if P::ORDER == Order::Words { $t * P::PARTS + $v } else { $v * 4 + $t };
                    step::<P, V, R, $pattern>(sums, a.add($v * 32), b.add(at * 8), first);
                }};
            }
            if P::ORDER == Order::Words {
                for v in 0..P::PARTS {
                    spread!(0, 0x00, v);
                }
                for v in 0..P::PARTS {
                    spread!(1, 0x55, v);
                }
                for v in 0..P::PARTS {
                    spread!(2, 0xaa, v);
                }
                for v in 0..P::PARTS {
                    spread!(3, 0xff, v);
                }
            } else {
                for v in 0..P::PARTS {
                    spread!(0, 0x00, v);
                    spread!(1, 0x55, v);
                    spread!(2, 0xaa, v);
                    spread!(3, 0xff, v);
                }
            }
        }
    }
}

/// What NaNs become, and with `.satfinite` what is not finite.
#[cold]
#[inline(never)]
fn tidy(words: &mut [u32], saturate: bool, largest: f32) {
    for word in words {
        let value = f32::from_bits(*word);
        *word = match (value.is_nan(), saturate) {
            (true, true) => 0,
            (true, false) => 0x7fff_ffff,
            (false, true) => value.clamp(-largest, largest).to_bits(),
            (false, false) => *word,
        };
    }
}

#[inline(always)]
unsafe fn load_sums<C: Sums, V: Vector>(tile: &Tile<'_>, vector: usize) -> [V; 2] {
    let (half, lane) = half_and_lane::<V>(vector);
    // SAFETY: the registers are good.
    unsafe { C::load::<V>(&tile.c[half * C::REGISTERS..], lane) }
}

/// Vectors of rows from `first` on, of one tile.
#[inline(always)]
unsafe fn rows<P: Product, C: Sums, D: Sums, V: Vector, const S: usize, const H: usize, const R: usize>(
    tile: &Tile<'_>,
    a: *const u32,
    b: *const u32,
    first: usize,
    saturate: bool,
) {
    // SAFETY: the registers are good, and `a` and `b` have been expanded.
    unsafe {
        let mut sums = [[V::splat(0); 2]; R];
        if P::FLOAT {
            for r in 0..R {
                sums[r] = load_sums::<C, V>(tile, first + r);
            }
        }
        sum_up::<P, V, S, H, R>(&mut sums, a, b, first);
        if P::FLOAT {
            if saturate || V::any_nan(&sums) {
                let mut words = Aligned([0u32; 16]);
                for r in 0..R {
                    for parity in 0..2 {
                        sums[r][parity].store(words.0.as_mut_ptr());
                        tidy(&mut words.0[..V::LANES], saturate, D::LARGEST);
                        sums[r][parity] = V::load(words.0.as_ptr());
                    }
                }
            }
        } else {
            for r in 0..R {
                let start = load_sums::<C, V>(tile, first + r);
                for parity in 0..2 {
                    let (sum, start) = (sums[r][parity], start[parity]);
                    sums[r][parity] = if saturate { add_saturating(sum, start) } else { sum.add(start) };
                }
            }
        }
        for r in 0..R {
            let (half, lane) = half_and_lane::<V>(first + r);
            D::store(sums[r], &tile.d[half * D::REGISTERS..], lane);
        }
    }
}

#[inline(always)]
unsafe fn add_saturating<V: Vector>(a: V, b: V) -> V {
    let (mut x, mut y) = (Aligned([0u32; 16]), Aligned([0u32; 16]));
    // SAFETY: vectors have at most 16 words.
    unsafe {
        a.store(x.0.as_mut_ptr());
        b.store(y.0.as_mut_ptr());
        for (x, y) in x.0.iter_mut().zip(y.0) {
            *x = (*x as i32).saturating_add(y as i32) as u32;
        }
        V::load(x.0.as_ptr())
    }
}

/// `d = a · b + c` for one tile of `8 · H` rows and 8 columns.
#[inline(always)]
unsafe fn multiply<P: Product, C: Sums, D: Sums, V: Vector, const S: usize, const H: usize>(
    tile: &Tile<'_>,
    request: Request,
) {
    let mut a = MaybeUninit::<Aligned<ExpandedA>>::uninit();
    let mut b = MaybeUninit::<Aligned<ExpandedB>>::uninit();
    let (a, b) = (a.as_mut_ptr().cast::<u32>(), b.as_mut_ptr().cast::<u32>());
    // SAFETY: the registers are good for 32 lanes; what is read of `a` and `b` has been written before.
    unsafe {
        expand_a::<P, V>(&tile.a[..S * H], request.a_kind, a);
        expand_b::<P, V::Narrow>(&tile.b[..S], request.b_kind, b);
        // Nor shall it know that what is read there has just been in vectors.
        let (a, b) = (std::hint::black_box(a), std::hint::black_box(b));
        let vectors = H * 32 / V::LANES;
        if vectors == 2 {
            rows::<P, C, D, V, S, H, 2>(tile, a, b, 0, request.saturate);
        } else {
            for first in (0..vectors).step_by(4) {
                rows::<P, C, D, V, S, H, 4>(tile, a, b, first, request.saturate);
            }
        }
    }
}

/// Registers of `d` that are written while `c` is still to be read must not be `c`'s.
#[inline(always)]
fn overlaps(d: &[Slot], c: &[Slot]) -> bool {
    match (d, c) {
        ([d0, d1, _, _], [_, _, c2, c3]) => d0 == c2 || d0 == c3 || d1 == c2 || d1 == c3,
        ([d0, _], [_, c1]) => d0 == c1,
        ([_, _, _, _], [_, _]) | ([_, _], [_, _, _, _]) => true,
        _ => false,
    }
}

/// A product as an operation. Its further slots are `d`, `a`, `b`, `c`; for several tiles those of the first row of tiles
/// come first, `x` is the [`Request`].
pub(super) struct Multiply<P, C, D, const S: usize, const H: usize>(PhantomData<(P, C, D)>);

impl<P: Product, C: Sums, D: Sums, const S: usize, const H: usize> Multiply<P, C, D, S, H> {
    /// Runs on registers that start at `registers`; results go where `target` says for a register's number and slot.
    #[inline(always)]
    pub(super) unsafe fn compute<V: Vector>(
        registers: *const u8,
        slots: &[Slot],
        request: Request,
        target: impl Fn(usize, Slot) -> *mut u32,
    ) {
        let (rows, columns) = (request.rows as usize, request.columns as usize);
        let (of_d, of_c) = (D::REGISTERS * H, C::REGISTERS * H);
        let (d, rest) = slots.split_at(of_d * rows * columns);
        let (a, rest) = rest.split_at(S * H * rows);
        let (b, c) = rest.split_at(S * columns);
        for tile in 0..rows * columns {
            let (row, column) = (tile / columns, tile % columns);
            // SAFETY: slots are offsets of registers.
            let register = |slot: &Slot| unsafe { registers.add(*slot as usize) }.cast::<u32>();
            let mut tile_a = [std::ptr::null(); MOST_A];
            let mut tile_b = [std::ptr::null(); MOST_B];
            let mut tile_c = [std::ptr::null(); 4];
            let mut tile_d = [std::ptr::null_mut(); 4];
            for k in 0..S * H {
                tile_a[k] = register(&a[row * S * H + k]);
            }
            for k in 0..S {
                tile_b[k] = register(&b[column * S + k]);
            }
            for k in 0..of_c {
                tile_c[k] = register(&c[tile * of_c + k]);
            }
            for k in 0..of_d {
                tile_d[k] = target(tile * of_d + k, d[tile * of_d + k]);
            }
            let tile = Tile { a: &tile_a, b: &tile_b, c: &tile_c, d: &tile_d };
            // SAFETY: the caller's contract.
            unsafe { multiply::<P, C, D, V, S, H>(&tile, request) };
        }
    }
}

impl<P: Product, C: Sums, D: Sums, const S: usize, const H: usize> Multiply<P, C, D, S, H> {
    /// For several tiles, missing lanes, and results in registers that are still to be read.
    #[inline(always)]
    unsafe fn run_buffered<V: Vector>(warp: &mut Warp, slots: &[Slot], request: Request, of_d: usize) {
        let mut results = [Register([0; 32]); MOST_D];
        let start = results.as_mut_ptr();
        // SAFETY: the caller's contract; there are at most as many results.
        unsafe {
            Self::compute::<V>(warp.registers, slots, request, |number, _| start.add(number).cast());
            for (slot, result) in slots.iter().zip(&results[..of_d]) {
                warp.write::<u32>(*slot, &result.0);
            }
        }
    }
}

impl<P: Product, C: Sums, D: Sums, const S: usize, const H: usize> Kernel for Multiply<P, C, D, S, H> {
    #[inline(always)]
    unsafe fn run<V: Vector>(warp: &mut Warp, op: &Op) -> Flow {
        if let Some(flow) = super::together(warp) {
            return flow;
        }
        // SAFETY: `wide` has as many 32-bit slots of this frame as the decoder counted.
        unsafe {
            let slots = warp.wide(op);
            let request = Request::unpack(op.x);
            let registers = warp.registers;
            let tiles = (request.rows * request.columns) as usize;
            let of_d = D::REGISTERS * H * tiles;
            let c = &slots[slots.len() - C::REGISTERS * H * tiles..];
            if warp.mask == u32::MAX && tiles == 1 && !overlaps(&slots[..of_d], c) {
                // One tile in registers of its own: known numbers of everything.
                let request = Request { rows: 1, columns: 1, ..request };
                let slots = std::slice::from_raw_parts(slots.as_ptr(), (D::REGISTERS + C::REGISTERS + S) * H + S);
                Self::compute::<V>(registers, slots, request, |_, slot| registers.add(slot as usize).cast());
            } else {
                Self::run_buffered::<V>(warp, slots, request, of_d);
            }
        }
        Flow::Next
    }
}

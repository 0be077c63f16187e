//! What the elements of `a` and `b` are: how words of fragments are expanded into factors, and how two factors are
//! multiplied and added.
//!
//! A word of a fragment holds 32 bits of elements that lie side by side along k. It is expanded into *parts*, words of
//! one factor each (f32), or of two (16-bit integers): whatever [`Product::accumulate`] takes.

use super::vector::Vector;

/// The most parts that a word expands into.
pub(super) const MOST_PARTS: usize = 4;

/// Which element of k a part of a word holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Part v of word t of a group is element `parts · t + v`.
    Words,
    /// Part v of word t of a group is element `4 · v + t`: expanding moves elements within their group.
    Groups,
}

/// Types of elements that are multiplied.
pub(super) trait Product {
    /// Parts of a word.
    const PARTS: usize;
    /// See [`Order`].
    const ORDER: Order = Order::Words;
    /// Whether sums are f32, else they are i32.
    const FLOAT: bool;
    /// Expands words. `kind` tells types apart that share a product.
    unsafe fn expand<V: Vector>(words: V, kind: u32) -> [V; MOST_PARTS];
    /// `sum + a · b`.
    unsafe fn accumulate<V: Vector>(sum: V, a: V, b: V) -> V;
}

macro_rules! sums_of_floats {
    () => {
        const FLOAT: bool = true;

        #[inline(always)]
        unsafe fn accumulate<V: Vector>(sum: V, a: V, b: V) -> V {
            // SAFETY: the caller has V's instruction set.
            unsafe { a.multiply_add(b, sum) }
        }
    };
}

/// bf16: the upper halves of f32.
pub(super) struct Brain;

impl Product for Brain {
    const PARTS: usize = 2;
    sums_of_floats!();

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, _: u32) -> [V; MOST_PARTS] {
        // SAFETY: the caller has V's instruction set.
        unsafe { [words.left::<16>(), words.and(V::splat(0xffff_0000)), words, words] }
    }
}

/// f16.
pub(super) struct Half;

impl Product for Half {
    const PARTS: usize = 2;
    const ORDER: Order = Order::Groups;
    sums_of_floats!();

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, _: u32) -> [V; MOST_PARTS] {
        // SAFETY: the caller has V's instruction set.
        let [low, high] = unsafe { words.widen_groups() };
        [low, high, words, words]
    }
}

/// tf32: f32 whose last 13 bits do not count.
pub(super) struct Tensor;

impl Product for Tensor {
    const PARTS: usize = 1;
    sums_of_floats!();

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, _: u32) -> [V; MOST_PARTS] {
        // SAFETY: the caller has V's instruction set.
        unsafe { [words.and(V::splat(0xffff_e000)), words, words, words] }
    }
}

/// `kind` of [`Quarter`]: four bits of exponent, three of mantissa.
pub(super) const E4M3: u32 = 0;
/// `kind` of [`Quarter`]: five bits of exponent, two of mantissa.
pub(super) const E5M2: u32 = 1;

/// Floats of 8 bits, e4m3 and e5m2.
pub(super) struct Quarter;

#[inline(always)]
unsafe fn widen_quarter<V: Vector>(byte: V, kind: u32) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe {
        let sign = byte.and(V::splat(0x80)).left::<24>();
        let magnitude = byte.and(V::splat(0x7f));
        // Exponent and mantissa where f32 has them, subnormals included; then the difference of the biases is made up
        // for by an exact multiplication.
        let (value, special) = if kind == E4M3 {
            let value = magnitude.left::<20>().multiply(V::splat((127 + 120) << 23));
            // The one NaN; there are no infinities.
            (value, magnitude.greater(V::splat(0x7e)).and(V::splat(0x7fff_ffff)))
        } else {
            let value = magnitude.left::<21>().multiply(V::splat((127 + 112) << 23));
            // Infinity keeps a mantissa of zero, a NaN keeps its own.
            (value, magnitude.greater(V::splat(0x7b)).and(V::splat(0x7f80_0000)))
        };
        value.or(special).or(sign)
    }
}

impl Product for Quarter {
    const PARTS: usize = 4;
    sums_of_floats!();

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, kind: u32) -> [V; MOST_PARTS] {
        // SAFETY: the caller has V's instruction set.
        unsafe {
            [
                widen_quarter(words, kind),
                widen_quarter(words.right::<8>(), kind),
                widen_quarter(words.right::<16>(), kind),
                widen_quarter(words.right::<24>(), kind),
            ]
        }
    }
}

/// `kind` of [`Bytes`] and [`Nibbles`].
pub(super) const UNSIGNED: u32 = 0;
/// `kind` of [`Bytes`] and [`Nibbles`].
pub(super) const SIGNED: u32 = 1;

/// In both halves the number that stands in the low bits; `sign` is its sign bit, or 0 for none.
#[inline(always)]
unsafe fn extend<V: Vector>(words: V, mask: u32, sign: u32) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe {
        let sign = V::splat(sign);
        words.and(V::splat(mask)).xor(sign).subtract_halves(sign)
    }
}

macro_rules! sums_of_dots {
    () => {
        const FLOAT: bool = false;

        #[inline(always)]
        unsafe fn accumulate<V: Vector>(sum: V, a: V, b: V) -> V {
            // SAFETY: the caller has V's instruction set.
            unsafe { a.dot_halves(b).add(sum) }
        }
    };
}

/// Integers of 8 bits. A part is every other element of a word; sums of integers know no order.
pub(super) struct Bytes;

impl Product for Bytes {
    const PARTS: usize = 2;
    sums_of_dots!();

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, kind: u32) -> [V; MOST_PARTS] {
        let (mask, sign) = (0x00ff_00ff, 0x0080_0080 * kind);
        // SAFETY: the caller has V's instruction set.
        unsafe { [extend(words, mask, sign), extend(words.right::<8>(), mask, sign), words, words] }
    }
}

/// Integers of 4 bits.
pub(super) struct Nibbles;

impl Product for Nibbles {
    const PARTS: usize = 4;
    sums_of_dots!();

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, kind: u32) -> [V; MOST_PARTS] {
        let (mask, sign) = (0x000f_000f, 0x0008_0008 * kind);
        // SAFETY: the caller has V's instruction set.
        unsafe {
            [
                extend(words, mask, sign),
                extend(words.right::<4>(), mask, sign),
                extend(words.right::<8>(), mask, sign),
                extend(words.right::<12>(), mask, sign),
            ]
        }
    }
}

/// The ones of each word.
#[inline(always)]
unsafe fn count_ones<V: Vector>(words: V) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe {
        let pairs = words.subtract(words.right::<1>().and(V::splat(0x5555_5555)));
        let nibbles = pairs.and(V::splat(0x3333_3333)).add(pairs.right::<2>().and(V::splat(0x3333_3333)));
        let bytes = nibbles.add(nibbles.right::<4>()).and(V::splat(0x0f0f_0f0f));
        let halves = bytes.and(V::splat(0x00ff_00ff)).add(bytes.right::<8>().and(V::splat(0x00ff_00ff)));
        halves.dot_halves(V::splat(0x0001_0001))
    }
}

/// Single bits; with `AND` the ones of `a & b` count, else those of `a ^ b`.
pub(super) struct Bits<const AND: bool>;

impl<const AND: bool> Product for Bits<AND> {
    const PARTS: usize = 1;
    const FLOAT: bool = false;

    #[inline(always)]
    unsafe fn expand<V: Vector>(words: V, _: u32) -> [V; MOST_PARTS] {
        [words; MOST_PARTS]
    }

    #[inline(always)]
    unsafe fn accumulate<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller has V's instruction set.
        unsafe { count_ones(if AND { a.and(b) } else { a.xor(b) }).add(sum) }
    }
}

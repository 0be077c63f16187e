//! A decoded operation, and how a closure over lanes becomes one in every instruction set.

use super::warp::Warp;
use std::{marker::PhantomData, sync::OnceLock};

/// What the run loop does after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flow {
    /// Go on with the operation that follows.
    Next,
    /// The operation has set the program counter.
    Jump,
    /// The running split has stopped (waits, has arrived at a join, has exited, or gives way); pick another.
    Suspend,
    /// [`Warp::fault`] is set.
    Fault,
}

/// Computes one operation for the lanes of [`Warp::mask`].
///
/// # Safety
/// `op` must belong to the function whose frame is the warp's current one: its slots are offsets into that frame's
/// registers, checked when the function was compiled.
pub(crate) type Run = unsafe fn(&mut Warp, &Op) -> Flow;

/// What an operation does. Some have bodies of their own for sources that are constants, which stand in one vector register
/// instead of being read for every lane.
#[derive(Clone, Copy)]
pub(crate) struct Exec {
    run: Run,
    /// Where `b` is a constant, where `c` is, where both are.
    constant: [Option<Run>; 3],
}

impl From<Run> for Exec {
    fn from(run: Run) -> Self {
        Self { run, constant: [None; 3] }
    }
}

impl Exec {
    /// The body for sources of which nothing is known.
    pub(crate) fn run(self) -> Run {
        self.run
    }

    /// The body for constants among the sources.
    pub(crate) fn for_constants(self, b: bool, c: bool) -> Run {
        let [of_b, of_c, of_both] = self.constant;
        let of_b = of_b.filter(|_| b);
        let of_c = of_c.filter(|_| c);
        of_both.filter(|_| b && c).or(of_b).or(of_c).unwrap_or(self.run)
    }
}

/// Where a value lives: a byte offset into the registers of the frame. While a function is being compiled it is the
/// number of a virtual register or constant instead.
pub(crate) type Slot = u32;

/// No operand.
pub(crate) const NO_SLOT: Slot = u32::MAX;

/// One operation; a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Op {
    /// What it does.
    pub exec: Run,
    /// Destination.
    pub d: Slot,
    /// First source.
    pub a: Slot,
    /// Second source.
    pub b: Slot,
    /// Third source.
    pub c: Slot,
    /// A plain number: an address offset, a branch target, a packed description. Never a slot.
    pub imm: u64,
    /// First of `count` further slots in the function's operand list (vectors, fragments, arguments).
    pub wide: u32,
    /// Number of further slots.
    pub count: u32,
    /// A plain number.
    pub x: u32,
    /// A plain number.
    pub y: u32,
    /// Index of the instruction it came from (`FunctionCode::instructions`).
    pub instruction: u32,
}

impl Op {
    /// An operation without operands.
    pub(crate) fn new(exec: Exec) -> Self {
        Self {
            exec: exec.run,
            d: NO_SLOT,
            a: NO_SLOT,
            b: NO_SLOT,
            c: NO_SLOT,
            imm: 0,
            wide: 0,
            count: 0,
            x: 0,
            y: 0,
            instruction: 0,
        }
    }
}

/// The instruction sets that operations are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// What the target of the build has.
    Portable,
    /// AVX2, FMA, F16C, BMI.
    Avx2,
    /// AVX-512 F, BW, DQ, VL besides.
    Avx512,
}

/// The best tier of this machine; `PTXVM_TIER=portable|avx2|avx512` lowers it.
pub fn tier() -> Tier {
    static TIER: OnceLock<Tier> = OnceLock::new();
    *TIER.get_or_init(|| {
        let best = detect();
        let wanted = match std::env::var("PTXVM_TIER").as_deref() {
            Ok("portable") => Tier::Portable,
            Ok("avx2") => Tier::Avx2,
            _ => Tier::Avx512,
        };
        best.min(wanted)
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Tier {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx512, avx2) {
        (true, _) => Tier::Avx512,
        (_, true) => Tier::Avx2,
        _ => Tier::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Tier {
    Tier::Portable
}

/// The body of an operation, without the tier it is compiled for.
///
/// Implementations mark `run` `#[inline(always)]`, so that it takes on the features of the function it is put into.
pub(crate) trait Body {
    /// See [`Run`].
    ///
    /// # Safety
    /// As [`Run`].
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow;
}

unsafe fn portable<B: Body>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller keeps `Run`'s contract.
    unsafe { B::run(warp, op) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<B: Body>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller keeps `Run`'s contract.
    unsafe { B::run(warp, op) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<B: Body>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller keeps `Run`'s contract.
    unsafe { B::run(warp, op) }
}

/// `B` compiled for the best tier of this machine.
pub(crate) fn exec<B: Body>() -> Exec {
    let run: Run = match tier() {
        Tier::Portable => portable::<B>,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::<B>,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => avx512::<B>,
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::<B>,
    };
    run.into()
}

/// A body that is written in another way where there is AVX2.
///
/// Implementations mark `run` `#[inline(always)]`, as those of [`Body`] do.
pub(crate) trait TieredBody {
    /// See [`Run`].
    ///
    /// # Safety
    /// As [`Run`]; with `AVX2` the machine has AVX2, FMA and F16C, and the function this is put into is compiled for them.
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow;
}

struct Tiered<B, const AVX2: bool>(PhantomData<B>);

impl<B: TieredBody, const AVX2: bool> Body for Tiered<B, AVX2> {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: the caller keeps `Run`'s contract; `tiered` puts `AVX2` only into functions compiled for it.
        unsafe { B::run::<AVX2>(warp, op) }
    }
}

/// `B` compiled for the best tier of this machine.
pub(crate) fn tiered<B: TieredBody>() -> Exec {
    let run: Run = match tier() {
        Tier::Portable => portable::<Tiered<B, false>>,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::<Tiered<B, true>>,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => avx512::<Tiered<B, true>>,
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::<Tiered<B, false>>,
    };
    run.into()
}

/// The sign bits of all words.
///
/// # Safety
/// With `AVX2` the machine must have it.
#[inline(always)]
pub(crate) unsafe fn sign_bits<const AVX2: bool>(words: &[u32; 32]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if AVX2 {
        use std::arch::x86_64::{_mm256_loadu_ps, _mm256_movemask_ps};
        let mut bits = 0;
        for part in 0..4 {
            // SAFETY: eight of the 32 words; the caller has AVX2.
            let signs = unsafe { _mm256_movemask_ps(_mm256_loadu_ps(words.as_ptr().add(8 * part).cast())) };
            bits |= (signs as u32) << (8 * part);
        }
        return bits;
    }
    let mut bits = 0;
    for lane in 0..32 {
        bits |= words[lane] >> 31 << lane;
    }
    bits
}

/// A closure without captures, made from nothing: how a closure becomes part of a function's type.
#[inline(always)]
pub(crate) fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "closures of operations must not capture") };
    // SAFETY: F has no bytes, like (); a value of it has been given to whoever made the operation, so the type is
    // inhabited.
    unsafe { std::mem::transmute_copy::<(), F>(&()) }
}

/// What a lane is given: its own part of a source, or the first one's of a constant.
#[inline(always)]
fn part<T: Copy, const CONSTANT: bool>(source: &[T; 32], lane: usize) -> T {
    source[if CONSTANT { 0 } else { lane }]
}

/// Nothing is known of a source.
macro_rules! plain {
    ($flag:ident) => {
        false
    };
}

macro_rules! closure_bodies {
    ($($name:ident[$($flag:ident)*], $function:ident, ($($source:ident : $field:ident $constant:expr),*), $doc:literal;)*) => {$(
        struct $name<R, $($source,)* F, $(const $flag: bool),*>(PhantomData<(R, $($source,)* F)>);

        impl<R: Lane, $($source: Lane,)* F: Fn($($source),*) -> R + Copy, $(const $flag: bool),*> Body
            for $name<R, $($source,)* F, $($flag),*>
        {
            #[inline(always)]
            unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
                let function = conjure::<F>();
                // SAFETY: the slots are this frame's (`Run`'s contract) and were made for these types by the decoder.
                unsafe {
                    $(let $field = warp.lanes::<$source>(op.$field);)*
                    let mut result = [R::Stored::default(); 32];
                    for lane in 0..32 {
                        result[lane] =
                            R::store(function($($source::load(part::<_, { $constant }>($field, lane))),*));
                    }
                    warp.write::<R>(op.d, &result);
                }
                Flow::Next
            }
        }

        #[doc = $doc]
        pub(crate) fn $function<R: Lane, $($source: Lane,)* F: Fn($($source),*) -> R + Copy>(_: F) -> Exec {
            exec::<$name<R, $($source,)* F, $({ plain!($flag) }),*>>()
        }
    )*};
}

use super::lanes::Lane;

closure_bodies! {
    Map1[], map1, (A: a false), "`d = f(a)` in every lane.";
    Map2[CB], map2, (A: a false, B: b CB), "`d = f(a, b)` in every lane.";
    Map3[CB CC], map3, (A: a false, B: b CB, C: c CC), "`d = f(a, b, c)` in every lane.";
}

/// As [`map2`], with a body of its own for a constant `b`.
pub(crate) fn map2_constant<R: Lane, A: Lane, B: Lane, F: Fn(A, B) -> R + Copy>(f: F) -> Exec {
    let constant = exec::<Map2<R, A, B, F, true>>().run;
    Exec { constant: [Some(constant), None, None], ..map2(f) }
}

/// As [`map3`], with bodies of their own for constants among `b` and `c`.
pub(crate) fn map3_constant<R: Lane, A: Lane, B: Lane, C: Lane, F: Fn(A, B, C) -> R + Copy>(f: F) -> Exec {
    let of_b = exec::<Map3<R, A, B, C, F, true, false>>().run;
    let of_c = exec::<Map3<R, A, B, C, F, false, true>>().run;
    let of_both = exec::<Map3<R, A, B, C, F, true, true>>().run;
    Exec { constant: [Some(of_b), Some(of_c), Some(of_both)], ..map3(f) }
}

struct Test2<A, B, F, const CB: bool>(PhantomData<(A, B, F)>);

impl<A: Lane, B: Lane, F: Fn(A, B) -> bool + Copy, const CB: bool> TieredBody for Test2<A, B, F, CB> {
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        let function = conjure::<F>();
        // SAFETY: as in Map2; `d` is a predicate slot.
        unsafe {
            let a = warp.lanes::<A>(op.a);
            let b = warp.lanes::<B>(op.b);
            let mut holds = [0; 32];
            for lane in 0..32 {
                let second = B::load(part::<_, CB>(b, lane));
                holds[lane] = u32::from(function(A::load((*a)[lane]), second)).wrapping_neg();
            }
            warp.write_predicate(op.d, sign_bits::<AVX2>(&holds));
        }
        Flow::Next
    }
}

/// `d = f(a, b)`, a predicate.
pub(crate) fn test2<A: Lane, B: Lane, F: Fn(A, B) -> bool + Copy>(_: F) -> Exec {
    tiered::<Test2<A, B, F, false>>()
}

/// As [`test2`], with a body of its own for a constant `b`.
pub(crate) fn test2_constant<A: Lane, B: Lane, F: Fn(A, B) -> bool + Copy>(f: F) -> Exec {
    let constant = tiered::<Test2<A, B, F, true>>().run;
    Exec { constant: [Some(constant), None, None], ..test2(f) }
}

struct Free<F>(PhantomData<F>);

impl<F: Fn(&mut Warp, &Op) -> Flow + Copy> Body for Free<F> {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        conjure::<F>()(warp, op)
    }
}

/// Any body, given the warp and the operation. The closure states in its own `unsafe` blocks why its slots are right.
pub(crate) fn free<F: Fn(&mut Warp, &Op) -> Flow + Copy>(_: F) -> Exec {
    exec::<Free<F>>()
}

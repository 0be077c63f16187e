//! What lanes of a warp tell one another: `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`.

use crate::{
    machine::{
        lanes::Stored,
        op::{Exec, Flow, NO_SLOT, Op, Slot, TieredBody, free, sign_bits, tiered},
        warp::Warp,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// The member mask of the running lanes, if it is one.
#[inline(always)]
fn common_members(warp: &Warp, slot: Slot) -> Option<u32> {
    // SAFETY: a 32-bit slot of this frame.
    let masks = unsafe { warp.lanes::<u32>(slot) };
    let first = masks[warp.leader()];
    let mut running = [first; 32];
    u32::blend(&mut running, masks, warp.mask);
    let mut differs = 0;
    for lane in 0..32 {
        differs |= running[lane] ^ first;
    }
    (differs == 0).then_some(first)
}

/// All lanes that the running lanes' member masks name.
#[inline(always)]
pub(super) fn members(warp: &Warp, slot: Slot) -> u32 {
    common_members(warp, slot).unwrap_or_else(|| {
        // SAFETY: a 32-bit slot of this frame.
        let masks = unsafe { warp.lanes::<u32>(slot) };
        active(warp).fold(0, |all, lane| all | masks[lane])
    })
}

fn active(warp: &Warp) -> impl Iterator<Item = usize> + use<> {
    let mask = warp.mask;
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

/// Tells the monitor of each distinct member mask.
pub(super) fn tell_members(warp: &mut Warp, slot: Slot, memory: bool) {
    if warp.monitor.is_none() {
        return;
    }
    // SAFETY: a 32-bit slot of this frame.
    let masks = *unsafe { warp.lanes::<u32>(slot) };
    let (all, mut left) = (warp.mask, warp.mask);
    while left != 0 {
        let members = masks[left.trailing_zeros() as usize];
        let group =
            (0..32).filter(|&lane| left >> lane & 1 != 0 && masks[lane] == members).fold(0, |g, lane| g | 1 << lane);
        warp.mask = group;
        if let Some(monitor) = warp.monitor() {
            monitor.warp_sync(warp, members, memory);
        }
        left &= !group;
    }
    warp.mask = all;
}

/// Comes together for `members` in slot `slot`, then runs `f`.
#[inline(always)]
fn together(warp: &mut Warp, slot: Slot, f: impl FnOnce(&mut Warp)) -> Flow {
    let members = members(warp, slot);
    if let Some(flow) = warp.converge(members) {
        return flow;
    }
    tell_members(warp, slot, false);
    f(warp);
    Flow::Next
}

const UP: u8 = 0;
const DOWN: u8 = 1;
const BUTTERFLY: u8 = 2;
const INDEX: u8 = 3;

/// `d`: result, `a`: value, `b`: lane or distance, `c`: clamp and segment mask, `wide`: members, and the result's predicate
/// or none.
struct Shuffle<const KIND: u8>;

impl<const KIND: u8> TieredBody for Shuffle<KIND> {
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: `wide` holds the members and the predicate.
        let wide = unsafe { warp.wide(op) };
        let members = members(warp, wide[0]);
        if let Some(flow) = warp.converge(members) {
            return flow;
        }
        tell_members(warp, wide[0], false);
        // SAFETY: `a`, `b`, `c` and `d` are 32-bit slots of this frame, `wide[1]` a predicate slot; the instruction set is the
        // caller's promise.
        unsafe {
            let values = warp.lanes::<u32>(op.a);
            let (distances, clamps) = (warp.lanes::<u32>(op.b), warp.lanes::<u32>(op.c));
            let (mut sources, mut valid) = ([0; 32], [0; 32]);
            for lane in 0..32 {
                let (number, distance) = (lane as i32, (distances[lane] & 31) as i32);
                let (clamp, segments) = ((clamps[lane] & 31) as i32, (clamps[lane] >> 8 & 31) as i32);
                let edge = number & segments | clamp & !segments;
                let source = match KIND {
                    UP => number - distance,
                    DOWN => number + distance,
                    BUTTERFLY => number ^ distance,
                    _ => number & segments | distance & !segments,
                };
                let holds = if KIND == UP { source >= edge } else { source <= edge };
                valid[lane] = u32::from(holds).wrapping_neg();
                sources[lane] = (number ^ ((number ^ source) & valid[lane] as i32)) as u32 & 31;
            }
            let mut result = [0; 32];
            for lane in 0..32 {
                result[lane] = values[(sources[lane] & 31) as usize];
            }
            // Sums by .down and its kin let lanes at the edge read what they do not use; a lane that is named is used.
            if KIND == INDEX && warp.mask != u32::MAX && warp.monitor.is_some() {
                let absent = (0..32).fold(0, |all, lane| all | (!warp.mask >> sources[lane] & 1) << lane) & warp.mask;
                if absent != 0
                    && let Some(monitor) = warp.monitor()
                {
                    monitor.shuffled_from_absent(warp, absent);
                }
            }
            warp.write::<u32>(op.d, &result);
            if wide[1] != NO_SLOT {
                warp.write_predicate(wide[1], sign_bits::<AVX2>(&valid));
            }
        }
        Flow::Next
    }
}

/// Runs `f` for each group of lanes with the same member mask.
#[inline(always)]
fn by_group(warp: &mut Warp, slot: Slot, mut f: impl FnMut(&mut Warp, u32)) {
    if common_members(warp, slot).is_some() {
        let group = warp.mask;
        return f(warp, group);
    }
    // SAFETY: a 32-bit slot of this frame.
    let masks = *unsafe { warp.lanes::<u32>(slot) };
    let (all, mut left) = (warp.mask, warp.mask);
    while left != 0 {
        let members = masks[left.trailing_zeros() as usize];
        let group =
            (0..32).filter(|&lane| left >> lane & 1 != 0 && masks[lane] == members).fold(0, |g, lane| g | 1 << lane);
        warp.mask = group;
        f(warp, group);
        left &= !group;
    }
    warp.mask = all;
}

/// `x`: 0 all, 1 any, 2 uni, 3 ballot; `a`: predicate, `y`: its negation; `b`: members.
fn vote() -> Exec {
    free(
        #[inline(always)]
        |warp, op| {
            together(warp, op.b, |warp| {
                by_group(warp, op.b, |warp, group| {
                    // SAFETY: `a` is a predicate slot; `d` a 32-bit slot for ballot, else a predicate slot.
                    unsafe {
                        let holds = (warp.predicate(op.a) ^ 0u32.wrapping_sub(op.y)) & group;
                        let flag = |flag: bool| if flag { u32::MAX } else { 0 };
                        match op.x {
                            0 => warp.write_predicate(op.d, flag(holds == group)),
                            1 => warp.write_predicate(op.d, flag(holds != 0)),
                            2 => warp.write_predicate(op.d, flag(holds == group || holds == 0)),
                            _ => warp.write::<u32>(op.d, &[holds; 32]),
                        }
                    }
                });
            })
        },
    )
}

/// `d`: mask of equal lanes; `wide[0]`: predicate (match.all) or none; `a`: value of `x` bits; `b`: members; `y`: all.
struct Match;

impl TieredBody for Match {
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        together(warp, op.b, |warp| {
            // SAFETY: `wide` holds the predicate's slot.
            let predicate = unsafe { warp.wide(op)[0] };
            by_group(warp, op.b, |warp, group| {
                // SAFETY: `a` is a slot of `x` bits, `d` a 32-bit slot, the predicate a predicate slot; the instruction set
                // is the caller's promise.
                unsafe {
                    let value: [u64; 32] =
                        if op.x == 64 { *warp.lanes::<u64>(op.a) } else { warp.lanes::<u32>(op.a).map(u64::from) };
                    let equal = |lane: usize| {
                        let same = value.map(|other| u32::from(other == value[lane]).wrapping_neg());
                        sign_bits::<AVX2>(&same) & group
                    };
                    if op.y != 0 {
                        let all = equal(group.trailing_zeros() as usize & 31) == group;
                        warp.write::<u32>(op.d, &[if all { group } else { 0 }; 32]);
                        if predicate != NO_SLOT {
                            warp.write_predicate(predicate, if all { u32::MAX } else { 0 });
                        }
                    } else {
                        let result = std::array::from_fn(equal);
                        warp.write::<u32>(op.d, &result);
                    }
                }
            });
        })
    }
}

/// `redux` of integers: combines `a` over the members (`b`).
fn reduce<T: crate::machine::lanes::Lane<Stored = u32>, F: Fn(T, T) -> T + Copy>(combine: F) -> Exec {
    reduction::<T, F, false>(combine)
}

/// `redux` of f32: the first value is combined with itself, so that one member alone gives what the modifiers say too.
fn reduce_floats<F: Fn(f32, f32) -> f32 + Copy>(combine: F) -> Exec {
    reduction::<f32, F, true>(combine)
}

fn reduction<T, F, const FIRST_TWICE: bool>(_: F) -> Exec
where
    T: crate::machine::lanes::Lane<Stored = u32>,
    F: Fn(T, T) -> T + Copy,
{
    free(|warp, op| {
        let combine = crate::machine::op::conjure::<F>();
        together(warp, op.b, |warp| {
            by_group(warp, op.b, |warp, group| {
                // SAFETY: `a` and `d` are 32-bit slots of this frame.
                unsafe {
                    let values = warp.lanes::<T>(op.a);
                    let mut lanes = (0..32).filter(|&lane| group >> lane & 1 != 0).map(|lane| T::load(values[lane]));
                    if let Some(first) = lanes.next() {
                        let start = if FIRST_TWICE { combine(first, first) } else { first };
                        let result = lanes.fold(start, combine);
                        warp.write::<T>(op.d, &[result.store(); 32]);
                    }
                }
            });
        })
    })
}

fn activemask() -> Exec {
    free(|warp, op| {
        let mask = warp.mask;
        // SAFETY: `d` is a 32-bit slot of this frame.
        unsafe { warp.write::<u32>(op.d, &[mask; 32]) };
        Flow::Next
    })
}

/// `d`: number of the elected lane, `c`: predicate that holds in it; `b`: members.
fn elect() -> Exec {
    free(|warp, op| {
        together(warp, op.b, |warp| {
            by_group(warp, op.b, |warp, group| {
                let leader = group.trailing_zeros();
                // SAFETY: `d` is a 32-bit slot, `c` a predicate slot.
                unsafe {
                    warp.write::<u32>(op.d, &[leader; 32]);
                    warp.write_predicate(op.c, 1 << leader);
                }
            });
        })
    })
}

/// The two halves of `d|p`.
fn halves(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(first, second) => (first, Some(second)),
        other => (other, None),
    }
}

/// All of the family.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    if i.opcode == "activemask" {
        let ty = modifiers.take_type();
        modifiers.finish(b)?;
        let [result] = b.operands::<1>(i)?;
        if ty != Some(Type::B32) {
            return Err(b.unknown(i));
        }
        let mut op = Op::new(activemask());
        op.d = b.write(i, result, Type::B32)?;
        b.emit(op);
        return Ok(());
    }
    let sync = modifiers.take("sync");
    if !sync {
        return Err(b.error(i, "the forms without .sync are gone since sm_70"));
    }
    match i.opcode.as_str() {
        "shfl" => {
            let mode = modifiers.take_any(&["up", "down", "bfly", "idx"]);
            let ty = modifiers.take_type();
            modifiers.finish(b)?;
            let [result, value, distance, clamp, members] = b.operands::<5>(i)?;
            let exec = match (mode, ty) {
                (Some("up"), Some(Type::B32)) => tiered::<Shuffle<UP>>(),
                (Some("down"), Some(Type::B32)) => tiered::<Shuffle<DOWN>>(),
                (Some("bfly"), Some(Type::B32)) => tiered::<Shuffle<BUTTERFLY>>(),
                (Some("idx"), Some(Type::B32)) => tiered::<Shuffle<INDEX>>(),
                _ => return Err(b.unknown(i)),
            };
            let mut op = Op::new(exec);
            op.a = b.read(i, value, Type::B32)?;
            op.b = b.read(i, distance, Type::B32)?;
            op.c = b.read(i, clamp, Type::B32)?;
            let members = b.read(i, members, Type::B32)?;
            let (result, predicate) = halves(result);
            op.d = b.write(i, result, Type::B32)?;
            let predicate = predicate.map_or(Ok(NO_SLOT), |predicate| b.write_predicate(i, predicate))?;
            b.emit_suspending(op, vec![members, predicate]);
        }
        "vote" => {
            let mode = modifiers.take_any(&["all", "any", "uni", "ballot"]);
            let ty = modifiers.take_type();
            modifiers.finish(b)?;
            let [result, predicate, members] = b.operands::<3>(i)?;
            let mut op = Op::new(vote());
            let (slot, negated) = b.read_predicate(i, predicate)?;
            (op.a, op.y) = (slot, negated.into());
            op.b = b.read(i, members, Type::B32)?;
            (op.x, op.d) = match (mode, ty) {
                (Some("all"), Some(Type::Pred)) => (0, b.write_predicate(i, result)?),
                (Some("any"), Some(Type::Pred)) => (1, b.write_predicate(i, result)?),
                (Some("uni"), Some(Type::Pred)) => (2, b.write_predicate(i, result)?),
                (Some("ballot"), Some(Type::B32)) => (3, b.write(i, result, Type::B32)?),
                _ => return Err(b.unknown(i)),
            };
            b.emit_suspending(op, vec![]);
        }
        "match" => {
            let mode = modifiers.take_any(&["any", "all"]);
            let ty = modifiers.take_type();
            modifiers.finish(b)?;
            let [result, value, members] = b.operands::<3>(i)?;
            let (Some(mode), Some(ty @ (Type::B32 | Type::B64))) = (mode, ty) else { return Err(b.unknown(i)) };
            let mut op = Op::new(tiered::<Match>());
            (op.x, op.y) = (ty.bits(), u32::from(mode == "all"));
            op.a = b.read(i, value, ty)?;
            op.b = b.read(i, members, Type::B32)?;
            let (result, predicate) = halves(result);
            op.d = b.write(i, result, Type::B32)?;
            let predicate = match predicate {
                Some(predicate) if mode == "all" => b.write_predicate(i, predicate)?,
                None => NO_SLOT,
                Some(_) => return Err(b.unknown(i)),
            };
            b.emit_suspending(op, vec![predicate]);
        }
        "redux" => {
            let mode = modifiers.take_any(&["add", "min", "max", "and", "or", "xor"]);
            let absolute = modifiers.take("abs");
            let nan = modifiers.take("NaN");
            let ty = modifiers.take_type();
            modifiers.finish(b)?;
            let [result, value, members] = b.operands::<3>(i)?;
            let exec = match (mode, ty, absolute, nan) {
                (Some("add"), Some(Type::U32 | Type::S32), false, false) => reduce(|a: u32, b: u32| a.wrapping_add(b)),
                (Some("min"), Some(Type::U32), false, false) => reduce(|a: u32, b: u32| a.min(b)),
                (Some("max"), Some(Type::U32), false, false) => reduce(|a: u32, b: u32| a.max(b)),
                (Some("min"), Some(Type::S32), false, false) => reduce(|a: i32, b: i32| a.min(b)),
                (Some("max"), Some(Type::S32), false, false) => reduce(|a: i32, b: i32| a.max(b)),
                (Some("and"), Some(Type::B32), false, false) => reduce(|a: u32, b: u32| a & b),
                (Some("or"), Some(Type::B32), false, false) => reduce(|a: u32, b: u32| a | b),
                (Some("xor"), Some(Type::B32), false, false) => reduce(|a: u32, b: u32| a ^ b),
                (Some("min"), Some(Type::F32), false, false) => reduce_floats(extreme::<true, false, false>),
                (Some("min"), Some(Type::F32), false, true) => reduce_floats(extreme::<true, false, true>),
                (Some("min"), Some(Type::F32), true, false) => reduce_floats(extreme::<true, true, false>),
                (Some("min"), Some(Type::F32), true, true) => reduce_floats(extreme::<true, true, true>),
                (Some("max"), Some(Type::F32), false, false) => reduce_floats(extreme::<false, false, false>),
                (Some("max"), Some(Type::F32), false, true) => reduce_floats(extreme::<false, false, true>),
                (Some("max"), Some(Type::F32), true, false) => reduce_floats(extreme::<false, true, false>),
                (Some("max"), Some(Type::F32), true, true) => reduce_floats(extreme::<false, true, true>),
                _ => return Err(b.unknown(i)),
            };
            let mut op = Op::new(exec);
            op.a = b.read(i, value, Type::B32)?;
            op.b = b.read(i, members, Type::B32)?;
            op.d = b.write(i, result, Type::B32)?;
            b.emit_suspending(op, vec![]);
        }
        "elect" => {
            modifiers.finish(b)?;
            let [result, members] = b.operands::<2>(i)?;
            let (result, Some(predicate)) = halves(result) else {
                return Err(b.error(i, "a destination d|p is expected"));
            };
            let mut op = Op::new(elect());
            op.b = b.read(i, members, Type::B32)?;
            op.d = b.write(i, result, Type::B32)?;
            op.c = b.write_predicate(i, predicate)?;
            b.emit_suspending(op, vec![]);
        }
        _ => return Err(b.unknown(i)),
    }
    Ok(())
}

/// The smaller or larger, −0 below +0; of a number and a NaN the number, or with `NAN` the canonical NaN.
fn extreme<const LEAST: bool, const ABSOLUTE: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let canonical = f32::from_bits(0x7fff_ffff);
    let (a, b) = if ABSOLUTE { (a.abs(), b.abs()) } else { (a, b) };
    match (a.is_nan(), b.is_nan()) {
        (true, true) => canonical,
        (true, false) | (false, true) if NAN => canonical,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            let first_is_less = if a == b { a.is_sign_negative() } else { a < b };
            if first_is_less == LEAST { a } else { b }
        }
    }
}

//! Arithmetic with a carry: `add.cc addc sub.cc subc mad.cc madc`. The condition code is one predicate of the function.

use super::{
    float::stages::{sources, stage},
    integer,
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Exec, Flow, Op, Slot, free},
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// Unsigned integers with a carry.
trait Limb: Lane {
    /// `self + other + carry`, and the carry out.
    fn sum(self, other: Self, carry: bool) -> (Self, bool);
    /// The complement.
    fn complement(self) -> Self;
}

macro_rules! limb {
    ($($ty:ty)*) => {$(
        impl Limb for $ty {
            #[inline(always)]
            fn sum(self, other: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = self.overflowing_add(other);
                let (sum, second) = sum.overflowing_add(Self::from(carry));
                (sum, first | second)
            }

            #[inline(always)]
            fn complement(self) -> Self {
                !self
            }
        }
    )*};
}

limb!(u32 u64);

/// `d = a + b + carry`. `x`: bit 0, a carry comes in from `c`; bit 1, `b` is subtracted: its complement is added, and the
/// carry is the borrow turned round; bit 2, the carry goes out to `wide[0]`.
fn carrying<T: Limb>() -> Exec {
    free(|warp, op| {
        let [comes_in, subtracts, goes_out] = [0, 1, 2].map(|bit| op.x >> bit & 1 != 0);
        // SAFETY: the decoder made the slots for this type, `c` and `wide[0]` for predicates.
        unsafe {
            let (a, b) = (warp.lanes::<T>(op.a), warp.lanes::<T>(op.b));
            let carry = if comes_in { warp.predicate(op.c) } else { 0 };
            let turned = if subtracts { !carry } else { carry };
            let mut result = [T::Stored::default(); 32];
            let mut out = 0u32;
            for lane in 0..32 {
                let second = T::load(b[lane]);
                let second = if subtracts { second.complement() } else { second };
                let (sum, carried) = T::load(a[lane]).sum(second, turned >> lane & 1 != 0);
                result[lane] = sum.store();
                out |= u32::from(carried) << lane;
            }
            warp.write::<T>(op.d, &result);
            if goes_out {
                let carry = warp.wide(op)[0];
                warp.write_predicate(carry, if subtracts { !out } else { out });
            }
        }
        Flow::Next
    })
}

/// Appends the sum of the slots.
fn add(
    i: &Instruction,
    b: &mut Builder<'_>,
    ty: Type,
    [first, second]: [Slot; 2],
    [comes_in, subtracts, goes_out]: [bool; 3],
) -> Result<(), CompileError> {
    let mut op = Op::new(if ty.bits() == 64 { carrying::<u64>() } else { carrying::<u32>() });
    op.a = b.reads(first);
    op.b = b.reads(second);
    op.x = u32::from(comes_in) | u32::from(subtracts) << 1 | u32::from(goes_out) << 2;
    let carry = b.carry();
    if comes_in {
        op.c = b.reads(carry);
    }
    op.d = b.write(i, &i.operands[0], ty)?;
    let wide = if goes_out { vec![b.writes(carry)] } else { Vec::new() };
    b.emit_wide(op, wide);
    Ok(())
}

/// `add.cc addc sub.cc subc mad.cc madc`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let out = modifiers.take("cc");
    let part = modifiers.take_any(&["lo", "hi"]);
    modifiers.finish(b)?;
    if !matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64) {
        return Err(b.unknown(i));
    }
    match (i.opcode.as_str(), part) {
        ("add" | "addc" | "sub" | "subc", None) => {
            let slots = sources(b, i, ty, 2)?;
            let subtracts = i.opcode.starts_with("sub");
            add(i, b, ty, [slots[0], slots[1]], [i.opcode.ends_with('c'), subtracts, out])
        }
        ("mad" | "madc", Some(part)) => {
            let product = if part == "lo" { integer::low(ty) } else { integer::high(ty) };
            let product = product.ok_or_else(|| b.unknown(i))?;
            let slots = sources(b, i, ty, 3)?;
            let product = stage(b, product, ty, &slots[..2]);
            add(i, b, ty, [product, slots[2]], [i.opcode == "madc", false, out])
        }
        _ => Err(b.unknown(i)),
    }
}

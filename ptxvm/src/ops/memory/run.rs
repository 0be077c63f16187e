//! What loads and stores run: a body per space and width for the common ones, one that asks for its width for the rest.

use super::{
    AccessOp, Element, OpSpace,
    layout::{FastSpace, Generic, Global, Layout, Pointers, Shared32, Shared64, Word, resolve},
    rows::Moved,
    slow::{resolve_frame, resolve_slowly},
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Body, Exec, Flow, Op, exec},
        warp::Warp,
    },
    monitor::Ordering,
};
use std::marker::PhantomData;

/// A value in memory that a register holds as it is.
pub(super) trait Value: Moved + Lane<Stored = <Self as Moved>::Stored> {}

impl<E: Moved + Lane<Stored = <E as Moved>::Stored>> Value for E {}

/// Which way values go.
pub(super) trait Direction: 'static {
    /// Moves `N` values per lane.
    ///
    /// # Safety
    /// The layout has been resolved for them and is no fault, and the operation has registers for them.
    unsafe fn values<E: Value, const N: usize>(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers);

    /// Moves whatever the operation's [`Element`] says, in its order.
    fn elements(warp: &mut Warp, op: &Op, layout: Layout, pointers: &Pointers) -> Flow;
}

/// `N` values by weak accesses.
struct Plain<D, S, E, const N: usize>(PhantomData<(D, S, E)>);

impl<D: Direction, S: FastSpace, E: Value, const N: usize> Body for Plain<D, S, E, N>
where
    <S::Address as Lane>::Stored: Word,
{
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let mut pointers = Pointers::uninit();
        let bytes = (size_of::<E>() * N) as u64;
        // SAFETY: the decoder put an address register of this space into `a` and registers of E's where `D` looks.
        unsafe {
            let layout = resolve::<S>(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
            if let Layout::Fault = layout {
                return Flow::Fault;
            }
            D::values::<E, N>(warp, op, layout, &pointers);
        }
        Flow::Next
    }
}

/// Any access.
struct Any<D, S>(PhantomData<(D, S)>);

impl<D: Direction, S: FastSpace> Body for Any<D, S>
where
    <S::Address as Lane>::Stored: Word,
{
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let mut pointers = Pointers::uninit();
        let bytes = Element::unpack(op.x).total();
        // SAFETY: the decoder put an address register of this space into `a`.
        let layout = unsafe { resolve::<S>(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers) };
        D::elements(warp, op, layout, &pointers)
    }
}

/// Of the frame's local memory.
pub(super) fn frame<D: Direction>() -> Exec {
    struct Frame<D>(PhantomData<D>);
    impl<D: Direction> Body for Frame<D> {
        #[inline(always)]
        unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
            let mut pointers = Pointers::uninit();
            let layout = resolve_frame(warp, op, AccessOp(op.y), Element::unpack(op.x).total(), &mut pointers);
            D::elements(warp, op, layout, &pointers)
        }
    }
    exec::<Frame<D>>()
}

/// Through registers into local or parameter memory.
fn slowly<D: Direction>() -> Exec {
    struct Slowly<D>(PhantomData<D>);
    impl<D: Direction> Body for Slowly<D> {
        #[inline(always)]
        unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
            let mut pointers = Pointers::uninit();
            let bytes = Element::unpack(op.x).total();
            let layout = resolve_slowly(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
            D::elements(warp, op, layout, &pointers)
        }
    }
    exec::<Slowly<D>>()
}

/// Moves the common widths that have a code of their own; false: this is another.
///
/// # Safety
/// As [`Direction::values`].
pub(super) unsafe fn common_values<D: Direction>(
    warp: &mut Warp,
    op: &Op,
    element: Element,
    layout: Layout,
    pointers: &Pointers,
) -> bool {
    // SAFETY: the caller's contract; `element` is what registers and layout were made for.
    unsafe {
        match (element.bytes, element.stored, element.count) {
            (1, 4, 1) => D::values::<u8, 1>(warp, op, layout, pointers),
            (2, 4, 1) => D::values::<u16, 1>(warp, op, layout, pointers),
            (4, 4, 1) => D::values::<u32, 1>(warp, op, layout, pointers),
            (4, 4, 2) => D::values::<u32, 2>(warp, op, layout, pointers),
            (4, 4, 4) => D::values::<u32, 4>(warp, op, layout, pointers),
            (8, 8, 1) => D::values::<u64, 1>(warp, op, layout, pointers),
            (8, 8, 2) => D::values::<u64, 2>(warp, op, layout, pointers),
            _ => return false,
        }
    }
    true
}

fn pick_in<D: Direction, S: FastSpace + 'static>(ordering: Ordering, element: Element) -> Exec
where
    <S::Address as Lane>::Stored: Word,
{
    if ordering.strong || element.sign_to != 0 {
        return exec::<Any<D, S>>();
    }
    match (element.bytes, element.stored, element.count) {
        (1, 4, 1) => exec::<Plain<D, S, u8, 1>>(),
        (2, 4, 1) => exec::<Plain<D, S, u16, 1>>(),
        (4, 4, 1) => exec::<Plain<D, S, u32, 1>>(),
        (4, 4, 2) => exec::<Plain<D, S, u32, 2>>(),
        (4, 4, 4) => exec::<Plain<D, S, u32, 4>>(),
        (8, 8, 1) => exec::<Plain<D, S, u64, 1>>(),
        (8, 8, 2) => exec::<Plain<D, S, u64, 2>>(),
        _ => exec::<Any<D, S>>(),
    }
}

pub(super) fn pick<D: Direction>(space: OpSpace, narrow: bool, ordering: Ordering, element: Element) -> Exec {
    match (space, narrow) {
        (OpSpace::Global, _) => pick_in::<D, Global>(ordering, element),
        (OpSpace::Shared, true) => pick_in::<D, Shared32>(ordering, element),
        (OpSpace::Shared, false) => pick_in::<D, Shared64>(ordering, element),
        (OpSpace::Generic, _) => pick_in::<D, Generic>(ordering, element),
        (OpSpace::Local | OpSpace::Param, _) => slowly::<D>(),
    }
}

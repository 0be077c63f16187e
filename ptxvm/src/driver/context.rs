//! Contexts: creation, the stack of current ones of each thread, flags, limits, synchronisation.

use super::clock::{Clock, happening_at};
use super::engine::Engine;
use super::entry::{In, Out, entries};
use super::memory::{Buffer, BufferKind};
use super::state::{Kind, State, card, lock};
use super::status::{Outcome, Status};
use super::stream::StreamKind;
use super::types::{ContextParams, ExecAffinity, Handle};
use crate::card::Card;
use crate::machine::Order;
use crate::memory::Memory;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::mem::ManuallyDrop;
use std::thread::ThreadId;

pub(super) struct Context {
    /// Unique over all contexts that ever were: also the engine's name for it.
    pub(super) id: u64,
    pub(super) device: u32,
    pub(super) card: &'static Card,
    pub(super) primary: bool,
    pub(super) flags: u32,
    pub(super) attached: u32,
    pub(super) limits: Limits,
    pub(super) cache_config: u32,
    pub(super) shared_config: u32,
    pub(super) legacy_stream: Handle,
    pub(super) thread_streams: HashMap<ThreadId, Handle>,
    /// What streams that have been destroyed had done or were still to do.
    pub(super) ended_streams: Clock,
    /// Contexts whose memory may be used from this one.
    pub(super) peers: HashSet<Handle>,
}

/// `CU_LIMIT_*` that can be set, with CUDA's own values to begin with.
pub(super) struct Limits {
    pub(super) stack: usize,
    printf: usize,
    heap: usize,
    pending_launches: usize,
    l2_fetch: usize,
    persisting_l2: usize,
}

/// Local memory of a thread at most, as on all cards since 2.0.
const MOST_LOCAL: usize = 512 << 10;
const FLAGS: u32 = 0xff;
const SCHEDULE_FLAGS: u32 = 7;

thread_local! {
    /// Never dropped: destructors of other libraries make calls when those of this thread's values have run already.
    static CURRENT: RefCell<ManuallyDrop<Vec<Handle>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

fn top() -> Handle {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(Handle::NULL))
}

fn set_top(context: Handle) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if !context.is_null() {
            stack.push(context);
        }
    });
}

impl State {
    /// The context that is current on this thread.
    pub(super) fn current(&self) -> Outcome<Handle> {
        match top() {
            Handle::NULL => {
                Err(Status::InvalidContext.because("no context is current on this thread (cuCtxSetCurrent)"))
            }
            context if self.contexts.contains_key(&context) => Ok(context),
            context => {
                Err(Status::ContextIsDestroyed.because(format!("the current context {context:#x} was destroyed")))
            }
        }
    }

    /// The current context, unless a fault has spoiled it.
    pub(super) fn usable(&self) -> Outcome<Handle> {
        let context = self.current()?;
        self.check_fault(context)?;
        Ok(context)
    }

    /// A fault stays: every call on its context returns it until the context is destroyed.
    pub(super) fn check_fault(&self, context: Handle) -> Outcome {
        let Some(fault) = self.contexts.get(&context).and_then(|context| Engine::global().fault(context.id)) else {
            return Ok(());
        };
        Err(fault.status.because(format!(
            "the context is spoiled by an earlier fault: {}",
            fault.reason.as_deref().unwrap_or("no details")
        )))
    }

    pub(super) fn context(&mut self, handle: Handle) -> Outcome<&mut Context> {
        self.contexts.get_mut(&handle).ok_or_else(|| {
            Status::InvalidContext.because(format!("{handle:#x} is no context (destroyed, or never created?)"))
        })
    }

    /// `handle`, or the current context where it is NULL.
    pub(super) fn context_or_current(&self, handle: Handle) -> Outcome<Handle> {
        match handle {
            Handle::NULL => self.current(),
            handle if self.contexts.contains_key(&handle) => Ok(handle),
            handle => Err(Status::InvalidContext.because(format!("{handle:#x} is no context"))),
        }
    }

    pub(super) fn new_context(&mut self, device: u32, card: &'static Card, flags: u32, primary: bool) -> Handle {
        let handle = self.new_handle(Kind::Context);
        let id = self.new_serial();
        let legacy_stream = self.new_stream(handle, 0, 0, StreamKind::Legacy);
        let limits = Limits {
            stack: 1024,
            printf: 1 << 20,
            heap: 8 << 20,
            pending_launches: 2048,
            l2_fetch: 64,
            persisting_l2: 0,
        };
        self.contexts.insert(
            handle,
            Context {
                id,
                device,
                card,
                primary,
                flags,
                attached: 1,
                limits,
                cache_config: 0,
                shared_config: 0,
                legacy_stream,
                thread_streams: HashMap::new(),
                ended_streams: Clock::default(),
                peers: HashSet::new(),
            },
        );
        handle
    }
}

pub(super) fn check_flags(flags: u32) -> Outcome {
    let schedule = flags & SCHEDULE_FLAGS;
    if flags & !FLAGS != 0 || schedule.count_ones() > 1 {
        return Err(Status::InvalidValue.because(format!("{flags:#x} are no context flags")));
    }
    Ok(())
}

fn create(out: Out<Handle>, flags: u32, device: i32) -> Outcome {
    out.check("pctx")?;
    check_flags(flags)?;
    let (device, card) = card(device)?;
    let context = lock().new_context(device, card, flags, false);
    CURRENT.with_borrow_mut(|stack| stack.push(context));
    out.set("pctx", context)
}

/// Ends a context and everything in it. Work that still runs is waited for.
pub(super) fn destroy(handle: Handle) -> Outcome {
    let id = lock().context(handle)?.id;
    Engine::global().wait_for_context(id);
    let mut state = lock();
    if state.contexts.remove(&handle).is_none() {
        return Ok(());
    }
    state.join_streams_of(handle);
    let order = state.host_order();
    // Memory of graphs is the driver's to free, so it has not leaked.
    state.free_buffers(&order, |buffer| buffer.context == handle && buffer.kind == BufferKind::Graph);
    if state.contexts.is_empty() {
        crate::monitor::host::leaks();
    } else {
        let own = |base: u64| state.buffers.get(&base).is_some_and(|buffer| buffer.context == handle);
        crate::monitor::host::leaks_among(own);
    }
    state.streams.retain(|_, stream| stream.context != handle);
    state.events.retain(|_, event| event.context != handle);
    let modules: Vec<Handle> =
        state.modules.iter().filter(|(_, module)| module.context == handle).map(|(handle, _)| *handle).collect();
    for module in modules {
        state.remove_module(module);
    }
    for library in state.libraries.values_mut() {
        library.modules.remove(&handle);
    }
    state.free_buffers(&order, |buffer| buffer.context == handle);
    drop(state);
    crate::report::flush();
    Engine::global().forget(id);
    Ok(())
}

/// Waits for all work of the context; reports its fault.
pub(super) fn synchronize(handle: Handle) -> Outcome {
    let id = {
        let mut state = lock();
        state.forbid_in_capture("synchronising a context")?;
        state.context(handle)?.id
    };
    Engine::global().wait_for_context(id);
    let mut state = lock();
    state.join_streams_of(handle);
    state.check_fault(handle)
}

impl State {
    fn free_buffers(&mut self, order: &Order, which: impl Fn(&Buffer) -> bool) {
        let freed: Vec<u64> = self.buffers.iter().filter(|(_, buffer)| which(buffer)).map(|(base, _)| *base).collect();
        for base in freed {
            self.buffers.remove(&base);
            // The allocation is in the table of buffers, so it exists; a failure would change nothing for the caller.
            let _ = happening_at(order, "destroying a context", true, || Memory::global().free(base));
            Memory::global().release(base);
            self.unfreed.remove(&base);
        }
    }

    /// The host knows now what all streams of the context have done.
    pub(super) fn join_streams_of(&mut self, context: Handle) {
        let clocks: Vec<_> = self.streams.values().filter(|stream| stream.context == context).collect();
        let mut joined = self.clock.clone();
        for stream in clocks {
            joined.join(&stream.clock);
        }
        if let Some(context) = self.contexts.get(&context) {
            joined.join(&context.ended_streams);
        }
        self.clock = joined;
    }
}

fn limit_of(limits: &mut Limits, limit: u32) -> Outcome<&mut usize> {
    Ok(match limit {
        0 => &mut limits.stack,
        1 => &mut limits.printf,
        2 => &mut limits.heap,
        4 => &mut limits.pending_launches,
        5 => &mut limits.l2_fetch,
        6 => &mut limits.persisting_l2,
        3 | 7..=9 => return Err(Status::UnsupportedLimit.because(format!("CUlimit {limit} is not on these cards"))),
        _ => return Err(Status::InvalidValue.because(format!("there is no CUlimit {limit}"))),
    })
}

entries! { list:
    fn cuCtxCreate(pctx: Out<Handle>, flags: u32, dev: i32) { create(pctx, flags, dev) }

    fn cuCtxCreate_v2(pctx: Out<Handle>, flags: u32, dev: i32) { create(pctx, flags, dev) }

    fn cuCtxCreate_v3(pctx: Out<Handle>, params: In<ExecAffinity>, count: i32, flags: u32, dev: i32) {
        if count != 0 && !params.is_null() {
            return Err(Status::UnsupportedExecAffinity.because("execution affinity needs MPS, which is not modelled"));
        }
        create(pctx, flags, dev)
    }

    fn cuCtxCreate_v4(pctx: Out<Handle>, params: In<ContextParams>, flags: u32, dev: i32) {
        if !params.is_null() {
            let params = params.get("ctxCreateParams")?;
            if params.affinity_count != 0 && !params.affinity.is_null() {
                return Err(Status::UnsupportedExecAffinity.because("execution affinity needs MPS, which is not modelled"));
            }
            if !params.graphics.is_null() {
                return Err(Status::NotSupported.because("contexts shared with graphics (CIG) are not modelled"));
            }
        }
        create(pctx, flags, dev)
    }

    fn cuCtxDestroy(ctx: Handle) { destroy_created(ctx) }

    fn cuCtxDestroy_v2(ctx: Handle) { destroy_created(ctx) }

    fn cuCtxAttach(pctx: Out<Handle>, flags: u32) {
        if flags != 0 {
            return Err(Status::InvalidValue.because("cuCtxAttach takes no flags"));
        }
        let mut state = lock();
        let current = state.current()?;
        state.context(current)?.attached += 1;
        pctx.set("pctx", current)
    }

    fn cuCtxDetach(ctx: Handle) {
        let attached = {
            let mut state = lock();
            let context = state.context(ctx)?;
            context.attached -= 1;
            context.attached
        };
        if attached > 0 { Ok(()) } else { destroy_created(ctx) }
    }

    fn cuCtxPushCurrent(ctx: Handle) { push(ctx) }

    fn cuCtxPushCurrent_v2(ctx: Handle) { push(ctx) }

    fn cuCtxPopCurrent(pctx: Out<Handle>) { pop(pctx) }

    fn cuCtxPopCurrent_v2(pctx: Out<Handle>) { pop(pctx) }

    fn cuCtxSetCurrent(ctx: Handle) {
        if !ctx.is_null() {
            lock().context(ctx)?;
        }
        set_top(ctx);
        Ok(())
    }

    fn cuCtxGetCurrent(pctx: Out<Handle>) { pctx.set("pctx", top()) }

    fn cuCtxGetDevice(device: Out<i32>) { get_device(device, Handle::NULL) }

    fn cuCtxGetDevice_v2(device: Out<i32>, ctx: Handle) { get_device(device, ctx) }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let mut state = lock();
        let current = state.current()?;
        flags.set("flags", state.context(current)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        check_flags(flags)?;
        let mut state = lock();
        let current = state.usable()?;
        state.context(current)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetId(ctx: Handle, id: Out<u64>) {
        let mut state = lock();
        let context = state.context_or_current(ctx)?;
        id.set("ctxId", state.context(context)?.id)
    }

    fn cuCtxGetApiVersion(ctx: Handle, version: Out<u32>) {
        lock().context_or_current(ctx)?;
        version.set("version", 3020)
    }

    fn cuCtxSynchronize() {
        let current = lock().usable()?;
        synchronize(current)
    }

    fn cuCtxSynchronize_v2(ctx: Handle) {
        let context = lock().context_or_current(ctx)?;
        synchronize(context)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let mut state = lock();
        let current = state.usable()?;
        if limit == 0 && value > MOST_LOCAL {
            return Err(Status::InvalidValue.because(format!("a thread's stack of {value} bytes; at most {MOST_LOCAL}")));
        }
        *limit_of(&mut state.context(current)?.limits, limit)? = value;
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let mut state = lock();
        let current = state.usable()?;
        let limit = *limit_of(&mut state.context(current)?.limits, limit)?;
        value.set("pvalue", limit)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        if config > 3 {
            return Err(Status::InvalidValue.because(format!("there is no CUfunc_cache {config}")));
        }
        let mut state = lock();
        let current = state.usable()?;
        state.context(current)?.cache_config = config;
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        let mut state = lock();
        let current = state.usable()?;
        config.set("pconfig", state.context(current)?.cache_config)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        if config > 2 {
            return Err(Status::InvalidValue.because(format!("there is no CUsharedconfig {config}")));
        }
        let mut state = lock();
        let current = state.usable()?;
        state.context(current)?.shared_config = config;
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        lock().usable()?;
        // Banks are four bytes wide on every card of today, whatever was asked for.
        config.set("pConfig", 1)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        lock().current()?;
        least.set_if_given(super::stream::LEAST_PRIORITY);
        greatest.set_if_given(super::stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() { lock().usable().map(|_| ()) }

    fn cuCtxGetExecAffinity(affinity: Out<ExecAffinity>, kind: u32) {
        if kind != 0 {
            return Err(Status::InvalidValue.because(format!("there is no CUexecAffinityType {kind}")));
        }
        let mut state = lock();
        let current = state.current()?;
        let multiprocessors = state.context(current)?.card.multiprocessors;
        affinity.set("pExecAffinity", ExecAffinity { kind, multiprocessors })
    }
}

fn destroy_created(handle: Handle) -> Outcome {
    if lock().context(handle)?.primary {
        return Err(Status::InvalidContext.because("a primary context is given up with cuDevicePrimaryCtxRelease"));
    }
    destroy(handle)?;
    if top() == handle {
        set_top(Handle::NULL);
    }
    Ok(())
}

fn push(context: Handle) -> Outcome {
    lock().context(context)?;
    CURRENT.with_borrow_mut(|stack| stack.push(context));
    Ok(())
}

fn pop(out: Out<Handle>) -> Outcome {
    match CURRENT.with_borrow_mut(|stack| stack.pop()) {
        Some(context) => {
            out.set_if_given(context);
            Ok(())
        }
        None => Err(Status::InvalidContext.because("no context is current on this thread")),
    }
}

fn get_device(out: Out<i32>, context: Handle) -> Outcome {
    let mut state = lock();
    let context = state.context_or_current(context)?;
    out.set("device", state.context(context)?.device.cast_signed())
}

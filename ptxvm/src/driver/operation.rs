//! Operations: what a stream can be asked to do and a graph's nodes stand for.

use super::clock::happening_at;
use super::copy::CopyPlan;
use super::engine::{Engine, Work};
use super::entry::Opaque;
use super::log;
use super::status::{Failure, Status};
use super::types::{FillNode, Handle, HostFunction, ValueOperation};
use crate::machine::{Fault, FaultKind, KernelId, Launch, LoadedModule, Options, Order, run};
use crate::memory::{Allocation, AllocationKind, Memory, MemoryError};
use crate::settings::{Settings, settings};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

#[derive(Clone)]
pub(super) enum Operation {
    Kernel(KernelCall),
    Copy(CopyPlan),
    Fill(FillNode),
    Host {
        function: HostFunction,
        data: u64,
    },
    Values(Vec<ValueOperation>),
    /// Only orders others.
    Empty,
    /// The nodes of a graph that this one owns.
    Graph(Handle),
    RecordEvent(Handle),
    WaitEvent(Handle),
    /// Memory that is there from here on in a graph.
    Allocate {
        base: u64,
        bytes: usize,
    },
    Free(u64),
}

/// A kernel with everything that it is launched with.
#[derive(Clone)]
pub(super) struct KernelCall {
    /// The function or kernel handle that was launched.
    pub(super) function: Handle,
    pub(super) context: Handle,
    pub(super) module: Arc<LoadedModule>,
    pub(super) kernel: KernelId,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) params: Vec<u8>,
    pub(super) cooperative: bool,
    pub(super) device: u32,
    pub(super) multiprocessors: u32,
    /// Blocks that a multiprocessor holds.
    pub(super) resident: u32,
    pub(super) local_limit: u32,
}

/// Where an operation stands, for reports.
#[derive(Clone)]
pub(super) struct Label {
    pub(super) stream: u64,
    pub(super) serial: u64,
}

impl Label {
    fn text(&self, what: &str) -> String {
        format!("{what} in stream {}, number {}", self.stream, self.serial)
    }
}

type Condition = Option<Box<dyn Fn() -> bool + Send>>;

impl Operation {
    /// The commands that the operation takes, one after another: each wait and write of a batch is one.
    pub(super) fn parts(self) -> Vec<Operation> {
        match self {
            Operation::Values(values) if values.len() > 1 => {
                values.into_iter().map(|value| Operation::Values(vec![value])).collect()
            }
            other => vec![other],
        }
    }

    /// What the engine has to do. Events and graphs are done by those who issue them.
    pub(super) fn work(self, order: Order, label: &Label) -> (Condition, Work) {
        let run: Box<dyn FnOnce() -> Result<(), Failure> + Send> = match self {
            Operation::Kernel(call) => {
                let launch = call.launch(order, label);
                Box::new(move || run(&launch).map_err(fault))
            }
            Operation::Copy(plan) => {
                let label = label.text("copy");
                let copy = move || happening_at(&order, &label, plan.by_host, || plan.run());
                Box::new(move || copy().map_err(|error| bad_access(&error, "copy")))
            }
            Operation::Fill(fill) => {
                let label = label.text("fill");
                let fill = move || happening_at(&order, &label, false, || run_fill(&fill));
                Box::new(move || fill().map_err(|error| bad_access(&error, "fill")))
            }
            Operation::Free(base) => {
                let label = label.text("cuMemFreeAsync");
                let free = move || super::memory::free_now(base, &order, &label);
                return (None, Work::Always(Box::new(move |_| free())));
            }
            Operation::Host { function, data } => {
                let call = move || {
                    if let Some(function) = function {
                        // SAFETY: the caller promised that the function can be called with this data.
                        unsafe { function(data as Opaque) };
                    }
                };
                return (None, Work::Host(Box::new(call)));
            }
            Operation::Values(values) => return values.first().map_or((None, nothing()), |value| value_work(*value)),
            Operation::Empty | Operation::Graph(_) | Operation::RecordEvent(_) | Operation::WaitEvent(_) => {
                return (None, nothing());
            }
            // Only in graphs: the first launch finds the memory there, each later one where it was freed.
            Operation::Allocate { base, .. } => {
                let label = label.text("a graph's allocation");
                let allocate = move || happening_at(&order, &label, false, || Memory::global().revive(base));
                return (None, Work::Always(Box::new(move |_| allocate())));
            }
        };
        (None, Work::Run(run))
    }
}

fn nothing() -> Work {
    Work::Always(Box::new(|_| ()))
}

impl KernelCall {
    fn launch(self, order: Order, label: &Label) -> Launch {
        Launch {
            module: self.module,
            kernel: self.kernel,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.shared,
            params: self.params,
            cooperative: self.cooperative,
            device: self.device,
            multiprocessors: self.multiprocessors,
            resident: self.resident,
            local_limit: self.local_limit,
            label: label.text("launch"),
            order,
            options: options().clone(),
        }
    }
}

/// How every launch is run. Kept, since finding out how many processors there are takes longer than a small launch.
fn options() -> &'static Options {
    static OPTIONS: OnceLock<Options> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        let Settings { threads, seed, checked, shrink, .. } = *settings();
        Options { threads, seed, checked, shrink, alone: Some(alone), ..Options::default() }
    })
}

/// Whether nothing but a launch on so many threads can change memory: another process might change what it shares with this.
fn alone(workers: usize) -> bool {
    let shared = |allocation: &Allocation| allocation.kind == AllocationKind::HostRegistered;
    Engine::global().is_waited_for(workers) && !Memory::global().allocations().iter().any(shared)
}

/// The error that a driver reports for a fault of a kernel.
fn fault(fault: Fault) -> Failure {
    let status = match fault.kind {
        FaultKind::IllegalAddress => Status::IllegalAddress,
        FaultKind::MisalignedAddress => Status::MisalignedAddress,
        FaultKind::InvalidPc => Status::InvalidPc,
        FaultKind::Trap => Status::LaunchFailed,
        FaultKind::Assert => Status::Assert,
        FaultKind::IllegalInstruction => Status::IllegalInstruction,
        FaultKind::StackOverflow => Status::HardwareStackError,
        FaultKind::Deadlock => Status::LaunchTimeout,
        FaultKind::InvalidAddressSpace => Status::InvalidAddressSpace,
    };
    let failure = status.because(fault.to_string());
    // Said at once: the program may never ask again.
    log::error(format_args!("{}: {fault}", status.name().to_string_lossy()));
    failure
}

/// Memory was freed, say, between the call and now.
fn bad_access(error: &MemoryError, what: &str) -> Failure {
    crate::monitor::host::memory_error(error, what);
    log::error(format_args!("CUDA_ERROR_ILLEGAL_ADDRESS: {error}"));
    Status::IllegalAddress.because(error.to_string())
}

fn run_fill(fill: &FillNode) -> Result<(), MemoryError> {
    let pattern = fill.value.to_le_bytes();
    let pattern = &pattern[..fill.element as usize];
    let row = fill.width * fill.element as usize;
    let (rows, count) = if fill.pitch == row { (1, fill.width * fill.height) } else { (fill.height, fill.width) };
    for y in 0..rows {
        // SAFETY: the target was found in an allocation when the operation was issued; Memory checks it again.
        unsafe { Memory::global().fill(fill.to + (y * fill.pitch) as u64, pattern, count as u64)? };
    }
    Ok(())
}

/// `CU_STREAM_MEM_OP_*`.
pub(super) mod value {
    pub(in crate::driver) const WAIT_32: u32 = 1;
    pub(in crate::driver) const WRITE_32: u32 = 2;
    pub(in crate::driver) const FLUSH: u32 = 3;
    pub(in crate::driver) const WAIT_64: u32 = 4;
    pub(in crate::driver) const WRITE_64: u32 = 5;
    pub(in crate::driver) const BARRIER: u32 = 6;
}

/// A wait or write of a word of memory; the address was checked when the operation was issued.
fn value_work(operation: ValueOperation) -> (Condition, Work) {
    let ValueOperation { address, value, flags, .. } = operation;
    match operation.operation {
        value::WAIT_32 => {
            let condition = move || {
                // SAFETY: an aligned word inside an allocation, which is never unmapped.
                let found = unsafe { AtomicU32::from_ptr(address as *mut u32) }.load(Ordering::Acquire);
                let value = value as u32;
                match flags & 3 {
                    0 => found.wrapping_sub(value).cast_signed() >= 0,
                    1 => found == value,
                    2 => found & value != 0,
                    _ => !(found | value) != 0,
                }
            };
            (Some(Box::new(condition)), nothing())
        }
        value::WAIT_64 => {
            let condition = move || {
                // SAFETY: an aligned word inside an allocation, which is never unmapped.
                let found = unsafe { AtomicU64::from_ptr(address as *mut u64) }.load(Ordering::Acquire);
                match flags & 3 {
                    0 => found.wrapping_sub(value).cast_signed() >= 0,
                    1 => found == value,
                    2 => found & value != 0,
                    _ => !(found | value) != 0,
                }
            };
            (Some(Box::new(condition)), nothing())
        }
        value::WRITE_32 => {
            // SAFETY: an aligned word inside an allocation, which is never unmapped.
            let write =
                move || unsafe { AtomicU32::from_ptr(address as *mut u32) }.store(value as u32, Ordering::Release);
            (None, done(write))
        }
        value::WRITE_64 => {
            // SAFETY: an aligned word inside an allocation, which is never unmapped.
            let write = move || unsafe { AtomicU64::from_ptr(address as *mut u64) }.store(value, Ordering::Release);
            (None, done(write))
        }
        // Barriers and flushes: everything is coherent here.
        _ => (None, nothing()),
    }
}

fn done(write: impl FnOnce() + Send + 'static) -> Work {
    Work::Run(Box::new(move || {
        write();
        Ok(())
    }))
}

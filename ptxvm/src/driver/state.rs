//! What the driver knows: contexts, streams, modules, … by their handles, behind one lock.
//!
//! Nobody waits for device work while holding the lock; commands may take it when they run.

use super::capture::Capture;
use super::clock::{Clock, HOST};
use super::context::Context;
use super::event::Event;
use super::graph::{Executable, Graph};
use super::library::{Kernel, Library};
use super::link::Link;
use super::memory::Buffer;
use super::module::{Function, Module};
use super::pool::Pool;
use super::primary::Primary;
use super::status::{Outcome, Status};
use super::stream::Stream;
use super::types::Handle;
use super::user_object::UserObject;
use super::virtual_memory::{Chunk, Mapping};
use crate::card::Card;
use crate::machine::Order;
use crate::settings::settings;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What a handle is of; part of its value, so that one of another kind is never taken for it.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "named after the API's types")]
pub(super) enum Kind {
    Context = 1,
    Stream,
    Event,
    Module,
    Function,
    Library,
    Kernel,
    Link,
    Graph,
    Node,
    Executable,
    Pool,
    UserObject,
    Chunk,
}

#[derive(Default)]
pub(super) struct State {
    serial: u64,
    pub(super) contexts: HashMap<Handle, Context>,
    pub(super) primaries: HashMap<u32, Primary>,
    pub(super) streams: HashMap<Handle, Stream>,
    pub(super) events: HashMap<Handle, Event>,
    pub(super) modules: HashMap<Handle, Module>,
    pub(super) functions: HashMap<Handle, Function>,
    pub(super) libraries: HashMap<Handle, Library>,
    pub(super) kernels: HashMap<Handle, Kernel>,
    pub(super) links: HashMap<Handle, Link>,
    pub(super) graphs: HashMap<Handle, Graph>,
    /// The graph that a node is in.
    pub(super) nodes: HashMap<Handle, Handle>,
    pub(super) executables: HashMap<Handle, Executable>,
    pub(super) captures: HashMap<u64, Capture>,
    pub(super) pools: HashMap<Handle, Pool>,
    /// The default and the current pool of each device.
    pub(super) device_pools: HashMap<u32, (Handle, Handle)>,
    pub(super) user_objects: HashMap<Handle, UserObject>,
    /// Memory of graphs that a launch has allocated and nothing has freed since, as far as calls go.
    pub(super) unfreed: HashSet<u64>,
    /// Physical memory, and what of it is mapped, by its first address.
    pub(super) chunks: HashMap<Handle, Chunk>,
    pub(super) mappings: BTreeMap<u64, Mapping>,
    /// Memory by its first address.
    pub(super) buffers: BTreeMap<u64, Buffer>,
    /// What happens before the next call of the host.
    pub(super) clock: Clock,
    time: u64,
}

/// The state of the process.
pub(super) fn lock() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
    // A panic of a call is a defect that was logged; the maps are still maps.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// A number that was not given out before.
    pub(super) fn new_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn new_handle(&mut self, kind: Kind) -> Handle {
        Handle((kind as u64) << 40 | self.new_serial() << 4)
    }

    /// The order of something that the host does now itself.
    pub(super) fn host_order(&mut self) -> Order {
        self.time += 1;
        self.clock.set(HOST, self.time);
        self.clock.order(HOST, self.time)
    }

    /// The host moves on, so that what it does later is not before what it did until now.
    pub(super) fn host_clock(&mut self) -> Clock {
        self.host_order();
        self.clock.clone()
    }
}

/// What `handle` names in `map`, or `CUDA_ERROR_INVALID_HANDLE`.
pub(super) fn known<'a, T>(map: &'a mut HashMap<Handle, T>, handle: Handle, what: &str) -> Outcome<&'a mut T> {
    map.get_mut(&handle).ok_or_else(|| unknown(handle, what))
}

pub(super) fn unknown(handle: Handle, what: &str) -> super::status::Failure {
    Status::InvalidHandle.because(format!("{handle:#x} is no {what} (destroyed, or of another kind?)"))
}

/// The card of device `ordinal`.
pub(super) fn card(ordinal: i32) -> Outcome<(u32, &'static Card)> {
    let devices = &settings().devices;
    let found = u32::try_from(ordinal).ok().and_then(|index| Some((index, *devices.get(index as usize)?)));
    found.ok_or_else(|| {
        Status::InvalidDevice.because(format!("there is no device {ordinal}: this machine has {}", devices.len()))
    })
}

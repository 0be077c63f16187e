//! What every scenario stands on: a device, its module, buffers, and launches with arguments as a list.

use std::sync::Arc;

use cudarc::driver::{
    CudaModule, CudaSlice, CudaStream, DeviceRepr, DriverError, LaunchConfig, PushKernelArg as _, ValidAsZeroBits,
};

use super::{Scenario, Source};
use crate::{Device, Random, address, device::function};

/// A device with a scenario's module.
pub struct Stage {
    /// The device.
    pub device: Device,
    /// The kernels, healthy or mutated.
    pub module: Arc<CudaModule>,
    /// Whether the scenario makes its mistake on the host's side.
    pub mutated: bool,
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    /// A device address.
    Address(u64),
    /// `int`.
    Int(i32),
    /// `float`.
    Float(f32),
    /// `double`.
    Double(f64),
}

impl<T> From<&CudaSlice<T>> for Argument {
    fn from(slice: &CudaSlice<T>) -> Self {
        Self::Address(address(slice.stream(), slice))
    }
}

impl From<u64> for Argument {
    fn from(address: u64) -> Self {
        Self::Address(address)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// A list of arguments: buffers by reference, numbers by value.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &[$($crate::mutants::stage::Argument::from($argument)),*] };
}
pub(crate) use arguments;

/// Grid, block and dynamic shared memory.
#[derive(Clone, Copy)]
pub(super) struct Shape(pub [u32; 2], pub [u32; 2], pub u32);

/// A grid and block of one dimension.
pub(super) fn line(blocks: u32, threads: u32, shared: u32) -> Shape {
    Shape([blocks, 1], [threads, 1], shared)
}

impl Shape {
    fn configuration(self) -> LaunchConfig {
        let (Self(grid, block, shared), z) = (self, 1);
        LaunchConfig { grid_dim: (grid[0], grid[1], z), block_dim: (block[0], block[1], z), shared_mem_bytes: shared }
    }
}

impl Stage {
    /// Device 0 with the module loaded.
    pub fn new(scenario: &Scenario, text: String, mutated: bool) -> Self {
        let device = Device::new();
        let module = match scenario.source {
            Source::Ptx(name) => device.module_of_ptx(name, text),
            Source::Corpus(name) | Source::Cuda(name) => device.module_of(name, &text),
        };
        Self { device, module, mutated }
    }

    /// The device's default stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.device.stream
    }

    /// A stream that does not wait for the default one; the scenario orders its work by itself.
    pub fn other_stream(&self) -> Result<Arc<CudaStream>, DriverError> {
        // SAFETY: the scenario keeps its buffers until its streams are idle, or is a mutant.
        unsafe { self.device.context.disable_event_tracking() };
        self.device.context.new_stream()
    }

    /// Random numbers of [-1, 1) on the device.
    pub fn floats(&self, count: usize) -> CudaSlice<f32> {
        self.device.upload(&Random::new(count as u64).units(count))
    }

    /// Random whole numbers of [low, high) on the device.
    pub fn integers(&self, count: usize, low: i32, high: i32) -> CudaSlice<i32> {
        self.device.upload(&Random::new(count as u64).integers(count, low, high))
    }

    /// Random bytes on the device.
    pub fn bytes(&self, count: usize) -> CudaSlice<u8> {
        let mut random = Random::new(count as u64);
        self.device.upload(&(0..count).map(|_| random.next_u32() as u8).collect::<Vec<_>>())
    }

    /// Zeros on the device.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> CudaSlice<T> {
        self.device.zeros(count)
    }

    /// A buffer that nobody has written.
    pub fn empty<T: DeviceRepr>(&self, count: usize) -> CudaSlice<T> {
        // SAFETY: kernels write it before they read it, or are mutants.
        unsafe { self.stream().alloc(count) }.expect("allocation")
    }

    /// Launches a kernel on the default stream.
    pub(super) fn launch(&self, kernel: &str, shape: Shape, arguments: &[Argument]) -> Result<(), DriverError> {
        self.launch_on(self.stream(), kernel, shape, arguments)
    }

    /// Launches a kernel on a stream.
    pub(super) fn launch_on(
        &self,
        stream: &CudaStream,
        kernel: &str,
        shape: Shape,
        arguments: &[Argument],
    ) -> Result<(), DriverError> {
        let function = function(&self.module, kernel);
        let mut builder = stream.launch_builder(&function);
        for argument in arguments {
            push(&mut builder, argument);
        }
        // SAFETY: the arguments are the kernel's; what it does with them is what is tested.
        unsafe { builder.launch(shape.configuration()) }.map(|_| ())
    }

    /// Launches a kernel whose blocks all run at once.
    pub(super) fn launch_cooperative(
        &self,
        kernel: &str,
        shape: Shape,
        arguments: &[Argument],
    ) -> Result<(), DriverError> {
        let function = function(&self.module, kernel);
        let mut builder = self.stream().launch_builder(&function);
        for argument in arguments {
            push(&mut builder, argument);
        }
        // SAFETY: as for `launch_on`.
        unsafe { builder.launch_cooperative(shape.configuration()) }.map(|_| ())
    }

    /// Waits for the default stream.
    pub fn finish(&self) -> Result<(), DriverError> {
        self.stream().synchronize()
    }
}

fn push<'a>(builder: &mut cudarc::driver::LaunchArgs<'a>, argument: &'a Argument) {
    match argument {
        Argument::Address(address) => builder.arg(address),
        Argument::Int(value) => builder.arg(value),
        Argument::Float(value) => builder.arg(value),
        Argument::Double(value) => builder.arg(value),
    };
}

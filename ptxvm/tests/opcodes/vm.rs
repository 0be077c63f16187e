//! The virtual machine's side.

use std::sync::Arc;

use ptxvm::{
    machine::{Launch, LoadedModule, Options, run},
    memory::{AllocationKind, Memory},
    program::Program,
};

/// Device memory that is given back.
struct Buffer {
    address: u64,
}

impl Buffer {
    fn holding(bytes: &[u8]) -> Result<Self, String> {
        let memory = Memory::global();
        let size = bytes.len() as u64;
        let address = memory
            .allocate(size, 256, AllocationKind::Device, 0, String::from("a test's buffer"))
            .map_err(|error| error.to_string())?;
        let buffer = Self { address };
        // SAFETY: the allocation was just made with that size, and nobody else knows it.
        unsafe { memory.copy(address, bytes.as_ptr() as u64, size) }.map_err(|error| error.to_string())?;
        Ok(buffer)
    }

    fn read(&self, bytes: &mut [u8]) -> Result<(), String> {
        // SAFETY: the allocation is as large as these bytes, and no launch is under way.
        unsafe { Memory::global().copy(bytes.as_mut_ptr() as u64, self.address, bytes.len() as u64) }
            .map_err(|error| error.to_string())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A test that fails says more than a buffer that cannot be freed after it.
        let _ = Memory::global().free(self.address);
    }
}

/// Runs a kernel whose parameters are pointers to the buffers.
pub(crate) fn run_on_vm(
    ptx: &str,
    kernel: &str,
    blocks: u32,
    threads: u32,
    buffers: &mut [Vec<u8>],
) -> Result<(), String> {
    run_blocks(ptx, kernel, [blocks, 1, 1], [threads, 1, 1], buffers)
}

/// As [`run_on_vm`], for grids and blocks of any shape.
pub(crate) fn run_blocks(
    ptx: &str,
    kernel: &str,
    grid: [u32; 3],
    block: [u32; 3],
    buffers: &mut [Vec<u8>],
) -> Result<(), String> {
    let program = Program::compile(ptx).map_err(|error| error.to_string())?;
    let module = LoadedModule::load(Arc::new(program), 0).map_err(|error| error.to_string())?;
    let id = module.kernel(kernel).ok_or("the module has no such kernel")?;
    let held = buffers.iter().map(|bytes| Buffer::holding(bytes)).collect::<Result<Vec<Buffer>, String>>()?;
    let params = held.iter().flat_map(|buffer| buffer.address.to_le_bytes()).collect();
    let mut launch = Launch::new(module, id, grid, block, params);
    launch.options = Options { threads: 1, ..Options::default() };
    run(&launch).map_err(|fault| fault.to_string())?;
    held.iter().zip(buffers).try_for_each(|(buffer, bytes)| buffer.read(bytes))
}

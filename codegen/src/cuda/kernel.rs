//! Kernels and launches as text and numbers.

use crate::ir::ValueId;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// One instance of a kernel template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its `extern "C"` name: the room and a hash of the source.
    pub name: String,
    /// CUDA C++, to be compiled with the headers of `segface_kernels::cuda`.
    pub source: String,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// What a launch gives its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Argument {
    /// Address of a computed value.
    Value(ValueId),
    /// Address of a constant in some form: an index into [`super::Program::constants`].
    Constant(usize),
    /// Address in the node's workspace.
    Workspace {
        /// Whose.
        node: usize,
        /// Bytes from its begin.
        offset: usize,
    },
    /// Address of counters, zero before and after every launch.
    Counters {
        /// Index of the first, 32 bits each.
        first: usize,
    },
    /// The null address: an operand that this instance does not look at.
    Null,
    /// A 32-bit integer.
    I32(i32),
    /// A 32-bit float.
    F32(f32),
    /// Training: address of the sums of gradients of a value that is made from parameters; null where none of these is trained.
    Gradient(ValueId),
    /// Training: address of the labels, a byte for each pixel.
    Labels,
    /// Training: address of `StepData` (`cuda/backward.cuh`).
    Step,
    /// Training: address of the loss, cross-entropy and dice in f64.
    Loss,
    /// Training: address of six numbers an image that lead out of its warp (`FaceWarp::out_of_network`).
    Warps,
    /// Training: addresses of where each list of `FaceWarp::cells` begins, and of the lists, an image after the other.
    WarpStarts,
    /// See [`Argument::WarpStarts`].
    WarpPixels,
}

/// One launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`super::Program::kernels`].
    pub kernel: usize,
    /// Index of the node it belongs to.
    pub node: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Whether its blocks wait for one another and so must all run at once.
    pub cooperative: bool,
    /// Arguments in the kernel's order.
    pub arguments: Vec<Argument>,
    /// Floating-point operations, two per multiply-add of products.
    pub flops: u64,
    /// Bytes that must come from or go to memory.
    pub bytes: u64,
    /// What else its time depends on.
    #[serde(default)]
    pub detail: Detail,
}

/// What the time of a launch depends on beside its FLOPs and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Whether its FLOPs are those of matrix instructions.
    pub tensor: bool,
    /// Bytes that all blocks read and write together, whatever cache they come from; 0 for no more than [`Launch::bytes`].
    pub traffic: u64,
    /// Turns of a block's main loop, each of which waits for the one before.
    pub steps: u32,
    /// Barriers of the whole grid.
    pub barriers: u32,
}

/// A kernel being written: parameters with their arguments, and a body.
pub(crate) struct KernelText {
    room: &'static str,
    includes: Vec<&'static str>,
    definitions: String,
    parameters: Vec<String>,
    pub(crate) arguments: Vec<Argument>,
    body: String,
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    resident: u32,
}

impl KernelText {
    /// A kernel of the folder `room`, which includes `header`.
    pub(crate) fn new(room: &'static str, header: &'static str) -> Self {
        Self {
            room,
            includes: vec![header],
            definitions: String::new(),
            parameters: Vec::new(),
            arguments: Vec::new(),
            body: String::new(),
            threads: 0,
            shared_bytes: 0,
            resident: 1,
        }
    }

    /// Another header.
    pub(crate) fn include(&mut self, header: &'static str) {
        self.includes.push(header);
    }

    /// A line before the kernel, such as `using S = …;`.
    pub(crate) fn define(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.definitions, "{}", line.as_ref());
    }

    /// A parameter with what the launch gives for it: `parameter("const E *x", …)`.
    pub(crate) fn parameter(&mut self, declaration: impl Into<String>, argument: Argument) {
        self.parameters.push(declaration.into());
        self.arguments.push(argument);
    }

    /// A line of the body.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.body, "    {}", line.as_ref());
    }

    /// Threads of a block and bytes of dynamic shared memory; `bytes` is the kernel's own expression for the latter, held
    /// against ours when the kernel is compiled.
    pub(crate) fn block(&mut self, threads: usize, shared_bytes: usize, bytes: &str) {
        self.threads = threads as u32;
        self.shared_bytes = shared_bytes as u32;
        let _ = writeln!(self.definitions, "static_assert({bytes} == {shared_bytes}, \"shared memory as launched\");");
    }

    /// Blocks of which a multiprocessor's registers shall hold at least that many at once. One unless said otherwise: without a
    /// number, ptxas aims at an occupancy of its own and spills a few registers for it.
    pub(crate) fn resident(&mut self, blocks: u32) {
        self.resident = blocks;
    }

    /// The finished kernel; as a rung of a ladder it is called so, and may use `Plain`.
    pub(crate) fn finish(&self, is_plain_rung: bool) -> Kernel {
        let (more, suffix): (&[&str], _) = if is_plain_rung { (&["cuda/plain.cuh"], "_rung") } else { (&[], "") };
        let mut source = String::new();
        for include in self.includes.iter().chain(more) {
            let _ = writeln!(source, "#include \"{include}\"");
        }
        let text = format!(
            "using namespace segface;\n{}extern \"C\" __global__ void __launch_bounds__({}, {}) NAME({}) {{\n{}}}\n",
            self.definitions,
            self.threads,
            self.resident,
            self.parameters.join(", "),
            self.body
        );
        source += &text;
        let name = format!("{}{suffix}_{:08x}", self.room, fnv(source.as_bytes()) as u32);
        Kernel {
            source: source.replace(" NAME(", &format!(" {name}(")),
            name,
            threads: self.threads,
            shared_bytes: self.shared_bytes,
        }
    }
}

/// FNV-1a, 64 bits: a name that is the same on every machine.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

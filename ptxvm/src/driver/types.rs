//! The C types of the driver API, written from its public documentation.

use super::entry::Opaque;
use std::ffi::{c_char, c_int, c_uint};

/// A context, stream, event, module, …: a number that means something to the driver only.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Handle(pub(super) u64);

impl Handle {
    pub(super) const NULL: Handle = Handle(0);
    /// `CU_STREAM_LEGACY`.
    pub(super) const LEGACY_STREAM: Handle = Handle(1);
    /// `CU_STREAM_PER_THREAD`.
    pub(super) const THREAD_STREAM: Handle = Handle(2);

    pub(super) fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::LowerHex for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::LowerHex::fmt(&self.0, formatter)
    }
}

/// `CUhostFn`.
pub(crate) type HostFunction = Option<unsafe extern "C" fn(Opaque)>;
/// `CUstreamCallback`.
pub(crate) type StreamCallback = Option<unsafe extern "C" fn(Handle, u32, Opaque)>;
/// `CUoccupancyB2DSize`.
pub(crate) type BlockToShared = Option<unsafe extern "C" fn(c_int) -> usize>;

/// `CUuuid`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Uuid {
    pub(super) bytes: [u8; 16],
}

/// `CUdevprop`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DeviceProperties {
    pub(super) max_threads_per_block: c_int,
    pub(super) max_threads_dim: [c_int; 3],
    pub(super) max_grid_size: [c_int; 3],
    pub(super) shared_per_block: c_int,
    pub(super) total_constant: c_int,
    pub(super) warp: c_int,
    pub(super) pitch: c_int,
    pub(super) registers_per_block: c_int,
    pub(super) clock_khz: c_int,
    pub(super) texture_align: c_int,
}

/// `CUexecAffinityParam`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ExecAffinity {
    pub(super) kind: c_uint,
    pub(super) multiprocessors: c_uint,
}

/// `CUctxCreateParams`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ContextParams {
    pub(super) affinity: *mut ExecAffinity,
    pub(super) affinity_count: c_int,
    pub(super) graphics: Opaque,
}

/// `CU_MEMORYTYPE_*`.
pub(super) mod memory_type {
    pub(in crate::driver) const HOST: u32 = 1;
    pub(in crate::driver) const DEVICE: u32 = 2;
    pub(in crate::driver) const ARRAY: u32 = 3;
    pub(in crate::driver) const UNIFIED: u32 = 4;
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Copy2D {
    pub(super) from_x: usize,
    pub(super) from_y: usize,
    pub(super) from_type: u32,
    pub(super) from_host: u64,
    pub(super) from_device: u64,
    pub(super) from_array: Handle,
    pub(super) from_pitch: usize,
    pub(super) to_x: usize,
    pub(super) to_y: usize,
    pub(super) to_type: u32,
    pub(super) to_host: u64,
    pub(super) to_device: u64,
    pub(super) to_array: Handle,
    pub(super) to_pitch: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// `CUDA_MEMCPY3D`, and `CUDA_MEMCPY3D_PEER`, where the reserved words are contexts.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Copy3D {
    pub(super) from_x: usize,
    pub(super) from_y: usize,
    pub(super) from_z: usize,
    pub(super) from_lod: usize,
    pub(super) from_type: u32,
    pub(super) from_host: u64,
    pub(super) from_device: u64,
    pub(super) from_array: Handle,
    pub(super) from_context: Handle,
    pub(super) from_pitch: usize,
    pub(super) from_height: usize,
    pub(super) to_x: usize,
    pub(super) to_y: usize,
    pub(super) to_z: usize,
    pub(super) to_lod: usize,
    pub(super) to_type: u32,
    pub(super) to_host: u64,
    pub(super) to_device: u64,
    pub(super) to_array: Handle,
    pub(super) to_context: Handle,
    pub(super) to_pitch: usize,
    pub(super) to_height: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: usize,
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Location {
    pub(super) kind: c_uint,
    pub(super) id: c_int,
}

impl Location {
    pub(super) const DEVICE: u32 = 1;
    pub(super) const HOST: u32 = 2;
    pub(super) const HOST_NUMA: u32 = 3;
    pub(super) const HOST_NUMA_CURRENT: u32 = 4;
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AccessDescription {
    pub(super) location: Location,
    pub(super) flags: c_uint,
}

/// `CUmemPoolProps`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PoolProperties {
    pub(super) kind: c_uint,
    pub(super) handle_types: c_uint,
    pub(super) location: Location,
    pub(super) security: Opaque,
    pub(super) max_size: usize,
    pub(super) usage: u16,
    pub(super) reserved: [u8; 54],
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AllocationProperties {
    pub(super) kind: c_uint,
    pub(super) handle_types: c_uint,
    pub(super) location: Location,
    pub(super) security: Opaque,
    pub(super) compression: u8,
    pub(super) rdma: u8,
    pub(super) usage: u16,
    pub(super) reserved: [u8; 4],
}

/// `CUlaunchAttribute`: which one, and 64 bytes of value.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchAttribute {
    pub(super) id: c_uint,
    pub(super) padding: c_uint,
    pub(super) value: AttributeValue,
}

/// `CUlaunchAttributeValue`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct AttributeValue(pub(super) [u32; 16]);

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchConfig {
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) shared: c_uint,
    pub(super) stream: Handle,
    pub(super) attributes: *mut LaunchAttribute,
    pub(super) attribute_count: c_uint,
}

/// `CUDA_LAUNCH_PARAMS`-like start of a kernel node: `CUDA_KERNEL_NODE_PARAMS` of version 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct KernelNodeV1 {
    pub(super) function: Handle,
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) shared: c_uint,
    pub(super) params: *mut Opaque,
    pub(super) extra: *mut Opaque,
}

/// `CUDA_KERNEL_NODE_PARAMS` of versions 2 and 3.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct KernelNode {
    pub(super) v1: KernelNodeV1,
    pub(super) kernel: Handle,
    pub(super) context: Handle,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct FillNode {
    pub(super) to: u64,
    pub(super) pitch: usize,
    pub(super) value: c_uint,
    pub(super) element: c_uint,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct HostNode {
    pub(super) function: HostFunction,
    pub(super) data: Opaque,
}

/// `CUDA_MEM_ALLOC_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AllocateNode {
    pub(super) pool: PoolProperties,
    pub(super) access: *const AccessDescription,
    pub(super) access_count: usize,
    pub(super) bytes: usize,
    pub(super) pointer: u64,
}

/// `CUDA_BATCH_MEM_OP_NODE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ValueNode {
    pub(super) context: Handle,
    pub(super) count: c_uint,
    pub(super) operations: *mut ValueOperation,
    pub(super) flags: c_uint,
}

/// `CUstreamBatchMemOpParams` of a wait or write; the other kinds use only the first words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct ValueOperation {
    pub(super) operation: c_uint,
    pub(super) padding: c_uint,
    pub(super) address: u64,
    pub(super) value: u64,
    pub(super) flags: c_uint,
    pub(super) padding_2: c_uint,
    pub(super) alias: u64,
    pub(super) reserved: u64,
}

/// `CUgraphNodeParams`: the kind, and a union of 232 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct NodeParams {
    pub(super) kind: c_uint,
    pub(super) reserved: [c_int; 3],
    pub(super) body: [u64; 29],
    pub(super) reserved_2: u64,
}

/// The memcpy member of [`NodeParams`].
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CopyNode {
    pub(super) flags: c_int,
    pub(super) reserved: c_int,
    pub(super) context: Handle,
    pub(super) copy: Copy3D,
}

/// `CUgraphEdgeData`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct EdgeData {
    pub(super) from_port: u8,
    pub(super) to_port: u8,
    pub(super) kind: u8,
    pub(super) reserved: [u8; 5],
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct InstantiateParams {
    pub(super) flags: u64,
    pub(super) upload_stream: Handle,
    pub(super) error_node: Handle,
    pub(super) result: c_uint,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UpdateResult {
    pub(super) result: c_uint,
    pub(super) error_node: Handle,
    pub(super) error_from_node: Handle,
}

/// `CUmemcpyAttributes`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct CopyAttributes {
    pub(super) source_order: c_uint,
    pub(super) source: Location,
    pub(super) destination: Location,
    pub(super) flags: c_uint,
}

/// `CUDA_LAUNCH_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchParams {
    pub(super) function: Handle,
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) shared: c_uint,
    pub(super) stream: Handle,
    pub(super) params: *mut Opaque,
}

/// The bytes of a C text.
pub(crate) type Text = super::entry::In<c_char>;

// The sizes are those of the C declarations on 64-bit Linux.
const _: () = {
    assert!(size_of::<Copy2D>() == 128);
    assert!(size_of::<Copy3D>() == 200);
    assert!(size_of::<PoolProperties>() == 88);
    assert!(size_of::<AllocationProperties>() == 32);
    assert!(size_of::<LaunchAttribute>() == 72);
    assert!(size_of::<LaunchConfig>() == 56);
    assert!(size_of::<KernelNodeV1>() == 56);
    assert!(size_of::<KernelNode>() == 72);
    assert!(size_of::<FillNode>() == 40);
    assert!(size_of::<AllocateNode>() == 120);
    assert!(size_of::<ValueOperation>() == 48);
    assert!(size_of::<NodeParams>() == 256);
    assert!(size_of::<InstantiateParams>() == 32);
    assert!(size_of::<UpdateResult>() == 24);
    assert!(size_of::<CopyAttributes>() == 24);
    assert!(size_of::<DeviceProperties>() == 56);
};

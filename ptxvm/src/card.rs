//! The cards that can be modelled, with the numbers of their public data sheets, and every `CUdevice_attribute` of one.

/// A model of card: what its data sheet and the CUDA programming guide's table of compute capabilities say.
#[derive(PartialEq, Eq, Debug)]
pub struct Card {
    /// The name in `PTXVM_DEVICE`.
    pub key: &'static str,
    /// What `cuDeviceGetName` says.
    pub name: &'static str,
    /// Compute capability.
    pub compute: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Boost clock in kHz.
    pub clock_khz: u32,
    /// Memory clock in kHz.
    pub memory_clock_khz: u32,
    /// Memory bus in bits.
    pub bus_bits: u32,
    /// Global memory that `cuDeviceTotalMem` reports.
    pub memory_bytes: u64,
    /// L2 cache.
    pub l2_bytes: u32,
    /// L2 that may be set aside for persisting accesses.
    pub persisting_l2_bytes: u32,
    /// Copy engines.
    pub copy_engines: u32,
    /// How many times faster f32 is than f64.
    pub single_to_double: u32,
    /// Whether the memory has ECC that is on.
    pub ecc: bool,
    /// PCI device id and vendor id, as in `GPU_PCI_DEVICE_ID`.
    pub pci_id: u32,
    /// Peak memory bandwidth in GB/s.
    pub bandwidth_gbs: u32,
}

macro_rules! cards {
    ($($key:literal, $name:literal, $compute:expr, sm $sm:literal, mhz $mhz:literal, memory $memory_mhz:literal MHz $bus:literal bit $mib:literal MiB $bandwidth:literal GBs,
       l2 $l2:literal KiB $persisting:literal KiB, engines $engines:literal, double $double:literal, ecc $ecc:literal, pci $pci:literal;)*) => {
        static CARDS: &[Card] = &[$(Card {
            key: $key,
            name: $name,
            compute: $compute,
            multiprocessors: $sm,
            clock_khz: $mhz * 1000,
            memory_clock_khz: $memory_mhz * 1000,
            bus_bits: $bus,
            memory_bytes: $mib << 20,
            l2_bytes: $l2 << 10,
            persisting_l2_bytes: $persisting << 10,
            copy_engines: $engines,
            single_to_double: $double,
            ecc: $ecc,
            pci_id: $pci,
            bandwidth_gbs: $bandwidth,
        },)*];
    };
}

cards! {
    "h100", "NVIDIA H100 80GB HBM3", (9, 0), sm 132, mhz 1980, memory 2619 MHz 5120 bit 81079 MiB 3350 GBs,
        l2 51200 KiB 32000 KiB, engines 3, double 2, ecc true, pci 0x2330_10de;
    "h200", "NVIDIA H200", (9, 0), sm 132, mhz 1980, memory 3201 MHz 6144 bit 143156 MiB 4800 GBs,
        l2 61440 KiB 38400 KiB, engines 3, double 2, ecc true, pci 0x2335_10de;
    "a100", "NVIDIA A100-SXM4-80GB", (8, 0), sm 108, mhz 1410, memory 1593 MHz 5120 bit 81153 MiB 2039 GBs,
        l2 40960 KiB 30720 KiB, engines 3, double 2, ecc true, pci 0x20b2_10de;
    "a100-40gb", "NVIDIA A100-SXM4-40GB", (8, 0), sm 108, mhz 1410, memory 1215 MHz 5120 bit 40441 MiB 1555 GBs,
        l2 40960 KiB 30720 KiB, engines 3, double 2, ecc true, pci 0x20b0_10de;
    "l4", "NVIDIA L4", (8, 9), sm 58, mhz 2040, memory 6251 MHz 192 bit 22478 MiB 300 GBs,
        l2 49152 KiB 33792 KiB, engines 2, double 64, ecc true, pci 0x27b8_10de;
    "l40s", "NVIDIA L40S", (8, 9), sm 142, mhz 2520, memory 9001 MHz 384 bit 45458 MiB 864 GBs,
        l2 98304 KiB 67584 KiB, engines 2, double 64, ecc true, pci 0x26b9_10de;
    "rtx3090", "NVIDIA GeForce RTX 3090", (8, 6), sm 82, mhz 1695, memory 9751 MHz 384 bit 24122 MiB 936 GBs,
        l2 6144 KiB 4224 KiB, engines 2, double 64, ecc false, pci 0x2204_10de;
    "rtx4090", "NVIDIA GeForce RTX 4090", (8, 9), sm 128, mhz 2520, memory 10501 MHz 384 bit 24080 MiB 1008 GBs,
        l2 73728 KiB 50688 KiB, engines 2, double 64, ecc false, pci 0x2684_10de;
    "rtx5090", "NVIDIA GeForce RTX 5090", (12, 0), sm 170, mhz 2407, memory 14001 MHz 512 bit 32109 MiB 1792 GBs,
        l2 98304 KiB 61440 KiB, engines 2, double 64, ecc false, pci 0x2b85_10de;
    "b200", "NVIDIA B200", (10, 0), sm 148, mhz 1965, memory 3996 MHz 7680 bit 182642 MiB 7700 GBs,
        l2 129536 KiB 80896 KiB, engines 4, double 2, ecc true, pci 0x2901_10de;
    "a6000", "NVIDIA RTX A6000", (8, 6), sm 84, mhz 1800, memory 8001 MHz 384 bit 48540 MiB 768 GBs,
        l2 6144 KiB 4224 KiB, engines 2, double 64, ecc false, pci 0x2230_10de;
    "a10g", "NVIDIA A10G", (8, 6), sm 80, mhz 1710, memory 6251 MHz 384 bit 22502 MiB 600 GBs,
        l2 6144 KiB 4224 KiB, engines 2, double 64, ecc true, pci 0x2237_10de;
    "t4", "Tesla T4", (7, 5), sm 40, mhz 1590, memory 5001 MHz 256 bit 14913 MiB 320 GBs,
        l2 4096 KiB 0 KiB, engines 3, double 32, ecc true, pci 0x1eb8_10de;
}

/// All cards.
pub fn cards() -> impl Iterator<Item = &'static Card> {
    CARDS.iter()
}

/// The card that `PTXVM_DEVICE` calls `key`, in any case.
pub fn find(key: &str) -> Option<&'static Card> {
    CARDS.iter().find(|card| card.key.eq_ignore_ascii_case(key))
}

impl Card {
    /// Threads in a warp.
    pub const WARP: u32 = 32;
    /// Threads in a block at most.
    pub const MAX_BLOCK_THREADS: u32 = 1024;
    /// Largest sizes of a block.
    pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
    /// Largest sizes of a grid.
    pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
    /// Shared memory of a block without opting in to more.
    pub const SHARED_PER_BLOCK: u32 = 48 << 10;
    /// Registers of a multiprocessor.
    pub const REGISTERS: u32 = 65_536;
    /// Registers of a thread at most.
    pub const MAX_THREAD_REGISTERS: u32 = 255;
    /// Bytes of a kernel's parameters at most, from PTX 8.1 on Volta and later.
    pub const MAX_PARAMETER_BYTES: u32 = 32_764;

    /// Compute capability as in `sm_80`.
    pub fn target(&self) -> u32 {
        self.compute.0 * 10 + self.compute.1
    }

    /// Shared memory of a multiprocessor.
    pub fn shared_per_multiprocessor(&self) -> u32 {
        let kib = match self.target() {
            75 => 64,
            80 | 87 => 164,
            86 | 89 | 120 | 121 => 100,
            _ => 228,
        };
        kib << 10
    }

    /// Shared memory that the system keeps of each block's.
    pub fn reserved_shared(&self) -> u32 {
        if self.target() >= 80 { 1024 } else { 0 }
    }

    /// Shared memory of a block that opts in.
    pub fn shared_per_block_optin(&self) -> u32 {
        self.shared_per_multiprocessor() - self.reserved_shared()
    }

    /// Threads that a multiprocessor holds.
    pub fn threads_per_multiprocessor(&self) -> u32 {
        match self.target() {
            75 => 1024,
            86..=89 | 110..=121 => 1536,
            _ => 2048,
        }
    }

    /// Blocks that a multiprocessor holds.
    pub fn blocks_per_multiprocessor(&self) -> u32 {
        match self.target() {
            75 | 86 | 87 => 16,
            89 | 110..=121 => 24,
            _ => 32,
        }
    }

    /// Shared memory is given out in pieces of this size.
    pub fn shared_granularity(&self) -> u32 {
        if self.target() >= 80 { 128 } else { 256 }
    }

    /// The value of a `CUdevice_attribute`, for device number `ordinal`.
    pub fn attribute(&self, attribute: u32, ordinal: u32) -> Option<i32> {
        ATTRIBUTES.iter().find(|(number, _)| *number == attribute).map(|(_, value)| match *value {
            Attribute::Fixed(value) => value,
            Attribute::Of(value) => i32::try_from(value(self)).unwrap_or(i32::MAX),
            Attribute::Bus => i32::try_from(ordinal + 1).unwrap_or(i32::MAX),
        })
    }
}

enum Attribute {
    Fixed(i32),
    Of(fn(&Card) -> u32),
    /// The PCI bus.
    Bus,
}

use Attribute::{Bus, Fixed, Of};

/// By number; the names are those of `CUdevice_attribute` without the prefix.
static ATTRIBUTES: &[(u32, Attribute)] = &[
    (1, Fixed(1024)),                                                    // MAX_THREADS_PER_BLOCK
    (2, Fixed(1024)),                                                    // MAX_BLOCK_DIM_X
    (3, Fixed(1024)),                                                    // MAX_BLOCK_DIM_Y
    (4, Fixed(64)),                                                      // MAX_BLOCK_DIM_Z
    (5, Fixed(i32::MAX)),                                                // MAX_GRID_DIM_X
    (6, Fixed(65_535)),                                                  // MAX_GRID_DIM_Y
    (7, Fixed(65_535)),                                                  // MAX_GRID_DIM_Z
    (8, Fixed(49_152)),                                                  // MAX_SHARED_MEMORY_PER_BLOCK
    (9, Fixed(65_536)),                                                  // TOTAL_CONSTANT_MEMORY
    (10, Fixed(32)),                                                     // WARP_SIZE
    (11, Fixed(i32::MAX)),                                               // MAX_PITCH
    (12, Fixed(65_536)),                                                 // MAX_REGISTERS_PER_BLOCK
    (13, Of(|card| card.clock_khz)),                                     // CLOCK_RATE
    (14, Fixed(512)),                                                    // TEXTURE_ALIGNMENT
    (15, Fixed(1)),                                                      // GPU_OVERLAP
    (16, Of(|card| card.multiprocessors)),                               // MULTIPROCESSOR_COUNT
    (17, Fixed(0)),                                                      // KERNEL_EXEC_TIMEOUT
    (18, Fixed(0)),                                                      // INTEGRATED
    (19, Fixed(1)),                                                      // CAN_MAP_HOST_MEMORY
    (20, Fixed(0)),                                                      // COMPUTE_MODE
    (21, Fixed(131_072)),                                                // MAXIMUM_TEXTURE1D_WIDTH
    (22, Fixed(131_072)),                                                // MAXIMUM_TEXTURE2D_WIDTH
    (23, Fixed(65_536)),                                                 // MAXIMUM_TEXTURE2D_HEIGHT
    (24, Fixed(16_384)),                                                 // MAXIMUM_TEXTURE3D_WIDTH
    (25, Fixed(16_384)),                                                 // MAXIMUM_TEXTURE3D_HEIGHT
    (26, Fixed(16_384)),                                                 // MAXIMUM_TEXTURE3D_DEPTH
    (27, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE2D_LAYERED_WIDTH
    (28, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE2D_LAYERED_HEIGHT
    (29, Fixed(2048)),                                                   // MAXIMUM_TEXTURE2D_LAYERED_LAYERS
    (30, Fixed(512)),                                                    // SURFACE_ALIGNMENT
    (31, Fixed(1)),                                                      // CONCURRENT_KERNELS
    (32, Of(|card| u32::from(card.ecc))),                                // ECC_ENABLED
    (33, Bus),                                                           // PCI_BUS_ID
    (34, Fixed(0)),                                                      // PCI_DEVICE_ID
    (35, Fixed(0)),                                                      // TCC_DRIVER
    (36, Of(|card| card.memory_clock_khz)),                              // MEMORY_CLOCK_RATE
    (37, Of(|card| card.bus_bits)),                                      // GLOBAL_MEMORY_BUS_WIDTH
    (38, Of(|card| card.l2_bytes)),                                      // L2_CACHE_SIZE
    (39, Of(Card::threads_per_multiprocessor)),                          // MAX_THREADS_PER_MULTIPROCESSOR
    (40, Of(|card| card.copy_engines)),                                  // ASYNC_ENGINE_COUNT
    (41, Fixed(1)),                                                      // UNIFIED_ADDRESSING
    (42, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE1D_LAYERED_WIDTH
    (43, Fixed(2048)),                                                   // MAXIMUM_TEXTURE1D_LAYERED_LAYERS
    (44, Fixed(1)),                                                      // CAN_TEX2D_GATHER
    (45, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE2D_GATHER_WIDTH
    (46, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE2D_GATHER_HEIGHT
    (47, Fixed(8192)),                                                   // MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE
    (48, Fixed(8192)),                                                   // MAXIMUM_TEXTURE3D_HEIGHT_ALTERNATE
    (49, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE
    (50, Fixed(0)),                                                      // PCI_DOMAIN_ID
    (51, Fixed(32)),                                                     // TEXTURE_PITCH_ALIGNMENT
    (52, Fixed(32_768)),                                                 // MAXIMUM_TEXTURECUBEMAP_WIDTH
    (53, Fixed(32_768)),                                                 // MAXIMUM_TEXTURECUBEMAP_LAYERED_WIDTH
    (54, Fixed(2046)),                                                   // MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS
    (55, Fixed(32_768)),                                                 // MAXIMUM_SURFACE1D_WIDTH
    (56, Fixed(131_072)),                                                // MAXIMUM_SURFACE2D_WIDTH
    (57, Fixed(65_536)),                                                 // MAXIMUM_SURFACE2D_HEIGHT
    (58, Fixed(16_384)),                                                 // MAXIMUM_SURFACE3D_WIDTH
    (59, Fixed(16_384)),                                                 // MAXIMUM_SURFACE3D_HEIGHT
    (60, Fixed(16_384)),                                                 // MAXIMUM_SURFACE3D_DEPTH
    (61, Fixed(32_768)),                                                 // MAXIMUM_SURFACE1D_LAYERED_WIDTH
    (62, Fixed(2048)),                                                   // MAXIMUM_SURFACE1D_LAYERED_LAYERS
    (63, Fixed(32_768)),                                                 // MAXIMUM_SURFACE2D_LAYERED_WIDTH
    (64, Fixed(32_768)),                                                 // MAXIMUM_SURFACE2D_LAYERED_HEIGHT
    (65, Fixed(2048)),                                                   // MAXIMUM_SURFACE2D_LAYERED_LAYERS
    (66, Fixed(32_768)),                                                 // MAXIMUM_SURFACECUBEMAP_WIDTH
    (67, Fixed(32_768)),                                                 // MAXIMUM_SURFACECUBEMAP_LAYERED_WIDTH
    (68, Fixed(2046)),                                                   // MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS
    (69, Fixed(268_435_456)),                                            // MAXIMUM_TEXTURE1D_LINEAR_WIDTH
    (70, Fixed(131_072)),                                                // MAXIMUM_TEXTURE2D_LINEAR_WIDTH
    (71, Fixed(65_000)),                                                 // MAXIMUM_TEXTURE2D_LINEAR_HEIGHT
    (72, Fixed(2_097_120)),                                              // MAXIMUM_TEXTURE2D_LINEAR_PITCH
    (73, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH
    (74, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE2D_MIPMAPPED_HEIGHT
    (75, Of(|card| card.compute.0)),                                     // COMPUTE_CAPABILITY_MAJOR
    (76, Of(|card| card.compute.1)),                                     // COMPUTE_CAPABILITY_MINOR
    (77, Fixed(32_768)),                                                 // MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH
    (78, Fixed(1)),                                                      // STREAM_PRIORITIES_SUPPORTED
    (79, Fixed(1)),                                                      // GLOBAL_L1_CACHE_SUPPORTED
    (80, Fixed(1)),                                                      // LOCAL_L1_CACHE_SUPPORTED
    (81, Of(Card::shared_per_multiprocessor)),                           // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, Fixed(65_536)),                                                 // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, Fixed(1)),                                                      // MANAGED_MEMORY
    (84, Fixed(0)),                                                      // MULTI_GPU_BOARD
    (85, Fixed(0)),                                                      // MULTI_GPU_BOARD_GROUP_ID
    (86, Fixed(0)),                                                      // HOST_NATIVE_ATOMIC_SUPPORTED
    (87, Of(|card| card.single_to_double)),                              // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
    (88, Fixed(0)),                                                      // PAGEABLE_MEMORY_ACCESS
    (89, Fixed(1)),                                                      // CONCURRENT_MANAGED_ACCESS
    (90, Fixed(1)),                                                      // COMPUTE_PREEMPTION_SUPPORTED
    (91, Fixed(1)),                                                      // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    (92, Fixed(1)),                                                      // CAN_USE_STREAM_MEM_OPS_V1
    (93, Fixed(1)),                                                      // CAN_USE_64_BIT_STREAM_MEM_OPS_V1
    (94, Fixed(1)),                                                      // CAN_USE_STREAM_WAIT_VALUE_NOR_V1
    (95, Fixed(1)),                                                      // COOPERATIVE_LAUNCH
    (96, Fixed(0)),                                                      // COOPERATIVE_MULTI_DEVICE_LAUNCH
    (97, Of(Card::shared_per_block_optin)),                              // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (98, Fixed(1)),                                                      // CAN_FLUSH_REMOTE_WRITES
    (99, Fixed(1)),                                                      // HOST_REGISTER_SUPPORTED
    (100, Fixed(0)),                                                     // PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES
    (101, Fixed(0)),                                                     // DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
    (102, Fixed(1)),                                                     // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (103, Fixed(0)),                                                     // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
    (104, Fixed(0)),                                                     // HANDLE_TYPE_WIN32_HANDLE_SUPPORTED
    (105, Fixed(0)),                                                     // HANDLE_TYPE_WIN32_KMT_HANDLE_SUPPORTED
    (106, Of(Card::blocks_per_multiprocessor)),                          // MAX_BLOCKS_PER_MULTIPROCESSOR
    (107, Fixed(0)),                                                     // GENERIC_COMPRESSION_SUPPORTED
    (108, Of(|card| card.persisting_l2_bytes)),                          // MAX_PERSISTING_L2_CACHE_SIZE
    (109, Of(|card| if card.target() >= 80 { 134_213_632 } else { 0 })), // MAX_ACCESS_POLICY_WINDOW_SIZE
    (110, Fixed(0)),                                                     // GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
    (111, Of(Card::reserved_shared)),                                    // RESERVED_SHARED_MEMORY_PER_BLOCK
    (112, Fixed(0)),                                                     // SPARSE_CUDA_ARRAY_SUPPORTED
    (113, Fixed(1)),                                                     // READ_ONLY_HOST_REGISTER_SUPPORTED
    (114, Fixed(0)),                                                     // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
    (115, Fixed(1)),                                                     // MEMORY_POOLS_SUPPORTED
    (116, Fixed(0)),                                                     // GPU_DIRECT_RDMA_SUPPORTED
    (117, Fixed(0)),                                                     // GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS
    (118, Fixed(0)),                                                     // GPU_DIRECT_RDMA_WRITES_ORDERING
    (119, Fixed(0)),                                                     // MEMPOOL_SUPPORTED_HANDLE_TYPES
    (120, Fixed(0)),                                                     // CLUSTER_LAUNCH: not modelled
    (121, Fixed(0)),                                                     // DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
    (122, Fixed(1)),                                                     // CAN_USE_64_BIT_STREAM_MEM_OPS
    (123, Fixed(1)),                                                     // CAN_USE_STREAM_WAIT_VALUE_NOR
    (124, Fixed(0)),                                                     // DMA_BUF_SUPPORTED
    (125, Fixed(0)),                                                     // IPC_EVENT_SUPPORTED
    (126, Of(|card| if card.target() >= 90 { 4 } else { 1 })),           // MEM_SYNC_DOMAIN_COUNT
    (127, Fixed(0)),                                                     // TENSOR_MAP_ACCESS_SUPPORTED: not modelled
    (128, Fixed(0)),                                                     // HANDLE_TYPE_FABRIC_SUPPORTED
    (129, Fixed(0)),                                                     // UNIFIED_FUNCTION_POINTERS
    (130, Fixed(0)),                                                     // NUMA_CONFIG
    (131, Fixed(-1)),                                                    // NUMA_ID
    (132, Fixed(0)),                                                     // MULTICAST_SUPPORTED
    (133, Fixed(0)),                                                     // MPS_ENABLED
    (134, Fixed(0)),                                                     // HOST_NUMA_ID
    (135, Fixed(0)),                                                     // D3D12_CIG_SUPPORTED
    (136, Fixed(0)),                                                     // MEM_DECOMPRESS_ALGORITHM_MASK
    (137, Fixed(0)),                                                     // MEM_DECOMPRESS_MAXIMUM_LENGTH
    (138, Fixed(0)),                                                     // VULKAN_CIG_SUPPORTED
    (139, Of(|card| card.pci_id)),                                       // GPU_PCI_DEVICE_ID
    (140, Fixed(0)),                                                     // GPU_PCI_SUBSYSTEM_ID
    (141, Fixed(0)), // HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (142, Fixed(0)), // HOST_NUMA_MEMORY_POOLS_SUPPORTED
    (143, Fixed(0)), // HOST_NUMA_MULTINODE_IPC_SUPPORTED
    (144, Fixed(0)), // HOST_MEMORY_POOLS_SUPPORTED
    (145, Fixed(0)), // HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (146, Fixed(0)), // HOST_ALLOC_DMA_BUF_SUPPORTED
    (147, Fixed(0)), // ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_of_cuda_13_has_one_value_on_every_card() {
        for card in cards() {
            for attribute in 1..=147 {
                assert!(card.attribute(attribute, 0).is_some(), "{} {attribute}", card.key);
            }
            assert_eq!((card.attribute(0, 0), card.attribute(148, 0)), (None, None));
        }
        let numbers: Vec<u32> = ATTRIBUTES.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (1..=147).collect::<Vec<u32>>());
    }

    #[test]
    fn limits_are_those_of_the_programming_guide() {
        let limits = |key: &str| {
            let card = find(key).expect("a known card");
            (
                card.shared_per_multiprocessor() >> 10,
                card.shared_per_block_optin() >> 10,
                card.threads_per_multiprocessor(),
                card.blocks_per_multiprocessor(),
            )
        };
        assert_eq!(limits("t4"), (64, 64, 1024, 16));
        assert_eq!(limits("a100"), (164, 163, 2048, 32));
        assert_eq!(limits("a6000"), (100, 99, 1536, 16));
        assert_eq!(limits("rtx4090"), (100, 99, 1536, 24));
        assert_eq!(limits("h100"), (228, 227, 2048, 32));
        assert_eq!(limits("b200"), (228, 227, 2048, 32));
        assert_eq!(limits("rtx5090"), (100, 99, 1536, 24));
    }

    #[test]
    fn bandwidth_agrees_with_memory_clock_and_bus() {
        for card in cards() {
            let computed = u64::from(card.memory_clock_khz) * 2 * u64::from(card.bus_bits) / 8 / 1_000_000;
            let stated = u64::from(card.bandwidth_gbs);
            assert!(computed.abs_diff(stated) * 20 <= stated, "{}: {computed} GB/s, stated {stated}", card.key);
        }
    }

    #[test]
    fn cards_are_found_in_any_case_and_keys_are_unique() {
        assert_eq!(find("H100").map(|card| card.name), Some("NVIDIA H100 80GB HBM3"));
        assert!(find("h1000").is_none());
        let mut keys: Vec<&str> = cards().map(|card| card.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), cards().count());
    }
}

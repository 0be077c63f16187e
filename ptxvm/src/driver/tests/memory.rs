//! Memory, copies, fills and pools.

use super::super::types::{AccessDescription, AllocationProperties, Copy2D, Location, memory_type};
use super::super::{copy, fill, host_memory, memory, pointer, pool, virtual_memory};
use super::*;

#[test]
fn freeing_twice_or_in_the_middle_is_an_error_and_the_rest_stays() {
    let world = World::new();
    let first = world.numbers(&[1, 2, 3, 4]);
    let second = world.numbers(&[5]);
    fails(memory::cuMemFree_v2(first + 4), Status::InvalidValue);
    ok(memory::cuMemFree_v2(first));
    fails(memory::cuMemFree_v2(first), Status::InvalidValue);
    ok(memory::cuMemFree_v2(0));
    assert_eq!(world.read(second, 1), [5]);
}

#[test]
fn copies_beyond_an_allocation_are_refused() {
    let world = World::new();
    let pointer = world.numbers(&[1, 2, 3, 4]);
    let mut numbers = [0_u32; 8];
    let address: Opaque = numbers.as_mut_ptr().cast();
    fails(copy::cuMemcpyDtoH_v2(address, pointer, 17), Status::InvalidValue);
    fails(copy::cuMemcpyDtoH_v2(address, pointer + 8, 9), Status::InvalidValue);
    ok(copy::cuMemcpyDtoH_v2(address, pointer + 8, 8));
    assert_eq!(numbers[..2], [3, 4]);
    fails(copy::cuMemcpyDtoH_v2(address, numbers.as_ptr() as u64, 4), Status::InvalidValue);
    fails(fill::cuMemsetD32_v2(pointer, 0, 5), Status::InvalidValue);
    fails(fill::cuMemsetD32_v2(pointer + 2, 0, 1), Status::InvalidValue);
}

#[test]
fn memory_is_limited_to_the_card_s() {
    let _world = World::new();
    let (mut free, mut total) = (0, 0);
    ok(memory::cuMemGetInfo_v2(out(&mut free), out(&mut total)));
    assert_eq!(total, 81_079 << 20);
    let mut pointer = 0;
    fails(memory::cuMemAlloc_v2(out(&mut pointer), total + 1), Status::OutOfMemory);
    fails(memory::cuMemAlloc_v2(out(&mut pointer), 0), Status::InvalidValue);
}

#[test]
fn rectangles_keep_to_their_pitches() {
    let world = World::new();
    let pointer = world.numbers(&(0..32).collect::<Vec<u32>>());
    let mut numbers = [99_u32; 6];
    // Two rows of three from column 1 and row 1 of rows of eight.
    let rectangle = Copy2D {
        from_x: 4,
        from_y: 1,
        from_type: memory_type::DEVICE,
        from_host: 0,
        from_device: pointer,
        from_array: Handle::NULL,
        from_pitch: 32,
        to_x: 0,
        to_y: 0,
        to_type: memory_type::HOST,
        to_host: numbers.as_mut_ptr() as u64,
        to_device: 0,
        to_array: Handle::NULL,
        to_pitch: 12,
        width: 12,
        height: 2,
    };
    ok(copy::cuMemcpy2D_v2(input(&rectangle)));
    assert_eq!(numbers, [9, 10, 11, 17, 18, 19]);
    fails(copy::cuMemcpy2D_v2(input(&Copy2D { height: 4, ..rectangle })), Status::InvalidValue);
    fails(copy::cuMemcpy2D_v2(input(&Copy2D { from_pitch: 8, ..rectangle })), Status::InvalidValue);
    let array = Copy2D { from_type: memory_type::ARRAY, ..rectangle };
    fails(copy::cuMemcpy2D_v2(input(&array)), Status::NotSupported);
    ok(fill::cuMemsetD2D32_v2(pointer + 4, 32, 7, 2, 3));
    let filled = world.read(pointer, 32);
    let sevens: Vec<usize> = (0..32).filter(|index| filled[*index] == 7).collect();
    assert_eq!(sevens, [1, 2, 7, 9, 10, 17, 18]);
}

#[test]
fn memory_in_stream_order_lives_until_its_stream_has_freed_it() {
    let world = World::new();
    let stream = world.stream(1);
    let mut pointer = 0;
    ok(pool::cuMemAllocAsync(out(&mut pointer), 4096, stream));
    ok(fill::cuMemsetD32Async(pointer, 3, 1024, stream));
    ok(world.step(pointer, 1024, 4, stream));
    let mut numbers = vec![0_u32; 1024];
    ok(copy::cuMemcpyDtoHAsync_v2(numbers.as_mut_ptr().cast(), pointer, 4096, stream));
    assert!(numbers.iter().all(|number| *number == 13));
    ok(pool::cuMemFreeAsync(pointer, stream));
    ok(stream::cuStreamSynchronize(stream));
    fails(pool::cuMemFreeAsync(pointer, stream), Status::InvalidValue);
    let mut pool = Handle::NULL;
    ok(pool::cuDeviceGetDefaultMemPool(out(&mut pool), 0));
    fails(pool::cuMemPoolDestroy(pool), Status::InvalidValue);
    let mut threshold = 1_u64 << 40;
    ok(pool::cuMemPoolSetAttribute(pool, 4, input(&threshold).cast()));
    threshold = 0;
    ok(pool::cuMemPoolGetAttribute(pool, 4, out(&mut threshold).cast()));
    assert_eq!(threshold, 1 << 40);
}

#[test]
fn pointers_tell_what_they_are() {
    let world = World::new();
    let device = world.numbers(&[1]);
    let mut pinned: Opaque = std::ptr::null_mut();
    ok(host_memory::cuMemHostAlloc(out(&mut pinned), 64, 0));
    let mut kind = 0_u32;
    ok(pointer::cuPointerGetAttribute(out(&mut kind).cast(), 2, device));
    assert_eq!(kind, memory_type::DEVICE);
    ok(pointer::cuPointerGetAttribute(out(&mut kind).cast(), 2, pinned as u64 + 8));
    assert_eq!(kind, memory_type::HOST);
    fails(
        pointer::cuPointerGetAttribute(out(&mut kind).cast(), 2, std::ptr::from_ref(&kind) as u64),
        Status::InvalidValue,
    );
    let mut context = Handle::NULL;
    ok(pointer::cuPointerGetAttribute(out(&mut context).cast(), 1, device));
    assert_eq!(context, world.context);
    fails(memory::cuMemFree_v2(pinned as u64), Status::InvalidValue);
    ok(host_memory::cuMemFreeHost(pinned));
    fails(host_memory::cuMemFreeHost(pinned), Status::InvalidValue);
}

#[test]
fn host_memory_is_registered_once() {
    let _world = World::new();
    let mut buffer = vec![0_u64; 1024];
    let address: Opaque = buffer.as_mut_ptr().cast();
    fails(host_memory::cuMemHostUnregister(address), Status::HostMemoryNotRegistered);
    ok(host_memory::cuMemHostRegister_v2(address, 8192, 0));
    fails(host_memory::cuMemHostRegister_v2(address, 8192, 0), Status::HostMemoryAlreadyRegistered);
    let mut device = 0;
    ok(host_memory::cuMemHostGetDevicePointer_v2(out(&mut device), address, 0));
    assert_eq!(device, buffer.as_ptr() as u64);
    ok(host_memory::cuMemHostUnregister(address));
}

/// Calls itself as often as it is told, with 64 bytes of its own each time.
const RECURSES: &str = "
.version 8.0
.target sm_80
.address_size 64
.func down(.param .b32 n) { .local .align 16 .b8 x[64]; .reg .b32 %n; .reg .pred %p; ld.param.u32 %n, [n];
  setp.eq.u32 %p, %n, 0; @%p bra E; sub.u32 %n, %n, 1; { .param .b32 m; st.param.b32 [m], %n; call.uni down, (m); } E: ret; }
.visible .entry dive(.param .u32 n) { .local .align 16 .b8 y[16]; .reg .b32 %n; ld.param.u32 %n, [n];
  { .param .b32 m; st.param.b32 [m], %n; call.uni down, (m); } ret; }";

#[test]
fn the_stack_limit_is_kept_and_what_is_beyond_it_is_a_stack_error() {
    let world = World::new();
    let (mut held, mut function, mut size, mut local) = (Handle::NULL, Handle::NULL, 0, 0);
    let text = CString::new(RECURSES).expect("no NUL inside");
    ok(module::cuModuleLoadData(out(&mut held), In::from(text.as_ptr().cast())));
    ok(module::cuModuleGetFunction(out(&mut function), held, In::from(c"dive".as_ptr())));
    // CU_LIMIT_STACK_SIZE is 0, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES 3.
    ok(context::cuCtxGetLimit(out(&mut size), 0));
    assert_eq!(size, 1024);
    ok(super::super::function::cuFuncGetAttribute(out(&mut local), 3, function));
    assert_eq!(local, 64 + 16);
    let dive = |depth: u32| {
        let params: [Address; 1] = [input(&depth).cast()];
        ok(launch::cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, Handle::NULL, input(&params[0]), null()));
        context::cuCtxSynchronize()
    };
    ok(dive(5));
    ok(context::cuCtxSetLimit(0, 64 << 10));
    ok(dive(200));
    ok(context::cuCtxSetLimit(0, 1024));
    fails(dive(200), Status::HardwareStackError);
    drop(world);
}

#[test]
fn memory_is_mapped_into_reserved_addresses_and_stays_what_it_is() {
    let world = World::new();
    let properties = AllocationProperties {
        kind: 1,
        handle_types: 0,
        location: Location { kind: Location::DEVICE, id: 0 },
        security: std::ptr::null_mut(),
        compression: 0,
        rdma: 0,
        usage: 0,
        reserved: [0; 4],
    };
    let access = |flags| AccessDescription { location: properties.location, flags };
    let (mut granularity, mut base) = (0, 0);
    ok(virtual_memory::cuMemGetAllocationGranularity(out(&mut granularity), input(&properties), 0));
    let size = granularity;
    ok(virtual_memory::cuMemAddressReserve(out(&mut base), 3 * size, 0, 0, 0));
    let mut chunks = [Handle::NULL; 2];
    for chunk in &mut chunks {
        ok(virtual_memory::cuMemCreate(out(chunk), size, input(&properties), 0));
    }
    fails(virtual_memory::cuMemMap(base + 3 * size as u64, size, 0, chunks[0], 0), Status::InvalidValue);
    for (at, chunk) in chunks.iter().enumerate() {
        ok(virtual_memory::cuMemMap(base + (at * size) as u64, size, 0, *chunk, 0));
    }
    fails(virtual_memory::cuMemMap(base, size, 0, chunks[1], 0), Status::InvalidValue);
    // Without access nobody may use it; the third part has no memory at all.
    fails(fill::cuMemsetD32_v2(base, 5, 2 * size / 4), Status::InvalidValue);
    ok(virtual_memory::cuMemSetAccess(base, 2 * size, input(&access(3)), 1));
    ok(fill::cuMemsetD32_v2(base, 5, 2 * size / 4));
    fails(fill::cuMemsetD32_v2(base, 5, 2 * size / 4 + 1), Status::InvalidValue);
    // A kernel works across the border of the two.
    let border = base + size as u64 - 8;
    ok(world.step(border, 4, 10, Handle::NULL));
    assert_eq!(world.read(border, 4), [51; 4]);

    // The second part's memory appears in the third place with what is in it, and where it was nothing is.
    let (second, third) = (base + size as u64, base + 2 * size as u64);
    ok(context::cuCtxSynchronize());
    ok(virtual_memory::cuMemUnmap(second, size));
    ok(virtual_memory::cuMemMap(third, size, 0, chunks[1], 0));
    ok(virtual_memory::cuMemSetAccess(third, size, input(&access(3)), 1));
    assert_eq!(world.read(third, 3), [51, 51, 5]);
    assert_eq!(world.read(border, 2), [51; 2]);
    let mut word = 0u32;
    let to: Opaque = std::ptr::from_mut(&mut word).cast();
    fails(copy::cuMemcpyDtoH_v2(to, second, 4), Status::InvalidValue);
    fails(virtual_memory::cuMemAddressFree(base, 3 * size), Status::InvalidValue);

    // Memory that is released lives on while it is mapped.
    for chunk in chunks {
        ok(virtual_memory::cuMemRelease(chunk));
        fails(virtual_memory::cuMemRelease(chunk), Status::InvalidValue);
    }
    assert_eq!(world.read(third, 1), [51]);
    ok(virtual_memory::cuMemUnmap(base, size));
    ok(virtual_memory::cuMemUnmap(third, size));
    fails(virtual_memory::cuMemRelease(chunks[0]), Status::InvalidHandle);
    ok(virtual_memory::cuMemAddressFree(base, 3 * size));
    fails(virtual_memory::cuMemAddressFree(base, 3 * size), Status::InvalidValue);
    // The addresses are ordinary ones again.
    let buffers: Vec<u64> = (0..20).map(|_| world.numbers(&[9; 1 << 18])).collect();
    assert!(buffers.iter().all(|buffer| world.read(*buffer, 2) == [9, 9]));
}

//! The functions called from Rust, as C would.

mod graphs;
mod memory;
mod streams;

use super::entry::{Address, In, Opaque, Out};
use super::status::Status;
use super::types::Handle;
use super::{context, device, launch, module, stream};
use std::ffi::CString;

/// `step` makes every x of n numbers x * factor + 1; `poke` writes to where it is told; `stop` traps.
const KERNELS: &str = r"
.version 8.0
.target sm_75
.address_size 64
.global .align 4 .u32 scale = 10;
.visible .entry step(.param .u64 p, .param .u32 n, .param .u32 factor)
{
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %a<4>;
    ld.param.u64 %a1, [p];
    ld.param.u32 %r1, [n];
    ld.param.u32 %r2, [factor];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p, %r6, %r1;
    @%p bra END;
    cvta.to.global.u64 %a2, %a1;
    mul.wide.u32 %a3, %r6, 4;
    add.s64 %a3, %a2, %a3;
    ld.global.u32 %r7, [%a3];
    mad.lo.u32 %r7, %r7, %r2, 1;
    st.global.u32 [%a3], %r7;
END:
    ret;
}
.visible .entry poke(.param .u64 p)
{
    .reg .b64 %a;
    ld.param.u64 %a, [p];
    st.global.u32 [%a], 7;
    ret;
}
.visible .entry stop()
{
    trap;
    ret;
}
";

fn ok(code: u32) {
    assert_eq!(Status::from_code(code), Some(Status::Success));
}

fn fails(code: u32, with: Status) {
    assert_eq!(Status::from_code(code), Some(with));
}

fn out<T>(place: &mut T) -> Out<T> {
    Out::from(std::ptr::from_mut(place))
}

fn input<T>(place: &T) -> In<T> {
    In::from(std::ptr::from_ref(place))
}

fn null<T>() -> In<T> {
    In::from(std::ptr::null())
}

/// A context of this test alone, current on this thread, and destroyed at the end.
struct World {
    context: Handle,
    module: Handle,
}

impl World {
    fn new() -> World {
        ok(device::cuInit(0));
        let (mut context, mut module) = (Handle::NULL, Handle::NULL);
        ok(context::cuCtxCreate_v2(out(&mut context), 0, 0));
        let text = CString::new(KERNELS).expect("no NUL inside");
        ok(module::cuModuleLoadData(out(&mut module), In::from(text.as_ptr().cast())));
        World { context, module }
    }

    fn kernel(&self, name: &str) -> Handle {
        let mut function = Handle::NULL;
        let name = CString::new(name).expect("no NUL inside");
        ok(module::cuModuleGetFunction(out(&mut function), self.module, In::from(name.as_ptr())));
        function
    }

    fn stream(&self, flags: u32) -> Handle {
        let mut handle = Handle::NULL;
        ok(stream::cuStreamCreate(out(&mut handle), flags));
        handle
    }

    /// Device memory that holds `numbers`.
    fn numbers(&self, numbers: &[u32]) -> u64 {
        let mut pointer = 0;
        ok(super::memory::cuMemAlloc_v2(out(&mut pointer), size_of_val(numbers)));
        ok(super::copy::cuMemcpyHtoD_v2(pointer, In::from(numbers.as_ptr().cast()), size_of_val(numbers)));
        pointer
    }

    fn read(&self, pointer: u64, count: usize) -> Vec<u32> {
        let mut numbers = vec![0; count];
        ok(super::copy::cuMemcpyDtoH_v2(numbers.as_mut_ptr().cast(), pointer, count * 4));
        numbers
    }

    fn step(&self, pointer: u64, count: u32, factor: u32, stream: Handle) -> u32 {
        let params: [Address; 3] = [input(&pointer).cast(), input(&count).cast(), input(&factor).cast()];
        let function = self.kernel("step");
        launch::cuLaunchKernel(function, count.div_ceil(64), 1, 1, 64, 1, 1, 0, stream, input(&params[0]), null())
    }

    fn poke(&self, pointer: u64, stream: Handle) -> u32 {
        let params: [Address; 1] = [input(&pointer).cast()];
        launch::cuLaunchKernel(self.kernel("poke"), 1, 1, 1, 1, 1, 1, 0, stream, input(&params[0]), null())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that has failed already must not fail twice.
        context::cuCtxDestroy_v2(self.context);
    }
}

#[test]
fn every_function_of_cudarc_and_cuda_python_is_there() {
    let exported = super::exported();
    let mut names: Vec<&str> = exported.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "no name twice");
    assert!(count > 640);
    for name in ["cuInit", "cuMemAlloc_v2", "cuLaunchKernel_ptsz", "cuTensorMapEncodeTiled", "cuGetExportTable"] {
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn a_fault_stays_until_its_context_is_destroyed_and_is_of_no_other() {
    let healthy = World::new();
    let pointer = healthy.numbers(&[1, 2, 3]);
    {
        let world = World::new();
        let stop = world.kernel("stop");
        ok(world.poke(16, Handle::NULL));
        fails(context::cuCtxSynchronize(), Status::IllegalAddress);
        let mut pointer = 0;
        fails(super::memory::cuMemAlloc_v2(out(&mut pointer), 16), Status::IllegalAddress);
        let again = launch::cuLaunchKernel(stop, 1, 1, 1, 1, 1, 1, 0, Handle::NULL, null(), null());
        fails(again, Status::IllegalAddress);
        fails(stream::cuStreamSynchronize(Handle::NULL), Status::IllegalAddress);
        let mut count = 0;
        ok(device::cuDeviceGetCount(out(&mut count)));
    }
    ok(context::cuCtxSetCurrent(healthy.context));
    ok(healthy.step(pointer, 3, 2, Handle::NULL));
    assert_eq!(healthy.read(pointer, 3), [3, 5, 7]);
    let world = World::new();
    ok(context::cuCtxSynchronize());
    ok(launch::cuLaunchKernel(world.kernel("stop"), 1, 1, 1, 1, 1, 1, 0, Handle::NULL, null(), null()));
    fails(context::cuCtxSynchronize(), Status::LaunchFailed);
}

#[test]
fn launches_that_no_card_takes_are_refused_with_the_codes_of_a_driver() {
    let world = World::new();
    let step = world.kernel("step");
    let (pointer, n, factor) = (world.numbers(&[1]), 1_u32, 1_u32);
    let params: [Address; 3] = [input(&pointer).cast(), input(&n).cast(), input(&factor).cast()];
    let launch = |grid: [u32; 3], block: [u32; 3], shared| {
        let [x, y, z] = grid;
        let [a, b, c] = block;
        launch::cuLaunchKernel(step, x, y, z, a, b, c, shared, Handle::NULL, input(&params[0]), null())
    };
    fails(launch([0, 1, 1], [1, 1, 1], 0), Status::InvalidValue);
    fails(launch([1, 65_536, 1], [1, 1, 1], 0), Status::InvalidValue);
    fails(launch([1, 1, 1], [1025, 1, 1], 0), Status::InvalidValue);
    fails(launch([1, 1, 1], [32, 33, 1], 0), Status::InvalidValue);
    fails(launch([1, 1, 1], [1, 1, 65], 0), Status::InvalidValue);
    fails(launch([1, 1, 1], [1, 1, 1], 49_153), Status::InvalidValue);
    ok(super::function::cuFuncSetAttribute(step, 8, 100_000));
    ok(launch([1, 1, 1], [1, 1, 1], 49_153));
    fails(super::function::cuFuncSetAttribute(step, 8, 300_000), Status::InvalidValue);
    let none = launch::cuLaunchKernel(step, 1, 1, 1, 1, 1, 1, 0, Handle::NULL, null(), null());
    fails(none, Status::InvalidValue);
    let cooperative =
        |blocks| launch::cuLaunchCooperativeKernel(step, blocks, 1, 1, 1024, 1, 1, 0, Handle::NULL, input(&params[0]));
    ok(cooperative(264));
    fails(cooperative(265), Status::CooperativeLaunchTooLarge);
}

#[test]
fn parameters_may_come_in_one_buffer() {
    let world = World::new();
    let pointer = world.numbers(&[4, 5]);
    let mut buffer = pointer.to_le_bytes().to_vec();
    buffer.extend(2_u32.to_le_bytes());
    buffer.extend(10_u32.to_le_bytes());
    let size = buffer.len();
    let extra = [1, buffer.as_ptr() as u64, 2, std::ptr::from_ref(&size) as u64, 0];
    let step = world.kernel("step");
    ok(launch::cuLaunchKernel(step, 1, 1, 1, 32, 1, 1, 0, Handle::NULL, null(), input(&extra[0])));
    assert_eq!(world.read(pointer, 2), [41, 51]);
    let short = 15_usize;
    let extra = [1, buffer.as_ptr() as u64, 2, std::ptr::from_ref(&short) as u64, 0];
    let refused = launch::cuLaunchKernel(step, 1, 1, 1, 32, 1, 1, 0, Handle::NULL, null(), input(&extra[0]));
    fails(refused, Status::InvalidValue);
}

#[test]
fn handles_of_another_kind_or_of_nothing_are_refused() {
    let world = World::new();
    for handle in [Handle(0x1234), world.module, Handle(u64::MAX)] {
        fails(stream::cuStreamSynchronize(handle), Status::InvalidHandle);
        fails(super::event::cuEventSynchronize(handle), Status::InvalidHandle);
        fails(super::graph::cuGraphDestroy(handle), Status::InvalidHandle);
        fails(context::cuCtxSetCurrent(handle), Status::InvalidContext);
        let code = launch::cuLaunchKernel(handle, 1, 1, 1, 1, 1, 1, 0, Handle::NULL, null(), null());
        fails(code, Status::InvalidHandle);
    }
    fails(module::cuModuleUnload(world.context), Status::InvalidHandle);
}

#[test]
fn compile_errors_fill_the_log_buffer() {
    let _world = World::new();
    let text = CString::new(".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { no.such.opcode; }")
        .expect("no NUL inside");
    let mut log = vec![0_u8; 256];
    let options = [5_u32, 6];
    let mut values: [Opaque; 2] = [log.as_mut_ptr().cast(), log.len() as Opaque];
    let mut module = Handle::NULL;
    let image = In::from(text.as_ptr().cast());
    let code = module::cuModuleLoadDataEx(out(&mut module), image, 2, input(&options[0]), out(&mut values[0]));
    fails(code, Status::InvalidPtx);
    let written = values[1] as usize;
    assert!(written > 1 && written <= 256);
    let said = String::from_utf8_lossy(&log[..written - 1]).into_owned();
    assert!(said.contains("line 4") || said.contains("no.such.opcode"), "{said}");
}

#[test]
fn linked_parts_become_one_module() {
    let world = World::new();
    let part =
        |text: &str| CString::new(format!(".version 8.0\n.target sm_80\n.address_size 64\n{text}")).expect("no NUL");
    let parts = [
        part(".visible .func (.param .b32 r) give() { st.param.b32 [r], 42; ret; }"),
        part(
            ".extern .func (.param .b32 r) give();\n\
             .visible .entry answer(.param .u64 p) { .reg .b64 %a; .reg .b32 %r; ld.param.u64 %a, [p];\n\
             { .param .b32 r; call.uni (r), give; ld.param.b32 %r, [r]; }\n\
             st.global.u32 [%a], %r; ret; }",
        ),
    ];
    let mut link = Handle::NULL;
    ok(super::link::cuLinkCreate_v2(0, null(), Out::from(std::ptr::null_mut()), out(&mut link)));
    for part in &parts {
        let bytes = part.as_bytes_with_nul();
        let (data, name, none) = (In::from(bytes.as_ptr()), null(), Out::from(std::ptr::null_mut()));
        ok(super::link::cuLinkAddData_v2(link, 1, data, bytes.len(), name, 0, null(), none));
    }
    let (mut image, mut bytes, mut linked): (Opaque, usize, Handle) = (std::ptr::null_mut(), 0, Handle::NULL);
    ok(super::link::cuLinkComplete(link, out(&mut image), out(&mut bytes)));
    assert!(bytes > 100);
    ok(module::cuModuleLoadData(out(&mut linked), In::from(image.cast_const().cast())));
    ok(super::link::cuLinkDestroy(link));
    let pointer = world.numbers(&[0]);
    let params: [Address; 1] = [input(&pointer).cast()];
    let mut function = Handle::NULL;
    ok(module::cuModuleGetFunction(out(&mut function), linked, In::from(c"answer".as_ptr())));
    ok(launch::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, Handle::NULL, input(&params[0]), null()));
    assert_eq!(world.read(pointer, 1), [42]);
}

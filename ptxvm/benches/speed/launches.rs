//! What the benches run: kernels of their own, and textbook kernels of the suite as NVRTC compiled them.

use ptxvm::{
    machine::{Launch, LoadedModule},
    memory::{AllocationKind, Memory},
    program::Program,
};
use std::{fmt::Write, sync::Arc};

pub(crate) const CHAIN: &str = include_str!("../../src/bin/ptxvm/chain.ptx");
const GEMM: &str = include_str!("../gemm_bf16_pipelined.ptx");
const COPY: &str = include_str!("../copy.ptx");

/// Copies of a line in the loop of [`repeated`], and turns of that loop.
pub(crate) const COPIES: u32 = 60;
pub(crate) const TURNS: u32 = 200;

fn load(text: &str) -> Arc<LoadedModule> {
    let program = Program::compile(text).expect("the benches' own PTX compiles");
    LoadedModule::load(Arc::new(program), 0).expect("there is memory for its variables")
}

fn buffer(bytes: usize, pattern: &[u8]) -> u64 {
    let memory = Memory::global();
    let address = memory.allocate(bytes as u64, 256, AllocationKind::Device, 0, "bench".to_owned()).expect("memory");
    // SAFETY: just allocated with that size, of which the pattern's is a divisor.
    unsafe { memory.fill(address, pattern, (bytes / pattern.len()) as u64).expect("in bounds") };
    address
}

/// Bytes of which none comes more often than others.
fn random_bytes(count: usize) -> u64 {
    let mut state = 1u32;
    let bytes: Vec<u8> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    let address = buffer(count, &[0]);
    // SAFETY: just allocated with that size.
    unsafe { Memory::global().copy(address, bytes.as_ptr() as u64, count as u64).expect("in bounds") };
    address
}

pub(crate) fn launch(text: &str, kernel: &str, grid: [u32; 3], block: [u32; 3], params: Vec<u8>) -> Launch {
    let module = load(text);
    let kernel = module.kernel(kernel).expect("the bench's kernel");
    let mut launch = Launch::new(module, kernel, grid, block, params);
    launch.options.threads = 1;
    launch
}

/// A kernel `repeated` whose loop is a line many times over; `{d}`, `{a}`, `{b}` and `{c}` in it become numbers of registers.
pub(crate) fn repeated(line: &str) -> Launch {
    let mut text = String::from(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry repeated()\n{\n.reg .pred %p<9>;\n.reg .b32 %r<32>;\n\
         .reg .f32 %f<32>;\n.reg .b64 %x<20>;\n.reg .f64 %z<32>;\n.shared .align 16 .b8 words[2048];\nmov.u32 %r20, %tid.x;\n\
         mov.u32 %r21, 0;\nshl.b32 %r22, %r20, 4;\nand.b32 %r24, %r22, 2032;\nmov.u32 %r23, words;\nadd.u32 %r24, %r24, %r23;\n\
         shl.b32 %r22, %r20, 2;\nadd.u32 %r22, %r22, %r23;\nst.shared.v4.b32 [%r24], {0, 0, 0, 0};\n",
    );
    for k in 0..8 {
        // Ordinary numbers, whatever format they are read as; lines of arithmetic write other registers.
        let _ = writeln!(text, "add.u32 %r{k}, %r20, {};", 0x3c00_3c00 + k);
        let _ = writeln!(text, "mov.b32 %f{k}, %r{k};\ncvt.u64.u32 %x{k}, %r{k};\nsetp.gt.u32 %p{k}, %r20, 7;");
        let _ = writeln!(text, "cvt.f64.f32 %z{k}, %f{k};");
    }
    text += "TURN:\n";
    for n in 0..COPIES {
        let mut line = line.to_owned();
        for (name, number) in
            [("{d}", n % 7), ("{a}", (3 * n + 1) % 7), ("{b}", (5 * n + 2) % 7), ("{c}", (2 * n + 3) % 7)]
        {
            line = line.replace(name, &number.to_string());
        }
        text += &line;
        text.push('\n');
    }
    let _ = write!(text, "add.u32 %r21, %r21, 1;\nsetp.lt.u32 %p8, %r21, {TURNS};\n@%p8 bra TURN;\nret;\n}}\n");
    launch(&text, "repeated", [1, 1, 1], [128, 1, 1], vec![])
}

fn pointers(addresses: &[u64]) -> Vec<u8> {
    addresses.iter().flat_map(|address| address.to_le_bytes()).collect()
}

/// Pointers, then whole numbers.
fn parameters(addresses: &[u64], numbers: &[u32]) -> Vec<u8> {
    let mut params = pointers(addresses);
    params.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    params
}

/// A copy, by words or by 16 bytes per thread.
pub(crate) fn copy(kernel: &str, bytes: usize, width: usize) -> Launch {
    let params = pointers(&[buffer(bytes, &[1, 2]), buffer(bytes, &[0, 0])]);
    launch(COPY, kernel, [(bytes / width / 256) as u32, 1, 1], [256, 1, 1], params)
}

/// A matrix product by `mma`, `ldmatrix` and four stages of `cp.async`.
pub(crate) fn product(format: &str, [m, n, k]: [u32; 3]) -> Launch {
    let text = GEMM.replace(".f32.bf16.bf16.f32", &format!(".f32.{format}.{format}.f32"));
    let params = gemm_parameters([m, n, k], &[0x80, 0x3b]);
    let mut launch = launch(&text, "gemm_mma_bf16_pipelined", [n / 128, m / 128, 1], [256, 1, 1], params);
    launch.dynamic_shared = 64 << 10;
    launch
}

fn gemm_parameters([m, n, k]: [u32; 3], element: &[u8]) -> Vec<u8> {
    let matrix = |rows: u32, columns: u32| buffer((rows * columns) as usize * element.len(), element);
    parameters(&[matrix(m, k), matrix(k, n), buffer((m * n * 4) as usize, &[0, 0])], &[m, n, k])
}

/// A textbook kernel with what it is run on.
pub(crate) fn textbook(kernel: &str) -> Launch {
    macro_rules! text {
        ($name:literal) => {
            include_str!(concat!("../kernels/", $name, ".ptx"))
        };
    }
    let one = [0, 0, 0x80, 0x3f];
    let floats = |count: u32| buffer(4 * count as usize, &one);
    let line = [128, 1, 1];
    let (text, grid, block, shared, params) = match kernel {
        "transpose_naive" | "transpose_padded" => {
            let side = 512;
            let params = parameters(&[floats(side * side), floats(side * side)], &[side, side]);
            (text!("transpose"), [side / 32, side / 32, 1], [32, 8, 1], 0, params)
        }
        "histogram_shared" => {
            let bytes = 1 << 18;
            let params = parameters(&[random_bytes(bytes), buffer(1024, &[0])], &[bytes as u32]);
            (text!("histogram"), [8, 1, 1], [256, 1, 1], 0, params)
        }
        "histogram_privatised" => {
            let words = 1 << 16;
            let params = parameters(&[random_bytes(4 * words), buffer(1024, &[0])], &[words as u32]);
            (text!("histogram"), [8, 1, 1], line, 4 * 1024, params)
        }
        "jacobi_2d" => {
            let side = 512;
            let params = parameters(&[floats(side * side), floats(side * side)], &[side, side]);
            (text!("stencil"), [side / 16, side / 16, 1], [16, 16, 1], 0, params)
        }
        "layer_norm_f32" => {
            let (rows, columns) = (256, 1024);
            let places = [floats(rows * columns), floats(columns), floats(columns), floats(rows * columns)];
            (text!("norm"), [rows, 1, 1], line, 0, parameters(&places, &[columns, 1e-5f32.to_bits()]))
        }
        "softmax_block" => {
            let (rows, columns) = (256, 1024);
            let params = parameters(&[floats(rows * columns), floats(rows * columns)], &[columns]);
            (text!("norm"), [rows, 1, 1], line, 4 * columns, params)
        }
        "gemm_tiled" => {
            let params = gemm_parameters([128, 128, 128], &one);
            (text!("gemm"), [8, 8, 1], [16, 16, 1], 0, params)
        }
        "gemm_register_blocked" => {
            let params = gemm_parameters([256, 256, 256], &one);
            (text!("gemm"), [4, 4, 1], [256, 1, 1], 0, params)
        }
        "gemm_mma_bf16" => {
            let params = gemm_parameters([256, 256, 256], &[0x80, 0x3b]);
            (text!("gemm_mma"), [4, 4, 1], line, 0, params)
        }
        "reduce_shared_tree" => {
            let count = 1 << 18;
            let params = parameters(&[floats(count), floats(256)], &[count]);
            (text!("reduce"), [256, 1, 1], line, 512, params)
        }
        "scan_exclusive_block" => {
            let count = 1 << 17;
            let params = parameters(&[floats(count), floats(count)], &[count]);
            (text!("scan"), [count / 256, 1, 1], line, 1024, params)
        }
        "gelu_erf" => {
            let count = 1 << 19;
            let params = parameters(&[floats(count), floats(count)], &[count]);
            (text!("elementwise"), [256, 1, 1], [256, 1, 1], 0, params)
        }
        _ => panic!("no kernel is called {kernel}"),
    };
    let mut launch = launch(text, kernel, grid, block, params);
    launch.dynamic_shared = shared;
    launch
}

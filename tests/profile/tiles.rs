//! The committed registers of tiles are what ptxas says.

use super::compiler;
use segface::engine::cuda::Compiler;
use segface::parser::Request;
use segface::profile::room;
use segface_codegen::cuda::tile::TILES;
use segface_codegen::cuda::{Kernel, Problem, Tile, Tuning, compile_graph_tuned};
use segface_codegen::ir::{Graph, Op, Slot};
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::Epilogue;
use segface_kernels::gemm::{GemmSpec, Prologue};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// What `tiles.json` has columns for.
const ARCHITECTURES: [u32; 5] = [80, 86, 89, 90, 120];

/// A product as most are, with bias and residual, cut into `tile`.
fn kernel(tile: Tile, precision: Precision) -> Kernel {
    let (rows, n, k) = (256, 256, 256);
    let epilogue = Epilogue { bias: true, residual: true, ..Epilogue::default() };
    let op = Op::Gemm(GemmSpec { rows, n, k, prologue: Prologue::None, epilogue });
    let zeros = vec![0.0; rows * n];
    let operands: [(Slot, &[usize], &[f32]); 4] = [
        (Slot::X, &[rows, k], &zeros),
        (Slot::Weight, &[n, k], &zeros),
        (Slot::Bias, &[n], &zeros[..n]),
        (Slot::Residual, &[rows, n], &zeros),
    ];
    let graph = Graph::single(op, &operands, precision.dtype()).expect("a sound product");
    let problem = Problem { source: "Rows".into(), norm: false, precision, rows, n, k };
    let tuning = Tuning { tiles: HashMap::from([(problem, tile)]), ..Tuning::default() };
    let model = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    let mut program = compile_graph_tuned(model, precision, graph, &tuning);
    assert_eq!((program.kernels.len(), program.choices[0].tile), (1, tile));
    program.kernels.remove(0)
}

/// Registers by tile and architecture.
fn registers(compiler: &Compiler, precision: Precision, architectures: &[u32]) -> Vec<Vec<usize>> {
    let kernels = TILES.map(|tile| kernel(tile, precision));
    let mut table = vec![Vec::new(); TILES.len()];
    for arch in architectures {
        let resources = compiler.resources(&kernels, &format!("sm_{arch}")).expect("ptxas takes every tile");
        for (row, resources) in table.iter_mut().zip(resources) {
            assert_eq!(resources.spilled, 0, "{precision:?} sm_{arch} spills");
            row.push(resources.registers);
        }
    }
    table
}

/// One precision and architecture of each kind; all of them when `SEGFACE_BLESS` is set, which writes the file anew.
#[test]
fn committed_registers_are_those_of_ptxas() {
    let Some(compiler) = compiler() else { return eprintln!("without NVRTC: nothing to compare with") };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/codegen/src/cuda/tiles.json");
    if std::env::var_os("SEGFACE_BLESS").is_some() {
        let mut tables = Map::new();
        for precision in Precision::ALL {
            tables.insert(precision.fragment().name().into(), json!(registers(&compiler, precision, &ARCHITECTURES)));
        }
        let (major, minor) = compiler.version();
        let about = format!(
            "Registers of a thread of `gemm` with bias and residual, by ptxas of CUDA {major}.{minor}: a row for each of \
             `tile::TILES`, a column for each architecture. Written by `SEGFACE_BLESS=1 cargo xtask test -p segface --test profile tiles`."
        );
        let content = json!({ "about": about, "architectures": ARCHITECTURES, "registers": tables });
        return std::fs::write(path, layout(&content)).expect("the source tree can be written");
    }
    let committed: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(committed["architectures"], json!(ARCHITECTURES));
    for (precision, arch) in [(Precision::Bf16, 90), (Precision::F32, 86)] {
        let column = ARCHITECTURES.iter().position(|known| *known == arch).unwrap();
        let rows = committed["registers"][precision.fragment().name()].as_array().unwrap().iter();
        let known: Vec<&Value> = rows.map(|row| &row[column]).collect();
        let found = registers(&compiler, precision, &[arch]);
        let found: Vec<Value> = found.into_iter().map(|row| row[0].into()).collect();
        assert_eq!(
            known,
            found.iter().collect::<Vec<_>>(),
            "{precision:?} sm_{arch}; SEGFACE_BLESS=1 writes them anew"
        );
    }
}

/// What a loop indexes that is not unrolled lies in memory, and ptxas does not call that a spill.
#[test]
fn kernels_of_the_decoder_keep_nothing_in_local_memory() {
    let Some(compiler) = compiler() else { return eprintln!("without NVRTC: nothing to compile") };
    let request = Request { model: Some("random:mobilenet/celeb"), size: Some([64, 64]), ..Request::default() };
    let kernels = request.program().expect("a network").kernels;
    let rooms =
        ["token_step", "token_pack", "token_merge", "image_pass", "mask_head", "mlp_fusion", "mlp_fusion_project"];
    let kernels: Vec<Kernel> = kernels.into_iter().filter(|kernel| rooms.contains(&room(&kernel.name))).collect();
    assert!(kernels.len() >= rooms.len(), "{} kernels", kernels.len());
    for (kernel, resources) in kernels.iter().zip(compiler.resources(&kernels, "sm_90").expect("ptxas takes them")) {
        assert_eq!((resources.stack, resources.spilled), (0, 0), "{}: bytes of stack, of spills", kernel.name);
    }
}

/// A line for each tile.
fn layout(content: &Value) -> String {
    let tables = content["registers"].as_object().unwrap().iter().map(|(name, rows)| {
        let rows: Vec<String> = rows.as_array().unwrap().iter().map(|row| format!("      {row}")).collect();
        format!("    {}: [\n{}\n    ]", json!(name), rows.join(",\n"))
    });
    let tables: Vec<String> = tables.collect();
    format!(
        "{{\n  \"about\": {},\n  \"architectures\": {},\n  \"registers\": {{\n{}\n  }}\n}}\n",
        content["about"],
        content["architectures"],
        tables.join(",\n")
    )
}

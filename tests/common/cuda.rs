//! Operators by themselves on a CUDA device, judged by libtorch in every precision.
//!
//! Which device stands behind the driver is not this suite's business: on a machine without one, `cargo xtask test` puts
//! ptxvm's library in its place.

use crate::judge::{Failure, Floor, judge};
use crate::operand::Operand;
use segface::engine::cuda::{CudaEngine, Device};
use segface_codegen::cuda::{Rung, compile_rung};
use segface_codegen::ir::{Graph, Op, Output, Slot};
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::DType;
use std::sync::{Arc, OnceLock};
use tch::{Kind, Tensor};

/// The device of this suite.
///
/// # Panics
/// Where there is none.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(0).unwrap_or_else(|e| panic!("{e}; `cargo xtask test` provides a device")))
}

/// The kind that libtorch is judged in beside `precision`. A tf32 product rounds its factors to f16's 10 bits of fraction.
pub fn peer_kind(precision: Precision) -> Kind {
    match precision {
        Precision::F32 => Kind::Float,
        Precision::Bf16 => Kind::BFloat16,
        Precision::F16 | Precision::Tf32 => Kind::Half,
    }
}

/// What rounding a result in `precision` may cost.
pub fn floor(precision: Precision) -> Floor {
    match precision {
        Precision::Tf32 => Floor::of(DType::F16),
        other => Floor::of(other.dtype()),
    }
}

/// The results of `op` on the device.
///
/// # Panics
/// If it cannot be compiled or run.
pub fn run_single(precision: Precision, op: Op, operands: &[(Slot, &Operand)]) -> Vec<Vec<f32>> {
    run_rung(None, precision, op, operands)
}

/// The rungs of ladders of three. In exact f32 the middle one is the top: there are no tensor cores to do without.
pub fn rungs(precision: Precision) -> Vec<Option<Rung>> {
    let middle = (precision != Precision::F32).then_some(Some(Rung::Tiled));
    [Some(None), middle, Some(Some(Rung::Naive))].into_iter().flatten().collect()
}

/// The results of a lower rung of the operator's ladder on the device; of the top if none is named.
///
/// # Panics
/// If the ladder has no such rung for `op`, or it cannot be compiled or run.
pub fn run_rung(rung: Option<Rung>, precision: Precision, op: Op, operands: &[(Slot, &Operand)]) -> Vec<Vec<f32>> {
    let operands: Vec<_> = operands.iter().map(|(slot, operand)| (*slot, operand.shape(), operand.f32())).collect();
    let graph = Graph::single(op, &operands, precision.dtype()).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    let results = graph.outputs.len();
    // Which network a single operator is of plays no part.
    let model = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    let program = compile_rung(model, precision, graph, rung);
    let is_rung = program.kernels.iter().all(|kernel| kernel.name.contains("_rung_"));
    assert_eq!(is_rung, rung.is_some(), "{op:?}: {rung:?} is {:?}", program.kernels);
    let mut engine = CudaEngine::new(Arc::new(program), device()).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    // Twice: counters must be left as they were found.
    for _ in 0..2 {
        engine.run(&[0.0]).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    }
    let output = |index| engine.output(Output::Stage(index)).unwrap_or_else(|e| panic!("{op:?}: {e}")).1;
    (0..results).map(output).collect()
}

/// Runs a check in every precision of the device, with operands rounded to its element type: `in_every_precision!(check(problem))` calls
/// `check::<T>(problem, precision)`.
#[macro_export]
macro_rules! in_every_precision {
    ($check:ident($problem:expr)) => {{
        use segface_codegen::plan::Precision;
        let problem = $problem;
        $check::<f32>(problem, Precision::F32)
            .and_then(|()| $check::<f32>(problem, Precision::Tf32))
            .and_then(|()| $check::<::half::f16>(problem, Precision::F16))
            .and_then(|()| $check::<::half::bf16>(problem, Precision::Bf16))
    }};
}

/// Judges the results of `op` in `precision`: `reference` computes each of them in the kind it is given.
pub fn judge_single(
    precision: Precision,
    floor: Floor,
    op: Op,
    operands: &[(Slot, &Operand)],
    reference: impl Fn(Kind) -> Vec<Tensor>,
) -> Result<(), Failure> {
    judge_rung(None, precision, floor, op, operands, reference)
}

/// The same for a lower rung of the operator's ladder.
pub fn judge_rung(
    rung: Option<Rung>,
    precision: Precision,
    floor: Floor,
    op: Op,
    operands: &[(Slot, &Operand)],
    reference: impl Fn(Kind) -> Vec<Tensor>,
) -> Result<(), Failure> {
    let results = run_rung(rung, precision, op, operands);
    let (truth, peer) = (reference(Kind::Double), reference(peer_kind(precision)));
    assert_eq!(results.len(), truth.len(), "results of {op:?}");
    for (index, result) in results.iter().enumerate() {
        let name = format!("{op:?}, rung {rung:?}, in {} on {}, result {index}", precision.name(), device().name());
        judge(&name, result, &truth[index], &peer[index], floor)?;
    }
    Ok(())
}

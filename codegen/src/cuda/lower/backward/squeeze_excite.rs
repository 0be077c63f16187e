//! Gradients of the gate of squeeze-excite.

use super::super::{Lowering, act};
use super::{THREADS, integer, launch, launch_beside};
use crate::cuda::kernel::{Argument, KernelText};
use crate::ir::Slot;
use segface_kernels::squeeze_excite::SqueezeExciteSpec;

/// Four launches.
pub(super) fn squeeze_excite(l: &mut Lowering<'_>, spec: &SqueezeExciteSpec) {
    let SqueezeExciteSpec { batch, pixels, channels, squeeze, act: inner, gate_act } = *spec;
    let (inner, gate) = (act(inner), act(gate_act));
    let numbers = |count: usize| batch * count * size_of::<f32>();
    let (a, d_z, d_a) = (l.workspace(numbers(squeeze)), l.workspace(numbers(channels)), l.workspace(numbers(squeeze)));
    let [sums, weight1, bias1, weight2, bias2, d_gate, residual] =
        [Slot::Sums, Slot::Weight, Slot::Bias, Slot::Weight1, Slot::Bias1, Slot::Gradient, Slot::Residual]
            .map(|slot| l.f32(slot));
    let begin = |room: &'static str, operands: &[(&str, Argument)]| {
        let mut text = KernelText::new(room, "squeeze_excite/backward.cuh");
        text.block(THREADS, 0, "squeeze_excite::BACKWARD_THREADS - 256");
        for (name, argument) in operands {
            text.parameter(format!("const float *{name}"), *argument);
        }
        text
    };
    let warps = THREADS / 32;
    let pixels = Argument::F32(pixels as f32);

    let mut text = begin("squeeze_again", &[("sums", sums), ("weight", weight1), ("bias", bias1)]);
    text.parameter("float *a", a);
    text.parameter("float pixels", pixels);
    text.line(format!("squeeze_excite::squeeze<{channels}, {squeeze}>(sums, weight, bias, a, pixels);"));
    launch_beside(l, &text, [squeeze.div_ceil(warps), batch, 1]);

    let mut text = begin("excite_slopes", &[("a", a), ("weight", weight2), ("bias", bias2), ("d_gate", d_gate)]);
    text.parameter("float *d_z", d_z);
    text.line(format!("squeeze_excite::excite<{channels}, {squeeze}, {inner}, {gate}>(a, weight, bias, d_gate, d_z);"));
    launch_beside(l, &text, [channels.div_ceil(warps), batch, 1]);

    let mut text = begin("squeeze_slopes", &[("a", a), ("weight", weight2), ("d_z", d_z)]);
    text.parameter("float *d_a", d_a);
    text.line(format!("squeeze_excite::slopes<{channels}, {squeeze}, {inner}>(a, weight, d_z, d_a);"));
    launch_beside(l, &text, [squeeze.div_ceil(32), batch, 1]);

    let operands = [("sums", sums), ("a", a), ("weight", weight1), ("d_z", d_z), ("d_a", d_a), ("residual", residual)];
    let mut text = begin("squeeze_excite_backward", &operands);
    text.parameter("float *d_sums", l.output(0));
    let targets =
        [("d_weight1", Slot::Weight), ("d_bias1", Slot::Bias), ("d_weight2", Slot::Weight1), ("d_bias2", Slot::Bias1)];
    for (name, slot) in targets {
        text.parameter(format!("float *{name}"), l.gradient(slot));
    }
    text.parameter("float pixels", pixels);
    integer(&mut text, "batch", batch);
    text.line(format!(
        "squeeze_excite::finish<{channels}, {squeeze}, {inner}>(sums, a, weight, d_z, d_a, residual, d_sums, d_weight1, d_bias1, \
         d_weight2, d_bias2, pixels, batch);"
    ));
    launch(l, &text, [channels.div_ceil(THREADS), batch + 1, 1]);
}

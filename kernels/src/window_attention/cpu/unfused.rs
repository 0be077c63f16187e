//! The branch's parts one by one, for plans in which it is not fused.

use super::geometry::Geometry;
use super::head::{HEAD, Head, HeadScratch, Qkv, Target, attend};
use crate::context::{Disjoint, scratch_bytes};
use crate::rows::convert_row;
use crate::window_attention::{
    WindowCoreOperands, WindowCoreSpec, WindowGatherOperands, WindowGatherSpec, WindowScatterOperands,
    WindowScatterSpec,
};
use crate::{Context, Element};

/// Map to windows, see [`WindowGatherSpec`].
///
/// # Panics
/// If operands do not have the sizes that the spec says.
pub fn window_gather<T: Element>(
    context: &mut Context,
    spec: &WindowGatherSpec,
    operands: WindowGatherOperands<'_, T>,
) {
    let WindowGatherOperands { x, fill, out } = operands;
    let WindowGatherSpec { batch, plan, channels } = *spec;
    let geometry = Geometry::new(batch, &plan);
    let tokens = plan.window * plan.window;
    assert_eq!(x.len(), geometry.rows() * channels, "x");
    assert_eq!(out.len(), geometry.windows() * tokens * channels, "windows");
    let fill: Vec<T> = match fill {
        Some(row) => row.iter().map(|value| T::from_f32(*value)).collect(),
        None => vec![T::default(); channels],
    };
    assert_eq!(fill.len(), channels, "the row for padding");
    let out = Disjoint::new(out);
    context.parallel(geometry.windows(), scratch_bytes::<u32>(tokens), |index, mut scratch| {
        let window = geometry.window(index);
        let pixels = &mut scratch.take::<u32>(tokens)[..window.rows.len()];
        geometry.pixels(index..index + 1, pixels);
        // SAFETY: every task has its own window.
        let out = unsafe { out.slice(index * tokens * channels, tokens * channels) };
        let mut real = window.tokens().iter().zip(&*pixels).peekable();
        for (token, row) in out.chunks_exact_mut(channels).enumerate() {
            match real.next_if(|(position, _)| usize::from(**position) == token) {
                Some((_, pixel)) => row.copy_from_slice(&x[*pixel as usize * channels..][..channels]),
                None => row.copy_from_slice(&fill),
            }
        }
    });
}

/// Windows to map, see [`WindowScatterSpec`].
///
/// # Panics
/// If operands do not have the sizes that the spec says.
pub fn window_scatter<T: Element>(
    context: &mut Context,
    spec: &WindowScatterSpec,
    operands: WindowScatterOperands<'_, T>,
) {
    let WindowScatterOperands { x, out } = operands;
    let WindowScatterSpec { batch, plan, channels } = *spec;
    let geometry = Geometry::new(batch, &plan);
    let tokens = plan.window * plan.window;
    assert_eq!(x.len(), geometry.windows() * tokens * channels, "windows");
    assert_eq!(out.len(), geometry.rows() * channels, "the map");
    let out = Disjoint::new(out);
    context.parallel(geometry.windows(), scratch_bytes::<u32>(tokens), |index, mut scratch| {
        let window = geometry.window(index);
        let pixels = &mut scratch.take::<u32>(tokens)[..window.rows.len()];
        geometry.pixels(index..index + 1, pixels);
        for (token, pixel) in window.tokens().iter().zip(&*pixels) {
            let from = (index * tokens + usize::from(*token)) * channels;
            // SAFETY: every pixel is in one window.
            let row = unsafe { out.slice(*pixel as usize * channels, channels) };
            row.copy_from_slice(&x[from..from + channels]);
        }
    });
}

/// Attention inside windows, see [`WindowCoreSpec`].
///
/// # Panics
/// If operands do not have the sizes that the spec says, or heads are not 32 wide.
pub fn window_core<T: Element>(context: &mut Context, spec: &WindowCoreSpec, operands: WindowCoreOperands<'_, T>) {
    let WindowCoreOperands { qkv, score_scale, bias, out } = operands;
    let WindowCoreSpec { batch, plan, channels, heads, kind } = *spec;
    let geometry = Geometry::new(batch, &plan);
    let tokens = plan.window * plan.window;
    let rows = geometry.windows() * tokens;
    assert_eq!(channels, heads * HEAD, "channels of {heads} heads");
    assert_eq!(qkv.len(), rows * 3 * channels, "qkv");
    assert_eq!(score_scale.len(), heads, "score scales");
    assert_eq!(bias.len(), heads * tokens * tokens, "the position bias");
    assert_eq!(out.len(), rows * channels, "out");
    let isa = context.isa();
    let out = Disjoint::new(out);
    let bytes = HeadScratch::BYTES + scratch_bytes::<f32>(tokens * 3 * HEAD);
    // A head's bias is laid out once for all windows of an image.
    let windows = plan.windows().iter().product::<usize>();
    context.parallel(batch * heads, bytes, |index, mut scratch| {
        let (image, number) = (index / heads, index % heads);
        let values = scratch.take::<f32>(tokens * 3 * HEAD);
        let mut scratch = HeadScratch::take::<T>(isa, &mut scratch);
        let head = Head {
            kind,
            tokens,
            scale: score_scale[number],
            bias: &bias[number * tokens * tokens..(number + 1) * tokens * tokens],
            q_bias: &[0.0; HEAD],
            v_bias: &[0.0; HEAD],
        };
        scratch.load_bias(&head);
        for window in image * windows..(image + 1) * windows {
            let window = geometry.padded_window(window);
            for (row, values) in window.rows.clone().zip(values.chunks_exact_mut(3 * HEAD)) {
                for (part, values) in values.chunks_exact_mut(HEAD).enumerate() {
                    let start = (row * 3 + part) * channels + number * HEAD;
                    convert_row(isa, &qkv[start..start + HEAD], values);
                }
            }
            let values = Qkv { values, stride: 3 * HEAD, starts: [0, HEAD, 2 * HEAD] };
            let start = window.rows.start * channels + number * HEAD;
            // SAFETY: every task has its own image and head.
            unsafe {
                attend(isa, &head, &window, values, Target { values: &out, stride: channels, start }, &mut scratch)
            };
        }
    });
}

//! Map to windows and back, backwards.

use super::super::cpu::Geometry;
use super::super::{WindowGatherSpec, WindowScatterSpec};
use crate::context::scratch_bytes;
use crate::gradient::{Gradient, add_partials};
use crate::resample::backward::move_row;
use crate::rows::convert_row;
use crate::{Context, Element};

/// `d_x[pixel] = d_windows[its token]`: d_out [batch·windows, window², C], d_x [batch, h, w, C]. What padded tokens get is
/// added to `d_fill` `[C]`, if the forward pass filled them with a row that is trained.
///
/// # Panics
/// If operands do not have the sizes that the spec says.
pub fn window_gather_backward<T: Element>(
    context: &mut Context,
    spec: &WindowGatherSpec,
    d_out: &[T],
    d_x: Gradient<'_, T>,
    d_fill: Option<&mut [f32]>,
) {
    let WindowGatherSpec { batch, plan, channels } = *spec;
    let geometry = Geometry::new(batch, &plan);
    let tokens = plan.window * plan.window;
    assert_eq!(d_out.len(), geometry.windows() * tokens * channels, "d_windows");
    assert_eq!(d_x.values.len(), geometry.rows() * channels, "d_x");
    let isa = context.isa();
    let d_x = d_x.share();
    context.parallel(geometry.windows(), scratch_bytes::<u32>(tokens), |index, mut scratch| {
        let window = geometry.window(index);
        let pixels = &mut scratch.take::<u32>(tokens)[..window.rows.len()];
        geometry.pixels(index..index + 1, pixels);
        for (token, pixel) in window.tokens().iter().zip(&*pixels) {
            let from = (index * tokens + usize::from(*token)) * channels;
            // SAFETY: every pixel is in one window.
            let row = unsafe { d_x.values.slice(*pixel as usize * channels, channels) };
            move_row(isa, &d_out[from..from + channels], row, d_x.accumulate);
        }
    });
    let Some(d_fill) = d_fill else { return };
    assert_eq!(d_fill.len(), channels, "the gradient of the row for padding");
    // Few windows have padding: those at the bottom and at the right.
    let mut rows = Vec::new();
    for index in 0..geometry.windows() {
        let window = geometry.window(index);
        let mut real = window.tokens().iter().peekable();
        for token in 0..tokens {
            if real.next_if(|position| usize::from(**position) == token).is_none() {
                rows.push((index * tokens + token) * channels);
            }
        }
    }
    let mut padded = vec![0.0; rows.len() * channels];
    for (row, to) in rows.iter().zip(padded.chunks_exact_mut(channels.max(1))) {
        convert_row(isa, &d_out[*row..row + channels], to);
    }
    add_partials(context, &padded, d_fill);
}

/// `d_windows[token] = d_x[its pixel]`, zero for padded tokens: d_out [batch, h, w, C], d_x [batch·windows, window², C].
///
/// # Panics
/// If operands do not have the sizes that the spec says.
pub fn window_scatter_backward<T: Element>(
    context: &mut Context,
    spec: &WindowScatterSpec,
    d_out: &[T],
    d_x: Gradient<'_, T>,
) {
    let WindowScatterSpec { batch, plan, channels } = *spec;
    let geometry = Geometry::new(batch, &plan);
    let tokens = plan.window * plan.window;
    assert_eq!(d_out.len(), geometry.rows() * channels, "d_out");
    assert_eq!(d_x.values.len(), geometry.windows() * tokens * channels, "d_windows");
    let isa = context.isa();
    let d_x = d_x.share();
    context.parallel(geometry.windows(), scratch_bytes::<u32>(tokens), |index, mut scratch| {
        let window = geometry.window(index);
        let pixels = &mut scratch.take::<u32>(tokens)[..window.rows.len()];
        geometry.pixels(index..index + 1, pixels);
        // SAFETY: every task has its own window.
        let rows = unsafe { d_x.values.slice(index * tokens * channels, tokens * channels) };
        let mut real = window.tokens().iter().zip(&*pixels).peekable();
        for (token, row) in rows.chunks_exact_mut(channels).enumerate() {
            match real.next_if(|(position, _)| usize::from(**position) == token) {
                Some((_, pixel)) => {
                    move_row(isa, &d_out[*pixel as usize * channels..][..channels], row, d_x.accumulate);
                }
                None if !d_x.accumulate => row.fill(T::default()),
                None => {}
            }
        }
    });
}

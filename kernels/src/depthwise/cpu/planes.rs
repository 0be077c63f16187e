//! The window over copies of the input rows: widened to f32, zero-padded, sorted by vectors of channels, so that it slides down
//! a strip of the map that stays in L1, whatever the precision and the number of channels.

use super::window::{Source, WIDTH, activate, sums};
use super::{DepthwiseSpec, Shape, Task};
use crate::Element;
use crate::rows::load;
use crate::simd::{Kernel, Vector};

/// Output rows of a task: the K − S rows that neighbouring bands both copy are few beside them.
const BAND: usize = 32;

/// What a task's planes should stay below, a part of L2.
const PLANE_BYTES: usize = 768 << 10;

/// Rows and columns of a plane.
fn plane_size(spec: &DepthwiseSpec, rows: usize) -> [usize; 2] {
    let columns = spec.output()[1].next_multiple_of(WIDTH);
    [rows, columns].map(|outputs| (outputs - 1) * spec.stride + spec.kernel)
}

pub(super) fn shape(spec: &DepthwiseSpec, lanes: usize) -> Shape {
    let rows = BAND.min(spec.output()[0]).max(1);
    let [height, width] = plane_size(spec, rows);
    let plane = height * width * lanes;
    // At least a cache line of the narrowest element.
    let planes = (PLANE_BYTES / (plane * size_of::<f32>())).max(32 / lanes).min(spec.channels.div_ceil(lanes));
    Shape { rows, channels: planes * lanes, scratch: planes * plane + spec.kernel * spec.kernel * lanes }
}

pub(super) struct Planes<'a, T: Element, const K: usize, const S: usize>(pub(super) Task<'a, T>);

impl<T: Element, const K: usize, const S: usize> Kernel for Planes<'_, T, K, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let mut task = self.0;
        let spec = task.spec;
        let (rows, channels, width) = (task.rows.clone(), task.channels.clone(), spec.output()[1]);
        let [plane_height, plane_width] = plane_size(spec, rows.len());
        let plane = plane_height * plane_width * V::LANES;
        let (taps, planes) = std::mem::take(&mut task.scratch).split_at_mut(K * K * V::LANES);
        copy::<V, T, K, S>(&task, plane_height, plane_width, planes);
        for (planes, channel) in planes.chunks_exact(plane).zip(channels.clone().step_by(V::LANES)) {
            let lanes = V::LANES.min(channels.end - channel);
            for (tap, to) in taps.chunks_exact_mut(V::LANES).enumerate() {
                to[..lanes].copy_from_slice(&task.weight[tap * spec.channels + channel..][..lanes]);
                to[lanes..].fill(0.0);
            }
            let bias = task.bias(channel, lanes);
            for x in (0..width).step_by(WIDTH) {
                let out_width = WIDTH.min(width - x);
                for y in rows.clone() {
                    let first = ((y - rows.start) * S * plane_width + x * S) * V::LANES;
                    let source = Source {
                        input: planes[first..].as_ptr(),
                        pixel: V::LANES,
                        row: plane_width * V::LANES,
                        weight: taps.as_ptr(),
                        tap: V::LANES,
                        lanes: V::LANES,
                        rows: 0..K,
                        columns: 0..(WIDTH - 1) * S + K,
                    };
                    // SAFETY: planes have K rows and (WIDTH − 1)·S + K columns under every block.
                    let [mut result, _] = unsafe { sums::<V, f32, K, S, false, true>(&source, bias) };
                    activate(spec.act, &mut result);
                    // SAFETY: the rows are the band's; `out_width` pixels from x on exist.
                    unsafe { task.store(&result, [y, x], channel, lanes, out_width) };
                    task.add_to_sums(&result, channel, lanes, out_width);
                }
            }
        }
    }
}

/// `planes[v, r, c, l] = x[top + r, c − K/2, channels.start + v·LANES + l]`, zero outside the image and behind the channels.
#[inline(always)]
fn copy<V: Vector, T: Element, const K: usize, const S: usize>(
    task: &Task<'_, T>,
    plane_height: usize,
    plane_width: usize,
    planes: &mut [f32],
) {
    let ([height, width], stride, padding) = (task.spec.input, task.spec.channels, K / 2);
    let (channels, row_len) = (task.channels.clone(), plane_width * V::LANES);
    let plane = plane_height * row_len;
    let vectors = channels.len().div_ceil(V::LANES);
    assert!(vectors * plane <= planes.len() && channels.end <= stride && task.x.len() == height * width * stride);
    // Columns of a plane that lie inside the image.
    let inside = padding..plane_width.min(padding + width);
    for r in 0..plane_height {
        let y = (task.rows.start * S + r).checked_sub(padding).filter(|y| *y < height);
        for v in 0..vectors {
            let row = &mut planes[v * plane + r * row_len..][..row_len];
            match y {
                None => row.fill(0.0),
                Some(_) => {
                    row[..inside.start * V::LANES].fill(0.0);
                    row[inside.end * V::LANES..].fill(0.0);
                }
            }
        }
        let Some(y) = y else { continue };
        for column in inside.clone() {
            let from = &task.x[(y * width + column - padding) * stride..][channels.clone()];
            let mut v = 0;
            while v < vectors {
                let lanes = V::LANES.min(from.len() - v * V::LANES);
                // SAFETY: `lanes` elements of the pixel; row r of plane v has `plane_width` columns.
                unsafe {
                    let to = planes.as_mut_ptr().add(v * plane + r * row_len + column * V::LANES);
                    load::<V, T>(from.as_ptr().add(v * V::LANES), lanes).store(to);
                }
                v += 1;
            }
        }
    }
}

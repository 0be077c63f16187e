//! Bilinear resize: per axis, an input coordinate collects from the output coordinates that took from it.

use super::super::BilinearSpec;
use super::super::cpu::taps;
use crate::context::scratch_bytes;
use crate::gradient::{Gradient, put};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// The output coordinates that an input coordinate collects from, with their weights: a run of `Readers::all`.
#[derive(Clone, Copy)]
struct Reader {
    from: usize,
    weight: f32,
}

/// The readers of every input coordinate of an axis, ascending.
struct Readers {
    all: Vec<Reader>,
    starts: Vec<usize>,
}

impl Readers {
    fn new(input: usize, output: usize) -> Self {
        let mut of_input = vec![Vec::new(); input];
        for (from, tap) in taps(input, output).into_iter().enumerate() {
            if tap.low == tap.high {
                of_input[tap.low].push(Reader { from, weight: 1.0 });
            } else {
                of_input[tap.low].push(Reader { from, weight: 1.0 - tap.weight });
                of_input[tap.high].push(Reader { from, weight: tap.weight });
            }
        }
        let mut readers = Self { all: Vec::new(), starts: vec![0] };
        for mut list in of_input {
            // A weight of zero would multiply what may be infinite.
            list.retain(|reader| reader.weight != 0.0);
            readers.all.extend(list);
            readers.starts.push(readers.all.len());
        }
        readers
    }

    fn of(&self, input: usize) -> &[Reader] {
        &self.all[self.starts[input]..self.starts[input + 1]]
    }
}

/// `d_x[iy, ix] = Σ_oy w_y(oy, iy) Σ_ox w_x(ox, ix) · d_out[oy, ox]`: d_out [batch, oh, ow, C], d_x [batch, ih, iw, C].
///
/// A row of d_x is a task: a weighted sum of rows of d_out, then one of its pixels. Each element of d_out is read at most
/// twice; some 8 operations per element of d_out where the map was enlarged.
///
/// # Panics
/// If an operand's length is not what the spec says, or the input has no pixel.
pub fn bilinear_backward<T: Element>(ctx: &mut Context, spec: &BilinearSpec, d_out: &[T], d_x: Gradient<'_, T>) {
    let BilinearSpec { batch, input: [ih, iw], output: [oh, ow], channels } = *spec;
    assert!(ih > 0 && iw > 0, "an input of {ih}×{iw}");
    assert_eq!(d_out.len(), batch * oh * ow * channels, "d_out");
    assert_eq!(d_x.values.len(), batch * ih * iw * channels, "d_x");
    let (rows, columns) = (Readers::new(ih, oh), Readers::new(iw, ow));
    let isa = ctx.isa();
    let d_x = d_x.share();
    let row_len = ow * channels;
    ctx.parallel(batch * ih, scratch_bytes::<f32>(row_len), |task, mut scratch| {
        let (image, y) = (task / ih, task % ih);
        let sums = scratch.take::<f32>(row_len);
        // SAFETY: each task has its own row.
        let d_x_row = unsafe { d_x.values.slice(task * iw * channels, iw * channels) };
        let d_out = &d_out[image * oh * row_len..][..oh * row_len];
        let accumulate = d_x.accumulate;
        dispatch(isa, Row { d_out, readers: rows.of(y), columns: &columns, channels, sums, d_x: d_x_row, accumulate });
    });
}

/// One row of d_x.
struct Row<'a, T> {
    /// [oh, ow, C]
    d_out: &'a [T],
    /// Rows of d_out.
    readers: &'a [Reader],
    columns: &'a Readers,
    channels: usize,
    /// [ow, C], overwritten.
    sums: &'a mut [f32],
    /// [iw, C]
    d_x: &'a mut [T],
    accumulate: bool,
}

impl<T: Element> Kernel for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Row { d_out, readers, columns, channels, sums, d_x, accumulate } = self;
        let n = sums.len();
        assert!(readers.iter().all(|reader| (reader.from + 1) * n <= d_out.len()));
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            let mut sum = V::zero();
            for reader in readers {
                // SAFETY: row `from` of d_out is n long.
                let value: V = unsafe { load(d_out.as_ptr().add(reader.from * n + i), count) };
                sum = value.mul_add(V::splat(reader.weight), sum);
            }
            // SAFETY: `count` sums from i on.
            unsafe { store(sum, sums.as_mut_ptr().add(i), count) };
            i += count;
        }
        for (x, d_x) in d_x.chunks_exact_mut(channels.max(1)).enumerate() {
            let readers = columns.of(x);
            assert!(readers.iter().all(|reader| (reader.from + 1) * channels <= n));
            let mut i = 0;
            while i < channels {
                let count = V::LANES.min(channels - i);
                let mut sum = V::zero();
                for reader in readers {
                    // SAFETY: pixel `from` has `channels` sums.
                    let value: V = unsafe { load(sums.as_ptr().add(reader.from * channels + i), count) };
                    sum = value.mul_add(V::splat(reader.weight), sum);
                }
                // SAFETY: `count` channels from i on.
                unsafe { put(sum, d_x.as_mut_ptr().add(i), count, accumulate) };
                i += count;
            }
        }
    }
}

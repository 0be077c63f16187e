//! Depthwise convolutions.

use super::super::kernel::{Argument, KernelText};
use super::{Lowering, act, element_type};
use crate::ir::Slot;
use segface_kernels::depthwise::DepthwiseSpec;

/// One launch.
pub(super) fn depthwise(l: &mut Lowering<'_>, spec: &DepthwiseSpec) {
    let DepthwiseSpec { batch, input, channels, kernel, stride, pool, .. } = *spec;
    let [height, width] = spec.output();
    let dtype = l.precision.dtype();
    let chunk = 16 / dtype.size();
    let chunks = channels / chunk;
    let run = run(spec, chunks, l.tuning.card.multiprocessors);
    // Large windows take so many registers that small blocks fill a multiprocessor better; sums are merged faster by large ones.
    let lanes = lanes(chunks, if pool { 256 } else { 128 });
    let (groups, threads) = (chunks / lanes.lanes, lanes.lanes * lanes.rows);
    let blocks = (height * width.div_ceil(run)).div_ceil(lanes.rows);

    let x = l.element(Slot::X);
    let [weight, bias] = [Slot::Weight, Slot::Bias].map(|slot| l.f32(slot));
    let out = l.output(0);
    let sums = if pool { l.output(1) } else { Argument::Null };
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    let mut text = KernelText::new("depthwise", "depthwise/forward.cuh");
    let element = element_type(dtype);
    text.define(format!(
        "using E = {element};\nusing S = depthwise::Shape<E, {channels}, {kernel}, {stride}, {run}, {}, {}>;",
        lanes.lanes, lanes.rows
    ));
    let shared = if pool { threads * chunk * 4 } else { 0 };
    text.block(threads, shared, &format!("depthwise::bytes<S, {pool}>()"));
    text.parameter("const E *x", x);
    text.parameter("const float *weight", weight);
    text.parameter("const float *bias", bias);
    text.parameter("E *out", out);
    text.parameter("float *sums", sums);
    let (partial, counters) = channel_sums(l, pool, [batch, blocks, groups], channels);
    text.parameter("float *partial", partial);
    text.parameter("u32 *counters", counters);
    for (name, size) in
        ["height", "width", "out_height", "out_width"].into_iter().zip([input, [height, width]].concat())
    {
        text.parameter(format!("int {name}"), Argument::I32(size as i32));
    }
    text.line(format!(
        "depthwise::forward<S, {}, {}, {pool}>(x, weight, bias, out, sums, partial, counters, {{height, width, out_height, \
         out_width}});",
        act(spec.act),
        bias != Argument::Null
    ));
    l.launch(&text, [blocks as u32, groups as u32, batch as u32], flops, bytes);
}

/// Outputs along x that a thread makes: the more, the fewer loads each, as long as there are threads to fill the card.
fn run(spec: &DepthwiseSpec, chunks: usize, multiprocessors: usize) -> usize {
    let [height, width] = spec.output();
    // Small windows wait for memory, whatever their loads: more threads at once serve them better than long runs.
    let longest = if spec.stride == 1 && spec.kernel > 3 { 8 } else { 4 };
    let threads = |run: usize| spec.batch * height * width.div_ceil(run) * chunks;
    [8, 4, 2]
        .into_iter()
        .find(|&run| run <= longest && run <= width && threads(run) >= multiprocessors * 256)
        .unwrap_or(1)
}

/// A block's threads: `lanes` along the channels, `rows` along the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes {
    pub(super) lanes: usize,
    pub(super) rows: usize,
}

/// At most `threads` threads on `vectors` of channels, a divisor of which lies along the lanes: the one that leaves fewest
/// threads out, of those with neighbours enough for whole sectors the narrowest.
pub(super) fn lanes(vectors: usize, threads: usize) -> Lanes {
    let used = |lanes: usize| threads / lanes * lanes;
    // Of numbers as alike as these, a sixteenth fewer threads is no loss.
    let lanes = (1..=vectors.min(32))
        .filter(|lanes| vectors.is_multiple_of(*lanes))
        .max_by_key(|&lanes| (lanes.min(8), used(lanes) * 16 / threads, std::cmp::Reverse(lanes)))
        .unwrap_or(1);
    Lanes { lanes, rows: threads / lanes }
}

/// Working memory and counters of `sum_channels` for [batch, blocks of an image, groups of channels].
pub(super) fn channel_sums(
    l: &mut Lowering<'_>,
    pool: bool,
    [batch, blocks, groups]: [usize; 3],
    channels: usize,
) -> (Argument, Argument) {
    if !pool || blocks == 1 {
        return (Argument::Null, Argument::Null);
    }
    (l.workspace(batch * blocks * channels * size_of::<f32>()), l.counters(batch * groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_divide_the_vectors_and_leave_few_threads_out() {
        for vectors in 1..=400 {
            for threads in [128, 256] {
                let Lanes { lanes, rows } = lanes(vectors, threads);
                assert!(vectors.is_multiple_of(lanes), "{lanes} lanes of {vectors} vectors");
                assert!((1..=threads).contains(&(lanes * rows)) && lanes * rows * 4 >= threads * 3, "{lanes}×{rows}");
            }
        }
    }
}

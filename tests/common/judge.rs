//! The rule by which results are accepted (docs/ARCHITECTURE.md, Numerics).
//!
//! Truth is libtorch in f64. A result in precision p passes when its error is at most twice that of libtorch run in the
//! same p on the same inputs, plus a floor: what rounding the result itself to p may cost when libtorch happens to be
//! luckier. The error is measured in two norms and both must pass: relative L2, which sees a systematic loss of accuracy,
//! and the largest absolute error over the truth's root mean square, which sees a single wrong element.

use segface_kernels::DType;
use std::fmt;
use tch::{Kind, Tensor};

/// How much worse than libtorch in the same precision a result may be.
const FACTOR: f64 = 2.0;

/// libtorch's name of an element type.
///
/// # Panics
/// For class ids, which no arithmetic is done in.
pub fn kind(dtype: DType) -> Kind {
    match dtype {
        DType::F32 => Kind::Float,
        DType::Bf16 => Kind::BFloat16,
        DType::F16 => Kind::Half,
        DType::U8 => panic!("class ids are not a precision"),
    }
}

/// Error allowed even where libtorch makes none, relative to the largest true value for the largest error, and to the
/// truth's norm for L2, where it shrinks with the number of elements, as errors of rounding average out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor(pub f64);

impl Floor {
    /// The floor for a kernel that accumulates in f32 and rounds its result once to `dtype`.
    ///
    /// f32: four roundings of 2⁻²⁴, for elementary functions and orders of summation that differ from libtorch's.
    /// bf16: one of 2⁻⁸; f16: one of 2⁻¹¹.
    pub fn of(dtype: DType) -> Floor {
        match kind(dtype) {
            Kind::BFloat16 => Floor(2f64.powi(-8)),
            Kind::Half => Floor(2f64.powi(-11)),
            _ => Floor(4.0 * 2f64.powi(-24)),
        }
    }

    /// The floor for results that are sums of `terms` products accumulated in f32, in whatever order.
    ///
    /// Summed one after the other, the error grows with √terms, where libtorch's blocked sums hardly do: √terms more
    /// roundings of 2⁻²⁴, five times what that order costs on average. In bf16 they vanish beside the result's rounding.
    pub fn of_sum(dtype: DType, terms: usize) -> Floor {
        Floor(Floor::of(dtype).0 + (terms as f64).sqrt() * 2f64.powi(-24))
    }
}

/// Errors of a result against the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// ‖result − truth‖₂ / ‖truth‖₂
    pub l2: f64,
    /// max |result − truth| / root mean square of truth
    pub max: f64,
}

impl Errors {
    /// Errors of `result` against `truth`, tensors of one shape. For an all-zero truth they are absolute.
    pub fn of(result: &Tensor, truth: &Tensor) -> Errors {
        assert_eq!(result.size(), truth.size(), "shapes of result and truth");
        let truth = truth.to_kind(Kind::Double);
        let difference = result.to_kind(Kind::Double) - &truth;
        let rms = |x: &Tensor| x.square().mean(Kind::Double).sqrt().double_value(&[]);
        let scale = match rms(&truth) {
            0.0 => 1.0,
            rms => rms,
        };
        Errors { l2: rms(&difference) / scale, max: difference.abs().max().double_value(&[]) / scale }
    }
}

/// Why a result was not accepted.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// A failure other than a wrong value.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure(message.into())
    }

    /// The same, said to have happened `at` some place.
    pub fn at(self, place: impl fmt::Display) -> Failure {
        Failure(format!("{place}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Accepts or refuses `ours`, the elements of a result in row-major order.
///
/// `truth` is libtorch's result in f64, `peer` its result in the precision of ours, both of one shape. Returns the
/// errors of ours and of the peer, in this order. Panics when the problem itself is no good: truth or peer not finite.
pub fn judge(
    name: &str,
    ours: &[f32],
    truth: &Tensor,
    peer: &Tensor,
    floor: Floor,
) -> Result<(Errors, Errors), Failure> {
    let truth = truth.to_kind(Kind::Double).contiguous();
    let peer = peer.to_kind(Kind::Double).contiguous();
    assert_eq!(truth.size(), peer.size(), "{name}: shapes of truth and peer");
    for (who, tensor) in [("truth", &truth), ("libtorch in the same precision", &peer)] {
        assert!(all_finite(tensor), "{name}: {who} is not finite: give the problem smaller values");
    }
    if ours.len() != truth.numel() {
        return Err(Failure(format!("{name}: {} values, expected shape {:?}", ours.len(), truth.size())));
    }
    let result = Tensor::from_slice(ours).to_kind(Kind::Double).view_as(&truth);
    if let Some(index) = ours.iter().position(|v| !v.is_finite()) {
        let count = ours.iter().filter(|v| !v.is_finite()).count();
        let at = unravel(index, &truth.size());
        return Err(Failure(format!("{name}: {count} of {} values are not finite, first {at:?}", ours.len())));
    }
    if ours.is_empty() {
        let none = Errors { l2: 0.0, max: 0.0 };
        return Ok((none, none));
    }

    let (own, peers) = (Errors::of(&result, &truth), Errors::of(&peer, &truth));
    let rms = truth.square().mean(Kind::Double).sqrt().double_value(&[]);
    let peak = truth.abs().max().double_value(&[]);
    let peak_over_rms = if rms == 0.0 { 1.0 } else { peak / rms };
    let allowed = Errors {
        l2: FACTOR * peers.l2 + floor.0 * (0.25 + 1.0 / (ours.len() as f64).sqrt()),
        max: FACTOR * peers.max + floor.0 * peak_over_rms,
    };
    if own.l2 <= allowed.l2 && own.max <= allowed.max {
        return Ok((own, peers));
    }

    let mut message = format!("{name}: shape {:?}, truth's root mean square {rms:.3e}\n", truth.size());
    for (norm, own, peers, allowed) in
        [("relative L2", own.l2, peers.l2, allowed.l2), ("largest / rms", own.max, peers.max, allowed.max)]
    {
        let verdict = if own <= allowed { "passes" } else { "FAILS" };
        message += &format!("  {norm:14} ours {own:.3e}  libtorch {peers:.3e}  allowed {allowed:.3e}  {verdict}\n");
    }
    let errors = (&result - &truth).abs().flatten(0, -1);
    let (_, worst) = errors.topk(errors.numel().min(4) as i64, 0, true, true);
    message += "  worst elements:";
    for index in Vec::<i64>::try_from(worst).expect("indices") {
        let value = |x: &Tensor| x.flatten(0, -1).double_value(&[index]);
        message += &format!(
            "\n    {:?}: ours {:.7e}, truth {:.7e}, libtorch {:.7e}",
            unravel(index as usize, &truth.size()),
            value(&result),
            value(&truth),
            value(&peer)
        );
    }
    let off = errors.gt(floor.0 * peak + FACTOR * peers.max * rms).sum(Kind::Int64).int64_value(&[]);
    message += &format!("\n  {off} of {} elements are off by more than is allowed of the worst", ours.len());
    Err(Failure(message))
}

fn all_finite(x: &Tensor) -> bool {
    x.isfinite().all().int64_value(&[]) == 1
}

/// The index along each axis of the element `index` of a row-major array.
fn unravel(index: usize, shape: &[i64]) -> Vec<usize> {
    let mut rest = index;
    let mut at: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&n| {
            let n = n as usize;
            let i = rest % n;
            rest /= n;
            i
        })
        .collect();
    at.reverse();
    at
}

/// Pixels whose label differs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flips {
    /// How many.
    pub count: i64,
    /// Among them, the largest difference between the two best true logits; 0 if there are none.
    pub widest_margin: f64,
}

/// Where the label maps of `logits` and of `truth`, both [N, T, H, W], differ.
pub fn label_flips(logits: &Tensor, truth: &Tensor) -> Flips {
    let truth = truth.to_kind(Kind::Double);
    let flipped = logits.to_kind(Kind::Double).argmax(1, false).not_equal_tensor(&truth.argmax(1, false));
    let (best, _) = truth.topk(2, 1, true, true);
    let margin = best.select(1, 0) - best.select(1, 1);
    let margin = margin.where_self(&flipped, &Tensor::zeros_like(&margin));
    Flips { count: flipped.sum(Kind::Int64).int64_value(&[]), widest_margin: margin.max().double_value(&[]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use segface::weights::seeded_values;

    const SIZE: usize = 1000;

    /// A truth, libtorch's f32 rounding of it as the peer, and that peer's values.
    fn problem() -> (Tensor, Tensor, Vec<f32>) {
        let values: Vec<f64> = seeded_values("judge", SIZE).iter().map(|&u| f64::from(u) / 3.0).collect();
        let truth = Tensor::from_slice(&values).view([10, -1]);
        let rounded: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        (truth.shallow_clone(), truth.to_kind(Kind::Float), rounded)
    }

    fn verdict(ours: &[f32]) -> Result<(Errors, Errors), Failure> {
        let (truth, peer, _) = problem();
        judge("problem", ours, &truth, &peer, Floor::of(DType::F32))
    }

    #[test]
    fn the_peers_own_result_passes() {
        let (own, peer) = verdict(&problem().2).expect("the same result");
        assert_eq!(own, peer);
        assert!(own.l2 > 0.0 && own.max >= own.l2);
    }

    #[test]
    fn one_wrong_element_is_refused_and_shown() {
        let (_, _, mut ours) = problem();
        ours[517] += 2e-6;
        let message = verdict(&ours).expect_err("an error of 2e-6 in f32").to_string();
        assert!(message.contains("[5, 17]") && message.contains("largest / rms"), "{message}");
    }

    #[test]
    fn a_small_error_everywhere_is_refused() {
        let (_, _, ours) = problem();
        let scaled: Vec<f32> = ours.iter().map(|v| v * (1.0 + 3e-7)).collect();
        let message = verdict(&scaled).expect_err("a relative error of 3e-7 in f32").to_string();
        assert!(message.contains("relative L2") && message.contains("FAILS"), "{message}");
    }

    #[test]
    fn what_is_not_finite_or_misshapen_is_refused() {
        let (_, _, mut ours) = problem();
        assert!(verdict(&ours[1..]).is_err());
        ours[123] = f32::NAN;
        let message = verdict(&ours).expect_err("a NaN").to_string();
        assert!(message.contains("[1, 23]"), "{message}");
        ours[123] = f32::INFINITY;
        assert!(verdict(&ours).is_err());
    }

    #[test]
    fn rounding_to_bf16_once_passes_and_twice_the_roundings_do_not_hide_a_shift() {
        let (truth, _, ours) = problem();
        let peer = truth.to_kind(Kind::BFloat16);
        let round = |f: f32| segface_kernels::bf16::from_f32(f).to_f32();
        let once: Vec<f32> = ours.iter().map(|&v| round(v)).collect();
        assert!(judge("once", &once, &truth, &peer, Floor::of(DType::Bf16)).is_ok());
        let shifted: Vec<f32> = ours.iter().map(|&v| round(v * 1.02)).collect();
        assert!(judge("shifted", &shifted, &truth, &peer, Floor::of(DType::Bf16)).is_err());
    }

    #[test]
    fn flips_are_counted_with_their_margin() {
        let truth = Tensor::from_slice(&[1.0, 5.0, 2.0, 3.0]).view([1, 2, 1, 2]);
        let same = label_flips(&truth, &truth);
        assert_eq!((same.count, same.widest_margin), (0, 0.0));
        let flipped = label_flips(&-&truth, &truth);
        assert_eq!((flipped.count, flipped.widest_margin), (2, 2.0));
    }
}

//! The loss that the published networks were trained with.

use tch::{Kind, Reduction, Tensor};

/// Cross-entropy and dice of `logits` [N, T, H, W] and class ids `labels` [N, H, W], scalars. Cross-entropy is a mean over pixels; dice is
/// taken per class over the whole batch, `1 − (2Σpt + 1e-5)/(Σp² + Σt² + 1e-5)`, a mean over classes. What is minimised is half of each.
pub fn loss(logits: &Tensor, labels: &Tensor) -> (Tensor, Tensor) {
    let labels = labels.to_kind(Kind::Int64);
    let cross_entropy = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0);
    let classes = logits.size()[1];
    let p = logits.softmax(1, logits.kind());
    let t = labels.one_hot(classes).permute([0, 3, 1, 2]).to_kind(logits.kind());
    let axes = [0i64, 2, 3];
    let sum = |x: &Tensor| x.sum_dim_intlist(axes.as_slice(), false, x.kind());
    let (overlap, of_p, of_t) = (sum(&(&p * &t)), sum(&p.square()), sum(&t.square()));
    let dice = (overlap * 2.0 + 1e-5) / (of_p + of_t + 1e-5);
    (cross_entropy, (dice.neg() + 1.0).mean(logits.kind()))
}

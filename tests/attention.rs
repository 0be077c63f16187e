//! `attention` against libtorch: shared and own queries, keys and values, one key, many keys, scores that saturate.

use proptest::prelude::*;
use segface_codegen::ir::{Op, Slot};
use segface_codegen::plan::Precision;
use segface_kernels::{
    Element,
    attention::{self, AttentionOperands, AttentionSpec},
    bf16,
};
use segface_tests::{
    cuda::{floor, judge_single},
    in_every_precision,
    judge::{Failure, Floor},
    modes::assert_no_findings,
    operand::{Values, values, widen},
    problems::{judge_kernel, random_problems},
};

/// One random problem.
#[derive(Debug, Clone)]
struct Problem {
    spec: AttentionSpec,
    /// Whether q, k, v are one for the whole batch.
    shared: [bool; 3],
    values: Values,
}

fn problem(queries: usize, keys: usize) -> impl Strategy<Value = Problem> {
    let heads = prop::sample::select(vec![[8, 16], [8, 32], [1, 16], [3, 5]]);
    (1..=3usize, 1..=queries, 1..=keys, heads, any::<[bool; 3]>(), values()).prop_map(
        |(batch, queries, keys, [heads, head_dim], shared, values)| {
            let scale = (head_dim as f32).sqrt().recip();
            Problem { spec: AttentionSpec { batch, queries, keys, heads, head_dim, scale }, shared, values }
        },
    )
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { ref spec, shared, ref values } = *problem;
    let width = spec.heads * spec.head_dim;
    let batch = |shared: bool| if shared { 1 } else { spec.batch };
    let q = values.input::<T>("q", &[batch(shared[0]), spec.queries, width]);
    let k = values.input::<T>("k", &[batch(shared[1]), spec.keys, width]);
    let v = values.input::<T>("v", &[batch(shared[2]), spec.keys, width]);
    let [qs, ks, vs] = [&q, &k, &v].map(|x| x.elements::<T>());
    judge_kernel::<T>(
        "attention",
        Floor::of(T::DTYPE),
        |kind| {
            let q = q.tensor(kind).expand([spec.batch as i64, -1, -1], false);
            let (k, v) = (k.tensor(kind), v.tensor(kind));
            segface_reference::attention::attention(&q, &k, &v, spec.heads as i64, f64::from(spec.scale))
        },
        |context| {
            let mut out = vec![T::from_f32(f32::NAN); spec.batch * spec.queries * width];
            let operands = AttentionOperands { q: &qs, k: &ks, v: &vs, out: &mut out };
            attention::cpu::attention(context, spec, operands);
            widen(&out)
        },
    )
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

fn check_on_device<T: Element>(problem: &Problem, precision: Precision) -> Result<(), Failure> {
    let Problem { ref spec, ref values, .. } = *problem;
    let width = spec.heads * spec.head_dim;
    let q = values.input::<T>("q", &[spec.batch, spec.queries, width]);
    let [k, v] = ["k", "v"].map(|name| values.input::<T>(name, &[spec.batch, spec.keys, width]));
    let operands = [(Slot::Query, &q), (Slot::Key, &k), (Slot::Value, &v)];
    judge_single(precision, floor(precision), Op::Attention(*spec), &operands, |kind| {
        let [q, k, v] = [&q, &k, &v].map(|x| x.tensor(kind));
        vec![segface_reference::attention::attention(&q, &k, &v, spec.heads as i64, f64::from(spec.scale))]
    })
}

#[test]
fn attentions_on_a_device() {
    random_problems("attention cuda", 6, problem(30, 60), |problem| in_every_precision!(check_on_device(problem)));
}

#[test]
fn attentions_have_no_findings() {
    assert_no_findings("attentions_on_a_device");
}

#[test]
fn small_attentions_of_any_shape() {
    random_problems("attention small", 32, problem(40, 40), both);
}

#[test]
fn class_tokens_look_at_many_image_tokens() {
    random_problems("attention many keys", 6, problem(19, 3000), both);
}

#[test]
fn many_image_tokens_look_at_class_tokens() {
    random_problems("attention many queries", 6, problem(1500, 19), both);
}

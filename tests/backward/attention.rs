//! Attention: shared and own queries, keys and values, one key, many keys, many queries, scores that saturate.

use proptest::prelude::*;
use segface_kernels::attention::AttentionSpec;
use segface_kernels::attention::backward::{AttentionBackwardOperands, attention_backward};
use segface_kernels::{Context, Element, Gradient, Isa, bf16};
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, unit_values, values, widen},
    problems::random_problems,
};
use tch::Tensor;

#[derive(Debug, Clone)]
struct Problem {
    spec: AttentionSpec,
    /// Whether q, k, v are one for the whole batch.
    shared: [bool; 3],
    values: Values,
}

fn problem(queries: usize, keys: usize, values: impl Strategy<Value = Values>) -> impl Strategy<Value = Problem> {
    let heads = prop::sample::select(vec![[8, 16], [8, 32], [1, 16], [3, 5]]);
    (1..=3usize, 1..=queries, 1..=keys, heads, any::<[bool; 3]>(), values).prop_map(
        |(batch, queries, keys, [heads, head_dim], shared, values)| {
            let scale = (head_dim as f32).sqrt().recip();
            Problem { spec: AttentionSpec { batch, queries, keys, heads, head_dim, scale }, shared, values }
        },
    )
}

struct Case {
    q: Operand,
    k: Operand,
    v: Operand,
    d_out: Operand,
}

impl Problem {
    fn case<T: Element>(&self) -> Case {
        let Problem { spec, shared, values } = self;
        let width = spec.heads * spec.head_dim;
        let batch = |shared: bool| if shared { 1 } else { spec.batch };
        Case {
            q: values.input::<T>("q", &[batch(shared[0]), spec.queries, width]),
            k: values.input::<T>("k", &[batch(shared[1]), spec.keys, width]),
            v: values.input::<T>("v", &[batch(shared[2]), spec.keys, width]),
            d_out: values.weight::<T>("d_out", &[spec.batch, spec.queries, width], 1.0),
        }
    }

    fn reference(&self) -> impl Fn(&[Tensor]) -> Tensor + use<> {
        let spec = self.spec;
        move |inputs| {
            let q = inputs[0].expand([spec.batch as i64, -1, -1], false);
            let (heads, scale) = (spec.heads as i64, f64::from(spec.scale));
            segface_reference::attention::attention(&q, &inputs[1], &inputs[2], heads, scale)
        }
    }
}

fn run<T: Element>(context: &mut Context, spec: &AttentionSpec, case: &Case, start: Option<f32>) -> Vec<Vec<f32>> {
    let [q, k, v, d_out] = [&case.q, &case.k, &case.v, &case.d_out].map(Operand::elements::<T>);
    let mut gradients =
        [&q, &k, &v].map(|x| start.map_or(unset::<T>(x.len()), |value| vec![T::from_f32(value); x.len()]));
    let [d_q, d_k, d_v] = gradients.each_mut().map(|values| Gradient { values, accumulate: start.is_some() });
    let operands = AttentionBackwardOperands { q: &q, k: &k, v: &v, d_out: &d_out, d_q, d_k, d_v };
    attention_backward(context, spec, operands);
    gradients.map(|gradient| widen(&gradient)).to_vec()
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let case = problem.case::<T>();
    let function = Differentiable {
        inputs: &[("q", &case.q), ("k", &case.k), ("v", &case.v)],
        cotangent: &case.d_out,
        forward: problem.reference(),
    };
    let terms = |input: &str| if input == "q" { problem.spec.keys } else { problem.spec.queries };
    let floor = |input: &str| Floor::of_sum(T::DTYPE, terms(input));
    function.judge::<T>("attention", floor, |context| run::<T>(context, &problem.spec, &case, None))
}

fn both(problem: &Problem) -> Result<(), Failure> {
    check::<f32>(problem)?;
    check::<bf16>(problem)
}

#[test]
fn small_attentions_of_any_shape() {
    random_problems("attention backward small", 32, problem(40, 40, values()), both);
}

#[test]
fn class_tokens_look_at_many_image_tokens() {
    random_problems("attention backward many keys", 6, problem(19, 3000, unit_values()), both);
}

#[test]
fn many_image_tokens_look_at_class_tokens() {
    random_problems("attention backward many queries", 6, problem(1500, 19, unit_values()), both);
}

#[test]
fn differences_agree_and_gradients_are_added() {
    random_problems("attention backward differences", 6, problem(3, 4, unit_values()), |problem| {
        let case = problem.case::<f32>();
        let function = Differentiable {
            inputs: &[("q", &case.q), ("k", &case.k), ("v", &case.v)],
            cotangent: &case.d_out,
            forward: problem.reference(),
        };
        // With one key the true gradients of q and k are zero.
        if problem.spec.keys > 1 && problem.spec.heads < 8 {
            function.judge_differences("attention", |context| run::<f32>(context, &problem.spec, &case, None))?;
        }
        let context = &mut Context::new(2, Isa::best());
        let fresh = run::<f32>(context, &problem.spec, &case, None);
        let sums = run::<f32>(context, &problem.spec, &case, Some(0.75));
        for (fresh, sums) in fresh.iter().zip(&sums) {
            added("attention", &vec![0.75; fresh.len()], fresh, sums)?;
        }
        Ok(())
    });
}

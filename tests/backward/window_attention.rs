//! Windows: maps that one window covers or not, padded or not, both Swin versions, with the gradients of position bias and
//! scale.

use proptest::prelude::*;
use segface_kernels::window_attention::backward::{
    WindowCoreBackwardOperands, window_core_backward, window_gather_backward, window_scatter_backward,
};
use segface_kernels::window_attention::{
    WindowCoreSpec, WindowGatherOperands, WindowGatherSpec, WindowKind, WindowPlan, WindowScatterOperands,
    WindowScatterSpec, cpu,
};
use segface_kernels::{Context, Element, Gradient, Isa, bf16};
use segface_reference::window_attention::{Scores, attend, shift_mask};
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Operand, Values, unit_values, values, widen},
    problems::random_problems,
};
use tch::Tensor;

const HEAD: usize = 32;

#[derive(Debug)]
struct Problem {
    values: Values,
    batch: usize,
    input: [usize; 2],
    heads: usize,
    kind: WindowKind,
    shifted: bool,
}

fn problem(side: usize, values: impl Strategy<Value = Values>) -> impl Strategy<Value = Problem> {
    let kind = prop_oneof![Just(WindowKind::V1), Just(WindowKind::V2)];
    (values, 1..3usize, [1..side, 1..side], 1..4usize, kind, any::<bool>())
        .prop_map(|(values, batch, input, heads, kind, shifted)| Problem { values, batch, input, heads, kind, shifted })
}

struct Case {
    qkv: Operand,
    bias: Operand,
    scale: Operand,
    d_out: Operand,
}

impl Problem {
    fn window(&self) -> usize {
        if self.kind == WindowKind::V1 { 7 } else { 8 }
    }

    fn plan(&self) -> WindowPlan {
        let shift = if self.shifted { self.window() / 2 } else { 0 };
        WindowPlan::new(self.input, self.window(), shift)
    }

    fn channels(&self) -> usize {
        HEAD * self.heads
    }

    /// Tokens of all windows.
    fn rows(&self) -> usize {
        self.batch * self.plan().padded().iter().product::<usize>()
    }

    fn spec(&self) -> WindowCoreSpec {
        WindowCoreSpec {
            batch: self.batch,
            plan: self.plan(),
            channels: self.channels(),
            heads: self.heads,
            kind: self.kind,
        }
    }

    fn case<T: Element>(&self) -> Case {
        let (values, area) = (&self.values, self.window() * self.window());
        let windows = self.rows() / area;
        let scale = match self.kind {
            WindowKind::V1 => vec![(HEAD as f32).powf(-0.5); self.heads],
            // From 8 to 13, and one of a hundred: scores of ±100 in one head.
            WindowKind::V2 => {
                (0..self.heads).map(|head| if head == 2 { 99.0 } else { 8.0 + 5.0 * head as f32 }).collect()
            }
        };
        Case {
            qkv: values.input::<T>("qkv", &[windows, area, 3 * self.channels()]),
            bias: values.weight::<T>("position bias", &[self.heads, area, area], 1.0),
            scale: Operand::from_values::<T>(&[self.heads], scale),
            d_out: values.weight::<T>("d_out", &[windows, area, self.channels()], 1.0),
        }
    }

    fn reference(&self) -> impl Fn(&[Tensor]) -> Tensor + use<> {
        let (plan, kind) = (self.plan(), self.kind);
        move |inputs| {
            let [height, width] = plan.padded().map(|n| n as i64);
            let [down, right] = plan.shift.map(|n| n as i64);
            let mask = shift_mask(height, width, plan.window as i64, down, right, inputs[0].kind());
            let scores = match kind {
                WindowKind::V1 => Scores::ScaledDot,
                WindowKind::V2 => Scores::Cosine(inputs[2].log().view([-1, 1, 1])),
            };
            attend(&inputs[0], &scores, &inputs[1], &mask)
        }
    }
}

fn run<T: Element>(context: &mut Context, spec: &WindowCoreSpec, case: &Case, start: Option<f32>) -> Vec<Vec<f32>> {
    let (qkv, d_out) = (case.qkv.elements::<T>(), case.d_out.elements::<T>());
    let mut d_qkv = start.map_or(unset::<T>(qkv.len()), |value| vec![T::from_f32(value); qkv.len()]);
    let mut d_bias = vec![start.unwrap_or(0.0); case.bias.f32().len()];
    let mut d_scale = vec![start.unwrap_or(0.0); spec.heads];
    let operands = WindowCoreBackwardOperands {
        qkv: &qkv,
        score_scale: case.scale.f32(),
        bias: case.bias.f32(),
        d_out: &d_out,
        d_qkv: Gradient { values: &mut d_qkv, accumulate: start.is_some() },
        d_bias: Some(&mut d_bias),
        d_score_scale: Some(&mut d_scale),
    };
    window_core_backward(context, spec, operands);
    let mut gradients = vec![widen(&d_qkv), d_bias];
    if spec.kind == WindowKind::V2 {
        gradients.push(d_scale);
    }
    gradients
}

/// V1's scale is a constant.
fn inputs<'a>(problem: &Problem, case: &'a Case) -> Vec<(&'a str, &'a Operand)> {
    let all = [("qkv", &case.qkv), ("bias", &case.bias), ("scale", &case.scale)];
    all[..if problem.kind == WindowKind::V1 { 2 } else { 3 }].to_vec()
}

fn core<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let (case, spec) = (problem.case::<T>(), problem.spec());
    let function =
        Differentiable { inputs: &inputs(problem, &case), cotangent: &case.d_out, forward: problem.reference() };
    let area = problem.window() * problem.window();
    let terms = |input: &str| match input {
        "qkv" => area,
        "bias" => problem.rows() / area,
        _ => problem.rows() * area,
    };
    let floor = |input: &str| Floor::of_sum(T::DTYPE, terms(input));
    function.judge::<T>("window_core", floor, |context| run::<T>(context, &spec, &case, None))
}

#[test]
fn attention_inside_windows() {
    random_problems("window_core backward", 24, problem(27, values()), |problem| {
        core::<f32>(problem)?;
        core::<bf16>(problem)
    });
}

#[test]
fn gradients_are_added() {
    random_problems("window_core backward added", 4, problem(16, unit_values()), |problem| {
        let (case, spec) = (problem.case::<f32>(), problem.spec());
        let context = &mut Context::new(2, Isa::best());
        let fresh = run::<f32>(context, &spec, &case, None);
        let sums = run::<f32>(context, &spec, &case, Some(0.75));
        for (fresh, sums) in fresh.iter().zip(&sums) {
            added("window_core", &vec![0.75; fresh.len()], fresh, sums)?;
        }
        Ok(())
    });
}

#[test]
fn differences_agree() {
    // One window of one head, of which one row of tokens is real: differences of every operand take their time.
    for kind in [WindowKind::V1, WindowKind::V2] {
        random_problems("window_core backward differences", 1, unit_values(), |values| {
            let problem = Problem { values: values.clone(), batch: 1, input: [1, 5], heads: 1, kind, shifted: false };
            let (case, spec) = (problem.case::<f32>(), problem.spec());
            let function = Differentiable {
                inputs: &inputs(&problem, &case),
                cotangent: &case.d_out,
                forward: problem.reference(),
            };
            function.judge_differences("window_core", |context| run::<f32>(context, &spec, &case, None))
        });
    }
}

/// A linear map moves x to y: its adjoint moves y back so that ⟨move x, y⟩ = ⟨x, move back y⟩, exactly for small whole
/// numbers.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn whole(operand: &Operand) -> Vec<f32> {
    operand.f32().iter().map(|v| (3.0 * v).round()).collect()
}

#[test]
fn gather_and_scatter_are_moved_back() {
    random_problems("windows backward", 24, problem(27, unit_values()), |problem| {
        let Problem { batch, input, ref values, .. } = *problem;
        let (plan, channels, rows) = (problem.plan(), problem.channels(), problem.rows());
        let pixels = batch * input[0] * input[1];
        let x = whole(&values.input::<f32>("x", &[pixels, channels]));
        let windows = whole(&values.input::<f32>("windows", &[rows, channels]));
        let fill = whole(&values.input::<f32>("fill", &[channels]));
        for isa in Isa::available() {
            let context = &mut Context::new(2, isa);
            let spec = WindowGatherSpec { batch, plan, channels };
            let mut out = unset::<f32>(windows.len());
            let operands = WindowGatherOperands { x: &x, fill: Some(&fill), out: &mut out };
            cpu::window_gather(context, &spec, operands);
            let (mut d_x, mut d_fill) = (unset::<f32>(x.len()), vec![0.0; channels]);
            window_gather_backward(context, &spec, &windows, Gradient::overwrite(&mut d_x), Some(&mut d_fill));
            if dot(&out, &windows) != dot(&x, &d_x) + dot(&fill, &d_fill) {
                return Err(Failure::new(format!("{isa:?}: gather's adjoint")));
            }
            let mut sums = vec![1.0; x.len()];
            window_gather_backward(context, &spec, &windows, Gradient::add_to(&mut sums), None);
            added("gather", &vec![1.0; x.len()], &d_x, &sums)?;

            let spec = WindowScatterSpec { batch, plan, channels };
            let mut out = unset::<f32>(x.len());
            cpu::window_scatter(context, &spec, WindowScatterOperands { x: &windows, out: &mut out });
            let mut d_windows = unset::<f32>(windows.len());
            window_scatter_backward(context, &spec, &x, Gradient::overwrite(&mut d_windows));
            if dot(&out, &x) != dot(&windows, &d_windows) {
                return Err(Failure::new(format!("{isa:?}: scatter's adjoint")));
            }
            let mut sums = vec![1.0; windows.len()];
            window_scatter_backward(context, &spec, &x, Gradient::add_to(&mut sums));
            added("scatter", &vec![1.0; windows.len()], &d_windows, &sums)?;
        }
        Ok(())
    });
}

//! Random problems: drawn, run everywhere this machine can run them, judged, and shrunk when one fails.

use crate::judge::{Failure, Floor, judge, kind};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};
use segface_kernels::{Context, Element, Isa};
use tch::{Kind, Tensor};

/// Thread counts each kernel is run with: alone, and with more threads than this suite's machines are sure to have.
const THREADS: [usize; 2] = [1, 3];

/// Runs `test` on `cases` problems drawn from `problems` and panics with the simplest one that fails.
///
/// Problems are the same in every run, drawn from a seed made of `name`. `SEGFACE_SEED` (a number, or `random`) draws
/// others, `SEGFACE_CASES` multiplies their number; a fraction leaves at least one.
pub fn random_problems<S: Strategy>(
    name: &str,
    cases: u32,
    problems: S,
    test: impl Fn(&S::Value) -> Result<(), Failure>,
) {
    tch::set_num_threads(1);
    let seed = seed(name);
    let times: f64 = std::env::var("SEGFACE_CASES").map_or(1.0, |text| {
        let times = text.parse().ok().filter(|times: &f64| times.is_finite() && *times > 0.0);
        times.unwrap_or_else(|| panic!("SEGFACE_CASES is {text:?}, expected how many times the usual number"))
    });
    let cases = (f64::from(cases) * times).ceil() as u32;
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let outcome = TestRunner::new_with_rng(config, rng)
        .run(&problems, |problem| test(&problem).map_err(|failure| TestCaseError::fail(failure.to_string())));
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, problem)) => {
            panic!("{name}, drawn with SEGFACE_SEED={seed}, simplest failing problem:\n{problem:#?}\n{reason}")
        }
        Err(TestError::Abort(reason)) => panic!("{name}, drawn with SEGFACE_SEED={seed}: {reason}"),
    }
}

fn seed(name: &str) -> u64 {
    match std::env::var("SEGFACE_SEED") {
        Err(_) => u64::from(segface::weights::seeded_values(name, 1)[0].to_bits()),
        Ok(text) if text == "random" => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |time| time.as_nanos() as u64)
        }
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("SEGFACE_SEED is {text:?}, expected a number or `random`")),
    }
}

/// Runs a kernel with every instruction set of this machine and judges each result against libtorch.
///
/// `reference` computes the result in the kind it is given; `kernel` returns ours, the same elements in the same order,
/// widened to f32. With other thread counts the same instruction set must give the same bits.
pub fn judge_kernel<T: Element>(
    name: &str,
    floor: Floor,
    reference: impl Fn(Kind) -> Tensor,
    mut kernel: impl FnMut(&mut Context) -> Vec<f32>,
) -> Result<(), Failure> {
    let truth = reference(Kind::Double);
    let peer = reference(kind(T::DTYPE));
    for isa in Isa::available() {
        let mut alone: Option<Vec<f32>> = None;
        for threads in THREADS {
            let result = kernel(&mut Context::new(threads, isa));
            let place = format!("{name} ({:?}, {}, {threads} threads)", T::DTYPE, isa.name());
            match &alone {
                None => {
                    judge(&place, &result, &truth, &peer, floor)?;
                    alone = Some(result);
                }
                Some(alone) => same_bits(alone, &result).map_err(|failure| failure.at(place))?,
            }
        }
    }
    Ok(())
}

/// Whether two results are the same, bit by bit.
pub fn same_bits(expected: &[f32], found: &[f32]) -> Result<(), Failure> {
    if expected.len() != found.len() {
        return Err(Failure::new(format!("{} values, {} before", found.len(), expected.len())));
    }
    match expected.iter().zip(found).position(|(a, b)| a.to_bits() != b.to_bits()) {
        None => Ok(()),
        Some(i) => Err(Failure::new(format!(
            "result depends on the number of threads: element {i} is {:e}, with one thread {:e}",
            found[i], expected[i]
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operand::{Operand, values, widen};
    use segface_kernels::bf16;
    use std::panic::catch_unwind;

    fn message(outcome: std::thread::Result<()>) -> String {
        *outcome.expect_err("the problem fails").downcast::<String>().expect("a formatted message")
    }

    #[test]
    fn a_failing_problem_is_shrunk_and_names_its_seed() {
        let outcome = catch_unwind(|| {
            random_problems("shrinks", 256, 0..10_000u32, |&n| match n {
                777.. => Err(Failure::new(format!("{n} is too much"))),
                _ => Ok(()),
            });
        });
        let message = message(outcome);
        assert!(message.contains("777 is too much") && message.contains("SEGFACE_SEED="), "{message}");
    }

    fn double<T: Element>(x: &Operand, factor: f32) -> Result<(), Failure> {
        judge_kernel::<T>(
            "double",
            Floor::of(T::DTYPE),
            |kind| x.tensor(kind) * 2.0,
            |_| widen(&x.elements::<T>().iter().map(|e| T::from_f32(e.to_f32() * factor)).collect::<Vec<_>>()),
        )
    }

    #[test]
    fn a_right_kernel_passes_and_a_wrong_one_does_not() {
        random_problems("double", 16, values(), |values| {
            let (single, half) = (values.input::<f32>("x", &[3, 5]), values.input::<bf16>("x", &[3, 5]));
            double::<f32>(&single, 2.0)?;
            double::<bf16>(&half, 2.0)?;
            assert!(double::<f32>(&single, 2.000_002).is_err());
            assert!(double::<bf16>(&half, 2.1).is_err());
            Ok(())
        });
    }

    #[test]
    fn a_result_that_depends_on_the_thread_count_fails() {
        let one = |kind| Tensor::from_slice(&[1.0]).to_kind(kind);
        let kernel = |context: &mut Context| vec![1.0 + (context.threads() - 1) as f32 * f32::EPSILON];
        let outcome = judge_kernel::<f32>("threads", Floor::of(f32::DTYPE), one, kernel);
        assert!(outcome.expect_err("another bit").to_string().contains("number of threads"));
    }
}

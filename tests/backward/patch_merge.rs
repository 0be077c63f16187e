//! The patch gather: odd and even maps, in both precisions, exactly.

use proptest::prelude::*;
use segface_kernels::patch_merge::PatchGatherSpec;
use segface_kernels::patch_merge::backward::patch_gather_backward;
use segface_kernels::{Context, DType, Element, Gradient, Isa, bf16};
use segface_reference::patch_merge::gather_neighbours;
use segface_tests::{
    gradients::{Differentiable, added, unset},
    judge::{Failure, Floor},
    operand::{Values, values, widen},
    problems::random_problems,
};
use tch::Tensor;

#[derive(Debug)]
struct Problem {
    values: Values,
    batch: usize,
    input: [usize; 2],
    channels: usize,
}

fn problem() -> impl Strategy<Value = Problem> {
    (values(), 1..4usize, [1..24usize, 1..24usize], 1..80usize).prop_map(|(values, batch, input, channels)| Problem {
        values,
        batch,
        input,
        channels,
    })
}

fn check<T: Element>(problem: &Problem) -> Result<(), Failure> {
    let Problem { batch, input, channels, ref values } = *problem;
    let spec = PatchGatherSpec { batch, input, channels };
    let [height, width] = spec.output();
    let x = values.input::<T>("x", &[batch, input[0], input[1], channels]);
    let d_out = values.weight::<T>("d_out", &[batch, height, width, 4 * channels], 1.0);
    let elements = d_out.elements::<T>();
    let function = Differentiable {
        inputs: &[("x", &x)],
        cotangent: &d_out,
        forward: |inputs: &[Tensor]| gather_neighbours(&inputs[0]).contiguous(),
    };
    let run = |context: &mut Context| {
        let mut d_x = unset::<T>(x.f32().len());
        patch_gather_backward(context, &spec, &elements, Gradient::overwrite(&mut d_x));
        vec![widen(&d_x)]
    };
    function.judge::<T>("patch_gather", |_| Floor(0.0), run)?;
    if T::DTYPE == DType::F32 {
        let context = &mut Context::new(2, Isa::best());
        let mut sums = vec![T::from_f32(0.75); x.f32().len()];
        patch_gather_backward(context, &spec, &elements, Gradient::add_to(&mut sums));
        added("patch_gather", &vec![0.75; sums.len()], &run(context)[0], &widen(&sums))?;
    }
    Ok(())
}

#[test]
fn neighbours_get_their_part_back() {
    random_problems("patch_gather backward", 24, problem(), |problem| {
        check::<f32>(problem)?;
        check::<bf16>(problem)
    });
}

//! Speed beside libtorch eager in f32, on the shapes of MobileNet at 256 pixels, batch 4, and of Swin at 224, batch 2: a table, run
//! when asked for (`--ignored --nocapture`). Best of several runs in turns, both with as many threads as `SEGFACE_THREADS` says,
//! two if it says nothing; with one, the time is the processor's, which other programs disturb less.

use segface_kernels::adamw::{AdamWOperands, AdamWSpec};
use segface_kernels::attention::AttentionSpec;
use segface_kernels::attention::backward::{AttentionBackwardOperands, attention_backward};
use segface_kernels::attention::{AttentionOperands, cpu::attention};
use segface_kernels::gemm::PackedMatrix;
use segface_kernels::layer_norm::LayerNormSpec;
use segface_kernels::layer_norm::backward::{LayerNormBackwardOperands, LayerNormParameters, layer_norm_backward};
use segface_kernels::loss::{LossOperands, LossSpec};
use segface_kernels::mask_head::backward::{
    MaskHeadBackwardOperands, MaskHeadParameters, MaskProductBackwardOperands, mask_head_backward,
    mask_product_backward,
};
use segface_kernels::mask_head::{MaskHeadOutput, MaskHeadSpec, MaskProductSpec};
use segface_kernels::resample::BilinearSpec;
use segface_kernels::resample::backward::bilinear_backward;
use segface_kernels::window_attention::backward::{WindowCoreBackwardOperands, window_core_backward};
use segface_kernels::window_attention::{WindowCoreSpec, WindowKind, WindowPlan};
use segface_kernels::{Context, Gradient, Isa};
use segface_reference::window_attention::{Scores, attend, shift_mask};
use segface_tests::operand::{to_nchw, to_nhwc};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

const RUNS: usize = 15;

/// Threads of both.
fn threads() -> usize {
    std::env::var("SEGFACE_THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// What this thread has had of a processor, or with several threads what a clock says.
fn now() -> Duration {
    let clock = if threads() == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` alone.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0, "a clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Prints the best time of both and their ratio.
fn compare(name: &str, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let time = |run: &mut dyn FnMut()| {
        let start = now();
        run();
        now() - start
    };
    let (mut own, mut peer) = (Duration::MAX, Duration::MAX);
    for _ in 0..RUNS {
        own = own.min(time(&mut ours));
        peer = peer.min(time(&mut theirs));
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:50} ours {:8.3} ms  libtorch {:8.3} ms  {:6.2}×",
        milliseconds(own),
        milliseconds(peer),
        peer.as_secs_f64() / own.as_secs_f64()
    );
}

fn random(shape: &[usize]) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
    Tensor::randn(&shape[..], (Kind::Float, Device::Cpu))
}

fn values(x: &Tensor) -> Vec<f32> {
    Vec::try_from(x.flatten(0, -1)).expect("f32 values")
}

/// A forward pass with its gradients by autograd.
struct Tape {
    inputs: Vec<Tensor>,
    out: Tensor,
    d_out: Tensor,
}

impl Tape {
    fn new(inputs: &[&Tensor], d_out: &Tensor, forward: impl Fn(&[Tensor]) -> Tensor) -> Tape {
        let inputs: Vec<Tensor> = inputs.iter().map(|x| x.detach().set_requires_grad(true)).collect();
        let out = (&forward(&inputs) * d_out).sum(None);
        Tape { inputs, out, d_out: d_out.shallow_clone() }
    }

    fn backward(&self) {
        let gradients = Tensor::run_backward(&[&self.out], &self.inputs, true, false);
        assert!(gradients.len() == self.inputs.len() && self.d_out.numel() > 0);
    }
}

fn attentions(context: &mut Context, name: &str, spec: AttentionSpec) {
    let AttentionSpec { batch, queries, keys, heads, head_dim, scale } = spec;
    let width = heads * head_dim;
    let [q, k, v, d_out] = [queries, keys, keys, queries].map(|tokens| random(&[batch, tokens, width]));
    let [qs, ks, vs, slopes] = [&q, &k, &v, &d_out].map(values);
    let forward = |inputs: &[Tensor]| {
        segface_reference::attention::attention(&inputs[0], &inputs[1], &inputs[2], heads as i64, f64::from(scale))
    };
    let mut out = vec![0.0; slopes.len()];
    let inputs = [q.shallow_clone(), k.shallow_clone(), v.shallow_clone()];
    compare(
        &format!("{name}, forward"),
        || attention(context, &spec, AttentionOperands { q: &qs, k: &ks, v: &vs, out: &mut out }),
        || drop(tch::no_grad(|| forward(&inputs))),
    );
    let tape = Tape::new(&[&q, &k, &v], &d_out, forward);
    let (mut d_q, mut d_k, mut d_v) = (vec![0.0; qs.len()], vec![0.0; ks.len()], vec![0.0; vs.len()]);
    compare(
        &format!("{name}, backward"),
        || {
            let operands = AttentionBackwardOperands {
                q: &qs,
                k: &ks,
                v: &vs,
                d_out: &slopes,
                d_q: Gradient::overwrite(&mut d_q),
                d_k: Gradient::overwrite(&mut d_k),
                d_v: Gradient::overwrite(&mut d_v),
            };
            attention_backward(context, &spec, operands);
        },
        || tape.backward(),
    );
}

fn layer_norms(context: &mut Context, rows: usize, channels: usize) {
    let spec = LayerNormSpec { rows, channels, eps: 1e-5 };
    let (x, weight, bias, d_out) =
        (random(&[rows, channels]), random(&[channels]), random(&[channels]), random(&[rows, channels]));
    let tape = Tape::new(&[&x, &weight, &bias], &d_out, |inputs| {
        segface_reference::layer_norm::layer_norm(&inputs[0], &inputs[1], &inputs[2], 1e-5)
    });
    let (x, weight, d_out) = (values(&x), values(&weight), values(&d_out));
    let (mut d_x, mut d_weight, mut d_bias) = (vec![0.0; x.len()], vec![0.0; channels], vec![0.0; channels]);
    compare(
        &format!("layer norm {rows} × {channels}, backward"),
        || {
            let operands = LayerNormBackwardOperands {
                x: &x,
                weight: &weight,
                d_out: &d_out,
                d_x: Gradient::overwrite(&mut d_x),
                d_parameters: Some(LayerNormParameters { d_weight: &mut d_weight, d_bias: &mut d_bias }),
            };
            layer_norm_backward(context, &spec, operands);
        },
        || tape.backward(),
    );
}

fn bilinears(context: &mut Context, input: usize, output: usize) {
    let spec = BilinearSpec { batch: 4, input: [input; 2], output: [output; 2], channels: 256 };
    let (x, d_out) = (random(&[4, input, input, 256]), random(&[4, output, output, 256]));
    let tape = Tape::new(&[&to_nchw(&x)], &to_nchw(&d_out), |inputs| {
        segface_reference::resample::bilinear(&inputs[0], output as i64, output as i64)
    });
    let (slopes, mut d_x) = (values(&d_out), vec![0.0; x.numel()]);
    compare(
        &format!("bilinear {input} → {output}, backward"),
        || bilinear_backward(context, &spec, &slopes, Gradient::overwrite(&mut d_x)),
        || tape.backward(),
    );
}

fn heads(context: &mut Context) {
    let (batch, pixels, classes) = (4, 256 * 256, 19);
    let (u, hyper, d_out) =
        (random(&[batch, pixels, 32]), random(&[batch, classes, 32]), random(&[batch, classes, pixels]));
    // As the published network lays it out: channels first.
    let tape = Tape::new(&[&hyper, &u.transpose(1, 2).contiguous()], &d_out, |inputs| inputs[0].matmul(&inputs[1]));
    let spec = MaskProductSpec { batch, pixels, classes };
    let (u, hyper, d_logits) = (values(&u), values(&hyper), values(&d_out));
    let (mut d_u, mut d_hyper) = (vec![0.0; u.len()], vec![0.0; hyper.len()]);
    compare(
        "mask product 4 × 256², backward",
        || {
            let operands = MaskProductBackwardOperands {
                u: &u,
                hyper: &hyper,
                d_logits: &d_logits,
                d_u: Gradient::overwrite(&mut d_u),
                d_hyper: Gradient::overwrite(&mut d_hyper),
            };
            mask_product_backward(context, &spec, operands);
        },
        || tape.backward(),
    );

    let logits = random(&[4, 19, 256, 256]);
    let labels = Tensor::randint(19, [4, 256, 256], (Kind::Int64, Device::Cpu));
    let ids: Vec<u8> = Vec::<i64>::try_from(labels.flatten(0, -1)).expect("ids").iter().map(|id| *id as u8).collect();
    let rows = values(&to_nhwc(&logits));
    let mut d_logits = vec![0.0; rows.len()];
    compare(
        "loss 4 × 256², forward and backward",
        || {
            let operands = LossOperands { logits: &rows, labels: &ids, scale: 1.0, d_logits: Some(&mut d_logits) };
            let spec = LossSpec { batch: 4, pixels: 256 * 256, classes: 19 };
            segface_kernels::loss::cpu::loss(context, &spec, operands).expect("labels are classes");
        },
        || {
            let logits = logits.detach().set_requires_grad(true);
            let cross_entropy =
                logits.log_softmax(1, None).nll_loss2d(&labels, None::<Tensor>, tch::Reduction::Mean, -100);
            let p = logits.softmax(1, None);
            let t = labels.one_hot(19).permute([0, 3, 1, 2]).to_kind(Kind::Float);
            let sum = |x: Tensor| x.sum_dim_intlist([0i64, 2, 3].as_slice(), false, None);
            let over = sum(&p * &t) * 2.0 + 1e-5;
            let under = sum(p.square()) + sum(t.square()) + 1e-5;
            let loss = cross_entropy * 0.5 + (over / under * -1.0 + 1.0).mean(None) * 0.5;
            drop(Tensor::run_backward(&[loss], &[logits], false, false));
        },
    );
}

/// The head from image tokens to logits: ours computes u again, libtorch has kept every map.
fn whole_head(context: &mut Context) {
    let (batch, side, classes) = (4, 64, 19);
    let image = random(&[batch, 256, side, side]);
    let [up1, up2] = [random(&[256, 64, 2, 2]) / 16.0, random(&[64, 32, 2, 2]) / 8.0];
    let [bias1, gamma, beta] = [0, 1, 2].map(|_| random(&[64]));
    let (bias2, hyper) = (random(&[32]), random(&[batch, classes, 32]));
    let d_out = random(&[batch, classes, 16 * side * side]);
    let tape = Tape::new(&[&image, &up1, &bias1, &gamma, &beta, &up2, &bias2, &hyper], &d_out, |inputs| {
        let up = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
            x.conv_transpose2d(weight, Some(bias), [2, 2], [0, 0], [0, 0], 1, [1, 1])
        };
        let [x, up1, bias1, gamma, beta, up2, bias2, hyper] = std::array::from_fn(|i| &inputs[i]);
        let middle = segface_reference::layer_norm::layer_norm_2d(&up(x, up1, bias1), gamma, beta, 1e-6).gelu("none");
        hyper.matmul(&up(&middle, up2, bias2).gelu("none").flatten(2, 3))
    });
    let spec = MaskHeadSpec { batch, input: [side; 2], classes, output: MaskHeadOutput::Logits };
    let isa = context.isa();
    // Only time is asked for: the matrices' rows may stand in any order.
    let packed = |weight: &Tensor, n: usize, k: usize| {
        let weight = values(weight);
        let mut turned = PackedMatrix::empty();
        turned.repack::<f32>(isa, k, n, &weight, true);
        (PackedMatrix::pack::<f32>(isa, n, k, &weight), turned)
    };
    let (weight1, weight2) = (packed(&up1, 256, 256), packed(&up2, 128, 64));
    let (x, bias1, gamma, beta) = (values(&image), values(&bias1), values(&gamma), values(&beta));
    let (bias2, hyper, d_logits) = (values(&bias2), values(&hyper), values(&d_out));
    let (mut d_x, mut d_hyper) = (vec![0.0; x.len()], vec![0.0; hyper.len()]);
    let mut sums = [256 * 256, 64, 64, 64, 128 * 64, 32].map(|len: usize| vec![0.0; len]);
    compare(
        "mask head 4 × 64² tokens, backward, fused",
        || {
            let [d_weight1, d_bias1, norm_weight, norm_bias, d_weight2, d_bias2] =
                sums.each_mut().map(Vec::as_mut_slice);
            let operands = MaskHeadBackwardOperands {
                x: &x,
                weight1: &weight1.0,
                bias1: &bias1,
                norm: (&gamma, &beta),
                weight2: &weight2.0,
                bias2: &bias2,
                transposed: [&weight1.1, &weight2.1],
                hyper: &hyper,
                d_logits: &d_logits,
                d_x: Gradient::overwrite(&mut d_x),
                d_hyper: Gradient::overwrite(&mut d_hyper),
                d_parameters: MaskHeadParameters {
                    weight1: d_weight1,
                    bias1: d_bias1,
                    norm_weight,
                    norm_bias,
                    weight2: d_weight2,
                    bias2: d_bias2,
                },
            };
            mask_head_backward(context, &spec, operands);
        },
        || tape.backward(),
    );
}

fn windows(context: &mut Context, side: usize, heads: usize) {
    let (batch, channels) = (2, 32 * heads);
    let plan = WindowPlan::new([side; 2], 7, 3);
    let count = plan.windows().iter().product::<usize>();
    let (qkv, bias) = (random(&[batch * count, 49, 3 * channels]), random(&[heads, 49, 49]));
    let d_out = random(&[batch * count, 49, channels]);
    let [down, right] = plan.shift.map(|n| n as i64);
    let mask = shift_mask(side as i64, side as i64, 7, down, right, Kind::Float);
    let tape = Tape::new(&[&qkv, &bias], &d_out, |inputs| attend(&inputs[0], &Scores::ScaledDot, &inputs[1], &mask));
    let spec = WindowCoreSpec { batch, plan, channels, heads, kind: WindowKind::V1 };
    let (qkv, bias, d_out) = (values(&qkv), values(&bias), values(&d_out));
    let (mut d_qkv, mut d_bias) = (vec![0.0; qkv.len()], vec![0.0; bias.len()]);
    let score_scale = vec![32f32.powf(-0.5); heads];
    compare(
        &format!("windows {side}² × {channels}, backward"),
        || {
            let operands = WindowCoreBackwardOperands {
                qkv: &qkv,
                score_scale: &score_scale,
                bias: &bias,
                d_out: &d_out,
                d_qkv: Gradient::overwrite(&mut d_qkv),
                d_bias: Some(&mut d_bias),
                d_score_scale: None,
            };
            window_core_backward(context, &spec, operands);
        },
        || tape.backward(),
    );
}

fn steps(context: &mut Context) {
    let n = 7_040_000;
    let gradients = random(&[n]);
    let mut buffers = [random(&[n]), random(&[n]), random(&[n]).square()].map(|x| values(&x));
    let [p, m, v] = [random(&[n]), random(&[n]), random(&[n]).square()];
    let g = values(&gradients);
    compare(
        "adamw, 7.04 M parameters",
        || {
            let [parameters, first_moments, second_moments] = buffers.each_mut().map(Vec::as_mut_slice);
            let spec = AdamWSpec {
                learning_rate: 1e-4,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 1e-5,
                step: 10,
                gradient_scale: 1.0,
            };
            let operands = AdamWOperands { gradients: &g, parameters, first_moments, second_moments };
            segface_kernels::adamw::cpu::adamw(context, &spec, operands);
        },
        || {
            // libtorch's own sequence, without its loop over parameters.
            let (mut p, mut m, mut v) = (p.shallow_clone(), m.shallow_clone(), v.shallow_clone());
            let _ = p.g_mul_scalar_(1.0 - 1e-9);
            let _ = m.g_mul_scalar_(0.9).g_add_(&(&gradients * 0.1));
            let _ = v.g_mul_scalar_(0.999).addcmul_(&gradients, &gradients);
            let under = v.sqrt() / 0.1 + 1e-8;
            let _ = p.addcdiv_(&m, &under);
        },
    );
}

#[test]
#[ignore = "measures speed: run it alone, with --nocapture"]
fn beside_libtorch() {
    tch::set_num_threads(threads() as i32);
    let context = &mut Context::new(threads(), Isa::best());
    let of_heads = |queries, keys, head_dim: usize| AttentionSpec {
        batch: 4,
        queries,
        keys,
        heads: 8,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
    };
    attentions(context, "class tokens attend to themselves", of_heads(19, 19, 32));
    attentions(context, "class tokens attend to 64² image tokens", of_heads(19, 4096, 16));
    attentions(context, "64² image tokens attend to class tokens", of_heads(4096, 19, 16));
    layer_norms(context, 4 * 4096, 256);
    layer_norms(context, 4 * 16384, 64);
    layer_norms(context, 2 * 3136, 128);
    layer_norms(context, 2 * 196, 512);
    for input in [8, 16, 32] {
        bilinears(context, input, 64);
    }
    heads(context);
    whole_head(context);
    windows(context, 56, 4);
    windows(context, 14, 16);
    steps(context);
}

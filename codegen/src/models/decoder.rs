//! SegFace's MLP fusion and decoder (SegFace paper, figure 2), as published; the transformer is SAM's two-way one.

use crate::Variant;
use crate::builder::Builder;
use crate::ir::{Output, ValueId};
use crate::weights::Make;
use segface_kernels::Act::{Gelu, Relu};

const WIDTH: usize = 256;
const HEADS: usize = 8;
/// Inner width of the cross-attentions.
const CROSS_WIDTH: usize = 128;
const MLP_WIDTH: usize = 2048;
const EPS: f32 = 1e-5;
/// ε of the norm inside the upscaling.
const UPSCALE_EPS: f32 = 1e-6;

/// Class tokens, image tokens and their encodings.
struct Tokens {
    class: ValueId,
    class_pe: ValueId,
    image: ValueId,
    image_pe: ValueId,
}

/// Fused map of the taps: each projected to 256, upsampled, stacked coarsest first, and mixed.
pub(super) fn mlp_fusion(b: &mut Builder, taps: [ValueId; 4]) -> ValueId {
    let [_, height, width, _] = b.map(taps[0]);
    let mut index = 0;
    let mut maps = taps.map(|tap| {
        let projected = b.linear(&format!("linear_c.{index}.proj"), tap, WIDTH);
        let upsampled = match index {
            0 => projected,
            _ => b.bilinear(&format!("linear_c.{index}.upsample"), projected, [height, width]),
        };
        index += 1;
        upsampled
    });
    maps.reverse();
    let stacked = b.concat("linear_fuse.concat", maps);
    let weight = b.tensor("linear_fuse.weight".into(), vec![WIDTH, 4 * WIDTH, 1, 1], vec![WIDTH, 4 * WIDTH]);
    b.product("linear_fuse", stacked, weight)
}

/// The fused map as Σ up((W_fuse,i·W_i)·x_i) + Σ W_fuse,i·b_i, for training: see `passes::fold_mlp_fusion`.
pub(super) fn folded_mlp_fusion(b: &mut Builder, taps: [ValueId; 4]) -> ValueId {
    let [_, height, width, _] = b.map(taps[0]);
    let fusion = || ("linear_fuse.weight".to_owned(), vec![WIDTH, 4 * WIDTH, 1, 1]);
    let mut tensors = vec![fusion()];
    tensors.extend((0..4).map(|i| (format!("linear_c.{i}.proj.bias"), vec![WIDTH])));
    let bias = b.made(tensors, Make::FoldedBias, vec![WIDTH]);
    let mut sum = None;
    for (i, tap) in taps.into_iter().enumerate() {
        let name = format!("linear_c.{i}.proj");
        let channels = b.channels(tap);
        let tensors = vec![fusion(), (format!("{name}.weight"), vec![WIDTH, channels])];
        let weight = b.made(tensors, Make::FoldedProjection { column: (3 - i) * WIDTH }, vec![WIDTH, channels]);
        let mut term = b.product_with(&name, tap, weight, (i == 0).then_some(bias));
        if i > 0 {
            term = b.bilinear(&format!("linear_c.{i}.upsample"), term, [height, width]);
        }
        sum = Some(match sum {
            None => term,
            Some(partial) => b.add(&format!("linear_fuse.add{i}"), partial, term),
        });
    }
    sum.expect("four taps")
}

/// Logits of the fused map.
pub(super) fn decode(b: &mut Builder, variant: Variant, fused: ValueId) {
    let [_, height, width, _] = b.map(fused);
    let classes = variant.classes();
    let embeddings =
        classes.iter().map(|class| (format!("face_decoder.{class}_token.weight"), vec![1, WIDTH])).collect();
    let class = b.made(embeddings, Make::Stack, vec![1, classes.len(), WIDTH]);
    let matrix = vec![("pe_layer.positional_encoding_gaussian_matrix".into(), vec![2, WIDTH / 2])];
    let image_pe = b.made(matrix, Make::PositionalEncoding { height, width }, vec![1, height, width, WIDTH]);
    let mut tokens = Tokens { class, class_pe: class, image: fused, image_pe };

    for layer in 0..2 {
        two_way_layer(b, &format!("face_decoder.transformer.layers.{layer}"), &mut tokens, layer == 0);
    }
    let name = "face_decoder.transformer.final_attn_token_to_image";
    let attended = token_to_image(b, name, &tokens);
    let sum = b.add(&format!("{name}.add"), attended, tokens.class);
    tokens.class = b.layer_norm("face_decoder.transformer.norm_final_attn", sum, EPS);
    b.give_out(Output::Tokens, tokens.class);

    let logits = mask_head(b, &tokens);
    b.give_out(Output::Logits, logits);
}

/// One layer of the two-way transformer. The first has neither encoding nor residual in its self-attention.
fn two_way_layer(b: &mut Builder, name: &str, tokens: &mut Tokens, first: bool) {
    let attention = format!("{name}.self_attn");
    tokens.class = if first {
        let q = tokens.class;
        let attended = attend(b, &attention, [q, q, q], WIDTH);
        b.layer_norm(&format!("{name}.norm1"), attended, EPS)
    } else {
        let q = b.add(&format!("{attention}.pe"), tokens.class, tokens.class_pe);
        let attended = attend(b, &attention, [q, q, tokens.class], WIDTH);
        let sum = b.add(&format!("{attention}.add"), attended, tokens.class);
        b.layer_norm(&format!("{name}.norm1"), sum, EPS)
    };

    let attention = format!("{name}.cross_attn_token_to_image");
    let attended = token_to_image(b, &attention, tokens);
    let sum = b.add(&format!("{attention}.add"), attended, tokens.class);
    tokens.class = b.layer_norm(&format!("{name}.norm2"), sum, EPS);

    let hidden = b.linear(&format!("{name}.mlp.lin1"), tokens.class, MLP_WIDTH);
    let hidden = b.act(&format!("{name}.mlp.act"), Relu, hidden);
    let out = b.linear(&format!("{name}.mlp.lin2"), hidden, WIDTH);
    let sum = b.add(&format!("{name}.mlp.add"), out, tokens.class);
    tokens.class = b.layer_norm(&format!("{name}.norm3"), sum, EPS);

    let attention = format!("{name}.cross_attn_image_to_token");
    let q = b.add(&format!("{attention}.q_pe"), tokens.image, tokens.image_pe);
    let k = b.add(&format!("{attention}.k_pe"), tokens.class, tokens.class_pe);
    let attended = attend(b, &attention, [q, k, tokens.class], CROSS_WIDTH);
    let sum = b.add(&format!("{attention}.add"), attended, tokens.image);
    tokens.image = b.layer_norm(&format!("{name}.norm4"), sum, EPS);
}

fn token_to_image(b: &mut Builder, name: &str, tokens: &Tokens) -> ValueId {
    let q = b.add(&format!("{name}.q_pe"), tokens.class, tokens.class_pe);
    let k = b.add(&format!("{name}.k_pe"), tokens.image, tokens.image_pe);
    attend(b, name, [q, k, tokens.image], CROSS_WIDTH)
}

/// SAM's `Attention`: project to `inner`, attend, project back.
fn attend(b: &mut Builder, name: &str, [q, k, v]: [ValueId; 3], inner: usize) -> ValueId {
    let projected =
        [("q_proj", q), ("k_proj", k), ("v_proj", v)].map(|(layer, x)| b.linear(&format!("{name}.{layer}"), x, inner));
    let attended = b.attention(name, projected, HEADS);
    b.linear(&format!("{name}.out_proj"), attended, WIDTH)
}

/// Upscale the image tokens four times, project the class tokens to filters, multiply.
fn mask_head(b: &mut Builder, tokens: &Tokens) -> ValueId {
    let name = "face_decoder.output_upscaling";
    let mut u = b.upscale(&format!("{name}.0"), tokens.image, 64);
    u = b.layer_norm(&format!("{name}.1"), u, UPSCALE_EPS);
    u = b.act(&format!("{name}.2"), Gelu, u);
    u = b.upscale(&format!("{name}.3"), u, 32);
    u = b.act(&format!("{name}.4"), Gelu, u);

    let name = "face_decoder.output_hypernetwork_mlps.layers";
    let mut hyper = tokens.class;
    for (layer, width) in [WIDTH, WIDTH, 32].into_iter().enumerate() {
        hyper = b.linear(&format!("{name}.{layer}"), hyper, width);
        if layer < 2 {
            hyper = b.act(&format!("{name}.{layer}.act"), Relu, hyper);
        }
    }
    b.mask_product("face_decoder.masks", u, hyper)
}

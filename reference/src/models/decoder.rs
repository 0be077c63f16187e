//! SegFace's decoder: fusion of the taps, two-way transformer, mask head.

use crate::{
    Error,
    image::geometry,
    mask_head::{MaskHead, mask_head},
    mlp::mlp,
    mlp_fusion::mlp_fusion,
    token_attention::{Attention, image_to_token, token_to_image},
    weights::Scope,
};
use segface_codegen::Variant;
use segface_kernels::Act;
use std::f64::consts::PI;
use tch::{Device, Tensor};

const HEADS: i64 = 8;

/// The fused map [N, 256, h, w] of `taps`.
pub(crate) fn fuse(root: &Scope, taps: &[Tensor; 4]) -> Result<Tensor, Error> {
    let projection = |i: i64| root.at("linear_c").at(i).at("proj").linear();
    let projections = [projection(0)?, projection(1)?, projection(2)?, projection(3)?];
    Ok(mlp_fusion(taps, &projections, &root.at("linear_fuse").tensor("weight")?))
}

/// Class tokens [N, T, 256] and logits [N, T, 4h, 4w] of the `fused` map [N, 256, h, w].
pub(crate) fn decode(root: &Scope, variant: Variant, fused: &Tensor) -> Result<(Tensor, Tensor), Error> {
    let (batch, _, height, width) = fused.size4().expect("the fused map is [N, 256, h, w]");
    let decoder = root.at("face_decoder");
    let transformer = decoder.at("transformer");

    let embeddings: Vec<Tensor> = variant
        .classes()
        .iter()
        .map(|class| decoder.at(format!("{class}_token")).tensor("weight"))
        .collect::<Result<_, _>>()?;
    let token_pe = Tensor::cat(&embeddings, 0).unsqueeze(0).expand([batch, -1, -1], false);
    let image_pe = positional_encoding(&root.at("pe_layer"), height, width)?;

    let mut tokens = token_pe.shallow_clone();
    let mut image = fused.flatten(2, 3).transpose(1, 2);
    for index in 0..2 {
        let layer = transformer.at(format!("layers.{index}"));
        let self_attention = attention(&layer.at("self_attn"))?;
        let attended = if index == 0 {
            self_attention.apply(&tokens, &tokens, &tokens)
        } else {
            let placed = &tokens + &token_pe;
            &tokens + self_attention.apply(&placed, &placed, &tokens)
        };
        tokens = layer.at("norm1").norm()?.apply(&attended);
        let to_image = attention(&layer.at("cross_attn_token_to_image"))?;
        tokens = token_to_image(&tokens, &token_pe, &image, &image_pe, &to_image, &layer.at("norm2").norm()?);
        let layers = [layer.at("mlp").at("lin1").linear()?, layer.at("mlp").at("lin2").linear()?];
        tokens = layer.at("norm3").norm()?.apply(&(&tokens + mlp(&tokens, &layers, Act::Relu)));
        let to_token = attention(&layer.at("cross_attn_image_to_token"))?;
        image = image_to_token(&tokens, &token_pe, &image, &image_pe, &to_token, &layer.at("norm4").norm()?);
    }
    let last = attention(&transformer.at("final_attn_token_to_image"))?;
    let norm = transformer.at("norm_final_attn").norm()?;
    tokens = token_to_image(&tokens, &token_pe, &image, &image_pe, &last, &norm);

    let map = image.transpose(1, 2).unflatten(2, [height, width]);
    let logits = mask_head(&map, &tokens, &head(&decoder)?);
    Ok((tokens, logits))
}

fn attention(scope: &Scope) -> Result<Attention, Error> {
    Ok(Attention {
        q: scope.at("q_proj").linear()?,
        k: scope.at("k_proj").linear()?,
        v: scope.at("v_proj").linear()?,
        out: scope.at("out_proj").linear()?,
        heads: HEADS,
    })
}

fn head(decoder: &Scope) -> Result<MaskHead, Error> {
    let upscaling = decoder.at("output_upscaling");
    let hypernetwork = decoder.at("output_hypernetwork_mlps.layers");
    Ok(MaskHead {
        up1_weight: upscaling.at(0).tensor("weight")?,
        up1_bias: upscaling.at(0).tensor("bias")?,
        norm_weight: upscaling.at(1).tensor("weight")?,
        norm_bias: upscaling.at(1).tensor("bias")?,
        up2_weight: upscaling.at(3).tensor("weight")?,
        up2_bias: upscaling.at(3).tensor("bias")?,
        hypernetwork: vec![hypernetwork.at(0).linear()?, hypernetwork.at(1).linear()?, hypernetwork.at(2).linear()?],
    })
}

/// [1, h·w, 256]: sine and cosine of random projections of each cell's centre. Computed in f32 even for bf16 networks,
/// as published, then rounded.
fn positional_encoding(scope: &Scope, height: i64, width: i64) -> Result<Tensor, Error> {
    let kind = geometry(scope.kind());
    let matrix = scope.tensor("positional_encoding_gaussian_matrix")?.to_kind(kind);
    let centres = |n: i64| (Tensor::arange(n, (kind, Device::Cpu)) + 0.5) / n as f64 * 2.0 - 1.0;
    let x = centres(width).view([1, -1]).expand([height, width], false);
    let y = centres(height).view([-1, 1]).expand([height, width], false);
    let phase = Tensor::stack(&[x, y], -1).view([-1, 2]).matmul(&matrix) * (2.0 * PI);
    Ok(Tensor::cat(&[phase.sin(), phase.cos()], -1).unsqueeze(0).to_kind(scope.kind()))
}

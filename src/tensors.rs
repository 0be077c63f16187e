//! Normalised images and results as tensor files: how the network is compared with other implementations.

use crate::Error;
use crate::files::{WriteError, write_atomically};
use crate::parser::Parser;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use segface_codegen::ir::Output;
use segface_kernels::Context;
use segface_kernels::image::FaceWarp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a tensor file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    /// The file is not what it should be.
    #[error("{}: {reason}", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The landmarks do not suit the network or the input.
    #[error("{0}")]
    Landmarks(String),
    /// The operating system refused.
    #[error("cannot {action} {}", file.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        file: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
}

/// A batch of normalised images.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Images, height, width.
    pub shape: [usize; 3],
    /// [N, H, W, 3]: channels last, as the engine takes them.
    pub input: Vec<f32>,
    /// Five points per image in its pixels, where the file has them.
    pub landmarks: Option<Vec<[[f32; 2]; 5]>>,
}

/// A result with its name and shape, channels first where it is a map.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub data: Vec<f32>,
}

/// Reads `input` [N, 3, H, W] and, if it is there, `landmarks` [N, 5, 2], both float32.
///
/// # Errors
/// If the file is no sound safetensors file or a tensor is missing, misshapen, of another type or not finite.
pub fn read_batch(file: &Path) -> Result<Batch, TensorsError> {
    let bad = |reason: String| TensorsError::File { file: file.into(), reason };
    let bytes = std::fs::read(file).map_err(|source| TensorsError::Io { action: "read", file: file.into(), source })?;
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|error| bad(format!("no sound safetensors file: {error}")))?;
    let input = tensors.tensor("input").map_err(|_| {
        let names: Vec<String> = tensors.names().into_iter().take(8).map(|n| format!("`{n}`")).collect();
        let more = if tensors.len() > names.len() { ", ..." } else { "" };
        bad(format!("no tensor `input` [N, 3, H, W]; it holds {}{more}", names.join(", ")))
    })?;
    let values = floats(&input).ok_or_else(|| bad(format!("`input` is {:?}, expected F32", input.dtype())))?;
    let &[batch, 3, height, width] = input.shape() else {
        return Err(bad(format!("`input` has shape {:?}, expected [N, 3, H, W]", input.shape())));
    };
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(bad(format!("`input` holds {} at position {index}; all values must be finite", values[index])));
    }
    let landmarks = match tensors.tensor("landmarks") {
        Err(_) => None,
        Ok(points) => {
            let values =
                floats(&points).ok_or_else(|| bad(format!("`landmarks` is {:?}, expected F32", points.dtype())))?;
            if points.shape() != [batch, 5, 2] {
                return Err(bad(format!("`landmarks` has shape {:?}, expected [{batch}, 5, 2]", points.shape())));
            }
            Some(values.chunks_exact(10).map(|p| [0, 1, 2, 3, 4].map(|i| [p[2 * i], p[2 * i + 1]])).collect())
        }
    };
    Ok(Batch { shape: [batch, height, width], input: channels_last(&values, batch, 3, height * width), landmarks })
}

fn floats(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let numbers = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    (tensor.dtype() == Dtype::F32).then(|| numbers.collect())
}

/// [N, C, P] → [N, P, C].
pub fn channels_last(data: &[f32], batch: usize, channels: usize, pixels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for image in data.chunks_exact((channels * pixels).max(1)).take(batch) {
        for pixel in 0..pixels {
            out.extend((0..channels).map(|c| image[c * pixels + pixel]));
        }
    }
    out
}

/// [N, P, C] → [N, C, P].
pub fn channels_first(data: &[f32], batch: usize, channels: usize, pixels: usize) -> Vec<f32> {
    channels_last(data, batch, pixels, channels)
}

/// Runs the network on a batch. Where the label set asks for it (LaPa), images go in warped by their landmarks and logits come
/// back un-warped to the images' size, as in the published forward pass.
///
/// # Errors
/// If landmarks are missing or impossible, or the engine refuses.
pub fn run(parser: &mut Parser, batch: &Batch, outputs: &[Output]) -> Result<Vec<NamedTensor>, Error> {
    let [count, height, width] = batch.shape;
    let mut context = Context::new(parser.threads(), parser.isa());
    let warps = if parser.model().variant.warps() { Some(fit_warps(batch)?) } else { None };
    match &warps {
        None => parser.engine().run(&batch.input)?,
        Some(warps) => {
            let mut warped = vec![0.0; batch.input.len()];
            let size = 3 * height * width;
            for (i, warp) in warps.iter().enumerate() {
                let part = i * size..(i + 1) * size;
                warp.warp(&mut context, &batch.input[part.clone()], 3, &mut warped[part]);
            }
            parser.engine().run(&warped)?;
        }
    }
    let mut results = Vec::new();
    for &output in outputs {
        let (mut shape, mut data) = parser.engine().output(output)?;
        if let (Output::Logits, Some(warps)) = (output, &warps) {
            let (own, classes) = ((shape[2], shape[1]), shape[3]);
            let mut flat = vec![0.0; count * height * width * classes];
            let parts = flat.chunks_exact_mut(height * width * classes);
            for ((warp, logits), out) in warps.iter().zip(data.chunks_exact(own.0 * own.1 * classes)).zip(parts) {
                warp.unwarp(&mut context, logits, own, classes, out);
            }
            (shape, data) = (vec![count, height, width, classes], flat);
        }
        results.push(named(output, shape, data));
    }
    Ok(results)
}

fn fit_warps(batch: &Batch) -> Result<Vec<FaceWarp>, TensorsError> {
    let [_, height, width] = batch.shape;
    let landmarks = batch.landmarks.as_ref().ok_or_else(|| {
        TensorsError::Landmarks(
            "the network was trained on LaPa and warps each face by five landmarks: give them as `landmarks` [N, 5, 2] (eye \
             centres, nose tip, mouth corners; in pixels of the input)"
                .into(),
        )
    })?;
    let fit = |(index, points): (usize, &[[f32; 2]; 5])| {
        FaceWarp::fit(points, (width, height), (width, height))
            .map_err(|error| TensorsError::Landmarks(format!("the landmarks of image {index}: {error}")))
    };
    landmarks.iter().enumerate().map(fit).collect()
}

/// A result as other programs know it: maps channels first.
fn named(output: Output, shape: Vec<usize>, data: Vec<f32>) -> NamedTensor {
    let name = match output {
        Output::Logits => "logits".into(),
        Output::Labels => "labels".into(),
        Output::Stage(stage) => format!("stage{stage}"),
        Output::Fused => "fused".into(),
        Output::Tokens => "tokens".into(),
    };
    match shape[..] {
        [batch, height, width, channels] => NamedTensor {
            name,
            shape: vec![batch, channels, height, width],
            data: channels_first(&data, batch, channels, height * width),
        },
        _ => NamedTensor { name, shape, data },
    }
}

/// Writes tensors as one safetensors file, whole or not at all; an existing file is replaced.
///
/// # Errors
/// If the file cannot be written.
pub fn write_tensors(file: &Path, tensors: &[NamedTensor]) -> Result<(), TensorsError> {
    let bad = |reason: String| TensorsError::File { file: file.into(), reason };
    let bytes: Vec<(&NamedTensor, Vec<u8>)> =
        tensors.iter().map(|t| (t, t.data.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views: BTreeMap<&str, TensorView<'_>> = bytes
        .iter()
        .map(|(tensor, bytes)| Ok((&tensor.name[..], TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(|error| bad(error.to_string()))?;
    let content = serialize(views, None).map_err(|error| bad(error.to_string()))?;
    write_atomically(file, true, |out| out.write_all(&content)).map_err(|error| match error {
        WriteError::Exists => bad("the file exists".into()),
        WriteError::Io(source) => TensorsError::Io { action: "write", file: file.into(), source },
    })
}

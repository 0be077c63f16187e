//! The published network's own outputs, from `fixtures/parity`.

use crate::fixtures;
use safetensors::SafeTensors;
use segface::weights::seeded_values;
use segface_codegen::ModelSpec;
use std::fs;
use tch::{Kind, Tensor};

/// One stored case.
#[derive(Debug)]
pub struct Case {
    /// File name without its ending, e.g. `celeb_mobilenet_72x100x2`.
    pub name: String,
    /// Backbone and variant.
    pub spec: ModelSpec,
    /// Images in the batch.
    pub batch: i64,
    /// Height of the input in pixels.
    pub height: i64,
    /// Width of the input in pixels.
    pub width: i64,
    bytes: Vec<u8>,
}

impl Case {
    /// Names of all stored cases, sorted.
    pub fn names() -> Vec<String> {
        let folder = fixtures().join("parity");
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut names: Vec<String> = files
            .map(|file| file.expect("a readable folder").file_name().into_string().expect("a UTF-8 name"))
            .filter_map(|name| name.strip_suffix(".safetensors").map(str::to_owned))
            .collect();
        names.sort();
        names
    }

    /// The case `name`; panics, saying why, if the fixture cannot be read.
    pub fn load(name: &str) -> Case {
        let path = fixtures().join(format!("parity/{name}.safetensors"));
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let parse = || {
            let (variant, rest) = name.split_once('_')?;
            let (backbone, size) = rest.rsplit_once('_')?;
            let spec = ModelSpec { backbone: backbone.parse().ok()?, variant: variant.parse().ok()? };
            let size: Vec<i64> = size.split('x').map(|n| n.parse().ok()).collect::<Option<_>>()?;
            let [height, width, batch] = size[..] else { return None };
            Some((spec, height, width, batch))
        };
        let (spec, height, width, batch) =
            parse().unwrap_or_else(|| panic!("{name}: not <variant>_<backbone>_<height>x<width>x<batch>"));
        Case { name: name.to_owned(), spec, batch, height, width, bytes }
    }

    /// The input [N, 3, H, W], f64 holding f32 values.
    pub fn input(&self) -> Tensor {
        input(self.batch, self.height, self.width)
    }

    /// Landmarks [N, 5, 2] in pixels, f64 holding f32 values.
    pub fn landmarks(&self) -> Tensor {
        self.tensor("landmarks")
    }

    /// The stored tensor `name`: `logits`, `tokens`, `fused`, `stage0` to `stage3` (f64 holding f32 values) or
    /// `labels` (int64). `fused` and the stages are stored thinned out, see [`Case::thin`].
    pub fn tensor(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let (stored, kind) = match view.dtype() {
            safetensors::Dtype::F32 => (Kind::Float, Kind::Double),
            safetensors::Dtype::U8 => (Kind::Uint8, Kind::Int64),
            other => panic!("{}: tensor {name} is {other:?}", self.name),
        };
        Tensor::from_data_size(view.data(), &shape, stored).to_kind(kind)
    }

    /// Relative L2 error of the published network's own f32 run against its f64 run, on the logits.
    pub fn published_f32_error(&self) -> f64 {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let stored = metadata.metadata().as_ref().and_then(|map| map.get("f32_vs_f64"));
        stored.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{}: no f32_vs_f64", self.name))
    }

    /// Of a whole map, the rows and columns that a case stores of it.
    pub fn thin(&self, name: &str, map: &Tensor) -> Tensor {
        let (_, _, height, width) = map.size4().expect("a map is [N, C, h, w]");
        let step = |length: i64| if name == "fused" { 4 } else { (length / 8).max(1) };
        map.slice(2, 0, None, step(height)).slice(3, 0, None, step(width))
    }
}

/// The seeded input of every case: [N, 3, H, W], f64 holding f32 values.
pub fn input(batch: i64, height: i64, width: i64) -> Tensor {
    let count = (batch * 3 * height * width) as usize;
    let values = Tensor::from_slice(&seeded_values("input", count)).to_kind(Kind::Double) * 2.0;
    values.view([batch, 3, height, width])
}

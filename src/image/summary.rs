//! The JSON that accompanies each parsed photo.

use super::class_color;
use segface_codegen::Variant;
use segface_kernels::image::{ClassRegion, Window};
use serde::Serialize;

/// What was found in one photo and how long it took. Lengths are pixels of the upright photo, times milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhotoSummary {
    /// The photo, as given on the command line or found in a folder.
    pub file: String,
    /// Columns of the upright photo and of the label map.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[x, y, width, height]` of `--crop`; outside of it everything is background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<[usize; 4]>,
    /// The network.
    pub model: ModelSummary,
    /// Every class of the network, in the order of ids.
    pub classes: Vec<ClassSummary>,
    /// Where the time went.
    pub timings_ms: Timings,
    /// What deserves a second look; empty most of the time.
    pub warnings: Vec<String>,
}

/// The network that made the labels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelSummary {
    /// File or name of the weights.
    pub weights: String,
    /// Image encoder.
    pub backbone: String,
    /// Label set: celeb, lapa or helen.
    pub variant: String,
    /// `[width, height]` of the network's input.
    pub input: [usize; 2],
    /// f32 or bf16.
    pub precision: String,
}

/// One class in one photo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassSummary {
    /// Pixel value in the label PNG.
    pub id: usize,
    /// Name, as in the published code.
    pub name: &'static str,
    /// `#rrggbb` in overlay and palette.
    pub color: String,
    /// Pixels with this label.
    pub pixels: usize,
    /// Share of the photo's pixels, 0 to 1.
    pub share: f64,
    /// Bounding box `[x, y, width, height]`; null where the class does not occur.
    #[serde(rename = "box")]
    pub bounds: Option<[usize; 4]>,
}

/// Milliseconds per step. With many photos decoding and encoding run beside the network of others. On a device all but those two are
/// its own clock's, which runs on while it works for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Reading and decoding the file.
    pub decode: f64,
    /// Resizing, normalising, warping; on a device, copying the photo there before.
    pub prepare: f64,
    /// The network.
    pub network: f64,
    /// Un-warping, resizing the logits, argmax, statistics; on a device, painting the overlay and copying all back.
    pub labels: f64,
    /// Making and writing the two PNGs.
    pub encode: f64,
}

impl ClassSummary {
    /// One entry per class of `variant`, for a photo of `pixels` pixels.
    pub fn of(regions: &[ClassRegion], pixels: usize, variant: Variant) -> Vec<ClassSummary> {
        let total = pixels as f64;
        regions
            .iter()
            .zip(variant.classes())
            .enumerate()
            .map(|(id, (region, &name))| {
                let [red, green, blue] = class_color(name);
                ClassSummary {
                    id,
                    name,
                    color: format!("#{red:02x}{green:02x}{blue:02x}"),
                    pixels: region.pixels,
                    share: (region.pixels as f64 / total * 1e6).round() / 1e6,
                    bounds: region.bounds.map(corners),
                }
            })
            .collect()
    }
}

/// A rectangle as the JSON has it.
pub(crate) fn corners(window: Window) -> [usize; 4] {
    [window.x, window.y, window.width, window.height]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::LabelMap;

    #[test]
    fn the_json_has_the_documented_fields() {
        let mut labels = vec![0; 12];
        labels[5] = 2;
        labels[6] = 2;
        let map = LabelMap { width: 4, height: 3, labels };
        let summary = PhotoSummary {
            file: "a.jpg".into(),
            width: 4,
            height: 3,
            crop: None,
            model: ModelSummary {
                weights: "demo".into(),
                backbone: "mobilenet".into(),
                variant: "celeb".into(),
                input: [512, 512],
                precision: "f32".into(),
            },
            classes: ClassSummary::of(&map.regions(19), 12, Variant::Celeb),
            timings_ms: Timings::default(),
            warnings: vec![],
        };
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["classes"].as_array().unwrap().len(), 19);
        assert_eq!(
            json["classes"][2],
            serde_json::json!({
                "id": 2, "name": "face", "color": "#ffbe7d", "pixels": 2, "share": 0.166667, "box": [1, 1, 2, 1]
            })
        );
        assert_eq!(json["classes"][0]["pixels"], 10);
        assert!(json["classes"][1]["box"].is_null());
        assert!(json.get("crop").is_none());
        assert_eq!(json["model"]["input"], serde_json::json!([512, 512]));
    }
}

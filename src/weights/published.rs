//! The checkpoints the paper's authors published.

use segface_codegen::Variant;

/// One of the published checkpoints (Hugging Face, repository [`REPOSITORY`], file [`Published::file`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Its name, e.g. `swinb_celeba_512`.
    pub name: &'static str,
    /// The data set it was trained on.
    pub variant: Variant,
    /// Side of the input it was trained with, in pixels.
    pub resolution: usize,
}

/// Where the published checkpoints lie on the Hugging Face hub.
pub const REPOSITORY: &str = "kartiknarayan/SegFace";

/// Every published checkpoint.
pub const PUBLISHED: [Published; 14] = [
    published("convnext_celeba_512", Variant::Celeb, 512),
    published("efficientnet_celeba_512", Variant::Celeb, 512),
    published("mobilenet_celeba_512", Variant::Celeb, 512),
    published("resnet_celeba_512", Variant::Celeb, 512),
    published("swinb_celeba_224", Variant::Celeb, 224),
    published("swinb_celeba_256", Variant::Celeb, 256),
    published("swinb_celeba_448", Variant::Celeb, 448),
    published("swinb_celeba_512", Variant::Celeb, 512),
    published("swinv2b_celeba_512", Variant::Celeb, 512),
    published("swinb_lapa_224", Variant::Lapa, 224),
    published("swinb_lapa_256", Variant::Lapa, 256),
    published("swinb_lapa_448", Variant::Lapa, 448),
    published("swinb_lapa_512", Variant::Lapa, 512),
    published("swinb_helen_512", Variant::Helen, 512),
];

const fn published(name: &'static str, variant: Variant, resolution: usize) -> Published {
    Published { name, variant, resolution }
}

impl Published {
    /// The checkpoint of that name.
    pub fn find(name: &str) -> Option<Published> {
        PUBLISHED.into_iter().find(|p| p.name == name)
    }

    /// Path of its file in the repository.
    pub fn file(&self) -> String {
        format!("{}/model_299.pt", self.name)
    }

    /// Every name, for messages.
    pub(super) fn names() -> String {
        PUBLISHED.map(|p| p.name).join(", ")
    }
}

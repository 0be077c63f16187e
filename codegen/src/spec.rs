//! Which network: backbone × variant, and the names the field gives them.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The image encoders SegFace was published with (SegFace paper, table 1; architectures are torchvision's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Backbone {
    /// torchvision `swin_b`: window 7, pre-norm, relative position bias table.
    SwinBase,
    /// torchvision `swin_v2_b`: window 8, residual-post-norm, cosine attention.
    SwinV2Base,
    /// torchvision `swin_v2_s`.
    SwinV2Small,
    /// torchvision `swin_v2_t`.
    SwinV2Tiny,
    /// torchvision `convnext_base`.
    ConvNextBase,
    /// torchvision `convnext_small`. What the published code builds for `convnext_tiny` is this network too.
    ConvNextSmall,
    /// A true torchvision `convnext_tiny` (depths 3, 3, 9, 3), which the published code never builds.
    ConvNextTiny,
    /// torchvision `resnet101`.
    ResNet,
    /// torchvision `mobilenet_v3_large`.
    MobileNet,
    /// torchvision `efficientnet_v2_m`.
    EfficientNet,
}

impl Backbone {
    /// Every backbone, each once.
    pub const ALL: [Backbone; 10] = [
        Backbone::SwinBase,
        Backbone::SwinV2Base,
        Backbone::SwinV2Small,
        Backbone::SwinV2Tiny,
        Backbone::ConvNextBase,
        Backbone::ConvNextSmall,
        Backbone::ConvNextTiny,
        Backbone::ResNet,
        Backbone::MobileNet,
        Backbone::EfficientNet,
    ];

    /// The name on the command line and in metadata. The true tiny ConvNeXt is `convnext_true_tiny`, because the
    /// published name `convnext_tiny` means [`Backbone::ConvNextSmall`].
    pub fn name(self) -> &'static str {
        match self {
            Backbone::SwinBase => "swin_base",
            Backbone::SwinV2Base => "swinv2_base",
            Backbone::SwinV2Small => "swinv2_small",
            Backbone::SwinV2Tiny => "swinv2_tiny",
            Backbone::ConvNextBase => "convnext_base",
            Backbone::ConvNextSmall => "convnext_small",
            Backbone::ConvNextTiny => "convnext_true_tiny",
            Backbone::ResNet => "resnet",
            Backbone::MobileNet => "mobilenet",
            Backbone::EfficientNet => "efficientnet",
        }
    }

    /// Channels of the four feature maps ("taps") at strides 4, 8, 16 and 32.
    pub fn tap_channels(self) -> [usize; 4] {
        match self {
            Backbone::SwinBase | Backbone::SwinV2Base | Backbone::ConvNextBase => [128, 256, 512, 1024],
            Backbone::SwinV2Small | Backbone::SwinV2Tiny | Backbone::ConvNextSmall | Backbone::ConvNextTiny => {
                [96, 192, 384, 768]
            }
            Backbone::ResNet => [256, 512, 1024, 2048],
            Backbone::MobileNet => [24, 40, 112, 960],
            Backbone::EfficientNet => [48, 80, 176, 1280],
        }
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backbone {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "convnext_tiny" {
            return Ok(Backbone::ConvNextSmall);
        }
        Backbone::ALL.into_iter().find(|b| b.name() == name).ok_or_else(|| {
            let known: Vec<_> = Backbone::ALL.iter().map(|b| b.name()).collect();
            format!("unknown backbone `{name}`; known are {}", known.join(", "))
        })
    }
}

/// The label set, named after the data set a network was trained on. It fixes the class tokens and, for LaPa, the warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Variant {
    /// CelebAMask-HQ, 19 classes.
    Celeb,
    /// LaPa, 11 classes; the image goes through the RoI-tanh warp, so five landmarks are needed.
    Lapa,
    /// Helen (relabelled), 11 classes, no warp.
    Helen,
}

const CELEB_CLASSES: [&str; 19] = [
    "background",
    "neck",
    "face",
    "cloth",
    "rightear",
    "leftear",
    "rightbro",
    "leftbro",
    "righteye",
    "lefteye",
    "nose",
    "innermouth",
    "lowerlip",
    "upperlip",
    "hair",
    "glass",
    "hat",
    "earring",
    "necklace",
];
const LAPA_CLASSES: [&str; 11] = [
    "background",
    "face",
    "leftbro",
    "rightbro",
    "lefteye",
    "righteye",
    "nose",
    "upperlip",
    "innermouth",
    "lowerlip",
    "hair",
];

impl Variant {
    /// Every variant, each once.
    pub const ALL: [Variant; 3] = [Variant::Celeb, Variant::Lapa, Variant::Helen];

    /// `celeb`, `lapa` or `helen`.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Celeb => "celeb",
            Variant::Lapa => "lapa",
            Variant::Helen => "helen",
        }
    }

    /// Class names in the order of class tokens, which is the order of logit channels. A token's parameter is
    /// `face_decoder.<class>_token.weight`, shape [1, 256].
    pub fn classes(self) -> &'static [&'static str] {
        match self {
            Variant::Celeb => &CELEB_CLASSES,
            Variant::Lapa | Variant::Helen => &LAPA_CLASSES,
        }
    }

    /// Whether the forward pass warps the image by the face's landmarks (RoI-tanh).
    pub fn warps(self) -> bool {
        self == Variant::Lapa
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Variant::ALL
            .into_iter()
            .find(|v| v.name() == name)
            .ok_or_else(|| format!("unknown variant `{name}`; known are celeb, lapa, helen"))
    }
}

/// One network of the family: everything about it but its weights and the size of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The image encoder.
    pub backbone: Backbone,
    /// The label set.
    pub variant: Variant,
}

impl ModelSpec {
    /// Every published combination and those its code can build: 10 backbones × 3 variants.
    pub fn all() -> impl Iterator<Item = ModelSpec> {
        Backbone::ALL.into_iter().flat_map(|backbone| Variant::ALL.map(|variant| ModelSpec { backbone, variant }))
    }
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backbone, self.variant)
    }
}

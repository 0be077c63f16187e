//! Colours of the classes.

use segface_codegen::Variant;

/// Colour of each part, the same in every label set, so that maps of different networks compare at a glance. Skin is warm, hair
/// violet, eyes blue, brows teal, lips red; the right of a pair is the lighter one.
const COLORS: [(&str, [u8; 3]); 19] = [
    ("background", [0, 0, 0]),
    ("neck", [214, 125, 62]),
    ("face", [255, 190, 125]),
    ("cloth", [76, 124, 89]),
    ("rightear", [255, 157, 187]),
    ("leftear", [211, 95, 140]),
    ("rightbro", [134, 208, 200]),
    ("leftbro", [45, 142, 138]),
    ("righteye", [160, 203, 250]),
    ("lefteye", [50, 110, 200]),
    ("nose", [140, 209, 85]),
    ("innermouth", [100, 20, 50]),
    ("lowerlip", [235, 87, 89]),
    ("upperlip", [176, 30, 62]),
    ("hair", [124, 82, 160]),
    ("glass", [250, 230, 60]),
    ("hat", [60, 60, 150]),
    ("earring", [0, 225, 225]),
    ("necklace", [240, 60, 210]),
];

/// Colour of a class by name; black for a name that is none.
pub fn class_color(name: &str) -> [u8; 3] {
    COLORS.iter().find(|(known, _)| *known == name).map_or([0; 3], |(_, color)| *color)
}

/// Colours of a variant's classes in the order of their ids.
pub fn palette(variant: Variant) -> Vec<[u8; 3]> {
    variant.classes().iter().map(|name| class_color(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_colour_of_its_own() {
        for variant in Variant::ALL {
            let colors = palette(variant);
            for (a, color) in colors.iter().enumerate() {
                assert!(COLORS.iter().any(|(name, _)| *name == variant.classes()[a]));
                for other in &colors[..a] {
                    let distance: i32 =
                        color.iter().zip(other).map(|(x, y)| (i32::from(*x) - i32::from(*y)).pow(2)).sum();
                    assert!(distance > 40 * 40, "{variant}: {color:?} and {other:?} are hard to tell apart");
                }
            }
        }
    }
}

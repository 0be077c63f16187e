//! `--crop x,y,width,height`.

use super::ImageError;
use segface_kernels::image::Window;
use std::str::FromStr;

/// A rectangle of the upright photo, in pixels. Only this part goes through the network; the results keep the photo's own size,
/// with background (class 0) outside.
///
/// Text form: `x,y,width,height`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop(pub Window);

impl FromStr for Crop {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = || ImageError::BadCrop { text: text.into() };
        let numbers: Vec<usize> =
            text.split(',').map(|part| part.trim().parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
        match numbers[..] {
            [x, y, width, height] if width > 0 && height > 0 => Ok(Crop(Window { x, y, width, height })),
            _ => Err(bad()),
        }
    }
}

impl Crop {
    /// The rectangle, once it is known to lie inside a photo of that size.
    ///
    /// # Errors
    /// [`ImageError::CropOutside`].
    pub fn inside(self, width: usize, height: usize) -> Result<Window, ImageError> {
        let window = self.0;
        if window.fits(width, height) {
            return Ok(window);
        }
        let Window { x, y, width: crop_width, height: crop_height } = window;
        Err(ImageError::CropOutside { x, y, crop_width, crop_height, width, height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_numbers_make_a_crop() {
        let crop: Crop = "270, 8,460,461".parse().unwrap();
        assert_eq!(crop.0, Window { x: 270, y: 8, width: 460, height: 461 });
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in [
            "",
            "1,2,3",
            "1,2,3,4,5",
            "1,2,0,4",
            "1,2,3,0",
            "-1,2,3,4",
            "a,b,c,d",
            "1.5,2,3,4",
            "1,2,3,99999999999999999999",
        ] {
            let message = text.parse::<Crop>().unwrap_err().to_string();
            assert!(message.contains("x,y,width,height"), "{text}: {message}");
        }
    }

    #[test]
    fn a_crop_must_lie_inside_the_photo() {
        let crop = |text: &str| text.parse::<Crop>().unwrap();
        assert!(crop("0,0,10,20").inside(10, 20).is_ok());
        assert!(crop("9,19,1,1").inside(10, 20).is_ok());
        for text in ["0,0,11,20", "0,0,10,21", "10,0,1,1", "0,20,1,1", "18446744073709551615,0,2,2"] {
            let message = crop(text).inside(10, 20).unwrap_err().to_string();
            assert!(message.contains("10x20"), "{message}");
        }
    }
}

//! A canvas as something that the plotting library draws on, so that one chart becomes SVG and PNG without fonts of the system.

use super::{CHARACTER_HEIGHT, CHARACTER_WIDTH, Canvas, text_width};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontTransform};
use std::convert::Infallible;

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// Dots of a letter for a font's size in pixels.
fn scale(size: f64) -> usize {
    ((size / (CHARACTER_HEIGHT + 4) as f64).round() as usize).max(1)
}

impl DrawingBackend for Canvas {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return Ok(()) };
        if x < self.width && y < self.height {
            let (r, g, b) = color.rgb;
            let at = 3 * (y * self.width + x);
            for (below, above) in self.pixels[at..at + 3].iter_mut().zip([r, g, b]) {
                let mixed = f64::from(*below) + (f64::from(above) - f64::from(*below)) * color.alpha;
                *below = mixed.round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        let scale = scale(style.size());
        let (long, high) = (text_width(text, scale) as i32, (CHARACTER_HEIGHT * scale) as i32);
        let upwards = matches!(style.transform(), FontTransform::Rotate270);
        let along = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => long / 2,
            HPos::Right => long,
        };
        let across = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => high / 2,
            VPos::Bottom => high,
        };
        let (r, g, b) = style.color().rgb;
        let place = |v: i32| v.max(0) as usize;
        if upwards {
            // What was above is to the left now, the start of the line at the bottom.
            self.text_upwards(place(x - across), place(y + along), text, scale, [r, g, b]);
        } else {
            self.text(place(x - along), place(y - across), text, scale, [r, g, b]);
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let scale = scale(style.size());
        Ok(((text.chars().count() * CHARACTER_WIDTH * scale) as u32, (CHARACTER_HEIGHT * scale) as u32))
    }
}

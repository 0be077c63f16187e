//! Pictures of results: filled rectangles, text, images side by side, as PNG. No fonts of the system, so the bytes are the same everywhere.

mod font;
mod plot;

use std::io::{self, Write};

/// Width of a character's cell at scale 1, its gap included.
pub const CHARACTER_WIDTH: usize = 6;

/// Height of a character above its line at scale 1; g, j, p, q and y go two dots below.
pub const CHARACTER_HEIGHT: usize = 7;

/// An RGB8 picture to draw on. What lies outside of it is not drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Canvas {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`.
    pub pixels: Vec<u8>,
}

impl Canvas {
    /// A picture of one colour.
    pub fn new(width: usize, height: usize, color: [u8; 3]) -> Canvas {
        Canvas { width, height, pixels: color.repeat(width * height) }
    }

    /// One pixel.
    pub fn set(&mut self, x: usize, y: usize, color: [u8; 3]) {
        if x < self.width && y < self.height {
            self.pixels[3 * (y * self.width + x)..][..3].copy_from_slice(&color);
        }
    }

    /// A filled rectangle.
    pub fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: [u8; 3]) {
        for row in y..y + height {
            for column in x..x + width {
                self.set(column, row, color);
            }
        }
    }

    /// An RGB8 image `[height, width, 3]` with its upper left corner at (x, y).
    ///
    /// # Panics
    /// If `pixels` is not of that size.
    pub fn image(&mut self, x: usize, y: usize, pixels: &[u8], width: usize, height: usize) {
        assert_eq!(pixels.len(), 3 * width * height, "RGB8 of {width}x{height}");
        for (index, pixel) in pixels.as_chunks::<3>().0.iter().enumerate() {
            self.set(x + index % width, y + index / width, *pixel);
        }
    }

    /// A line of text, each dot of its letters `scale` pixels wide, with its upper left corner at (x, y).
    pub fn text(&mut self, x: usize, y: usize, text: &str, scale: usize, color: [u8; 3]) {
        self.dots(text, scale, |canvas, column, row| canvas.fill(x + column, y + row, scale, scale, color));
    }

    /// A line of text that runs upwards, with its lower left corner at (x, y), the first letter lowest.
    pub fn text_upwards(&mut self, x: usize, y: usize, text: &str, scale: usize, color: [u8; 3]) {
        self.dots(text, scale, |canvas, column, row| {
            if let Some(top) = (y + 1).checked_sub(column + scale) {
                canvas.fill(x + row, top, scale, scale, color);
            }
        });
    }

    /// Calls `dot` with (column, row) of each dot's upper left corner in an upright line.
    fn dots(&mut self, text: &str, scale: usize, dot: impl Fn(&mut Self, usize, usize)) {
        for (place, character) in text.chars().enumerate() {
            for (row, bits) in font::rows(character).into_iter().enumerate() {
                for column in (0..5).filter(|column| bits >> (4 - column) & 1 == 1) {
                    dot(self, (place * CHARACTER_WIDTH + column) * scale, row * scale);
                }
            }
        }
    }

    /// Writes the picture as PNG.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn encode(&self, out: impl Write) -> io::Result<()> {
        let side =
            |v: usize| u32::try_from(v).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too large for a PNG"));
        let mut encoder = png::Encoder::new(out, side(self.width)?, side(self.height)?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }
}

/// Width of a line of text, without the gap behind its last letter.
pub fn text_width(text: &str, scale: usize) -> usize {
    (text.chars().count() * CHARACTER_WIDTH).saturating_sub(1) * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a picture, `#` where it is not black.
    fn seen(canvas: &Canvas) -> Vec<String> {
        let lit = |pixel: &[u8]| if pixel.iter().any(|&v| v > 0) { '#' } else { '.' };
        canvas.pixels.chunks(3 * canvas.width).map(|row| row.chunks(3).map(lit).collect()).collect()
    }

    #[test]
    fn text_runs_to_the_right_or_upwards() {
        let mut across = Canvas::new(11, 7, [0; 3]);
        across.text(0, 0, "L1", 1, [255; 3]);
        assert_eq!(text_width("L1", 1), 11);
        let expected =
            ["#.......#..", "#......##..", "#.......#..", "#.......#..", "#.......#..", "#.......#..", "#####..###."];
        assert_eq!(seen(&across), expected);
        let mut upwards = Canvas::new(7, 11, [0; 3]);
        upwards.text_upwards(0, 10, "L1", 1, [255; 3]);
        let turned: Vec<String> = (0..11)
            .rev()
            .map(|column| seen(&across).iter().map(|row| row.as_bytes()[column] as char).collect())
            .collect();
        assert_eq!(seen(&upwards), turned);
    }

    #[test]
    fn what_lies_outside_is_not_drawn() {
        let mut canvas = Canvas::new(4, 3, [0; 3]);
        canvas.fill(2, 1, 10, 10, [9, 8, 7]);
        canvas.text_upwards(0, 1, "abc", 3, [0; 3]);
        canvas.text(90, 90, "a", 1, [255; 3]);
        assert_eq!(seen(&canvas), ["....", "..##", "..##"]);
    }

    #[test]
    fn a_picture_survives_its_file() {
        let mut canvas = Canvas::new(5, 4, [200, 10, 30]);
        canvas.image(1, 1, &[1, 2, 3, 4, 5, 6], 2, 1);
        let mut file = Vec::new();
        canvas.encode(&mut file).unwrap();
        let photo = crate::image::decode(&file, 100).unwrap();
        assert_eq!((photo.width, photo.height, photo.pixels), (5, 4, canvas.pixels));
    }

    #[test]
    fn every_letter_has_a_shape_of_its_own() {
        let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain(".,-_:/%()+= ".chars()).collect();
        for (place, a) in letters.iter().enumerate() {
            for b in letters[..place].iter().chain(&['\u{1}']) {
                assert_ne!(font::rows(*a), font::rows(*b), "{a} and {b}");
            }
        }
    }
}

//! LaPa's random affine map of image, labels and landmarks, as torchvision's `F.affine` does it on Pillow images.

use crate::data::random::SampleRandom;
use crate::image::LabelMap;

/// The ranges of a random affine map; each value is uniform.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomAffine {
    /// Largest angle to either side, in degrees.
    pub degrees: f64,
    /// Smallest and largest scale.
    pub scale: (f64, f64),
    /// Largest shift to either side on each axis, in pixels of the stored image.
    pub shift: f64,
}

impl RandomAffine {
    /// What LaPa's networks were trained with. CelebAMask-HQ's and Helen's saw every image as it is.
    pub const LAPA: RandomAffine = RandomAffine { degrees: 30.0, scale: (0.5, 3.0), shift: 20.0 };

    /// Draws angle, scale and shift in the published order.
    pub(super) fn draw(&self, random: &mut SampleRandom) -> Affine {
        let degrees = random.uniform(-self.degrees, self.degrees);
        let scale = random.uniform(self.scale.0, self.scale.1);
        let shift = [0, 1].map(|_| random.uniform(-self.shift, self.shift));
        Affine { degrees, scale, shift }
    }
}

/// Rotation and scale about the image's centre, then a shift. What comes from outside the image is black, label 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Clockwise as seen, since y points down.
    pub degrees: f64,
    /// Above 1 enlarges.
    pub scale: f64,
    /// (x, y) in pixels.
    pub shift: [f64; 2],
}

impl Affine {
    /// From pixels of the result to pixels of the image: `x = m0·x' + m1·y' + m2`, `y = m3·x' + m4·y' + m5`. Operations in
    /// torchvision's order, shear 0.
    fn inverse(&self, width: usize, height: usize) -> [f64; 6] {
        let rotation = self.degrees.to_radians();
        let (sin, cos) = rotation.sin_cos();
        let (cx, cy) = (width as f64 * 0.5, height as f64 * 0.5);
        let [tx, ty] = self.shift;
        let mut m = [cos, sin, 0.0, -sin, cos, 0.0].map(|v| v / self.scale);
        m[2] += m[0] * (-cx - tx) + m[1] * (-cy - ty);
        m[5] += m[3] * (-cx - tx) + m[4] * (-cy - ty);
        m[2] += cx;
        m[5] += cy;
        m
    }

    /// An RGB8 image `[height, width, 3]` mapped by Pillow's bicubic transform, whose cubic has a = −1, its resize's −½. It does
    /// not smooth where it shrinks.
    ///
    /// # Panics
    /// If `pixels` is not of that size.
    pub fn image(&self, pixels: &[u8], width: usize, height: usize) -> Vec<u8> {
        assert_eq!(pixels.len(), 3 * width * height, "RGB8 of {width}x{height}");
        let m = self.inverse(width, height);
        let mut out = vec![0; pixels.len()];
        for (y, row) in out.chunks_exact_mut(3 * width).enumerate() {
            let (row_x, row_y) = (y as f64 + 0.5, y as f64 + 0.5);
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let column = x as f64 + 0.5;
                let from_x = m[0] * column + m[1] * row_x + m[2];
                let from_y = m[3] * column + m[4] * row_y + m[5];
                if from_x >= 0.0 && from_x < width as f64 && from_y >= 0.0 && from_y < height as f64 {
                    *pixel = sample(pixels, width, height, from_x - 0.5, from_y - 0.5);
                }
            }
        }
        out
    }

    /// The same map of the same picture at `factor` times its size.
    pub(in crate::data) fn at_scale(self, factor: f64) -> Affine {
        Affine { shift: self.shift.map(|shift| shift * factor), ..self }
    }

    /// A label map mapped by Pillow's nearest transform, which steps in 16.16 fixed point.
    pub fn labels(&self, map: &LabelMap) -> LabelMap {
        let (width, height) = (map.width, map.height);
        let m = self.inverse(width, height);
        let fix = |v: f64| (v * 65536.0 + 0.5).floor() as i64;
        let (step_x, step_y) = ([fix(m[0]), fix(m[3])], [fix(m[1]), fix(m[4])]);
        let mut start = [fix(m[2] + m[0] * 0.5 + m[1] * 0.5), fix(m[5] + m[3] * 0.5 + m[4] * 0.5)];
        let mut labels = vec![0; width * height];
        for row in labels.chunks_exact_mut(width) {
            let mut at = start;
            for label in row {
                let (x, y) = (at[0] >> 16, at[1] >> 16);
                if x >= 0 && x < width as i64 && y >= 0 && y < height as i64 {
                    *label = map.labels[y as usize * width + x as usize];
                }
                at = [at[0] + step_x[0], at[1] + step_x[1]];
            }
            start = [start[0] + step_y[0], start[1] + step_y[1]];
        }
        LabelMap { width, height, labels }
    }

    /// A point of the image in the result.
    pub fn point(&self, [x, y]: [f64; 2], width: usize, height: usize) -> [f64; 2] {
        let (sin, cos) = (-self.degrees).to_radians().sin_cos();
        let center = [width as f64 / 2.0, height as f64 / 2.0];
        let (dx, dy) = (x - center[0], y - center[1]);
        let turned = [dx * cos + dy * sin, -dx * sin + dy * cos];
        [0, 1].map(|axis| turned[axis] * self.scale + (center[axis] + self.shift[axis]))
    }
}

/// Pillow's cubic through four values, `d` between the inner two.
#[inline(always)]
fn cubic(v: [f64; 4], d: f64) -> f64 {
    let p2 = -v[0] + v[2];
    let p3 = 2.0 * (v[0] - v[1]) + v[2] - v[3];
    let p4 = -v[0] + v[1] - v[2] + v[3];
    v[1] + d * (p2 + d * (p3 + d * p4))
}

/// The image at (x, y), both above −1, whole numbers being centres of pixels; edges are repeated.
#[inline(always)]
fn sample(pixels: &[u8], width: usize, height: usize, x: f64, y: f64) -> [u8; 3] {
    // Without SSE 4.1, which not every x86-64 has, rounding down would be a call.
    let floor = |v: f64| v as i64 - i64::from((v as i64) as f64 > v);
    let (left, top) = (floor(x), floor(y));
    let (dx, dy) = (x - left as f64, y - top as f64);
    let inside = left >= 1 && top >= 1 && left + 2 < width as i64 && top + 2 < height as i64;
    let mut across = [[0.0; 3]; 4];
    if inside {
        let start = 3 * ((top as usize - 1) * width + left as usize - 1);
        for (row, values) in across.iter_mut().enumerate() {
            let v = &pixels[start + 3 * width * row..][..12];
            for channel in 0..3 {
                let near = [v[channel], v[channel + 3], v[channel + 6], v[channel + 9]];
                values[channel] = cubic(near.map(f64::from), dx);
            }
        }
    } else {
        let clip = |v: i64, length: usize| v.clamp(0, length as i64 - 1) as usize;
        let columns: [usize; 4] = std::array::from_fn(|i| clip(left - 1 + i as i64, width));
        for (row, values) in across.iter_mut().enumerate() {
            let row = &pixels[3 * width * clip(top - 1 + row as i64, height)..][..3 * width];
            for channel in 0..3 {
                values[channel] = cubic(columns.map(|column| f64::from(row[3 * column + channel])), dx);
            }
        }
    }
    // The conversion clamps and cuts off the fraction, as Pillow does.
    std::array::from_fn(|channel| cubic(across.map(|values| values[channel]), dy) as u8)
}

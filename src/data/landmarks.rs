//! The five points that LaPa's warp needs, out of the data sets' 106 and 68.

use super::Affine;
use segface_codegen::Variant;
use segface_kernels::image::Window;

/// Where the five points come from: means of these landmarks, in the order left eye, right eye, nose tip, left and right
/// corner of the mouth.
const LAPA: [&[usize]; 5] = [&[74, 104], &[83, 105], &[54], &[84], &[90]];
const HELEN: [&[usize]; 5] = [&[36, 37, 38, 39, 40, 41], &[42, 43, 44, 45, 46, 47], &[30], &[48], &[54]];

/// Number of landmarks per face; 0 for a data set that has none.
pub(super) fn count(dataset: Variant) -> usize {
    match dataset {
        Variant::Celeb => 0,
        Variant::Lapa => 106,
        Variant::Helen => 68,
    }
}

/// The five points in pixels of the network's image of size `target` = (width, height). `landmarks` are in pixels of the stored photo
/// of size `photo`; `affine` is what was done to that photo, `window` the part of it that is resized.
///
/// Each data set's published arithmetic is kept, because the points decide the warp and the warp is ill-conditioned: LaPa's in f32
/// but for augmented samples, the others in f64.
pub(super) fn five_points(
    dataset: Variant,
    landmarks: &[[f32; 2]],
    photo: (usize, usize),
    affine: Option<&Affine>,
    window: Window,
    target: (usize, usize),
) -> [[f32; 2]; 5] {
    let groups = if dataset == Variant::Helen { &HELEN } else { &LAPA };
    let scale = [target.0 as f64 / window.width as f64, target.1 as f64 / window.height as f64];
    if dataset == Variant::Lapa && affine.is_none() {
        return groups.map(|group| {
            [0, 1].map(|axis| {
                let sum: f32 = group.iter().map(|&i| landmarks[i][axis]).sum();
                sum / group.len() as f32 * scale[axis] as f32
            })
        });
    }
    groups.map(|group| {
        let points = group.iter().map(|&i| {
            let point = landmarks[i].map(f64::from);
            let [x, y] = affine.map_or(point, |affine| affine.point(point, photo.0, photo.1));
            [(x - window.x as f64) * scale[0], (y - window.y as f64) * scale[1]]
        });
        let sum = points.fold([0.0; 2], |sum, point| [sum[0] + point[0], sum[1] + point[1]]);
        sum.map(|v| (v / group.len() as f64) as f32)
    })
}

/// Helen's square around a face of 68 `landmarks` in pixels of the photo: 1.2 times the larger side of their bounds, cut to the photo of
/// (width, height). `None` where nothing is left.
pub(super) fn helen_window(landmarks: &[[f32; 2]], photo: (usize, usize)) -> Option<Window> {
    let bounds = |axis: usize| {
        let values = landmarks.iter().map(|point| point[axis]);
        let (low, high) = values.fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(v), high.max(v)));
        (low, high - low + 1.0)
    };
    let [(x, width), (y, height)] = [bounds(0), bounds(1)];
    let side = (f64::from(width.max(height)) * 1.2) as i64;
    let span = |start: f32, length: f32, limit: usize| {
        let first = (start + length / 2.0) as i64 - side / 2;
        let end = first.saturating_add(side).min(limit as i64);
        let first = first.max(0);
        (end > first).then_some((first as usize, (end - first) as usize))
    };
    let (x, width) = span(x, width, photo.0)?;
    let (y, height) = span(y, height, photo.1)?;
    Some(Window { x, y, width, height })
}

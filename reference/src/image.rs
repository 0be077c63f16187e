//! LaPa's face warp: the image is aligned by five landmarks and its outskirts squeezed by tanh, so that the whole
//! image fits into the network's input with the face large (RoI-tanh warp); the logits are warped back.

use tch::{Kind, Tensor};

/// Where the eyes' centres, the tip of the nose and the corners of the mouth go, on a 512×512 canvas.
const STANDARD_POINTS: [[f64; 2]; 5] = [[196.0, 226.0], [316.0, 226.0], [256.0, 286.0], [220.0, 360.4], [292.0, 360.4]];
/// Share of the warped image, from each border inwards, that is squeezed.
const WARP_FACTOR: f64 = 0.8;

/// Least-squares similarity from `landmarks` [N, 5, 2] (pixels, x first) to the standard points of a warped image of
/// `height`×`width` pixels: [N, 3, 3], acting on column vectors (x, y, 1).
pub fn similarity(landmarks: &Tensor, height: i64, width: i64) -> Tensor {
    let flat: Vec<f64> = STANDARD_POINTS.iter().flat_map(|p| p.map(|v| v / 256.0 - 1.0)).collect();
    let extent = Tensor::from_slice(&[(width - 1) as f64, (height - 1) as f64]);
    let target = (Tensor::from_slice(&flat).view([1, 5, 2]) + 1.0) * extent / 2.0;
    let target = target.to_kind(landmarks.kind());

    let (from_mean, to_mean) = (mean_point(landmarks), mean_point(&target));
    let (from, to) = (landmarks - &from_mean, target - &to_mean);
    let (from_x, from_y) = (from.select(2, 0), from.select(2, 1));
    let (to_x, to_y) = (to.select(2, 0), to.select(2, 1));
    let sum = |x: Tensor| x.sum_dim_intlist(1, false, None);
    let norm = sum(&from_x * &from_x + &from_y * &from_y);
    let a = sum(&to_x * &from_x + &to_y * &from_y) / &norm;
    let b = sum(&to_x * &from_y - &to_y * &from_x) / &norm;

    let (from_mean, to_mean) = (from_mean.squeeze_dim(1), to_mean.squeeze_dim(1));
    let dx = to_mean.select(1, 0) - (&a * from_mean.select(1, 0) + &b * from_mean.select(1, 1));
    let dy = to_mean.select(1, 1) - (&a * from_mean.select(1, 1) - &b * from_mean.select(1, 0));
    let (zero, one) = (a.zeros_like(), a.ones_like());
    Tensor::stack(&[&a, &b, &dx, &(-&b), &a, &dy, &zero, &zero, &one], 1).view([-1, 3, 3])
}

fn mean_point(points: &Tensor) -> Tensor {
    points.mean_dim(1, true, None)
}

/// Integer pixel coordinates (x, y) of a `height`×`width` image: [height, width, 2].
fn pixels(height: i64, width: i64, kind: Kind) -> Tensor {
    let axis = |n| Tensor::arange(n, (kind, tch::Device::Cpu));
    let (y, x) = (axis(height).view([-1, 1]), axis(width).view([1, -1]));
    Tensor::stack(&[x.expand([height, width], false), y.expand([height, width], false)], -1)
}

/// [width, height] as a tensor, to turn pixels into normalised coordinates.
fn extent(height: i64, width: i64, kind: Kind) -> Tensor {
    Tensor::from_slice(&[width as f64, height as f64]).to_kind(kind)
}

/// Applies `matrix` [N, 3, 3] to `points` [h, w, 2] or [N, h, w, 2]: [N, h, w, 2].
fn transform(matrix: &Tensor, points: &Tensor) -> Tensor {
    let mut size = points.size();
    *size.last_mut().expect("points have axes") = 1;
    let ones = Tensor::ones(size.as_slice(), (points.kind(), points.device()));
    let homogeneous = Tensor::cat(&[points, &ones], -1).unsqueeze(-1);
    let moved = matrix.view([-1, 1, 1, 3, 3]).matmul(&homogeneous).squeeze_dim(-1);
    moved.narrow(-1, 0, 2) / moved.narrow(-1, 2, 1)
}

/// Applies `curve` to the part of each normalised coordinate beyond 1 − [`WARP_FACTOR`], keeping sign and continuity.
fn bend(n: &Tensor, curve: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let straight = 1.0 - WARP_FACTOR;
    let beyond = (n.abs() - straight) / WARP_FACTOR;
    let bent = n.sign() * (curve(&beyond) * WARP_FACTOR + straight);
    bent.where_self(&n.abs().gt(straight), n)
}

/// For each pixel of the warped image, where in the original it comes from, as `grid_sample` takes it:
/// [N, warped height, warped width, 2] in [−1, 1].
///
/// `matrix` from [`similarity`]; sizes are (height, width). Pixels stand at integer coordinates (no half-pixel shift),
/// as the published network has it.
pub fn warp_grid(matrix: &Tensor, warped: (i64, i64), original: (i64, i64)) -> Tensor {
    let kind = matrix.kind();
    let warped_extent = extent(warped.0, warped.1, kind);
    let n = pixels(warped.0, warped.1, kind) / &warped_extent * 2.0 - 1.0;
    let n = bend(&n, |x| x.clamp(-0.999, 0.999).atanh());
    let aligned = (n + 1.0) * warped_extent / 2.0;
    transform(&matrix.inverse(), &aligned) / extent(original.0, original.1, kind) * 2.0 - 1.0
}

/// For each pixel of the original image, where in the warped one it went: [N, height, width, 2] in [−1, 1].
pub fn unwarp_grid(matrix: &Tensor, warped: (i64, i64), original: (i64, i64)) -> Tensor {
    let kind = matrix.kind();
    let aligned = transform(matrix, &pixels(original.0, original.1, kind));
    let n = aligned / extent(warped.0, warped.1, kind) * 2.0 - 1.0;
    bend(&n, Tensor::tanh)
}

/// Bilinear samples of `x` [N, C, H, W] at `grid` [N, h, w, 2]: [N, C, h, w]. Zero outside, `align_corners=False`.
pub fn grid_sample(x: &Tensor, grid: &Tensor) -> Tensor {
    const BILINEAR: i64 = 0;
    const ZEROS: i64 = 0;
    x.grid_sampler(grid, BILINEAR, ZEROS, false)
}

/// The image as the LaPa network sees it: `image` [N, C, H, W], `landmarks` [N, 5, 2] in its pixels, result of the
/// same shape. Geometry is f32, or f64 for an f64 image; narrower kinds could not address the pixels.
pub fn warp(image: &Tensor, landmarks: &Tensor) -> Tensor {
    let (_, _, height, width) = image.size4().expect("an image is [N, C, H, W]");
    let kind = geometry(image.kind());
    let matrix = similarity(&landmarks.to_kind(kind), height, width);
    let grid = warp_grid(&matrix, (height, width), (height, width));
    grid_sample(&image.to_kind(kind), &grid).to_kind(image.kind())
}

/// Logits [N, T, h, w] of a warped image of `height`×`width` brought back onto the original of the same size:
/// [N, T, height, width]; zero where the warped image holds nothing.
pub fn unwarp(logits: &Tensor, landmarks: &Tensor, height: i64, width: i64) -> Tensor {
    let kind = geometry(logits.kind());
    let matrix = similarity(&landmarks.to_kind(kind), height, width);
    let grid = unwarp_grid(&matrix, (height, width), (height, width));
    grid_sample(&logits.to_kind(kind), &grid).to_kind(logits.kind())
}

/// The kind coordinates are computed in for a network run in `kind`.
pub(crate) fn geometry(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

//! How one photo, its crop and its face lie in the network's input, and back.

use super::{Crop, FacePoints, ImageError, Photo};
use segface_kernels::{
    Context, Element,
    image::{
        ClassRegion, FaceWarp, LabelResizer, Layout, Resampler, Window, class_regions, cuda::Frame as DeviceFrame,
    },
};

/// Class ids of a photo's pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width]`, ids in the order of the variant's classes.
    pub labels: Vec<u8>,
}

impl LabelMap {
    /// Pixel count and bounding box of each class.
    pub fn regions(&self, classes: usize) -> Vec<ClassRegion> {
        class_regions(&self.labels, self.width, self.height, classes)
    }
}

/// The way from one photo into the network and from its logits to labels of the photo's own size:
/// crop → resize → normalise → (warp) → network → (un-warp) → resize the logits → argmax → into the crop's place.
#[derive(Debug, Clone)]
pub struct Frame {
    photo: (usize, usize),
    window: Window,
    network: (usize, usize),
    warp: Option<FaceWarp>,
}

impl Frame {
    /// For a photo of `photo` = (width, height) and a network input of `network` = (width, height). The aspect ratio is not kept:
    /// the published networks were trained on squeezed photos. With `points`, in pixels of the photo, the input is warped as LaPa's
    /// networks want it.
    ///
    /// # Errors
    /// When the crop or the points do not fit the photo.
    pub fn new(
        photo: (usize, usize),
        crop: Option<Crop>,
        network: (usize, usize),
        points: Option<&FacePoints>,
    ) -> Result<Frame, ImageError> {
        let window = match crop {
            Some(crop) => crop.inside(photo.0, photo.1)?,
            None => Window::whole(photo.0, photo.1),
        };
        let warp = match points {
            Some(points) => {
                points.check(photo.0, photo.1)?;
                Some(FaceWarp::fit(&Frame::scale(points, window, network), network, network)?)
            }
            None => None,
        };
        Ok(Frame { photo, window, network, warp })
    }

    /// Points of the photo as points of the resized window.
    pub(super) fn scale(points: &FacePoints, window: Window, network: (usize, usize)) -> [[f32; 2]; 5] {
        points.0.map(|[x, y]| {
            let axis = |v: f32, start: usize, length: usize, target: usize| {
                ((f64::from(v) - start as f64) * target as f64 / length as f64) as f32
            };
            [axis(x, window.x, window.width, network.0), axis(y, window.y, window.height, network.1)]
        })
    }

    /// Width and height of the network's input.
    pub fn network(&self) -> (usize, usize) {
        self.network
    }

    /// The same way on a device, for a network whose logits are of `logits` = (width, height) with `classes` classes.
    pub fn on_device(&self, logits: (usize, usize), classes: usize) -> DeviceFrame {
        DeviceFrame::new(self.photo, self.window, self.network, logits, classes, self.warp.clone())
    }

    /// The part of the photo that the network sees.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Writes the network's input, `[height, width, 3]`, normalised; every value of `out` is overwritten.
    ///
    /// # Panics
    /// If the photo is not of the size the frame was made for, or `out` not of the network's.
    pub fn input<T: Element>(&self, ctx: &mut Context, photo: &Photo, out: &mut [T]) {
        assert_eq!((photo.width, photo.height), self.photo, "frame of another photo");
        let part = photo.view().window(self.window);
        let resampler = Resampler::new((self.window.width, self.window.height), self.network);
        let Some(warp) = &self.warp else {
            return resampler.resize_normalise(ctx, part, Layout::Nhwc, out);
        };
        let mut flat = vec![0f32; out.len()];
        let mut warped = vec![0f32; out.len()];
        resampler.resize_normalise(ctx, part, Layout::Nhwc, &mut flat);
        warp.warp(ctx, &flat, 3, &mut warped);
        for (out, value) in out.iter_mut().zip(warped) {
            *out = T::from_f32(value);
        }
    }

    /// Labels at the photo's size from the network's logits `[h, w, classes]` with `size` = (w, h). Outside of a crop: 0, the
    /// background.
    ///
    /// # Panics
    /// If `logits` is not of that size.
    pub fn labels(&self, ctx: &mut Context, logits: &[f32], size: (usize, usize), classes: usize) -> LabelMap {
        let (width, height) = self.photo;
        let mut labels = vec![0; width * height];
        let target = (self.window.width, self.window.height);
        match &self.warp {
            None => LabelResizer::new(size, target, classes).run(ctx, logits, &mut labels, width, self.window),
            Some(warp) => {
                let mut flat = vec![0f32; self.network.0 * self.network.1 * classes];
                warp.unwarp(ctx, logits, size, classes, &mut flat);
                LabelResizer::new(self.network, target, classes).run(ctx, &flat, &mut labels, width, self.window);
            }
        }
        LabelMap { width, height, labels }
    }
}

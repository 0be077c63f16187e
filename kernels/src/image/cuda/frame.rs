//! One photo's way through the device: what goes up, where it lies, which launches come before and after the network.

use super::{
    Launch, REGION_FIELDS, Resize, ResizeOutput, WarpAddresses, WarpSource, argmax_labels, class_regions,
    resize_labels, unwarp, warp,
};
use crate::image::{FaceWarp, Window};
use std::ops::Range;

/// Alignment of every part of the working memory: a whole memory transaction.
const ALIGNMENT: usize = 256;

/// The way of photos of one size (and one face each, with a warp) into the network and from its logits to labels of the photo's own
/// size: crop → resize → normalise → (warp) → network → (un-warp) → resize of the logits and argmax → into the crop's place.
///
/// It works in [`Frame::bytes`] of memory of its own, whose begin is given to each call as `memory`, a multiple of 256.
#[derive(Debug, Clone)]
pub struct Frame {
    photo: (usize, usize),
    window: Window,
    network: (usize, usize),
    logits: (usize, usize),
    classes: usize,
    warp: Option<FaceWarp>,
    resize: Resize,
    parts: Parts,
}

/// Where things lie in the working memory.
#[derive(Debug, Clone, Default)]
struct Parts {
    /// What the host writes: the resize's weights; then the face's two matrices and the warp's axes.
    weights: usize,
    matrices: usize,
    /// Between the passes of the resize.
    middle: usize,
    /// The resized photo, before a warp.
    rgb: usize,
    /// Logits in the image's frame, after one.
    flat: usize,
    /// Labels of the logits.
    corners: usize,
    /// Labels of the photo, and count and bounds of its classes.
    labels: usize,
    regions: usize,
    end: usize,
}

impl Frame {
    /// For a photo of `photo` = (width, height) of which `window` is looked at, a network input of `network` = (width, height), and
    /// logits of `logits` = (width, height) with `classes` classes. `warp` must be fitted to `network`.
    ///
    /// # Panics
    /// If the window does not lie in the photo, or a side is zero.
    pub fn new(
        photo: (usize, usize),
        window: Window,
        network: (usize, usize),
        logits: (usize, usize),
        classes: usize,
        warp: Option<FaceWarp>,
    ) -> Frame {
        assert!(window.fits(photo.0, photo.1), "{window:?} in {photo:?}");
        let resize = Resize::new((window.width, window.height), network);
        let mut end = 0;
        let mut place = |bytes: usize| {
            let begin = usize::next_multiple_of(end, ALIGNMENT);
            end = begin + bytes;
            begin
        };
        let warped = |bytes: usize| if warp.is_some() { bytes } else { 0 };
        let pixels = network.0 * network.1;
        let mut parts = Parts {
            weights: place(4 * resize.weights().len()),
            matrices: place(warped(4 * (12 + network.0 + network.1))),
            middle: place(resize.middle_bytes()),
            rgb: place(warped(3 * pixels)),
            flat: place(warped(4 * classes * pixels)),
            corners: place(if warp.is_some() { pixels } else { logits.0 * logits.1 }),
            regions: place(4 * REGION_FIELDS * classes),
            labels: place(photo.0 * photo.1),
            end: 0,
        };
        parts.end = end;
        Frame { photo, window, network, logits, classes, warp, resize, parts }
    }

    /// Width and height of the photo.
    pub fn photo(&self) -> (usize, usize) {
        self.photo
    }

    /// Bytes of working memory.
    pub fn bytes(&self) -> usize {
        self.parts.end
    }

    /// What the host must write into the working memory before the launches: places and bytes.
    pub fn uploads(&self) -> Vec<(usize, Vec<u8>)> {
        let weights = self.resize.weights().iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut uploads = vec![(self.parts.weights, weights)];
        if let Some(warp) = &self.warp {
            let numbers = warp.into_network().into_iter().chain(warp.out_of_network()).chain(warp.bent_axes());
            uploads.push((self.parts.matrices, numbers.flat_map(f32::to_le_bytes).collect()));
        }
        uploads
    }

    /// What must be zeros before the launches of [`Frame::after`].
    pub fn zeros(&self) -> Range<usize> {
        let whole = self.window == Window::whole(self.photo.0, self.photo.1);
        self.parts.regions..if whole { self.parts.labels } else { self.parts.end }
    }

    /// Where the photo's labels lie when all is done, u8 `[height, width]`.
    pub fn labels(&self) -> Range<usize> {
        self.parts.labels..self.parts.end
    }

    /// Where the classes' counts and bounds lie, for [`super::regions`].
    pub fn regions(&self) -> Range<usize> {
        self.parts.regions..self.parts.regions + 4 * REGION_FIELDS * self.classes
    }

    /// From the photo's RGB8 at `photo` to the network's input `[height, width, 3]` at `input`.
    pub fn before(&self, memory: u64, photo: u64, input: u64) -> Vec<Launch> {
        let at = |part: usize| memory + part as u64;
        let first = photo + 3 * (self.window.y * self.photo.0 + self.window.x) as u64;
        let (output, out) = match self.warp {
            None => (ResizeOutput::Nhwc, input),
            Some(_) => (ResizeOutput::Rgb, at(self.parts.rgb)),
        };
        let (weights, middle) = (at(self.parts.weights), at(self.parts.middle));
        let mut launches = self.resize.launches(first, 3 * self.photo.0, weights, middle, output, out).to_vec();
        if self.warp.is_some() {
            let faces =
                WarpAddresses { matrices: at(self.parts.matrices), bent_axes: at(self.parts.matrices) + 4 * 12 };
            launches.push(warp(1, WarpSource::Rgb(out), self.network, faces, input, self.network));
        }
        launches
    }

    /// From the network's logits f32 `[h, w, classes]` at `logits`, and their labels where the network gives them too, to the photo's
    /// labels and regions.
    pub fn after(&self, memory: u64, logits: u64, labels: Option<u64>) -> Vec<Launch> {
        let at = |part: usize| memory + part as u64;
        let mut launches = Vec::new();
        let (source, size, corners) = match &self.warp {
            None => {
                let corners = labels.unwrap_or(at(self.parts.corners));
                if labels.is_none() {
                    launches.push(argmax_labels(logits, corners, self.logits.0 * self.logits.1, self.classes));
                }
                (logits, self.logits, corners)
            }
            Some(_) => {
                let (flat, corners) = (at(self.parts.flat), at(self.parts.corners));
                let matrices = at(self.parts.matrices) + 4 * 6;
                let to = (flat, corners);
                launches.push(unwarp(1, logits, self.logits, self.classes, self.network, matrices, to, self.network));
                (flat, self.network, corners)
            }
        };
        let out = at(self.parts.labels);
        launches.push(resize_labels(source, corners, size, out, self.photo.0, self.window));
        launches.push(class_regions(out, self.photo, at(self.parts.regions)));
        launches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::STANDARD_FACE_POINTS;
    use crate::image::cuda::Kernel;

    fn face() -> FaceWarp {
        FaceWarp::fit(&STANDARD_FACE_POINTS.map(|p| p.map(|v| v / 8.0)), (64, 64), (64, 64)).unwrap()
    }

    #[test]
    fn parts_lie_apart_and_uploads_inside_theirs() {
        for warp in [None, Some(face())] {
            let window = Window { x: 5, y: 6, width: 80, height: 70 };
            let frame = Frame::new((101, 77), window, (64, 64), (64, 64), 11, warp);
            let parts = &frame.parts;
            let starts = [parts.weights, parts.matrices, parts.middle, parts.rgb, parts.flat, parts.corners];
            assert!(starts.is_sorted() && parts.regions > parts.corners && parts.labels > parts.regions);
            assert!(starts.iter().all(|start| start % ALIGNMENT == 0));
            for (place, bytes) in frame.uploads() {
                assert!(place + bytes.len() <= parts.middle);
            }
            assert_eq!(frame.labels().len(), 101 * 77);
            assert_eq!(frame.zeros(), parts.regions..parts.end, "a crop leaves background around it");
        }
    }

    #[test]
    fn a_frame_takes_as_few_launches_as_promised() {
        let kernels = |launches: Vec<Launch>| launches.iter().map(|launch| launch.kernel).collect::<Vec<_>>();
        let plain = Frame::new((90, 80), Window::whole(90, 80), (64, 64), (64, 64), 11, None);
        let warped = Frame::new((90, 80), Window::whole(90, 80), (64, 64), (64, 64), 11, Some(face()));
        assert_eq!(kernels(plain.before(0, 0, 0)), [Kernel::ResizeHorizontal, Kernel::ResizeNormalise]);
        assert_eq!(kernels(plain.after(0, 0, Some(0))), [Kernel::ResizeLabels, Kernel::ClassRegions]);
        assert_eq!(kernels(plain.after(0, 0, None))[0], Kernel::ArgmaxLabels);
        let before = [Kernel::ResizeHorizontal, Kernel::ResizeRgb, Kernel::WarpRgb];
        assert_eq!(kernels(warped.before(0, 0, 0)), before);
        assert_eq!(kernels(warped.after(0, 0, None)), [Kernel::Unwarp, Kernel::ResizeLabels, Kernel::ClassRegions]);
        assert_eq!(plain.zeros(), plain.regions().start..plain.labels().start);
    }
}

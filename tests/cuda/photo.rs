//! Photos on a device, bytes in and class ids out, against the kernels of the CPU around the same network on the device: the same bytes.

use segface::engine::cuda::{CudaEngine, PhotoEngine};
use segface::image::palette;
use segface::weights::{seeded, seeded_values};
use segface_codegen::ir::Output;
use segface_codegen::plan::{CompileOptions, Precision};
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::image::cuda::Frame;
use segface_kernels::image::{
    BlendStyle, FaceWarp, LabelResizer, Layout, Resampler, RgbView, STANDARD_FACE_POINTS, Window, blend_labels,
    class_regions,
};
use segface_kernels::{Context, Isa};
use segface_tests::cuda::device;
use std::sync::Arc;

/// Width and height of the network's input and logits.
const NETWORK: (usize, usize) = (64, 48);

fn engine(variant: Variant) -> PhotoEngine {
    let weights = seeded(ModelSpec { backbone: Backbone::MobileNet, variant });
    let options = CompileOptions {
        batch: 1,
        height: NETWORK.1,
        width: NETWORK.0,
        precision: Precision::F32,
        outputs: vec![Output::Logits],
        disabled: Vec::new(),
    };
    let program = segface_codegen::cuda::compile(&weights.spec, &weights, &options, &mut |_| {}).expect("it compiles");
    let engine = CudaEngine::new(Arc::new(program), device()).expect("the device takes it");
    PhotoEngine::new(engine, &palette(variant)).expect("the kernels compile")
}

fn check(photos: &mut PhotoEngine, variant: Variant, photo: (usize, usize), window: Window, warp: Option<FaceWarp>) {
    let (colors, classes) = (palette(variant), variant.classes().len());
    let noise = seeded_values(&format!("photo {photo:?}"), 3 * photo.0 * photo.1);
    let pixels: Vec<u8> = noise.iter().map(|v| ((v + 1.0) * 127.5) as u8).collect();
    let frame = Frame::new(photo, window, NETWORK, NETWORK, classes, warp.clone());
    let style = BlendStyle::for_size(photo.0, photo.1);
    let found = photos.label(&frame, &pixels, Some(style)).expect("the photo is labelled");

    let mut context = Context::new(1, Isa::Portable);
    let mut input = vec![0.0; 3 * NETWORK.0 * NETWORK.1];
    let view = RgbView::new(&pixels, photo.0, photo.1).window(window);
    let resampler = Resampler::new((window.width, window.height), NETWORK);
    resampler.resize_normalise(&mut context, view, Layout::Nhwc, &mut input);
    if let Some(warp) = &warp {
        let image = input.clone();
        warp.warp(&mut context, &image, 3, &mut input);
    }
    photos.engine().run(&input).expect("the network runs");
    let mut logits = photos.engine().logits().expect("it gives logits").to_vec();
    if let Some(warp) = &warp {
        let warped = logits.clone();
        warp.unwarp(&mut context, &warped, NETWORK, classes, &mut logits);
    }
    let mut labels = vec![0; photo.0 * photo.1];
    let resizer = LabelResizer::new(NETWORK, (window.width, window.height), classes);
    resizer.run(&mut context, &logits, &mut labels, photo.0, window);
    assert!(labels.iter().any(|label| *label != labels[0]), "labels of one class prove nothing");
    assert_eq!(found.labels, labels, "{photo:?} {window:?}");
    assert_eq!(found.regions, class_regions(&labels, photo.0, photo.1, classes), "{photo:?} {window:?}");
    let mut painted = pixels.clone();
    blend_labels(&mut context, &mut painted, &labels, photo.0, photo.1, &colors, style);
    assert!(found.overlay == Some(painted), "the overlay of {photo:?} {window:?}");
    let times = found.times;
    assert!([times.before, times.network, times.after].iter().all(|ms| *ms >= 0.0) && times.network > 0.0, "{times:?}");
}

#[test]
pub(crate) fn whole_photos_and_crops() {
    let mut photos = engine(Variant::Celeb);
    check(&mut photos, Variant::Celeb, (101, 77), Window::whole(101, 77), None);
    check(&mut photos, Variant::Celeb, (60, 50), Window { x: 3, y: 5, width: 51, height: 40 }, None);
}

#[test]
pub(crate) fn faces_are_warped_and_labels_come_back_unwarped() {
    let mut photos = engine(Variant::Lapa);
    let points = STANDARD_FACE_POINTS.map(|[x, y]| [x / 512.0 * 64.0 + 1.5, y / 512.0 * 48.0]);
    let warp = FaceWarp::fit(&points, NETWORK, NETWORK).expect("a face");
    check(&mut photos, Variant::Lapa, (120, 90), Window { x: 3, y: 5, width: 100, height: 70 }, Some(warp));
}

#[test]
fn engines_of_one_network_share_its_weights() {
    let mut photos = engine(Variant::Celeb);
    let first = photos.engine();
    let free = || device().memory().expect("the driver says").0;
    let before = free();
    let mut second = CudaEngine::of(Arc::clone(first.network())).expect("there is room");
    let taken = before - free();
    let (weights, arena) = (second.program().constant_bytes(), second.program().memory.arena_bytes);
    assert!(weights > 2 * arena, "a network whose weights would show: {weights} {arena}");
    assert!(taken < weights, "{taken} bytes for {arena} of working memory beside {weights} of weights");
    let input = seeded_values("input", 3 * NETWORK.0 * NETWORK.1);
    first.run(&input).expect("it runs");
    second.run(&input).expect("it runs");
    assert!(first.logits().expect("logits") == second.logits().expect("logits"));
}

//! Photos shared by devices that are none, of which some fail.

use super::fixtures;
use crate::image::{
    DEFAULT_MAX_PIXELS, Frame, ImageError, LabelError, LabelMap, Labeller, Labels, ModelSummary, OutputNames,
    ParseOptions, Photo, Run, Timings, parse_photos,
};
use segface_codegen::Variant;
use segface_kernels::{Context, Isa};
use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What a device does with its photo of that number, from 0.
type Plan = fn(usize) -> Option<LabelError>;

/// A device that says that everything is hair, or fails.
struct Device {
    name: &'static str,
    plan: Plan,
    /// Photos so far, of all its labellers.
    count: Arc<AtomicUsize>,
    /// Where labellers meet at their first photo, so that each gets one.
    meet: Arc<Barrier>,
    met: bool,
}

impl Labeller for Device {
    type Input = ();

    fn device(&self) -> &str {
        self.name
    }

    fn prepare(_: &mut Context, _: &Photo, _: &Frame) {}

    fn label(&mut self, photo: &Photo, _: &Frame, (): &(), _: &mut Timings) -> Result<Labels, LabelError> {
        if !std::mem::replace(&mut self.met, true) {
            self.meet.wait();
        }
        if let Some(error) = (self.plan)(self.count.fetch_add(1, Ordering::SeqCst)) {
            return Err(error);
        }
        let (width, height) = (photo.width, photo.height);
        let map = LabelMap { width, height, labels: vec![14; width * height] };
        Ok(Labels { regions: map.regions(19), map, overlay: None })
    }
}

/// Labellers on devices: a name, what it does, and how many labellers it has.
fn devices(plans: &[(&'static str, Plan, usize)]) -> Vec<Device> {
    let meet = Arc::new(Barrier::new(plans.iter().map(|plan| plan.2).sum()));
    let mut devices = Vec::new();
    for &(name, plan, labellers) in plans {
        let count = Arc::new(AtomicUsize::new(0));
        let labeller = || Device { name, plan, count: count.clone(), meet: meet.clone(), met: false };
        devices.extend(std::iter::repeat_with(labeller).take(labellers));
    }
    devices
}

fn share(photos: usize, labellers: Vec<Device>) -> (Run, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = vec![fixtures::path("images/rgb.png"); photos];
    let names = OutputNames::for_photos(folder.path(), &files);
    let model = ModelSummary {
        weights: "none".into(),
        backbone: "mobilenet".into(),
        variant: "celeb".into(),
        input: [32, 32],
        precision: "f32".into(),
    };
    let options = ParseOptions {
        variant: Variant::Celeb,
        model,
        crop: None,
        landmarks: None,
        max_pixels: DEFAULT_MAX_PIXELS,
        overlay: false,
        isa: Isa::best(),
        helpers: 2,
    };
    (parse_photos(&files, &names, &options, labellers, &|_, _| ()), folder)
}

fn lost(reason: &str) -> Option<LabelError> {
    Some(LabelError { reason: reason.into(), lost: true })
}

/// Files of results: two for each photo, none half-written.
fn written(folder: &tempfile::TempDir) -> usize {
    fs::read_dir(folder.path()).unwrap().count()
}

#[test]
fn several_devices_share_the_photos() {
    let works: Plan = |_| None;
    let labellers = devices(&[("a", works, 2), ("b", works, 2)]);
    let counts: Vec<_> = [0, 2].map(|index: usize| labellers[index].count.clone()).into();
    let (run, folder) = share(20, labellers);
    assert!(run.lost.is_empty() && run.outcomes.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(written(&folder), 40);
    let counts: Vec<_> = counts.iter().map(|count| count.load(Ordering::SeqCst)).collect();
    assert!(counts.iter().sum::<usize>() == 20 && counts.iter().all(|&count| count >= 2), "{counts:?}");
}

#[test]
fn another_device_finishes_what_a_lost_one_had_in_work() {
    let works: Plan = |_| None;
    // Both its labellers fail at the same time.
    let labellers =
        devices(&[("bad", |photo| if photo < 2 { None } else { lost("fell off the bus") }, 2), ("good", works, 1)]);
    let (run, folder) = share(12, labellers);
    assert!(run.outcomes.iter().all(|(_, result)| result.is_ok()), "{:?}", run.outcomes);
    assert_eq!(written(&folder), 24);
    assert_eq!(run.lost.len(), 1, "a device is lost once");
    assert_eq!((&run.lost[0].device[..], &run.lost[0].reason[..]), ("bad", "fell off the bus"));
}

#[test]
fn a_device_lost_with_all_labellers_leaves_finished_photos_and_names_the_rest() {
    let labellers = devices(&[("only", |photo| if photo < 2 { None } else { lost("no more") }, 2)]);
    let (run, folder) = share(8, labellers);
    let good = run.outcomes.iter().filter(|(_, result)| result.is_ok()).count();
    let at = |(_, result): &&(PathBuf, _)| matches!(result, Err(ImageError::DeviceLost { devices, .. }) if devices == "only");
    let left = run.outcomes.iter().filter(|(_, result)| matches!(result, Err(ImageError::NoDeviceLeft))).count();
    assert_eq!(good, 2);
    assert_eq!(run.outcomes.iter().filter(at).count() + left, 6);
    assert!((1..=2).contains(&run.outcomes.iter().filter(at).count()), "{:?}", run.outcomes);
    assert_eq!(written(&folder), 4);
}

#[test]
fn a_photo_that_two_devices_are_lost_at_does_not_take_the_third() {
    let works: Plan = |_| None;
    let (run, folder) = share(1, devices(&[("a", |_| lost("a fell"), 1)]));
    assert!(matches!(run.outcomes[0].1, Err(ImageError::DeviceLost { .. })));
    assert_eq!(written(&folder), 0);
    // Labellers that fail at whatever they get, one after the other, and one that is never asked for that photo: it comes last.
    let labellers = devices(&[("a", |_| lost("a fell"), 1), ("b", |_| lost("b fell"), 1), ("c", works, 1)]);
    let (run, _folder) = share(3, labellers);
    let twice = |devices: &str| devices == "a, b" || devices == "b, a";
    for (_, result) in &run.outcomes {
        match result {
            Ok(_) => {}
            Err(ImageError::DeviceLost { devices, .. }) => assert!(twice(devices), "{devices}"),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(run.lost.len(), 2);
    assert!(run.outcomes.iter().filter(|(_, result)| result.is_ok()).count() >= 2, "{:?}", run.outcomes);
}

#[test]
fn a_photo_that_does_not_fit_is_no_reason_to_stop() {
    let no_room = |photo| (photo == 1).then(|| LabelError { reason: "no room".into(), lost: false });
    let (run, folder) = share(4, devices(&[("small", no_room, 1)]));
    let failed: Vec<_> = run.outcomes.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    assert!(matches!(&failed[..], [ImageError::Label { device, reason }] if device == "small" && reason == "no room"));
    assert!(run.lost.is_empty());
    assert_eq!(written(&folder), 6);
}

//! `segface parse`: photos in, label maps, overlays and summaries out.

use super::model::ModelArgs;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use segface::{
    Error,
    image::{
        Crop, DEFAULT_MAX_PIXELS, ImageError, Inputs, Labeller, Landmarks, ModelSummary, OutputNames, ParseOptions,
        PhotoSummary, Run, expand_inputs, parse_photos, prepare_output_folder,
    },
    labellers,
    parser::{Ready, Request},
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Find the parts of faces in photos: hair, skin, eyes, brows, nose, lips...
///
/// For each photo three files are written: NAME.labels.png (indexed colours, pixel values are class ids), NAME.overlay.png (to
/// look at) and NAME.json (classes with pixel counts, shares and boxes, timings). All have the photo's own size, upright.
#[derive(clap::Args)]
#[command(after_help = "\
Photos are JPEG, PNG or WebP, told by content. A folder means the photos directly inside it; patterns like 'photos/*.jpg'
are expanded also where the shell does not. NAME is the photo's name without its ending; where photos share it, the later
ones get -2, -3, ... Existing results are replaced.

Landmarks (for lapa models): JSON [[x, y], ...] with left eye, right eye, nose tip, left and right corner of the mouth, in
pixels of the upright photo, left as seen in the picture; or {\"photo.jpg\": [[x, y], ...], ...} for several photos; or ten
numbers as text.

Several devices (--device cuda:0,1 or cuda:all) share the photos. When one is lost, the others finish its work; what was
written before is complete in any case.

Exit code: 0 if all photos were parsed, 1 if some or all were not (they are listed), 2 for wrong usage.")]
pub(crate) struct ParseArgs {
    /// Photos, folders of photos, or patterns
    #[arg(required = true, value_name = "PHOTO")]
    photos: Vec<PathBuf>,
    /// Folder for the results; made if it is not there
    #[arg(long, short, value_name = "FOLDER", default_value = "out")]
    out: PathBuf,
    /// Look only at this part of each photo: x,y,width,height in pixels; the rest is labelled background
    #[arg(long)]
    crop: Option<Crop>,
    /// Five points per face, which lapa models need
    #[arg(long, value_name = "FILE")]
    landmarks: Option<PathBuf>,
    /// Do not write overlays: for large photos they take longest
    #[arg(long)]
    no_overlay: bool,
    /// Refuse photos of more pixels than this
    #[arg(long, value_name = "COUNT", default_value_t = DEFAULT_MAX_PIXELS)]
    max_pixels: u64,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: ParseArgs) -> Result<(), Error> {
    let inputs = expand_inputs(&args.photos);
    let landmarks = match &args.landmarks {
        Some(path) => Some(Landmarks::load(path).map_err(|source| named(path, source))?),
        None => None,
    };
    if let (Some(Landmarks::One(_)), 2..) = (&landmarks, inputs.files.len()) {
        return Err(ImageError::OneFaceForMany { photos: inputs.files.len() }.into());
    }
    prepare_output_folder(&args.out)?;
    let request = Request { batch: Some(1), ..args.model.request() };
    let ready = args.model.ready(&request)?;
    let variant = ready.model().variant;
    match (&landmarks, variant.warps()) {
        (None, true) => return Err(ImageError::LandmarksNeeded { variant }.into()),
        (Some(_), false) => eprintln!("note: {variant} models do not warp; the landmarks are not used"),
        _ => {}
    }

    let threads = args.model.threads();
    let mut options = ParseOptions {
        variant,
        model: summary(&args.model, &ready),
        crop: args.crop,
        landmarks: landmarks.as_ref(),
        max_pixels: args.max_pixels,
        overlay: !args.no_overlay,
        isa: request.isa(),
        helpers: 1,
    };
    let photos = inputs.files.len();
    match ready {
        Ready::Cpu(engine) => parse(&args, &inputs, &options, vec![labellers::on_cpu(engine)?]),
        Ready::Cuda(engines) => {
            // The processors have nothing else to do, and a device is faster than any of them.
            options.helpers = threads.div_ceil(2);
            let labellers = labellers::on_cuda(engines, photos, options.overlay)?;
            parse(&args, &inputs, &options, labellers)
        }
    }
}

fn parse<L: Labeller>(
    args: &ParseArgs,
    inputs: &Inputs,
    options: &ParseOptions<'_>,
    labellers: Vec<L>,
) -> Result<(), Error> {
    let names = OutputNames::for_photos(&args.out, &inputs.files);
    let progress = progress_bar(inputs.files.len());
    let beside = labellers.len() > 1;
    let start = Instant::now();
    let run = parse_photos(&inputs.files, &names, options, labellers, &|_, _| progress.inc(1));
    progress.finish_and_clear();
    report(&args.out, &run, &inputs.failures, start.elapsed(), beside)
}

fn named(path: &Path, source: ImageError) -> ImageError {
    ImageError::InFile { path: path.into(), source: Box::new(source) }
}

fn summary(args: &ModelArgs, ready: &Ready) -> ModelSummary {
    let (model, [_, height, width]) = (ready.model(), ready.input_shape());
    let file = args.weights.as_ref().map(|path| path.display().to_string());
    ModelSummary {
        weights: file.or_else(|| args.model.clone()).unwrap_or_else(|| "demo".into()),
        backbone: model.backbone.name().into(),
        variant: model.variant.name().into(),
        input: [width, height],
        precision: ready.precision().name().into(),
    }
}

/// A bar with photos per second on standard error; none for a single photo, nor where that is not a terminal.
fn progress_bar(photos: usize) -> ProgressBar {
    if photos < 2 {
        return ProgressBar::hidden();
    }
    let template = "{bar:40} {pos}/{len} photos, {fps}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("fps", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A terminal that does not take text is no reason to fail.
        let _ = write!(out, "{:.1} per second", state.per_sec());
    });
    ProgressBar::new(photos as u64).with_style(style)
}

/// Prints what was found and how fast, and the photos that could not be parsed. `beside`: several labellers worked side by side.
fn report(
    out: &Path,
    run: &Run,
    unmatched: &[(PathBuf, ImageError)],
    elapsed: Duration,
    beside: bool,
) -> Result<(), Error> {
    let outcomes = &run.outcomes;
    let good: Vec<&PhotoSummary> = outcomes.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    super::print(|stdout| {
        match good[..] {
            [] => {}
            [one] => writeln!(stdout, "{}: {}, results in {}", one.file, found(one), out.display())?,
            _ => {
                let (seconds, count) = (elapsed.as_secs_f64(), good.len() as f64);
                let network: f64 = good.iter().map(|summary| summary.timings_ms.network).sum::<f64>() / 1e3;
                // Networks that ran at the same time have no speed of their own.
                let alone = if beside { String::new() } else { format!(" (the network alone {:.1})", count / network) };
                let (rate, folder) = (count / seconds, out.display());
                writeln!(stdout, "{count} photos in {seconds:.2} s: {rate:.1} per second{alone}, results in {folder}")?;
            }
        }
        Ok(())
    })?;
    for summary in &good {
        for warning in &summary.warnings {
            eprintln!("warning: {}: {warning}", summary.file);
        }
    }
    for loss in &run.lost {
        eprintln!("warning: {} was lost at {}: {}", loss.device, loss.photo.display(), loss.reason);
    }
    let failed = outcomes.iter().filter_map(|(file, result)| Some((file, result.as_ref().err()?)));
    let failures: Vec<_> = unmatched.iter().map(|(argument, error)| (argument, error)).chain(failed).collect();
    if failures.is_empty() {
        return Ok(());
    }
    eprintln!("not parsed:");
    for (file, error) in &failures {
        eprintln!("  {}: {error}", file.display());
    }
    Err(ImageError::SomeFailed { failed: failures.len(), total: outcomes.len() + unmatched.len() }.into())
}

/// `hair 12.3 %, face 20.1 %, ...`, the largest first, without the background.
fn found(summary: &PhotoSummary) -> String {
    let mut classes: Vec<_> = summary.classes[1..].iter().filter(|class| class.pixels > 0).collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.pixels));
    let parts: Vec<String> =
        classes.iter().map(|class| format!("{} {:.1} %", class.name, class.share * 100.0)).collect();
    if parts.is_empty() { "nothing but background".into() } else { parts.join(", ") }
}

//! `segface parse`: photos in, label maps, overlays and summaries out.

use super::model::ModelArgs;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use segface::{
    Error,
    image::{
        Crop, DEFAULT_MAX_PIXELS, ImageError, Landmarks, ModelSummary, Outcome, OutputNames, ParseOptions,
        PhotoSummary, Take, expand_inputs, parse_photos, prepare_output_folder,
    },
    parser::{Parser, Request},
};
use segface_codegen::ir::Output;
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
    let mut parser = args.model.parser(&request)?;
    let variant = parser.model().variant;
    match (&landmarks, variant.warps()) {
        (None, true) => return Err(ImageError::LandmarksNeeded { variant }.into()),
        (Some(_), false) => eprintln!("note: {variant} models do not warp; the landmarks are not used"),
        _ => {}
    }

    let options = ParseOptions {
        variant,
        model: summary(&args.model, &mut parser),
        crop: args.crop,
        landmarks: landmarks.as_ref(),
        max_pixels: args.max_pixels,
        overlay: !args.no_overlay,
        isa: parser.isa(),
        threads: parser.threads(),
    };
    let names = OutputNames::for_photos(&args.out, &inputs.files);
    let progress = progress_bar(inputs.files.len());
    let start = Instant::now();
    let mut network = |input: &[f32], take: &mut Take<'_>| logits(&mut parser, input, take);
    let outcomes = parse_photos(&inputs.files, &names, &options, &mut network, &|_, _| progress.inc(1))?;
    progress.finish_and_clear();
    report(&args.out, &outcomes, &inputs.failures, start.elapsed())
}

/// Runs the network and hands over the logits with their width and height.
fn logits(parser: &mut Parser, input: &[f32], take: &mut Take<'_>) -> Result<(), Error> {
    let engine = parser.engine();
    engine.run(input)?;
    let size = engine.output_shape(Output::Logits).map_or((0, 0), |shape| (shape[2], shape[1]));
    take(engine.logits()?, size);
    Ok(())
}

fn named(path: &Path, source: ImageError) -> ImageError {
    ImageError::InFile { path: path.into(), source: Box::new(source) }
}

fn summary(args: &ModelArgs, parser: &mut Parser) -> ModelSummary {
    let model = parser.model();
    let [_, height, width] = parser.input_shape();
    let file = args.weights.as_ref().map(|path| path.display().to_string());
    ModelSummary {
        weights: file.or_else(|| args.model.clone()).unwrap_or_else(|| "demo".into()),
        backbone: model.backbone.name().into(),
        variant: model.variant.name().into(),
        input: [width, height],
        precision: parser.engine().precision().name().into(),
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

/// Prints what was found and how fast, and the photos that could not be parsed.
fn report(
    out: &Path,
    outcomes: &[Outcome],
    unmatched: &[(PathBuf, ImageError)],
    elapsed: Duration,
) -> Result<(), Error> {
    let good: Vec<&PhotoSummary> = outcomes.iter().filter_map(|(_, result)| result.as_ref().ok()).collect();
    super::print(|stdout| {
        match good[..] {
            [] => {}
            [one] => writeln!(stdout, "{}: {}, results in {}", one.file, found(one), out.display())?,
            _ => {
                let seconds = elapsed.as_secs_f64();
                let network: f64 = good.iter().map(|summary| summary.timings_ms.network).sum::<f64>() / 1e3;
                let count = good.len() as f64;
                writeln!(
                    stdout,
                    "{} photos in {seconds:.2} s: {:.1} per second (the network alone {:.1}), results in {}",
                    good.len(),
                    count / seconds,
                    count / network,
                    out.display()
                )?;
            }
        }
        Ok(())
    })?;
    for summary in &good {
        for warning in &summary.warnings {
            eprintln!("warning: {}: {warning}", summary.file);
        }
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

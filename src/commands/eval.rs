//! `segface eval`: the paper's metrics of a network on a split.

use super::model::ModelArgs;
use segface::data::{Dataset, Split, dataset_named};
use segface::engine::Engine;
use segface::eval::{Evaluation, Scores, confusion_picture, evaluate, same_classes, show, worst_sheet};
use segface::image::{prepare_output_folder, write_output};
use segface::parser::{Parser, Request};
use segface::{Error, Variant};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Score a network on labelled faces: F1, IoU and accuracy per class and over all
///
/// Counts as the published evaluation does: over all pixels of the split at the network's size, pixels labelled 255 left out, the
/// last partial batch included, the mean F1 without the background. Written are a table, eval.json, confusion.png (the confusion
/// matrix) and worst.png (photo, truth and prediction of the worst images).
#[derive(clap::Args)]
pub(crate) struct EvalArgs {
    /// The data set's own folder (see `segface data --help` for its layout)
    #[arg(long, value_name = "FOLDER")]
    data: PathBuf,
    /// celebamask_hq, lapa or helen [default: what the network is for]
    #[arg(long, value_name = "NAME", value_parser = dataset_named)]
    dataset: Option<Variant>,
    /// train, val or test
    #[arg(long, default_value = "test")]
    split: Split,
    /// Images in one run of the network [default: 1, or what an engine file was compiled for]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: Option<u16>,
    /// Images in worst.png
    #[arg(long, value_name = "COUNT", default_value_t = 12, value_parser = clap::value_parser!(u16).range(0..=400))]
    worst: u16,
    /// Folder for the results; made if it is not there
    #[arg(long, short, value_name = "FOLDER", default_value = "out")]
    out: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

/// Most engines that share out the images on the CPU: each has activations of its own.
const MOST_ENGINES: usize = 8;

/// eval.json. Scores are from 0 to 1; a class that occurs neither in truth nor in prediction has the F1 null.
#[derive(Serialize)]
struct Report<'a> {
    dataset: &'a str,
    split: &'a str,
    folder: String,
    weights: String,
    backbone: &'a str,
    variant: &'a str,
    /// [width, height] of the network's input, at which pixels are counted.
    size: [usize; 2],
    precision: &'a str,
    device: String,
    images: usize,
    seconds: f64,
    #[serde(flatten)]
    scores: &'a Scores,
    /// Rows are the truth, columns the prediction, in pixels.
    confusion: Vec<&'a [u64]>,
    worst: Vec<WorstImage>,
}

#[derive(Serialize)]
struct WorstImage {
    name: String,
    mean_f1: f64,
}

pub(crate) fn run(args: EvalArgs) -> Result<(), Error> {
    prepare_output_folder(&args.out)?;
    let worst = usize::from(args.worst);
    let threads = args.model.threads();
    let engines = threads.min(MOST_ENGINES);
    let request = Request { batch: args.batch.map(usize::from), ..args.model.request() };
    let mut parser = Parser::open(&request, args.model.device, threads.div_ceil(engines))?;
    let model = parser.model();
    let variant = args.dataset.unwrap_or(model.variant);
    if !same_classes(variant, model.variant) {
        return Err(Error::OtherClasses { network: model.variant, dataset: variant });
    }
    let dataset = Arc::new(Dataset::open(variant, &args.data, args.split)?);
    let bar = super::data::progress_bar();
    bar.set_length(dataset.len() as u64);
    let start = Instant::now();
    let evaluation = evaluate(&dataset, &mut parser, engines, threads, &|done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();

    let scores = Scores::new(&evaluation.confusion, variant);
    let title = format!("{variant} {}, {} images, {}", args.split, dataset.len(), model.backbone.name());
    write_pictures(&args.out, &title, &dataset, &mut parser, &evaluation, &scores, worst)?;
    let [_, height, width] = parser.input_shape();
    let engine = parser.engine();
    let weights = args.model.weights.as_ref().map(|path| path.display().to_string());
    let report = Report {
        dataset: variant.name(),
        split: args.split.name(),
        folder: args.data.display().to_string(),
        weights: weights.or_else(|| args.model.model.clone()).unwrap_or_else(|| "demo".into()),
        backbone: model.backbone.name(),
        variant: model.variant.name(),
        size: [width, height],
        precision: engine.precision().name(),
        device: engine.device().to_owned(),
        images: dataset.len(),
        seconds: (seconds * 1e3).round() / 1e3,
        scores: &scores,
        confusion: evaluation.confusion.rows().collect(),
        worst: evaluation
            .worst(worst)
            .into_iter()
            .map(|place| &evaluation.images[place])
            .map(|image| WorstImage { name: dataset.name(image.index), mean_f1: image.mean_f1 })
            .collect(),
    };
    write_output(&args.out.join("eval.json"), |out| {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        out.write_all(b"\n")
    })?;
    let on = if matches!(engine, Engine::Cpu(_)) { "cpu" } else { engine.device() };
    super::print(|out| {
        scores.write_table(out)?;
        let rate = dataset.len() as f64 / seconds;
        writeln!(out, "{title} at {width}x{height} on {on} in {seconds:.1} s ({rate:.1} images per second)")?;
        writeln!(out, "eval.json, confusion.png and worst.png in {}", args.out.display())
    })
}

fn write_pictures(
    folder: &Path,
    title: &str,
    dataset: &Dataset,
    parser: &mut Parser,
    evaluation: &Evaluation,
    scores: &Scores,
    worst: usize,
) -> Result<(), Error> {
    let f1 = if scores.mean_f1.is_nan() { scores.mean_f1_of_present } else { scores.mean_f1 };
    let title = format!("{title}: mean F1 {:.2}", 100.0 * f1);
    let picture = confusion_picture(&evaluation.confusion, dataset.variant(), &title);
    write_output(&folder.join("confusion.png"), |out| picture.encode(out))?;
    let chosen: Vec<_> = evaluation.worst(worst).into_iter().map(|place| &evaluation.images[place]).collect();
    let sheet = worst_sheet(&show(dataset, parser, &chosen)?, dataset.variant(), &title);
    write_output(&folder.join("worst.png"), |out| sheet.encode(out))?;
    Ok(())
}

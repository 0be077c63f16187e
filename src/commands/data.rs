//! `segface data`: folders of labelled faces.

use super::train::Augment;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use segface::data::{
    Dataset, FolderReport, Loader, LoaderOptions, Preparation, Split, check_folder, dataset_named, recognise_folder,
};
use segface::eval::sample_sheet;
use segface::image::write_output;
use segface::parser::default_threads;
use segface::train::Variation;
use segface::{Error, Variant};
use segface_kernels::{Context, Isa};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Look after folders of labelled faces: CelebAMask-HQ, LaPa, Helen
#[derive(clap::Args)]
#[command(after_help = "\
Layouts, as published; FOLDER is the data set's own folder:
  celebamask_hq  CelebA-HQ-img/ID.jpg, CelebAMask-HQ-mask-anno/ID÷2000/ID_PART.png, CelebA-HQ-to-CelebA-mapping.txt,
                 list_eval_partition.txt
  lapa           {train,val,test}/{images/NAME.jpg,labels/NAME.png,landmarks/NAME.txt}
  helen          {train,test}/{NAME_image.jpg,NAME_label.png}, landmarks.txt")]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    Check(CheckArgs),
    Show(ShowArgs),
    Speed(SpeedArgs),
}

/// Read a whole folder, count its classes and list everything that is wrong with it
///
/// Exit code: 0 if nothing is wrong, 1 if something is, 2 for wrong usage.
#[derive(clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Threads [default: one per processor of this process]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Draw samples as a network is shown them in training: image and labels, several epochs of each beside each other
#[derive(clap::Args)]
struct ShowArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Which split
    #[arg(long, default_value = "train")]
    split: Split,
    /// Side of the network's input
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    size: u16,
    /// How images are varied, as in `segface train`
    #[arg(long, value_enum, default_value = "published")]
    augment: Augment,
    /// Seed of that
    #[arg(long, default_value_t = 32)]
    seed: u64,
    /// Images, the first of the split
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    images: u16,
    /// Epochs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    epochs: u16,
    /// The picture, a PNG
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

/// Measure how many images per second the loader makes ready, to see whether it keeps up with a network
#[derive(clap::Args)]
struct SpeedArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Which split
    #[arg(long, default_value = "train")]
    split: Split,
    /// Side of the network's input
    #[arg(long, value_name = "PIXELS", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=16_384))]
    size: u16,
    /// Images in a batch
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Most images to load
    #[arg(long, default_value_t = 500)]
    images: usize,
    /// Threads [default: each number up to the processors of this process, doubling]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(clap::Args)]
struct FolderArgs {
    /// The data set's own folder
    folder: PathBuf,
    /// celebamask_hq, lapa or helen [default: told by what the folder holds]
    #[arg(long, value_name = "NAME", value_parser = dataset_named)]
    dataset: Option<Variant>,
}

impl FolderArgs {
    fn dataset(&self) -> Result<Variant, Error> {
        Ok(self.dataset.map_or_else(|| recognise_folder(&self.folder), Ok)?)
    }
}

pub(crate) fn run(args: DataArgs) -> Result<(), Error> {
    match args.command {
        DataCommand::Check(args) => check(&args),
        DataCommand::Show(args) => show(&args),
        DataCommand::Speed(args) => speed(&args),
    }
}

fn check(args: &CheckArgs) -> Result<(), Error> {
    let dataset = args.folder.dataset()?;
    let bar = progress_bar();
    let threads = args.threads.map_or_else(default_threads, usize::from);
    let report = check_folder(dataset, &args.folder.folder, threads, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    super::print(|out| write_report(out, &args.folder.folder, &report))?;
    match report.problems.len() {
        0 => Ok(()),
        count => Err(Error::Problems { count }),
    }
}

/// A bar of images on standard error; none where that is not a terminal.
pub(super) fn progress_bar() -> ProgressBar {
    let template = "{bar:40} {pos}/{len} images, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn write_report(out: &mut dyn Write, folder: &Path, report: &FolderReport) -> std::io::Result<()> {
    writeln!(out, "{}: {}", folder.display(), report.dataset)?;
    for split in &report.splits {
        let total = split.pixels.iter().sum::<u64>() + split.ignored;
        writeln!(out, "\n{}: {} images", split.split, split.images)?;
        writeln!(out, "{:>3} {:<12}{:>10}{:>10}{:>16}", "id", "class", "images", "pixels %", "pixels")?;
        let share = |pixels: u64| 100.0 * pixels as f64 / total.max(1) as f64;
        for (id, name) in report.dataset.classes().iter().enumerate() {
            let (images, pixels) = (split.images_with[id], split.pixels[id]);
            writeln!(out, "{id:>3} {name:<12}{images:>10}{:>10.3}{pixels:>16}", share(pixels))?;
        }
        if split.ignored > 0 {
            writeln!(out, "255 {:<12}{:>10}{:>10.3}{:>16}", "(ignored)", "", share(split.ignored), split.ignored)?;
        }
    }
    if report.problems.is_empty() {
        return writeln!(out, "\nnothing is wrong");
    }
    writeln!(out, "\nwrong:")?;
    report.problems.iter().try_for_each(|problem| writeln!(out, "  {problem}"))
}

fn show(args: &ShowArgs) -> Result<(), Error> {
    let variant = args.folder.dataset()?;
    let dataset = Dataset::open(variant, &args.folder.folder, args.split)?;
    let size = usize::from(args.size);
    let preparation = Variation::from(args.augment).preparation(&dataset, (size, size), args.seed);
    let mut ctx = Context::new(default_threads(), Isa::best());
    let mut rows = Vec::new();
    for index in 0..dataset.len().min(usize::from(args.images)) {
        let epochs = 0..u64::from(args.epochs);
        let samples = epochs.map(|epoch| preparation.sample(&mut ctx, &dataset, epoch, index));
        rows.push((dataset.name(index), samples.collect::<Result<Vec<_>, _>>()?));
    }
    let sheet = sample_sheet(&rows, size, variant);
    write_output(&args.out, |out| sheet.encode(out))?;
    Ok(())
}

fn speed(args: &SpeedArgs) -> Result<(), Error> {
    let variant = args.folder.dataset()?;
    let dataset = std::sync::Arc::new(Dataset::open(variant, &args.folder.folder, args.split)?);
    let indices: Vec<usize> = (0..dataset.len().min(args.images)).collect();
    let numbers: Vec<usize> = match args.threads {
        Some(threads) => vec![usize::from(threads)],
        None => std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n <= default_threads()).collect(),
    };
    let size = usize::from(args.size);
    for threads in numbers {
        let options = LoaderOptions {
            preparation: Preparation::published(&dataset, (size, size), 0),
            batch: usize::from(args.batch),
            drop_last: false,
            threads,
            prefetch: 3,
            isa: Isa::best(),
        };
        let loader = Loader::new(std::sync::Arc::clone(&dataset), options);
        let start = Instant::now();
        for batch in loader.batches(0, indices.clone()) {
            batch?;
        }
        let seconds = start.elapsed().as_secs_f64();
        let (count, rate) = (indices.len(), indices.len() as f64 / seconds);
        super::print(|out| {
            writeln!(
                out,
                "{threads} thread{}: {count} images at {size}x{size} in {seconds:.2} s, {rate:.1} per second",
                if threads == 1 { "" } else { "s" }
            )
        })?;
    }
    Ok(())
}

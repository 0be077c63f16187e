//! `segface train`: a network from a data set's own folder.

mod engine;

use clap::ValueEnum;
use engine::{EngineName, On};
use segface::data::{Dataset, Split, dataset_named, folder_in};
use segface::engine::EngineError;
use segface::parser::default_threads;
use segface::train::{
    Decay, EngineChoice, Layout, Place, Recipe, RunOptions, Schedule, Start, Summary, TrainError, Variation, connect,
    train,
};
use segface::{Backbone, Error, ModelSpec, Variant};
use segface_codegen::grad::{Means, TrainingOptions, training};
use segface_codegen::plan::Precision;
use segface_kernels::{Isa, peak};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Train a network on CelebAMask-HQ, LaPa or Helen
///
/// The published recipe unless told otherwise: AdamW, 1e-4, a tenth of it from epochs 80 and 200 on, 300 epochs, seed 32, half cross-entropy and
/// half dice. The published option names are accepted as they are. Runs on the CPU in f32 or bf16, or on a CUDA device in f32 or tf32.
///
/// The run's folder gets state.safetensors (to go on from with --resume, bit for bit), model_EPOCH.safetensors and model_best.safetensors
/// (for `segface parse` and `eval`), log.jsonl, TensorBoard's event files, curves.png and curves.svg. Interrupt (Ctrl-C) or `kill` ends the
/// run after the step it is at, with its state written; a second interrupt ends it at once.
///
/// Several processes are started by torchrun or by hand, each with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or by Open MPI's mpirun.
/// They see the micro-batches that one process with --accumulate sees, and end with the same bits.
#[derive(clap::Args)]
#[command(rename_all = "snake_case")]
#[command(after_help = "\
Folders: the data set is $DATA_PATH/{CelebAMask-HQ,LaPa,helen}, the run is $LOG_PATH/CKPT_PATH/EXPT_NAME; where these are relative, they
are so to $ROOT_PATH. The variables may also stand in a file .env here or above.")]
pub(crate) struct TrainArgs {
    /// Name of the run, and of its folder
    #[arg(long, visible_alias = "expt-name", value_name = "NAME", required_unless_present = "out")]
    expt_name: Option<String>,
    /// celebamask_hq, lapa or helen
    #[arg(long, value_name = "NAME", value_parser = dataset_named)]
    dataset: Variant,
    /// As published, segface_celeb, segface_lapa or segface_helen, which must suit the data set; or the name of the backbone itself
    #[arg(long, value_name = "NAME")]
    backbone: Option<String>,
    /// The backbone: swin_base, swinv2_base, swinv2_small, swinv2_tiny, convnext_base, convnext_small, convnext_tiny, resnet, mobilenet,
    /// efficientnet
    #[arg(long, value_name = "NAME")]
    model: Option<Backbone>,
    /// Highest learning rate
    #[arg(long, default_value_t = 1e-4, value_parser = positive)]
    lr: f64,
    /// Epochs from which on the rate is a tenth of what it was, like 80,200; or cosine; or constant
    #[arg(long, visible_alias = "lr-schedule", value_name = "SCHEDULE", default_value = "80,200")]
    lr_schedule: Decay,
    /// Steps over which the rate rises from nothing
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: u64,
    /// Side of the network's input, a multiple of 4
    #[arg(long, visible_alias = "input-resolution", value_name = "PIXELS", default_value_t = 512, value_parser = clap::value_parser!(u16).range(4..=4096))]
    input_resolution: u16,
    /// Images in a micro-batch, which batch norms and the dice loss see together [default: 4, helen 2]
    #[arg(long, visible_alias = "train-bs", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=4096))]
    train_bs: Option<u16>,
    /// Images in one run of the network at validation
    #[arg(long, visible_alias = "val-bs", value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    val_bs: u16,
    /// Accepted for published command lines; `segface eval` tests
    #[arg(long, hide = true)]
    test_bs: Option<u16>,
    /// Accepted for published command lines: what the data set has
    #[arg(long, hide = true)]
    num_classes: Option<usize>,
    /// Accepted for published command lines: a state is always whole
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", value_parser = truth)]
    save_all_states: Option<bool>,
    /// Micro-batches of each process in a step, added up
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    accumulate: u16,
    /// Length of the run
    #[arg(long, value_name = "COUNT", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Decay of all parameters per unit of learning rate
    #[arg(long, visible_alias = "weight-decay", value_name = "DECAY", default_value_t = 1e-5, value_parser = not_negative)]
    weight_decay: f64,
    /// Longest gradient; longer ones are shortened to it [default: none is]
    #[arg(long, value_name = "NORM", value_parser = positive)]
    clip: Option<f64>,
    /// Keep moving averages of the weights, of which a step keeps this share (such as 0.999), and validate and save those
    #[arg(long, value_name = "SHARE", value_parser = share)]
    ema: Option<f64>,
    /// Leave the backbone as it is, batch statistics included
    #[arg(long, visible_alias = "freeze-backbone")]
    freeze_backbone: bool,
    /// Weights to start from: a SegFace network (safetensors, .pt), or torchvision's classifier (.pth) for the backbone [default: random
    /// numbers by torch's and torchvision's initialisers]
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Go on from the state in the run's folder
    #[arg(long, num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = truth)]
    resume: bool,
    /// How images are varied: as published (LaPa's by random affine maps, the others not at all), or strongly (mirror, affine map, other
    /// backgrounds, light, colours, blur, noise), for networks that shall do on photographs what they learned on few or rendered faces
    #[arg(long, value_enum, default_value = "published")]
    augment: Augment,
    /// Seed of shuffles, augmentation, stochastic depth and random weights
    #[arg(long, default_value_t = 32)]
    seed: u64,
    /// Threads that read and prepare images
    #[arg(long, visible_alias = "num-workers", value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    num_workers: u16,
    /// Threads that compute [default: the processors of this machine, shared out among its processes]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where losses and gradients are computed: cpu, cuda:NUMBER, or cuda for the device of the process's LOCAL_RANK
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: On,
    /// Of activations and products: f32, on the CPU also bf16 (weights, their gradients and statistics stay f32), on CUDA also tf32
    #[arg(long, default_value = "f32", value_parser = precision)]
    precision: Precision,
    /// What the backward pass needs may take so much on the CPU besides gradients: what does not fit is computed again, as far as that helps. No
    /// number depends on it [default: a 32nd of the work may be done twice]
    #[arg(long, value_name = "MIB")]
    memory: Option<NonZero<usize>>,
    /// Epochs between weights files; 0 for only one at the end
    #[arg(long, visible_alias = "save-interval", value_name = "EPOCHS", default_value_t = 20)]
    save_interval: u64,
    /// Epochs between validations; 0 for none
    #[arg(long, visible_alias = "val-interval", value_name = "EPOCHS", default_value_t = 20)]
    val_interval: u64,
    /// Steps between states; one is also written at the end of each epoch; 0 for only those
    #[arg(long, visible_alias = "state-interval", value_name = "STEPS", default_value_t = 500)]
    state_interval: u64,
    /// Steps between lines of the log
    #[arg(long, visible_alias = "log-interval", value_name = "STEPS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    log_interval: u64,
    /// Stop when so many steps are done, as at an interrupt
    #[arg(long, visible_alias = "stop-after", value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    stop_after: Option<u64>,
    /// What the messages of several processes go through: TCP, or Open MPI's library, for runs that mpirun starts
    #[arg(long, value_enum, default_value = "tcp")]
    transport: Transport,
    /// What computes losses and gradients. States are resumed by the engine that they are of
    #[arg(long, value_enum, default_value = "ours")]
    engine: EngineName,
    /// Whether gradients travel to the other processes while the backward pass goes on; if not, after it. No number depends on it
    #[arg(long, value_name = "BOOL", default_value = "true", value_parser = truth, action = clap::ArgAction::Set)]
    overlap: bool,
    /// The data set's own folder [default: see below]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// The run's folder [default: see below]
    #[arg(long, short, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Folder of all runs, below LOG_PATH
    #[arg(long, visible_alias = "ckpt-path", value_name = "FOLDER", default_value = "ckpts")]
    ckpt_path: PathBuf,
}

/// `--augment`
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Augment {
    Published,
    Strong,
}

impl From<Augment> for Variation {
    fn from(augment: Augment) -> Variation {
        match augment {
            Augment::Published => Variation::Published,
            Augment::Strong => Variation::Strong,
        }
    }
}

/// `--transport`
#[derive(Clone, Copy, ValueEnum)]
enum Transport {
    Tcp,
    #[cfg(unix)]
    Mpi,
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| format!("`{text}` is no number"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| if value > 0.0 { Ok(value) } else { Err("expected more than 0".into()) })
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| if value >= 0.0 { Ok(value) } else { Err("expected 0 or more".into()) })
}

fn share(text: &str) -> Result<f64, String> {
    number(text).and_then(|value| match value {
        0.0..1.0 => Ok(value),
        _ => Err("expected 0 or more, and less than 1".into()),
    })
}

fn precision(text: &str) -> Result<Precision, String> {
    let known = [Precision::F32, Precision::Bf16, Precision::Tf32];
    let found = known.into_iter().find(|precision| precision.name() == text);
    found.ok_or_else(|| format!("networks are not trained in `{text}`; expected f32, bf16 or tf32"))
}

/// As Python prints it, too.
fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

impl TrainArgs {
    /// Which network, from two names that the published code uses the other way round.
    fn network(&self) -> Result<ModelSpec, TrainError> {
        let variant = self.dataset;
        let mut backbone = self.model;
        if let Some(name) = &self.backbone {
            if let Some(head) = name.strip_prefix("segface_") {
                if head != variant.name() {
                    let reason =
                        format!("--backbone {name} does not suit --dataset {variant}; expected segface_{variant}");
                    return Err(TrainError::Options(reason));
                }
            } else {
                let named: Backbone = name.parse().map_err(TrainError::Options)?;
                if backbone.is_some_and(|other| other != named) {
                    let reason = format!("--backbone {name} and --model name two backbones; leave one out");
                    return Err(TrainError::Options(reason));
                }
                backbone = Some(named);
            }
        }
        let missing = || TrainError::Options("which backbone? Give --model, such as --model mobilenet".into());
        let classes = variant.classes().len();
        match self.num_classes {
            Some(found) if found != classes => Err(TrainError::Options(format!(
                "--num_classes {found} does not suit --dataset {variant}, which has {classes}"
            ))),
            _ => Ok(ModelSpec { backbone: backbone.ok_or_else(missing)?, variant }),
        }
    }

    fn recipe(&self, model: ModelSpec, images: usize, processes: usize, engine: EngineChoice) -> Recipe {
        let published = Recipe::published(model, usize::from(self.input_resolution), images);
        Recipe {
            batch: self.train_bs.map_or(published.batch, usize::from),
            replicas: processes * usize::from(self.accumulate),
            schedule: Schedule { learning_rate: self.lr, decay: self.lr_schedule.clone(), warmup: self.warmup },
            epochs: self.epochs,
            weight_decay: self.weight_decay,
            clip: self.clip,
            ema: self.ema,
            freeze_backbone: self.freeze_backbone,
            precision: self.precision,
            augment: self.augment.into(),
            seed: self.seed,
            engine,
            ..published
        }
    }
}

/// Floating-point operations of a step on the CPU, whichever engine does it.
fn flops(layout: &Layout, step: &TrainingOptions) -> Result<f64, EngineError> {
    let trained = |name: &str| layout.find(name).is_some_and(|entry| entry.trained);
    let graph = training(&layout.model(), step, &trained)?.graph;
    Ok(graph.nodes.iter().map(|node| node.flops(&graph)).sum::<u64>() as f64)
}

/// A batch norm over one value has no variance: the deepest map must have more than one pixel, or the batch more than one image.
fn check_batch_norms(recipe: &Recipe) -> Result<(), TrainError> {
    let norms = matches!(recipe.model.backbone, Backbone::MobileNet | Backbone::ResNet | Backbone::EfficientNet);
    let values = recipe.batch * recipe.resolution.div_ceil(32).pow(2);
    if norms && values == 1 && !recipe.freeze_backbone {
        let reason = "one image of 32 pixels or less leaves one value per channel for batch norms, which has no variance; use a larger \
                      --train_bs or --input_resolution";
        return Err(TrainError::Options(reason.into()));
    }
    Ok(())
}

/// Variables of the process, else of a file `.env`.
struct Variables(BTreeMap<String, String>);

impl Variables {
    fn read() -> Result<Variables, TrainError> {
        let bad = |error: dotenvy::Error| TrainError::Options(format!(".env cannot be used: {error}"));
        let lines = match dotenvy::dotenv_iter() {
            Ok(lines) => lines.collect::<Result<Vec<_>, _>>().map_err(bad)?,
            Err(error) if error.not_found() => Vec::new(),
            Err(error) => return Err(bad(error)),
        };
        Ok(Variables(lines.into_iter().collect()))
    }

    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().or_else(|| self.0.get(name).cloned()).filter(|value| !value.is_empty())
    }

    /// A folder, below ROOT_PATH if that is said and the folder is relative.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        let folder = PathBuf::from(self.get(name)?);
        Some(self.get("ROOT_PATH").map_or_else(|| folder.clone(), |root| Path::new(&root).join(&folder)))
    }
}

/// Set by an interrupt or `kill`: the run writes its state and ends.
static STOP: AtomicBool = AtomicBool::new(false);

#[cfg(unix)]
fn stop_when_told() {
    extern "C" fn told(signal: libc::c_int) {
        STOP.store(true, std::sync::atomic::Ordering::Relaxed);
        // The next one ends the process.
        // SAFETY: may be called from a signal's handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but what handlers may.
        unsafe { libc::signal(signal, told as *const () as libc::sighandler_t) };
    }
}

#[cfg(not(unix))]
fn stop_when_told() {}

pub(crate) fn run(args: TrainArgs) -> Result<(), Error> {
    let variables = Variables::read()?;
    let model = args.network()?;
    let data = match (&args.data, variables.folder("DATA_PATH")) {
        (Some(data), _) => data.clone(),
        (None, Some(all)) => folder_in(&all, args.dataset),
        (None, None) => {
            let reason = "where is the data? Give --data, or DATA_PATH in the environment or in a file .env";
            return Err(TrainError::Options(reason.into()).into());
        }
    };
    let logs = || variables.folder("LOG_PATH").unwrap_or_default().join(&args.ckpt_path);
    let folder = args.out.clone().unwrap_or_else(|| logs().join(args.expt_name.as_deref().unwrap_or("run")));
    let place = Place::from_environment(|name| variables.get(name))?;
    let images = Dataset::open(args.dataset, &data, Split::Train)?.len();
    let local =
        ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"].into_iter().find_map(|name| variables.get(name)?.parse().ok());
    let device = args.device.open(local.unwrap_or(0))?;
    let engine = args.engine.choice(device.is_some(), args.precision)?;
    let recipe = args.recipe(model, images, place.size, engine);
    check_batch_norms(&recipe)?;

    let local = variables.get("LOCAL_WORLD_SIZE").and_then(|size| size.parse().ok()).unwrap_or(place.size);
    let threads = args.threads.map_or_else(|| (default_threads() / local).max(1), usize::from);
    let layout = Layout::new(model);
    let layout = match args.freeze_backbone {
        true => layout.freeze(|name| name.starts_with("backbone.")),
        false => layout,
    };
    let step = TrainingOptions {
        batch: recipe.batch,
        height: recipe.resolution,
        width: recipe.resolution,
        stochastic_depth: true,
        outputs: Vec::new(),
    };
    let memory = args.memory.map_or(usize::MAX, |mib| mib.get().saturating_mul(1 << 20));
    let means = Means { precision: args.precision, memory, ..Means::default() };
    let flops = match &device {
        Some(_) => None,
        None => Some(flops(&layout, &step)?),
    };
    let mut engine = args.engine.start(layout, &step, threads, means, device.as_ref())?;
    let peak = peak::gflops(Isa::best(), args.precision.dtype()) * 1e9 * (threads * place.size) as f64;
    let most_images_per_second = flops.map(|flops| peak * recipe.batch as f64 / flops);

    let mut same = DefaultHasher::new();
    serde_json::to_string(&recipe).unwrap_or_default().hash(&mut same);
    let mut group = match args.transport {
        Transport::Tcp => connect(&place, same.finish())?,
        #[cfg(unix)]
        Transport::Mpi => segface::train::connect_mpi(&place, same.finish())?,
    };
    let options = RunOptions {
        data,
        folder: folder.clone(),
        start: args.init.clone().map_or(Start::Random, Start::File),
        resume: args.resume,
        stop_after: args.stop_after,
        log_steps: args.log_interval,
        save_steps: args.state_interval,
        save_epochs: args.save_interval,
        validate_epochs: args.val_interval,
        validate_batch: usize::from(args.val_bs),
        overlap: args.overlap,
        threads,
        workers: usize::from(args.num_workers),
        progress: true,
        most_images_per_second,
    };
    stop_when_told();
    let resumed = options.resume.then_some(options.folder.as_path());
    let decided = engine.decided(&recipe, &mut group, resumed);
    let trained = decided.and_then(|recipe| train(&recipe, &options, engine.engine(), &mut group, &STOP));
    let summary = trained.inspect_err(|error| group.abort(|| segface::print_error(error)))?;
    match place.rank {
        0 => tell(&recipe, &options, &summary, place.size),
        _ => Ok(()),
    }
}

/// What came of it, in a few lines.
fn tell(recipe: &Recipe, options: &RunOptions, summary: &Summary, processes: usize) -> Result<(), Error> {
    let Recipe { model, resolution, batch, replicas, images, .. } = recipe;
    super::print(|out| {
        let with = match processes {
            1 => String::new(),
            count => format!(" by {count} processes"),
        };
        writeln!(out, "{model} at {resolution}x{resolution}, {images} images, {replicas} x {batch} in a step{with}")?;
        let from = match summary.resumed_at {
            0 => String::new(),
            step => format!(", resumed at {step}"),
        };
        let rate = summary.images_per_second;
        let share =
            options.most_images_per_second.map(|most| format!(", {:.0} % of the arithmetic peak", 100.0 * rate / most));
        writeln!(
            out,
            "{} of {} steps{from} in {:.0} s, {rate:.1} images per second{}",
            summary.steps,
            summary.of,
            summary.seconds,
            share.unwrap_or_default()
        )?;
        if let Some(loss) = summary.loss {
            writeln!(out, "loss {loss:.4}")?;
        }
        if let Some([last, best]) = summary.mean_f1 {
            writeln!(out, "mean F1 {:.2}, at best {:.2}, on the validation split", 100.0 * last, 100.0 * best)?;
        }
        if summary.steps < summary.of {
            writeln!(out, "not over yet: give --resume to go on")?;
        }
        writeln!(out, "all of it in {}", options.folder.display())
    })
}

//! `cargo xtask gpu-check`: everything that only a GPU can say, in one command without a network, as a report to hand back.
//!
//! Phases have time limits of their own and share one of the whole. One that fails or is stopped is written down as such, the
//! others go on, and the report is written in any case. With `--driver ptxvm` the same phases run on the virtual device with small
//! problems, so that the command itself is tried where there is no GPU.

mod html;
mod machine;
mod measure;
mod process;
mod report;
mod suite;

use crate::{
    error::{At, Error},
    ptxvm,
    steps::{cargo, root},
};
use clap::ValueEnum;
use machine::PyTorch;
use process::{Outcome, Running, run};
use report::{Report, Status};
use serde_json::Value;
use std::{
    env,
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// What stands behind the CUDA driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// NVIDIA's driver and its first GPU.
    Real,
    /// ptxvm: a dry run of this command.
    Ptxvm,
}

/// How the project is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// With every optimisation.
    Release,
    /// As tests are.
    Dev,
}

/// Check and measure everything on this machine's GPU, without a network, and write a report to hand back.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What the device is.
    #[arg(long, value_enum, default_value = "real")]
    driver: Driver,
    /// Where report.json and report.html go [default: target/gpu-check].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Minutes that everything may take, shared out among the phases; a dry run may take three times as long.
    #[arg(long, default_value_t = MINUTES)]
    minutes: f64,
    /// The Python interpreter that has PyTorch [default: the active environment's, else python3].
    #[arg(long)]
    python: Option<String>,
    /// A folder that holds ptxvm's libcuda.so.1 already; else it is built.
    #[arg(long)]
    ptxvm: Option<PathBuf>,
    /// How the project is built; `dev` builds faster where only the command is tried.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

/// What the phases' times are made for.
const MINUTES: f64 = 8.0;

type Environment = Vec<(String, OsString)>;

/// What phases need of one another.
struct Check {
    options: Options,
    report: Report,
    end: Instant,
    out: PathBuf,
    pytorch: Result<PyTorch, String>,
    nvrtc: Result<PathBuf, String>,
    /// The program that links no libtorch.
    worker: Option<PathBuf>,
    tests: Vec<(String, PathBuf)>,
    /// Folder of ptxvm's library.
    ptxvm: Option<PathBuf>,
    /// Compute capability of the device, once it has answered.
    capability: Option<String>,
    nvrtc_version: Option<String>,
}

/// Runs everything and writes the report.
pub(crate) fn check(options: Options) -> Result<(), Error> {
    let virtual_device = options.driver == Driver::Ptxvm;
    let out = options.out.clone().unwrap_or_else(|| root().join("target/gpu-check"));
    fs::create_dir_all(&out).at(&out)?;
    let seconds = options.minutes * 60.0 * if virtual_device { 3.0 } else { 1.0 };
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut check = Check {
        report: Report::new(virtual_device),
        options,
        end,
        out,
        pytorch: Err(String::new()),
        nvrtc: Err(String::new()),
        worker: None,
        tests: Vec::new(),
        ptxvm: None,
        capability: None,
        nvrtc_version: None,
    };
    check.look_around();
    let torch = check.begin_torch();
    check.build();
    check.device();
    check.suites_and_outputs();
    // What still compiles uses the device too, to choose between kernels: it must not while ours are timed.
    torch.iter().for_each(Running::pause);
    check.speed();
    check.ladder();
    torch.iter().for_each(Running::resume);
    check.torch(torch);
    let [json, html] = ["report.json", "report.html"].map(|name| check.out.join(name));
    let text = serde_json::to_string_pretty(&check.report.json()).expect("a report is text and numbers");
    fs::write(&json, text).at(&json)?;
    fs::write(&html, html::page(&check.report)).at(&html)?;
    check.report.say(&format!("wrote {} and {}", json.display(), html.display()));
    let open = check.report.phases.iter().filter(|phase| phase.status != Status::Passed);
    let open: Vec<String> = open.map(|phase| format!("{} ({})", phase.name, phase.status.name())).collect();
    if open.is_empty() { Ok(()) } else { Err(Error::Check { phases: open.join(", "), report: html }) }
}

impl Check {
    /// How many times as long as planned everything may take.
    fn times(&self) -> f64 {
        self.options.minutes / MINUTES * if self.report.virtual_device { 3.0 } else { 1.0 }
    }

    /// Time that a phase of so many seconds has, leaving `reserve` seconds to those after it, where there are [`MINUTES`] for all.
    fn limit(&self, seconds: f64, reserve: f64) -> Duration {
        let times = self.times();
        let left = self.end.saturating_duration_since(Instant::now()).as_secs_f64();
        Duration::from_secs_f64((seconds * times).min(left - reserve * times).max(5.0))
    }

    fn is_dry(&self) -> bool {
        self.report.virtual_device
    }

    /// What there is.
    fn look_around(&mut self) {
        let begin = Instant::now();
        self.report.say(if self.is_dry() { "dry run on ptxvm: times mean nothing" } else { "looking around" });
        self.pytorch = machine::pytorch(&machine::python(self.options.python.as_deref()));
        self.nvrtc = machine::nvrtc(self.pytorch.as_ref().ok());
        for (name, value) in machine::describe() {
            self.report.machine(&name, value);
        }
        let pytorch = match &self.pytorch {
            Ok(found) => format!(
                "{}, CUDA {}, sees {}",
                found.version,
                found.cuda.as_deref().unwrap_or("none"),
                found.gpu.as_deref().unwrap_or("no GPU")
            ),
            Err(missing) => missing.clone(),
        };
        self.report.machine("PyTorch", pytorch);
        let nvrtc = match &self.nvrtc {
            Ok(folder) => folder.display().to_string(),
            Err(missing) => missing.clone(),
        };
        self.report.machine("NVRTC", nvrtc);
        let missing: Vec<String> =
            [self.pytorch.as_ref().err(), self.nvrtc.as_ref().err()].into_iter().flatten().cloned().collect();
        let status = if missing.is_empty() { Status::Passed } else { Status::Failed(missing.join("\n")) };
        self.report.close("machine", begin, Duration::from_secs(120), status, "");
    }

    /// cargo with the chosen profile, saying in JSON what it makes. Nothing is fetched.
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = cargo(&arguments[..1]);
        command.args(["--offline", "--message-format=json-render-diagnostics"]).args(&arguments[1..]);
        if self.options.profile == Profile::Release {
            command.arg("--release");
        }
        command
    }

    /// Builds ptxvm, the worker, and the tests.
    fn build(&mut self) {
        let begin = Instant::now();
        let limit = self.limit(170.0, 150.0);
        self.report.say("building the worker");
        let outcome = run(&mut self.cargo(&["build", "--package", "segface-gpu-check"]), limit);
        self.worker = ptxvm::executable(&outcome.lines.join("\n"), "segface-gpu-check");
        let status = Status::of(&outcome);
        self.report.close("build the worker", begin, limit, status, "links no libtorch");

        let begin = Instant::now();
        match self.options.ptxvm.clone() {
            Some(folder) => self.ptxvm = Some(folder),
            None => {
                let limit = self.limit(120.0, 140.0);
                let outcome = run(ptxvm::build_library().arg("--offline"), limit);
                let laid = outcome.problem().map_or_else(
                    || ptxvm::lay_built(&outcome.lines.join("\n")).map_err(|error| error.to_string()),
                    Err,
                );
                let status = match laid {
                    Ok(folder) => {
                        self.ptxvm = Some(folder);
                        Status::Passed
                    }
                    Err(reason) => Status::Failed(reason),
                };
                self.report.close("build ptxvm", begin, limit, status, "");
            }
        }
        self.meet_ptxvm();

        let begin = Instant::now();
        match machine::libtorch(self.pytorch.as_ref().ok()) {
            Ok((environment, words)) => {
                self.report.machine("libtorch of the tests", words.clone());
                self.report.say("building the tests");
                let limit = self.limit(120.0, 140.0);
                let mut command = self.cargo(&["test", "--no-run", "--package", "segface-tests"]);
                command.args(suite::PROGRAMS.iter().flat_map(|(name, _)| ["--test", name]));
                let outcome = run(command.envs(environment), limit);
                self.tests = suite::programs(&outcome.lines);
                self.report.close("build the tests", begin, limit, Status::of(&outcome), words);
            }
            Err(reason) => self.report.skip("build the tests", &reason),
        }
    }

    /// Makes sure that programs find ptxvm where they are meant to, and not the real driver: nothing would be compared then.
    fn meet_ptxvm(&mut self) {
        let (Some(worker), true) = (self.worker.clone(), self.ptxvm.is_some()) else { return };
        let begin = Instant::now();
        let limit = self.limit(20.0, 140.0);
        // A machine that no other driver shows.
        let mut command = Command::new(worker);
        command.arg("machine").envs(self.on_ptxvm()).env("PTXVM_DEVICE", "a10g,t4,l4");
        let outcome = run(&mut command, limit);
        let met = outcome.lines.iter().find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
        let status = if met["devices"] == 3 && met["device"] == "NVIDIA A10G" {
            Status::Passed
        } else {
            self.ptxvm = None;
            let said = outcome.problem().unwrap_or_else(|| format!("{met}"));
            Status::Failed(format!("programs that should meet ptxvm met something else: {said}"))
        };
        self.report.close("ptxvm answers", begin, limit, status, "");
    }

    /// Asks the device what it is.
    fn device(&mut self) {
        let begin = Instant::now();
        let limit = self.limit(20.0, 130.0);
        let Some(worker) = self.worker.clone() else {
            return self.report.skip("device", "the worker was not built");
        };
        let outcome = run(Command::new(worker).arg("machine").envs(self.on_device()), limit);
        self.report.take(&outcome.lines, "machine");
        let record = self.report.of("machine").next().cloned();
        let status = match (&record, Status::of(&outcome)) {
            (_, Status::Failed(reason)) => Status::Failed(format!("no device: {reason}")),
            (Some(record), Status::Passed) => match record["nvrtc_missing"].as_str() {
                Some(missing) => Status::Failed(missing.to_owned()),
                None => Status::Passed,
            },
            (_, status) => status,
        };
        if let Some(record) = record {
            let text = |name: &str| record[name].as_str().unwrap_or("unknown").to_owned();
            let device = text("device") + if self.is_dry() { " (virtual: ptxvm)" } else { "" };
            self.report.machine("device", device);
            self.report.machine("compute capability", text("capability"));
            self.report.machine("multiprocessors", record["multiprocessors"].to_string());
            self.report.machine("driver's CUDA version", text("driver"));
            self.report.machine("NVRTC's version", text("nvrtc"));
            let card = record["card"].as_str();
            self.report
                .machine("card of the bounds", card.unwrap_or("none: this card's data are not known").to_owned());
            self.nvrtc_version = record["nvrtc"].as_str().map(str::to_owned);
            if status == Status::Passed {
                self.capability = Some(text("capability"));
            }
        }
        self.report.close("device", begin, limit, status, "");
    }

    /// Environment of programs on the device.
    fn on_device(&self) -> Environment {
        if self.is_dry() { self.on_ptxvm() } else { self.shared() }
    }

    /// Environment of programs on ptxvm, which plays a card like the device.
    fn on_ptxvm(&self) -> Environment {
        let mut environment = self.shared();
        let before = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let searched = self.ptxvm.iter().chain(self.nvrtc.as_ref().ok()).cloned().chain(env::split_paths(&before));
        environment.push(("LD_LIBRARY_PATH".into(), env::join_paths(searched).unwrap_or(before)));
        environment.push(("PTXVM_LOG".into(), "off".into()));
        // What the user hides of the real devices hides none of these.
        environment.push(("CUDA_VISIBLE_DEVICES".into(), "0,1,2".into()));
        environment.push(("PTXVM_DEVICE".into(), machine::like(self.capability.as_deref().unwrap_or("9.0")).into()));
        // A driver as new as the compiler is given PTX, which is what ptxvm runs.
        if let Some(version) = &self.nvrtc_version {
            environment.push(("PTXVM_DRIVER".into(), version.into()));
        }
        environment
    }

    fn shared(&self) -> Environment {
        let mut environment: Environment = vec![("SEGFACE_CACHE".into(), self.cache().into())];
        if let Ok(folder) = &self.nvrtc {
            environment.push(("SEGFACE_NVRTC".into(), folder.into()));
        }
        environment
    }

    /// Where compiled kernels are kept: a second check need not compile them again.
    fn cache(&self) -> PathBuf {
        let folder = env::var_os("SEGFACE_CACHE").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| self.out.join("kernels"));
        let _ = fs::create_dir_all(&folder);
        folder
    }

    /// The tests and the networks' outputs on the device, and beside it on ptxvm.
    fn suites_and_outputs(&mut self) {
        let limit = self.limit(130.0, 130.0);
        let begin = Instant::now();
        let (device, mut beside) = (self.on_device(), self.on_ptxvm());
        if self.is_dry() {
            // Another legal order of blocks and warps.
            beside.push(("PTXVM_SEED".into(), "20260727".into()));
        }
        let has_device = self.capability.is_some();
        let (tests, few) = (&self.tests, self.is_dry());
        self.report.say("tests and outputs, on the device and on ptxvm");
        let suite = |environment: &Environment| suite::execute(tests, environment, few, limit);
        let (on_device, on_ptxvm, outputs) = thread::scope(|scope| {
            let on_device = scope.spawn(|| (!tests.is_empty() && has_device).then(|| suite(&device)));
            let on_ptxvm = scope.spawn(|| (!tests.is_empty() && self.ptxvm.is_some()).then(|| suite(&beside)));
            let outputs = self.outputs(&device, &beside, limit);
            let results = |suite: thread::ScopedJoinHandle<'_, _>| suite.join().unwrap_or(None);
            (results(on_device), results(on_ptxvm), outputs)
        });
        let missing = if self.tests.is_empty() { "the tests were not built" } else { "there is no device" };
        for (index, (name, result)) in
            [("tests on the device", on_device), ("tests on ptxvm", on_ptxvm)].into_iter().enumerate()
        {
            let Some((tests, status)) = result else {
                self.report.skip(name, missing);
                continue;
            };
            let count = |wanted: &str| tests.values().filter(|test| test.result == wanted).count();
            let note = format!("{} ok, {} failed, {} unfinished", count("ok"), count("FAILED"), count("unfinished"));
            self.report.suites[index] = tests;
            self.report.close(name, begin, limit, status, note);
        }
        if !self.report.suites.iter().any(std::collections::BTreeMap::is_empty) {
            let differing = self.report.differing().len();
            let status = match differing {
                0 => Status::Passed,
                n => Status::Failed(format!("{n} test(s) end otherwise on the device than on ptxvm")),
            };
            let note = format!("{} tests on both", self.report.suites[0].len());
            self.report.close("same verdicts on both", begin, limit, status, note);
        }
        match outputs {
            Ok(outcomes) => self.compared(outcomes, begin, limit),
            Err(reason) => self.report.skip("outputs of all networks on both", reason),
        }
    }

    /// Every network on the device, on ptxvm and on the CPU; then the comparison of all three.
    fn outputs(
        &self,
        device: &Environment,
        beside: &Environment,
        limit: Duration,
    ) -> Result<[Outcome; 4], &'static str> {
        let worker = self.worker.as_ref().ok_or("the worker was not built")?;
        if self.capability.is_none() {
            return Err("there is no device");
        }
        if self.ptxvm.is_none() {
            return Err("ptxvm was not built");
        }
        let folder = self.out.join("outputs");
        // Those of an earlier run are not compared.
        let _ = fs::remove_dir_all(&folder);
        let precisions = if self.is_dry() { "bf16" } else { "bf16,f16,tf32,f32" };
        let seconds = (limit.as_secs_f64() * 0.85) as u64;
        let outputs = |place: &str, environment: &Environment, more: &[&str]| {
            let mut command = Command::new(worker);
            command.args(["outputs", "--precisions", precisions, "--seconds", &seconds.to_string(), "--folder"]);
            run(command.arg(folder.join(place)).args(more).envs(environment.iter().map(|(a, b)| (a, b))), limit)
        };
        Ok(thread::scope(|scope| {
            let on_device = scope.spawn(|| outputs("device", device, &[]));
            let on_ptxvm = scope.spawn(|| outputs("ptxvm", beside, &[]));
            let on_cpu = outputs("cpu", &self.shared(), &["--cpu"]);
            let join = |handle: thread::ScopedJoinHandle<'_, Outcome>| handle.join().expect("it only runs a program");
            let (on_device, on_ptxvm) = (join(on_device), join(on_ptxvm));
            let mut compare = Command::new(worker);
            compare.arg("compare").args(["device", "ptxvm", "cpu"].map(|place| folder.join(place)));
            [on_device, on_ptxvm, on_cpu, run(&mut compare, Duration::from_secs(60))]
        }))
    }

    fn compared(&mut self, outcomes: [Outcome; 4], begin: Instant, limit: Duration) {
        let count = self.report.take(&outcomes[3].lines, "comparison");
        let bad = self.report.of("comparison").filter(|record| record["passed"] != true).count();
        let same = self.report.of("comparison").filter(|record| record["same_bits"] == true).count();
        let places = ["on the device", "on ptxvm", "on the CPU", "compared"];
        let problem = outcomes.iter().zip(places).find_map(|(outcome, place)| {
            let status = Status::of(outcome);
            (status != Status::Passed).then_some((status, place))
        });
        let status = match problem {
            None => Status::Passed,
            _ if bad > 0 => Status::Failed(format!("{bad} network(s) are further off on the device than is allowed")),
            Some((Status::TimedOut(reason), place)) => Status::TimedOut(format!("{place}: {reason}")),
            Some((Status::Failed(reason), place)) => Status::Failed(format!("{place}: {reason}")),
            Some((other, _)) => other,
        };
        let note = format!("{count} compared, {same} bit for bit the same");
        self.report.close("outputs of all networks on both", begin, limit, status, note);
    }
}

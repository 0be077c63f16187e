//! The phases that measure: our networks, the ladders, PyTorch.

use super::{
    Check,
    machine::PyTorch,
    process::{Running, run, start},
    report::Status,
};
use crate::steps::root;
use std::{
    process::{Command, Stdio},
    time::Instant,
};

impl Check {
    /// Lets PyTorch compile its networks, and hold them against the published ones, while everything else goes on: the programs that
    /// [`Check::torch`] waits for.
    pub(super) fn begin_torch(&mut self) -> Vec<Running> {
        let Ok(pytorch) = &self.pytorch else { return Vec::new() };
        if !self.is_dry() && pytorch.gpu.is_none() {
            return Vec::new();
        }
        let mut speed = self.python(pytorch, "speed.py");
        if self.is_dry() {
            // Python's side of torch.compile, without the minutes that its C++ compiler takes here.
            speed.args(["--device", "cpu", "--backend", "aot_eager", "--networks", "mobilenet"]);
            speed.args(["--precisions", "bf16", "--batches", "1", "--size", "64", "--once", "--workers", "1"]);
        } else {
            speed.args(["--seconds", &format!("{:.0}", 75.0 * self.times())]);
        }
        let prepare = if self.is_dry() { 100.0 } else { 230.0 } * self.times();
        speed.args(["--prepare-seconds", &format!("{prepare:.0}")]);
        let mut parity = self.python(pytorch, "parity.py");
        parity.args(if self.is_dry() { &["mobilenet"][..] } else { &["mobilenet", "swin_base"] }).stdin(Stdio::null());
        let started: Result<Vec<Running>, _> =
            [speed.stdin(Stdio::piped()), &mut parity].map(start).into_iter().collect();
        started.unwrap_or_else(|outcome| {
            self.report.say(&outcome.problem().unwrap_or_default());
            Vec::new()
        })
    }

    fn python(&self, pytorch: &PyTorch, script: &str) -> Command {
        let mut command = Command::new(&pytorch.python);
        command.arg(root().join("gpu-check/pytorch").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// A phase that is one run of the worker on the device.
    fn measure(
        &mut self,
        name: &str,
        seconds: f64,
        reserve: f64,
        kinds: [&str; 2],
        arguments: impl FnOnce(u64) -> Vec<String>,
    ) {
        let (Some(worker), true) = (self.worker.clone(), self.capability.is_some()) else {
            return self.report.skip(name, "there is no device, or the worker was not built");
        };
        let begin = Instant::now();
        let limit = self.limit(seconds, reserve);
        self.report.say(&format!("{name}: at most {:.0} s", limit.as_secs_f64()));
        // It stops by itself a little before it would be stopped, and says what it did not reach.
        let inner = (limit.as_secs_f64() * 0.85) as u64;
        let outcome = run(Command::new(worker).args(arguments(inner)).envs(self.on_device()), limit);
        let count = self.report.take(&outcome.lines, kinds[0]);
        let missing = self.report.of(kinds[1]).count();
        let status = match Status::of(&outcome) {
            Status::Passed if missing > 0 => Status::Failed(format!("{missing} could not be measured")),
            Status::Passed if count == 0 => Status::Failed("nothing was measured".into()),
            status => status,
        };
        self.report.close(name, begin, limit, status, format!("{count} measured"));
    }

    /// Our networks' times.
    pub(super) fn speed(&mut self) {
        let dry = self.is_dry();
        self.measure("speed of segface", 110.0, 100.0, ["speed", "speed-missing"], |seconds| {
            let mut arguments = vec!["speed".to_owned(), "--seconds".to_owned(), seconds.to_string()];
            if dry {
                let small = ["--size", "64", "--batches", "1,2", "--precisions", "bf16", "--once", "--networks"];
                arguments.extend(small.map(str::to_owned));
                arguments.push("mobilenet,convnext_true_tiny".into());
            }
            arguments
        });
    }

    /// The rungs' times.
    pub(super) fn ladder(&mut self) {
        let dry = self.is_dry();
        self.measure("ladders", 25.0, 80.0, ["ladder", "ladder-missing"], |_| {
            let mut arguments = vec!["ladder".to_owned()];
            arguments.extend(dry.then(|| "--tiny".to_owned()));
            arguments
        });
    }

    /// PyTorch's times, and that its networks are the published ones.
    pub(super) fn torch(&mut self, running: Vec<Running>) {
        let names = ["speed of PyTorch", "PyTorch's networks are the published ones"];
        let missing = match &self.pytorch {
            Err(_) => "there is no PyTorch",
            Ok(_) if self.is_dry() => "it could not be started",
            Ok(_) => "PyTorch sees no GPU, or could not be started",
        };
        let Ok([mut speed, parity]) = <[Running; 2]>::try_from(running) else {
            return names.into_iter().for_each(|name| self.report.skip(name, missing));
        };
        let begin = Instant::now();
        let limit = self.limit(110.0, 10.0);
        self.report.say(&format!("{}: at most {:.0} s", names[0], limit.as_secs_f64()));
        speed.tell("measure");
        let outcome = speed.finish(limit);
        let count = self.report.take(&outcome.lines, "torch");
        let missing = self.report.of("torch-missing").count();
        let status = match Status::of(&outcome) {
            Status::Passed if count == 0 => Status::Failed("nothing was measured".into()),
            Status::Passed if missing > 0 => Status::Failed(format!("{missing} could not be measured")),
            status => status,
        };
        self.report.close(names[0], begin, limit, status, format!("{count} measured"));

        let begin = Instant::now();
        let limit = self.limit(30.0, 0.0);
        let outcome = parity.finish(limit);
        let count = self.report.take(&outcome.lines, "torch-parity");
        let status = match Status::of(&outcome) {
            Status::Passed if count == 0 => Status::Failed("no stored output was found".into()),
            status => status,
        };
        self.report.close(names[1], begin, limit, status, format!("{count} stored outputs of the published network"));
    }
}

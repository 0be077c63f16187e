//! Programs that must end in time.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Lines of standard error that are kept: the last ones say why a program failed.
const KEPT: usize = 40;

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, saying that all is well.
    Good,
    /// By itself, saying that it is not, or it could not be started.
    Failed(String),
    /// Its time was over.
    TimedOut(Duration),
}

/// What came of a program.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    /// Standard output.
    pub(super) lines: Vec<String>,
    /// The last lines of standard error.
    pub(super) errors: String,
}

impl Outcome {
    /// Why it is no success, in words for a report.
    pub(super) fn problem(&self) -> Option<String> {
        let last: Vec<&str> = self.errors.lines().rev().take(8).collect();
        let said = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        match &self.end {
            End::Good => None,
            End::Failed(how) if said.is_empty() => Some(how.clone()),
            End::Failed(how) => Some(format!("{how}:\n{said}")),
            End::TimedOut(limit) => Some(format!("stopped after {:.0} s, its time limit", limit.as_secs_f64())),
        }
    }
}

/// A program that runs beside others.
pub(super) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    name: String,
}

/// Runs `command` for at most `limit`, then ends it and everything it started.
pub(super) fn run(command: &mut Command, limit: Duration) -> Outcome {
    match start(command.stdin(Stdio::null())) {
        Ok(running) => running.finish(limit),
        Err(outcome) => outcome,
    }
}

/// Starts `command`; its standard input is piped unless it says otherwise.
pub(super) fn start(command: &mut Command) -> Result<Running, Outcome> {
    let name = command.get_program().to_string_lossy().into_owned();
    // A group of its own, so that it can be ended with all it started.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| Outcome {
        end: End::Failed(format!("`{name}` cannot be started: {error}")),
        lines: Vec::new(),
        errors: String::new(),
    })?;
    let (sender, lines) = mpsc::channel();
    let output = child.stdout.take().expect("a pipe");
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let errors = child.stderr.take().map(|errors| thread::spawn(move || last_lines(errors)));
    Ok(Running { input: child.stdin.take(), child, lines, errors, name })
}

impl Running {
    /// Writes a line to its standard input. Whether it reads it shows when it ends.
    pub(super) fn tell(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{line}").and_then(|()| input.flush());
        }
    }

    /// Stops it and everything it started until [`Running::resume`].
    pub(super) fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(super) fn resume(&self) {
        self.signal("-CONT");
    }

    /// Waits for its end, at most `limit` from now.
    pub(super) fn finish(mut self, limit: Duration) -> Outcome {
        let begin = Instant::now();
        let end = loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => break End::Good,
                Ok(Some(status)) => break End::Failed(format!("`{}` ended with {status}", self.name)),
                Err(error) => break End::Failed(format!("`{}` cannot be waited for: {error}", self.name)),
                Ok(None) if begin.elapsed() >= limit => {
                    self.kill();
                    break End::TimedOut(limit);
                }
                Ok(None) => thread::sleep(Duration::from_millis(20)),
            }
        };
        // Whatever of its group is left holds the pipes open.
        self.kill();
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        Outcome { end, lines: self.lines.iter().collect(), errors }
    }

    /// Sends a signal to its group, where there are such.
    fn signal(&self, signal: &str) {
        if cfg!(unix) {
            let group = format!("-{}", self.child.id());
            let _ = Command::new("kill").args([signal, "--", &group]).stderr(Stdio::null()).status();
        }
    }

    fn kill(&mut self) {
        self.signal("-KILL");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn last_lines(errors: impl Read) -> String {
    let mut last = VecDeque::new();
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        if last.len() == KEPT {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line).into_owned());
    }
    Vec::from(last).join("\n")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_that_ends_is_told_by_its_code_and_output() {
        let outcome = run(&mut shell("echo one; echo two; echo why >&2; exit 3"), Duration::from_secs(20));
        assert_eq!(outcome.lines, ["one", "two"]);
        let problem = outcome.problem().expect("it failed");
        assert!(problem.contains("3") && problem.contains("why"), "{problem}");
        assert_eq!(run(&mut shell("true"), Duration::from_secs(20)).problem(), None);
    }

    #[test]
    fn a_program_is_ended_in_time_with_everything_it_started_and_what_it_said_is_kept() {
        let begin = Instant::now();
        let outcome = run(&mut shell("echo said; sleep 60 & sleep 60"), Duration::from_millis(300));
        assert!(begin.elapsed() < Duration::from_secs(30), "its child kept the pipe open");
        assert_eq!((outcome.end, outcome.lines), (End::TimedOut(Duration::from_millis(300)), vec!["said".to_owned()]));
    }

    #[test]
    fn a_program_that_is_not_there_is_a_failure() {
        let outcome = run(&mut Command::new("xtask-test-no-such-program"), Duration::from_secs(1));
        assert!(outcome.problem().expect("it failed").contains("cannot be started"));
    }

    #[test]
    fn a_paused_program_goes_on_when_it_is_resumed() {
        let running = start(shell("sleep 0.1; echo went on").stdin(Stdio::null())).expect("a shell");
        running.pause();
        thread::sleep(Duration::from_millis(400));
        assert!(running.lines.try_recv().is_err(), "it said something while it was stopped");
        running.resume();
        assert_eq!(running.finish(Duration::from_secs(20)).lines, ["went on"]);
    }

    #[test]
    fn a_program_beside_others_can_be_told_something() {
        let mut running = start(shell("read word; echo got $word").stdin(Stdio::piped())).expect("a shell");
        running.tell("measure");
        assert_eq!(running.finish(Duration::from_secs(20)).lines, ["got measure"]);
    }
}

//! Mutants: healthy programs with one named edit each, and the finding that a checker owes for it.
//!
//! The table is data: the runner starts a process per healthy program and per mutant, because a fault is sticky.

mod scenarios;
mod stage;
mod table;

pub use stage::Stage;
pub use table::table;

use cudarc::driver::DriverError;

/// What is done to the healthy program. Exactly one edit a mutant.
#[derive(Clone, Copy, Debug)]
pub enum Edit {
    /// In the kernel's source: the first text, which occurs exactly once, becomes the second.
    Source(&'static str, &'static str),
    /// In the host's code: the scenario does this where [`Stage::mutated`] is true.
    Host(&'static str),
}

/// Where a scenario's kernels come from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// A file of the corpus, `kernels/<name>.cu`.
    Corpus(&'static str),
    /// A file written for the mutants, `mutants/<name>.cu`.
    Cuda(&'static str),
    /// PTX written by hand, `mutants/<name>.ptx`.
    Ptx(&'static str),
}

/// The mode the driver runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The checkers look for mistakes.
    Checked,
    /// The counters count.
    Profile,
}

/// A host program around kernels.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name, for messages.
    pub name: &'static str,
    /// Its kernels.
    pub source: Source,
    /// What it does; errors of the driver end it early.
    pub run: fn(&Stage) -> Result<(), DriverError>,
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Mutant {
    /// A name that says what is wrong.
    pub name: &'static str,
    /// The healthy program.
    pub scenario: Scenario,
    /// The one edit.
    pub edit: Edit,
    /// The mode to run in.
    pub mode: Mode,
    /// The finding's kind (checked), or the counter that must rise (profile).
    pub expected: &'static str,
}

impl Scenario {
    /// The kernels' text, healthy.
    ///
    /// # Panics
    /// When the file cannot be read.
    pub fn healthy_text(&self) -> String {
        let (name, ending) = match self.source {
            Source::Corpus(name) => return crate::kernel_source(name),
            Source::Cuda(name) => (name, "cu"),
            Source::Ptx(name) => (name, "ptx"),
        };
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
        let path = folder.join(name).with_extension(ending);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
    }
}

impl Mutant {
    /// The kernels' text with the edit applied.
    ///
    /// # Errors
    /// When the text to edit does not occur exactly once: then the table no longer fits its source.
    pub fn mutated_text(&self) -> Result<String, String> {
        let healthy = self.scenario.healthy_text();
        match self.edit {
            Edit::Host(_) => Ok(healthy),
            Edit::Source(from, to) => match healthy.matches(from).count() {
                1 => Ok(healthy.replacen(from, to, 1)),
                found => Err(format!("{}: {from:?} occurs {found} times in its source, expected once", self.name)),
            },
        }
    }

    /// Runs the healthy program or the mutant on device 0; a driver's error is printed, since a fault is what many
    /// mutants are made for.
    ///
    /// # Errors
    /// The driver's, at the first call that fails.
    ///
    /// # Panics
    /// When the edit does not fit its source.
    pub fn run(&self, mutated: bool) -> Result<(), DriverError> {
        let text = if mutated { self.mutated_text() } else { Ok(self.scenario.healthy_text()) };
        let text = text.unwrap_or_else(|problem| panic!("{problem}"));
        let stage = Stage::new(&self.scenario, text, mutated && matches!(self.edit, Edit::Host(_)));
        (self.scenario.run)(&stage)
    }
}

//! What is said and written when the process ends.

use super::Findings;
use std::{
    panic::catch_unwind,
    path::PathBuf,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

static CHECKED: AtomicBool = AtomicBool::new(false);

/// Sees to it that the process reports when it ends.
pub(crate) fn arm() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function may be called at exit: it takes no arguments and does not unwind.
        unsafe { libc::atexit(at_exit) };
    });
}

/// As [`arm`], for a process that is being checked: it ends with the number of findings.
pub(crate) fn arm_checked() {
    CHECKED.store(true, Ordering::Relaxed);
    arm();
}

/// Where the JSON goes (`PTXVM_REPORT`).
fn report_path() -> Option<PathBuf> {
    std::env::var_os("PTXVM_REPORT").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Writes the JSON report, if one is wanted: at exit, and whenever a context is destroyed.
pub fn flush() {
    if let Some(path) = report_path()
        && let Err(error) = super::write(&path)
    {
        eprintln!("ptxvm: the report could not be written to {}: {error}", path.display());
    }
}

/// `3 findings`, with the kinds and how often each was seen.
pub fn summary() -> String {
    let list = Findings::global().list();
    let mut text = match list.len() {
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for finding in &list {
        match kinds.iter_mut().find(|(kind, _)| *kind == finding.kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((finding.kind, 1)),
        }
    }
    if !kinds.is_empty() {
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        text.push_str(&format!(" ({})", kinds.join(", ")));
    }
    text
}

extern "C" fn at_exit() {
    let code = catch_unwind(|| {
        let profile = crate::monitor::profile::render();
        if !profile.is_empty() {
            eprint!("{profile}");
        }
        crate::monitor::host::leaks_at_exit();
        let found = !Findings::global().is_empty();
        if found || CHECKED.load(Ordering::Relaxed) {
            eprintln!("ptxvm: {}", summary());
        }
        flush();
        let wanted = std::env::var("PTXVM_EXIT_CODE").ok().and_then(|code| code.parse::<i32>().ok());
        wanted.filter(|_| found)
    });
    if let Ok(Some(code)) = code {
        // SAFETY: ends the process at once, which is what was asked for; the other handlers of exit do not run.
        unsafe { libc::_exit(code) };
    }
}

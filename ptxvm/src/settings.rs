//! What the environment asks for: cards, modes, seed, threads, report and log.

use crate::card::{self, Card};
use std::path::PathBuf;
use std::sync::OnceLock;

/// How much goes to standard error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Calls that failed, with the reason.
    Error,
    /// Also what is legal but probably not meant.
    Warning,
    /// Also what failed in the ordinary way, and what was loaded.
    Info,
    /// Also every call.
    Debug,
}

/// The environment, read once.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// The cards of this machine, from `PTXVM_DEVICE` and `CUDA_VISIBLE_DEVICES`.
    pub devices: Vec<&'static Card>,
    /// `PTXVM_MODE` names `checked`.
    pub checked: bool,
    /// `PTXVM_MODE` names `profile`.
    pub profile: bool,
    /// `PTXVM_SEED`: one legal order of streams, warps and blocks, the same at every run.
    pub seed: Option<u64>,
    /// `PTXVM_THREADS`: threads that run kernels; without it one for every processor, but one with a seed.
    pub threads: usize,
    /// `PTXVM_SHRINK`: findings are shrunk to few blocks.
    pub shrink: bool,
    /// `PTXVM_REPORT`: where the findings go as JSON.
    pub report: Option<PathBuf>,
    /// `PTXVM_LOG`.
    pub log: LogLevel,
    /// `PTXVM_DRIVER`: the CUDA version that the driver claims, as `1000 × major + 10 × minor`.
    pub driver_version: u32,
    /// `CUDA_LAUNCH_BLOCKING`: every launch is waited for.
    pub launch_blocking: bool,
    /// `CUDA_MODULE_LOADING` is not `EAGER`.
    pub lazy_loading: bool,
    /// Variables that could not be understood; `cuInit` fails while there is one.
    pub problems: Vec<SettingsError>,
}

impl Settings {
    /// Neither checked nor profile: only bounds and alignment are checked.
    pub fn fast(&self) -> bool {
        !self.checked && !self.profile
    }

    /// The newest PTX that a driver of this version takes: `80` is PTX 8.0.
    pub fn newest_ptx(&self) -> u32 {
        let (major, minor) = (self.driver_version / 1000, self.driver_version % 1000 / 10);
        match (major, minor) {
            (11, minor) => 70 + minor,
            // 12.6 brought no new PTX.
            (12, 0..=5) => 80 + minor,
            (12, minor) => 79 + minor,
            (major, minor) => (major - 4) * 10 + minor,
        }
    }
}

/// A variable of the environment that could not be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{variable}={value}: {reason}")]
pub struct SettingsError {
    /// The variable.
    pub variable: &'static str,
    /// What it holds.
    pub value: String,
    /// What was expected.
    pub reason: String,
}

const DEFAULT_DEVICE: &str = "h100";
const DEFAULT_DRIVER: u32 = 13_000;

/// The settings of this process. The environment is read at the first call.
pub fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| parse(|variable| std::env::var(variable).ok()))
}

/// Reads the settings from `variable`, which returns what a variable of the environment holds.
pub fn parse(variable: impl Fn(&str) -> Option<String>) -> Settings {
    let mut problems = Vec::new();
    // An empty variable counts as one that is not set, but for CUDA_VISIBLE_DEVICES, where it hides all cards.
    let get =
        |name: &'static str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let mut problem = |variable: &'static str, value: &str, reason: String| {
        problems.push(SettingsError { variable, value: value.to_owned(), reason });
    };

    let mut devices = Vec::new();
    let names = get("PTXVM_DEVICE").unwrap_or_else(|| DEFAULT_DEVICE.to_owned());
    for name in names.split(',').map(str::trim) {
        match card::find(name) {
            Some(card) => devices.push(card),
            None => {
                let known: Vec<&str> = card::cards().map(|card| card.key).collect();
                problem("PTXVM_DEVICE", &names, format!("no card is called '{name}'; known are {}", known.join(", ")));
            }
        }
    }
    if let Some(visible) = variable("CUDA_VISIBLE_DEVICES") {
        devices = visible_devices(&devices, &visible);
    }

    let (mut checked, mut profile) = (false, false);
    if let Some(modes) = get("PTXVM_MODE") {
        for mode in modes.split(',').map(str::trim) {
            match mode {
                "fast" => {}
                "checked" => checked = true,
                "profile" => profile = true,
                _ => problem("PTXVM_MODE", &modes, format!("'{mode}' is no mode; known are fast, checked, profile")),
            }
        }
    }

    let mut number = |name: &'static str| {
        let value = get(name)?;
        match value.parse::<u64>() {
            Ok(number) => Some(number),
            Err(_) => {
                problem(name, &value, "expected a whole number that is not negative".to_owned());
                None
            }
        }
    };
    let seed = number("PTXVM_SEED");
    let threads = match number("PTXVM_THREADS") {
        // What a seed has shown is to be replayed by the seed alone.
        Some(0) | None if seed.is_some() => 1,
        Some(0) | None => std::thread::available_parallelism().map_or(1, usize::from),
        Some(threads) => usize::try_from(threads).unwrap_or(usize::MAX).min(1024),
    };

    let shrink = match get("PTXVM_SHRINK").as_deref() {
        Some("0") | None => false,
        Some("1") => true,
        Some(value) => {
            problem("PTXVM_SHRINK", value, "expected 0 or 1".to_owned());
            false
        }
    };

    let log = match get("PTXVM_LOG").as_deref() {
        Some("off" | "none") => LogLevel::Off,
        Some("error") | None => LogLevel::Error,
        Some("warn" | "warning") => LogLevel::Warning,
        Some("info") => LogLevel::Info,
        Some("debug" | "trace") => LogLevel::Debug,
        Some(value) => {
            let known = "expected off, error, warn, info or debug".to_owned();
            problem("PTXVM_LOG", value, known);
            LogLevel::Error
        }
    };

    let mut driver_version = DEFAULT_DRIVER;
    if let Some(value) = get("PTXVM_DRIVER") {
        match parse_version(&value) {
            Some(version) => driver_version = version,
            None => problem("PTXVM_DRIVER", &value, "expected a CUDA version from 11.4 to 13.9, as 13.0".to_owned()),
        }
    }

    Settings {
        devices,
        checked,
        profile,
        seed,
        threads,
        shrink,
        report: get("PTXVM_REPORT").map(PathBuf::from),
        log,
        driver_version,
        launch_blocking: get("CUDA_LAUNCH_BLOCKING").is_some_and(|value| value != "0"),
        lazy_loading: get("CUDA_MODULE_LOADING").is_none_or(|value| value != "EAGER"),
        problems,
    }
}

/// `CUDA_VISIBLE_DEVICES`: ordinals in the order wanted; the first that names no card ends the list, as in CUDA.
fn visible_devices(devices: &[&'static Card], visible: &str) -> Vec<&'static Card> {
    visible.split(',').map_while(|ordinal| devices.get(ordinal.trim().parse::<usize>().ok()?).copied()).collect()
}

fn parse_version(value: &str) -> Option<u32> {
    let (major, minor) = value.split_once('.')?;
    let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
    ((11..=13).contains(&major) && minor <= 9 && (major, minor) >= (11, 4)).then_some(major * 1000 + minor * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Settings {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        parse(move |variable| pairs.iter().find(|(name, _)| name == variable).map(|(_, value)| value.clone()))
    }

    #[test]
    fn an_empty_environment_is_one_h100_in_fast_mode() {
        let settings = with(&[]);
        assert_eq!(settings.devices.len(), 1);
        assert_eq!(settings.devices[0].key, "h100");
        assert!(settings.fast() && settings.problems.is_empty());
        assert_eq!((settings.driver_version, settings.newest_ptx()), (13_000, 90));
    }

    #[test]
    fn several_cards_and_modes_are_comma_lists() {
        let settings = with(&[("PTXVM_DEVICE", "a100, L4"), ("PTXVM_MODE", "checked,profile"), ("PTXVM_SEED", "7")]);
        let keys: Vec<&str> = settings.devices.iter().map(|card| card.key).collect();
        assert_eq!(keys, ["a100", "l4"]);
        assert!(settings.checked && settings.profile && !settings.fast());
        assert_eq!(settings.seed, Some(7));
    }

    #[test]
    fn a_seed_runs_on_one_thread_unless_more_are_asked_for() {
        assert_eq!(with(&[("PTXVM_SEED", "7")]).threads, 1);
        assert_eq!(with(&[("PTXVM_SEED", "7"), ("PTXVM_THREADS", "3")]).threads, 3);
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        assert_eq!(with(&[]).threads, all);
    }

    #[test]
    fn what_is_not_understood_is_named_with_what_was_expected() {
        let settings = with(&[
            ("PTXVM_DEVICE", "h100,voodoo2"),
            ("PTXVM_MODE", "quick"),
            ("PTXVM_SEED", "-1"),
            ("PTXVM_SHRINK", "yes"),
            ("PTXVM_LOG", "loud"),
            ("PTXVM_DRIVER", "9"),
        ]);
        let variables: Vec<&str> = settings.problems.iter().map(|problem| problem.variable).collect();
        assert_eq!(
            variables,
            ["PTXVM_DEVICE", "PTXVM_MODE", "PTXVM_SEED", "PTXVM_SHRINK", "PTXVM_LOG", "PTXVM_DRIVER"]
        );
        assert!(settings.problems[0].to_string().contains("no card is called 'voodoo2'; known are h100"));
    }

    #[test]
    fn visible_devices_select_and_reorder_and_the_first_bad_one_ends_the_list() {
        let visible = |value| {
            let settings = with(&[("PTXVM_DEVICE", "h100,a100,l4"), ("CUDA_VISIBLE_DEVICES", value)]);
            settings.devices.iter().map(|card| card.key).collect::<Vec<_>>()
        };
        assert_eq!(visible("2,0"), ["l4", "h100"]);
        assert_eq!(visible("1,9,0"), ["a100"]);
        assert!(visible("").is_empty() && visible("-1").is_empty());
    }

    #[test]
    fn the_newest_ptx_follows_the_driver() {
        let ptx = |version| with(&[("PTXVM_DRIVER", version)]).newest_ptx();
        let expected =
            [("11.8", 78), ("12.0", 80), ("12.4", 84), ("12.5", 85), ("12.6", 85), ("12.8", 87), ("12.9", 88)];
        for (version, newest) in expected {
            assert_eq!(ptx(version), newest, "{version}");
        }
        assert_eq!((ptx("13.0"), ptx("13.4")), (90, 94));
    }
}

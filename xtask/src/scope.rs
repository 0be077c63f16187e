//! What a run of `cargo test` is about, told from its arguments.

/// The packages that are tested.
pub(crate) struct Scope<'a> {
    /// As the user named them; empty for the whole workspace.
    packages: Vec<&'a str>,
}

impl<'a> Scope<'a> {
    /// Reads the arguments of `cargo test`. What follows `--` is for the test programs.
    pub(crate) fn of(arguments: &'a [String]) -> Self {
        let mut packages = Vec::new();
        let mut arguments = arguments.iter().map(String::as_str).take_while(|&argument| argument != "--");
        while let Some(argument) = arguments.next() {
            if argument == "-p" || argument == "--package" {
                packages.extend(arguments.next());
            } else {
                let short = argument.strip_prefix("-p").map(|name| name.strip_prefix('=').unwrap_or(name));
                packages.extend(argument.strip_prefix("--package=").or(short));
            }
        }
        Self { packages }
    }

    /// Whether every package is tested.
    pub(crate) fn is_workspace(&self) -> bool {
        self.packages.is_empty()
    }

    /// Whether a package is among them whose tests run CUDA kernels.
    pub(crate) fn has_cuda(&self) -> bool {
        self.is_workspace() || self.packages.iter().any(|package| is_ptxvm(package) || [JUDGE, OURS].contains(package))
    }

    /// Whether a package that is not of ptxvm is among them.
    pub(crate) fn has_others(&self) -> bool {
        self.is_workspace() || self.packages.iter().any(|package| !is_ptxvm(package))
    }
}

/// The package that holds our kernels against libtorch.
const JUDGE: &str = "segface-tests";

/// The program, whose tests tune kernels.
const OURS: &str = "segface";

/// A package may be named by a pattern, such as `ptxvm*`.
fn is_ptxvm(package: &str) -> bool {
    package.starts_with("ptxvm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(arguments: &str) -> (bool, bool, bool) {
        let arguments: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
        let scope = Scope::of(&arguments);
        (scope.is_workspace(), scope.has_cuda(), scope.has_others())
    }

    #[test]
    fn without_a_package_everything_is_tested() {
        for arguments in ["", "parity", "--test parity", "--exclude ptxvm", "parity -- -p --package=x", "--release -v"]
        {
            assert_eq!(scope(arguments), (true, true, true), "{arguments}");
        }
    }

    #[test]
    fn a_package_is_seen_however_it_is_named() {
        for name in ["-p NAME", "-pNAME", "-p=NAME", "--package NAME", "--package=NAME", "-v -p NAME -- --nocapture"] {
            assert_eq!(scope(&name.replace("NAME", "ptxvm-suite")), (false, true, false), "{name}");
            assert_eq!(scope(&name.replace("NAME", "segface")), (false, false, true), "{name}");
        }
        assert_eq!(scope("-p ptxvm* --package segface-tests"), (false, true, true));
    }
}

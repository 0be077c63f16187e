//! Classes of instructions, by their names.

/// What an instruction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    Integer,
    F32,
    F64,
    Half,
    Conversion,
    Special,
    Mma,
    Global,
    Shared,
    Local,
    Memory,
    Control,
    Barrier,
    Warp,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Half => "half",
            Self::Conversion => "conversion",
            Self::Special => "special",
            Self::Mma => "mma",
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Memory => "memory",
            Self::Control => "control",
            Self::Barrier => "barrier",
            Self::Warp => "warp",
        }
    }

    /// The class of an opcode with its modifiers.
    pub(crate) fn of(opcode: &str) -> Self {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        let parts: Vec<&str> = parts.collect();
        let has =
            |modifier: &str| parts.iter().any(|part| *part == modifier || part.starts_with(&format!("{modifier}::")));
        match name {
            "mma" => Self::Mma,
            "wmma" if has("mma") => Self::Mma,
            "ld" | "st" | "atom" | "red" | "ldu" | "prefetch" | "prefetchu" | "wmma" => {
                match ["global", "shared", "local", "const", "param"].into_iter().find(|space| has(space)) {
                    Some("global" | "const") => Self::Global,
                    Some("shared") => Self::Shared,
                    Some("local") => Self::Local,
                    _ => Self::Memory,
                }
            }
            "cp" => Self::Global,
            "ldmatrix" | "stmatrix" => Self::Shared,
            "bar" if parts.first() == Some(&"warp") => Self::Warp,
            "bar" | "barrier" | "mbarrier" | "fence" | "membar" => Self::Barrier,
            "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" | "movmatrix" => Self::Warp,
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" => Self::Control,
            "cvt" | "cvta" => Self::Conversion,
            "sin" | "cos" | "ex2" | "lg2" | "tanh" | "rcp" | "rsqrt" | "sqrt" => Self::Special,
            _ => match parts.last().copied().unwrap_or_default() {
                "f32" | "f32x2" | "tf32" => Self::F32,
                "f64" => Self::F64,
                "f16" | "f16x2" | "bf16" | "bf16x2" => Self::Half,
                _ => Self::Integer,
            },
        }
    }
}

/// Multiply-accumulates of one `mma` of a warp: the product of its shape.
pub(crate) fn macs(opcode: &str) -> u64 {
    if Class::of(opcode) != Class::Mma {
        return 0;
    }
    let shape = |part: &str| -> Option<u64> {
        let (m, rest) = part.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some(m.parse::<u64>().ok()? * n.parse::<u64>().ok()? * k.parse::<u64>().ok()?)
    };
    opcode.split('.').find_map(shape).unwrap_or(0)
}

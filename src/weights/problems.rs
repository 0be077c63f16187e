//! Comparing the tensors of a checkpoint with those its network needs.

use super::{DType, Tensor, tensor::shape_name};
use segface_codegen::{ModelSpec, manifest};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Everything that does not fit between a checkpoint's tensors and a network. Each list is sorted by name and complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Problems {
    /// Tensors the network computes with and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the published network does not have.
    pub extra: Vec<String>,
    /// Tensors of another shape.
    pub misshapen: Vec<Misshapen>,
    /// Tensors the network computes with that are not stored as floating-point numbers.
    pub not_float: Vec<NotFloat>,
    /// Tensors the network computes with that hold NaN or infinite values.
    pub not_finite: Vec<NotFinite>,
}

/// A tensor whose shape is not the network's.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Misshapen {
    /// Which tensor.
    pub name: String,
    /// Shape in the checkpoint.
    pub found: Vec<usize>,
    /// Shape in the network.
    pub expected: Vec<usize>,
}

/// A weight that is stored as integers or booleans.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NotFloat {
    /// Which tensor.
    pub name: String,
    /// Its element type, e.g. `int8`.
    pub found: String,
}

/// A weight with NaN or infinite values (also float64 values that no float32 can hold).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NotFinite {
    /// Which tensor.
    pub name: String,
    /// How many of its values are not finite.
    pub count: usize,
    /// How many values it has.
    pub len: usize,
}

impl Problems {
    /// Compares `tensors` with the manifest of `spec`. Tensors of the manifest that feed nothing may be missing.
    pub(super) fn find(tensors: &BTreeMap<String, Tensor>, spec: &ModelSpec) -> Problems {
        let mut problems = Problems::default();
        let mut known = BTreeSet::new();
        let mut weights = Vec::new();
        for decl in manifest(spec) {
            match tensors.get(&decl.name) {
                None if decl.required => problems.missing.push(decl.name.clone()),
                None => {}
                Some(tensor) if tensor.shape() != decl.shape => problems.misshapen.push(Misshapen {
                    name: decl.name.clone(),
                    found: tensor.shape().to_vec(),
                    expected: decl.shape,
                }),
                Some(tensor) if decl.required && !tensor.dtype().is_float() => {
                    problems.not_float.push(NotFloat { name: decl.name.clone(), found: tensor.dtype().to_string() });
                }
                Some(tensor) if decl.required => weights.push((decl.name.clone(), tensor)),
                Some(_) => {}
            }
            known.insert(decl.name);
        }
        problems.extra = tensors.keys().filter(|name| !known.contains(*name)).cloned().collect();
        problems.not_finite = not_finite(&weights);
        problems.missing.sort();
        problems.misshapen.sort_by(|a, b| a.name.cmp(&b.name));
        problems.not_float.sort_by(|a, b| a.name.cmp(&b.name));
        problems.not_finite.sort_by(|a, b| a.name.cmp(&b.name));
        problems
    }

    /// Whether everything fits.
    pub fn is_empty(&self) -> bool {
        *self == Problems::default()
    }
}

/// Looks at every value, on all cores: a large checkpoint has 90 million.
fn not_finite(weights: &[(String, &Tensor)]) -> Vec<NotFinite> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(weights.len());
    let next = AtomicUsize::new(0);
    let scan = || {
        let mut found = Vec::new();
        while let Some((name, tensor)) = weights.get(next.fetch_add(1, Ordering::Relaxed)) {
            let count = tensor.values().iter().filter(|v| !v.is_finite()).count();
            if count > 0 {
                found.push(NotFinite { name: name.clone(), count, len: tensor.len() });
            }
        }
        found
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(scan)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

impl fmt::Display for Problems {
    /// One line per tensor, grouped; nothing is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut group = |title: &str, lines: Vec<String>| -> fmt::Result {
            if lines.is_empty() {
                return Ok(());
            }
            write!(f, "{separator}  {title} ({}):", lines.len())?;
            separator = "\n";
            lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
        };
        group("missing", self.missing.clone())?;
        group("not part of this network", self.extra.clone())?;
        let line =
            |m: &Misshapen| format!("{}: found {}, expected {}", m.name, shape_name(&m.found), shape_name(&m.expected));
        group("of another shape", self.misshapen.iter().map(line).collect())?;
        let line = |n: &NotFloat| format!("{}: {}, expected float32, float16, bfloat16 or float64", n.name, n.found);
        group("not floating-point", self.not_float.iter().map(line).collect())?;
        let line = |n: &NotFinite| format!("{}: {} of {} values", n.name, n.count, n.len);
        group("NaN or infinite", self.not_finite.iter().map(line).collect())
    }
}

/// Values of `tensor` that `dtype` cannot hold although they are finite.
pub(super) fn overflows(tensor: &Tensor, stored: &Tensor, dtype: DType) -> usize {
    if tensor.dtype() == dtype {
        return 0;
    }
    let finite = |t: &Tensor| t.values().iter().filter(|v| v.is_finite()).count();
    finite(tensor) - finite(stored)
}

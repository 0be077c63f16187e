//! Counts of a virtual machine's profile mode (`ptxvm`, `PTXVM_MODE=profile PTXVM_REPORT=FILE`).

use segface_codegen::cuda::bound::Counted;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// What blocks of a kernel did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Counters {
    /// Blocks that were counted, here or where the numbers come from.
    #[serde(skip)]
    pub blocks: f64,
    /// Instructions of warps.
    pub instructions: f64,
    /// Loads, stores and atomics of a warp on global memory.
    pub requests: f64,
    /// Sectors of 32 bytes that they touch.
    pub sectors: f64,
    /// Accesses of a warp to shared memory.
    pub shared_requests: f64,
    /// Turns that they take.
    pub waves: f64,
    /// Of those, what conflicts of banks cost.
    pub bank_conflicts: f64,
    /// Multiply-accumulates of matrix instructions.
    pub macs: f64,
}

/// Bytes of a sector.
const SECTOR: f64 = 32.0;

impl Counters {
    /// What that many blocks do if each does what the counted ones did on average.
    pub fn of_blocks(&self, blocks: f64) -> Self {
        let share = blocks / self.blocks.max(1.0);
        let Self { instructions, requests, sectors, shared_requests, waves, bank_conflicts, macs, .. } = *self;
        Self {
            blocks,
            instructions: instructions * share,
            requests: requests * share,
            sectors: sectors * share,
            shared_requests: shared_requests * share,
            waves: waves * share,
            bank_conflicts: bank_conflicts * share,
            macs: macs * share,
        }
    }

    /// Sectors of a request.
    pub fn sectors_per_request(&self) -> f64 {
        if self.requests > 0.0 { self.sectors / self.requests } else { 0.0 }
    }

    /// For bounds.
    pub fn counted(&self) -> Counted {
        Counted { warp_instructions: self.instructions, shared_waves: self.waves, sector_bytes: SECTOR * self.sectors }
    }
}

/// Reads a report, by kernel.
///
/// # Errors
/// If it cannot be read, is no such report, or was not made in profile mode.
pub fn read(path: &Path) -> Result<HashMap<String, Counters>, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let report: Value =
        serde_json::from_slice(&text).map_err(|error| format!("{} is no report of ptxvm: {error}", path.display()))?;
    let kernels = report["kernels"].as_array().filter(|kernels| !kernels.is_empty()).ok_or_else(|| {
        format!("{} holds no counts; run the network with PTXVM_MODE=profile and PTXVM_REPORT={0}", path.display())
    })?;
    let mut found: HashMap<String, Counters> = HashMap::new();
    for kernel in kernels {
        let Some(name) = kernel["kernel"].as_str() else { continue };
        let total = |what: &str| kernel["total"][what].as_f64().unwrap_or(0.0);
        let new = Counters {
            blocks: kernel["blocks"].as_f64().unwrap_or(0.0),
            instructions: total("instructions"),
            requests: total("requests"),
            sectors: total("sectors"),
            shared_requests: total("shared_requests"),
            waves: total("waves"),
            bank_conflicts: total("bank_conflicts"),
            macs: total("macs"),
        };
        // A kernel that was loaded twice: the load that did most.
        let known = found.entry(name.into()).or_default();
        if new.blocks > known.blocks {
            *known = new;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_kernel_and_scaled_by_blocks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let report = serde_json::json!({ "findings": [], "kernels": [
            { "kernel": "gemm_1", "launches": 2, "blocks": 10, "total": { "instructions": 1000, "requests": 50, "sectors": 200,
              "shared_requests": 40, "waves": 60, "bank_conflicts": 20, "macs": 4096 } },
            { "kernel": "gemm_1", "launches": 1, "blocks": 1, "total": { "instructions": 7 } },
        ] });
        std::fs::write(file.path(), report.to_string()).unwrap();
        let counters = read(file.path()).unwrap()["gemm_1"].of_blocks(5.0);
        assert_eq!(
            (counters.instructions, counters.sectors, counters.waves, counters.macs),
            (500.0, 100.0, 30.0, 2048.0)
        );
        assert_eq!((counters.sectors_per_request(), counters.bank_conflicts), (4.0, 10.0));
        assert_eq!(counters.counted().sector_bytes, 3200.0);
    }

    #[test]
    fn a_report_without_counts_says_how_to_get_some() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"findings": [], "kernels": []}"#).unwrap();
        assert!(read(file.path()).unwrap_err().contains("PTXVM_MODE=profile"));
        std::fs::write(file.path(), "text").unwrap();
        assert!(read(file.path()).unwrap_err().contains("no report"));
        assert!(read(Path::new("/nowhere/report.json")).unwrap_err().contains("cannot read"));
    }
}

//! Several processes.

use crate::finished::stderr;
use crate::process::{Asked, free_port};
use crate::synthetic;
use std::path::Path;
use std::process::{Child, Command, Output};

fn together(asked: &Asked, size: usize) -> Vec<Output> {
    let port = free_port();
    let children: Vec<Child> = (0..size).rev().map(|rank| asked.start(rank, size, port)).collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

fn asked(data: &Path, folder: &Path, name: &str, replicas: usize) -> Asked {
    Asked { replicas, epochs: 4, ..Asked::new(data, &folder.join(name)) }
}

#[test]
fn two_and_four_processes_end_with_the_bits_of_one_that_does_their_micro_batches() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    for size in [2, 4] {
        let alone = asked(&data, folder.path(), &format!("alone{size}"), size);
        let run = alone.finish();
        assert!(run.status.success(), "{}", stderr(&run));
        for overlap in [true, false] {
            let shared = asked(&data, folder.path(), &format!("shared{size}{overlap}"), size);
            let shared = Asked { overlap, ..shared };
            for run in together(&shared, size) {
                assert!(run.status.success(), "{}", stderr(&run));
            }
            // Parameters, moments, averages, statistics, and the sums of all losses.
            assert!(alone.state() == shared.state(), "{size} processes, overlap {overlap}");
        }
    }
}

#[test]
fn processes_that_send_other_parts_of_the_gradients_are_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let shared = asked(&data, folder.path(), "shared", 2);
    let port = free_port();
    let late = Asked { overlap: false, ..shared.clone() };
    let children = [late.start(1, 2, port), shared.start(0, 2, port)];
    let runs = children.map(|child| child.wait_with_output().unwrap());
    assert!(runs.iter().all(|run| run.status.code() == Some(3)));
    assert!(stderr(&runs[0]).contains("at another place"), "{}", stderr(&runs[0]));
}

#[test]
fn processes_that_are_resumed_agree_with_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let whole = asked(&data, folder.path(), "whole", 2);
    assert!(whole.finish().status.success());
    let mut shared = Asked { stop_after: Some(3), ..asked(&data, folder.path(), "shared", 2) };
    for run in together(&shared, 2) {
        assert!(run.status.success(), "{}", stderr(&run));
    }
    (shared.stop_after, shared.resume) = (None, true);
    for run in together(&shared, 2) {
        assert!(run.status.success(), "{}", stderr(&run));
    }
    assert!(whole.state() == shared.state());
}

#[test]
fn accumulation_within_processes_is_the_same_run_but_for_the_order_of_sums() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    let alone = asked(&data, folder.path(), "alone", 4);
    assert!(alone.finish().status.success());
    let shared = asked(&data, folder.path(), "shared", 4);
    let late = Asked { overlap: false, ..asked(&data, folder.path(), "late", 4) };
    for asked in [&shared, &late] {
        for run in together(asked, 2) {
            assert!(run.status.success(), "{}", stderr(&run));
        }
    }
    assert!(shared.state() == late.state(), "sums that leave early are others");
    let read = |asked: &Asked| {
        let state = segface::train::load(&asked.folder, &asked.recipe(), &crate::pixels::layout()).unwrap().unwrap();
        state.parameters.into_owned()
    };
    let (alone, shared) = (read(&alone), read(&shared));
    let far = alone.iter().zip(&shared).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far < 1e-5, "{far}");
}

#[test]
fn when_one_dies_the_others_say_so_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    // The last of three dies; rank 0 and 1 hear of it.
    let shared = Asked { dies_at: Some(2), ..asked(&data, folder.path(), "shared", 3) };
    let runs = together(&shared, 3);
    // They were started, and are listed, from the last rank on.
    for (rank, run) in [(1, &runs[1]), (0, &runs[2])] {
        assert_eq!(run.status.code(), Some(3), "rank {rank}");
        let said = stderr(run);
        assert!(said.contains(&format!("process {rank} of 3")) && said.contains("went away"), "{said}");
    }
    // Only whole states, of steps that all had done.
    let state = segface::train::load(&shared.folder, &shared.recipe(), &crate::pixels::layout()).unwrap();
    assert_eq!(state.map(|state| state.step), Some(2));
}

#[test]
fn over_mpi_the_bits_are_the_same() {
    let Ok(version) = Command::new("mpirun").arg("--version").output() else {
        eprintln!("there is no mpirun here: not tried");
        return;
    };
    if !String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        eprintln!("mpirun is not Open MPI's: not tried");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = synthetic::celeb(&folder.path().join("data"));
    for size in [2, 4] {
        let alone = asked(&data, folder.path(), &format!("alone{size}"), size);
        let run = alone.finish();
        assert!(run.status.success(), "{}", stderr(&run));
        let shared = Asked { mpi: true, ..asked(&data, folder.path(), &format!("shared{size}"), size) };
        let mut command = Command::new("mpirun");
        // More processes than processors, and whoever runs this may be root.
        command.args(["--oversubscribe", "--allow-run-as-root", "--mca", "mpi_yield_when_idle", "1", "-n"]);
        command.arg(size.to_string()).arg(std::env::current_exe().unwrap()).args(Asked::arguments());
        command.env("SEGFACE_TEST_RUN", serde_json::to_string(&shared).unwrap());
        for variable in ["RANK", "WORLD_SIZE", "LOCAL_RANK"] {
            command.env_remove(variable);
        }
        let run = command.output().unwrap();
        assert!(run.status.success(), "{}", stderr(&run));
        assert!(alone.state() == shared.state(), "{size} processes over MPI");
    }
}

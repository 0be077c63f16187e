//! Runs of some steps.

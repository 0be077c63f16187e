//! A PTX virtual machine.
pub mod ptx;

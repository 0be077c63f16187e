//! The CUDA target: programs of `segface_codegen::cuda` compiled by NVRTC and run through the driver.
//!
//! Both libraries are found at run time, so one program starts on any machine. Nothing here knows whether a GPU or a virtual
//! machine stands behind the driver.

mod compiler;
mod device;
mod engine;
mod error;
mod file;
mod host;
mod network;
mod photo;
mod timed;
pub mod tune;

pub use compiler::{Compiler, Image, Resources, driver_version};
pub use device::{Device, devices};
pub use engine::CudaEngine;
pub(crate) use engine::{Prepared, Recorded};
pub use error::CudaError;
pub use file::CudaFile;
pub use network::CudaNetwork;
pub use photo::{PhotoEngine, PhotoLabels, PhotoTimes};
pub use timed::{Launching, TimedLaunch, median};

//! A program on a card: its kernels and weights, once, however many engines run it side by side.

use super::photo::photo_kernels;
use super::{Compiler, CudaError, CudaFile, Device, Image};
use cudarc::driver::{CudaFunction, CudaSlice};
use segface_codegen::cuda::Program;
use std::sync::{Arc, OnceLock};

/// Alignment of constants on the device: a whole memory transaction.
const CONSTANT_ALIGNMENT: usize = 256;

/// What the engines of one program on one card share.
pub struct CudaNetwork {
    pub(super) program: Arc<Program>,
    pub(super) device: Device,
    /// One for each kernel of the program.
    pub(super) functions: Vec<CudaFunction>,
    pub(super) constants: CudaSlice<u8>,
    /// Where each constant lies.
    pub(super) offsets: Vec<usize>,
    /// Compiled kernels of photos, where they came with an engine file.
    photo_images: Option<Vec<Image>>,
    photo_functions: OnceLock<Vec<CudaFunction>>,
}

impl CudaNetwork {
    /// Compiles the program's kernels for the card and uploads its weights.
    ///
    /// # Errors
    /// Without a compiler, or with too little memory.
    pub fn new(program: Arc<Program>, device: &Device) -> Result<Self, CudaError> {
        let images = Compiler::find()?.for_device(&program.kernels, device)?;
        Self::with_images(program, device, &images)
    }

    /// Loads the kernels of an engine file and uploads its weights.
    ///
    /// # Errors
    /// If the file has no code that the card and its driver take, or with too little memory.
    pub fn from_file(file: &CudaFile, device: &Device) -> Result<Self, CudaError> {
        let program = Arc::new(file.program.clone());
        let mut refused = None;
        for images in file.images_for(device)? {
            let (own, photo) = images.split_at(program.kernels.len());
            match Self::with_images(Arc::clone(&program), device, own) {
                Err(error @ CudaError::CodeRefused { .. }) => refused = Some(error),
                network => return network.map(|network| Self { photo_images: Some(photo.to_vec()), ..network }),
            }
        }
        Err(refused.expect("a file that has images for a card has one at least"))
    }

    /// Uploads the weights of a program whose kernels are compiled: one image for each, in order.
    ///
    /// # Errors
    /// With too little memory, or if the driver does not take an image.
    pub fn with_images(program: Arc<Program>, device: &Device, images: &[Image]) -> Result<Self, CudaError> {
        let pairs = program.kernels.iter().zip(images);
        let functions = pairs.map(|(kernel, image)| device.load(kernel, image)).collect::<Result<Vec<_>, _>>()?;
        let stream = device.context.new_stream().map_err(CudaError::of("making a stream"))?;
        let mut offsets = Vec::with_capacity(program.constants.len());
        let mut size = 0usize;
        for (_, _, bytes) in &program.constants {
            offsets.push(size);
            size = (size + bytes.len()).next_multiple_of(CONSTANT_ALIGNMENT);
        }
        let mut constants = device.allocate::<u8>(&stream, size, "weights")?;
        for ((_, _, bytes), offset) in program.constants.iter().zip(&offsets) {
            let mut place = constants.slice_mut(*offset..*offset + bytes.len());
            stream.memcpy_htod(&bytes[..], &mut place).map_err(CudaError::of("uploading weights"))?;
        }
        // Other streams read them.
        stream.synchronize().map_err(CudaError::of("uploading weights"))?;
        let device = device.clone();
        let photo_functions = OnceLock::new();
        Ok(Self { program, device, functions, constants, offsets, photo_images: None, photo_functions })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The card.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The kernels around the network, in the order of [`photo_kernels`]; compiled when they are first asked for, if they did not
    /// come with a file.
    pub(super) fn photo_functions(&self) -> Result<&[CudaFunction], CudaError> {
        if self.photo_functions.get().is_none() {
            let kernels = photo_kernels(&self.program);
            let compiled = match &self.photo_images {
                Some(_) => None,
                None => Some(Compiler::find()?.for_device(&kernels, &self.device)?),
            };
            let images = self.photo_images.as_ref().or(compiled.as_ref()).map_or(&[][..], Vec::as_slice);
            let pairs = kernels.iter().zip(images);
            let functions = pairs.map(|(kernel, image)| self.device.load(kernel, image)).collect::<Result<_, _>>()?;
            // Another thread that came first has loaded the same.
            let _ = self.photo_functions.set(functions);
        }
        Ok(self.photo_functions.get().map_or(&[], Vec::as_slice))
    }
}

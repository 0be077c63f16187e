//! Runs a plan on the CPU: one kernel call after another over one arena.

use super::EngineError;
use super::call::{Call, Memory};
use segface_codegen::ir::{Node, Output};
use segface_codegen::plan::Plan;
use segface_kernels::{Context, DType, Isa, bf16};
use std::sync::Arc;

/// Cache-line aligned memory for everything one run computes.
pub(crate) struct Arena(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Arena {
    pub(crate) fn new(bytes: usize) -> Self {
        Arena(vec![Line([0; 64]); bytes.div_ceil(64)])
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * 64
    }

    pub(crate) fn base(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        // SAFETY: `Line` is 64 plain bytes with stricter alignment.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.bytes()) }
    }

    pub(crate) fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.bytes()) }
    }
}

/// A plan with its memory and threads: runs one batch at a time.
pub struct CpuEngine {
    plan: Arc<Plan>,
    context: Context,
    arena: Arena,
}

impl CpuEngine {
    /// Takes memory and starts `threads` threads.
    ///
    /// # Errors
    /// If this CPU lacks `isa`, or the plan does not hold together (possible for plans from files).
    pub fn new(plan: Arc<Plan>, threads: usize, isa: Isa) -> Result<Self, EngineError> {
        if !isa.is_available() {
            return Err(EngineError::WrongCpu { wanted: isa, have: Isa::available().collect() });
        }
        super::validate::validate(&plan)?;
        let context = Context::new(threads, isa);
        let arena = Arena::new(plan.memory.arena_bytes);
        Ok(Self { plan, context, arena })
    }

    /// Another engine for the same plan, whose constants both share, with memory and `threads` threads of its own.
    ///
    /// # Errors
    /// As [`CpuEngine::new`].
    pub fn another(&self, threads: usize) -> Result<Self, EngineError> {
        Self::new(Arc::clone(&self.plan), threads, self.isa())
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.context.isa()
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.context.threads()
    }

    /// Bytes of the arena and of the threads' scratch so far.
    pub fn working_bytes(&mut self) -> usize {
        self.arena.bytes() + self.context.scratch_held()
    }

    /// Runs the plan on `input` [batch, height, width, 3], normalised. It is rounded to bf16 where the plan is bf16.
    ///
    /// # Errors
    /// If the input has another length than the plan's.
    pub fn run(&mut self, input: &[f32]) -> Result<(), EngineError> {
        self.run_observed(input, &mut |_, _| {})
    }

    /// Runs the plan and calls `observe` with each node and the time its kernel took.
    ///
    /// # Errors
    /// As [`CpuEngine::run`].
    pub fn run_observed(
        &mut self,
        input: &[f32],
        observe: &mut dyn FnMut(&Node, std::time::Duration),
    ) -> Result<(), EngineError> {
        let plan = Arc::clone(&self.plan);
        let base = self.arena.base();
        let id = plan.input().ok_or(EngineError::Broken { reason: "it has no input".into() })?;
        let value = &plan.graph.values[id.0];
        if input.len() != value.len() {
            return Err(EngineError::InputLength { expected: value.shape.clone(), found: input.len() });
        }
        let memory = Memory::of(&plan, base);
        match value.dtype {
            // SAFETY: nothing else uses the arena; see `Memory`.
            DType::F32 => unsafe { memory.slice_mut::<f32>(id) }.copy_from_slice(input),
            DType::Bf16 => {
                // SAFETY: as above.
                let target = unsafe { memory.slice_mut::<bf16>(id) };
                target.iter_mut().zip(input).for_each(|(t, v)| *t = bf16::from_f32(*v));
            }
            dtype => return Err(EngineError::Broken { reason: format!("its input is of type {dtype:?}") }),
        }
        for (index, node) in plan.graph.nodes.iter().enumerate() {
            let begin = std::time::Instant::now();
            let call = Call { memory: &memory, node, index };
            match plan.precision.dtype() {
                DType::F32 => call.run::<f32>(&mut self.context),
                _ => call.run::<bf16>(&mut self.context),
            }
            observe(node, begin.elapsed());
        }
        Ok(())
    }

    /// An output of the last run as f32 in the plan's layout (channels last), with its shape. Labels come as numbers.
    ///
    /// # Errors
    /// If the plan was not compiled to give it out.
    pub fn output(&mut self, output: Output) -> Result<(Vec<usize>, Vec<f32>), EngineError> {
        let plan = Arc::clone(&self.plan);
        let id = plan.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let value = &plan.graph.values[id.0];
        let memory = Memory::of(&plan, self.arena.base());
        // SAFETY: no kernel runs, and the result is copied before `&mut self` ends.
        let data = unsafe {
            match value.dtype {
                DType::F32 => memory.slice::<f32>(id).to_vec(),
                DType::Bf16 => memory.slice::<bf16>(id).iter().map(|v| v.to_f32()).collect(),
                DType::U8 => memory.slice::<u8>(id).iter().map(|v| f32::from(*v)).collect(),
                DType::F16 => unreachable!("validated: no value of a CPU plan is f16"),
            }
        };
        Ok((value.shape.clone(), data))
    }

    /// The logits of the last run, [batch, 4h, 4w, T], without a copy.
    ///
    /// # Errors
    /// If the plan was not compiled to give them out.
    pub fn logits(&mut self) -> Result<&[f32], EngineError> {
        self.borrowed(Output::Logits)
    }

    /// The labels of the last run, [batch, 4h, 4w], without a copy.
    ///
    /// # Errors
    /// If the plan was not compiled to give them out.
    pub fn labels(&mut self) -> Result<&[u8], EngineError> {
        self.borrowed(Output::Labels)
    }

    fn borrowed<T: bytemuck::Pod>(&mut self, output: Output) -> Result<&[T], EngineError> {
        let id = self.plan.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let offset = self.plan.memory.offsets[id.0].ok_or(EngineError::NoSuchOutput { output })?;
        let len = self.plan.graph.values[id.0].len();
        let bytes: &[u8] = self.arena.as_bytes();
        Ok(bytemuck::cast_slice(&bytes[offset..offset + len * size_of::<T>()]))
    }
}

//! Blocks of threads that run one after another, each until it exits or has to wait for others.

use std::collections::HashMap;

use ptxvm::ptx::ast::{Instruction, Module, Operand, Type};

use crate::{
    error::OracleError,
    memory::{Memory, buffer_address},
    operand,
    program::{Program, Step},
    warp,
};

/// Instructions that all threads of a launch may execute together.
const FUEL: u64 = 20_000_000;

/// Instructions a thread executes before the next one has its turn.
const SLICE: u32 = 10_000;

/// Threads in a warp.
pub(crate) const WARP: usize = 32;

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// At an instruction that needs other threads.
    Waiting,
    Exited,
}

/// One thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) index: u32,
    pub(crate) block: u32,
    pub(crate) threads: u32,
    pub(crate) blocks: u32,
    pub(crate) pc: usize,
    pub(crate) state: State,
    pub(crate) registers: HashMap<String, u128>,
    pub(crate) carry: bool,
    pub(crate) local: Vec<u8>,
}

/// What all threads see.
pub(crate) struct World<'a> {
    pub(crate) program: &'a Program,
    pub(crate) buffers: &'a mut Vec<Vec<u8>>,
    pub(crate) shared: Vec<u8>,
    pub(crate) constants: Vec<u8>,
    pub(crate) params: Vec<u8>,
    fuel: u64,
}

impl World<'_> {
    /// Memory as one thread sees it.
    pub(crate) fn memory<'b>(&'b mut self, local: &'b mut Vec<u8>) -> Memory<'b> {
        Memory {
            buffers: self.buffers,
            shared: &mut self.shared,
            local,
            constants: &mut self.constants,
            params: &mut self.params,
        }
    }
}

/// Runs `kernel` over `blocks` blocks of `threads` threads. Each of the kernel's parameters is a pointer to the buffer
/// of its index. Results are defined only where the program has no race: blocks run in order, and within a block each
/// thread runs up to where it has to wait (or for a long while) before the next one starts.
pub fn run(
    module: &Module,
    kernel: &str,
    blocks: u32,
    threads: u32,
    buffers: &mut Vec<Vec<u8>>,
) -> Result<(), OracleError> {
    let program = Program::new(module, kernel)?;
    let given = buffers.len();
    buffers.push(program.globals.clone());
    let params = (0..given).flat_map(|index| buffer_address(index).to_le_bytes()).collect();
    let mut world = World {
        program: &program,
        buffers,
        shared: Vec::new(),
        constants: program.constants.clone(),
        params,
        fuel: FUEL,
    };
    let result = (0..blocks).try_for_each(|block| {
        world.shared = vec![0; program.shared_bytes as usize];
        run_block(&mut world, block, blocks, threads)
    });
    buffers.truncate(given);
    result
}

fn run_block(world: &mut World<'_>, block: u32, blocks: u32, count: u32) -> Result<(), OracleError> {
    let program = world.program;
    let mut threads: Vec<Thread> = (0..count)
        .map(|index| Thread {
            index,
            block,
            threads: count,
            blocks,
            pc: 0,
            state: State::Running,
            registers: HashMap::new(),
            carry: false,
            local: vec![0; program.local_bytes as usize],
        })
        .collect();
    loop {
        for thread in &mut threads {
            for _ in 0..SLICE {
                if thread.state == State::Running {
                    advance(world, thread)?;
                }
            }
        }
        // A thread may spin on what a later one writes: nobody is waited for before all have come to rest.
        if threads.iter().any(|thread| thread.state == State::Running) {
            continue;
        }
        if threads.iter().all(|thread| thread.state == State::Exited) {
            return Ok(());
        }
        let mut progress = release_barrier(world, &mut threads)?;
        for lanes in threads.chunks_mut(WARP) {
            progress |= warp::collective(world, lanes)?;
        }
        if !progress {
            let waiting = threads.iter().find(|thread| thread.state == State::Waiting);
            let line = waiting.map_or(0, |thread| program.steps[thread.pc].instruction.line);
            return Err(OracleError::Deadlock { line });
        }
    }
}

/// One instruction of one thread.
fn advance(world: &mut World<'_>, thread: &mut Thread) -> Result<(), OracleError> {
    let program = world.program;
    let Some(step) = program.steps.get(thread.pc) else {
        thread.state = State::Exited;
        return Ok(());
    };
    world.fuel = world.fuel.checked_sub(1).ok_or(OracleError::TooLong(FUEL))?;
    if let Some(guard) = &step.instruction.guard {
        let holds = thread.registers.get(&guard.register).is_some_and(|value| value & 1 == 1);
        if holds == guard.negated {
            thread.pc += 1;
            return Ok(());
        }
    }
    if warp::needs_others(&step.instruction) {
        thread.state = State::Waiting;
        return Ok(());
    }
    thread.pc += 1;
    crate::execute::execute(world, thread, step)
}

/// Releases the barrier where every thread of the block that has not exited waits at one, with the reduction of
/// `bar.red` where it is one.
fn release_barrier(world: &World<'_>, threads: &mut [Thread]) -> Result<bool, OracleError> {
    let program = world.program;
    let at_barrier = |thread: &Thread| {
        let Step { instruction, modifiers } = &program.steps[thread.pc];
        matches!(instruction.opcode.as_str(), "bar" | "barrier") && !modifiers.has("warp")
    };
    if !threads.iter().all(|thread| thread.state == State::Exited || at_barrier(thread)) {
        return Ok(false);
    }
    let waiting: Vec<usize> = (0..threads.len()).filter(|&index| threads[index].state == State::Waiting).collect();
    let mut truths = Vec::new();
    for &index in &waiting {
        let Step { instruction, modifiers } = &program.steps[threads[index].pc];
        if modifiers.has("red") {
            let source = instruction.operands.last().ok_or_else(|| unknown(instruction))?;
            let value = operand::read(world, &threads[index], source, Type::Pred, instruction.line)?;
            truths.push(value & 1 == 1);
        }
    }
    for index in waiting {
        let thread = &mut threads[index];
        let Step { instruction, modifiers } = &program.steps[thread.pc];
        let result = match modifiers.first_of(&["popc", "and", "or"]) {
            Some("popc") => truths.iter().filter(|&&truth| truth).count() as u128,
            Some("and") => u128::from(truths.iter().all(|&truth| truth)),
            _ => u128::from(truths.iter().any(|&truth| truth)),
        };
        if modifiers.has("red") {
            thread.write(program, &instruction.operands[0], &[result]);
        }
        thread.pc += 1;
        thread.state = State::Running;
    }
    Ok(true)
}

impl Thread {
    pub(crate) fn lane(&self) -> usize {
        self.index as usize % WARP
    }

    /// Sets registers; `_` takes nothing, a vector takes one value for each part.
    pub(crate) fn write(&mut self, program: &Program, target: &Operand, values: &[u128]) {
        match target {
            Operand::Name(name) if name == "_" => {}
            Operand::Name(name) => {
                if let (Some(&bits), Some(&value)) = (program.registers.get(name), values.first()) {
                    self.registers.insert(name.clone(), crate::modifiers::low(value, bits));
                }
            }
            Operand::Vector(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    self.write(program, part, values.get(index..).unwrap_or(&[]));
                }
            }
            Operand::Pair(first, second) => {
                self.write(program, first, values);
                self.write(program, second, values.get(1..).unwrap_or(&[]));
            }
            _ => {}
        }
    }
}

/// The error for what has no rule here.
pub(crate) fn unknown(instruction: &Instruction) -> OracleError {
    OracleError::Unknown { opcode: instruction.full_opcode(), line: instruction.line }
}

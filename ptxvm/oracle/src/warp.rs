//! Instructions that the threads of a warp execute together.

use std::collections::BTreeMap;

use ptxvm::ptx::ast::{Instruction, Operand, Type};

use crate::{
    error::OracleError,
    exact::Rounding,
    format::{Format, SINGLE},
    machine::{State, Thread, WARP, World, unknown},
    matrix, matrix_memory,
    modifiers::{Modifiers, integer, low},
    operand, wmma,
};

/// Whether an instruction cannot be executed by one thread alone.
pub(crate) fn needs_others(instruction: &Instruction) -> bool {
    matches!(
        instruction.opcode.as_str(),
        "bar"
            | "barrier"
            | "shfl"
            | "vote"
            | "match"
            | "redux"
            | "activemask"
            | "elect"
            | "mma"
            | "wmma"
            | "ldmatrix"
            | "stmatrix"
            | "movmatrix"
    )
}

/// Executes the collectives of one warp for which everybody is there. Says whether there was one.
pub(crate) fn collective(world: &mut World<'_>, lanes: &mut [Thread]) -> Result<bool, OracleError> {
    let program = world.program;
    // Threads that wait at the same instruction with the same membermask belong together.
    let mut groups: BTreeMap<(usize, u128), Vec<usize>> = BTreeMap::new();
    for (lane, thread) in lanes.iter().enumerate() {
        if thread.state == State::Waiting {
            let mask = member_mask(world, thread, &program.steps[thread.pc].instruction)?;
            groups.entry((thread.pc, mask)).or_default().push(lane);
        }
    }
    let gone = lanes.iter().enumerate().filter(|(_, thread)| thread.state == State::Exited);
    let gone: u128 = gone.fold(0, |gone, (lane, _)| gone | 1 << lane);
    let mut progress = false;
    for ((pc, mask), group) in groups {
        let step = &program.steps[pc];
        let modifiers = &step.modifiers;
        let block_barrier = matches!(step.instruction.opcode.as_str(), "bar" | "barrier") && !modifiers.has("warp");
        let present = group.iter().fold(0u128, |present, &lane| present | 1 << lane);
        let existing = low(u128::MAX, lanes.len() as u32);
        if block_barrier || mask & existing & !(present | gone) != 0 {
            continue;
        }
        execute(world, lanes, &group, &step.instruction, modifiers)?;
        for lane in group {
            lanes[lane].pc += 1;
            lanes[lane].state = State::Running;
        }
        progress = true;
    }
    Ok(progress)
}

/// The threads that must be there: the membermask, everybody for matrices, nobody else for `activemask`.
fn member_mask(world: &World<'_>, thread: &Thread, instruction: &Instruction) -> Result<u128, OracleError> {
    let operand = match instruction.opcode.as_str() {
        "shfl" | "vote" | "match" | "redux" | "elect" if instruction.has("sync") => instruction.operands.last(),
        "bar" | "barrier" if instruction.has("warp") => instruction.operands.last(),
        "mma" | "wmma" | "ldmatrix" | "stmatrix" | "movmatrix" => return Ok(low(u128::MAX, WARP as u32)),
        _ => None,
    };
    match operand {
        Some(operand) => Ok(low(operand::read(world, thread, operand, Type::B32, instruction.line)?, 32)),
        None => Ok(0),
    }
}

fn execute(
    world: &mut World<'_>,
    lanes: &mut [Thread],
    group: &[usize],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    match instruction.opcode.as_str() {
        "bar" | "barrier" => Ok(()),
        "shfl" => shuffle(world, lanes, group, instruction, modifiers),
        "mma" => matrix::multiply(world, lanes, instruction, modifiers),
        "wmma" => wmma::execute(world, lanes, instruction, modifiers),
        "ldmatrix" | "stmatrix" | "movmatrix" => matrix_memory::execute(world, lanes, instruction, modifiers),
        _ => reduce(world, lanes, group, instruction, modifiers),
    }
}

/// One source operand of every thread of a group.
fn gather(
    world: &World<'_>,
    lanes: &[Thread],
    group: &[usize],
    operand: &Operand,
    line: u32,
) -> Result<Vec<u128>, OracleError> {
    group.iter().map(|&lane| operand::read(world, &lanes[lane], operand, Type::B32, line)).collect()
}

fn shuffle(
    world: &World<'_>,
    lanes: &mut [Thread],
    group: &[usize],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let [target, a, b, c, ..] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let line = instruction.line;
    let values = gather(world, lanes, group, a, line)?;
    let offsets = gather(world, lanes, group, b, line)?;
    let controls = gather(world, lanes, group, c, line)?;
    let mode = modifiers.first_of(&["up", "down", "bfly", "idx"]).ok_or_else(|| unknown(instruction))?;
    let mut results = Vec::new();
    for (index, &lane) in group.iter().enumerate() {
        let lane_number = lane as i128;
        let offset = low(offsets[index], 5) as i128;
        let clamp = low(controls[index], 5) as i128;
        let segment = low(controls[index] >> 8, 5) as i128;
        let maximum = lane_number & segment | clamp & !segment;
        let minimum = lane_number & segment;
        let (source, valid) = match mode {
            "up" => (lane_number - offset, lane_number - offset >= maximum),
            "down" => (lane_number + offset, lane_number + offset <= maximum),
            "bfly" => (lane_number ^ offset, lane_number ^ offset <= maximum),
            _ => {
                let source = minimum | offset & !segment;
                (source, source <= maximum)
            }
        };
        let source = if valid { source as usize } else { lane };
        // What an absent lane holds is undefined; tests do not ask for it.
        let value = group.iter().position(|&other| other == source).map_or(0, |position| values[position]);
        results.push([value, u128::from(valid)]);
    }
    for (&lane, result) in group.iter().zip(results) {
        lanes[lane].write(world.program, target, &result);
    }
    Ok(())
}

/// `vote`, `match`, `redux`, `activemask` and `elect`.
fn reduce(
    world: &World<'_>,
    lanes: &mut [Thread],
    group: &[usize],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let (target, sources) = instruction.operands.split_first().ok_or_else(|| unknown(instruction))?;
    let members = group.iter().fold(0u128, |members, &lane| members | 1 << lane);
    let values = match sources.first() {
        Some(source) => gather(world, lanes, group, source, instruction.line)?,
        None => Vec::new(),
    };
    for (index, &lane) in group.iter().enumerate() {
        let results = match instruction.opcode.as_str() {
            "activemask" => vec![members],
            "elect" => vec![group[0] as u128, u128::from(index == 0)],
            "vote" => vec![vote(modifiers, group, &values).ok_or_else(|| unknown(instruction))?],
            "match" => matching(modifiers, members, group, &values, values[index]),
            _ => vec![reduction(modifiers, &values).ok_or_else(|| unknown(instruction))?],
        };
        lanes[lane].write(world.program, target, &results);
    }
    Ok(())
}

fn vote(modifiers: &Modifiers, group: &[usize], values: &[u128]) -> Option<u128> {
    let truths: Vec<bool> = values.iter().map(|value| value & 1 == 1).collect();
    let all = truths.iter().all(|&truth| truth);
    let any = truths.iter().any(|&truth| truth);
    Some(match modifiers.first_of(&["all", "any", "uni", "ballot"])? {
        "all" => u128::from(all),
        "any" => u128::from(any),
        "uni" => u128::from(all || !any),
        _ => group.iter().zip(truths).filter(|(_, truth)| *truth).fold(0, |ballot, (&lane, _)| ballot | 1 << lane),
    })
}

fn matching(modifiers: &Modifiers, members: u128, group: &[usize], values: &[u128], own: u128) -> Vec<u128> {
    let bits = modifiers.ty().map_or(32, Type::bits);
    let equal = |value: u128| low(value, bits) == low(own, bits);
    if modifiers.has("any") {
        let same = group.iter().zip(values).filter(|&(_, &value)| equal(value));
        return vec![same.fold(0, |mask, (&lane, _)| mask | 1 << lane)];
    }
    let all = values.iter().all(|&value| equal(value));
    vec![if all { members } else { 0 }, u128::from(all)]
}

fn reduction(modifiers: &Modifiers, values: &[u128]) -> Option<u128> {
    let ty = modifiers.ty()?;
    let operation = modifiers.first_of(&["add", "min", "max", "and", "or", "xor"])?;
    if ty == Type::F32 {
        return reduction_of_floats(modifiers, operation, values);
    }
    let numbers = values.iter().map(|&value| integer(value, ty));
    let result = match operation {
        "add" => numbers.sum(),
        "min" => numbers.min()?,
        "max" => numbers.max()?,
        "and" => numbers.fold(-1, |all, value| all & value),
        "or" => numbers.fold(0, |any, value| any | value),
        _ => numbers.fold(0, |odd, value| odd ^ value),
    };
    Some(low(result as u128, 32))
}

fn reduction_of_floats(modifiers: &Modifiers, operation: &str, values: &[u128]) -> Option<u128> {
    let (format, _) = Format::of(Type::F32)?;
    let sign = 1u128 << 31;
    let mut chosen = None;
    for &value in values {
        let pattern = if modifiers.has("abs") { low(value, 32) & !sign } else { low(value, 32) };
        let number = format.decode(pattern);
        if number.is_nan() {
            if modifiers.has("NaN") {
                return Some(SINGLE.canonical_nan());
            }
            continue;
        }
        let better = match chosen {
            None => true,
            Some(best) => {
                let best = format.decode(best);
                // +0 is above −0.
                let order = match number.compare(&best)? {
                    0 => i32::from(best.is_negative()) - i32::from(number.is_negative()),
                    order => order,
                };
                if operation == "min" { order < 0 } else { order > 0 }
            }
        };
        if better {
            chosen = Some(pattern);
        }
    }
    Some(chosen.unwrap_or_else(|| SINGLE.encode(&crate::exact::Value::Nan, Rounding::NearestEven)))
}

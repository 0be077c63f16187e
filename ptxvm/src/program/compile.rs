//! A whole program from syntax trees.

use super::{
    CompileError, Formal, FunctionCode, InstructionInfo, KernelInfo, Program,
    allocate::{allocate, mark_partial, patch},
    builder::Builder,
    draft::{Control, Label},
    flow::{Flow, lay_out},
    guess,
    link::{Linked, link},
    symbols::{ModuleSymbols, Symbol, VariableLists},
    variables::kernel_params,
};
use crate::{
    card::Card,
    machine::op::Op,
    ops::{self, control},
    ptx::ast::{self, Block, Function, Instruction, Module, SourceLine, Statement},
};
use std::{collections::HashMap, sync::Arc};

/// Blocks nested deeper than this are refused.
const DEEPEST: usize = 200;

pub(super) fn program(texts: &[&str], modules: &[Module]) -> Result<Program, CompileError> {
    let Linked { modules: symbols, mut lists, bodies, files } = link(modules)?;
    // Function-scope variables of module-wide spaces are added behind the modules' own while functions are compiled.
    let functions = bodies
        .iter()
        .map(|body| {
            compile_function(body.function, &symbols[body.module as usize], &mut lists)
                .map_err(|error| error.in_text(body.module as usize, texts.len()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut program = Program {
        texts: texts.iter().map(|text| Arc::from(*text)).collect(),
        version: symbols.iter().map(|symbols| symbols.version).max().unwrap_or(0),
        target: symbols.iter().map(|symbols| symbols.target).max().unwrap_or(0),
        files,
        variables: lists.variables,
        shared: lists.shared,
        functions,
        names: symbols.into_iter().map(|symbols| symbols.names).collect(),
    };
    let const_bytes =
        program.variables.iter().filter(|variable| variable.is_const).map(|variable| variable.bytes).sum::<u64>();
    for number in 0..program.functions.len() {
        if program.functions[number].info.is_none() {
            continue;
        }
        let (_, static_shared) = program.shared_layout(number as u32);
        let local_bytes = program.deepest(number as u32, &|function| function.local_variables);
        // Every call takes 16 bytes beside the frame, as `Warp::next_frame` has it.
        let stack_bytes = program.deepest(number as u32, &|function| function.local_bytes.saturating_add(16));
        if let Some(info) = &mut program.functions[number].info {
            info.local_bytes = local_bytes;
            info.stack_bytes = stack_bytes;
            info.static_shared = static_shared;
            info.const_bytes = const_bytes as u32;
        }
    }
    Ok(program)
}

impl CompileError {
    /// Names the text that `line` counts in, where several are linked.
    fn in_text(mut self, number: usize, texts: usize) -> Self {
        if texts > 1 {
            self.reason.push_str(&format!(" (in text {} of the {texts} linked)", number + 1));
        }
        self
    }
}

/// Threads that a kernel's launch bounds allow.
fn bounds(function: &Function) -> Option<u32> {
    let sizes = function.required_threads.or(function.max_threads);
    sizes.map(|[x, y, z]| x.saturating_mul(y).saturating_mul(z))
}

fn compile_function(
    function: &Function,
    symbols: &ModuleSymbols,
    extra: &mut VariableLists,
) -> Result<FunctionCode, CompileError> {
    let mut builder = Builder::new(symbols, &function.name);
    let mut info = None;
    let (mut params, mut returns) = (Vec::new(), Vec::new());
    if function.is_kernel {
        let (list, bytes) = kernel_params(&function.params, &function.name)?;
        for (param, place) in function.params.iter().zip(&list) {
            builder.insert(param.name.clone(), Symbol::KernelParam { offset: place.offset });
        }
        info = Some(KernelInfo {
            name: function.name.clone(),
            params: list,
            param_bytes: bytes,
            static_shared: 0,
            local_bytes: 0,
            stack_bytes: 0,
            const_bytes: 0,
            registers: 0,
            max_threads: bounds(function).unwrap_or(1024).min(1024),
            required_threads: function.required_threads,
            ptx_version: symbols.version,
            target: symbols.target,
        });
    } else {
        for (list, formals) in [(&function.returns, &mut returns), (&function.params, &mut params)] {
            for variable in list {
                builder.declare(variable, extra)?;
                formals.push(builder.formal(&variable.name, function)?);
            }
        }
    }
    let fixed = [&params, &returns].into_iter().flatten().filter_map(|formal| match formal {
        Formal::Register { slot, .. } => Some(*slot),
        Formal::Frame { .. } => None,
    });
    let fixed: Vec<_> = fixed.collect();

    if let Some(body) = &function.body {
        builder.guesses = guess::guesses(body);
        builder.block(body, extra, 0)?;
    }
    // Control that runs off the end leaves the function.
    let end = if function.is_kernel { control::exit() } else { control::ret() };
    builder.push(Op::new(end), vec![], Control::End, true);

    let flow = Flow::of(&builder.drafts, &builder.tables);
    let allocation = allocate(&builder.drafts, &flow, &builder.values, &fixed);
    let (mut list, tables) = lay_out(&mut builder, &flow);
    let mut wide = Vec::new();
    let mut operations = Vec::with_capacity(list.len());
    for draft in &mut list {
        patch(draft, &allocation.offsets);
        draft.op.count = draft.wide.len() as u32;
        if !draft.wide.is_empty() {
            draft.op.wide = wide.len() as u32;
            wide.extend_from_slice(&draft.wide);
        }
        operations.push(draft.op);
    }
    let mut calls = std::mem::take(&mut builder.calls);
    for formal in calls.iter_mut().flat_map(|call| call.arguments.iter_mut().chain(&mut call.returns)) {
        formal.patch(&allocation.offsets);
    }
    for formal in params.iter_mut().chain(&mut returns) {
        formal.patch(&allocation.offsets);
    }
    if let Some(info) = &mut info {
        // Launch bounds hold a compiler to the registers that its largest block can have.
        let most = bounds(function).map_or(255, |threads| (Card::REGISTERS / threads.clamp(32, 1024) / 8 * 8).min(255));
        info.registers = (allocation.registers + 8).clamp(16, most);
    }
    let shared_used = allocation
        .constants
        .iter()
        .filter_map(|(_, _, constant)| match constant {
            super::Constant::Shared { index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    let mut callees: Vec<u32> = calls.iter().filter_map(|call| call.target).collect();
    callees.extend(allocation.constants.iter().filter_map(|(_, _, constant)| match constant {
        super::Constant::Function { index } => Some(*index),
        _ => None,
    }));
    Ok(FunctionCode {
        name: function.name.clone(),
        is_kernel: function.is_kernel,
        is_visible: function.linkage != ast::Linkage::Private,
        ops: operations,
        wide,
        register_bytes: allocation.bytes,
        constants: allocation.constants,
        local_bytes: builder.frame_bytes.next_multiple_of(16),
        local_variables: builder.local_variables,
        calls_indirectly: calls.iter().any(|call| call.target.is_none()),
        instructions: builder.instructions,
        tables,
        calls,
        params,
        returns,
        shared_used,
        callees,
        info,
    })
}

impl Formal {
    fn patch(&mut self, offsets: &[u32]) {
        if let Self::Register { slot, .. } = self {
            *slot = offsets[*slot as usize];
        }
    }
}

impl Builder<'_> {
    fn formal(&self, name: &str, function: &Function) -> Result<Formal, CompileError> {
        match self.lookup(name) {
            Some(Symbol::Frame { offset, bytes }) => Ok(Formal::Frame { offset: *offset, bytes: *bytes }),
            Some(Symbol::Register { slot, ty }) => Ok(Formal::Register { slot: *slot, ty: *ty }),
            _ => Err(CompileError {
                line: function.line,
                function: function.name.clone(),
                opcode: format!("parameter {name}"),
                reason: "a parameter must be a scalar register or a .param variable".to_owned(),
            }),
        }
    }

    fn block(&mut self, block: &Block, extra: &mut VariableLists, depth: usize) -> Result<(), CompileError> {
        if depth > DEEPEST {
            return Err(CompileError {
                line: 0,
                function: self.function.to_owned(),
                opcode: "{".to_owned(),
                reason: format!("blocks are nested deeper than {DEEPEST}"),
            });
        }
        self.scopes.push(HashMap::new());
        let (local_bytes, local_variables) = (self.local_bytes, self.local_variables);
        for statement in &block.statements {
            match statement {
                Statement::Label { name, .. } => {
                    let label = self.new_label();
                    self.insert(name.clone(), Symbol::Label(label));
                }
                Statement::BranchTargets { name, labels, .. } => {
                    self.insert(name.clone(), Symbol::Targets(labels.clone()));
                }
                Statement::CallTargets { name, .. } | Statement::CallPrototype { name, .. } => {
                    self.insert(name.clone(), Symbol::Prototype);
                }
                _ => {}
            }
        }
        for statement in &block.statements {
            match statement {
                Statement::Variable(variable) => self.declare(variable, extra)?,
                Statement::Label { name, .. } => {
                    if let Some(Symbol::Label(label)) = self.lookup(name) {
                        let label = *label;
                        self.push(Op::new(control::join()), vec![], Control::Label(label), false);
                    }
                }
                Statement::Instruction(instruction) => self.instruction(instruction)?,
                Statement::Block(inner) => self.block(inner, extra, depth + 1)?,
                Statement::BranchTargets { .. }
                | Statement::CallTargets { .. }
                | Statement::CallPrototype { .. }
                | Statement::Location(_)
                | Statement::Pragma(_) => {}
            }
        }
        self.scopes.pop();
        // The parameters of one call may lie where those of the last one did; a variable's address may have been kept.
        if self.local_variables == local_variables {
            self.local_bytes = local_bytes;
        }
        Ok(())
    }

    fn instruction(&mut self, i: &Instruction) -> Result<(), CompileError> {
        let source =
            i.source.map(|source| SourceLine { file: self.module.file_base.saturating_add(source.file), ..source });
        self.instructions.push(InstructionInfo {
            opcode: i.full_opcode(),
            text: self.module.number,
            line: i.line,
            source,
        });
        let first = self.drafts.len();
        if i.opcode == "bra" {
            // Takes its guard itself.
            return control::branch(i, self);
        }
        ops::decode(i, self)?;
        let Some(guard) = &i.guard else { return Ok(()) };
        let body = self.drafts.split_off(first);
        let (slot, _) = self.read_predicate(i, &ast::Operand::Name(guard.register.clone()))?;
        let plain = body.iter().all(|draft| draft.control == Control::None && !draft.suspends);
        let mut op = Op::new(if plain { control::guard() } else { control::branch_if() });
        op.a = slot;
        // A guard runs what follows where the predicate holds, a branch skips it where it does not.
        op.y = u32::from(guard.negated == plain);
        if plain {
            op.imm = body.len() as u64;
            self.push(op, vec![], Control::None, false);
            self.drafts.extend(body);
            mark_partial(&mut self.drafts, first + 1);
            self.push(Op::new(control::unguard()), vec![], Control::None, false);
        } else {
            let skip = self.new_label();
            self.push(op, vec![], Control::Branch(skip), true);
            self.drafts.extend(body);
            self.push(Op::new(control::join()), vec![], Control::Label(skip), false);
        }
        Ok(())
    }

    /// The label a branch names.
    pub(crate) fn label(&self, i: &Instruction, name: &str) -> Result<Label, CompileError> {
        match self.symbol(i, name)? {
            Symbol::Label(label) => Ok(label),
            _ => Err(self.error(i, format!("`{name}` is not a label"))),
        }
    }

    /// The labels of a `.branchtargets` list.
    pub(crate) fn branch_targets(&self, i: &Instruction, name: &str) -> Result<Vec<Label>, CompileError> {
        match self.symbol(i, name)? {
            Symbol::Targets(names) => names.iter().map(|name| self.label(i, name)).collect(),
            _ => Err(self.error(i, format!("`{name}` is not a .branchtargets list"))),
        }
    }

    /// Appends an operation that changes control.
    pub(crate) fn emit_control(&mut self, op: Op, control: Control) {
        self.push(op, vec![], control, true);
    }

    /// Adds a branch table.
    pub(crate) fn add_table(&mut self, labels: Vec<Label>) -> usize {
        self.tables.push(labels);
        self.tables.len() - 1
    }
}

impl Program {
    /// Functions that a function may call, with indirect calls every one.
    fn callees(&self, number: u32) -> impl Iterator<Item = u32> {
        let function = &self.functions[number as usize];
        let all = if function.calls_indirectly { 0..self.functions.len() as u32 } else { 0..0 };
        function.callees.iter().copied().chain(all.filter(|&callee| !self.functions[callee as usize].is_kernel))
    }

    /// The largest sum of what functions take along a chain of calls from `start`; a function that calls itself, over
    /// others or not, counts once.
    fn deepest(&self, start: u32, takes: &dyn Fn(&FunctionCode) -> u32) -> u32 {
        // A walk with a stack of its own: chains may be longer than the host's. `None`: on the chain, not yet known.
        let mut known: HashMap<u32, Option<u32>> = HashMap::new();
        let mut chain = vec![start];
        while let Some(&number) = chain.last() {
            let unknown = |callee: &u32| !known.contains_key(callee);
            if unknown(&number) {
                known.insert(number, None);
                chain.extend(self.callees(number).filter(|callee| !known.contains_key(callee)).collect::<Vec<_>>());
                continue;
            }
            chain.pop();
            if known[&number].is_none() {
                let most = self.callees(number).filter_map(|callee| known.get(&callee).copied().flatten()).max();
                let own = takes(&self.functions[number as usize]);
                known.insert(number, Some(own.saturating_add(most.unwrap_or(0))));
            }
        }
        known.get(&start).copied().flatten().unwrap_or(0)
    }

    /// Functions a kernel may run: itself, what it calls, and with indirect calls every function.
    fn reachable(&self, kernel: u32) -> Vec<u32> {
        let mut list = vec![kernel];
        let mut at = 0;
        while at < list.len() {
            for callee in self.callees(list[at]) {
                if !list.contains(&callee) {
                    list.push(callee);
                }
            }
            at += 1;
        }
        list
    }

    /// Offsets of the shared variables that a kernel may touch, and bytes of the static ones. Dynamic ones start behind.
    pub(crate) fn shared_layout(&self, kernel: u32) -> (HashMap<u32, u32>, u32) {
        let mut used: Vec<u32> = self
            .reachable(kernel)
            .iter()
            .flat_map(|function| self.functions[*function as usize].shared_used.iter().copied())
            .collect();
        used.sort_unstable();
        used.dedup();
        let mut offsets = HashMap::new();
        let mut end = 0u32;
        for &index in used.iter().filter(|index| !self.shared[**index as usize].is_dynamic) {
            let variable = &self.shared[index as usize];
            let offset = end.next_multiple_of(variable.align.max(1));
            offsets.insert(index, offset);
            end = offset.saturating_add(variable.bytes);
        }
        for &index in used.iter().filter(|index| self.shared[**index as usize].is_dynamic) {
            let align = self.shared[index as usize].align.max(16);
            offsets.insert(index, end.next_multiple_of(align));
        }
        (offsets, end)
    }

    /// The kernel of a name; one that all modules see before one that its module keeps to itself.
    pub(crate) fn kernel_number(&self, name: &str) -> Option<u32> {
        let of_name = |function: &&FunctionCode| function.is_kernel && function.name == name;
        let found = self.functions.iter().filter(of_name).max_by_key(|function| function.is_visible)?;
        self.functions.iter().position(|function| std::ptr::eq(function, found)).map(|at| at as u32)
    }

    /// What a module calls by a name.
    pub(crate) fn symbol(&self, module: u32, name: &str) -> Option<&Symbol> {
        self.names.get(module as usize)?.get(name)
    }

    /// A line of one of the texts, as reports quote it.
    pub(crate) fn quoted(&self, text: u32, line: u32) -> Option<&str> {
        self.texts.get(text as usize)?.lines().nth((line as usize).checked_sub(1)?)
    }
}

//! What is parsed, printed and parsed again is the same tree, lines aside.

use super::super::ast::{Block, Module, Statement, Variable};
use super::super::parse;

/// The texts that NVRTC made, with their names.
pub(super) fn real_texts() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ptx");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut texts: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "ptx"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    texts.sort();
    assert!(texts.len() >= 12, "the texts of tests/ptx are missing");
    texts
}

/// The tree with every line set to 0: the printer lays text out anew.
pub(super) fn without_lines(mut module: Module) -> Module {
    module.variables.iter_mut().for_each(|variable| variable.line = 0);
    for function in &mut module.functions {
        function.line = 0;
        function.params.iter_mut().chain(&mut function.returns).for_each(|variable| variable.line = 0);
        if let Some(body) = &mut function.body {
            forget_lines(body);
        }
    }
    module
}

fn forget_lines(block: &mut Block) {
    let forget = |variable: &mut Variable| variable.line = 0;
    for statement in &mut block.statements {
        match statement {
            Statement::Variable(variable) => forget(variable),
            Statement::Label { line, .. }
            | Statement::BranchTargets { line, .. }
            | Statement::CallTargets { line, .. } => *line = 0,
            Statement::Instruction(instruction) => instruction.line = 0,
            Statement::Block(block) => forget_lines(block),
            Statement::CallPrototype { line, params, returns, .. } => {
                *line = 0;
                params.iter_mut().chain(returns).for_each(forget);
            }
            Statement::Location(_) | Statement::Pragma(_) => {}
        }
    }
}

/// Parses, prints and parses again; the first tree.
pub(super) fn round_trip(text: &str) -> Module {
    let first = parse(text).unwrap_or_else(|error| panic!("{error}"));
    let printed = first.to_string();
    let second = parse(&printed).unwrap_or_else(|error| panic!("{error} in\n{printed}"));
    assert_eq!(printed, second.to_string());
    assert_eq!(without_lines(first.clone()), without_lines(second));
    first
}

#[test]
fn real_texts_of_every_architecture_survive() {
    let mut dialects = std::collections::BTreeSet::new();
    for (name, text) in real_texts() {
        let module = round_trip(&text);
        assert_eq!(module.functions.iter().filter(|function| function.is_kernel).count(), 4, "{name}");
        dialects.insert(text.contains(".reg .f32"));
    }
    assert_eq!(dialects.len(), 2, "texts with typed and with untyped registers");
}

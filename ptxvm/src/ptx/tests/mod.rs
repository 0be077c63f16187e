//! Tests of the parser and the printer.

mod constants;
mod errors;
mod fuzz;
mod instructions;
mod modules;
mod round_trip;
mod variables;

use super::ast::{Block, Function, Instruction, Module, Statement};
use super::{ParseError, parse};

/// A text with its header.
fn with_header(rest: &str) -> String {
    format!(".version 8.7 .target sm_90 .address_size 64\n{rest}")
}

/// A module without its header, which must parse and survive the printer; its items start at line 2.
fn module(items: &str) -> Module {
    round_trip::round_trip(&with_header(items))
}

/// The body of a kernel; its statements start at line 2.
fn body(statements: &str) -> Block {
    let mut module = module(&format!(".entry k() {{ {statements}\n}}"));
    let Function { body, .. } = module.functions.remove(0);
    body.expect("the kernel has a body")
}

/// The one instruction of a text.
fn instruction(text: &str) -> Instruction {
    match body(text).statements.remove(0) {
        Statement::Instruction(instruction) => instruction,
        other => panic!("{other:?} is no instruction"),
    }
}

/// What the parser says of a whole text.
fn refusal_of_text(text: &str) -> ParseError {
    match parse(text) {
        Err(error) => error,
        Ok(module) => panic!("this was accepted:\n{text}\nas\n{module}"),
    }
}

/// What the parser says of items at module scope, which start at line 2.
fn refusal(items: &str) -> ParseError {
    refusal_of_text(&with_header(items))
}

/// What the parser says of statements in a kernel, which start at line 2.
fn refusal_in_body(statements: &str) -> ParseError {
    refusal(&format!(".entry k() {{ {statements}\n}}"))
}

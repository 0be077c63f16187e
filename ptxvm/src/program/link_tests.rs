//! Linkage, as programs that run see it.

use super::{Program, ProgramError};
use crate::ops::memory::tests::Buffer;
use crate::{
    machine::{Launch, LoadedModule, run},
    ptx::ast::SourceLine,
};
use std::sync::Arc;

fn part(text: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n{text}")
}

fn linked(parts: &[&str]) -> Result<Program, ProgramError> {
    let parts: Vec<String> = parts.iter().map(|text| part(text)).collect();
    Program::link(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A function that returns a number.
fn gives(linkage: &str, name: &str, number: u32) -> String {
    format!("{linkage} .func (.param .b32 r) {name}() {{ st.param.b32 [r], {number}; ret; }}\n")
}

/// A kernel that stores what function `callee` returns and what variable `global` holds.
fn stores(kernel: &str, callee: &str, global: &str) -> String {
    format!(
        ".visible .entry {kernel}(.param .u64 p) {{ .reg .b64 %a; .reg .b32 %r; ld.param.u64 %a, [p];\n\
         {{ .param .b32 r; call.uni (r), {callee}; ld.param.b32 %r, [r]; }}\n st.global.u32 [%a], %r;\n\
         ld.global.u32 %r, [{global}]; st.global.u32 [%a+4], %r; ret; }}\n"
    )
}

/// What kernel `name` stores.
fn stored(program: Program, name: &str) -> Vec<u32> {
    let buffer = Buffer::zeros(8);
    let module = LoadedModule::load(Arc::new(program), 0).expect("loads");
    let kernel = module.kernel(name).expect("the kernel");
    let params = buffer.base.to_le_bytes().to_vec();
    run(&Launch::new(module, kernel, [1; 3], [1; 3], params)).expect("runs");
    buffer.read_words()
}

#[test]
fn symbols_without_a_directive_belong_to_their_module() {
    let module = |kernel: &str, number: u32| {
        format!("{}.global .u32 g = {};\n{}", gives("", "f", number), number + 1, stores(kernel, "f", "g"))
    };
    let parts = [module("first", 10), module("second", 20)];
    let link = || linked(&[&parts[0], &parts[1]]).expect("links");
    assert_eq!(stored(link(), "first"), [10, 11]);
    assert_eq!(stored(link(), "second"), [20, 21]);
}

#[test]
fn an_initialiser_names_its_own_modules_symbol() {
    let module = |kernel: &str, number: u32| {
        format!(
            ".global .u32 g = {number};\n.global .u64 to = g;\n.visible .entry {kernel}(.param .u64 p) {{ \
             .reg .b64 %a<2>; .reg .b32 %r; ld.param.u64 %a0, [p]; ld.global.u64 %a1, [to]; ld.global.u32 %r, [%a1]; \
             st.global.u32 [%a0], %r; ret; }}"
        )
    };
    let parts = [module("first", 10), module("second", 20)];
    let link = || linked(&[&parts[0], &parts[1]]).expect("links");
    assert_eq!(stored(link(), "first")[0], 10);
    assert_eq!(stored(link(), "second")[0], 20);
}

#[test]
fn a_weak_symbol_gives_way_to_a_visible_one_and_to_the_first_weak_one() {
    let uses = |kernel: &str, linkage: &str, number: u32| {
        let variable = format!("{linkage} .global .u32 g = {};\n", number + 1);
        format!("{}{variable}{}", gives(linkage, "f", number), stores(kernel, "f", "g"))
    };
    let [weak, weaker, visible] = [uses("a", ".weak", 1), uses("b", ".weak", 3), uses("c", ".visible", 5)];
    for kernel in ["a", "b"] {
        assert_eq!(stored(linked(&[&weak, &weaker]).expect("links"), kernel), [1, 2], "{kernel}");
    }
    for order in [[&weak, &visible], [&visible, &weak]] {
        for kernel in ["a", "c"] {
            assert_eq!(stored(linked(&[order[0], order[1]]).expect("links"), kernel), [5, 6], "{kernel}");
        }
    }
}

#[test]
fn the_largest_of_several_common_variables_stays() {
    let small = format!(".common .global .u32 g;\n{}{}", gives("", "f", 1), stores("a", "f", "g"));
    let large = ".common .global .u32 g[100];";
    for order in [[small.as_str(), large], [large, small.as_str()]] {
        let program = linked(&order).expect("links");
        let sizes: Vec<u64> = program.variables.iter().map(|variable| variable.bytes).collect();
        assert_eq!(sizes, [400]);
        assert_eq!(stored(program, "a"), [1, 0]);
    }
}

#[test]
fn what_another_module_keeps_to_itself_is_not_found() {
    let uses = format!(".extern .func (.param .b32 r) f();\n.global .u32 g;\n{}", stores("a", "f", "g"));
    let error = linked(&[&gives("", "f", 1), &uses]).expect_err("f is private");
    let text = error.to_string();
    assert!(text.contains("`f`") && text.contains("in text 2 of the 2 linked"), "{text}");
    linked(&[&gives(".visible", "f", 1), &uses]).expect("f is visible");
}

#[test]
fn visible_definitions_must_be_one() {
    let function = gives(".visible", "f", 1);
    assert!(linked(&[&function, &function]).expect_err("two").to_string().contains("defined twice"));
    let variable = ".visible .global .u32 g = 1;";
    assert!(linked(&[variable, variable]).expect_err("two").to_string().contains("defined in two modules"));
    linked(&[variable, ".extern .global .u32 g;"]).expect("one definition");
}

#[test]
fn shared_memory_that_another_module_declares_is_the_same() {
    let first = ".visible .shared .align 4 .b8 s[64];\n.visible .func put() { st.shared.u32 [s], 7; ret; }";
    let second = ".extern .shared .align 4 .b8 s[64];\n.extern .func put();\n\
                  .visible .entry a(.param .u64 p) { .reg .b64 %a; .reg .b32 %r; ld.param.u64 %a, [p]; call.uni put; \
                  ld.shared.u32 %r, [s]; st.global.u32 [%a], %r; ret; }";
    for order in [[first, second], [second, first]] {
        assert_eq!(stored(linked(&order).expect("links"), "a")[0], 7);
    }
}

#[test]
fn lines_and_files_are_those_of_their_own_text() {
    let module = |kernel: &str, file: &str| {
        format!(
            ".visible .entry {kernel}(.param .u64 p)\n{{\n.reg .b64 %a;\n.loc 1 7 0\nld.param.u64 %a, [p]; // of {kernel}\n\
             ret;\n}}\n.file 1 \"{file}\""
        )
    };
    let program = linked(&[&module("first", "one.cu"), &module("second", "two.cu")]).expect("links");
    for (function, (kernel, file)) in program.functions.iter().zip([("first", "one.cu"), ("second", "two.cu")]) {
        let load = &function.instructions[0];
        let quoted = program.quoted(load.text, load.line).expect("a line of its text");
        assert!(quoted.contains(&format!("of {kernel}")), "{quoted}");
        let Some(SourceLine { file: number, line: 7, .. }) = load.source else { panic!("{:?}", load.source) };
        assert_eq!(program.files[&number], file);
    }
}

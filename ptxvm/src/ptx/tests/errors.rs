//! Refusals: what they say and where, and the bounds on depth.

use super::super::{ParseError, parse};
use super::{body, module, refusal, refusal_in_body, refusal_of_text, with_header};

#[test]
fn an_error_can_cross_threads_and_be_kept() {
    fn check<T: Send + Sync + Clone + std::error::Error + 'static>() {}
    check::<ParseError>();
}

#[test]
fn an_error_names_line_column_what_was_found_and_what_was_expected() {
    let error = refusal(".entry k()\n{\n    add.s32 %r1, ;\n}");
    assert_eq!((error.line, error.column), (4, 18));
    assert_eq!(error.message, "expected an operand, found `;`");
    assert_eq!(error.to_string(), "PTX line 4, column 18: expected an operand, found `;`");
}

#[test]
fn columns_count_characters_and_lines_count_those_within_comments() {
    let error = refusal("/* ä\n ö */ .entry k() { /* über */ ? }");
    assert_eq!((error.line, error.column), (3, 31));
}

#[test]
fn a_long_token_is_shown_in_part() {
    let error = refusal(&format!(".entry k() {{ ret {} x; }}", "a".repeat(100_000)));
    assert!(error.message.len() < 200, "{} bytes", error.message.len());
    let error = refusal(&format!(".global .u64 a = {};", "9".repeat(100_000)));
    assert!(error.message.len() < 200, "{} bytes", error.message.len());
}

#[test]
fn broken_statements_are_refused_with_what_is_missing() {
    for (statements, part) in [
        ("ret", "expected an operand, found `}`"),
        ("add.s32 a b;", "`,` or `;` after an operand, found `b`"),
        ("add.s32 a, b,;", "expected an operand"),
        ("@ ;", "expected a predicate register"),
        ("@%p1 .reg;", "expected an opcode"),
        ("@!1 ret;", "expected a predicate register"),
        ("ld.u32 a, [b;", "`]` in an address"),
        ("ld.u32 a, [b+%r1];", "expected a constant, found `%r1`"),
        ("ld.u32 a, [];", "expected a constant"),
        ("ld.u32 a, [b+1.5];", "an offset is an integer, found a floating-point"),
        ("ld.u32 a, b[4];", "write `b+offset`"),
        ("mov.b64 {a b}, c;", "`,` or `}`"),
        ("mov.b64 {a, , c;", "expected an operand"),
        ("mov.b32 a, -%r1;", "expected a constant, found `%r1`"),
        ("mov.b32 a, b.q;", "expected a component"),
        ("setp.eq.u32 a|, b, c;", "expected an operand"),
        ("call;", "expected a function or a register"),
        ("call (r) f;", "expected `,`, found `f`"),
        ("call f, (a;", "`,` or `)`"),
        ("call f, (a), 3;", "the label of a prototype"),
        ("call f (a);", "expected `;`, found `(`"),
        (".branchtargets a;", "needs a label before it"),
        ("b: .branchtargets ;", "expected a label"),
        (".loc 1 2;", "expected a column"),
        (".loc 1 2 3, inlined_at 1 2 3", "expected `function_name`"),
        (".pragma nounroll;", "a pragma in quotes"),
        (".pragma \"nounroll;", "never closed"),
        (".reg .b32;", "expected a name"),
        (".reg %r1;", "expected a type"),
        (".reg .b32 %r<x>;", "a number of names"),
        (".reg .b32 %r<3;", "expected `>`"),
        (".local .align 3 .b8 x[4];", "power of two"),
        (".local .align 0 .b8 x[4];", "power of two"),
        (".local .b8 .b16 x;", "expected a name"),
        (".param .u64 .ptr x;", "expected a name"),
        (";", "expected an instruction, a label, a directive or `}`"),
        ("ret;;", "expected an instruction, a label, a directive or `}`"),
        ("ld.u32 a, [b-4];", "write `+-4`"),
        ("mov.u64 a, b-4;", "write `+-4`"),
        (".extern .shared .b32 x[];", "unknown directive `.extern`"),
        (".shared .b32 x[];", "has no size"),
        (".shared .pred p;", "a predicate is a register"),
        (".reg .bf16 x;", "a type of instructions"),
        ("#", "'#' has no meaning"),
        ("\u{e4}", "'ä' has no meaning"),
        ("mov.b32 a, \"x\";", "expected an operand, found `\"x\"`"),
    ] {
        let error = refusal_in_body(statements);
        assert!(error.message.contains(part), "{statements}: {error}");
        assert_eq!(error.line, if statements == "ret" { 3 } else { 2 }, "{statements}: {error}");
    }
}

#[test]
fn what_is_never_closed_is_reported_where_it_was_opened() {
    for (items, part) in [
        ("\n.entry k() {\n{ }\nret;\n", "this scope is never closed"),
        ("\n.section .debug_str {\n.b8 1\n", "this section is never closed"),
        ("\n/* comment\n", "this comment is never closed"),
    ] {
        let error = refusal(items);
        assert!(error.message.contains(part), "{items}: {error}");
        assert!(error.line <= 3, "{items}: {error}");
    }
}

#[test]
fn scopes_may_nest_128_deep_and_no_deeper() {
    let nested = |depth: usize| format!("{}{}", "{".repeat(depth), "}".repeat(depth));
    body(&nested(127));
    assert!(refusal_in_body(&nested(128)).message.contains("128 scopes"));
    assert!(refusal_in_body(&"{".repeat(1_000_000)).message.contains("128 scopes"));
}

#[test]
fn constants_and_operands_have_a_depth_that_no_stack_minds() {
    let nested = |depth: usize| format!("mov.b32 a, {}1{};", "(".repeat(depth), ")".repeat(depth));
    body(&nested(20));
    for text in [
        nested(100_000),
        format!("mov.b32 a, {}1;", "- ".repeat(100_000)),
        format!("mov.b32 a, {}1;", "!".repeat(100_000)),
        format!("mov.b32 a, {}1;", "(.u64)".repeat(100_000)),
        format!("mov.b32 a, {}1;", "1?".repeat(100_000)),
        format!("mov.b32 a, {}1;", "1?1:".repeat(100_000)),
        format!("mov.b32 a, {};", "{".repeat(100_000)),
        format!("mov.b32 a, {};", "[a,".repeat(100_000)),
    ] {
        let error = refusal_in_body(&text);
        let bounded = error.message.contains("more than 64 levels") || error.message.contains("more than 8 brackets");
        assert!(bounded, "{error}");
    }
}

#[test]
fn deep_nesting_fits_a_small_stack() {
    let constant = format!("mov.b32 a, {}1;", "1||1&&1|1^1&1==1<1<<1+1*(".repeat(40));
    let text = with_header(&format!(".entry k() {{ {} {constant}", "{".repeat(127)));
    let parser = std::thread::Builder::new().stack_size(512 << 10);
    assert!(parser.spawn(move || parse(&text).is_err()).unwrap().join().unwrap());
}

#[test]
fn a_long_chain_of_operators_needs_no_depth() {
    body(&format!("mov.b32 a, 1{};", "+1".repeat(100_000)));
    body(&format!("ld.b32 a, [b{}];", "+1".repeat(100_000)));
}

#[test]
fn a_truncated_module_is_refused_at_its_end() {
    let text = with_header(".entry k(.param .u64 a)\n{\n ret;\n}");
    for length in ["ret".len(), "ret;".len()].map(|part| text.find("ret").unwrap() + part) {
        assert!(refusal_of_text(&text[..length]).line >= 3);
    }
    module(".entry k(.param .u64 a)\n{\n ret;\n}");
}

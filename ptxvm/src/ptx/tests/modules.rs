//! Headers, functions and what else stands at module scope.

use super::super::ast::{Linkage, PointerAttribute, Space, Type};
use super::super::parse;
use super::{module, refusal, refusal_of_text};

#[test]
fn the_header_is_kept() {
    let parsed = parse("// NVRTC\n.version 9.10\n.target sm_90a, debug, texmode_unified\n.address_size 64\n").unwrap();
    assert_eq!(parsed.version, (9, 10));
    assert_eq!(parsed.targets, ["sm_90a", "debug", "texmode_unified"]);
    assert_eq!(parsed.address_size, 64);
    assert_eq!(parse(".version 6.0 .target sm_70").unwrap().address_size, 64);
}

#[test]
fn headers_that_are_missing_or_wrong_are_refused() {
    for (text, part) in [
        ("", "expected `.version`, found the end of the text"),
        (".target sm_80", "expected `.version`"),
        (".version 8", "a version such as"),
        (".version 8.0e1 .target sm_80", "a version such as"),
        (".version 8.7", "expected `.target`"),
        (".version 8.7 .target", "an architecture"),
        (".version 8.7 .target sm_80 .address_size 32", "`.address_size 32` is not supported"),
        (".version 8.7 .target sm_80 .address_size 16", "found 16"),
        (".version 8.7 .target sm_80 .version 8.7", "belongs to the start"),
    ] {
        let error = refusal_of_text(text);
        assert!(error.message.contains(part), "{text}: {error}");
    }
}

#[test]
fn kernels_with_every_directive() {
    let parsed = module(
        ".visible .entry k(.param .u64 a, .param .align 8 .b8 s[48])\n.maxntid 128, 2\n.reqntid 64\n.minnctapersm 2\n\
         .maxnreg 168 .maxnctapersm 3 .explicitcluster .reqnctapercluster 2, 1 .maxclusterrank 8 .blocksareclusters\n\
         .pragma \"nounroll\";\n{ ret; }",
    );
    let kernel = &parsed.functions[0];
    assert!(kernel.is_kernel && !kernel.no_return && kernel.returns.is_empty() && kernel.line == 2);
    assert_eq!((kernel.name.as_str(), kernel.linkage), ("k", Linkage::Visible));
    assert_eq!((kernel.max_threads, kernel.required_threads), (Some([128, 2, 1]), Some([64, 1, 1])));
    assert_eq!((kernel.min_blocks, kernel.max_registers), (Some(2), Some(168)));
    let others = [
        ".maxnctapersm 3",
        ".explicitcluster",
        ".reqnctapercluster 2, 1, 1",
        ".maxclusterrank 8",
        ".blocksareclusters",
        ".pragma \"nounroll\";",
    ];
    assert_eq!(kernel.other_directives, others);
    let [a, s] = &kernel.params[..] else { panic!() };
    assert_eq!((a.name.as_str(), a.space, a.ty, a.bytes()), ("a", Space::Param, Type::U64, Some(8)));
    assert_eq!((s.name.as_str(), s.align, s.ty, s.bytes()), ("s", 8, Type::B8, Some(48)));
}

#[test]
fn pointer_parameters_keep_what_they_promise() {
    let parsed = module(
        ".entry k(.param .u64 .ptr .global .align 16 a, .param .b64 .ptr .align 1 b, .param .u64 .ptr .shared c, .param .u64 .ptr d)\n{}",
    );
    let found: Vec<_> = parsed.functions[0].params.iter().map(|param| param.pointer.unwrap()).collect();
    let expected = [(Some(Space::Global), 16), (None, 1), (Some(Space::Shared), 4), (None, 4)];
    assert_eq!(found, expected.map(|(space, align)| PointerAttribute { space, align }));
    assert_eq!(parsed.functions[0].params[0].align, 8, "the pointer's alignment is not the parameter's");
}

#[test]
fn functions_return_in_parameters_or_registers() {
    let parsed = module(
        ".func (.reg .u32 r, .param .align 16 .b8 q[16]) f(.reg .u32 a, .param .b8 rest[])\n{ ret; }\n.func g { ret; }\n.entry h { ret; }",
    );
    let function = &parsed.functions[0];
    let spaces = |variables: &[super::super::ast::Variable]| variables.iter().map(|v| v.space).collect::<Vec<_>>();
    assert_eq!(spaces(&function.returns), [Space::Register, Space::Param]);
    assert_eq!(spaces(&function.params), [Space::Register, Space::Param]);
    assert_eq!(function.params[1].dimensions, [None]);
    assert_eq!(parsed.functions.iter().map(|function| function.line).collect::<Vec<_>>(), [2, 4, 5]);
    assert!(parsed.functions[1].params.is_empty() && parsed.functions[2].is_kernel);
}

#[test]
fn declarations_have_no_body() {
    let parsed = module(
        ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b)\n;\n.func stop() .noreturn;\n\
         .weak .func .attribute(.unified(0xAB, 0xCD)) bar () .noreturn .abi_preserve 8;\n.func early .noreturn {}",
    );
    let found: Vec<_> = parsed
        .functions
        .iter()
        .map(|function| (function.name.as_str(), function.linkage, function.no_return, function.body.is_some()))
        .collect();
    let expected = [
        ("vprintf", Linkage::Extern, false, false),
        ("stop", Linkage::Private, true, false),
        ("bar", Linkage::Weak, true, false),
        ("early", Linkage::Private, true, true),
    ];
    assert_eq!(found, expected);
    assert_eq!(parsed.functions[2].other_directives, [".abi_preserve 8"]);
}

#[test]
fn files_aliases_pragmas_and_debug_sections() {
    let parsed = module(
        ".file 1 \"a b.cu\"\n.file 2 \"C:\\x y.cu\", 1700000000, 4711\n.pragma \"whatever\";\n.func f() {}\n.alias g, f;\n\
         .section .debug_str\n{\n$L__info_string0:\n.b8 95,90\n.b64 $L__a-$L__b\n.b32 .debug_abbrev+4\n}\n.section .debug_macinfo { }",
    );
    assert_eq!(parsed.files, [(1, "a b.cu".to_owned()), (2, "C:\\x y.cu".to_owned())]);
    assert_eq!(parsed.aliases, [("g".to_owned(), "f".to_owned())]);
    assert_eq!(parsed.functions.len(), 1);
}

#[test]
fn a_section_holds_data_only() {
    assert!(refusal(".section .debug_str { .b8 1 { .b8 2 } }").message.contains("closing `}`"));
    assert!(refusal(".section { .b8 1 }").message.contains("the name of a section"));
}

#[test]
fn variables_and_functions_are_printed_in_the_order_of_their_lines() {
    let text = module(".global .u32 a;\n.func f() {}\n.global .u64 b = f;\n.func g() {}").to_string();
    let places = ["a;", "f()", "b =", "g()"].map(|part| text.find(part).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn unknown_directives_are_refused_wherever_they_stand() {
    for (items, part) in [
        (".frobnicate 1;", "unknown directive `.frobnicate` at module scope"),
        (".visible .frobnicate f;", "unknown directive `.frobnicate` at module scope"),
        (".entry k() .frobnicate 1 {}", "unknown directive `.frobnicate` of a function"),
        (".entry k() { .frobnicate 1; }", "unknown directive `.frobnicate` in a function"),
        (".entry k() { p: .callprototype _ .frobnicate; }", "unknown directive `.frobnicate` of a call prototype"),
        (".global .frobnicate .u32 a;", "expected a type"),
        (".global .attribute(.frobnicate) .u32 a;", "expected `.managed` or `.unified`"),
        (".reg .b32 a;", "may not be declared at module scope"),
        (".local .b32 a;", "may not be declared at module scope"),
    ] {
        let error = refusal(items);
        assert!(error.message.contains(part), "{items}: {error}");
        assert_eq!(error.line, 2, "{items}");
    }
}

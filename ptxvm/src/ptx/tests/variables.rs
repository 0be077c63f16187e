//! Declarations: spaces, types, registers, arrays, initial values.

use super::super::MAX_REGISTERS;
use super::super::ast::{Float, Initial, Linkage, Module, Space, Statement, Type, Variable};
use super::{body, module, refusal, refusal_in_body};

fn only_variable(items: &str) -> Variable {
    let Module { mut variables, .. } = module(items);
    assert_eq!(variables.len(), 1);
    variables.remove(0)
}

/// The initial values of `.global .align 8 <declaration>;`.
fn initial(declaration: &str) -> Vec<Initial> {
    only_variable(&format!(".global .align 8 {declaration};")).initial
}

fn integers(values: &[i128]) -> Vec<Initial> {
    values.iter().map(|&value| Initial::Integer(value)).collect()
}

fn address(symbol: &str, offset: i64, generic: bool, mask: Option<u64>) -> Initial {
    Initial::Address { symbol: symbol.to_owned(), offset, generic, mask }
}

fn registers(text: &str) -> Vec<Variable> {
    let statements = body(text).statements.into_iter();
    statements
        .map(|statement| match statement {
            Statement::Variable(variable) => variable,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn registers_by_count_by_list_and_as_vectors() {
    let found = registers(".reg .b32 %r<10>;\n.reg .pred p, q<3>;\n.reg .v4 .f32 v;\n.reg .f16x2 h;");
    let parts: Vec<_> = found
        .iter()
        .map(|register| (register.name.as_str(), register.ty, register.count, register.vector, register.line))
        .collect();
    let expected = [
        ("%r", Type::B32, Some(10), 1, 2),
        ("p", Type::Pred, None, 1, 3),
        ("q", Type::Pred, Some(3), 1, 3),
        ("v", Type::F32, None, 4, 4),
        ("h", Type::F16x2, None, 1, 5),
    ];
    assert_eq!(parts, expected);
    assert!(found.iter().all(|register| register.space == Space::Register));
}

#[test]
fn registers_without_number_are_refused_before_anybody_allocates_them() {
    assert_eq!(registers(&format!(".reg .b32 %r<{MAX_REGISTERS}>;")).len(), 1);
    for text in [
        ".reg .b32 %r<4000000000>;".to_owned(),
        ".reg .b32 %r<99999999999999999999>;".to_owned(),
        format!(".reg .b32 %r<{MAX_REGISTERS}>; .reg .b32 x;"),
        format!("{{ .reg .b32 %r<{MAX_REGISTERS}>; }} {{ .reg .b32 a<2>; }}"),
    ] {
        assert_eq!(refusal_in_body(&text).line, 2, "{text}");
    }
}

#[test]
fn each_function_has_its_own_budget_of_registers() {
    let full = format!("{{ .reg .b32 %r<{MAX_REGISTERS}>; }}");
    assert_eq!(module(&format!(".func f() {full} .func g() {full}")).functions.len(), 2);
}

#[test]
fn linkage_space_alignment_and_attributes() {
    let cases = [
        (".visible .global .align 16 .b8 a[64];", Linkage::Visible, Space::Global, Type::B8, 16, 64),
        (".extern .const .f32 b;", Linkage::Extern, Space::Const, Type::F32, 4, 4),
        (".weak .global .v2 .f64 c;", Linkage::Weak, Space::Global, Type::F64, 16, 16),
        (".common .global .u16 d[2][3];", Linkage::Common, Space::Global, Type::U16, 2, 12),
        (".shared .align 4 .b8 e[2048];", Linkage::Private, Space::Shared, Type::B8, 4, 2048),
        (".tex .u64 f;", Linkage::Private, Space::Texture, Type::U64, 8, 8),
        (".global .texref g;", Linkage::Private, Space::Global, Type::Opaque, 8, 8),
    ];
    for (text, linkage, space, ty, align, bytes) in cases {
        let variable = only_variable(text);
        let found = (variable.linkage, variable.space, variable.ty, variable.align, variable.bytes());
        assert_eq!(found, (linkage, space, ty, align, Some(bytes)), "{text}");
        assert!(!variable.managed && variable.line == 2);
    }
    assert!(only_variable(".global .attribute(.managed) .align 4 .u32 m = 3;").managed);
    assert!(only_variable(".global .attribute(.unified(19, 95), .managed) .f32 m;").managed);
    assert!(!only_variable(".global .attribute(.unified(19, 95)) .f32 m;").managed);
}

#[test]
fn names_by_count_stand_for_each_variable_outside_registers() {
    let names: Vec<_> = module(".extern .global .u32 slot<3>, other;").variables.into_iter().map(|v| v.name).collect();
    assert_eq!(names, ["slot0", "slot1", "slot2", "other"]);
    assert!(refusal(".global .u32 slot<4000000000>;").message.contains("65536"));
}

#[test]
fn arrays_of_arrays_are_filled_in_row_major_order_with_zeros_for_what_is_left_out() {
    assert_eq!(initial(".u32 a = 7"), integers(&[7]));
    assert_eq!(initial(".u32 a[4] = {1, 2}"), integers(&[1, 2]));
    assert_eq!(initial(".u32 a[2][3] = {{1, 2}, {3}}"), integers(&[1, 2, 0, 3]));
    assert_eq!(initial(".u32 a[3][2] = {{}, {2, 3}, {}}"), integers(&[0, 0, 2, 3]));
    assert_eq!(initial(".u8 a[2][2][2] = {{{1}, {2}}, {{3, 4}}}"), integers(&[1, 0, 2, 0, 3, 4]));
    assert_eq!(initial(".u8 a[2][2][2] = {{{1}}, {{2}, {3}}}"), integers(&[1, 0, 0, 0, 2, 0, 3]));
    assert_eq!(initial(".v2 .u32 a = {1, 2}"), integers(&[1, 2]));
    assert_eq!(initial(".v2 .u32 a[3] = {{1, 0}, {2, 3}}"), integers(&[1, 0, 2, 3]));
    assert_eq!(initial(".u32 a[4] = {}"), []);
}

#[test]
fn an_open_dimension_takes_its_size_from_the_initial_values() {
    let size = |text: &str| only_variable(text).dimensions;
    assert_eq!(size(".global .u32 a[] = {2, 3, 5};"), [Some(3)]);
    assert_eq!(size(".global .f32 a[][3] = {{.05,.1,.05},{.1,.4}};"), [Some(2), Some(3)]);
    assert_eq!(size(".extern .shared .b8 a[];"), [None]);
}

#[test]
fn initial_values_may_be_addresses_and_bytes_of_them() {
    assert_eq!(initial(".u64 a = f"), [address("f", 0, false, None)]);
    assert_eq!(initial(".u64 a[] = {v+8, v+-4}"), [address("v", 8, false, None), address("v", -4, false, None)]);
    let generic = [address("v", 0, true, None), address("v", 8, true, None), address("v", 12, true, None)];
    assert_eq!(initial(".u64 a[3] = {generic(v), generic(v)+8, generic(v)+8+4}"), generic);
    let masked = [
        address("v", 0, false, Some(0xFF)),
        address("v", 4, false, Some(0xFF00)),
        address("v", 4, true, Some(0xFF00_0000_0000_0000)),
    ];
    assert_eq!(initial(".u8 a[3] = {0xff(v), 0xff00(v+4), 0xFF00000000000000(generic(v)+4)}"), masked);
    assert_eq!(initial(".u8 a[] = {0xFF(1000 + 546), 0xFF00(0x1234)}"), integers(&[10, 0x12]));
    // Nothing keeps a variable from this name.
    assert_eq!(initial(".u64 a = generic"), [address("generic", 0, false, None)]);
}

#[test]
fn floating_point_initial_values_keep_their_bits() {
    let expected = [Float::Single(0x3F80_0000), Float::Double(0.5_f64.to_bits()), Float::Double(2.5_f64.to_bits())];
    assert_eq!(initial(".f32 a[3] = {0f3F800000, 0.5, 1.0 + 1.5}"), expected.map(Initial::Float));
}

#[test]
fn initial_values_that_do_not_fit_are_refused() {
    for (text, part) in [
        (".global .u32 a[2] = {1, 2, 3};", "more initial values"),
        (".global .u32 a[2][2] = {{1, 2, 3}};", "more initial values"),
        (".global .u32 a[1][2] = {{1}, {2}};", "more initial values"),
        (".global .u32 a[0] = {1};", "more initial values"),
        (".global .u32 a[][0] = {{1}};", "more initial values"),
        (".global .u32 a[2] = {{1}};", "expected a constant, found `{`"),
        (".global .u32 a[2] = 1;", "expected `{`"),
        (".global .u32 a = {1};", "is no array"),
        (".global .b8 a[] = \"text\";", "expected `{`"),
        (".global .b8 a[] = {\"text\"};", "no strings"),
        (".global .b8 a[] = {0xFF0(v)};", "one byte"),
        (".global .u32 a[2][2] = {1, 2, 3, 4};", "expected `{`"),
        (".global .u32 a[2] = {1, };", "expected a constant, found `}`"),
        (".global .v2 .u32 a = {1};", "has all its elements"),
        (".global .u64 a = generic(v+8);", "expected `)`"),
        (".global .u64 a = v-8;", "write `+-4`"),
        (".global .u64 a = 8+v;", "expected a constant, found `v`"),
        (".global .f32 a = 1;", "is a floating-point constant"),
        (".global .u32 a = 1.5;", "is an integer"),
        (".global .f16 a = 1.5;", "have no initial values"),
        (".extern .global .u32 a = 1;", "not `.extern`"),
        (".global .b32 a[2*2];", "expected `]`"),
        (".global .b32 a[];", "has no size"),
        (".shared .b32 a = 1;", "only `.global` and `.const`"),
        (".global .b8 a[3][2000000] = {{1}, {2}, {3}};", "leave out more than"),
        (".global .b8 a[4000000000][4000000000];", "larger than"),
        (".extern .global .b8 a[0][4000000000][4000000000];", "larger than"),
        (".global .align 2097152 .b8 a;", "up to 1048576"),
        (".global .b8 a[-1];", "expected the size of an array"),
        (".global .b8 a[2][];", "only the first dimension"),
        (".global .b8 a[1.5];", "expected the size of an array"),
    ] {
        let error = refusal(text);
        assert!(error.message.contains(part), "{text}: {error}");
    }
}

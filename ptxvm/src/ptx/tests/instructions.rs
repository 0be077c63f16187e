//! Bodies: instructions, operands, calls, scopes, labels, directives.

use super::super::ast::{Address, AddressBase, Call, Float, Guard, Operand, SourceLine, Space, Statement, Type};
use super::{body, instruction};

fn name(text: &str) -> Operand {
    Operand::Name(text.to_owned())
}

fn integer(value: i128) -> Operand {
    Operand::Integer { value, unsigned: false }
}

fn at(base: &str, offset: i64) -> Operand {
    Operand::Address(Address { base: AddressBase::Name(base.to_owned()), offset, rest: Vec::new() })
}

/// The operands of `op <text>;`.
fn operands(text: &str) -> Vec<Operand> {
    instruction(&format!("op.b32 {text};")).operands
}

#[test]
fn opcode_and_modifiers_are_split_at_dots_but_not_at_double_colons() {
    let text = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::128B [a], [b];";
    let parsed = instruction(text);
    assert_eq!(parsed.opcode, "cp");
    let expected = [
        "async",
        "bulk",
        "tensor",
        "2d",
        "shared::cluster",
        "global",
        "tile",
        "mbarrier::complete_tx::bytes",
        "L2::128B",
    ];
    assert_eq!(parsed.modifiers, expected);
    assert_eq!(parsed.full_opcode(), text.split(' ').next().unwrap());
}

#[test]
fn a_modifier_may_start_with_a_digit() {
    assert_eq!(instruction("tcgen05.ld.16x256b.x1.b32 {%r1}, [%r2];").modifiers, ["ld", "16x256b", "x1", "b32"]);
}

#[test]
fn guards_and_their_negation() {
    let guard = |text| instruction(text).guard;
    assert_eq!(guard("@%p1 bra L;"), Some(Guard { register: "%p1".to_owned(), negated: false }));
    assert_eq!(guard("@!q bra L;"), Some(Guard { register: "q".to_owned(), negated: true }));
    assert_eq!(guard("bra L;"), None);
}

#[test]
fn integers_in_every_base_with_and_without_suffix() {
    let all = operands("10, -10, 0x1F, 0X1fU, 0b101, 0B11U, 017, 0, 0U, 4294967295, 18446744073709551615");
    let values: Vec<_> = all
        .iter()
        .map(|operand| match operand {
            Operand::Integer { value, unsigned } => (*value, *unsigned),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (10, false),
        (-10, false),
        (31, false),
        (31, true),
        (5, false),
        (3, true),
        (15, false),
        (0, false),
        (0, true),
        (4_294_967_295, false),
        (18_446_744_073_709_551_615, true),
    ];
    assert_eq!(values, expected);
}

#[test]
fn the_smallest_signed_integer_keeps_its_sign() {
    assert_eq!(operands("-9223372036854775808"), [integer(i64::MIN.into())]);
}

#[test]
fn floating_point_constants_in_every_form() {
    let double = |value: f64| Operand::Float(Float::Double(value.to_bits()));
    let expected = [
        Operand::Float(Float::Single(0x3F80_0000)),
        Operand::Float(Float::Single(0x7FC0_0001)),
        double(1.0),
        double(1.5),
        double(0.05),
        double(2.0),
        double(1e-9),
        double(3e5),
        double(-0.0),
        Operand::Float(Float::Single(0xBF80_0000)),
    ];
    let parsed = operands("0f3F800000, 0F7fc00001, 0d3FF0000000000000, 1.5, .05, 2., 1.0e-9, 3E+5, -0.0, -0f3F800000");
    assert_eq!(parsed, expected);
}

#[test]
fn warp_size_is_a_number() {
    assert_eq!(operands("WARP_SZ, WARP_SZ*2-1"), [integer(32), integer(63)]);
}

#[test]
fn names_of_every_kind_stay_names() {
    let text = "%r1, a_b$c, $L__BB0_1, %clock64, _, _Z3foo, %tid.x, %nctaid.z, %cluster_ctaid.y, %0";
    let expected: Vec<_> = text.split(", ").map(name).collect();
    assert_eq!(operands(text), expected);
}

#[test]
fn components_of_vector_registers_in_both_spellings() {
    let component = |component| Operand::Component { name: "%v".to_owned(), component };
    assert_eq!(operands("%v.x, %v.y, %v.z, %v.w"), [0, 1, 2, 3].map(component));
    assert_eq!(operands("%v.r, %v.g, %v.b, %v.a"), [0, 1, 2, 3].map(component));
}

#[test]
fn selectors_of_video_instructions_reach_their_decoder() {
    assert_eq!(operands("%r1.b0, %r2.h1"), [name("%r1.b0"), name("%r2.h1")]);
}

#[test]
fn addresses_with_offsets_of_every_form() {
    let parsed = operands("[%rd1], [%rd1+8], [%rd1+-8], [%rd1 + 8 - 16], [v+4*4+1], [v+1<<2], [v+0xFFFFFFFFFFFFFFF8]");
    let expected = [at("%rd1", 0), at("%rd1", 8), at("%rd1", -8), at("%rd1", -8), at("v", 17), at("v", 4), at("v", -8)];
    assert_eq!(parsed, expected);
}

#[test]
fn an_absolute_address_may_be_an_expression() {
    let absolute =
        |address| Operand::Address(Address { base: AddressBase::Absolute(address), offset: 0, rest: Vec::new() });
    assert_eq!(operands("[0x10], [16+4]"), [absolute(16), absolute(20)]);
}

#[test]
fn a_tensor_address_keeps_its_coordinates() {
    let rest = vec![Operand::Vector(vec![name("x"), integer(3)]), name("%r9")];
    let expected = Operand::Address(Address { base: AddressBase::Name("map".to_owned()), offset: 64, rest });
    assert_eq!(operands("[map+64, {x, 3}, %r9]"), [expected]);
}

#[test]
fn offsets_outside_brackets() {
    let offset = |offset| Operand::Offset { name: "v".to_owned(), offset };
    assert_eq!(operands("v+8, v+-4, v+8-4"), [offset(8), offset(-4), offset(4)]);
}

#[test]
fn vectors_hold_registers_immediates_and_sinks() {
    let expected = [
        Operand::Vector(vec![name("%h1"), integer(0x3C00), name("_"), integer(-1)]),
        Operand::Vector(Vec::new()),
        Operand::Vector(vec![Operand::Vector(vec![name("a")]), Operand::Float(Float::Single(0))]),
    ];
    assert_eq!(operands("{%h1, 0x3C00, _, -1}, {}, {{a}, 0f00000000}"), expected);
}

#[test]
fn pairs_with_sinks_and_vectors() {
    let pair = |first, second| Operand::Pair(Box::new(first), Box::new(second));
    let vector = Operand::Vector(vec![name("a"), name("b")]);
    let expected = [pair(name("%r1"), name("%p1")), pair(name("_"), name("q")), pair(vector, name("p"))];
    assert_eq!(operands("%r1|%p1, _ | q, {a, b}|p"), expected);
}

#[test]
fn a_negated_predicate_is_told_from_a_negated_constant() {
    assert_eq!(operands("!%p1, !0, !5 + 1"), [Operand::Not("%p1".to_owned()), integer(1), integer(1)]);
}

#[test]
fn calls_of_every_form() {
    let call = |text: &str| *instruction(text).call.expect("a call");
    let expected = |returns: &[Operand], target: &str, arguments: &[Operand], prototype: Option<&str>| Call {
        returns: returns.to_vec(),
        target: target.to_owned(),
        arguments: arguments.to_vec(),
        prototype: prototype.map(str::to_owned),
    };
    assert_eq!(call("call f;"), expected(&[], "f", &[], None));
    assert_eq!(call("call.uni f, (a, 1);"), expected(&[], "f", &[name("a"), integer(1)], None));
    assert_eq!(call("call (r), f;"), expected(&[name("r")], "f", &[], None));
    assert_eq!(call("call.uni (r), f, (a, b);"), expected(&[name("r")], "f", &[name("a"), name("b")], None));
    assert_eq!(call("call (r), %rd9, (a), proto;"), expected(&[name("r")], "%rd9", &[name("a")], Some("proto")));
    assert_eq!(call("call %rd9, proto;"), expected(&[], "%rd9", &[], Some("proto")));
    assert_eq!(call("call (), f, ();"), expected(&[], "f", &[], None));
    assert_eq!(instruction("call.uni f;").modifiers, ["uni"]);
    assert_eq!(instruction("ret;").call, None);
}

#[test]
fn prototypes_and_targets_belong_to_their_label() {
    let statements = body(
        "p: .callprototype (.param .b32 _) _ (.param .b64 _, .param .align 8 .b8 _[16]) .noreturn .abi_preserve 4;\n\
         q : .callprototype _ ;\n t: .calltargets f, g;\n b: .branchtargets A, B, N<3>;",
    )
    .statements;
    let Statement::CallPrototype { name, returns, params, no_return, line } = &statements[0] else { panic!() };
    assert_eq!((name.as_str(), returns.len(), params.len(), *no_return, *line), ("p", 1, 2, true, 2));
    assert_eq!((params[1].ty, params[1].align, params[1].bytes()), (Type::B8, 8, Some(16)));
    let Statement::CallPrototype { returns, params, no_return: false, line: 3, .. } = &statements[1] else { panic!() };
    assert!(returns.is_empty() && params.is_empty());
    let expected = Statement::CallTargets { name: "t".to_owned(), functions: vec!["f".into(), "g".into()], line: 4 };
    assert_eq!(statements[2], expected);
    let labels = ["A", "B", "N0", "N1", "N2"].map(str::to_owned).to_vec();
    assert_eq!(statements[3], Statement::BranchTargets { name: "b".to_owned(), labels, line: 5 });
}

#[test]
fn scopes_nest_and_repeat_their_labels() {
    let statements = body("{ .reg .pred p; DONE: } { DONE: { DONE: } } DONE:").statements;
    let label = |line| Statement::Label { name: "DONE".to_owned(), line };
    let [Statement::Block(first), Statement::Block(second), last] = &statements[..] else { panic!("{statements:?}") };
    assert_eq!(first.statements[1], label(2));
    let [outer, Statement::Block(inner)] = &second.statements[..] else { panic!("{second:?}") };
    assert_eq!((outer, &inner.statements[..], last), (&label(2), &[label(2)][..], &label(2)));
}

#[test]
fn a_label_and_its_instruction_may_share_a_line() {
    let statements = body("W: try.b64 P, [%r1]; @P bra DONE; bra W; DONE:").statements;
    assert_eq!(statements.len(), 5);
}

#[test]
fn every_instruction_has_its_line_and_the_source_line_in_force() {
    let statements = body(
        "ret;\n .loc 1 10 3\n ret; /* a\n comment */ ret;\n { .loc 2 20 0, function_name $L__info_string0, inlined_at 1 11 5\n ret; }\n ret;",
    )
    .statements;
    let mut found = Vec::new();
    for statement in &statements {
        let block = match statement {
            Statement::Block(block) => &block.statements[..],
            one => std::slice::from_ref(one),
        };
        found.extend(block.iter().filter_map(|statement| match statement {
            Statement::Instruction(instruction) => Some((instruction.line, instruction.source)),
            _ => None,
        }));
    }
    let source = |file, line, column| Some(SourceLine { file, line, column });
    let expected =
        [(2, None), (4, source(1, 10, 3)), (5, source(1, 10, 3)), (7, source(2, 20, 0)), (8, source(2, 20, 0))];
    assert_eq!(found, expected);
}

#[test]
fn the_source_line_of_one_function_does_not_reach_into_the_next() {
    let parsed = super::module(".func f() { .loc 1 5 5 ret; }\n.func g() { ret; }");
    let block = parsed.functions[1].body.as_ref().unwrap();
    assert!(matches!(&block.statements[0], Statement::Instruction(instruction) if instruction.source.is_none()));
}

#[test]
fn inlined_positions_may_name_their_function_by_an_offset() {
    let text = ".loc 2 20 4, function_name .debug_str+16, inlined_at 1 11 5";
    assert_eq!(body(text).statements, [Statement::Location(SourceLine { file: 2, line: 20, column: 4 })]);
}

#[test]
fn pragmas_and_variables_of_a_body() {
    let statements =
        body(".pragma \"nounroll\", \"other 1\"; .local .align 16 .b8 depot[64]; .shared .v2 .u16 s[8];").statements;
    assert_eq!(statements[..2], ["nounroll", "other 1"].map(|text| Statement::Pragma(text.to_owned())));
    let Statement::Variable(depot) = &statements[2] else { panic!() };
    assert_eq!((depot.space, depot.bytes(), depot.align), (Space::Local, Some(64), 16));
    let Statement::Variable(shared) = &statements[3] else { panic!() };
    assert_eq!((shared.space, shared.bytes(), shared.align), (Space::Shared, Some(32), 4));
}

#[test]
fn comments_are_blanks_anywhere() {
    assert_eq!(instruction("add /* .s64 */ .s32 // ; }\n %r1 /**/, /***/ 1;").operands, [name("%r1"), integer(1)]);
}

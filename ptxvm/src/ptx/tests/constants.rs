//! Constant expressions: precedence, types and errors.

use super::super::ast::{Float, Initial};
use super::{module, refusal};

/// The value of an expression as an initial value.
fn evaluate(expression: &str) -> Initial {
    module(&format!(".global .u64 v = {expression};")).variables.remove(0).initial.remove(0)
}

fn check(expression: &str, expected: i128) {
    assert_eq!(evaluate(expression), Initial::Integer(expected), "{expression}");
}

#[test]
fn precedence_and_associativity_are_those_of_c() {
    check("1 + 2 * 3", 7);
    check("(1 + 2) * 3", 9);
    check("10 - 4 - 3", 3);
    check("100 / 5 / 2", 10);
    check("7 % 4 * 2", 6);
    check("1 << 2 + 1", 8);
    check("1 | 6 ^ 3 & 2", 5);
    check("1 < 2 == 1", 1);
    check("4 > 3 > 2", 0);
    check("1 == 1 & 3 == 3", 1);
    check("0 && 1 || 1", 1);
    check("1 || 0 && 0", 1);
    check("-2 * -3", 6);
    check("- -2", 2);
    check("!0 + !7", 1);
    check("10 % 3", 1);
    check("0x10+010+0b10", 26);
}

#[test]
fn the_ternary_operator_groups_to_the_right() {
    check("1 ? 2 : 3", 2);
    check("0 ? 2 : 3", 3);
    check("0 ? 1 : 0 ? 2 : 3", 3);
    check("1 ? 0 ? 4 : 5 : 6", 5);
    check("1 + 1 == 2 ? 10 : 20", 10);
    check("1 ? -1 : 2U", 18_446_744_073_709_551_615);
}

#[test]
fn an_unsigned_side_makes_the_operation_unsigned() {
    check("-1 < 0", 1);
    check("-1 < 0U", 0);
    check("-6 / 2", -3);
    check("-6 / 2U", 9_223_372_036_854_775_805);
    check("(.u64)-1", 18_446_744_073_709_551_615);
    check("(.s64)0xFFFFFFFFFFFFFFFF", -1);
    check("(.s64)-1U / 1", -1);
    check("-1 == 0xFFFFFFFFFFFFFFFF", 1);
    check("~0", 18_446_744_073_709_551_615);
    check("-4 | 1", -3);
    check("-1U", 18_446_744_073_709_551_615);
}

#[test]
fn remainders_are_taken_of_unsigned_integers_as_the_manual_says() {
    check("-7 % 4", 1);
}

#[test]
fn shifts_keep_the_type_of_their_left_side_and_take_six_bits_of_the_count() {
    // As the assembler of CUDA 13.0 computes them.
    check("-8 >> 1U", -4);
    check("-8 >> 200", -1);
    check("-1U >> 63", 1);
    check("1 << 63", i64::MIN.into());
    check("1 << 64", 1);
    check("1U >> 64", 1);
    check("1 << -1", i64::MIN.into());
}

#[test]
fn arithmetic_wraps_at_64_bits() {
    check("0x7FFFFFFFFFFFFFFF + 1", i64::MIN.into());
    check("0x8000000000000000 * 2", 0);
    check("-9223372036854775808 / -1", i64::MIN.into());
    check("-(-9223372036854775808)", i64::MIN.into());
}

#[test]
fn floating_point_constants_are_computed_in_double() {
    let double = |value: f64| Initial::Float(Float::Double(value.to_bits()));
    let evaluate = |text: &str| module(&format!(".global .f64 v = {text};")).variables.remove(0).initial.remove(0);
    assert_eq!(evaluate("1.5 * 2.0 - 1.0 / 4.0"), double(2.75));
    assert_eq!(evaluate("0f3F800000 + 0.5"), double(1.5));
    assert_eq!(evaluate("1 ? 1.5 : 2.5"), double(1.5));
    assert_eq!(evaluate("-0f3F800000"), Initial::Float(Float::Single(0xBF80_0000)));
    check("1.5 < 2.0", 1);
    check("1.5 != 1.5", 0);
}

#[test]
fn senseless_expressions_are_refused() {
    for (expression, part) in [
        ("1 / 0", "by zero"),
        ("1 % 0", "by zero"),
        ("1 + 1.0", "between an integer and a floating-point"),
        ("1.0 % 2.0", "is for integers"),
        ("~1.0", "is for integers"),
        ("!1.0", "is for integers"),
        ("(.u64)1.0", "for integers"),
        ("(.f64)1", "`.s64` or `.u64`"),
        ("1.0 ? 1 : 2", "is an integer"),
        ("1 ? 1 : 2.0", "chooses between"),
        ("1 +", "expected a constant, found `;`"),
        ("10%3", "expected `;`, found `%3`"),
        ("(1", "expected `)`"),
        ("1 ? 2", "expected `:`"),
        ("18446744073709551616", "does not fit in 64 bits"),
        ("0x", "no digits"),
        ("0b2", "no digits"),
        ("08", "not a number"),
        ("12ab", "not a number"),
        ("0f3F8", "needs 8 hexadecimal digits"),
        ("0d3FF0", "needs 16 hexadecimal digits"),
        ("0f3F8000000", "not a number"),
    ] {
        let error = refusal(&format!(".global .u64 v = {expression};"));
        assert!(error.message.contains(part), "{expression}: {error}");
    }
}

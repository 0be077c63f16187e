//! Comparisons that name the first element that differs.

use std::fmt::Debug;

/// Panics unless every element is within `tolerance · (1 + |expected|)` of what is expected.
pub fn assert_close<T: Copy + Into<f64>>(what: &str, actual: &[T], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: the lengths differ");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let a: f64 = a.into();
        // Written so that a NaN on either side fails.
        let near = (a - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(near, "{what}: element {i} of {} is {a}, expected {e} within {tolerance:e}", expected.len());
    }
}

/// Panics unless both are the same, element by element.
pub fn assert_equal<T: PartialEq + Debug>(what: &str, actual: &[T], expected: &[T]) {
    assert_eq!(actual.len(), expected.len(), "{what}: the lengths differ");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!(a == e, "{what}: element {i} of {} is {a:?}, expected {e:?}", expected.len());
    }
}

/// The error function by its all-positive series: erf x = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (2n+1)!!.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    let mut n = 0.0;
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_function_has_its_known_values() {
        assert_close(
            "erf",
            &[erf(0.0), erf(0.5), erf(-1.0), erf(3.0)],
            &[0.0, 0.5204998778, -0.8427007929, 0.9999779095],
            1e-10,
        );
    }

    #[test]
    #[should_panic(expected = "element 1")]
    fn a_nan_is_never_close() {
        assert_close("values", &[1.0, f64::NAN], &[1.0, f64::NAN], 1.0);
    }
}

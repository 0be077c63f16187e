//! Tests of the parser and the printer.

mod round_trip;

//! Runs one mutant of the table, or its healthy program, in this process: `ptxvm-suite-mutant NAME healthy|mutated`.

use std::process::ExitCode;

use ptxvm_suite::mutants::table;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, state] = arguments.as_slice() else {
        panic!("a mutant's name and `healthy` or `mutated` were expected, found {arguments:?}");
    };
    let mutants = table();
    let mutant = mutants.iter().find(|mutant| mutant.name == name).unwrap_or_else(|| panic!("no mutant {name}"));
    let mutated = match state.as_str() {
        "healthy" => false,
        "mutated" => true,
        other => panic!("`healthy` or `mutated` was expected, found {other:?}"),
    };
    match mutant.run(mutated) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A fault is the end of many a mutant; the report says what led to it.
            eprintln!("the driver said: {error}");
            ExitCode::from(2)
        }
    }
}

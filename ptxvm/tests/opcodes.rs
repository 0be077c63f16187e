//! Every opcode family, one text file each (`tests/opcodes/*.ptx`), on hand-made and on random operands.
//!
//! A file is a list of cases. A case is a few instructions under a header of comments:
//!
//! ```text
//! // run: a:s32 b:s32[1..31] -> d:s32      registers loaded before and stored after, with their types
//! // for: OP=add,sub SAT=,.sat             $OP and $SAT in the text stand for each combination; several lines add up
//! // compare: nan ulp=2                    what counts as equal (else every bit): see `judge.rs`
//! // target: sm_100                        else sm_90
//! // module: .const .b32 table[2] = {1, 2}; declarations before the kernel
//! // warp                                  the lanes of a warp work together: an expectation fills a whole warp
//! $OP$SAT.s32 %d, %a, %b;
//! // expect OP=add: a=0x7fffffff b=1 -> d=0x80000000
//! ```
//!
//! `%scratch` holds the address of 64 bytes of global memory of the thread's own, filled at random; `%lane` is its lane.
//! Expectations are worked out by hand from the manual and hold for the oracle and the virtual machine alike. Random and
//! special operands then go through both, and what they leave is compared lane by lane.

#[path = "opcodes/assembler.rs"]
mod assembler;
#[path = "opcodes/case.rs"]
mod case;
#[path = "opcodes/family.rs"]
mod family;
#[path = "opcodes/judge.rs"]
mod judge;
#[path = "opcodes/kernel.rs"]
mod kernel;
#[path = "opcodes/operands.rs"]
mod operands;
#[path = "opcodes/random.rs"]
mod random;
#[path = "opcodes/vm.rs"]
mod vm;

/// One test per file, and the table of all of them.
macro_rules! families {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                family::check(stringify!($name), include_str!(concat!("opcodes/", stringify!($name), ".ptx")));
            }
        )*

        const FAMILIES: &[(&str, &str)] = &[
            $((stringify!($name), include_str!(concat!("opcodes/", stringify!($name), ".ptx")))),*
        ];
    };
}

families! {
    integer,
    carry,
    logic,
    float,
    approximate,
    compare,
    half,
    convert,
    scale,
    memory,
    atomic,
    warp,
    control,
    matrix,
    matrix_memory,
    wmma,
}

#[test]
fn table_of_families() {
    println!("{}", family::table(FAMILIES));
}

/// NVIDIA's own assembler says whether the text of the tests is PTX. Skipped where it has not been fetched.
#[test]
fn every_kernel_is_accepted_by_ptxas() {
    let Some(ptxas) = assembler::find() else {
        println!("skipped: no ptxas (cargo xtask deps fetches it)");
        return;
    };
    for (name, text) in FAMILIES {
        family::assemble(&ptxas, name, text);
    }
}

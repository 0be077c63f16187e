//! The kernel around a case: loads its operands, runs it, stores its results.

use std::fmt::Write;

use ptxvm::ptx::ast::Type;

use crate::case::Variant;

/// Bytes of memory of its own that each thread has.
pub(crate) const SCRATCH: usize = 64;
/// Bytes an operand takes in a record.
pub(crate) const SLOT: usize = 8;

/// Bytes of one thread's record: operands, results, scratch.
pub(crate) fn record_bytes(variant: &Variant) -> usize {
    (SLOT * (variant.inputs.len() + variant.outputs.len())).next_multiple_of(16) + SCRATCH
}

/// Where the scratch of a record starts.
pub(crate) fn scratch_offset(variant: &Variant) -> usize {
    record_bytes(variant) - SCRATCH
}

/// What stands before the kernels of a module.
pub(crate) fn header(target: &str) -> String {
    format!(".version 8.8\n.target {target}\n.address_size 64\n")
}

/// The declaration of a register that holds a type.
fn register_type(ty: Type) -> &'static str {
    match ty.bits() {
        1 => "pred",
        0..=16 => "b16",
        17..=32 => "b32",
        _ => "b64",
    }
}

/// The kernel's text.
pub(crate) fn text(variant: &Variant, name: &str) -> String {
    let mut text = String::new();
    kernel(&mut text, variant, name).expect("writing to a string cannot fail");
    text
}

fn kernel(text: &mut String, variant: &Variant, name: &str) -> std::fmt::Result {
    let record = record_bytes(variant);
    writeln!(text, ".visible .entry {name}(.param .u64 {name}_records)\n{{")?;
    writeln!(
        text,
        "    .reg .b64 %records, %record, %scratch;\n    .reg .b32 %lane, %block, %threads, %thread, %truth;"
    )?;
    writeln!(text, "    .reg .pred %taken;")?;
    for register in variant.inputs.iter().chain(&variant.outputs) {
        writeln!(text, "    .reg .{} %{};", register_type(register.ty), register.name)?;
    }
    writeln!(text, "    ld.param.u64 %records, [{name}_records];\n    cvta.to.global.u64 %records, %records;")?;
    writeln!(text, "    mov.u32 %lane, %tid.x;\n    mov.u32 %block, %ctaid.x;\n    mov.u32 %threads, %ntid.x;")?;
    writeln!(text, "    mad.lo.u32 %thread, %block, %threads, %lane;")?;
    writeln!(text, "    mad.wide.u32 %record, %thread, {record}, %records;")?;
    writeln!(text, "    add.u64 %scratch, %record, {};", scratch_offset(variant))?;
    for (index, register) in variant.inputs.iter().enumerate() {
        let offset = index * SLOT;
        let name = &register.name;
        match register.ty.bits() {
            1 => {
                writeln!(text, "    ld.global.u32 %truth, [%record+{offset}];\n    setp.ne.u32 %{name}, %truth, 0;")?;
            }
            8 if register.ty.is_signed() => writeln!(text, "    ld.global.s8 %{name}, [%record+{offset}];")?,
            bits => writeln!(
                text,
                "    ld.global.{}{bits} %{name}, [%record+{offset}];",
                if bits == 8 { "u" } else { "b" }
            )?,
        }
    }
    writeln!(text, "    {{")?;
    for line in &variant.code {
        writeln!(text, "        {}", line.trim_start())?;
    }
    writeln!(text, "    }}")?;
    for (index, register) in variant.outputs.iter().enumerate() {
        let offset = (variant.inputs.len() + index) * SLOT;
        let name = &register.name;
        match register.ty.bits() {
            1 => {
                writeln!(text, "    selp.u32 %truth, 1, 0, %{name};\n    st.global.u32 [%record+{offset}], %truth;")?;
            }
            // The whole register: what an 8-bit result is extended with counts too.
            bits => writeln!(text, "    st.global.b{} [%record+{offset}], %{name};", bits.max(16))?,
        }
    }
    writeln!(text, "    ret;\n}}")
}

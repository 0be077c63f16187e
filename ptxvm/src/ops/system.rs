//! What the CUDA device library asks of the system: `printf`, `assert`, the heap; and hints without effect here.

use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, Op, free},
        warp::Warp,
    },
    memory::{AllocationKind, LOCAL_WINDOW, Memory, PARAM_WINDOW, SHARED_WINDOW},
    program::{
        CallSite, CompileError, Formal,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Call, Instruction, Type},
};
use std::io::Write;

/// A string in device memory longer than this is cut.
const LONGEST: u64 = 1 << 16;

/// Runs `f` for every active lane; the lane's number is given.
fn for_lanes(warp: &mut Warp, mut f: impl FnMut(&mut Warp, u32) -> Result<(), Fault>) -> Flow {
    for lane in 0..32 {
        if warp.mask >> lane & 1 != 0
            && let Err(fault) = f(warp, lane)
        {
            return warp.raise(fault.in_lane(lane as usize));
        }
    }
    Flow::Next
}

fn site(warp: &Warp, op: &Op) -> &'static CallSite {
    &warp.function().calls[op.imm as usize]
}

impl Warp {
    fn argument(&mut self, site: &CallSite, number: usize, lane: u32) -> u64 {
        let frame = self.frame;
        let bytes = self.read_formal(frame, site.arguments[number], lane);
        u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default())
    }

    fn give(&mut self, site: &CallSite, lane: u32, value: u64) {
        if let Some(result) = site.returns.first() {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&value.to_le_bytes());
            let frame = self.frame;
            self.write_formal(frame, *result, lane, &bytes);
        }
    }

    /// Bytes at a generic address, as far as they are there and at most `most`.
    fn generic_bytes(&mut self, lane: u32, address: u64, most: u64) -> Vec<u8> {
        let slice = |memory: &[u8], start: u64| {
            let start = (start as usize).min(memory.len());
            let end = start.saturating_add(most as usize).min(memory.len());
            memory[start..end].to_vec()
        };
        match address {
            PARAM_WINDOW.. => slice(self.running().params(), address - PARAM_WINDOW),
            LOCAL_WINDOW.. => {
                let start = lane as usize * self.local_bytes as usize;
                slice(&self.local[start..start + self.local_bytes as usize], address - LOCAL_WINDOW)
            }
            SHARED_WINDOW.. => slice(self.block().shared(), address - SHARED_WINDOW),
            _ => {
                let Some(found) = Memory::global().find(address) else { return Vec::new() };
                let count = (found.base + found.bytes - address).min(most);
                let mut bytes = vec![0u8; count as usize];
                // SAFETY: the vector has `count` bytes; the device side is checked by `copy`.
                match unsafe { Memory::global().copy(bytes.as_mut_ptr() as u64, address, count) } {
                    Ok(()) => bytes,
                    Err(_) => Vec::new(),
                }
            }
        }
    }

    fn generic_string(&mut self, lane: u32, address: u64) -> String {
        let mut bytes = self.generic_bytes(lane, address, LONGEST);
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn format(&mut self, lane: u32, format: u64, arguments: u64) -> (String, u32) {
        let text = self.generic_string(lane, format);
        let mut out = String::new();
        let mut rest = text.as_str();
        let (mut at, mut count) = (arguments, 0);
        while let Some(start) = rest.find('%') {
            out.push_str(&rest[..start]);
            rest = &rest[start + 1..];
            let Some(end) = rest.find(|c: char| {
                c.is_ascii_alphabetic() && !matches!(c, 'h' | 'l' | 'L' | 'q' | 'j' | 'z' | 't') || c == '%'
            }) else {
                out.push('%');
                break;
            };
            let specification = &rest[..end];
            let conversion = rest.as_bytes()[end] as char;
            rest = &rest[end + 1..];
            if conversion == '%' {
                out.push('%');
                continue;
            }
            count += 1;
            let mut take = |warp: &mut Self, bytes: u64| {
                at = at.next_multiple_of(bytes);
                let mut value = warp.generic_bytes(lane, at, bytes);
                at += bytes;
                value.resize(8, 0);
                u64::from_le_bytes(value[..8].try_into().unwrap_or_default())
            };
            let flags: String = specification.chars().take_while(|c| "-+ #0".contains(*c)).collect();
            let mut width = String::new();
            let mut precision = None;
            let mut long = false;
            for c in specification.chars().skip(flags.len()) {
                match (c, &mut precision) {
                    ('.', _) => precision = Some(String::new()),
                    ('*', None) => width = (take(self, 4) as i32).to_string(),
                    ('*', Some(digits)) => *digits = (take(self, 4) as i32).to_string(),
                    ('l' | 'q' | 'j' | 'z' | 't', _) => long = true,
                    (c, None) if c.is_ascii_digit() => width.push(c),
                    (c, Some(digits)) if c.is_ascii_digit() => digits.push(c),
                    _ => {}
                }
            }
            let precision = precision.map(|digits| digits.parse::<usize>().unwrap_or(0));
            let body = match conversion {
                's' => {
                    let address = take(self, 8);
                    let text = if address == 0 { "(null)".to_owned() } else { self.generic_string(lane, address) };
                    printf::Value::Text(text)
                }
                'c' => printf::Value::Text(((take(self, 4) as u8) as char).to_string()),
                'p' => printf::Value::Pointer(take(self, 8)),
                'd' | 'i' => {
                    let value = if long { take(self, 8) as i64 } else { i64::from(take(self, 4) as i32) };
                    printf::Value::Signed(value)
                }
                'u' | 'x' | 'X' | 'o' => printf::Value::Unsigned(if long { take(self, 8) } else { take(self, 4) }),
                'f' | 'F' | 'e' | 'E' | 'g' | 'G' | 'a' | 'A' => printf::Value::Float(f64::from_bits(take(self, 8))),
                _ => printf::Value::Text(format!("%{specification}{conversion}")),
            };
            out += &printf::format(&body, conversion, &flags, width.parse().unwrap_or(0), precision);
        }
        out.push_str(rest);
        (out, count)
    }
}

fn vprintf() -> Exec {
    free(|warp, op| {
        let site = site(warp, op);
        for_lanes(warp, |warp, lane| {
            let (format, arguments) = (warp.argument(site, 0, lane), warp.argument(site, 1, lane));
            let (text, count) = warp.format(lane, format, arguments);
            if !warp.running().launch.options.quiet {
                let mut out = std::io::stdout().lock();
                // Like the driver's own: an output that cannot be written to is no reason to stop the kernel.
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
            warp.give(site, lane, count.into());
            Ok(())
        })
    })
}

fn assertion() -> Exec {
    free(|warp, op| {
        let site = site(warp, op);
        for_lanes(warp, |warp, lane| {
            let text = |warp: &mut Warp, number| {
                let address = warp.argument(site, number, lane);
                warp.generic_string(lane, address)
            };
            let (what, file, function) = (text(warp, 0), text(warp, 1), text(warp, 3));
            let line = warp.argument(site, 2, lane) as u32;
            Err(Fault::new(
                FaultKind::Assert,
                "assert",
                format!("{file}:{line}: {function}: assertion `{what}` failed"),
            ))
        })
    })
}

fn heap_allocate() -> Exec {
    free(|warp, op| {
        let site = site(warp, op);
        let device = warp.running().launch.device;
        for_lanes(warp, |warp, lane| {
            let bytes = warp.argument(site, 0, lane);
            let label = "malloc in a kernel".to_owned();
            let address = match bytes {
                0 => 0,
                _ => Memory::global().allocate(bytes, 16, AllocationKind::Device, device, label).unwrap_or(0),
            };
            warp.give(site, lane, address);
            Ok(())
        })
    })
}

fn heap_free() -> Exec {
    free(|warp, op| {
        let site = site(warp, op);
        for_lanes(warp, |warp, lane| match warp.argument(site, 0, lane) {
            0 => Ok(()),
            address => Memory::global().free(address).map_err(|error| {
                Fault::new(FaultKind::IllegalAddress, "double-free", format!("free in a kernel: {error}"))
            }),
        })
    })
}

/// A call of a function that no module defines: one of the device library's.
pub(super) fn call(i: &Instruction, call: &Call, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let (exec, arguments): (Exec, usize) = match call.target.as_str() {
        "vprintf" => (vprintf(), 2),
        "__assertfail" => (assertion(), 5),
        "malloc" => (heap_allocate(), 1),
        "free" => (heap_free(), 1),
        other => {
            return Err(b.error(i, format!("`{other}` is defined in no module, and is none of the device library")));
        }
    };
    if call.arguments.len() != arguments {
        return Err(b.error(i, format!("found {} arguments, expected {arguments}", call.arguments.len())));
    }
    let arguments = call.arguments.iter().map(|operand| b.actual(i, operand, false)).collect::<Result<Vec<_>, _>>()?;
    let returns = call.returns.iter().map(|operand| b.actual(i, operand, true)).collect::<Result<Vec<Formal>, _>>()?;
    let mut op = Op::new(exec);
    op.imm = b.add_call(CallSite { target: None, arguments, returns }) as u64;
    b.emit(op);
    Ok(())
}

fn nanosleep() -> Exec {
    free(|warp, _| {
        warp.spinning += 1;
        Flow::Next
    })
}

fn nothing() -> Exec {
    free(|_, _| Flow::Next)
}

/// `nanosleep`, and hints.
pub(super) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let mut op = Op::new(nothing());
    match i.opcode.as_str() {
        "nanosleep" => {
            if modifiers.take_type() != Some(Type::U32) {
                return Err(b.unknown(i));
            }
            let [time] = b.operands::<1>(i)?;
            op = Op::new(nanosleep());
            op.a = b.read(i, time, Type::U32)?;
        }
        "pmevent" => {
            modifiers.take("mask");
            b.operands::<1>(i)?;
        }
        "griddepcontrol" => {
            if modifiers.take_any(&["launch_dependents", "wait"]).is_none() {
                return Err(b.unknown(i));
            }
            b.operands::<0>(i)?;
        }
        "setmaxnreg" => {
            if modifiers.take_any(&["inc", "dec"]).is_none() || !modifiers.take("sync") || !modifiers.take("aligned") {
                return Err(b.unknown(i));
            }
            modifiers.take_type();
            b.operands::<1>(i)?;
        }
        _ => return Err(b.unknown(i)),
    }
    modifiers.finish(b)?;
    b.emit(op);
    Ok(())
}

/// The conversions of `printf`.
mod printf {
    pub(super) enum Value {
        Text(String),
        Pointer(u64),
        Signed(i64),
        Unsigned(u64),
        Float(f64),
    }

    pub(super) fn format(value: &Value, conversion: char, flags: &str, width: i64, precision: Option<usize>) -> String {
        let left = flags.contains('-') || width < 0;
        let width = width.unsigned_abs() as usize;
        let (sign, digits) = match value {
            Value::Text(text) => {
                let cut =
                    precision.map_or(text.len(), |most| text.char_indices().nth(most).map_or(text.len(), |(at, _)| at));
                (String::new(), text[..cut].to_owned())
            }
            Value::Pointer(address) => (String::new(), format!("{address:#x}")),
            Value::Signed(number) => (sign(*number < 0, flags), padded(number.unsigned_abs().to_string(), precision)),
            Value::Unsigned(number) => {
                let (prefix, digits) = match conversion {
                    'x' => ("0x", format!("{number:x}")),
                    'X' => ("0X", format!("{number:X}")),
                    'o' => ("0", format!("{number:o}")),
                    _ => ("", number.to_string()),
                };
                let prefix = if flags.contains('#') && *number != 0 { prefix } else { "" };
                (prefix.to_owned(), padded(digits, precision))
            }
            Value::Float(number) => {
                (sign(number.is_sign_negative(), flags), float(number.abs(), conversion, flags, precision))
            }
        };
        let room = width.saturating_sub(sign.chars().count() + digits.chars().count());
        let numeric = !matches!(value, Value::Text(_) | Value::Pointer(_));
        let finite = !matches!(value, Value::Float(number) if !number.is_finite());
        let integer_with_precision = precision.is_some() && !matches!(value, Value::Float(_));
        if left {
            format!("{sign}{digits}{}", " ".repeat(room))
        } else if flags.contains('0') && numeric && finite && !integer_with_precision {
            format!("{sign}{}{digits}", "0".repeat(room))
        } else {
            format!("{}{sign}{digits}", " ".repeat(room))
        }
    }

    fn sign(negative: bool, flags: &str) -> String {
        match (negative, flags.contains('+'), flags.contains(' ')) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
        .to_owned()
    }

    fn padded(digits: String, precision: Option<usize>) -> String {
        match precision {
            Some(0) if digits == "0" => String::new(),
            Some(least) => format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len()))),
            None => digits,
        }
    }

    fn float(number: f64, conversion: char, flags: &str, precision: Option<usize>) -> String {
        let upper = conversion.is_ascii_uppercase();
        let text = if number.is_nan() {
            "nan".to_owned()
        } else if number.is_infinite() {
            "inf".to_owned()
        } else {
            match conversion.to_ascii_lowercase() {
                'e' => exponent(number, precision.unwrap_or(6)),
                'g' => general(number, precision.unwrap_or(6).max(1), flags.contains('#')),
                'a' => hexadecimal(number),
                _ => format!("{number:.*}", precision.unwrap_or(6)),
            }
        };
        if upper { text.to_uppercase() } else { text }
    }

    /// `1.5e+00`.
    fn exponent(number: f64, precision: usize) -> String {
        let text = format!("{number:.precision$e}");
        match text.split_once('e') {
            Some((digits, power)) => {
                let power: i32 = power.parse().unwrap_or(0);
                format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
            }
            None => text,
        }
    }

    fn general(number: f64, precision: usize, keeps_zeros: bool) -> String {
        let power = match number {
            0.0 => 0,
            _ => exponent(number, precision - 1).split_once('e').and_then(|(_, p)| p.parse::<i32>().ok()).unwrap_or(0),
        };
        let text = if power < -4 || power >= precision as i32 {
            exponent(number, precision - 1)
        } else {
            format!("{number:.*}", (precision as i32 - 1 - power).max(0) as usize)
        };
        if keeps_zeros || !text.contains('.') {
            return text;
        }
        let (digits, power) = text.split_once('e').map_or((text.as_str(), None), |(d, p)| (d, Some(p)));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        power.map_or(digits.to_owned(), |power| format!("{digits}e{power}"))
    }

    /// `0x1.8p+1`.
    fn hexadecimal(number: f64) -> String {
        let bits = number.to_bits();
        let (power, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        if number == 0.0 {
            return "0x0p+0".to_owned();
        }
        let (lead, power) = if power == 0 { (0, -1022) } else { (1, power - 1023) };
        let digits = format!("{fraction:013x}");
        let digits = digits.trim_end_matches('0');
        let dot = if digits.is_empty() { "" } else { "." };
        format!("0x{lead}{dot}{digits}p{power:+}")
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn conversions_are_those_of_c() {
            let text = |value: Value, conversion, flags: &str, width, precision| {
                format(&value, conversion, flags, width, precision)
            };
            assert_eq!(text(Value::Signed(-7), 'd', "0", 5, None), "-0007");
            assert_eq!(text(Value::Signed(42), 'd', "-", 5, None), "42   ");
            assert_eq!(text(Value::Signed(42), 'd', "+", 0, Some(4)), "+0042");
            assert_eq!(text(Value::Unsigned(255), 'x', "#", 0, None), "0xff");
            assert_eq!(text(Value::Float(1.5), 'f', "", 8, Some(2)), "    1.50");
            assert_eq!(text(Value::Float(12345.678), 'e', "", 0, Some(3)), "1.235e+04");
            assert_eq!(text(Value::Float(0.0001), 'g', "", 0, None), "0.0001");
            assert_eq!(text(Value::Float(1e10), 'g', "", 0, None), "1e+10");
            assert_eq!(text(Value::Float(f64::NAN), 'f', "0", 6, None), "   nan");
            assert_eq!(text(Value::Float(-3.0), 'a', "", 0, None), "-0x1.8p+1");
            assert_eq!(text(Value::Text("abcdef".to_owned()), 's', "", 5, Some(2)), "   ab");
        }
    }
}

//! Broken text: never a panic, never an endless parse, whatever is done to real texts.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use super::super::parse;
use super::round_trip::{real_texts, without_lines};

/// A small generator of its own, so that every run does the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Parses; what is accepted must survive the printer. Returns whether it was accepted.
fn survives(text: &str) -> bool {
    let start = Instant::now();
    let outcome = catch_unwind(|| match parse(text) {
        Ok(module) => {
            let again = parse(&module.to_string()).unwrap_or_else(|error| panic!("printed text is refused: {error}"));
            assert_eq!(without_lines(module), without_lines(again));
            true
        }
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1 && error.message.len() < 1000, "{error}");
            assert!(error.line as usize <= text.split('\n').count(), "{error}");
            false
        }
    });
    assert!(start.elapsed() < Duration::from_secs(5), "too slow on:\n{text}");
    outcome.unwrap_or_else(|_| panic!("panicked on:\n{text}"))
}

/// A text cut into pieces that are mostly tokens, blanks among them.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%');
        let length = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        pieces.push(&rest[..length]);
        rest = &rest[length..];
    }
    pieces
}

/// Two texts are enough, one of each dialect.
fn seeds() -> Vec<String> {
    let texts = real_texts();
    let wanted = ["nvrtc12_compute_80_lineinfo.ptx", "nvrtc13_compute_100.ptx"];
    texts.into_iter().filter(|(name, _)| wanted.contains(&name.as_str())).map(|(_, text)| text).collect()
}

#[test]
fn truncated_texts() {
    for text in seeds() {
        assert!(survives(&text));
        let mut accepted = 0;
        for length in (0..text.len()).step_by(7) {
            accepted += usize::from(survives(&text[..length]));
        }
        assert!(accepted > 0, "a text cut between two functions is whole");
    }
}

#[test]
fn flipped_bytes() {
    const SYMBOLS: &[u8] = b"{}()[]<>,;:.@!|+-*/%\"\\\n0x_$";
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut accepted, mut refused) = (0, 0);
    for text in seeds() {
        for _ in 0..1500 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..=random.below(4) {
                let place = random.below(bytes.len());
                bytes[place] = match random.below(3) {
                    0 => bytes[place] ^ 1 << random.below(8),
                    1 => SYMBOLS[random.below(SYMBOLS.len())],
                    _ => random.next() as u8,
                };
            }
            if survives(&String::from_utf8_lossy(&bytes)) { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused: the test has lost its bite");
}

#[test]
fn moved_tokens() {
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    let mut accepted = 0;
    for text in seeds() {
        let original = pieces(&text);
        for _ in 0..1500 {
            let mut moved = original.clone();
            for _ in 0..=random.below(3) {
                let (from, to) = (random.below(moved.len()), random.below(moved.len()));
                match random.below(4) {
                    0 => moved.swap(from, to),
                    1 => moved[to] = moved[from],
                    2 => moved.insert(to, moved[from]),
                    _ => drop(moved.remove(from)),
                }
            }
            accepted += usize::from(survives(&moved.concat()));
        }
    }
    assert!(accepted > 100, "{accepted} accepted: the test has lost its bite");
}

#[test]
fn random_tokens() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let texts = seeds();
    let mut words: Vec<&str> = texts.iter().flat_map(|text| pieces(text)).collect();
    words.sort_unstable();
    words.dedup();
    words.extend([
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "<",
        ">",
        ";",
        ",",
        ":",
        "?",
        "<<",
        "||",
        "::",
        "0f3F800000",
        "1.5",
        "-",
        "!",
        "generic",
        "@",
    ]);
    for _ in 0..20_000 {
        let mut text = ".version 8.7 .target sm_90 .address_size 64\n".to_owned();
        text.push_str(
            ["", ".entry k() {", ".global .u32 a[4] = {", ".entry k() { op.b32 ", ".entry k(", ".func "]
                [random.below(6)],
        );
        for _ in 0..random.below(40) {
            text.push_str(words[random.below(words.len())]);
            text.push_str(["", " "][random.below(2)]);
        }
        survives(&text);
    }
}

#[test]
fn long_texts_take_time_in_proportion_to_their_length() {
    let header = ".version 8.7 .target sm_90 .address_size 64\n";
    let many = |part: &str, count: usize| part.repeat(count);
    for text in [
        format!("{header}{}", many(".global .u32 a[4] = {1, 2};\n", 50_000)),
        format!("{header}.global .u32 a[] = {{{}}};", many("1,", 500_000)),
        format!("{header}.entry k() {{ {} }}", many("{}", 200_000)),
        format!("{header}.entry k() {{ {} }}", many(";", 1_000_000)),
        format!("{header}.entry k() {{ mov.b32 a, {{{}}}; }}", many("a,", 300_000)),
        format!("{header}.entry k() {{ mov{} a; }}", many(".b32", 300_000)),
        format!("{header}.section .s {{ {} }}", many(".b8 1,2\n", 200_000)),
        format!("{header}{}", many("/* */", 300_000)),
        format!("{header}{}", many("\n", 2_000_000)),
        format!("{header}.entry k() {{ {} }}", many("L: ", 300_000)),
    ] {
        let start = Instant::now();
        // Some end in a refusal; either way, what is quadratic would take minutes.
        let _ = parse(&text);
        assert!(start.elapsed() < Duration::from_secs(5), "too slow on {}…", &text[..80]);
    }
}

//! Random damage to checkpoints of every kind: whatever happens to the bytes, reading ends in tensors or an error, without
//! a panic and without reserving more memory than the file's size explains.
//!
//!     SEGFACE_FUZZ_CASES=5000000 cargo test --release -p segface --test weights_fuzz -- --nocapture
//!
//! runs longer than the default; SEGFACE_FUZZ_SEED starts elsewhere. A failure prints the case's number and saves its bytes;
//! what was found so far is in tests/weights/hostile.rs.

#[path = "pt.rs"]
mod pt;

use segface::{
    ModelSpec,
    weights::{Checkpoint, Hints},
};
use segface_codegen::manifest;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env, fs,
    io::{Cursor, Read},
    panic,
    path::{Path, PathBuf},
};

/// The system's allocator, counting what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // Threads that are ending have no counters any more; nothing is measured there.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        PEAK.with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing (constant-initialised cells).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract is the system allocator's, which made `pointer`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's contract is the system allocator's, which made `pointer`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    1 << 20,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

/// Every opcode of pickle.
const OPCODES: &[u8] =
    b"(.012FNIJKLMPQRSTUVXabc]dhgij}tloepqrsu)GBC\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\
                         \x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98";

/// One to four small damages.
fn damage(bytes: &mut Vec<u8>, random: &mut Random, alphabet: &[u8]) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.pick(alphabet),
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.pick(alphabet)),
            5 => {
                let width = random.pick(&[1, 2, 4, 8]);
                let number = random.pick(&NUMBERS).to_le_bytes();
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            6 => {
                let end = at + random.below((bytes.len() - at).min(64) + 1);
                bytes.drain(at..end);
            }
            7 => {
                let end = at + random.below((bytes.len() - at).min(64) + 1);
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => {
                // A run of one opcode: nesting, mark and memo bombs.
                let run = vec![random.pick(alphabet); random.below(300)];
                bytes.splice(at..at, run);
            }
        }
    }
}

/// The records of an archive, names and contents.
fn records(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
    (0..zip.len())
        .map(|i| {
            let mut entry = zip.by_index(i).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.name().unwrap().into_owned(), content)
        })
        .collect()
}

/// A `torch.save` file, damaged where its structure is: pickle and records with checksums made anew, or the zip directory.
fn damaged_archive(seed: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    match random.below(8) {
        0 => damage(&mut bytes, random, b"PK\x01\x02\x05\x06"),
        1 => {
            // Only the directory at the end.
            let directory = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap_or(0);
            let mut tail = bytes.split_off(directory);
            damage(&mut tail, random, b"PK\x01\x02\x05\x06\xff\x00");
            bytes.extend(tail);
        }
        _ => {
            let mut parts = records(seed);
            let index = match random.below(10) {
                0 => random.below(parts.len()),
                _ => parts.iter().position(|(name, _)| name.ends_with("data.pkl")).unwrap_or(0),
            };
            if random.below(8) == 0 {
                // Cross two pickles.
                let other = records(&others[random.below(others.len())]).swap_remove(0).1;
                let (head, tail) = (random.below(parts[index].1.len() + 1), random.below(other.len() + 1));
                parts[index].1.truncate(head);
                parts[index].1.extend_from_slice(&other[tail..]);
            }
            damage(&mut parts[index].1, random, OPCODES);
            if random.below(16) == 0 {
                let lost = random.below(parts.len());
                parts.remove(lost);
            }
            let parts: Vec<_> = parts.iter().map(|(name, content)| (name.clone(), &content[..])).collect();
            bytes = pt::zip_of(&parts);
        }
    }
    bytes
}

/// A safetensors file, damaged in its header with the length made right, or anywhere.
fn damaged_safetensors(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    if random.below(4) == 0 {
        damage(&mut bytes, random, b"{}[]\",:0123456789");
        return bytes;
    }
    let len = u64::from_le_bytes(seed[..8].try_into().unwrap()) as usize;
    let mut header = seed[8..8 + len].to_vec();
    if random.below(2) == 0 {
        // Another number in place of one.
        let starts: Vec<_> =
            (1..header.len()).filter(|&i| header[i].is_ascii_digit() && !header[i - 1].is_ascii_digit()).collect();
        let start = random.pick(&starts);
        let end = (start..header.len()).find(|&i| !header[i].is_ascii_digit()).unwrap_or(header.len());
        let number = random.pick(&NUMBERS).wrapping_add(random.next() % 3).to_string();
        header.splice(start..end, number.into_bytes());
    } else {
        damage(&mut header, random, b"{}[]\",:0123456789-.eE\\u");
    }
    [&(header.len() as u64).to_le_bytes()[..], &header, &seed[8 + len..]].concat()
}

/// The most this thread held at once during `work`, beyond what it held before.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let held = HELD.get();
    PEAK.set(held);
    let result = work();
    (result, PEAK.get() - held)
}

/// What the manifest of one network takes at most, whatever the file.
fn manifest_memory() -> isize {
    ModelSpec::all().map(|spec| peak_of(|| manifest(&spec)).1).max().unwrap_or(0)
}

/// Reads `bytes` in every way there is. Returns whether they were a checkpoint and how much memory reading them took.
fn exercise(bytes: Vec<u8>, manifest_memory: isize) -> (bool, isize) {
    let size = bytes.len() as isize;
    // Each pickle opcode may make an object of some 100 bytes; an error message is the floor.
    let bound = 32 * 1024 + 200 * size;
    let (checkpoint, peak) = peak_of(|| Checkpoint::from_memory("fuzz", bytes));
    assert!(peak < bound, "{peak} bytes were held to read a file of {size}");
    let Ok(checkpoint) = checkpoint else { return (false, peak) };
    let (_, more) = peak_of(|| {
        let values: usize = checkpoint.tensors.values().map(|tensor| tensor.values().len()).sum();
        let problems = checkpoint.recognise(Hints::default()).map(|(spec, _)| checkpoint.problems(&spec).to_string());
        (values, problems.map_err(|error| error.to_string()))
    });
    assert!(more < manifest_memory + bound, "{more} bytes were held to look at a file of {size}");
    (true, peak)
}

fn number_from_env(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn run(kind: &str, seeds: &[Vec<u8>], damaged: impl Fn(&[u8], &mut Random) -> Vec<u8>) {
    let cases = number_from_env("SEGFACE_FUZZ_CASES", 10_000);
    let first = number_from_env("SEGFACE_FUZZ_SEED", 1);
    let (mut sound, mut most) = (0, 0);
    let manifest_memory = manifest_memory();
    for case in first..first + cases {
        let mut random = Random(case.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            random.next();
        }
        let bytes = damaged(&seeds[random.below(seeds.len())], &mut random);
        let copy = bytes.clone();
        match panic::catch_unwind(|| exercise(bytes, manifest_memory)) {
            Ok((read, peak)) => {
                sound += u64::from(read);
                most = most.max(peak);
            }
            Err(_) => {
                let path = env::temp_dir().join(format!("segface-fuzz-{kind}-{case}"));
                fs::write(&path, copy).unwrap();
                panic!(
                    "{kind} case {case} (SEGFACE_FUZZ_SEED={case} SEGFACE_FUZZ_CASES=1), saved as {}",
                    path.display()
                );
            }
        }
    }
    println!("{kind}: {cases} cases from {first}, {sound} of them read, at most {most} bytes held");
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/torch_save")
}

#[test]
fn damaged_torch_files_never_panic_or_take_memory() {
    let mut seeds: Vec<Vec<u8>> =
        ["training", "every_type", "protocol_4", "protocol_5", "big_endian", "views", "data_parallel", "parameters"]
            .map(|name| fs::read(fixtures().join(format!("{name}.pt"))).unwrap())
            .into();
    seeds.push(pt::with_pickle(&pt::one_tensor(&pt::sound_view())));
    run("torch", &seeds, |seed, random| damaged_archive(seed, &seeds, random));
}

#[test]
fn damaged_safetensors_files_never_panic_or_take_memory() {
    let header = r#"{"__metadata__":{"variant":"celeb","resolution":"256"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[],"data_offsets":[24,32]},"c":{"dtype":"BF16","shape":[1,4,2],"data_offsets":[32,48]}}"#;
    let seed = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 48]].concat();
    assert!(Checkpoint::from_memory("seed", seed.clone()).is_ok());
    run("safetensors", &[seed], damaged_safetensors);
}

#[test]
fn pickles_that_make_as_many_objects_as_they_can_stay_within_bounds() {
    for greedy in [&b"]"[..], b"}\x94", b"]\x94", b"N\x94", b"(", b"2", b"N\x85", b"K\x01\x85\x94"] {
        let mut pickle = b"\x80\x04N".to_vec();
        while pickle.len() < 2_000_000 {
            pickle.extend_from_slice(greedy);
        }
        pickle.push(b'.');
        let size = pickle.len() as isize;
        let (_, peak) = exercise(pt::with_pickle(&pickle), manifest_memory());
        println!("{:?}: {} bytes held for each of the pickle", String::from_utf8_lossy(greedy), peak / size);
    }
}

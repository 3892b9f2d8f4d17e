//! The fuzz targets on the stable toolchain: every kept input, and a bounded number of changed ones.
//!
//! Owns: how inputs are changed and how many of them are tried. Must not touch: what is fed (`fuzz/targets.rs`), which
//! `scripts/fuzz` gives to libFuzzer for as long as one likes.
//! Law: the same seed gives the same inputs. One that breaks something is written down and named, to be kept in the
//! corpus. `HOLDFAST_FUZZ_SEED` and `HOLDFAST_FUZZ_SECONDS` (of each target) try others.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use targets::Target;

/// Inputs of each target in an ordinary run.
const RUNS: u64 = 2_000;
/// Nothing of what is read is longer in an ordinary run.
const LONGEST: usize = 16 * 1024;

fn corpus_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

/// Kept inputs by the names of their files.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = corpus_dir(name);
    let files = fs::read_dir(&dir).unwrap_or_else(|e| panic!("the target {name} has no corpus: {e}"));
    let mut all: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let path = file.expect("the corpus can be read").path();
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            (name, fs::read(&path).expect("the corpus can be read"))
        })
        .collect();
    all.sort();
    assert!(!all.is_empty(), "the corpus of {name} is empty");
    all
}

/// Words that mean something to somebody, numbers at the edges.
const WORDS: [&[u8]; 16] = [
    b"0",
    b"-1",
    b"18446744073709551615",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"4294967295",
    b"255",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\"\"",
    b"null",
    b"[]",
    b"{}",
    b"\n",
    b"%00",
    b"\xc3\xa9",
];

/// One input after another, made of kept ones.
struct Havoc {
    random: StdRng,
    kept: Vec<Vec<u8>>,
}

impl Havoc {
    fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.kept[self.random.random_range(0..self.kept.len())].clone();
        for _ in 0..self.random.random_range(1..=6) {
            self.change(&mut bytes);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let random = &mut self.random;
        let at = random.random_range(0..=bytes.len());
        let length = random.random_range(0..=(bytes.len() - at).min(32));
        match random.random_range(0..9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            // a hole, as a disk leaves it
            2 => bytes[at..at + length].fill(0),
            3 => bytes.insert(at, random.random()),
            4 => {
                let word = WORDS[random.random_range(0..WORDS.len())];
                drop(bytes.splice(at..at + length, word.iter().copied()));
            }
            5 => {
                let twice = bytes[at..at + length].to_vec();
                drop(bytes.splice(at..at, twice));
            }
            // the head of one and the tail of another
            6 => {
                let other = &self.kept[random.random_range(0..self.kept.len())];
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // a number becomes another one
            7 => {
                let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit).map(|next| at + next) else { return };
                let end =
                    bytes[digit..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |n| digit + n);
                let number = match random.random_range(0..4) {
                    0 => random.random::<u64>().to_string(),
                    1 => random.random::<u8>().to_string(),
                    2 => u64::MAX.to_string(),
                    _ => i64::MAX.to_string(),
                };
                drop(bytes.splice(digit..end, number.into_bytes()));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn breaks(run: fn(&[u8]), input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(input))).is_err()
}

fn feed((name, run): Target) {
    let kept = corpus(name);
    for (file, input) in &kept {
        assert!(!breaks(run, input), "the kept input fuzz/corpus/{name}/{file} breaks something: see the panic above");
    }
    let seed = setting("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    let seconds = setting("HOLDFAST_FUZZ_SECONDS").map(Duration::from_secs);
    let mut kept: Vec<Vec<u8>> = kept.into_iter().map(|(_, input)| input).collect();
    kept.push(Vec::new());
    let mut havoc = Havoc { random: StdRng::seed_from_u64(seed), kept };
    let began = Instant::now();
    for number in 0u64.. {
        if seconds.map_or(number >= RUNS, |limit| began.elapsed() >= limit) {
            println!("{name}: {number} inputs of seed {seed}");
            return;
        }
        let input = havoc.next();
        if breaks(run, &input) {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}-{seed}-{number}"));
            fs::write(&path, &input).expect("the folder is cargo's");
            panic!(
                "input {number} of seed {seed} breaks {name}: mend it, and keep {} in fuzz/corpus/{name}/\n{}",
                path.display(),
                input.escape_ascii()
            );
        }
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            feed((stringify!($name), targets::$name));
        })*

        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

each! {
    address api config folder names payloads picture playlist records sdp shape signature stream user_sig vault
}

#[test]
fn every_target_is_known_to_all_three() {
    let ours: BTreeSet<&str> = targets::ALL.into_iter().map(|(name, _)| name).collect();
    assert_eq!(ours, TESTED.iter().copied().collect(), "fuzz/targets.rs and this file");
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |dir: &str| -> BTreeSet<String> {
        let files = fs::read_dir(fuzz.join(dir)).expect("the folder is there");
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    let ours: BTreeSet<String> = ours.into_iter().map(str::to_owned).collect();
    assert_eq!(ours, names("fuzz_targets"), "libFuzzer's targets");
    assert_eq!(ours, names("corpus"), "corpora");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    assert!(ours.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))), "fuzz/Cargo.toml lacks one");
}

//! Damaged models never panic: hostile and sound files are changed at random and imported, for as long as the campaign says.
//!
//! What a mutation that still imports turns into is bound to a batch as well. The seed of the first file is fixed, so a failure comes
//! again; the file that failed is kept and named.

use crate::allocations::peak_bytes;
use crate::shared::shared;
use crate::shipped::mnist_cnn;
use bytes::Bytes;
use schema::Batch;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use tunewright::graph::infer::bind;
use tunewright::import::{Options, load_bytes};

const STACK_BYTES: usize = 512 << 10;
const CASE_SECONDS_MAX: Duration = Duration::from_secs(2);
const CASE_BYTES_MAX: i64 = 512 << 20;

/// How long: a glance by default, 20 s in the test command, ten minutes in a campaign; `TUNEWRIGHT_MUTATION_SECONDS` overrides.
fn budget() -> Duration {
    let seconds = std::env::var("TUNEWRIGHT_MUTATION_SECONDS").ok().and_then(|text| text.parse().ok());
    let campaign = || match std::env::var("TUNEWRIGHT_CAMPAIGN").as_deref() {
        Ok("campaign") => 600,
        Ok(_) => 20,
        Err(_) => 2,
    };
    Duration::from_secs(seconds.unwrap_or_else(campaign))
}

/// SplitMix64: enough for choosing places.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Numbers that decoders trip over, as varints.
const NUMBERS: &[u64] =
    &[0, 1, 2, 7, 127, 128, 255, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, 1 << 63, u64::MAX, u64::MAX - 1];

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// One to six small changes.
fn mutate(random: &mut Random, file: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(6) {
        let len = bytes.len();
        let at = random.below(len);
        let until = (at + 1 + random.below(16)).min(len);
        match random.below(8) {
            0 if len > 0 => bytes[at] ^= 1 << random.below(8),
            1 if len > 0 => bytes[at] = random.next() as u8,
            2 => {
                bytes.drain(at..until);
            }
            3 => {
                let piece = bytes[at.min(len)..until].to_vec();
                let to = random.below(len);
                bytes.splice(to..to, piece);
            }
            4 if len > 0 => {
                let number = varint(NUMBERS[random.below(NUMBERS.len())]);
                bytes.splice(at..(at + 1).min(len), number);
            }
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
                bytes.splice(at..until, piece);
            }
            6 => bytes.truncate(at.max(len / 2)),
            // A length one off: the commonest damage that gets past the outer message.
            _ if len > 0 => bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 255 }),
            _ => {}
        }
    }
    bytes
}

/// Sound and hostile files, small ones first and often: a mutation of half a megabyte of weights changes nothing.
fn corpus() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    if let Some(folder) = shared("evil/files") {
        let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        files.extend(paths.iter().map(|path| std::fs::read(path).unwrap()).filter(|bytes| bytes.len() < 20_000));
    }
    files.push(std::fs::read(mnist_cnn()).unwrap());
    files
}

/// Imports and binds; says whether it was accepted.
fn import(bytes: Vec<u8>) -> bool {
    let Ok(model) = load_bytes(Bytes::from(bytes), &Options::default()) else { return false };
    let mut graph = model.graph;
    let _ = bind(&mut graph, Batch::new(2), &BTreeMap::new());
    true
}

fn campaign() {
    let files = corpus();
    let (start, budget) = (Instant::now(), budget());
    let (mut cases, mut accepted) = (0u64, 0u64);
    while start.elapsed() < budget {
        let mut random = Random(cases);
        let (file, other) = (&files[random.below(files.len())], &files[random.below(files.len())]);
        let bytes = mutate(&mut random, file, other);
        let (begun, mut outcome) = (Instant::now(), Ok(false));
        let peak = peak_bytes(|| outcome = catch_unwind(AssertUnwindSafe(|| import(bytes.clone()))));
        let took = begun.elapsed();
        let fine = outcome.is_ok() && took < CASE_SECONDS_MAX && peak < CASE_BYTES_MAX;
        if !fine {
            let kept = std::env::temp_dir().join(format!("mutation-{cases}.onnx"));
            std::fs::write(&kept, &bytes).unwrap();
            panic!("case {cases}: panicked {}, took {took:?}, {peak} bytes; kept as {}", outcome.is_err(), kept.display());
        }
        accepted += u64::from(outcome.unwrap_or_default());
        cases += 1;
    }
    println!("{cases} mutations, {accepted} accepted, none panicked");
}

#[test]
fn damaged_models_never_panic() {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(campaign).unwrap().join().unwrap();
}

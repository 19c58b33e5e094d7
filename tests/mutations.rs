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

/// A field of a message, its payload taken apart as far as it is messages again.
#[derive(Clone)]
enum Field {
    Number(u64, u64),
    Fixed(u64, Vec<u8>),
    Bytes(u64, Vec<u8>),
    Message(u64, Vec<Field>),
}

/// Reads one varint.
fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 127).checked_shl(shift)?;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

/// A message's fields, or `None` when the bytes are none.
fn parse(bytes: &[u8], depth: usize) -> Option<Vec<Field>> {
    let (mut at, mut fields) = (0, Vec::new());
    while at < bytes.len() {
        let tag = read_varint(bytes, &mut at)?;
        let number = tag >> 3;
        if number == 0 || number > 100 {
            return None;
        }
        fields.push(match tag & 7 {
            0 => Field::Number(number, read_varint(bytes, &mut at)?),
            wire @ (1 | 5) => {
                let width = if wire == 1 { 8 } else { 4 };
                at += width;
                Field::Fixed(number, bytes.get(at - width..at)?.to_vec())
            }
            2 => {
                let len = usize::try_from(read_varint(bytes, &mut at)?).ok()?;
                let payload = bytes.get(at..at.checked_add(len)?)?;
                at += len;
                match parse(payload, depth + 1).filter(|fields| !fields.is_empty() && depth < 12) {
                    Some(fields) => Field::Message(number, fields),
                    None => Field::Bytes(number, payload.to_vec()),
                }
            }
            _ => return None,
        });
    }
    Some(fields)
}

fn write(fields: &[Field], to: &mut Vec<u8>) {
    for field in fields {
        match field {
            Field::Number(number, value) => {
                to.extend(varint(number << 3));
                to.extend(varint(*value));
            }
            Field::Fixed(number, bytes) => {
                to.extend(varint(number << 3 | if bytes.len() == 8 { 1 } else { 5 }));
                to.extend(bytes);
            }
            Field::Bytes(number, bytes) => {
                to.extend(varint(number << 3 | 2));
                to.extend(varint(bytes.len() as u64));
                to.extend(bytes);
            }
            Field::Message(number, fields) => {
                let mut inner = Vec::new();
                write(fields, &mut inner);
                to.extend(varint(number << 3 | 2));
                to.extend(varint(inner.len() as u64));
                to.extend(inner);
            }
        }
    }
}

/// Every text of a model: names, operators, which swapped for each other make graphs of another kind.
fn texts(fields: &[Field], found: &mut Vec<Vec<u8>>) {
    for field in fields {
        match field {
            Field::Bytes(_, bytes) if bytes.len() < 40 => found.push(bytes.clone()),
            Field::Message(_, fields) => texts(fields, found),
            _ => {}
        }
    }
}

/// Changes one field somewhere below, all lengths kept right: damage that gets past the reader and meets the checks behind it.
fn mutate_field(random: &mut Random, fields: &mut Vec<Field>, texts: &[Vec<u8>]) {
    if fields.is_empty() {
        return;
    }
    let at = random.below(fields.len());
    // Mostly go down; what is near the leaves is most of a model.
    if let Field::Message(_, inner) = &mut fields[at]
        && random.below(8) > 0
    {
        return mutate_field(random, inner, texts);
    }
    match (random.below(6), &mut fields[at]) {
        (0, _) => {
            fields.remove(at);
        }
        (1, _) => {
            let copy = fields[at].clone();
            fields.insert(random.below(fields.len()), copy);
        }
        (2, _) => {
            let other = random.below(fields.len());
            fields.swap(at, other);
        }
        (_, Field::Number(_, value)) => {
            *value = match random.below(3) {
                0 => NUMBERS[random.below(NUMBERS.len())],
                1 => random.next() % 30,
                _ => value.wrapping_add(1),
            };
        }
        (_, Field::Bytes(_, bytes)) if !texts.is_empty() && bytes.len() < 40 => {
            bytes.clone_from(&texts[random.below(texts.len())])
        }
        (_, Field::Bytes(_, bytes) | Field::Fixed(_, bytes)) if !bytes.is_empty() => {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        _ => {}
    }
}

/// The same file with one to four fields changed.
fn mutate_fields(random: &mut Random, file: &[u8], names: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut fields = parse(file, 0)?;
    let mut own = Vec::new();
    texts(&fields, &mut own);
    own.extend_from_slice(names);
    for _ in 0..=random.below(4) {
        mutate_field(random, &mut fields, &own);
    }
    let mut bytes = Vec::new();
    write(&fields, &mut bytes);
    Some(bytes)
}

/// Operators to put in place of each other.
fn operators() -> Vec<Vec<u8>> {
    let names = "Add Gather Reshape Slice Concat Conv MaxPool MatMul Gemm Softmax Split Pad Resize TopK Range Expand Tile Where Cast Shape \
        ReduceSum Squeeze Unsqueeze Transpose Flatten ConstantOfShape OneHot NonZero LSTM GRU Loop Scan If Einsum GatherND ScatterND \
        DepthToSpace ConvTranspose Clip Dropout LayerNormalization Attention SequenceAt SplitToSequence Identity Mod CumSum DFT STFT";
    names.split_whitespace().map(|name| name.as_bytes().to_vec()).collect()
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
    let (files, names) = (corpus(), operators());
    let (start, budget) = (Instant::now(), budget());
    let (mut cases, mut accepted) = (0u64, 0u64);
    while start.elapsed() < budget {
        let mut random = Random(cases);
        let (file, other) = (&files[random.below(files.len())], &files[random.below(files.len())]);
        // Odd cases damage bytes, even ones fields.
        let fields = if cases % 2 == 0 { mutate_fields(&mut random, file, &names) } else { None };
        let bytes = fields.unwrap_or_else(|| mutate(&mut random, file, other));
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

//! Hostile bytes for everything that decodes: an error or an answer, never a panic, never much time.
//!
//! Each target is a function of bytes; proptest feeds it noise and mutations of something valid.

use crate::campaign;
use crate::sample::{self, Random};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use schema::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tuning_db::disk::RealDisk;
use tuning_db::envelope::{self, Kind};
use tuning_db::index::{Flow, Index};
use tuning_db::journal::segment::{self, FORMAT, Frame, HEADER_BYTES, SegmentHeader};
use tuning_db::record::Record;
use tuning_db::snapshot::Snapshot;
use tuning_db::{OpenOptions, Query, Reader, Source, Store};

/// A change to valid bytes.
#[derive(Clone, Debug)]
enum Edit {
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Copy(usize, usize, usize),
}

fn edited(valid: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for edit in edits {
        let at = |n: usize, bytes: &[u8]| n % bytes.len().max(1);
        match edit {
            Edit::Set(n, byte) => {
                let n = at(*n, &bytes);
                if let Some(old) = bytes.get_mut(n) {
                    *old = *byte;
                }
            }
            Edit::Cut(n) => bytes.truncate(at(*n, &bytes)),
            Edit::Insert(n, new) => {
                let n = at(*n, &bytes);
                bytes.splice(n..n, new.iter().copied());
            }
            Edit::Copy(from, to, len) => {
                let (from, to) = (at(*from, &bytes), at(*to, &bytes));
                let part = bytes[from..(from + len).min(bytes.len())].to_vec();
                bytes.splice(to..to, part);
            }
        }
    }
    bytes
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => any::<usize>().prop_map(Edit::Cut),
        1 => (any::<usize>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (any::<usize>(), any::<usize>(), 1..100_usize).prop_map(|(from, to, len)| Edit::Copy(from, to, len)),
    ]
}

/// Noise, or what is valid with a few edits.
fn bytes_like(valid: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..400),
        4 => prop::collection::vec(edit(), 1..6).prop_map(move |edits| edited(&valid, &edits)),
    ]
}

fn run(cases: u32, valid: Vec<u8>, target: impl Fn(&[u8])) {
    let longer = campaign(1, 100) as u32;
    let mut runner = TestRunner::new(Config { cases: cases * longer, failure_persistence: None, ..Config::default() });
    runner
        .run(&bytes_like(valid), |bytes| {
            target(&bytes);
            Ok(())
        })
        .unwrap();
}

fn observation(seq: u64) -> Observation {
    sample::identified(&mut Random(seq), 7, seq)
}

/// Only what was sealed under this key opens; what opens decodes or says why not.
fn envelope(bytes: &[u8]) {
    if let Ok((_, payload)) = envelope::open(b"key", bytes) {
        let _ = envelope::decode::<Observation>(payload);
    }
    for kind in 0..=8 {
        let _ = Record::decode(kind, bytes);
    }
}

/// Frames lie inside, ascend, and hold what their sums say.
fn journal(bytes: &[u8]) {
    let writer = SegmentHeader::parse(bytes).map_or([7; 16], |header| header.writer);
    for writer in [Some(writer), segment::guess_writer(bytes, 1)].into_iter().flatten() {
        let scan = segment::scan(bytes, &writer, 1, HEADER_BYTES.min(bytes.len()));
        assert!(scan.frames.windows(2).all(|pair| pair[0].seq < pair[1].seq));
        assert!(scan.end <= bytes.len() && scan.holes.iter().all(|hole| hole.end <= bytes.len()));
        let _ = scan.without_torn_commit(bytes, HEADER_BYTES.min(bytes.len()));
    }
}

fn snapshot(db: &Path, bytes: &[u8]) {
    std::fs::write(db.join("snap/1.tws"), bytes).unwrap();
    if let Ok(snapshot) = Snapshot::open(&RealDisk, db, 1) {
        let _ = snapshot.verify();
        let _ = snapshot.get(b"T\x01key");
        let _ = snapshot.scan(&[], &[], &mut |_, _| Flow::Continue(()));
    }
}

fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Query::parse(&text) {
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn envelopes_and_records() {
    let valid = envelope::seal(b"key", Kind::Trial, &observation(3)).unwrap();
    run(10_000, valid, envelope);
    run(10_000, Record::Observation(Box::new(observation(4))).encode(), envelope);
}

#[test]
fn a_changed_envelope_never_opens() {
    let valid = envelope::seal(b"key", Kind::Trial, &observation(3)).unwrap();
    run(10_000, valid.clone(), |bytes| {
        assert!(bytes == valid || envelope::open(b"key", bytes).is_err());
        assert!(envelope::open(b"other", bytes).is_err());
    });
}

/// A codec that no version has written is refused like any unknown thing, though its sum holds.
#[test]
fn a_compressed_value_is_refused() {
    let mut value = envelope::seal(b"key", Kind::Trial, &observation(3)).unwrap();
    value[5] = 1;
    let mut sum = xxhash_rust::xxh3::Xxh3::new();
    sum.update(b"key");
    sum.update(&value[..12]);
    sum.update(&value[envelope::ENVELOPE_BYTES..]);
    let sum = sum.digest().to_le_bytes();
    value[12..20].copy_from_slice(&sum);
    assert_eq!(envelope::open(b"key", &value), Err(envelope::EnvelopeError::Unknown(Kind::Trial as u8)));
}

#[test]
fn segments() {
    let header = SegmentHeader { format: FORMAT, writer: [7; 16], number: 1, first_seq: 1, compacted: None };
    let mut valid = header.encode().to_vec();
    for seq in 1..=5 {
        let payload = Record::Observation(Box::new(observation(seq))).encode();
        segment::encode_frame(&header, &Frame { kind: 1, schema: 1, seq, payload }, (seq as u8) | 0x80, &mut valid);
    }
    assert_eq!(segment::scan(&valid, &[7; 16], 1, HEADER_BYTES).frames.len(), 5);
    run(5_000, valid, journal);
}

#[test]
fn snapshots() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() };
    let store = Store::open(dir.path(), options).unwrap();
    let mut random = Random(1);
    let tickets: Vec<_> = (0..20).map(|_| store.append(sample::any(&mut random)).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    store.close().unwrap();
    let valid = std::fs::read(dir.path().join("snap/1.tws")).unwrap();
    run(2_000, valid, |bytes| snapshot(dir.path(), bytes));
}

#[test]
fn queries() {
    let valid = "model~res* and (share<=50 or batch in (1, 16)) and not stale and p99<5ms order by throughput desc limit 5";
    run(10_000, valid.as_bytes().to_vec(), query);
    run(2_000, "(".repeat(4_000).into_bytes(), query);
}

/// The holder hangs up or refuses, and goes on answering others.
#[test]
fn the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), OpenOptions { snapshot_every: None, ..OpenOptions::default() }).unwrap();
    store.append(sample::any(&mut Random(1))).unwrap().wait().unwrap();
    let path = dir.path().join("sock");
    // A request for all model records: variant 1, one byte long.
    run(300, vec![1, 0, 0, 0, 1], |bytes| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // It may hang up before all is sent.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let _ = stream.take(1 << 20).read_to_end(&mut Vec::new());
    });
    let reader = Reader::open(dir.path(), Source::B).unwrap();
    assert_eq!(reader.model_records().unwrap().source, Source::B);
    store.close().unwrap();
}

//! Wounds: files of a database are damaged in every way, then it is opened, asked and used.
//!
//! Goal: never a wrong value, never a panic or a hang, nothing lost that a copy holds, and what is lost is counted. The panics of
//! the engine inside the library are caught; here they would fail the test by their message.

use crate::campaign;
use crate::merge::everything_of;
use crate::sample::{self, Random};
use schema::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tuning_db::{OpenOptions, Probe, Query, Reader, Source, Store};

/// The probe's child. As a test of its own it does nothing.
#[test]
fn probe_child() {
    if std::env::var_os("TUNEWRIGHT_TEST_PROBE").is_some() {
        let dir = std::env::args_os().next_back().unwrap();
        std::process::exit(tuning_db::probe_main(Path::new(&dir)));
    }
}

fn probe() -> Probe {
    Probe {
        program: std::env::current_exe().unwrap(),
        arguments: ["wounds::probe_child", "--exact", "--nocapture"].map(Into::into).to_vec(),
        variables: vec![("TUNEWRIGHT_TEST_PROBE".into(), "1".into())],
    }
}

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, serve: false, probe: Some(probe()), ..OpenOptions::default() }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Target {
    Index,
    Journal,
    Snapshot,
    Head,
    Manifest,
}

const TARGETS: [Target; 5] = [Target::Index, Target::Journal, Target::Snapshot, Target::Head, Target::Manifest];

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&source, &target);
        } else if kind.is_file() {
            fs::copy(&source, &target).unwrap();
        }
    }
}

fn files(path: &Path, target: Target) -> Vec<PathBuf> {
    fn all(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { all(&entry, into) } else { into.push(entry) }
        }
    }
    let mut found = Vec::new();
    match target {
        Target::Index => {
            for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.file_name().unwrap().to_str().unwrap().starts_with("index-") {
                    all(&entry, &mut found);
                }
            }
        }
        Target::Journal => all(&path.join("journal"), &mut found),
        Target::Snapshot => {
            all(&path.join("snap"), &mut found);
            found.retain(|file| file.extension().is_some());
        }
        Target::Head => found.push(path.join("snap/head")),
        Target::Manifest => found.push(path.join("manifest.json")),
    }
    found.sort();
    found
}

const WOUNDS: u64 = 16;

/// Damages a file; what was done.
fn wound(file: &Path, kind: u64, random: &mut Random) -> String {
    let mut bytes = fs::read(file).unwrap();
    let len = bytes.len() as u64;
    // Where there is something: a journal's and an index' tails are zeros.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
    let at = random.below(used) as usize;
    let noise = |bytes: &mut [u8], random: &mut Random| bytes.iter_mut().for_each(|byte| *byte = random.next() as u8);
    let what = match kind {
        0 | 1 => {
            bytes[at] ^= 1 << random.below(8);
            "bit"
        }
        2 | 3 => {
            bytes[at] = bytes[at].wrapping_add(1 + random.below(255) as u8);
            "byte"
        }
        4 | 5 => {
            let end = (at + 512).min(bytes.len());
            noise(&mut bytes[at..end], random);
            "512 bytes of noise"
        }
        6 | 7 => {
            let end = (at + 4096).min(bytes.len());
            noise(&mut bytes[at..end], random);
            "4 KiB of noise"
        }
        8 => {
            let end = (at + 512).min(bytes.len());
            bytes[at..end].fill(0);
            "512 zeros"
        }
        9 => {
            let other = random.below(used) as usize;
            for i in 0..512.min(bytes.len() - at.max(other)) {
                bytes.swap(at + i, other + i);
            }
            "512 bytes swapped"
        }
        10 => {
            bytes.truncate(random.below(len) as usize);
            "cut anywhere"
        }
        11 => {
            bytes.truncate(used.saturating_sub(1 + random.below(300)) as usize);
            "cut near the end"
        }
        12 => {
            bytes.clear();
            "emptied"
        }
        13 => {
            fs::remove_file(file).unwrap();
            return "deleted".into();
        }
        14 => {
            let mut more = vec![0; 1 + random.below(2_000) as usize];
            noise(&mut more, random);
            bytes.truncate(used as usize);
            bytes.extend(more);
            "noise behind the end"
        }
        _ => {
            noise(&mut bytes, random);
            "all noise"
        }
    };
    fs::write(file, bytes).unwrap();
    what.to_owned()
}

/// A database with three segments, two snapshots and a tail behind them; left open or closed.
fn make(path: &Path, clean: bool, copy_to: &Path) -> BTreeMap<ObservationId, Observation> {
    let mut random = Random(99);
    let quick = || OpenOptions { probe: None, ..options() };
    for round in 0..3 {
        let store = Store::open(path, quick()).unwrap();
        let tickets: Vec<_> = (0..80).map(|_| store.append(sample::any(&mut random)).unwrap()).collect();
        tickets.into_iter().for_each(|ticket| _ = ticket.wait().unwrap());
        store.put_task(TaskKey::of(&sample::task_text(round)), &sample::task_text(round)).unwrap();
        let (device, environment) = sample::device(round % 2);
        store.put_device(&device, &environment).unwrap();
        if round < 2 {
            store.close().unwrap();
            continue;
        }
        let written = everything_of(&store);
        if !clean {
            copy(path, copy_to);
        }
        store.close().unwrap();
        if clean {
            copy(path, copy_to);
        }
        return written;
    }
    unreachable!()
}

struct Case {
    seed: u64,
    what: String,
}

fn open_within_limit(path: &Path, case: &Case) -> Store {
    let started = Instant::now();
    let store = Store::open(path, options()).unwrap_or_else(|error| panic!("seed {} {}: {error}", case.seed, case.what));
    assert!(started.elapsed() < Duration::from_secs(12), "seed {} {}: took {:?}", case.seed, case.what, started.elapsed());
    store
}

#[test]
fn a_wound_in_one_place_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let masters = [true, false].map(|clean| {
        let copied = dir.path().join(format!("master-{clean}"));
        let written = make(&dir.path().join(format!("made-{clean}")), clean, &copied);
        (copied, written)
    });
    for seed in 0..campaign(200, 20_000) {
        let mut random = Random(seed);
        let target = TARGETS[(seed % 5) as usize];
        let clean = !(seed / 5).is_multiple_of(2);
        let (master, written) = &masters[usize::from(!clean)];
        let path = dir.path().join(format!("case-{seed}"));
        copy(master, &path);
        let files = files(&path, target);
        let file = &files[random.below(files.len() as u64) as usize];
        let kind = random.below(WOUNDS);
        let what = wound(file, kind, &mut random);
        let name = file.strip_prefix(&path).unwrap().display();
        let case = Case { seed, what: format!("{target:?} clean={clean} {name}: {what}") };
        read(&path, target, &case);
        let store = open_within_limit(&path, &case);
        let found = everything_of(&store);
        let lost: Vec<_> = written.keys().filter(|id| !found.contains_key(*id)).collect();
        assert!(found.iter().all(|(id, held)| written.get(id) == Some(held)), "seed {seed} {}: a wrong value", case.what);
        let report = store.open_report();
        let at_the_end = || found.keys().all(|kept| lost.iter().all(|id| kept.writer != id.writer || kept.seq < id.seq));
        if target == Target::Journal && !clean && lost.len() as u64 != report.lost {
            // What the killed writer's index had not written yet is in the journal alone, and an end that is gone there cannot be
            // told from one never written.
            assert!(at_the_end(), "seed {seed} {}: {report:?}", case.what);
        } else {
            let expected = if target == Target::Journal && !clean { report.lost } else { 0 };
            assert_eq!((lost.len() as u64, report.lost), (expected, expected), "seed {seed} {}: {report:?}", case.what);
        }
        let left = found.len();
        // And it goes on.
        store.append(sample::any(&mut random)).unwrap().wait().unwrap();
        store.close().unwrap();
        let again = open_within_limit(&path, &case);
        assert_eq!(again.open_report().line(), None, "seed {seed} {}", case.what);
        assert_eq!(everything_of(&again).len(), left + 1, "seed {seed} {}", case.what);
        drop(again);
        fs::remove_dir_all(&path).unwrap();
    }
}

/// A reader of the wounded database answers rightly or says why not.
fn read(path: &Path, target: Target, case: &Case) {
    let everything = Query::parse("").unwrap();
    let Ok(reader) = Reader::open(path, Source::C) else { return };
    match (reader.query(&everything), target) {
        (Ok(_), _) | (Err(_), Target::Journal) => {}
        (Err(error), _) => panic!("seed {} {}: {error}", case.seed, case.what),
    }
}

#[test]
fn what_no_copy_holds_is_counted_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let copied = dir.path().join("master");
    let written = make(&dir.path().join("made"), true, &copied);
    let mut cases_with_loss = 0;
    for seed in 0..campaign(60, 5_000) {
        let mut random = Random(seed);
        let path = dir.path().join(format!("case-{seed}"));
        copy(&copied, &path);
        // The journal is all there is.
        fs::remove_dir_all(path.join("snap")).unwrap();
        for file in files(&path, Target::Index) {
            fs::remove_file(file).unwrap();
        }
        let segments = files(&path, Target::Journal);
        // Not the last one: an end that is cut off the only copy cannot be told from one never written.
        let file = &segments[random.below(segments.len() as u64 - 1) as usize];
        let kind = random.below(14);
        let what = wound(file, kind, &mut random);
        let case = Case { seed, what: format!("{}: {what}", file.display()) };
        let store = open_within_limit(&path, &case);
        let found = everything_of(&store);
        assert!(found.iter().all(|(id, held)| written.get(id) == Some(held)), "seed {seed} {}: a wrong value", case.what);
        let lost = written.len() - found.len();
        cases_with_loss += usize::from(lost > 0);
        assert_eq!(store.open_report().lost, lost as u64, "seed {seed} {}: {:?}", case.what, store.open_report());
        store.close().unwrap();
        let again = open_within_limit(&path, &case);
        assert_eq!(again.open_report().lost, 0, "seed {seed} {}: counted twice", case.what);
        drop(again);
        fs::remove_dir_all(&path).unwrap();
    }
    assert!(cases_with_loss > 10, "only {cases_with_loss} wounds lost anything");
}

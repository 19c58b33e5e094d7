//! Check, repair, stat, diff, gc.

use crate::merge::everything_of;
use crate::sample::{self, Random};
use schema::*;
use std::fs;
use std::path::Path;
use tuning_db::history::Use;
use tuning_db::{GcOptions, OpenOptions, Query, Reader, Side, Source, Store, Verdict};

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }
}

fn write(path: &Path, seed: u64, n: u64) {
    let store = Store::open(path, options()).unwrap();
    let mut random = Random(seed);
    let tickets: Vec<_> = (0..n).map(|_| store.append(sample::any(&mut random)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| _ = ticket.wait().unwrap());
    for n in 0..2 {
        store.put_device(&sample::device(n).0, &sample::device(n).1).unwrap();
    }
    store.close().unwrap();
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    let at = at.min(bytes.len() - 1);
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[test]
fn an_empty_index_is_a_loss_only_where_the_journal_has_something() {
    let dir = tempfile::tempdir().unwrap();
    for (name, observations) in [("begun", 0), ("used", 5)] {
        let path = dir.path().join(name);
        if observations > 0 {
            write(&path, 1, observations);
        } else {
            Store::open(&path, options()).unwrap().close().unwrap();
        }
        // As a writer leaves it that is killed while the engine makes its files.
        let index = path.join("index-1");
        fs::remove_dir_all(&index).unwrap();
        fs::create_dir(&index).unwrap();
        let report = tuning_db::check(&path).unwrap();
        assert_eq!(report.frames == 0, observations == 0, "{name}");
        assert_eq!(report.is_clean(), observations == 0, "{name}: {:?}", report.findings);
        Store::open(&path, options()).unwrap().close().unwrap();
        assert!(tuning_db::check(&path).unwrap().is_clean(), "{name}");
    }
}

#[test]
fn check_finds_damage_and_repair_undoes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    write(&path, 1, 200);
    let clean = tuning_db::check(&path).unwrap();
    assert!(clean.is_clean(), "{:?}", clean.findings);
    assert_eq!((clean.observations, clean.snapshots, clean.generation), (200, 1, 1));
    assert!(tuning_db::repair(&path, options(), false).unwrap().done.is_none());
    for (file, at) in [("journal/0000000000000001.twj", 5_000), ("snap/1.tws", 3_000), ("snap/head", 20)] {
        flip(&path.join(file), at);
        let hurt = tuning_db::check(&path).unwrap();
        assert!(!hurt.is_clean(), "{file}");
        let planned = tuning_db::repair(&path, options(), true).unwrap();
        assert!(planned.done.is_none() && planned.lost == 0);
        assert_eq!(tuning_db::check(&path).unwrap().findings, hurt.findings, "a dry run changes nothing");
        let repaired = tuning_db::repair(&path, options(), false).unwrap();
        assert_eq!(repaired.lost, 0);
        let after = tuning_db::check(&path).unwrap();
        assert!(after.is_clean(), "{file}: {:?}", after.findings);
        assert_eq!(after.observations, 200);
        // The snapshots that remain may have other numbers.
        if !path.join("snap/1.tws").exists() {
            break;
        }
    }
}

#[test]
fn figures_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    write(&path, 2, 300);
    let reader = Reader::open(&path, Source::Auto).unwrap();
    let stat = tuning_db::stat(&reader).unwrap();
    assert_eq!(stat.observations, 300);
    assert_eq!(stat.devices.iter().map(|device| device.trials + device.finals + device.models).sum::<u64>(), 300);
    assert!(stat.devices.iter().all(|device| device.stale > 0 && device.stale_why.keys().all(|why| why.starts_with("driver "))));
    // Every observation is in one environment, and all but the current one of a device are stale.
    assert_eq!(stat.environments.iter().map(|environment| environment.observations).sum::<u64>(), 300);
    assert_eq!(
        stat.environments.iter().filter(|environment| environment.stale).map(|old| old.observations).sum::<u64>(),
        stat.devices.iter().map(|device| device.stale).sum::<u64>()
    );
    assert_eq!(stat.environments.iter().map(|environment| environment.first_s).min(), stat.first_s);
    assert_eq!(stat.environments.iter().map(|environment| environment.last_s).max(), stat.last_s);
    assert!(stat.environments.iter().any(|environment| environment.environment.contains("driver=575")));
    assert!(stat.journal_bytes > 0 && stat.index_bytes > 0 && stat.snapshot_bytes > 0 && stat.measured_ns > 0);
    let record = Random(3);
    let bytes = tuning_db::check::record_bytes(
        &sample::trial(&mut Random(record.0)).with_id(ObservationId { writer: [1; 16], seq: 1_000_000 }),
    );
    assert!(bytes <= 250, "a trial takes {bytes} bytes in the index");
}

#[test]
fn a_difference_is_seen_only_beyond_the_noise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut new = sample::model(&mut Random(1));
    let at = |median: u64| {
        let timing = Timing { median: Picos(median), mad: Picos(1_000), p99: Picos(median), n: 30, grade: NoiseGrade::A };
        Outcome::Ok { timing, ratio: None }
    };
    let run = |new: &NewObservation| {
        let store = Store::open(&path, options()).unwrap();
        store.append(new.clone()).unwrap().wait().unwrap();
        store.close().unwrap();
    };
    (new.outcome, new.environment) = (at(1_000_000), sample::environment(575).key());
    run(&new);
    let same = tuning_db::diff(&path, &Side::parse("@1"), &Side::parse("@1")).unwrap();
    assert!(!same.differs() && same.changes.len() == 1);
    new.outcome = at(900_000);
    run(&new);
    let diff = tuning_db::diff(&path, &Side::parse("@1"), &Side::parse("@2")).unwrap();
    assert_eq!(diff.changes[0].verdict, Verdict::Faster);
    assert!(diff.differs());
    new.outcome = at(899_000);
    run(&new);
    let other = dir.path().join("other");
    write(&other, 5, 1);
    let gone = tuning_db::diff(&path, &Side::Generation(3), &Side::Database(other)).unwrap();
    assert!(gone.changes.iter().any(|change| change.verdict == Verdict::Gone));
    let error = tuning_db::diff(&path, &Side::parse("@1"), &Side::parse("@3")).unwrap_err();
    assert!(error.to_string().contains("there are @2, @3"), "{error}");
    // Two drivers.
    let store = Store::open(&path, options()).unwrap();
    (new.outcome, new.environment) = (at(1_500_000), sample::environment(560).key());
    let (mut device, _) = sample::device(0);
    if device.key() != new.device {
        device = sample::device(1).0;
    }
    store.put_device(&device, &sample::environment(575)).unwrap();
    store.put_device(&device, &sample::environment(560)).unwrap();
    store.append(new.clone()).unwrap().wait().unwrap();
    store.close().unwrap();
    let diff = tuning_db::diff(&path, &Side::parse("driver=575"), &Side::parse("driver=560")).unwrap();
    assert_eq!(diff.changes.iter().map(|change| change.verdict).collect::<Vec<_>>(), [Verdict::Slower]);
}

#[test]
fn gc_drops_what_nothing_rests_on_and_a_merge_does_not_bring_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("db"), dir.path().join("copy"));
    for round in 0..3 {
        write(&path, 10 + round, 150);
    }
    let store = Store::open(&copy, options()).unwrap();
    tuning_db::merge(&store, &path).unwrap();
    let all = everything_of(&store);
    store.close().unwrap();
    let now = 1_770_000_000;
    let gc = |options_: GcOptions| tuning_db::gc(&path, options(), options_).unwrap();
    let best_rows = || {
        let reader = Reader::open(&path, Source::C).unwrap();
        reader.query(&Query::parse("winner or stale").unwrap()).unwrap().rows
    };
    let rows = best_rows();
    let young = gc(GcOptions { older_s: 10 * 365 * 86_400, ..GcOptions::at(now) });
    assert_eq!((young.dropped, young.observations), (0, 450));
    let planned = gc(GcOptions { dry_run: true, keep: 1, older_s: 0, ..GcOptions::at(now) });
    assert!(planned.dropped > 225 && planned.needs_force);
    assert!(gc(GcOptions { keep: 1, older_s: 0, ..GcOptions::at(now) }).needs_force);
    let done = gc(GcOptions { keep: 1, older_s: 0, force: true, ..GcOptions::at(now) });
    assert_eq!(done.dropped, planned.dropped);
    assert!(done.journal_bytes_after < done.journal_bytes_before);
    assert_eq!(best_rows(), rows, "what is asked for is as before");
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(store.open_report().line(), None);
    let left = everything_of(&store);
    assert_eq!(left.len() as u64, 450 - done.dropped);
    let merged = tuning_db::merge(&store, &copy).unwrap();
    assert_eq!((merged.added, merged.known), (0, 450));
    assert_eq!(everything_of(&store), left);
    store.close().unwrap();
    let check = tuning_db::check(&path).unwrap();
    assert!(check.is_clean(), "{:?}", check.findings);
    // The tombstones travel the other way too.
    let store = Store::open(&copy, options()).unwrap();
    assert_eq!(everything_of(&store), all);
    tuning_db::merge(&store, &path).unwrap();
    assert_eq!(everything_of(&store), left);
}

#[test]
fn the_newest_two_snapshots_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    for round in 0..4 {
        write(&path, round, 3);
    }
    let mut names: Vec<_> = fs::read_dir(path.join("snap")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["3.tws", "4.tws", "head"]);
}

/// What is said of an observation: the same thing measured before and after, in which environment, and what came of it.
#[test]
fn an_observation_has_a_history_and_uses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut new = sample::trial(&mut Random(1));
    new.subject = Subject::Trial { task: TaskKey::of("task"), config: sample::config(7) };
    let (device, current) = sample::device(0);
    (new.device, new.share) = (device.key(), Share::WHOLE);
    let measured = |driver: u64, median: u64| {
        let timing = Timing { median: Picos(median), mad: Picos(1_000), p99: Picos(median), n: 30, grade: NoiseGrade::A };
        let environment = sample::environment(driver).key();
        NewObservation { environment, outcome: Outcome::Ok { timing, ratio: None }, ..new.clone() }
    };
    let store = Store::open(&path, options()).unwrap();
    let append = |new: NewObservation| store.append(new).unwrap().wait().unwrap();
    store.put_device(&device, &current).unwrap();
    let stale = append(measured(560, 5_000_000));
    let first = append(measured(575, 7_000_000));
    let second = append(measured(575, 9_000_000));
    let mut faster = measured(575, 1_000_000);
    faster.subject = Subject::Trial { task: TaskKey::of("task"), config: sample::config(8) };
    append(faster);
    store.close().unwrap();
    let reader = Reader::open(&path, Source::Auto).unwrap();
    let account = |id: ObservationId| {
        let everything = Query::parse("").unwrap();
        let found = reader.tables(&|index| {
            let mut found = None;
            tuning_db::query::eval::observations(index, &everything, &mut |observation| {
                found = found.take().or((observation.id == id).then_some(observation));
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
            tuning_db::history::account(tuning_db::tables::Tables(index), found.unwrap())
        });
        found.unwrap()
    };
    let told = account(first);
    assert_eq!((told.seen.generation, told.seen.stale), (Some(1), false));
    assert_eq!(
        told.history.iter().map(|seen| (seen.observation.id, seen.stale)).collect::<Vec<_>>(),
        [(second, false), (stale, true)]
    );
    let [Use::Best { rank: 2, of: 2, best }] = &told.uses[..] else { panic!("{:?}", told.uses) };
    assert_eq!((best.found.observations, best.stale), (2, false));
    let [Use::Best { rank: 1, of: 1, best }] = &account(stale).uses[..] else { panic!("used within its environment") };
    assert!(best.stale);
}

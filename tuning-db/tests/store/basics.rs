//! The ordinary life of a store.

use crate::sample::{self, Random};
use crate::wounds::copy;
use schema::*;
use std::path::Path;
use std::sync::Arc;
use tuning_db::index::{Changes, Flow, Index, IndexError};
use tuning_db::{Of, OpenOptions, Query, Reader, Source, Store, StoreError};

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, ..OpenOptions::default() }
}

fn fill(store: &Store, seed: u64, n: u64) -> Vec<Observation> {
    let mut random = Random(seed);
    let new: Vec<NewObservation> = (0..n).map(|_| sample::any(&mut random)).collect();
    let tickets: Vec<_> = new.iter().map(|new| store.append(new.clone()).unwrap()).collect();
    new.into_iter().zip(tickets).map(|(new, ticket)| new.with_id(ticket.wait().unwrap())).collect()
}

fn all_trials(store: &Store) -> Vec<Observation> {
    let mut found: Vec<Observation> =
        (0..4).flat_map(|n| store.trials_of_task(TaskKey::of(&sample::task_text(n))).unwrap()).collect();
    found.sort_by_key(|observation| observation.id);
    found
}

fn is_trial(observation: &Observation) -> bool {
    !matches!(observation.subject, Subject::Model(_))
}

#[test]
fn what_a_ticket_confirmed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut written = Vec::new();
    for round in 0..3 {
        let store = Store::open(&path, options()).unwrap();
        assert_eq!(store.open_report().line(), None);
        written.extend(fill(&store, round, 100).into_iter().filter(is_trial));
        written.sort_by_key(|observation| observation.id);
        assert_eq!(all_trials(&store), written);
        store.close().unwrap();
    }
}

#[test]
fn bests_come_fastest_first_and_stale_ones_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db"), options()).unwrap();
    let written = fill(&store, 5, 400);
    let (device, environment) = sample::device(0);
    store.put_device(&device, &environment).unwrap();
    let task = TaskKey::of(&sample::task_text(1));
    let bests = store.bests(task, device.key(), Share::WHOLE, Numerics::Strict, 40).unwrap();
    assert!(bests.len() > 5 && bests.iter().any(|best| best.stale));
    let order: Vec<_> = bests.iter().map(|best| (best.stale, best.found.timing.median)).collect();
    assert!(order.is_sorted(), "{order:?}");
    let of_one = bests.first().unwrap();
    let measured = written.iter().filter(|observation| {
        matches!(&observation.subject, Subject::Trial { task: t, config } | Subject::Final { task: t, config }
            if *t == task && *config == of_one.found.config)
            && matches!(observation.outcome, Outcome::Ok { .. })
            && (observation.device, observation.share, observation.numerics, observation.environment)
                == (device.key(), Share::WHOLE, Numerics::Strict, environment.key())
    });
    assert_eq!(measured.count() as u32, of_one.found.observations);
    assert!(store.was_tried(task, device.key(), Share::WHOLE, &of_one.found.config).unwrap());
    assert!(!store.was_tried(task, device.key(), Share::WHOLE, &sample::config(1_000)).unwrap());
}

#[test]
fn names_and_devices_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    let text = sample::task_text(0);
    store.put_task(TaskKey::of(&text), &text).unwrap();
    store.put_task(TaskKey::of(&text), &text).unwrap();
    assert!(matches!(store.put_task(TaskKey::of("other"), &text), Err(StoreError::Input { .. })));
    store.put_model(sample::model_key(0), "model0").unwrap();
    let (device, environment) = sample::device(0);
    store.put_device(&device, &environment).unwrap();
    store.put_device(&device, &sample::environment(580)).unwrap();
    let devices = store.devices().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!(
        devices.iter().filter(|row| row.current).map(|row| &row.environment.text).collect::<Vec<_>>(),
        [&sample::environment(580).text]
    );
    store.close().unwrap();
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(store.task_text(TaskKey::of(&text)).unwrap(), Some(text));
    assert_eq!(store.devices().unwrap(), devices);
}

#[test]
fn a_second_writer_is_told_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let _held = Store::open(&path, options()).unwrap();
    let error = Store::open(&path, options()).err().unwrap();
    assert_eq!(error.class(), "db.locked");
    assert!(matches!(error, StoreError::Locked { pid, .. } if pid == std::process::id()));
}

#[test]
fn reading_makes_no_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    assert!(matches!(Reader::open(&path, Source::Auto), Err(StoreError::Missing { .. })));
    let without = OpenOptions { create: false, ..options() };
    assert!(matches!(Store::open(&path, without), Err(StoreError::Missing { .. })));
    assert!(!Path::new(&path).exists());
}

#[test]
fn a_generation_is_published_when_something_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(store.publish_snapshot().unwrap(), 0);
    fill(&store, 1, 10);
    assert_eq!(store.publish_snapshot().unwrap(), 1);
    assert_eq!(store.publish_snapshot().unwrap(), 1);
    fill(&store, 2, 10);
    store.close().unwrap();
    let reader = Reader::open(&path, Source::C).unwrap();
    assert_eq!(reader.generation(), 2);
    let rows = reader.query(&Query::parse("").unwrap()).unwrap();
    assert_eq!((rows.generation, rows.source), (2, Some(Source::C)));
}

/// An index that is on disk after every commit.
struct Flushed(Box<dyn Index>);

impl Index for Flushed {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        self.0.scan(from, to, f)
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), IndexError> {
        self.0.apply(changes)?;
        self.0.hint_flush()
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        self.0.hint_flush()
    }
}

/// Writer is killed when its last observations are in the index and in no snapshot: they get the generation of its successor.
#[test]
fn what_a_killed_writer_left_gets_a_generation() {
    let dir = tempfile::tempdir().unwrap();
    let (path, killed) = (dir.path().join("db"), dir.path().join("killed"));
    let between: tuning_db::Between = Arc::new(|index| Ok(Box::new(Flushed(index))));
    let store = Store::open(&path, OpenOptions { between: Some(between), ..options() }).unwrap();
    fill(&store, 1, 20);
    store.publish_snapshot().unwrap();
    fill(&store, 2, 20);
    copy(&path, &killed);
    let unpublished = Query::parse("generation is null").unwrap().of(Of::Trials);
    assert!(store.query(&unpublished).unwrap().rows.len() > 10);
    let store = Store::open(&killed, options()).unwrap();
    assert_eq!(store.open_report().replayed, 0, "the index was up to date");
    store.publish_snapshot().unwrap();
    assert_eq!(store.query(&unpublished).unwrap().rows.len(), 0);
    let second = Query::parse("generation=2").unwrap().of(Of::Trials);
    assert!(store.query(&second).unwrap().rows.len() > 10);
}

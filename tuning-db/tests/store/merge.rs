//! Union: order, splitting and repetition change nothing.

use crate::campaign;
use crate::sample::{self, Random};
use crate::wounds::copy;
use proptest::prelude::*;
use schema::*;
use std::collections::BTreeMap;
use tuning_db::index::Index;
use tuning_db::index_btree::BTreeIndex;
use tuning_db::ingest::{Dropped, Ingest, derive_all};
use tuning_db::key::{table, whole};
use tuning_db::record::{Record, Tombstone};
use tuning_db::{ExportReport, ImportOptions, OpenOptions, Query, Reader, Source, Store};

/// All observations of a store made of samples.
pub fn everything_of(store: &Store) -> BTreeMap<ObservationId, Observation> {
    let tasks = (0..4).map(|n| TaskKey::of(&sample::task_text(n)));
    // Runs of a model are kept like trials of a task, under the model's key.
    let models = (0..3).map(|n| TaskKey(sample::model_key(n).0));
    let mut found = BTreeMap::new();
    for observation in tasks.chain(models).flat_map(|task| store.trials_of_task(task).unwrap()) {
        assert!(found.insert(observation.id, observation).is_none(), "an id twice");
    }
    found
}

pub fn take_in(index: &mut BTreeIndex, records: &[Record]) {
    let dropped = Dropped::load(index).unwrap();
    let mut ingest = Ingest::new(index, dropped);
    records.iter().for_each(|record| ingest.record(record).unwrap());
    let (changes, _) = ingest.finish();
    index.apply(&changes).unwrap();
}

fn tables(index: &BTreeIndex) -> Vec<(Vec<u8>, Vec<u8>)> {
    index.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn records(seed: u64, n: u64) -> Vec<Record> {
    let mut random = Random(seed);
    let mut records: Vec<Record> =
        (0..n).map(|seq| Record::Observation(Box::new(sample::identified(&mut random, (seq % 3) as u8, seq)))).collect();
    records.extend((0..4).map(|n| Record::Task { key: TaskKey::of(&sample::task_text(n)), text: sample::task_text(n) }));
    records.push(Record::Model { key: sample::model_key(0), name: "zoo/model0".into() });
    records.push(Record::Model { key: sample::model_key(0), name: "model0".into() });
    for (revision, flops) in [(1, 10), (2, 30), (2, 20)] {
        let features = Features { flops, ..Features::default() };
        let (model, batch) = (sample::model_key(0), Batch::new(4).unwrap());
        let dims = vec![("seq".to_owned(), 128)];
        records.push(Record::Features(Box::new(ModelFeatures { model, batch, dims, revision, features })));
    }
    if seed.is_multiple_of(3) {
        let dropped = BTreeMap::from([([1; 16], vec![(4, 9), (20, 30)]), ([2; 16], vec![(2, 2)])]);
        records.push(Record::Tombstone(Tombstone { dropped }));
    }
    if seed.is_multiple_of(4) {
        // Two or three observations of one id.
        for again in 0..1 + seed % 2 {
            let Record::Observation(first) = &records[0] else { unreachable!() };
            let mut observation = (**first).clone();
            observation.seed = Seed(100 + again);
            records.push(Record::Observation(Box::new(observation)));
        }
    }
    records
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for i in (1..items.len()).rev() {
        items.swap(i, random.below(i as u64 + 1) as usize);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: campaign(300, 10_000) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_are_a_function_of_the_set(seed in 0u64..1_000_000, n in 1u64..250) {
        let mut all = records(seed, n);
        let mut one = BTreeIndex::default();
        take_in(&mut one, &all);
        // Permuted, with repetitions, in parts.
        let mut random = Random(seed ^ 1);
        let again: Vec<Record> = (0..n / 3).map(|_| all[random.below(all.len() as u64) as usize].clone()).collect();
        all.extend(again);
        shuffle(&mut all, &mut random);
        let mut other = BTreeIndex::default();
        let part = 1 + random.below(all.len() as u64) as usize;
        all.chunks(part).for_each(|part| take_in(&mut other, part));
        prop_assert!(tables(&one) == tables(&other));
        // And what is derived one by one is what is derived at once.
        let trials = whole(table::TRIALS);
        let at_once = derive_all(one.0.range(trials.0.clone()..trials.end())).unwrap();
        let derived = one.0.iter().filter(|(key, _)| [table::BESTS, table::MODELS].contains(&key[0]));
        prop_assert!(derived.map(|(key, value)| (key.clone(), value.clone())).eq(at_once));
    }
}

#[test]
fn at_most_32_bests_are_kept_and_they_are_the_fastest() {
    // One group of many configs, each measured several times, so that configs rise and fall.
    let mut random = Random(9);
    let task = TaskKey::of("task");
    let device = sample::device(0).0.key();
    let mut observations = Vec::new();
    for seq in 0..400 {
        let mut observation = sample::trial(&mut random).with_id(ObservationId { writer: [1; 16], seq });
        observation.subject = Subject::Trial { task, config: sample::config(random.below(60)) };
        (observation.device, observation.share, observation.numerics) = (device, Share::WHOLE, Numerics::Strict);
        observation.environment = sample::environment(575).key();
        observation.outcome = Outcome::Ok { timing: sample::timing(&mut random), ratio: None };
        observations.push(Record::Observation(Box::new(observation)));
    }
    let mut index = BTreeIndex::default();
    for part in observations.chunks(7) {
        take_in(&mut index, part);
        let trials = whole(table::TRIALS);
        let at_once = derive_all(index.0.range(trials.0.clone()..trials.end())).unwrap();
        let bests = whole(table::BESTS);
        let held: Vec<_> = index.0.range(bests.0.clone()..bests.end()).map(|(key, value)| (key.clone(), value.clone())).collect();
        assert!(held == at_once && held.len() <= 32);
    }
}

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }
}

fn write(store: &Store, seed: u64, n: u64) {
    let mut random = Random(seed);
    let tickets: Vec<_> = (0..n).map(|_| store.append(sample::any(&mut random)).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| _ = ticket.wait().unwrap());
    let text = sample::task_text(seed % 4);
    store.put_task(TaskKey::of(&text), &text).unwrap();
}

#[test]
fn merging_is_a_union_and_merging_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for (path, seed) in [(&a, 1), (&b, 2)] {
        let store = Store::open(path, options()).unwrap();
        write(&store, seed, 80);
        store.put_device(&sample::device(seed).0, &sample::device(seed).1).unwrap();
        store.close().unwrap();
    }
    let store = Store::open(&a, options()).unwrap();
    let before = everything_of(&store);
    let report = tuning_db::merge(&store, &b).unwrap();
    assert_eq!((report.added, report.known, report.conflicts), (80, 0, 0));
    assert!(report.others > 0);
    let merged = everything_of(&store);
    assert_eq!(merged.len(), 160);
    assert!(before.iter().all(|(id, observation)| merged.get(id) == Some(observation)));
    let again = tuning_db::merge(&store, &b).unwrap();
    assert_eq!((again.added, again.known, again.conflicts, again.others), (0, 80, 0, 0));
    store.close().unwrap();
    // What was merged survives the loss of the index.
    for entry in std::fs::read_dir(&a).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.file_name().unwrap().to_str().unwrap().starts_with("index-") {
            std::fs::remove_dir_all(entry).unwrap();
        }
    }
    let store = Store::open(&a, options()).unwrap();
    assert_eq!(everything_of(&store), merged);
}

/// What was measured knowing of another observation is newer than it, whatever numbers the other database had come to.
#[test]
fn what_is_measured_after_an_import_is_newer_than_what_was_imported() {
    let dir = tempfile::tempdir().unwrap();
    let (long, short) = (dir.path().join("long"), dir.path().join("short"));
    let store = Store::open(&long, options()).unwrap();
    write(&store, 1, 300);
    let last = everything_of(&store).into_keys().max_by_key(|id| id.order()).unwrap();
    store.close().unwrap();
    let mut text = Vec::new();
    tuning_db::export(&Reader::open(&long, Source::Auto).unwrap(), &Query::parse("").unwrap(), &mut text).unwrap();
    // A part of it, as of a query: the schema, and the last observation.
    let text = String::from_utf8(text).unwrap();
    let part: Vec<&str> =
        text.lines().enumerate().filter(|(n, line)| *n == 0 || line.contains(&last.to_string())).map(|(_, line)| line).collect();
    let store = Store::open(&short, options()).unwrap();
    write(&store, 2, 3);
    let imported = tuning_db::import(&store, &mut part.join("\n").as_bytes(), ImportOptions::default()).unwrap();
    assert_eq!(imported.merged.added, 1);
    let mut random = Random(3);
    let mut measure = |store: &Store| store.append(sample::any(&mut random)).unwrap().wait().unwrap();
    let (first, second) = (measure(&store), measure(&store));
    assert!(last.order() < first.order() && first.order() < second.order(), "{last}, {first}, {second}");
    // A process that was killed here: its successor knows as much.
    let killed = dir.path().join("killed");
    copy(&short, &killed);
    store.close().unwrap();
    for path in [&killed, &short] {
        let store = Store::open(path, options()).unwrap();
        let third = measure(&store);
        assert!(second.order() < third.order(), "{second}, {third}");
        store.close().unwrap();
    }
}

#[test]
fn a_number_that_no_database_comes_to_ends_no_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let store = Store::open(&a, options()).unwrap();
    write(&store, 1, 1);
    store.close().unwrap();
    let mut text = Vec::new();
    tuning_db::export(&Reader::open(&a, Source::Auto).unwrap(), &Query::parse("").unwrap(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let id = text.lines().find_map(|line| Some(line.split_once("\"id\":\"")?.1.split_once('"')?.0)).unwrap();
    let evil = format!("{}:{}", id.split_once(':').unwrap().0, u64::MAX);
    let store = Store::open(&b, options()).unwrap();
    let imported = tuning_db::import(&store, &mut text.replace(id, &evil).as_bytes(), ImportOptions::default()).unwrap();
    assert_eq!(imported.merged.added, 1);
    write(&store, 2, 5);
    assert_eq!(everything_of(&store).len(), 6);
    assert_eq!(everything_of(&store).keys().filter(|id| id.seq > 100).count(), 1);
}

#[test]
fn one_id_with_two_contents_is_set_aside_and_used_by_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for (path, seed) in [(&a, 1), (&b, 2)] {
        let store = Store::open(path, OpenOptions { writer: Some([7; 16]), ..options() }).unwrap();
        write(&store, seed, 20);
        store.close().unwrap();
    }
    let store = Store::open(&a, options()).unwrap();
    let report = tuning_db::merge(&store, &b).unwrap();
    assert_eq!((report.added, report.conflicts), (0, 40));
    assert!(everything_of(&store).is_empty());
    store.close().unwrap();
    assert!(tuning_db::check(&a).unwrap().is_clean());
    assert_eq!(tuning_db::check(&a).unwrap().conflicts, 40);
}

#[test]
fn an_export_imports_into_the_same_database() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let store = Store::open(&a, options()).unwrap();
    write(&store, 3, 120);
    let before = everything_of(&store);
    store.close().unwrap();
    let mut text = Vec::new();
    let reader = Reader::open(&a, Source::Auto).unwrap();
    let report = tuning_db::export(&reader, &Query::parse("").unwrap(), &mut text).unwrap();
    assert_eq!(report, ExportReport { observations: 120, others: 1 });
    let store = Store::open(&b, options()).unwrap();
    let imported = tuning_db::import(&store, &mut text.as_slice(), ImportOptions::default()).unwrap();
    assert_eq!((imported.merged.added, imported.lines), (120, 122));
    assert_eq!(everything_of(&store), before);
    // A part, by a query.
    let mut part = Vec::new();
    let query = Query::parse("share<=50 and refused").unwrap();
    let report = tuning_db::export(&reader, &query, &mut part).unwrap();
    let failed = |observation: &&Observation| {
        matches!(observation.outcome, Outcome::Failed { .. }) && observation.share.as_percent() <= 50.0
    };
    assert_eq!(report.observations, before.values().filter(failed).count() as u64);
    // A bad line is refused by number and nothing is taken in; or left out.
    let mut lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    lines.insert(5, b"{\"kind\":\"observation\"}\n");
    let bad = lines.concat();
    let c = Store::open(&dir.path().join("c"), options()).unwrap();
    let error = tuning_db::import(&c, &mut bad.as_slice(), ImportOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("line 6: "), "{error}");
    assert!(everything_of(&c).is_empty());
    let kept = tuning_db::import(&c, &mut bad.as_slice(), ImportOptions { keep_going: true }).unwrap();
    assert_eq!((kept.refused.len(), kept.refused[0].0, kept.merged.added), (1, 6, 120));
    let no_schema = tuning_db::import(&c, &mut &text[text.len() / 2..], ImportOptions::default());
    assert!(no_schema.is_err());
}

/// What models are like travels every way that names do: a reader's, a rebuilt index', a merge's, an export's; saying it again changes
/// nothing, and a newer revision replaces an older one.
#[test]
fn features_go_where_observations_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let features = |rows, revision| ModelFeatures {
        model: sample::model_key(0),
        batch: Batch::new(rows).unwrap(),
        dims: vec![],
        revision,
        features: Features { flops: 1000 * u64::from(rows), depth: u32::from(revision), ..Features::default() },
    };
    let store = Store::open(&path("a"), options()).unwrap();
    for said in [features(1, 1), features(4, 1), features(4, 2), features(4, 2), features(4, 1)] {
        store.put_features(&said).unwrap();
    }
    write(&store, 1, 3);
    store.close().unwrap();
    let known = |name: &str| Reader::open(&path(name), Source::C).unwrap().model_features().unwrap();
    let mut expected = known("a");
    expected.sort_by_key(|features| features.batch);
    assert_eq!(expected, [features(1, 1), features(4, 2)]);
    for entry in std::fs::read_dir(path("a")).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_name().to_string_lossy().starts_with("index-") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    Store::open(&path("a"), options()).unwrap().close().unwrap();
    let store = Store::open(&path("b"), options()).unwrap();
    store.put_features(&features(4, 1)).unwrap();
    let merged = tuning_db::merge(&store, &path("a")).unwrap();
    assert_eq!(merged.added, 3);
    store.close().unwrap();
    let mut text = Vec::new();
    tuning_db::export(&Reader::open(&path("b"), Source::Auto).unwrap(), &Query::parse("").unwrap(), &mut text).unwrap();
    let store = Store::open(&path("c"), options()).unwrap();
    tuning_db::import(&store, &mut text.as_slice(), ImportOptions::default()).unwrap();
    store.close().unwrap();
    for name in ["a", "b", "c"] {
        let mut found = known(name);
        found.sort_by_key(|features| features.batch);
        assert_eq!(found, expected, "{name}");
    }
}

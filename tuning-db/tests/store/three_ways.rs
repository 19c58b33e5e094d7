//! Three ways to read, one answer.

use crate::campaign;
use crate::sample::{self, Random};
use schema::*;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tuning_db::{Of, OpenOptions, Query, Reader, Source, Store, StoreError};

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, ..OpenOptions::default() }
}

fn work(store: &Store, random: &mut Random) {
    for _ in 0..random.below(4) {
        let tickets: Vec<_> = (0..random.below(60)).map(|_| store.append(sample::any(random)).unwrap()).collect();
        tickets.into_iter().for_each(|ticket| _ = ticket.wait().unwrap());
        let n = random.below(4);
        store.put_task(TaskKey::of(&sample::task_text(n)), &sample::task_text(n)).unwrap();
        if random.chance(50) {
            let (device, _) = sample::device(random.below(2));
            store.put_device(&device, &sample::environment([560, 575][random.below(2) as usize])).unwrap();
        }
        if random.chance(40) {
            store.publish_snapshot().unwrap();
        }
    }
    // A last ticket makes everything before it durable.
    store.append(sample::any(random)).unwrap().wait().unwrap();
}

fn query(random: &mut Random) -> Query {
    let values = [
        "model=model1",
        "device~cpu*",
        "share<=50",
        "batch in (1, 4)",
        "p99<400us",
        "noise<=B",
        "ratio>1",
        "not stale",
        "stale",
        "winner",
        "refused",
        "generation>=1",
        "generation is null",
        "op=gemm",
        "class=crash",
        "energy is null",
        "driver~575*",
        "throughput>100",
        "memory<2MiB",
        "config~*cols*",
        "numerics=relaxed",
        "age<30d",
        "n>=10",
    ];
    let keys = ["p99", "share desc", "model", "throughput desc", "batch", "config desc", "age"];
    let mut text = String::new();
    for i in 0..random.below(4) {
        if i > 0 {
            text += [" and ", " or "][random.below(2) as usize];
        }
        text += values[random.below(values.len() as u64) as usize];
    }
    if random.chance(50) {
        text += &format!(" order by {}", keys[random.below(keys.len() as u64) as usize]);
    }
    if random.chance(30) {
        text += &format!(" limit {}", random.below(20));
    }
    let of = Of::ALL[random.below(5) as usize].1;
    Query::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}")).of(of).at(1_761_000_000)
}

fn answer(path: &Path, source: Source, query: &Query) -> String {
    let rows = Reader::open(path, source).unwrap().query(query).unwrap_or_else(|error| panic!("{source:?}: {error}"));
    assert_eq!(rows.source, Some(source));
    let mut json = rows.to_json();
    for way in ["source", "stale_by_ns"] {
        json.as_object_mut().unwrap().shift_remove(way);
    }
    json.to_string()
}

#[test]
fn all_ways_give_the_same_bytes() {
    let databases = campaign(12, 200);
    let queries = campaign(30, 200);
    for seed in 0..databases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut random = Random(seed);
        let store = Store::open(&path, options()).unwrap();
        work(&store, &mut random);
        for _ in 0..queries {
            let query = query(&mut random);
            assert_eq!(answer(&path, Source::B, &query), answer(&path, Source::C, &query), "seed {seed}: {}", query.text);
        }
        store.close().unwrap();
        for _ in 0..queries {
            let query = query(&mut random);
            assert_eq!(answer(&path, Source::A, &query), answer(&path, Source::C, &query), "seed {seed}: {}", query.text);
        }
    }
}

#[test]
fn the_first_way_that_works_is_taken_and_a_forced_one_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    work(&store, &mut Random(3));
    let everything = Query::parse("").unwrap();
    let source = |source| Reader::open(&path, source).unwrap().query(&everything).map(|rows| rows.source.unwrap());
    assert_eq!(source(Source::Auto).unwrap(), Source::B);
    match source(Source::A) {
        Err(StoreError::Unreadable { reasons, class, .. }) => {
            assert!(reasons[0].starts_with("A: "), "{reasons:?}");
            assert_eq!(class, "db.source");
        }
        other => panic!("{other:?}"),
    }
    store.close().unwrap();
    assert_eq!(source(Source::Auto).unwrap(), Source::A);
    match source(Source::B) {
        Err(error @ StoreError::Unreadable { .. }) => {
            assert!(error.to_string().ends_with(": B: nobody who holds it answers"), "{error}");
            assert_eq!(error.class(), "db.source", "nothing is damaged");
        }
        other => panic!("{other:?}"),
    }
    // Without an index, a lock or a socket there is still the third way.
    std::fs::remove_file(path.join("lock")).unwrap();
    assert_eq!(source(Source::Auto).unwrap(), Source::C);
    assert!(!path.join("lock").exists(), "a reader makes nothing");
}

#[test]
fn a_reader_needs_no_permission_to_write() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    work(&store, &mut Random(4));
    let rows = store.query(&Query::parse("").unwrap()).unwrap().rows.len();
    store.close().unwrap();
    for sub in ["", "snap", "journal"] {
        std::fs::set_permissions(path.join(sub), std::fs::Permissions::from_mode(0o500)).unwrap();
    }
    let read = Reader::open(&path, Source::C).unwrap().query(&Query::parse("").unwrap());
    for sub in ["", "snap", "journal"] {
        std::fs::set_permissions(path.join(sub), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    assert_eq!(read.unwrap().rows.len(), rows);
}

#[test]
fn a_reader_reads_while_a_writer_writes_and_publishes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    work(&store, &mut Random(5));
    let all = Query::parse("(stale or not stale) and (refused or not refused)").unwrap().of(Of::Trials);
    let before = store.query(&all).unwrap().rows.len();
    let (stop, confirmed) = (AtomicBool::new(false), AtomicUsize::new(before));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(6);
            while !stop.load(Ordering::Relaxed) {
                store.append(sample::trial(&mut random)).unwrap().wait().unwrap();
                confirmed.fetch_add(1, Ordering::SeqCst);
                store.publish_snapshot().unwrap();
            }
        });
        // What was confirmed before a question is in its answer, whichever way it comes.
        let asked = std::panic::catch_unwind(|| {
            for _ in 0..40 {
                for source in [Source::B, Source::C] {
                    let at_least = confirmed.load(Ordering::SeqCst);
                    let rows = Reader::open(&path, source).unwrap().query(&all).unwrap();
                    assert!(rows.rows.len() >= at_least, "{source:?}: {} of {at_least}", rows.rows.len());
                }
            }
        });
        stop.store(true, Ordering::Relaxed);
        asked.unwrap();
    });
}

#[test]
fn another_process_hands_in_observations_through_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    let new = sample::trial(&mut Random(8));
    let id = tuning_db::socket::submit(&path, new.clone()).unwrap();
    let (Subject::Trial { task, .. } | Subject::Final { task, .. }) = &new.subject else { unreachable!() };
    assert_eq!(store.trials_of_task(*task).unwrap(), [new.clone().with_id(id)]);
    store.close().unwrap();
    assert!(tuning_db::socket::submit(&path, new).is_err());
}

#[test]
fn a_runtime_is_told_of_a_new_generation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    store.append(sample::model(&mut Random(1))).unwrap().wait().unwrap();
    let reader = Reader::open(&path, Source::Auto).unwrap();
    let seen = reader.generation();
    assert_eq!(reader.wait_change(seen, Duration::from_millis(20)), seen);
    std::thread::scope(|scope| {
        let told = scope.spawn(|| reader.wait_change(seen, Duration::from_secs(20)));
        store.publish_snapshot().unwrap();
        assert_eq!(told.join().unwrap(), seen + 1);
    });
    let records = reader.model_records().unwrap();
    assert_eq!((records.rows.len(), records.generation), (1, 1));
}

#[test]
fn a_broken_client_costs_the_holder_nothing() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = Store::open(&path, options()).unwrap();
    work(&store, &mut Random(2));
    let socket = tuning_db::socket::socket_path(&path).unwrap();
    for garbage in [&[0xff; 64][..], &[4, 0, 0, 0, 9, 9, 9, 9], &[0, 0, 0, 0], &[1, 0]] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(garbage).unwrap();
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
    }
    // More clients than are served at a time; none of them asks.
    let idle: Vec<_> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    drop(idle);
    let rows = Reader::open(&path, Source::Auto).unwrap().query(&Query::parse("").unwrap()).unwrap();
    assert!(!rows.rows.is_empty());
}

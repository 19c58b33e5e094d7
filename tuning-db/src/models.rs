//! Models of what threads and processes do at once, for loom: it runs each with every order of steps that the model of memory allows,
//! up to some preemptions, and finds what no stress test meets.
//!
//!     RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p tuning-db --release --lib models::
//!
//! The queue, tickets, state and snapshots are those of the store; the disk and the work are not. `LOOM_MAX_PREEMPTIONS` raises how
//! often a thread is stopped where it need not be.

use crate::disk::{Disk, DiskFile};
use crate::envelope::{self, Kind};
use crate::error::StoreError;
use crate::index::{Changes, Flow, Index, IndexError};
use crate::index_btree::BTreeIndex;
use crate::ingest::Dropped;
use crate::key::meta;
use crate::manifest::Manifest;
use crate::queue::{Item, Queue, commit};
use crate::snapshot::{self, Head};
use crate::state::{Served, State};
use crate::sync::{Arc, Mutex, locked};
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
use loom::thread;
use schema::ObservationId;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Twelve faults were put in by hand (an answer before the sync or before the index, a notice or a dropped promise forgotten, `closed`
/// asked under another lock, `undo` kept too late, two rebuilds, `head` before the file, …); two preemptions find all of them in 2 s.
/// Three take 26 s.
const PREEMPTIONS: usize = 2;

/// Runs a model in all orders.
fn every_order(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(model);
}

fn id(seq: u64) -> ObservationId {
    ObservationId { writer: [1; 16], seq }
}

fn closed() -> StoreError {
    StoreError::Closed { why: "it was closed".into() }
}

enum Work {
    /// Sets a bit.
    Frame(u64),
    BeginSnapshot,
    Rebuild(u64),
    Stop,
}

/// Stands for the journal and for what questions see: bits that are set. Nothing but tickets orders what threads read of them.
struct Journal {
    durable: AtomicU64,
    seen: AtomicU64,
    syncs: AtomicU64,
    fails: bool,
}

impl Journal {
    fn new(fails: bool) -> Arc<Self> {
        Arc::new(Journal { durable: AtomicU64::new(0), seen: AtomicU64::new(0), syncs: AtomicU64::new(0), fails })
    }
}

/// The writer's loop over frames.
fn write(queue: &Queue<Work>, journal: &Journal) {
    loop {
        let items = queue.take(64, |work| matches!(work, Work::Frame(_)));
        let (mut bits, mut promises) = (0, Vec::new());
        for Item { work, promise } in items {
            match work {
                Work::Frame(bit) => {
                    bits |= bit;
                    promises.push((promise, id(bit)));
                }
                _ => {
                    promise.keep(Ok(id(0)));
                    return queue.close(&closed());
                }
            }
        }
        let sync = |_: &mut ()| {
            if journal.fails {
                return Err(closed());
            }
            journal.durable.fetch_or(bits, Relaxed);
            journal.syncs.fetch_add(1, Relaxed);
            Ok(())
        };
        let show = |_: &mut ()| {
            journal.seen.fetch_or(bits, Relaxed);
            Ok(())
        };
        if let Err(error) = commit(&mut (), &mut promises, sync, show) {
            return queue.close(&error);
        }
    }
}

#[test]
fn a_ticket_is_kept_after_the_sync_that_covers_its_record() {
    every_order(|| {
        let (queue, journal) = (Arc::new(Queue::new()), Journal::new(false));
        let writer = thread::spawn({
            let (queue, journal) = (queue.clone(), journal.clone());
            move || write(&queue, &journal)
        });
        let append = |queue: Arc<Queue<Work>>, journal: Arc<Journal>, bit| {
            move || {
                let told = queue.hand_in(Work::Frame(bit)).unwrap().wait().unwrap();
                assert_eq!(told, id(bit), "the answer of another");
                assert_eq!(journal.durable.load(Relaxed) & bit, bit, "confirmed before it was durable");
                assert_eq!(journal.seen.load(Relaxed) & bit, bit, "confirmed before questions saw it");
            }
        };
        let other = thread::spawn(append(queue.clone(), journal.clone(), 1));
        append(queue.clone(), journal.clone(), 2)();
        other.join().unwrap();
        let syncs = journal.syncs.load(Relaxed);
        assert!(syncs == 1 || syncs == 2, "{syncs} syncs of two records");
        queue.hand_in(Work::Stop).unwrap().wait().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn two_records_of_one_caller_may_share_a_sync() {
    let shared = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = shared.clone();
    every_order(move || {
        let (queue, journal) = (Arc::new(Queue::new()), Journal::new(false));
        let writer = thread::spawn({
            let (queue, journal) = (queue.clone(), journal.clone());
            move || write(&queue, &journal)
        });
        let tickets = [1, 2].map(|bit| queue.hand_in(Work::Frame(bit)).unwrap());
        for ticket in tickets {
            ticket.wait().unwrap();
        }
        if journal.syncs.load(Relaxed) == 1 {
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        queue.hand_in(Work::Stop).unwrap().wait().unwrap();
        writer.join().unwrap();
    });
    assert!(shared.load(std::sync::atomic::Ordering::SeqCst), "group commit happens in some order");
}

/// A failed sync confirms nothing, and nobody waits for ever: loom reports who would.
#[test]
fn after_a_failed_sync_everyone_is_told() {
    every_order(|| {
        let (queue, journal) = (Arc::new(Queue::new()), Journal::new(true));
        let writer = thread::spawn({
            let (queue, journal) = (queue.clone(), journal.clone());
            move || write(&queue, &journal)
        });
        let append =
            |queue: Arc<Queue<Work>>, bit| move || assert!(queue.hand_in(Work::Frame(bit)).and_then(|t| t.wait()).is_err());
        let other = thread::spawn(append(queue.clone(), 1));
        append(queue.clone(), 2)();
        other.join().unwrap();
        writer.join().unwrap();
    });
}

/// What was taken by a writer that panicked, and what comes after.
#[test]
fn after_a_panic_of_the_writer_everyone_is_told() {
    every_order(|| {
        let queue = Arc::new(Queue::<Work>::new());
        let writer = thread::spawn({
            let queue = queue.clone();
            move || {
                drop(queue.take(64, |_| true));
                queue.close(&closed());
            }
        });
        let append =
            |queue: Arc<Queue<Work>>, bit| move || assert!(queue.hand_in(Work::Frame(bit)).and_then(|t| t.wait()).is_err());
        let other = thread::spawn(append(queue.clone(), 1));
        append(queue.clone(), 2)();
        other.join().unwrap();
        writer.join().unwrap();
    });
}

/// An index that fails its sums.
struct Damaged;

impl Index for Damaged {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Err(IndexError::Corrupt("damaged".into()))
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        Err(IndexError::Corrupt("damaged".into()))
    }

    fn apply(&mut self, _: &Changes) -> Result<(), IndexError> {
        Err(IndexError::Corrupt("damaged".into()))
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        Ok(())
    }
}

fn key(n: u8) -> Vec<u8> {
    meta::history([n; 16]).0
}

/// Both keys with this number.
fn both(number: u64) -> Changes {
    let entry = |n| (key(n), Some(envelope::seal(&key(n), Kind::Meta, &number).unwrap()));
    Changes([entry(1), entry(2)].into())
}

fn number(key: &[u8], value: &[u8]) -> u64 {
    envelope::decode(envelope::open(key, value).unwrap().1).unwrap()
}

fn index(number: u64) -> Box<dyn Index> {
    let mut index = BTreeIndex::default();
    index.apply(&both(number)).unwrap();
    Box::new(index)
}

fn served(index: Box<dyn Index>) -> Arc<Served> {
    Arc::new(Served::new(State::new(index, Dropped::default(), BTreeMap::new(), 0, Manifest::new([0; 16]))))
}

/// The writer's loop over everything that changes the state. Frames put their number under both keys.
fn serve(queue: &Queue<Work>, served: &Served, made: &AtomicU64) {
    let mut last = 0;
    loop {
        for Item { work, promise } in queue.take(1, |_| true) {
            match work {
                Work::Frame(number) => {
                    last = number;
                    let show = |_: &mut ()| served.write().apply(&both(number)).map_err(|_| closed());
                    commit(&mut (), &mut vec![(promise, id(number))], |_| Ok(()), show).unwrap();
                }
                Work::BeginSnapshot => {
                    served.write().begin_snapshot();
                    promise.keep(Ok(id(last)));
                }
                Work::Rebuild(rebuilds) => {
                    let make = |state: &mut State| {
                        made.fetch_add(1, Relaxed);
                        state.index = index(last);
                        Ok(())
                    };
                    promise.keep(served.write().replace(rebuilds, make).map(|()| id(0)));
                }
                Work::Stop => {
                    promise.keep(Ok(id(0)));
                    return queue.close(&closed());
                }
            }
        }
    }
}

/// Two questions meet the damage at once; a third comes while the index is being replaced.
#[test]
fn a_damaged_index_is_made_again_once_and_every_question_answered() {
    every_order(|| {
        let (queue, served, made) = (Arc::new(Queue::new()), served(Box::new(Damaged)), Arc::new(AtomicU64::new(0)));
        let writer = thread::spawn({
            let (queue, served, made) = (queue.clone(), served.clone(), made.clone());
            move || serve(&queue, &served, &made)
        });
        let ask = |queue: Arc<Queue<Work>>, served: Arc<Served>| {
            move || {
                let rebuild = |_, rebuilds| queue.hand_in(Work::Rebuild(rebuilds))?.wait().map(drop);
                let answer = served.ask(|index| index.get(&key(1)), rebuild).unwrap().unwrap();
                assert_eq!(number(&key(1), &answer.unwrap()), 0);
            }
        };
        let other = thread::spawn(ask(queue.clone(), served.clone()));
        ask(queue.clone(), served.clone())();
        other.join().unwrap();
        assert_eq!(made.load(Relaxed), 1, "made again more than once");
        queue.hand_in(Work::Stop).unwrap().wait().unwrap();
        writer.join().unwrap();
    });
}

/// All parts of a snapshot, an entry at a time; `None` when the index was made again in between.
fn parts(served: &Served) -> Option<Vec<u64>> {
    let (mut found, mut from) = (Vec::new(), Vec::new());
    loop {
        let part = served.read().part(&from, 1).unwrap()?;
        found.extend(part.entries.iter().map(|(key, value)| number(key, value)));
        match part.next {
            Some(next) => from = next,
            None => return Some(found),
        }
    }
}

/// A caller writes twice while another takes a snapshot; `damaged` also has the index made again.
fn snapshot_while_writing(damaged: bool) {
    every_order(move || {
        let (queue, served, made) = (Arc::new(Queue::new()), served(index(0)), Arc::new(AtomicU64::new(0)));
        let writer = thread::spawn({
            let (queue, served, made) = (queue.clone(), served.clone(), made.clone());
            move || serve(&queue, &served, &made)
        });
        let caller = thread::spawn({
            let queue = queue.clone();
            move || {
                queue.hand_in(Work::Frame(1)).unwrap().wait().unwrap();
                let second = if damaged { Work::Rebuild(0) } else { Work::Frame(2) };
                queue.hand_in(second).unwrap().wait().unwrap();
            }
        });
        let moment = queue.hand_in(Work::BeginSnapshot).unwrap().wait().unwrap().seq;
        match parts(&served) {
            Some(found) => assert_eq!(found, [moment, moment], "not of one moment"),
            None => assert!(damaged, "no snapshot although the index was whole"),
        }
        served.write().end_snapshot();
        caller.join().unwrap();
        queue.hand_in(Work::Stop).unwrap().wait().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_snapshot_is_of_one_moment() {
    snapshot_while_writing(false);
}

#[test]
fn no_snapshot_mixes_two_indexes() {
    snapshot_while_writing(true);
}

/// A disk in memory. Names are what processes share: each operation on one is a step.
#[derive(Default)]
struct Names(Mutex<BTreeMap<PathBuf, std::sync::Arc<Bytes>>>);

#[derive(Default)]
struct Bytes(std::sync::Mutex<Vec<u8>>);

struct Opened(std::sync::Arc<Bytes>);

impl Names {
    fn new() -> Self {
        Names(Mutex::new(BTreeMap::new()))
    }

    fn find(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = locked(&self.0).get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Opened(file)))
    }
}

impl Disk for Names {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = std::sync::Arc::<Bytes>::default();
        locked(&self.0).insert(path.to_owned(), file.clone());
        Ok(Box::new(Opened(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.find(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.find(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = locked(&self.0);
        let here = names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = locked(&self.0);
        let file = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        locked(&self.0).remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Opened {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.0.lock().unwrap();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, new: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.0.lock().unwrap();
        let end = offset as usize + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(new);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().unwrap().len() as u64)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.0.lock().unwrap().resize(size as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn publish(disk: &Names, generation: u64) {
    let db = Path::new("db");
    let mut writer = snapshot::Writer::begin(disk, db, generation).unwrap();
    for (key, value) in both(generation).0 {
        writer.add(&key, &value.unwrap()).unwrap();
    }
    writer.finish(disk, db, generation, generation).unwrap();
}

/// A reader in another process: the generation it answers from is whole, and never older than what `head` said before.
#[test]
fn a_reader_finds_a_whole_snapshot_while_generations_change() {
    every_order(|| {
        let (disk, db) = (Arc::new(Names::new()), Path::new("db"));
        publish(&disk, 1);
        let publisher = thread::spawn({
            let disk = disk.clone();
            move || (2..=3).for_each(|generation| publish(&disk, generation))
        });
        let before = Head::read(&*disk, db).unwrap().generation;
        let found = snapshot::first_of(&*disk, db, &mut |snapshot| {
            let mut numbers = Vec::new();
            snapshot
                .scan(&[], &[], &mut |key, value| {
                    numbers.push(number(key, value));
                    Flow::Continue(())
                })
                .unwrap();
            assert_eq!(numbers, [snapshot.generation; 2]);
            Ok(Some(snapshot.generation))
        });
        let found = found.unwrap().expect("no snapshot although there was always one");
        assert!(found >= before, "generation {found} after head said {before}");
        publisher.join().unwrap();
    });
}
